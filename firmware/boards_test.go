package firmware

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/covey-edge/covey/hal"
)

// tree reads a board's files out of one file in the form of txtar: "-- path --" and
// what is in it; \0 stands for the zero bytes of device trees.
func tree(t testing.TB, name string) fstest.MapFS {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/boards", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	root := fstest.MapFS{}
	for part := range strings.SplitSeq("\n"+string(b), "\n-- ") {
		path, text, ok := strings.Cut(part, " --\n")
		if ok {
			root[path] = file(strings.ReplaceAll(text, `\0`, "\x00"))
		}
	}
	if len(root) < 4 || !strings.Contains(string(b), "not recorded on a board") && !strings.Contains(string(b), "Recorded on") {
		t.Fatalf("%s: too little, or it does not say where it is from", name)
	}
	return root
}

// A known board, and what Detect and the sensors say of it.
type known struct {
	tree, profile, name string
	accelerators        string // those that come first
	threads, cpus       int
	camera              Camera
	celsius             float64
	zone                string
	now, since          []Cause
	traps               []string // a part of each that has sprung
}

var kept = []known{
	{"raspberrypi-zero-2", "raspberrypi-zero-2", "Raspberry Pi Zero 2 W Rev 1.0", "edgetpu external:* xnnpack cpu", 3, 4, RPiCam, 52.076, "cpu-thermal", nil, nil, []string{"stopped first"}},
	{"raspberrypi-3", "raspberrypi-3", "Raspberry Pi 3 Model B Plus Rev 1.3", "edgetpu external:* xnnpack cpu", 3, 4, RPiCam, 83.8, "cpu-thermal", []Cause{Heat}, nil, nil},
	{"raspberrypi-4", "raspberrypi-4", "Raspberry Pi 4 Model B Rev 1.4", "edgetpu external:* xnnpack cpu", 3, 4, RPiCam, 61.322, "cpu-thermal", []Cause{Voltage}, nil, nil},
	{"raspberrypi-cm4", "raspberrypi-cm4", "Raspberry Pi Compute Module 4 Rev 1.1", "edgetpu external:* xnnpack cpu", 3, 4, RPiCam, 48, "cpu-thermal", nil, []Cause{Voltage}, nil},
	{"raspberrypi-5", "raspberrypi-5", "Raspberry Pi 5 Model B Rev 1.0", "edgetpu external:* xnnpack cpu", 3, 4, RPiCam, 58.3, "cpu-thermal", []Cause{Voltage}, nil, []string{"pages of 16 KiB", "32-bit DMA"}},
	{"raspberrypi-cm5", "raspberrypi-cm5", "Raspberry Pi Compute Module 5 Rev 1.0", "edgetpu external:* xnnpack cpu", 3, 4, RPiCam, 58.3, "cpu-thermal", nil, nil, nil},
	{"jetson-nano", "jetson-nano", "NVIDIA Jetson Nano Developer Kit", "tensorrt cuda edgetpu", 3, 4, NVArgus, 41.5, "AO-therm", nil, nil, []string{"JetPack 4"}},
	{"jetson-orin", "jetson-orin", "NVIDIA Jetson Orin Nano Developer Kit", "tensorrt cuda edgetpu", 4, 6, NVArgus, 52.343, "cpu-thermal", nil, nil, []string{"forbids"}},
	{"jetson-agx-orin", "jetson-orin", "NVIDIA Jetson AGX Orin Developer Kit", "tensorrt cuda edgetpu", 4, 12, NVArgus, 99.3, "tj-thermal", []Cause{Heat}, nil, nil},
	{"rock-5", "rock-5", "Radxa ROCK 5B", "edgetpu external:* gpu", 4, 8, V4L2, 85.9, "bigcore0-thermal", []Cause{Heat}, nil, nil},
	{"orangepi-5", "rock-5", "Xunlong Orange Pi 5", "edgetpu external:* gpu", 4, 8, V4L2, 45.3, "bigcore0-thermal", nil, nil, nil},
	{"imx8m-plus", "imx8m-plus", "NXP i.MX8MPlus EVK board", "edgetpu external:* gpu", 3, 4, V4L2, 51, "soc-thermal", nil, nil, []string{"compiles a model"}},
	{"coral-dev-board", "coral-dev-board", "Google i.MX8MQ Phanbell", "edgetpu", 3, 4, V4L2, 66, "cpu-thermal", nil, nil, nil},
	{"generic-arm64", "generic-arm64", "Pine64 Quartz64 Model A", "", 0, 4, "", 48.8, "gpu-thermal", nil, nil, nil},
	{"generic-amd64", "generic-amd64", "LENOVO ThinkCentre M70q", "", 0, 4, "", 43, "x86_pkg_temp", nil, nil, nil},
}

func TestBoards(t *testing.T) {
	for _, want := range kept {
		t.Run(want.tree, func(t *testing.T) {
			root := tree(t, want.tree)
			b := Detect(root)
			p := b.Profile
			if p.ID != want.profile || b.Name != want.name || b.CPUs != want.cpus || b.RAM == 0 || p.Threads != want.threads || p.Camera != want.camera {
				t.Errorf("got %+v", b)
			}
			var first []hal.Accelerator
			for name := range strings.FieldsSeq(want.accelerators) {
				first = append(first, hal.Accelerator(name))
			}
			if len(p.Accelerators) < len(first) || !slices.Equal(p.Accelerators[:len(first)], first) {
				t.Errorf("it tries %v, want %v", p.Accelerators, first)
			}
			if c, zone, ok := p.Temperature(root); !ok || c != want.celsius || zone != want.zone {
				t.Errorf("%v °C at %q", c, zone)
			}
			if got := p.Watch(root).Look(); !slices.Equal(got.Now, want.now) || !slices.Equal(got.Since, want.since) {
				t.Errorf("slowed down: %+v", got)
			}
			var sprung []string
			for _, trap := range p.Traps {
				if trap.Sprung(root, 16384) {
					sprung = append(sprung, trap.Text)
				}
				if trap.Sprung(root, 4096) && strings.Contains(trap.Text, "pages of 16 KiB") {
					t.Errorf("with pages of 4 KiB: %s", trap.Text)
				}
			}
			if !slices.EqualFunc(sprung, want.traps, strings.Contains) {
				t.Errorf("traps: %q", sprung)
			}
		})
	}
}

// TestProfilesAreProven: each profile has a board in the table above, each name
// belongs to one, and none tries what TFLite's GPU delegate cannot do there.
func TestProfilesAreProven(t *testing.T) {
	owner := map[string]string{}
	for _, p := range Profiles() {
		if !slices.ContainsFunc(kept, func(k known) bool { return k.profile == p.ID }) {
			t.Errorf("%s: no board with it in the table", p.ID)
		}
		for _, name := range append(p.Compatible, p.Arch) {
			if name != "" && owner[name] != "" {
				t.Errorf("%s is of %s and of %s", name, owner[name], p.ID)
			}
			owner[name] = p.ID
		}
		weak := strings.HasPrefix(p.ID, "raspberrypi") || strings.HasPrefix(p.ID, "jetson")
		if weak && slices.Contains(p.Accelerators, hal.GPU) {
			t.Errorf("%s tries the GPU by OpenCL", p.ID)
		}
		if p.Accelerators != nil && p.Accelerators[len(p.Accelerators)-1] != hal.CPU && !slices.Contains(p.Accelerators, hal.CPU) {
			t.Errorf("%s has nothing to fall back on", p.ID)
		}
	}
}

// TestBoardBeforeChip: what a device tree says first counts, in whatever order the
// profiles are.
func TestBoardBeforeChip(t *testing.T) {
	for compatible, want := range map[string]string{
		"raspberrypi,4-compute-module\x00brcm,bcm2711\x00": "raspberrypi-cm4",
		"brcm,bcm2711\x00raspberrypi,4-compute-module\x00": "raspberrypi-4",
		"seeed,reterminal\x00brcm,bcm2711\x00":             "raspberrypi-4",
		"raspberrypi,5-compute-module\x00brcm,bcm2712\x00": "raspberrypi-cm5",
		"nvidia,tegra234\x00nvidia,tegra23x\x00":           "jetson-orin",
		"nvidia,p3450-0000\x00nvidia,tegra210\x00":         "jetson-nano",
		"fsl,imx8mq-phanbell\x00fsl,imx8mq\x00":            "coral-dev-board",
		"fsl,imx8mq-evk\x00fsl,imx8mq\x00":                 "",
		"brcm,bcm27111\x00":                                "",
		"brcm\x00":                                         "",
	} {
		root := fstest.MapFS{"sys/firmware/devicetree/base/compatible": file(compatible)}
		if got := Detect(root).Profile.ID; got != want {
			t.Errorf("%q is %q, want %q", compatible, got, want)
		}
	}
}

// TestCounters: a counter says something only when it grows, and one that begins
// anew says nothing.
func TestCounters(t *testing.T) {
	root := tree(t, "jetson-orin")
	const oc1, oc3 = "sys/class/hwmon/hwmon3/oc1_event_cnt", "sys/class/hwmon/hwmon3/oc3_event_cnt"
	p := Detect(root).Profile
	w := p.Watch(root)
	for i, step := range []struct {
		file, count string
		want        Slow
	}{
		{oc1, "0", Slow{}},
		{oc3, "99999", Slow{}},
		{oc1, "2", Slow{Now: []Cause{Voltage}}},
		{oc1, "2", Slow{Since: []Cause{Voltage}}},
		{oc1, "0", Slow{}},
		{oc1, "1", Slow{Now: []Cause{Voltage}}},
		{oc1, "x", Slow{}},
		{"sys/class/hwmon/hwmon3/name", "another", Slow{}},
	} {
		root[step.file] = file(step.count + "\n")
		if got := w.Look(); !slices.Equal(got.Now, step.want.Now) || !slices.Equal(got.Since, step.want.Since) {
			t.Errorf("step %d: got %+v, want %+v", i, got, step.want)
		}
	}
}

// TestNoProfile: a board that nothing is known of reads all its zones, and what
// slows its CPU down.
func TestNoProfile(t *testing.T) {
	root := fstest.MapFS{
		"sys/class/thermal/thermal_zone0/temp":        file("61322\n"),
		"sys/class/thermal/thermal_zone0/type":        file("x\n"),
		"sys/class/thermal/thermal_zone1/temp":        file("-87900\n"),
		"sys/class/thermal/thermal_zone2/temp":        file("2147483647\n"),
		"sys/class/thermal/cooling_device0/type":      file("Processor\n"),
		"sys/class/thermal/cooling_device0/cur_state": file("0\n"),
	}
	var p Profile
	if c, zone, ok := p.Temperature(root); !ok || c != 61.322 || zone != "x" {
		t.Errorf("%v at %q", c, zone)
	}
	if got := p.Watch(root).Look(); got.Now != nil || got.Since != nil {
		t.Errorf("%+v", got)
	}
	root["sys/class/thermal/cooling_device0/cur_state"] = file("1\n")
	if got := p.Watch(root).Look(); !slices.Equal(got.Now, []Cause{Heat}) {
		t.Errorf("%+v", got)
	}
	if _, _, ok := p.Temperature(fstest.MapFS{}); ok {
		t.Error("a temperature of nothing")
	}
}

const good = "name A board\ncompatible maker,board\n"

func TestProfilesAreStrict(t *testing.T) {
	full := "# all\n\nname A board\ncompatible maker,board\ncompatible maker,chip\ntry edgetpu external:* cpu\nthreads 4\ncamera rpicam\nusb 3\n" +
		"temperature a b\nhot 80\nslow heat cooling x\nslow voltage alarm chip file\nslow current count chip file\nslowed heat bits 0x2 sys/a*/b\n" +
		"trap always: it is so\ntrap pci 1ac1:089a, no-usb 18d1:9302, pages 16384, no-file dev/apex_*: text: more => mend, it\n"
	p, err := ParseProfile("a-board", full)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Signs) != 4 || len(p.Traps) != 2 || p.Traps[1].Fix != "mend, it" || p.Traps[1].Text != "text: more" || len(p.Traps[1].When) != 4 || !p.Signs[3].Past || p.Signs[3].Mask != 2 {
		t.Errorf("got %+v", p)
	}
	for _, text := range []string{
		"", "name A\n", "compatible a\n", good + "arch arm64\n", "name A\narch mips\n", "name A\nname B\ncompatible a\n",
		good + "Threads 4\n", good + "threads 0\n", good + "threads 04\n", good + "threads 4 \n", good + "threads\n", good + "threads 1\nthreads 2\n",
		good + "compatible maker,board\n", good + "try cpu cpu\n", good + "try npu\n", good + "try cpu  xnnpack\n", good + "try\n",
		good + "camera webcam\n", good + "usb 1\n", good + "hot 300\n", good + "temperature a a\n", good + " threads 3\n", good + "threads\t3\n",
		good + "slow\n", good + "slow heat\n", good + "slow cold cooling x\n", good + "slow heat cooling x y\n", good + "slow heat bits 1 sys/a\n",
		good + "slow heat bits 0x0 sys/a\n", good + "slow heat bits 0x1 /sys/a\n", good + "slow heat bits 0x1 ../a\n", good + "slow heat bits 0x1 a[\n",
		good + "slow heat alarm chip a/b\n", good + "slow heat alarm  b\n", good + "slowed heat count a b\n",
		good + "trap\n", good + "trap always\n", good + "trap : x\n", good + "trap never: x\n", good + "trap no-always: x\n", good + "trap always: \n",
		good + "trap always: x => \n", good + "trap pci 1AC1:089a: x\n", good + "trap pci 1ac1: x\n", good + "trap pages 1: x\n", good + "trap no-pages 16384: x\n",
		good + "trap file /dev/x: x\n", good + "trap file: x\n", good + "trap always,file a: x\n", good + "name \xff\n", good + "trap always: a\rb\n",
		good + "trap always: " + strings.Repeat("x", maxLine) + "\n", good + strings.Repeat("#\n", maxProfile), good + strings.Repeat("trap always: x\n", maxList+1),
	} {
		if p, err := ParseProfile("a-board", text); err == nil {
			t.Errorf("%.80q is taken: %+v", text, p)
		}
	}
	for _, id := range []string{"", "A", "a_b", strings.Repeat("a", 33), "../x"} {
		if _, err := ParseProfile(id, good); err == nil {
			t.Errorf("%q is taken", id)
		}
	}
}

func FuzzProfile(f *testing.F) {
	names, err := fs.Glob(boards, "boards/*.board")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		text, err := boards.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(good + "trap pci 1ac1:089a, no-file dev/*: a => b\nslow heat bits 0x1 a/*\n")
	root := tree(f, "raspberrypi-5")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseProfile("fuzzed", text)
		if err != nil {
			return
		}
		if p.Name == "" || len(p.Compatible) > maxList || p.Threads < 0 || p.Threads > 64 || len(p.Traps) > maxList || len(p.Signs) > maxList {
			t.Errorf("%+v", p)
		}
		// What is taken can be used.
		p.Temperature(root)
		p.Watch(root).Look()
		for _, trap := range p.Traps {
			if trap.Text == "" || strings.ContainsAny(trap.Text+trap.Fix, "\n\r\x00") {
				t.Errorf("%+v", trap)
			}
			trap.Sprung(root, 4096)
		}
	})
}

// FuzzDetect gives Detect, the sensors of a profile and DiskOf trees that no kernel makes.
func FuzzDetect(f *testing.F) {
	for _, k := range kept {
		root := tree(f, k.tree)
		text := func(name string) string {
			if root[name] == nil {
				return ""
			}
			return string(root[name].Data)
		}
		f.Add(text("sys/firmware/devicetree/base/compatible"), text("sys/firmware/devicetree/base/model"), text("proc/cpuinfo"), text("proc/meminfo"),
			text("sys/devices/system/cpu/online"), "61000", "cpu-thermal", "0x50005", text("proc/self/mountinfo"), text("sys/block/mmcblk0/device/life_time"), text("sys/block/mmcblk0/stat"))
	}
	f.Add("", "", "", "MemTotal: -4058543896 kB", "", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, compatible, model, cpuinfo, meminfo, online, temp, kind, bits, mountinfo, life, stat string) {
		root := fstest.MapFS{
			"sys/firmware/devicetree/base/compatible":             file(compatible),
			"sys/firmware/devicetree/base/model":                  file(model),
			"proc/cpuinfo":                                        file(cpuinfo),
			"proc/meminfo":                                        file(meminfo),
			"sys/devices/system/cpu/online":                       file(online),
			"sys/class/thermal/thermal_zone0/temp":                file(temp),
			"sys/class/thermal/thermal_zone0/type":                file(kind),
			"sys/class/thermal/cooling_device0/type":              file(kind),
			"sys/class/thermal/cooling_device0/cur_state":         file(bits),
			"sys/devices/platform/soc/soc:firmware/get_throttled": file(bits),
			"sys/class/hwmon/hwmon0/name":                         file(kind),
			"sys/class/hwmon/hwmon0/in0_lcrit_alarm":              file(bits),
			"proc/self/mountinfo":                                 file(mountinfo),
			"sys/class/block/mmcblk0p2/dev":                       file("179:2"),
			"sys/block/mmcblk0/mmcblk0p2/dev":                     file("179:2"),
			"sys/block/mmcblk0/device/life_time":                  file(life),
			"sys/block/mmcblk0/device/pre_eol_info":               file(life),
			"sys/block/mmcblk0/stat":                              file(stat),
		}
		b := Detect(root)
		if b.RAM < 0 || b.CPUs < 0 || strings.ContainsAny(b.Name+b.Kind+b.Chip, "\n\x00") || len(b.Name) > 128 {
			t.Errorf("%+v", b)
		}
		if c, zone, ok := b.Profile.Temperature(root); ok && !(c >= coldest && c <= hottest) || len(zone) > 128 {
			t.Errorf("%v °C at %q", c, zone)
		}
		slow := b.Profile.Watch(root).Look()
		if len(slow.Now) > 3 || len(slow.Since) > 3 {
			t.Errorf("%+v", slow)
		}
		d, ok := DiskOf(root, "/var/lib/covey")
		if ok == (d.Name == "") || strings.Contains(d.Name, "/") || d.Written < 0 || d.Life < 0 || d.Life > 100 || d.EOL < 0 || d.EOL > 3 {
			t.Errorf("%+v, %v", d, ok)
		}
	})
}

// TestProfilesAreDescribed: docs/hardware.md has a line about each.
func TestProfilesAreDescribed(t *testing.T) {
	page, err := os.ReadFile("../docs/hardware.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Profiles() {
		if strings.Count(string(page), "\n| `"+p.ID+"` |") != 1 {
			t.Errorf("%s: no line, or several", p.ID)
		}
	}
}
