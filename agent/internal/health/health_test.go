package health

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/wire"
)

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func board() fstest.MapFS {
	return fstest.MapFS{
		"proc/stat":                                           file("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\n"),
		"proc/meminfo":                                        file("MemTotal: 4000000 kB\nMemFree: 100 kB\nMemAvailable: 3000000 kB\n"),
		"proc/self/status":                                    file("Name:\tcovey-agent\nVmRSS:\t   20480 kB\n"),
		"sys/class/thermal/thermal_zone0/temp":                file("61322\n"),
		"sys/class/thermal/thermal_zone1/temp":                file("-87900\n"),
		"sys/class/thermal/thermal_zone2/temp":                file("2147483647\n"),
		"sys/class/thermal/thermal_zone3/temp":                file("45000\n"),
		"sys/class/thermal/cooling_device0/type":              file("pwm-fan\n"),
		"sys/class/thermal/cooling_device0/cur_state":         file("3\n"),
		"sys/devices/platform/soc/soc:firmware/get_throttled": file("50000\n"), // it happened before
	}
}

func TestSample(t *testing.T) {
	root := board()
	s := NewSampler(root, firmware.Profile{}, t.TempDir())
	root["proc/stat"] = file("cpu  130 0 120 840 110 0 0 0 50 0\n") // 50 of 200 ticks
	g := s.Sample()
	if g.CPU != 25 || g.Mem != 25 || g.RSS != 20<<20 || g.Temp == nil || *g.Temp != 61.3 || g.Throttled || g.Disk <= 0 || g.Disk > 100 {
		t.Errorf("got %+v, temperature %v", g, *g.Temp)
	}
	if g := s.Sample(); g.CPU != 0 {
		t.Errorf("without time gone by: %v %%", g.CPU)
	}
}

// pi is a profile with what Raspberry Pis have.
func pi(t *testing.T) firmware.Profile {
	t.Helper()
	p := firmware.Detect(fstest.MapFS{"sys/firmware/devicetree/base/compatible": file("raspberrypi,4-model-b\x00brcm,bcm2711\x00")}).Profile
	if p.ID != "raspberrypi-4" {
		t.Fatalf("%+v", p)
	}
	return p
}

func TestThrottled(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		weak       bool
	}{
		"weak power supply":              {"sys/devices/platform/soc/soc:firmware/get_throttled", "0x50001", true},
		"weak power supply, Pi 5":        {"sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "50005", true},
		"weak power supply, newer Linux": {"sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n", true},
		"too hot":                        {"sys/devices/platform/soc/soc:firmware/get_throttled", "80008", false},
		"hot cpu":                        {"sys/class/thermal/cooling_device7/cur_state", "1\n", false},
	} {
		root := board()
		root["sys/class/hwmon/hwmon1/name"] = file("rpi_volt\n")
		root["sys/class/thermal/cooling_device7/type"] = file("thermal-cpufreq-0\n")
		s := NewSampler(root, pi(t), "/")
		if g := s.Sample(); g.Throttled || g.Weak {
			t.Errorf("%s: before", name)
		}
		root[c.file] = file(c.text)
		g := s.Sample()
		if !g.Throttled || g.Weak != c.weak {
			t.Errorf("%s: %+v", name, g)
		}
		if h := Brief(time.Now(), 0, g, Input{Flags: []string{"x"}}); h.Throttled != true || slices.Contains(h.Flags, LowVoltage) != c.weak || !slices.Contains(h.Flags, "x") {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

// TestCountersOfTheBoard: a counter that stands is no news, one that grows is.
func TestCountersOfTheBoard(t *testing.T) {
	const count = "sys/class/hwmon/hwmon3/oc2_event_cnt"
	root := fstest.MapFS{"sys/firmware/devicetree/base/compatible": file("nvidia,tegra234\x00"), "sys/class/hwmon/hwmon3/name": file("soctherm_oc\n"), count: file("15\n")}
	s := NewSampler(root, firmware.Detect(root).Profile, "/")
	root[count] = file("16\n")
	if g := s.Sample(); !g.Throttled {
		t.Error("it grew before the first sample")
	}
	s = NewSampler(root, firmware.Detect(root).Profile, "/")
	if g := s.Sample(); g.Throttled {
		t.Error("for what was before the agent started")
	}
	root[count] = file("17\n")
	if g := s.Sample(); !g.Throttled || !g.Weak {
		t.Errorf("%+v", g)
	}
	if g := s.Sample(); g.Throttled {
		t.Error("for what was before the last sample")
	}
}

func TestStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := board()
		for name, text := range map[string]string{
			"proc/self/mountinfo":           "25 1 179:2 / / rw - ext4 /dev/root rw\n",
			"sys/class/block/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/mmcblk0p2/dev": "179:2",
			"sys/block/mmcblk0/stat": "0 0 0 0 0 0 8 0 0 0 0\n", "sys/block/mmcblk0/device/type": "MMC\n",
			"sys/block/mmcblk0/device/life_time": "0x02 0x01\n", "sys/block/mmcblk0/device/pre_eol_info": "0x01\n",
			"proc/self/io": "wchar: 999999\nwrite_bytes: 1000\ncancelled_write_bytes: 1000\n",
		} {
			root[name] = file(text)
		}
		s := NewSampler(root, firmware.Profile{}, "/var/lib/covey")
		root["proc/self/io"] = file("write_bytes: 10192\ncancelled_write_bytes: 2000\n")
		g := s.Sample()
		if g.Wrote != 8192 || g.Wear != 20 || g.EOL != 0 || len(Brief(time.Now(), 0, g, Input{}).Flags) != 0 {
			t.Errorf("%+v", g)
		}
		root["sys/block/mmcblk0/device/pre_eol_info"] = file("0x03\n")
		if h := Brief(time.Now(), 0, s.Sample(), Input{}); h.Wrote != 8192 || h.Wear != 20 || h.EOL != 3 || !slices.Contains(h.Flags, WornDisk) || h.Validate() != nil {
			t.Errorf("%+v", h)
		}
	})
}

// TestDaily: what is written at one rate is seen at that rate, whenever it is asked.
func TestDaily(t *testing.T) {
	for _, period := range []time.Duration{time.Minute, 47 * time.Minute, time.Hour, 5 * time.Hour, 24 * time.Hour} {
		var d daily
		start := time.Now()
		var total, got int64
		for at := time.Duration(0); at <= 10*day; at += period {
			total = int64(at / time.Second)
			got = d.add(start.Add(at), total+500)
			if want := min(total, int64(day/time.Second)); got < want-1 || got > want {
				t.Fatalf("every %v, after %v: %d, want %d", period, at, got, want)
			}
		}
		if len(d.marks) > 26 {
			t.Errorf("every %v: %d marks", period, len(d.marks))
		}
		for at := 10 * day; at <= 12*day; at += period { // and then nothing more
			got = d.add(start.Add(at), total+500)
		}
		if got != 0 {
			t.Errorf("every %v, two days after the last byte: %d", period, got)
		}
	}
	var d daily
	d.add(time.Now(), 500)
	if got := d.add(time.Now(), 3); got != 0 {
		t.Errorf("a counter that began anew: %d", got)
	}
}

func TestNothingToRead(t *testing.T) {
	for name, root := range map[string]fs.FS{
		"empty": fstest.MapFS{},
		"nonsense": fstest.MapFS{
			"proc/stat": file("cpu x y z 1 2\n"), "proc/meminfo": file("MemTotal: 1 kB\nMemAvailable: 5 kB\n"), "proc/self/status": file("VmRSS:\n"),
			"sys/class/thermal/thermal_zone0/temp": file("hot"),
			"sys/class/thermal/thermal_zone1/temp": file("-87900"),
			"sys/class/thermal/thermal_zone2/temp": file("200000"),
		},
	} {
		if g := NewSampler(root, pi(t), "/no such folder").Sample(); g != (Gauges{}) {
			t.Errorf("%s: got %+v", name, g)
		}
	}
}

func TestThisMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("linux only")
	}
	g := NewSampler(os.DirFS("/"), firmware.Detect(os.DirFS("/")).Profile, t.TempDir()).Sample()
	t.Logf("%+v", g)
	if g.Mem <= 0 || g.RSS < 1<<20 || g.CPU < 0 || g.CPU > 100 {
		t.Errorf("got %+v", g)
	}
}

func TestBriefIsShort(t *testing.T) {
	temp := 61.3
	pipe := func(n uint64) wire.PipelineHealth {
		return wire.PipelineHealth{FPS: 14.9, P50: 31.4, P99: 118.2, Captured: 12894120 + n, Published: 12891008 + n,
			Dropped: map[string]uint64{"stale": 3100, "error": 12}, Memory: 143_778_048 + int64(n)}
	}
	h := Brief(time.Now(), 30*24*time.Hour, Gauges{CPU: 37.5, Mem: 41.2, RSS: 23 << 20, Temp: &temp, Disk: 12.4, Wrote: 48_234_496},
		Input{Outbox: 120, Pipes: map[string]wire.PipelineHealth{"porch": pipe(1), "garden": pipe(2)}})
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 400 {
		t.Errorf("%d bytes: %s", len(b), b)
	}
	if _, err := wire.Parse[wire.Health](b, wire.MaxHealth); err != nil {
		t.Error(err)
	}
}

func TestReporterKeepsItsPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		period := time.Duration(0) // the default
		var at []time.Time
		ctx, cancel := context.WithCancel(t.Context())
		r := &Reporter{
			Sampler: NewSampler(board(), firmware.Profile{}, "/"), Period: func() time.Duration { return period },
			Collect: func() Input { return Input{Outbox: int64(len(at))} },
			Publish: func(h *wire.Health) {
				if h.Outbox != int64(len(at)) {
					t.Errorf("report %d has outbox %d", len(at), h.Outbox)
				}
				if at = append(at, time.Now()); len(at) == 100 {
					cancel()
				}
			},
		}
		begin := time.Now()
		if err := r.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if first := at[0].Sub(begin); first > 15*time.Second {
			t.Errorf("first report after %v", first)
		}
		gaps := map[string]bool{}
		for i := range at[1:] {
			gap := at[i+1].Sub(at[i])
			if gap < 48*time.Second || gap > 72*time.Second {
				t.Errorf("gap %d is %v", i, gap)
			}
			gaps[fmt.Sprint(gap)] = true
		}
		if len(gaps) < 90 {
			t.Errorf("only %d different gaps", len(gaps))
		}
	})
}
