package exec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

func root(files ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for _, f := range files {
		name, data, _ := strings.Cut(f, "=")
		m[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return m
}

func TestCSIChoice(t *testing.T) {
	const nv = "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so"
	for _, tt := range []struct {
		files []string
		p     Port
		want  string
	}{
		{[]string{"usr/bin/rpicam-vid", "usr/bin/libcamera-vid"}, Port{}, "yuv420p 640×480: rpicam-vid --nopreview --timeout 0 --camera 0 --width 640 --height 480 --framerate 30 --codec yuv420 --flush --output -"},
		{[]string{"usr/local/bin/libcamera-vid"}, Port{Camera: 1, Width: 800, Height: 601, FPS: 7.5}, "yuv420p 896×602: libcamera-vid --nopreview --timeout 0 --camera 1 --width 896 --height 602 --framerate 7.5 --codec yuv420 --flush --output -"},
		{[]string{"usr/bin/gst-launch-1.0", nv}, Port{Camera: 1, Width: 799, Height: 600, FPS: 29.97}, "y4m 0×0: gst-launch-1.0 --quiet nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),framerate=29970/1000 ! nvvidconv ! video/x-raw,format=I420,width=800,height=600 ! queue leaky=downstream max-size-buffers=1 ! y4menc ! fdsink fd=1 sync=false"},
		{[]string{"usr/bin/gst-launch-1.0"}, Port{}, "E_SOURCE: no program for CSI cameras: on a Raspberry Pi, sudo apt-get install rpicam-apps-lite; on a Jetson"},
		{nil, Port{Camera: -1}, "E_SOURCE: CSI camera -1 of"},
		{nil, Port{Width: 8193, Height: 16}, "E_SOURCE: CSI camera 0 of 8193×16"},
		{nil, Port{FPS: -1}, "E_SOURCE: CSI camera 0 of"},
	} {
		c, err := CSI(root(tt.files...), tt.p)
		got := fmt.Sprintf("%s %d×%d: %s", c.Format, c.Width, c.Height, strings.Join(c.Program, " "))
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v: got\n%s, want\n%s", tt.files, got, tt.want)
		}
	}
}

// Of a camera that exposes for long a picture may take long.
func TestCSISeldom(t *testing.T) {
	const nv = "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so"
	for _, files := range [][]string{{"usr/bin/rpicam-vid"}, {"usr/bin/gst-launch-1.0", nv}} {
		if c, err := CSI(root(files...), Port{FPS: .05}); err != nil || c.Stall != 35*time.Second {
			t.Errorf("%v: one picture in 20 s has %v, %v", files, c.Stall, err)
		}
	}
}

// A stand-in takes rpicam-vid's arguments and writes what it would.
func TestCSI(t *testing.T) {
	needFFmpeg(t)
	dir := t.TempDir()
	const script = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	--width) w=$2; shift ;;
	--height) h=$2; shift ;;
	--framerate) r=$2; shift ;;
	--camera|--timeout|--codec|--output) shift ;;
	--nopreview|--flush) ;;
	*) echo "ERROR: *** unrecognised option '$1' ***" >&2; exit 255 ;;
	esac
	shift
done
exec ffmpeg -nostdin -loglevel error -re -f lavfi -i testsrc2=rate=$r:size=${w}x$h -f rawvideo -pix_fmt yuvj420p pipe:1
`
	if err := os.WriteFile(filepath.Join(dir, "rpicam-vid"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c, err := CSI(root("usr/bin/rpicam-vid"), Port{Width: 300, Height: 200})
	if err != nil {
		t.Fatal(err)
	}
	haltest.Source(t, func(t *testing.T) hal.Source { return open(t, c) })
	s := open(t, c)
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil || f.Width != 384 || f.Height != 200 || f.Format != hal.FormatYUV420 || f.Limited {
		t.Errorf("%d×%d of format %d, %v", f.Width, f.Height, f.Format, err)
	}
	c.Program = append(c.Program, "--frobnicate")
	if err := lost(t, open(t, c)); hal.CodeOf(err) != hal.CodeSourceLost || !strings.Contains(err.Error(), "CSI camera 0 (rpicam-vid) has ended with status 255: ERROR: *** unrecognised option '--frobnicate' ***") {
		t.Errorf("got %v", err)
	}
}

func TestProbe(t *testing.T) {
	const subdev = "sys/class/video4linux/v4l-subdev"
	got := Probe(root(
		subdev+"0/name=imx708 10-001a\n", subdev+"1/name=dw9807 10-000c", subdev+"2/name=unicam-image",
		subdev+"3/name=ov5647 4-0036", subdev+"4/name="+strings.Repeat("x", 9999), "sys/class/video4linux/video0/name=UVC Camera",
	))
	want := []hal.Input{
		{Source: "csi", ID: "0", Name: "ov5647", Detail: "on I2C 4-0036"},
		{Source: "csi", ID: "1", Name: "imx708", Detail: "on I2C 10-001a"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Probe(root()); len(got) != 0 {
		t.Errorf("got %v from nothing", got)
	}
}
