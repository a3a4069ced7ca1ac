package exec

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// A Port is a camera on a board's own connector, and what it should give.
type Port struct {
	Camera int // from 0, in the order of the board's maker
	Width  int // pixels; 0: 640×480
	Height int
	FPS    float64 // 0: 30
}

// CSI is the program of the board's maker on a camera port, whichever is installed
// under root, the board's file system: rpicam-vid (before: libcamera-vid) of Raspberry
// Pi, or nvarguscamerasrc of a Jetson. Errors are E_SOURCE.
//
// A CSI camera is not /dev/video0, though there may be such a file: what comes there
// is what the sensor sees, before the board's image processor.
func CSI(root fs.FS, p Port) (Config, error) {
	if p.Width == 0 && p.Height == 0 {
		p.Width, p.Height = 640, 480
	}
	if p.FPS == 0 {
		p.FPS = 30
	}
	if p.Camera < 0 || p.Camera > 15 || p.Width < 16 || p.Height < 16 || p.Width > 8192 || p.Height > 8192 || !(p.FPS > 0 && p.FPS <= 1000) {
		return Config{}, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf(
			"CSI camera %d of %d×%d pixels with %v pictures a second: give a camera from 0 to 15, sides from 16 to 8192 and up to 1000 pictures", p.Camera, p.Width, p.Height, p.FPS)}
	}
	for _, program := range []string{"rpicam-vid", "libcamera-vid"} {
		if installed(root, program) {
			return rpicam(program, p), nil
		}
	}
	if installed(root, "gst-launch-1.0") && argus(root) {
		return nvargus(p), nil
	}
	return Config{}, &hal.Error{Code: hal.CodeSource, Text: "no program for CSI cameras: on a Raspberry Pi, sudo apt-get install rpicam-apps-lite; on a Jetson, sudo apt-get install nvidia-l4t-gstreamer gstreamer1.0-tools gstreamer1.0-plugins-good"}
}

func installed(root fs.FS, program string) bool {
	return slices.ContainsFunc([]string{"usr/local/bin", "usr/bin", "bin"}, func(dir string) bool {
		_, err := fs.Stat(root, path.Join(dir, program))
		return err == nil
	})
}

// argus says whether GStreamer knows the Jetson's cameras.
func argus(root fs.FS) bool {
	found, _ := fs.Glob(root, "usr/lib/*/gstreamer-1.0/libgstnvarguscamerasrc.so")
	return len(found) > 0
}

// rpicam writes what the image processor gives as it is, with the rows padded: to 64
// bytes on a Pi 4, to 64 bytes of chroma and so 128 of luma on a Pi 5. The width is
// made one that needs no padding on either; the image processor fills it with more
// of the scene. Levels are full: rpicam-vid asks for JPEG's colours with this codec.
func rpicam(program string, p Port) Config {
	p.Width = (p.Width + 127) / 128 * 128
	p.Height = (p.Height + 1) / 2 * 2
	return Config{
		Program: []string{program, "--nopreview", "--timeout", "0", "--camera", strconv.Itoa(p.Camera),
			"--width", strconv.Itoa(p.Width), "--height", strconv.Itoa(p.Height), "--framerate", rate(p.FPS),
			"--codec", "yuv420", "--flush", "--output", "-"},
		Format: I420, Width: p.Width, Height: p.Height, Stall: usualStall + period(p.FPS), Name: fmt.Sprintf("CSI camera %d (%s)", p.Camera, program),
	}
}

// nvargus writes YUV4MPEG2, which has no padding.
func nvargus(p Port) Config {
	p.Width, p.Height = (p.Width+1)/2*2, (p.Height+1)/2*2
	return Config{
		Program: []string{"gst-launch-1.0", "--quiet", "nvarguscamerasrc", "sensor-id=" + strconv.Itoa(p.Camera), "!",
			fmt.Sprintf("video/x-raw(memory:NVMM),framerate=%s", fraction(p.FPS)), "!",
			"nvvidconv", "!", fmt.Sprintf("video/x-raw,format=I420,width=%d,height=%d", p.Width, p.Height), "!",
			"queue", "leaky=downstream", "max-size-buffers=1", "!", "y4menc", "!", "fdsink", "fd=1", "sync=false"},
		Format: Y4M, Stall: usualStall + period(p.FPS), Name: fmt.Sprintf("CSI camera %d (nvargus)", p.Camera),
	}
}

func rate(fps float64) string { return strconv.FormatFloat(fps, 'g', -1, 64) }

// fraction is a rate as GStreamer writes it.
func fraction(fps float64) string { return fmt.Sprintf("%d/1000", int(fps*1000+0.5)) }

// sensor is the name that the kernel gives a camera on an I²C bus: chip, bus, address.
var sensor = regexp.MustCompile(`^([a-z0-9_-]+) (\d+-[0-9a-f]{4})$`)

// Probe lists the CSI cameras that the kernel under root has found. Their numbers are
// in the order of their buses; which one a board's program calls 0 it alone can say.
func Probe(root fs.FS) []hal.Input {
	files, _ := fs.Glob(root, "sys/class/video4linux/v4l-subdev*/name")
	type found struct{ chip, bus string }
	var all []found
	for _, file := range files {
		b, err := fs.ReadFile(root, file)
		if err != nil || len(b) > 256 {
			continue
		}
		m := sensor.FindStringSubmatch(strings.TrimSpace(string(b)))
		if m != nil && !focus(m[1]) {
			all = append(all, found{m[1], m[2]})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Or(cmp.Compare(len(a.bus), len(b.bus)), cmp.Compare(a.bus, b.bus)) })
	var inputs []hal.Input
	for i, c := range all {
		inputs = append(inputs, hal.Input{Source: "csi", ID: strconv.Itoa(i), Name: c.chip, Detail: "on I2C " + c.bus})
	}
	return inputs
}

// focus says whether a chip moves a lens, and sees nothing.
func focus(chip string) bool {
	return slices.ContainsFunc([]string{"dw97", "dw98", "ad53", "ad58", "ak73", "lc898", "lm35"}, func(p string) bool { return strings.HasPrefix(chip, p) })
}
