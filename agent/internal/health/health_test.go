package health

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

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
	s := NewSampler(root, t.TempDir())
	root["proc/stat"] = file("cpu  130 0 120 840 110 0 0 0 50 0\n") // 50 of 200 ticks
	g := s.Sample()
	if g.CPU != 25 || g.Mem != 25 || g.RSS != 20<<20 || g.Temp == nil || *g.Temp != 61.3 || g.Throttled || g.Disk <= 0 || g.Disk > 100 {
		t.Errorf("got %+v, temperature %v", g, *g.Temp)
	}
	if g := s.Sample(); g.CPU != 0 {
		t.Errorf("without time gone by: %v %%", g.CPU)
	}
}

func TestThrottled(t *testing.T) {
	for name, change := range map[string]func(fstest.MapFS){
		"weak power supply": func(r fstest.MapFS) { r["sys/devices/platform/soc/soc:firmware/get_throttled"] = file("0x50001") },
		"hot cpu": func(r fstest.MapFS) {
			r["sys/class/thermal/cooling_device7/type"] = file("thermal-cpufreq-0\n")
			r["sys/class/thermal/cooling_device7/cur_state"] = file("1\n")
		},
	} {
		root := board()
		change(root)
		if !NewSampler(root, "/").Sample().Throttled {
			t.Error(name)
		}
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
		if g := NewSampler(root, "/no such folder").Sample(); g != (Gauges{}) {
			t.Errorf("%s: got %+v", name, g)
		}
	}
}

func TestThisMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("linux only")
	}
	g := NewSampler(os.DirFS("/"), t.TempDir()).Sample()
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
	h := Brief(time.Now(), 30*24*time.Hour, Gauges{CPU: 37.5, Mem: 41.2, RSS: 23 << 20, Temp: &temp, Disk: 12.4},
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
			Sampler: NewSampler(board(), "/"), Period: func() time.Duration { return period },
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
