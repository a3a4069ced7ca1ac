package v4l2

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/vision"
)

// vivid is the kernel's own camera, with one node that is like a webcam.
const vivid = "vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0"

// vividID is what Probe calls it.
const vividID = "platform-vivid.0"

// TestCameras is everything with the kernel's virtual cameras: one boot for all. Most
// of it waits, so both take place at a time.
func TestCameras(t *testing.T) {
	if !haltest.InVM() {
		haltest.VM(t, haltest.Machine{Modules: []string{vivid, "uvcvideo", "vhci-hcd"}})
		return
	}
	t.Run("At a time", func(t *testing.T) {
		t.Run("Vivid", testVivid)
		t.Run("Webcam", testWebcam)
	})
	t.Run("Figures", vividFigures)
}

func testVivid(t *testing.T) {
	t.Parallel()
	t.Run("Probe", vividProbe)
	for _, c := range []Config{{}, {Format: "grey", Width: 320, Height: 180}, {Format: "nv12", Width: 640, Height: 360, FPS: 10}} {
		c.Device = vividID
		t.Run("Suite", func(t *testing.T) {
			haltest.Source(t, func(t *testing.T) hal.Source { return open(t, c) })
		})
	}
	t.Run("Colours", vividColours)
	t.Run("Size", vividSize)
	t.Run("Pace", vividPace)
	t.Run("Late", vividLate)
	t.Run("Outlives", vividOutlives)
	t.Run("Refused", vividRefused)
	t.Run("Controls", vividControls)
	t.Run("Errors", vividErrors)
	t.Run("Unplugged", vividUnplugged)
	t.Run("Replugged", vividReplugged)
}

func open(t testing.TB, c Config) *Source {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// next is a good frame within a second or two.
func next(t testing.TB, s *Source, f *hal.Frame) {
	t.Helper()
	if err := s.Next(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// probed is what Probe says of one camera.
func probed(id string) (found hal.Input) {
	for _, in := range Probe(os.DirFS("/")) {
		if in.ID == id {
			return in
		}
	}
	return found
}

func vividProbe(t *testing.T) {
	found := probed(vividID)
	if found.Name != "vivid-000-vid-cap" || !strings.Contains(found.Detail, "yuyv 3840×2160@") {
		t.Errorf("got %+v", found)
	}
}

// rgb fills a small tensor and returns the middle of each of the eight bars.
func rgb(t *testing.T, f *hal.Frame) (bars [8][3]int) {
	t.Helper()
	const w, h = 64, 8
	filler, err := vision.NewFiller(hal.TensorInfo{Type: hal.Uint8, Shape: []int{1, h, w, 3}, Quant: hal.Quant{Scale: []float32{1. / 255}, ZeroPoint: []int32{0}}}, vision.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, w*h*3)
	if _, err := filler.Fill(out, f); err != nil {
		t.Fatal(err)
	}
	for i := range bars {
		at := (h/2*w + 8*i + 4) * 3
		bars[i] = [3]int{int(out[at]), int(out[at+1]), int(out[at+2])}
	}
	return bars
}

// vividColours: the bars of 100 % are white, yellow, cyan, green, magenta, red, blue,
// black, in every format and range.
func vividColours(t *testing.T) {
	want := [8][3]int{{255, 255, 255}, {255, 255, 0}, {0, 255, 255}, {0, 255, 0}, {255, 0, 255}, {255, 0, 0}, {0, 0, 255}, {0, 0, 0}}
	ranges := []string{"default", "full", "limited"} // vivid's menu
	for _, format := range []string{"yuyv", "nv12", "yuv420", "grey"} {
		for quantization, name := range ranges {
			grey := format == "grey"
			if grey && name == "limited" {
				continue // vivid says so, and gives 0 to 255
			}
			s := open(t, Config{Device: vividID, Format: format, Width: 640, Height: 360, Controls: map[string]int{
				"test_pattern": 1, "osd_text_mode": 2, "quantization": quantization}})
			var f hal.Frame
			next(t, s, &f)
			if limited := name != "full" && !grey; f.Limited != limited {
				t.Errorf("%s, range %s: frame says limited=%v", format, name, f.Limited)
			}
			for i, got := range rgb(t, &f) {
				w := want[i]
				if grey { // vivid has the luma of Rec. 709
					y := int(math.Round(.2126*float64(w[0]) + .7152*float64(w[1]) + .0722*float64(w[2])))
					w = [3]int{y, y, y}
				}
				for c := range got {
					if d := got[c] - w[c]; d < -4 || d > 4 {
						t.Errorf("%s, range %s, bar %d: %v, want %v", format, name, i, got, w)
						break
					}
				}
			}
			s.Close()
		}
	}
	s := open(t, Config{Device: vividID, Controls: map[string]int{"test_pattern": 0, "osd_text_mode": 0, "quantization": 0}})
	s.Close()
}

// vividSize: the mode follows what the model takes.
func vividSize(t *testing.T) {
	s := open(t, Config{Device: vividID})
	defer s.Close()
	var f hal.Frame
	for _, tt := range []struct{ want, width, height int }{{224, 640, 360}, {150, 320, 180}, {300, 640, 360}, {513, 1280, 720}, {0, 640, 480}, {180, 320, 180}} {
		f.Want.Width, f.Want.Height = tt.want, tt.want
		next(t, s, &f)
		if f.Width != tt.width || f.Height != tt.height {
			t.Errorf("a model of %d gets %d×%d (%s), want %d×%d", tt.want, f.Width, f.Height, s.Mode(), tt.width, tt.height)
		}
	}
	if f.Seq != 6 {
		t.Errorf("Seq %d: it goes on over modes", f.Seq)
	}
}

// vividPace: the camera's own rates, and slower ones.
func vividPace(t *testing.T) {
	for _, fps := range []float64{10, 4, .9} { // vivid's slowest is 1
		s := open(t, Config{Device: vividID, Width: 320, Height: 180, FPS: fps})
		var f hal.Frame
		next(t, s, &f)
		first, n := f.Captured, max(1, int(fps))
		for range n {
			next(t, s, &f)
		}
		if got := float64(n) / f.Captured.Sub(first).Seconds(); got > fps*1.15 || got < fps*.7 {
			t.Errorf("%v a second came %.3g times (%s)", fps, got, s.Mode())
		}
		s.Close()
	}
}

// vividLate: after a pause of the reader comes a new picture, not what was left in
// the driver; and its time is that of the capture.
func vividLate(t *testing.T) {
	s := open(t, Config{Device: vividID, Width: 320, Height: 180})
	defer s.Close()
	var f hal.Frame
	next(t, s, &f)
	for range 2 {
		time.Sleep(500 * time.Millisecond)
		next(t, s, &f)
		if age := time.Since(f.Captured); age > 200*time.Millisecond || age < 0 {
			t.Errorf("the picture after a pause is %v old", age)
		}
		if wall := time.Since(f.Captured.Round(0)); wall < 0 || wall > time.Second {
			t.Errorf("by the wall clock it is %v old", wall)
		}
	}
}

// vividOutlives: a frame is readable after its camera was closed.
func vividOutlives(t *testing.T) {
	s := open(t, Config{Device: vividID, Width: 320, Height: 180})
	var frames [8]hal.Frame
	for i := range frames {
		next(t, s, &frames[i])
	}
	s.Close()
	sum := 0
	for _, f := range frames {
		for _, p := range f.Planes {
			for _, v := range p {
				sum += int(v)
			}
		}
	}
	if sum == 0 {
		t.Error("black")
	}
}

func vividRefused(t *testing.T) {
	if err := os.WriteFile("/tmp/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Device: "/dev/video7"}, "not there"},
		{Config{Device: "usb-ffff:0825"}, "not there"},
		{Config{Device: "webcam"}, "neither a path nor an id"},
		{Config{Device: "/dev/null"}, "no camera"},
		{Config{Device: "/tmp/file"}, "no camera"},
		{Config{Device: "/dev"}, "no camera"},
		{Config{Device: vividID, Format: "mjpeg"}, "it cannot do mjpeg: it has"},
		{Config{Device: vividID, Width: 641, Height: 480}, "it cannot do 641×480: it has"},
		{Config{Device: vividID, Width: 640}, "width and height together"},
		{Config{Device: vividID, FPS: -1}, "frames a second"},
		{Config{Device: vividID, Controls: map[string]int{"brightnes": 1}}, `no control "brightnes": it has brightness (0 to 255), contrast`},
		{Config{Device: vividID, Controls: map[string]int{"brightness": 256}}, "give 0 to 255"},
	} {
		s, err := Open(tt.c)
		if err == nil {
			s.Close()
		}
		if hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: got %v, want %s", tt.c, err, tt.want)
		}
	}
	s := open(t, Config{Device: vividID})
	if _, err := Open(Config{Device: vividID}); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), "another pipeline here has it") {
		t.Errorf("twice: %v", err)
	}
	var f hal.Frame
	next(t, s, &f) // the other one did not disturb it
	s.Close()

	other := exec.Command(os.Args[0], "-test.run=^TestHold$")
	other.Env = append(os.Environ(), "COVEY_HOLD="+vividID)
	in, err1 := other.StdinPipe()
	out, err2 := other.StdoutPipe()
	if err := errors.Join(err1, err2, other.Start()); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("the other program: %q, %v", line, err)
	}
	want := fmt.Sprintf("(process %d) has it: end that one", other.Process.Pid)
	if _, err := Open(Config{Device: vividID}); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), want) {
		t.Errorf("held by another program: %v, want %s", err, want)
	}
}

// TestHold is another program that has the camera.
func TestHold(t *testing.T) {
	if os.Getenv("COVEY_HOLD") == "" {
		t.Skip("for TestCameras alone")
	}
	s := open(t, Config{Device: os.Getenv("COVEY_HOLD")})
	defer s.Close()
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
}

func vividControls(t *testing.T) {
	for _, tt := range []struct{ set, want int }{{20, 20}, {200, 200}, {128, 128}} {
		s := open(t, Config{Device: vividID, Controls: map[string]int{"brightness": tt.set}})
		v := controlValue{id: 0x980900}
		if err := ioctl(s.camera.fd, vidGetControl, &v); err != nil || int(v.value) != tt.want {
			t.Errorf("brightness %d: %v %v", tt.set, v, err)
		}
		s.Close()
	}
}

// vivid's controls for errors (vivid-ctrls.c).
const (
	vividBase       = 0x00f0f000
	vividDropped    = vividBase + 64
	vividDisconnect = vividBase + 65
	vividBroken     = vividBase + 66
	vividNoBuffers  = vividBase + 67
	vividNoStart    = vividBase + 69
	vividQueueError = vividBase + 70
)

// trouble asks vivid for an error, through another descriptor.
func trouble(t *testing.T, id uint32, value int32) {
	t.Helper()
	fd, err := unix.Open(vividPath(t), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := ioctl(fd, vidSetControl, &controlValue{id: id, value: value}); err != nil {
		t.Fatal(err)
	}
}

func vividPath(t *testing.T) string {
	t.Helper()
	path, err := find(os.DirFS("/"), vividID)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// until runs Next until it fails otherwise than by a bad frame.
func until(t *testing.T, s *Source, limit time.Duration) (took time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	var f hal.Frame
	for err == nil || errors.Is(err, hal.ErrBadFrame) {
		err = s.Next(ctx, &f)
	}
	return time.Since(began), err
}

func vividErrors(t *testing.T) {
	c := Config{Device: vividID, Width: 320, Height: 180}
	s := open(t, c)
	var f hal.Frame
	next(t, s, &f)
	trouble(t, vividBroken, 0)
	bad := 0
	for range 10 {
		err := s.Next(t.Context(), &f)
		if errors.Is(err, hal.ErrBadFrame) {
			bad++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if bad != 1 {
		t.Errorf("%d bad frames where one was broken", bad)
	}

	trouble(t, vividDropped, 100)
	took, err := until(t, s, 10*time.Second)
	if hal.CodeOf(err) != hal.CodeSourceStalled || took < minQuiet-100*time.Millisecond || took > 4*time.Second {
		t.Errorf("nothing comes: %v after %v", err, took)
	}
	t.Log(err)
	s.Close()
	s = open(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := s.Next(ctx, &f); !errors.Is(err, context.Canceled) {
		t.Errorf("ended while waiting: %v", err)
	}
	trouble(t, vividDropped, 0)
	next(t, s, &f)

	trouble(t, vividQueueError, 0)
	took, err = until(t, s, 10*time.Second)
	if hal.CodeOf(err) != hal.CodeSourceLost || took > time.Second {
		t.Errorf("queue broke: %v after %v", err, took)
	}
	t.Log(err)
	s.Close()

	trouble(t, vividNoBuffers, 0)
	if _, err := Open(c); hal.CodeOf(err) != hal.CodeSource {
		t.Errorf("no buffers: %v", err)
	}
	s = open(t, c)
	trouble(t, vividNoStart, 0)
	if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSource {
		t.Errorf("does not start: %v", err)
	}
	s.Close()
	s = open(t, c)
	next(t, s, &f)
	s.Close()
}

// vividUnplugged: a camera that is gone is told at once, and is back when it is back.
func vividUnplugged(t *testing.T) {
	s := open(t, Config{Device: vividID, Width: 320, Height: 180})
	var f hal.Frame
	next(t, s, &f)
	trouble(t, vividDisconnect, 0)
	took, err := until(t, s, 10*time.Second)
	if hal.CodeOf(err) != hal.CodeSourceLost || took > time.Second {
		t.Errorf("unplugged: %v after %v", err, took)
	}
	t.Log(err)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s = open(t, Config{Device: vividID})
	next(t, s, &f)
	s.Close()
}

// vividReplugged: what comes back has another number, because the old one is still in
// use, and its id finds it.
func vividReplugged(t *testing.T) {
	const driver = "/sys/bus/platform/drivers/vivid/"
	before := vividPath(t)
	s := open(t, Config{Device: vividID, Width: 320, Height: 180})
	defer s.Close()
	var f hal.Frame
	next(t, s, &f)
	if err := os.WriteFile(driver+"unbind", []byte("vivid.0"), 0); err != nil {
		t.Fatal(err)
	}
	took, err := until(t, s, 10*time.Second)
	if hal.CodeOf(err) != hal.CodeSourceLost || took > time.Second {
		t.Errorf("unplugged: %v after %v", err, took)
	}
	if _, err := Open(Config{Device: vividID}); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), "not there") {
		t.Errorf("opened while it is away: %v", err)
	}
	if err := os.WriteFile(driver+"bind", []byte("vivid.0"), 0); err != nil {
		t.Fatal(err)
	}
	if after := vividPath(t); after == before {
		t.Errorf("it is %s again: this test shows nothing", after)
	} else {
		t.Logf("%s, then %s", before, after)
	}
	again := open(t, Config{Device: vividID, Width: 320, Height: 180})
	next(t, again, &f)
	again.Close()
}

// vividFigures is for people: what a frame costs, as far as an emulated machine says.
func vividFigures(t *testing.T) {
	s := open(t, Config{Device: vividID, Format: "yuyv", Width: 1280, Height: 720})
	defer s.Close()
	var f hal.Frame
	next(t, s, &f)
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	first, n := f.Captured, 10
	for range n {
		next(t, s, &f)
	}
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano())
	began := time.Now()
	for range n {
		s.camera.layout.show(s.camera.memory[0], &f)
	}
	t.Logf("%s: %.3g frames a second, %v CPU a frame, of it %v copying", s.Mode(), float64(n)/f.Captured.Sub(first).Seconds(), cpu/time.Duration(n), time.Since(began)/time.Duration(n))
	if allocs := testing.AllocsPerRun(5, func() { next(t, s, &f) }); allocs > 4 {
		t.Errorf("%v allocations a frame", allocs)
	}
}
