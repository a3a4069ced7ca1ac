package v4l2

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// The kernel's numbers, printed by C programs with videodev2.h for amd64 and arm64;
// for 32 bits as in the kernel's v4l2-compat-ioctl32.c.
func TestRequests(t *testing.T) {
	words := map[string][2]uintptr{ // 64 bits, 32 bits
		"QUERYCAP": {0x80685600, 0x80685600}, "ENUM_FMT": {0xc0405602, 0xc0405602}, "G_FMT": {0xc0d05604, 0xc0cc5604}, "S_FMT": {0xc0d05605, 0xc0cc5605},
		"REQBUFS": {0xc0145608, 0xc0145608}, "QUERYBUF": {0xc0585609, 0xc0445609}, "QBUF": {0xc058560f, 0xc044560f}, "DQBUF": {0xc0585611, 0xc0445611},
		"STREAMON": {0x40045612, 0x40045612}, "STREAMOFF": {0x40045613, 0x40045613}, "G_PARM": {0xc0cc5615, 0xc0cc5615}, "S_PARM": {0xc0cc5616, 0xc0cc5616},
		"G_CTRL": {0xc008561b, 0xc008561b}, "S_CTRL": {0xc008561c, 0xc008561c}, "QUERYCTRL": {0xc0445624, 0xc0445624},
		"ENUM_FRAMESIZES": {0xc02c564a, 0xc02c564a}, "ENUM_FRAMEINTERVALS": {0xc034564b, 0xc034564b},
	}
	for name, got := range map[string]uintptr{
		"QUERYCAP": vidQueryCap, "ENUM_FMT": vidEnumFormat, "G_FMT": vidGetFormat, "S_FMT": vidSetFormat, "REQBUFS": vidRequestBuffers,
		"QUERYBUF": vidQueryBuffer, "QBUF": vidQueue, "DQBUF": vidDequeue, "STREAMON": vidStreamOn, "STREAMOFF": vidStreamOff,
		"G_PARM": vidGetParm, "S_PARM": vidSetParm, "G_CTRL": vidGetControl, "S_CTRL": vidSetControl, "QUERYCTRL": vidQueryControl,
		"ENUM_FRAMESIZES": vidEnumSizes, "ENUM_FRAMEINTERVALS": vidEnumIntervals,
	} {
		if want := words[name][1-wide]; got != want {
			t.Errorf("VIDIOC_%s is %#x, want %#x", name, got, want)
		}
	}
	var f format
	var b buffer
	got := []uintptr{unsafe.Offsetof(f.pix), unsafe.Offsetof(f.pix.quantization), unsafe.Offsetof(b.timestamp), unsafe.Offsetof(b.sequence), unsafe.Offsetof(b.offset), unsafe.Offsetof(b.length)}
	want := [2][]uintptr{{8, 40, 24, 56, 64, 72}, {4, 40, 20, 44, 52, 56}}[1-wide]
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("offsets %v, want %v", got, want)
	}
}

func seconds(fps uint32) fraction { return fraction{1, fps} }

// What a Logitech C270, a cheap 1080p camera, an infrared camera and a camera whose
// driver names no rates offer.
var (
	c270 = []mode{
		{code("YUYV"), 640, 480, seconds(30)}, {code("YUYV"), 160, 120, seconds(30)}, {code("YUYV"), 320, 240, seconds(30)},
		{code("YUYV"), 800, 600, seconds(20)}, {code("YUYV"), 1280, 720, fraction{10, 75}}, {code("YUYV"), 1280, 960, fraction{10, 75}},
		{code("MJPG"), 640, 480, seconds(30)}, {code("MJPG"), 160, 120, seconds(30)}, {code("MJPG"), 320, 240, seconds(30)},
		{code("MJPG"), 800, 600, seconds(30)}, {code("MJPG"), 1280, 720, seconds(30)}, {code("MJPG"), 1280, 960, seconds(30)},
	}
	cheap = []mode{{code("MJPG"), 1920, 1080, seconds(30)}, {code("MJPG"), 640, 480, seconds(30)}, {code("YUYV"), 1920, 1080, seconds(5)}, {code("YUYV"), 640, 480, seconds(25)}}
	ir    = []mode{{code("GREY"), 640, 360, seconds(15)}, {code("GREY"), 340, 340, seconds(30)}}
	silly = []mode{{code: code("NV12"), width: 1280, height: 720}, {code: code("YUYV"), width: 1280, height: 720}}
)

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		name  string
		modes []mode
		w     wish
		want  string
	}{
		{"small model", c270, wish{width: 224, height: 224}, "yuyv 320×240 at 30 a second"},
		{"usual", c270, wish{width: 640, height: 480}, "yuyv 640×480 at 30 a second"},
		{"raw is too slow here", c270, wish{width: 640, height: 640}, "mjpeg 1280×720 at 30 a second"},
		{"slow is enough", c270, wish{width: 640, height: 640, fps: 5}, "yuyv 1280×720 at 7.5 a second"},
		{"none covers it", c270, wish{width: 1920, height: 1080}, "mjpeg 1280×720 at 30 a second"}, // two thirds, either way
		{"a little slower is as good", cheap, wish{width: 300, height: 300}, "yuyv 640×480 at 25 a second"},
		{"but not when it is pinned", cheap, wish{width: 300, height: 300, fps: 30}, "mjpeg 640×480 at 30 a second"},
		{"format pinned", c270, wish{width: 320, height: 240, format: "mjpeg"}, "mjpeg 320×240 at 30 a second"},
		{"size pinned", c270, wish{width: 1280, height: 960, exact: true}, "mjpeg 1280×960 at 30 a second"},
		{"all pinned", c270, wish{width: 1280, height: 960, exact: true, format: "yuyv", fps: 30}, "yuyv 1280×960 at 7.5 a second"},
		{"no such size", c270, wish{width: 1281, height: 960, exact: true}, ""},
		{"no such format", c270, wish{format: "nv12"}, ""},
		{"none", nil, wish{}, ""},
		{"grey alone", ir, wish{width: 224, height: 224}, "grey 340×340 at 30 a second"},
		{"colour before grey", append(ir, silly...), wish{width: 224, height: 224}, "nv12 1280×720"},
		{"unknown format", []mode{{code: code("H264"), width: 640, height: 480}}, wish{}, ""},
	} {
		got := ""
		if m, ok := choose(tt.modes, tt.w); ok {
			got = m.String()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	if got, want := describe(cheap), "mjpeg 1920×1080@30, 640×480@30; yuyv 1920×1080@5, 640×480@25"; got != want {
		t.Errorf("described as %s", got)
	}
}

func TestPick(t *testing.T) {
	all := []fraction{seconds(5), seconds(30), seconds(60), {1001, 30000}, {0, 1}, {1, 0}, seconds(15)}
	for fps, want := range map[float64]fraction{0: {1001, 30000}, 10: seconds(15), 60: seconds(60), 90: seconds(60), 1: seconds(5), 30: {1001, 30000}} {
		if got := pick(all, wish{fps: fps}); got != want {
			t.Errorf("%v a second: %v, want %v", fps, got, want)
		}
	}
	if got := pick(nil, wish{}); got != (fraction{}) {
		t.Errorf("none: %v", got)
	}
	for fps, want := range map[float64]fraction{0: {1000, 30000}, 7.5: {1000, 7500}, 100: {}, .5: {}} {
		if got := within(seconds(60), fraction{1, 1}, wish{fps: fps}); got != want {
			t.Errorf("%v in a range: %v, want %v", fps, got, want)
		}
	}
}

func TestNear(t *testing.T) {
	for _, tt := range []struct {
		s       span
		v, want int
	}{
		{span{16, 1920, 16}, 224, 224}, {span{16, 1920, 16}, 225, 240}, {span{16, 1920, 16}, 1, 16}, {span{16, 1920, 16}, 5000, 1920},
		{span{10, 25, 10}, 22, 20}, {span{640, 640, 1}, 3, 640}, {span{640, 640, 0}, 700, 640}, {span{1, 100, 0}, 37, 37}, {span{9, 3, 1}, 5, 9},
	} {
		if got := tt.s.near(tt.v); got != tt.want {
			t.Errorf("%v near %d: %d, want %d", tt.s, tt.v, got, tt.want)
		}
	}
}

func TestLayout(t *testing.T) {
	pix := func(f string, w, h, stride uint32) pixFormat {
		return pixFormat{pixelFormat: code(f), width: w, height: h, stride: stride, colorspace: 8}
	}
	for _, tt := range []struct {
		p    pixFormat
		size int // -1: refused
	}{
		{pix("YUYV", 6, 3, 0), 36}, {pix("YUYV", 6, 3, 16), 48}, {pix("YUYV", 5, 4, 0), -1}, {pix("YUYV", 6, 4, 11), -1},
		{pix("NV12", 6, 4, 8), 48}, {pix("NV12", 6, 3, 0), -1}, {pix("YU12", 6, 4, 8), 48}, {pix("YU12", 6, 4, 7), -1},
		{pix("GREY", 5, 3, 0), 15}, {pix("MJPG", 5, 3, 0), 0}, {pix("H264", 8, 8, 0), -1}, {pix("YUYV", 0, 8, 0), -1},
		{pix("YUYV", 20000, 8, 0), -1}, {pix("YUYV", 8, 8, 1<<31), -1},
	} {
		l, err := newLayout(tt.p)
		if (err != nil) != (tt.size < 0) || err == nil && l.size != tt.size {
			t.Errorf("%s %d×%d in rows of %d: %d bytes, %v", tt.p.pixelFormat, tt.p.width, tt.p.height, tt.p.stride, l.size, err)
			continue
		}
		if err != nil || l.size == 0 {
			continue
		}
		data := make([]byte, l.size+9)
		for i := range data {
			data[i] = byte(i)
		}
		var f hal.Frame
		l.show(data, &f)
		want := l.planes[len(l.planes)-1]
		if last := f.Planes[len(l.planes)-1]; last[0] != byte(want.offset) || len(last) != want.size {
			t.Errorf("%s: last plane begins with %d", tt.p.pixelFormat, last[0])
		}
		first := &f.Planes[0][0]
		clear(data)
		if l.show(data, &f); &f.Planes[0][0] != first || f.Planes[0][1] != 0 {
			t.Errorf("%s: memory was not used again", tt.p.pixelFormat)
		}
	}
	for _, tt := range []struct {
		format                   string
		colorspace, quantization uint32
		want                     bool
	}{{"YUYV", 8, 0, true}, {"YUYV", 7, 0, false}, {"YUYV", 8, 1, false}, {"YUYV", 7, 2, true}, {"GREY", 8, 0, false}, {"GREY", 8, 2, true}} {
		if got := limited(pixFormat{pixelFormat: code(tt.format), colorspace: tt.colorspace, quantization: tt.quantization}); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestAt(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct{ mono, stamp, want time.Duration }{
		{time.Hour, time.Hour - time.Second, -time.Second}, {time.Hour, time.Hour + 1, 0}, {time.Hour, 0, 0}, {time.Hour, time.Minute, 0},
	} {
		got := at(now, tt.mono, tt.stamp)
		if got.Sub(now) != tt.want || got.Round(0).Sub(now.Round(0)) != tt.want {
			t.Errorf("%+v: %v", tt, got.Sub(now))
		}
	}
}

func TestControls(t *testing.T) {
	have := []control{{1, "brightness", kindInteger, -64, 64, 0}, {2, "exposure_time", kindInteger, 1, 5000, 0}, {3, "exposure_auto", kindMenu, 0, 3, 0},
		{4, "focus", kindBoolean, 0, 1, 0}, {5, "reset", kindButton, 0, 0, 0}}
	got, err := settings(have, map[string]int{"exposure_time": 100, "exposure_auto": 1, "brightness": -3, "reset": 7})
	order := ""
	for _, s := range got {
		order += fmt.Sprintf("%s=%d ", s.name, s.value)
	}
	if err != nil || order != "exposure_auto=1 reset=7 brightness=-3 exposure_time=100 " {
		t.Errorf("%s%v", order, err)
	}
	for name, v := range map[string]int{"brightness": 65, "exposure_time": 0, "focus": 2, "zoom": 1, "": 0} {
		if _, err := settings(have, map[string]int{name: v}); err == nil {
			t.Errorf("%s = %d was taken", name, v)
		}
	}
	for in, want := range map[string]string{"Exposure, Auto": "exposure_auto", "White Balance Temperature, Auto": "white_balance_temperature_auto", " (x) ": "x", "": ""} {
		if got := controlName(in); got != want {
			t.Errorf("%q is %q", in, got)
		}
	}
}

// board makes the sysfs of a board. Lines are: folder, a tab, file=content or
// file->link.
func board(lines ...string) fstest.MapFS {
	root := fstest.MapFS{}
	for _, l := range lines {
		dir, file, _ := strings.Cut(l, " ")
		if name, to, ok := strings.Cut(file, "->"); ok {
			root[dir+"/"+name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
		} else if name, content, ok := strings.Cut(file, "="); ok {
			root[dir+"/"+name] = &fstest.MapFile{Data: []byte(content + "\n")}
		}
	}
	return root
}

const class = "sys/class/video4linux"

// usb is a USB camera: the lines of its device and of its nodes.
func usb(port, product, serial string, nodes ...string) []string {
	dev := "sys/devices/platform/soc/usb1/" + port
	lines := []string{dev + " idVendor=046d", dev + " idProduct=" + product}
	if serial != "" {
		lines = append(lines, dev+" serial="+serial)
	}
	for i, n := range nodes {
		dir := dev + "/" + port + ":1.0/video4linux/" + n
		lines = append(lines, class+" "+n+"->../../devices/platform/soc/usb1/"+port+"/"+port+":1.0/video4linux/"+n,
			dir+" name=Camera "+product, dir+fmt.Sprintf(" index=%d", i), dir+" device->../../../"+port+":1.0",
			dev+"/"+port+":1.0 driver->../../../../../../bus/usb/drivers/uvcvideo", dev+"/"+port+":1.0 subsystem->../../../../../../bus/usb")
	}
	return lines
}

// csi is a node of a board's own.
func csi(n, name, driver string, index int) []string {
	dir := "sys/devices/platform/" + driver + "/video4linux/" + n
	return []string{class + " " + n + "->../../devices/platform/" + driver + "/video4linux/" + n, dir + " name=" + name,
		dir + fmt.Sprintf(" index=%d", index), dir + " device->../../../" + driver,
		"sys/devices/platform/" + driver + " subsystem->../../../bus/platform", "sys/devices/platform/" + driver + " driver->../../../bus/platform/drivers/" + driver}
}

func join(parts ...[]string) (all []string) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestProbe(t *testing.T) {
	pi5 := board(join(
		csi("video0", "rp1-cfe-csi2_ch0", "rp1-cfe", 0), csi("video1", "rp1-cfe-embedded", "rp1-cfe", 1), csi("video20", "pispbe-input", "pispbe", 0),
		csi("video19", "rpi-hevc-dec", "rpi-hevc-dec", 0),
		usb("1-1.2", "0825", "A1B2 C3", "video10", "video11"), usb("1-1.3", "0826", "", "video8"),
		usb("1-1.4", "0827", "200901010001", "video12"), usb("1-1.5", "0827", "200901010001", "video14"),
		usb("1-2", "0828", "", "video16"), usb("1-3", "0828", "", "video18"),
	)...)
	want := []string{
		"csi 0 rp1-cfe-csi2_ch0: " + useCSI,
		"v4l2 usb-046d:0826 Camera 0826: /dev/video8",
		"v4l2 usb-046d:0825-A1B2_C3 Camera 0825: /dev/video10",
		"v4l2 usb-046d:0827-1-1.4 Camera 0827: /dev/video12",
		"v4l2 usb-046d:0827-1-1.5 Camera 0827: /dev/video14",
		"v4l2 usb-046d:0828-1-2 Camera 0828: /dev/video16",
		"v4l2 usb-046d:0828-1-3 Camera 0828: /dev/video18",
	}
	var got []string
	for _, in := range Probe(pi5) {
		got = append(got, fmt.Sprintf("%s %s %s: %s", in.Source, in.ID, in.Name, in.Detail))
		if in.Source != "v4l2" {
			continue
		}
		if path, err := find(pi5, in.ID); err != nil || path != in.Detail {
			t.Errorf("%s is found as %s, %v", in.ID, path, err)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := Probe(fstest.MapFS{}); got != nil {
		t.Errorf("an empty machine has %v", got)
	}
	for device, want := range map[string]string{
		"usb-046d:0828":              "2 cameras have this id: write usb-046d:0828-1-2 or usb-046d:0828-1-3",
		"usb-046d:0827-200901010001": "2 cameras have this id",
		"usb-046d:0829":              fs.ErrNotExist.Error(),
		"webcam":                     "neither a path nor an id",
		"":                           "neither a path nor an id",
	} {
		if path, err := find(pi5, device); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %s, %v", device, path, err)
		}
	}
	for device, want := range map[string]string{"/dev/video3": "/dev/video3", "usb-046d:0825": "/dev/video10", "usb-046d:0825-1-1.2": "/dev/video10"} {
		if path, err := find(pi5, device); err != nil || path != want {
			t.Errorf("%q is %s, %v", device, path, err)
		}
	}
	// In another socket and under another number.
	moved := board(usb("1-4", "0825", "A1B2 C3", "video3")...)
	if path, err := find(moved, "usb-046d:0825-A1B2_C3"); err != nil || path != "/dev/video3" {
		t.Errorf("moved: %s, %v", path, err)
	}
	jetson := Probe(board(csi("video0", "vi-output, imx219 9-0010", "tegra-camrtc-ca", 0)...))
	if len(jetson) != 1 || jetson[0].Source != "csi" {
		t.Errorf("Jetson: %+v", jetson)
	}
}

func TestExplain(t *testing.T) {
	for err, want := range map[error]string{
		unix.ENOENT: "not there", unix.ENODEV: "not there", unix.EACCES: "usermod -aG video covey", unix.EBUSY: "has it", unix.ENOMEM: "smaller", errNoCamera: "no camera",
		errors.New("x"): "x",
	} {
		if got := explain("/dev/video0", err); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

func TestOpenRefused(t *testing.T) {
	for device, want := range map[string]string{"/dev/null": "no camera", "/nowhere/video0": "not there", "usb-ffff:ffff": "not there", "line\nbreak": "neither"} {
		_, err := Open(Config{Device: device})
		if hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", device, err)
		}
	}
}

// FuzzProbe: whatever sysfs says, ids are words that find their own node.
func FuzzProbe(f *testing.F) {
	f.Add("Camera", "0", "046d", "0825", "A1B2", "video0")
	f.Add("\x1b[2J\n", "-1", "\n", "é", "", "video")
	f.Add("x", "0", "a", "b", strings.Repeat("s", 300), "video00")
	f.Fuzz(func(t *testing.T, name, index, vendor, product, serial, node string) {
		if !fs.ValidPath("x/"+node) || strings.Contains(node, "/") || strings.Contains(node+name+index, "->") {
			return
		}
		dev := "sys/devices/usb1/1-1"
		root := fstest.MapFS{}
		put := func(name, content string, mode fs.FileMode) {
			root[name] = &fstest.MapFile{Data: []byte(content), Mode: mode}
		}
		put(dev+"/idVendor", vendor, 0o644)
		put(dev+"/idProduct", product, 0o644)
		put(dev+"/serial", serial, 0o644)
		put(dev+"/1-1:1.0/v/"+node+"/name", name, 0o644)
		put(dev+"/1-1:1.0/v/"+node+"/index", index, 0o644)
		put(dev+"/1-1:1.0/v/"+node+"/device", "../../../1-1:1.0", fs.ModeSymlink|0o777)
		put(class+"/"+node, "../../devices/usb1/1-1/1-1:1.0/v/"+node, fs.ModeSymlink|0o777)
		for _, in := range Probe(root) {
			if strings.ContainsFunc(in.ID+in.Name+in.Detail, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("%+q", in)
			}
			if in.Source != "v4l2" || strings.HasPrefix(in.ID, "/") || strings.TrimSpace(index) != "0" {
				continue
			}
			if path, err := find(root, in.ID); err != nil || path != "/dev/"+node {
				t.Fatalf("%q is found as %q, %v", in.ID, path, err)
			}
		}
	})
}

// BenchmarkCopy is what a raw picture of 1280×720 costs.
func BenchmarkCopy(b *testing.B) {
	l, err := newLayout(pixFormat{pixelFormat: code("YUYV"), width: 1280, height: 720})
	if err != nil {
		b.Fatal(err)
	}
	var buffers [buffers][]byte
	for i := range buffers {
		buffers[i] = make([]byte, l.size)
	}
	var frames [8]hal.Frame
	for i := 0; b.Loop(); i++ {
		l.show(buffers[i%len(buffers)], &frames[i%len(frames)])
	}
}
