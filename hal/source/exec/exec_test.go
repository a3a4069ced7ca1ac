package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

func open(t testing.TB, c Config) *Source {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// sh is a script as a program.
func sh(script string, format Format, w, h int) Config {
	return Config{Program: []string{"/bin/sh", "-c", script}, Format: format, Width: w, Height: h, Name: "script"}
}

// ffmpeg makes a test picture in a format.
func ffmpeg(size string, arguments ...string) []string {
	return append([]string{"ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", "testsrc2=rate=50:size=" + size}, append(arguments, "pipe:1")...)
}

func needFFmpeg(t testing.TB) {
	if _, err := osexec.LookPath("ffmpeg"); err != nil {
		t.Fatal("no ffmpeg: sudo apt-get install ffmpeg")
	}
}

func TestSuite(t *testing.T) {
	needFFmpeg(t)
	for _, c := range []Config{
		{Program: ffmpeg("65x49", "-f", "mjpeg"), Format: MJPEG},
		{Program: ffmpeg("65x49", "-f", "yuv4mpegpipe"), Format: Y4M},
		{Program: ffmpeg("66x49", "-f", "yuv4mpegpipe", "-pix_fmt", "yuv422p"), Format: Y4M},
		{Program: ffmpeg("66x49", "-f", "yuv4mpegpipe", "-pix_fmt", "yuv444p"), Format: Y4M},
		{Program: ffmpeg("66x49", "-f", "yuv4mpegpipe", "-pix_fmt", "gray"), Format: Y4M},
		{Program: ffmpeg("65x49", "-f", "rawvideo", "-pix_fmt", "rgb24"), Format: RGB, Width: 65, Height: 49},
		{Program: ffmpeg("65x49", "-f", "rawvideo", "-pix_fmt", "gray"), Format: Gray, Width: 65, Height: 49},
		{Program: ffmpeg("65x49", "-f", "rawvideo", "-pix_fmt", "yuv420p"), Format: I420, Width: 65, Height: 49, Limited: true},
		{Program: ffmpeg("66x50", "-f", "rawvideo", "-pix_fmt", "nv12"), Format: NV12, Width: 66, Height: 50},
		{Program: ffmpeg("66x49", "-f", "rawvideo", "-pix_fmt", "yuyv422"), Format: YUYV, Width: 66, Height: 49},
	} {
		t.Run(string(c.Format), func(t *testing.T) {
			t.Parallel()
			haltest.Source(t, func(t *testing.T) hal.Source { return open(t, c) })
		})
	}
}

// A red picture is red in every format: no plane is taken for another, no row slips.
func TestColour(t *testing.T) {
	needFFmpeg(t)
	red := func(arguments ...string) []string {
		return append([]string{"ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "color=red:size=34x18"}, append(arguments, "pipe:1")...)
	}
	for _, tt := range []struct {
		c       Config
		want    [3]int // first value of each plane; of packed formats the first three values
		limited bool
	}{
		{Config{Program: red("-f", "yuv4mpegpipe", "-pix_fmt", "yuv420p"), Format: Y4M}, [3]int{81, 90, 240}, true},
		{Config{Program: red("-f", "yuv4mpegpipe", "-pix_fmt", "yuvj420p"), Format: Y4M}, [3]int{76, 85, 255}, false},
		{Config{Program: red("-f", "rawvideo", "-pix_fmt", "yuv420p"), Format: I420, Limited: true}, [3]int{81, 90, 240}, true},
		{Config{Program: red("-f", "rawvideo", "-pix_fmt", "nv12"), Format: NV12, Limited: true}, [3]int{81, 90, 0}, true},
		{Config{Program: red("-f", "rawvideo", "-pix_fmt", "yuyv422"), Format: YUYV, Limited: true}, [3]int{81, 90, 81}, true},
		{Config{Program: red("-f", "rawvideo", "-pix_fmt", "rgb24"), Format: RGB}, [3]int{254, 0, 0}, false},
	} {
		t.Run(string(tt.c.Format), func(t *testing.T) {
			tt.c.Width, tt.c.Height = 34, 18
			s := open(t, tt.c)
			var f hal.Frame
			for range 3 {
				if err := s.Next(t.Context(), &f); err != nil {
					t.Fatal(err)
				}
			}
			first := func(y int) (v [3]int) {
				row := f.Planes[0][y*f.Strides[0]:]
				if f.Format == hal.FormatRGB || f.Format == hal.FormatYUYV {
					return [3]int{int(row[0]), int(row[1]), int(row[2])}
				}
				for i, p := range f.Planes {
					if len(p) > 0 {
						v[i] = int(p[y/2*f.Strides[i]])
					}
				}
				return v
			}
			for _, y := range []int{0, 16} {
				for i, v := range first(y) {
					if v < tt.want[i]-2 || v > tt.want[i]+2 {
						t.Errorf("row %d: got %v, want %v", y, first(y), tt.want)
						break
					}
				}
			}
			if f.Limited != tt.limited {
				t.Errorf("limited %v", f.Limited)
			}
		})
	}
}

// Who comes late gets what is new: pictures are numbered by their grey.
func TestNewest(t *testing.T) {
	s := open(t, sh(`i=1; while [ $i -lt 250 ]; do printf "\\$(printf %o $i)%.0s" 1 2 3 4; i=$((i+1)); sleep 0.02; done; sleep 9`, Gray, 2, 2))
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	first, at := int(f.Planes[0][0]), f.Captured
	time.Sleep(700 * time.Millisecond)
	asked := time.Now()
	if err := s.Next(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	if got := int(f.Planes[0][0]) - first; got < 8 || asked.Sub(f.Captured) > 200*time.Millisecond || !f.Captured.After(at) {
		t.Errorf("%d pictures on, captured %v before it was asked for", got, asked.Sub(f.Captured))
	}
}

// Of pictures that come too soon none is given, and their times may shake.
func TestPace(t *testing.T) {
	c := sh(`printf 1111; printf 2222; printf 3333`, Gray, 2, 2)
	c.FPS = 1
	s := open(t, c)
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil || f.Planes[0][0] != '1' {
		t.Fatalf("got %q, %v", f.Planes[0], err)
	}
	if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("got %q, %v", f.Planes[0], err)
	}
	for _, tt := range []struct {
		fps          float64
		every, shake time.Duration
		want         int // of 100
	}{
		{0, time.Millisecond, 0, 100}, {10, 100 * time.Millisecond, 9 * time.Millisecond, 100}, {25, 10 * time.Millisecond, time.Millisecond, 25},
		{10, 40 * time.Millisecond, 0, 40}, {30, time.Second, 0, 100},
	} {
		p, begin, got := pace{fps: tt.fps}, time.Now(), 0
		for i := range 100 {
			if !p.early(begin.Add(time.Duration(i)*tt.every + time.Duration(i%3-1)*tt.shake)) {
				got++
			}
		}
		if got < tt.want-1 || got > tt.want+1 {
			t.Errorf("%+v: got %d", tt, got)
		}
	}
}

// lost reads until the source ends.
func lost(t *testing.T, s *Source) error {
	t.Helper()
	var f hal.Frame
	for {
		if err := s.Next(t.Context(), &f); err != nil && !errors.Is(err, hal.ErrBadFrame) {
			return err
		}
	}
}

func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Config
		code hal.Code
		text string
	}{
		{"status", sh(`printf 1234; echo first >&2; echo "no such  camera" >&2; exit 3`, Gray, 2, 2), hal.CodeSourceLost, "script has ended with status 3: no such  camera"},
		{"without a word", sh(`exit 0`, Gray, 2, 2), hal.CodeSourceLost, "script has ended with status 0"},
		{"without a line end", sh(`printf why >&2`, Gray, 2, 2), hal.CodeSourceLost, "status 0: why"},
		{"signal", sh(`kill -SEGV $$`, Gray, 2, 2), hal.CodeSourceLost, "script was ended by SIGSEGV"},
		{"within a picture", sh(`printf 123`, Gray, 2, 2), hal.CodeSourceLost, "status 0"},
		{"holds its output", sh(`setsid sleep 5 & sleep 0.1; exit 4`, Gray, 2, 2), hal.CodeSourceLost, "status 4"},
		{"silent", sh(`echo waiting >&2; sleep 9`, Gray, 2, 2), hal.CodeSourceStalled, "script gave no picture for 300ms and was killed: waiting"},
		{"stalls", sh(`printf 1234; sleep 9`, Gray, 2, 2), hal.CodeSourceStalled, "gave no picture"},
		{"no YUV4MPEG2", sh(`echo hello; sleep 9`, Y4M, 0, 0), hal.CodeSourceLost, `wrote "hello" instead of a YUV4MPEG2 stream, and was killed`},
		{"no line", sh(`head -c 100000 /dev/zero; sleep 9`, Y4M, 0, 0), hal.CodeSourceLost, "no YUV4MPEG2 stream"},
		{"no frame", sh(`echo "YUV4MPEG2 W2 H2 Cmono"; echo FRAME; printf 1234; echo FRAMES; sleep 9`, Y4M, 0, 0), hal.CodeSourceLost, `"FRAMES" where a picture begins`},
		{"10 bits", sh(`echo "YUV4MPEG2 W2 H2 C420p10"; sleep 9`, Y4M, 0, 0), hal.CodeSourceLost, "8 bits"},
		{"huge", sh(`echo "YUV4MPEG2 W100000 H100000"; sleep 9`, Y4M, 0, 0), hal.CodeSourceLost, "megapixels"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.code == hal.CodeSourceStalled {
				tt.c.Stall = 300 * time.Millisecond
			}
			began := time.Now()
			err := lost(t, open(t, tt.c))
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("took %v", took)
			}
			if hal.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %s … %s", err, tt.code, tt.text)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Format: MJPEG}, "without a program"},
		{Config{Format: MJPEG, Program: []string{"ffmpeg"}}, "program ffmpeg is not installed: sudo apt-get install ffmpeg"},
		{Config{Format: MJPEG, Program: []string{"frobnicate"}}, "program frobnicate: executable file not found in $PATH: install it"},
		{Config{Format: MJPEG, Program: []string{file}}, "permission denied"},
		{Config{Format: "h264", Program: []string{"/bin/sh"}}, `format "h264": give mjpeg`},
		{Config{Format: RGB, Program: []string{"/bin/sh"}}, "0×0 pixels"},
		{Config{Format: RGB, Program: []string{"/bin/sh"}, Width: 1 << 20, Height: 1 << 20}, "megapixels"},
		{Config{Format: YUYV, Program: []string{"/bin/sh"}, Width: 3, Height: 2}, "even"},
		{Config{Format: MJPEG, Program: []string{"/bin/sh"}, Stall: -1}, "more than 0 s"},
		{Config{Format: MJPEG, Program: []string{"/bin/sh"}, FPS: -1}, "0 to 1000"},
	} {
		s, err := Open(t.Context(), tt.c)
		if err == nil {
			s.Close()
		}
		if hal.CodeOf(err) != hal.CodeSource || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%+v: got %v", tt.c, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// alive says whether a process is there and not a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// The whole group ends, also when it does not want to.
func TestGroup(t *testing.T) {
	for name, trap := range map[string]string{"willing": "", "deaf": "trap '' TERM; "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			s := open(t, sh(trap+`sleep 100 & echo $! > `+file+`.new; mv `+file+`.new `+file+`; while :; do printf 1234; sleep 0.05; done`, Gray, 2, 2))
			if err := s.Next(t.Context(), new(hal.Frame)); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			child, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil || !alive(child) {
				t.Fatalf("child %d: %v", child, err)
			}
			began := time.Now()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); (name == "deaf") != (took >= graceful) || took > graceful+stubborn {
				t.Errorf("took %v", took)
			}
			for end := time.Now().Add(5 * time.Second); alive(child) && time.Now().Before(end); {
				time.Sleep(time.Millisecond) // it is killed already; init has to reap it
			}
			if alive(child) {
				t.Error("what the program started is still there")
			}
		})
	}
}

// What a program leaves behind when it ends by itself ends, too.
func TestLeftBehind(t *testing.T) {
	s := open(t, sh(`sleep 100 >&2 & echo $! >&2; exit 1`, Gray, 2, 2))
	err := lost(t, s)
	_, pid, _ := strings.Cut(err.Error(), "status 1: ")
	child, bad := strconv.Atoi(pid)
	if bad != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); alive(child) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if alive(child) {
		t.Error("it is still there")
	}
}

// A program gets no secrets of ours.
func TestEnvironment(t *testing.T) {
	t.Setenv("COVEY_SECRET", "hush")
	c := sh(`env >&2; pwd >&2; printf 1234; sleep 9`, Gray, 2, 2)
	var mutex sync.Mutex
	var lines []string
	c.Log = func(line string) {
		mutex.Lock()
		defer mutex.Unlock()
		lines = append(lines, line)
	}
	c.Env = []string{"EXTRA=1"}
	s := open(t, c)
	if err := s.Next(t.Context(), new(hal.Frame)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	mutex.Lock()
	defer mutex.Unlock()
	all := strings.Join(lines, "\n")
	if strings.Contains(all, "hush") || !strings.Contains(all, "EXTRA=1") || !strings.HasSuffix(all, "/") {
		t.Errorf("it got\n%s", all)
	}
}

// A program that floods its standard error costs nothing.
func TestSaid(t *testing.T) {
	logged := 0
	s := newSaid([]string{"hu:sh", ""}, func(line string) {
		logged++
		if strings.Contains(line, "hu:sh") || len(line) > maxLine+3 {
			t.Errorf("logged %q", line)
		}
	})
	for range 1000 {
		s.Write([]byte("rtsp://admin:hu:"))
		s.Write([]byte("sh@host failed\r\x1b[31mred\n\n" + strings.Repeat("x", 499) + "hu:sh" + strings.Repeat("y", 9000) + "\n"))
	}
	if logged != perMinute+1 {
		t.Errorf("%d lines logged", logged)
	}
	if len(s.raw) > maxRaw || len(s.last()) > maxLine+3 {
		t.Errorf("keeps %d and %d bytes", len(s.raw), len(s.last()))
	}
	s.Write([]byte("rtsp://admin:hu:sh@host: bad\x1b\xff"))
	s.flush()
	if s.last() != "rtsp://admin:***@host: bad" {
		t.Errorf("last is %q", s.last())
	}
}

// FuzzY4M: a first line is refused, or pictures have a size within the limit.
func FuzzY4M(f *testing.F) {
	f.Add("YUV4MPEG2 W640 H480 F25:1 Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL")
	f.Add("YUV4MPEG2 W1 H1 Cmono")
	f.Add("YUV4MPEG2 W4294967296 H4294967296") // their product is 0
	f.Add("YUV4MPEG2  W-1 H9999999999999999999")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := parseY4M(line)
		if err != nil {
			return
		}
		if n := s.size(); n <= 0 || n > 3<<24 || s.strides[0] != s.width {
			t.Fatalf("%+v has %d bytes", s, n)
		}
	})
}
