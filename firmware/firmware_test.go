package firmware

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/covey-edge/covey/hal"
)

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func TestDetect(t *testing.T) {
	tests := []struct {
		name string
		root fstest.MapFS
		want Board
	}{
		{"raspberry pi", fstest.MapFS{
			"sys/firmware/devicetree/base/model":      file("Raspberry Pi 4 Model B Rev 1.4\x00"),
			"sys/firmware/devicetree/base/compatible": file("raspberrypi,4-model-b\x00brcm,bcm2711\x00"),
			"proc/meminfo":                  file("MemTotal:        3884360 kB\nMemFree: 1 kB\n"),
			"sys/devices/system/cpu/online": file("0-3\n"),
		}, Board{"Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b", "brcm,bcm2711", 3884360 << 10, 4,
			[]hal.Accelerator{hal.EdgeTPU, "external:*", hal.XNNPACK, hal.CPU}}},
		{"pc", fstest.MapFS{
			"sys/class/dmi/id/sys_vendor":   file("LENOVO\n"),
			"sys/class/dmi/id/product_name": file("ThinkCentre  M70q\n"),
			"sys/devices/system/cpu/online": file("0,2-3"),
		}, Board{Name: "LENOVO ThinkCentre M70q", CPUs: 3}},
		{"nothing", fstest.MapFS{}, Board{}},
		{"nonsense", fstest.MapFS{
			"sys/firmware/devicetree/base/model":      file("\x00\xff\x01"),
			"sys/firmware/devicetree/base/compatible": file("\x00\x00"),
			"proc/meminfo":                  file("MemTotal: -5 kB"[:10] + " 99999999999999999999 kB"),
			"sys/devices/system/cpu/online": file("3-1"),
		}, Board{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Detect(tt.root); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDetectThisMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("linux only")
	}
	if b := Detect(os.DirFS("/")); b.RAM < 64<<20 || b.CPUs < 1 {
		t.Errorf("got %+v", b)
	}
}

// Exposure may not grow: systemd's own judge says how exposed a unit is, in tenths.
func TestUnitsAreHardened(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	for _, u := range []struct{ name, text, most string }{
		{"covey-agent.service", AgentUnit, "15"},
		{"covey-runner@.service", RunnerUnit, "8"},
	} {
		unit := filepath.Join(t.TempDir(), u.name)
		if err := os.WriteFile(unit, []byte(u.text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "security", "--offline=yes", "--threshold="+u.most, unit).CombinedOutput()
		if strings.Contains(string(out), "unrecognized option") {
			t.Skip("systemd-analyze is too old for --offline")
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", u.name, err, out)
		}
	}
}

// The agent has no accelerator, and its runners have no network.
func TestWhoHasWhat(t *testing.T) {
	for _, driver := range []string{"usb_device", "apex", "drm", "accel", "nvidia*", "galcore", "mali*"} {
		line := "\nDeviceAllow=char-" + driver + " rw\n"
		if strings.Contains(AgentUnit, line) || !strings.Contains(RunnerUnit, line) {
			t.Errorf("%s belongs to runners alone", driver)
		}
	}
	for _, line := range []string{"PrivateNetwork=yes", "DevicePolicy=closed", "ProtectSystem=strict", "OOMPolicy=kill"} {
		if !strings.Contains(RunnerUnit, "\n"+line+"\n") {
			t.Errorf("runners go without %s", line)
		}
	}
}

// What only some configurations need stands in no unit that all boards have.
func TestUnitOpensNoSources(t *testing.T) {
	for _, line := range []string{"char-video4linux", "char-media", "char-alsa", "char-iio", "char-gpiochip", "char-tty", "SupplementaryGroups", "AF_NETLINK"} {
		if strings.Contains(AgentUnit, line) {
			t.Errorf("%s is open on every board", line)
		}
	}
}

// A loop that hangs is cured within the watchdog's time and five seconds: it is ended
// by then, and started again soon.
func TestUnitCuresInTime(t *testing.T) {
	for _, line := range []string{"Type=notify", "NotifyAccess=main", "WatchdogSec=30", "Restart=on-failure", "RestartSec=2", "TimeoutAbortSec=3"} {
		if !strings.Contains(AgentUnit, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// A runner that the stop of the service kills looks like a model that crashes,
// and one on probation would be taken back for it.
func TestUnitStopsTheAgentAlone(t *testing.T) {
	if !strings.Contains(AgentUnit, "\nKillMode=mixed\n") {
		t.Error("a stop signals the runners, too")
	}
}
