package gpio

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// TestABI: numbers and places as a C compiler has them (gcc, linux/gpio.h of 6.1).
func TestABI(t *testing.T) {
	var r lineRequest
	var i lineInfo
	for _, tt := range []struct {
		name      string
		got, want uintptr
	}{
		{"chip info", unsafe.Sizeof(chipInfo{}), 68}, {"line info", unsafe.Sizeof(i), 256}, {"request", unsafe.Sizeof(r), 592},
		{"values", unsafe.Sizeof(lineValues{}), 16}, {"config", unsafe.Sizeof(r.config), 272}, {"attribute", unsafe.Sizeof(r.config.attrs[0]), 24},
		{"request.consumer", unsafe.Offsetof(r.consumer), 256}, {"request.config", unsafe.Offsetof(r.config), 288},
		{"request.num_lines", unsafe.Offsetof(r.lines), 560}, {"request.event_buffer_size", unsafe.Offsetof(r.bufferSize), 564},
		{"request.fd", unsafe.Offsetof(r.fd), 588}, {"config.attrs", unsafe.Offsetof(r.config.attrs), 32},
		{"attribute.mask", unsafe.Offsetof(r.config.attrs[0].mask), 16}, {"attribute.value", unsafe.Offsetof(r.config.attrs[0].value), 8},
		{"info.offset", unsafe.Offsetof(i.offset), 64}, {"info.flags", unsafe.Offsetof(i.flags), 72}, {"info.attrs", unsafe.Offsetof(i.attrs), 80},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, tt.got, tt.want)
		}
	}
	number := func(dir, nr, size uintptr) uintptr { return dir<<30 | size<<16 | 0xb4<<8 | nr }
	for name, ok := range map[string]bool{
		"GPIO_GET_CHIPINFO_IOCTL":       ioctlChipInfo == number(2, 1, unsafe.Sizeof(chipInfo{})),
		"GPIO_V2_GET_LINEINFO_IOCTL":    ioctlLineInfo == number(3, 5, unsafe.Sizeof(lineInfo{})),
		"GPIO_V2_GET_LINE_IOCTL":        ioctlGetLine == number(3, 7, unsafe.Sizeof(lineRequest{})),
		"GPIO_V2_LINE_GET_VALUES_IOCTL": ioctlGetValues == number(3, 14, unsafe.Sizeof(lineValues{})),
	} {
		if !ok {
			t.Errorf("%s has another number", name)
		}
	}
}

func TestRequest(t *testing.T) {
	r := newRequest([]uint32{17, 4}, flagInput|flagPullUp, 5*time.Millisecond)
	a := r.config.attrs[0]
	if r.lines != 2 || r.offsets[0] != 17 || r.offsets[1] != 4 || text(r.consumer) != "covey" || r.config.flags != 0x104 ||
		r.config.attributes != 1 || a.id != 3 || a.mask != 3 || binary.NativeEndian.Uint32(a.value[:]) != 5000 {
		t.Errorf("%+v", r)
	}
	if r := newRequest(make([]uint32, 64), flagInput, 0); r.config.attributes != 0 || r.lines != 64 {
		t.Errorf("%+v", r)
	}
}

// lines is a source whose events come through a pipe.
func lines(t testing.TB) (*Source, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return &Source{c: Config{Device: "test"}, offsets: []uint32{17, 4}, file: r, edges: true, opened: time.Now()}, w
}

// edge is the bytes of an event as the kernel gives them.
func edge(offset uint32, id uint32, seq uint32, at time.Duration) []byte {
	b := binary.NativeEndian.AppendUint64(nil, uint64(at))
	for _, v := range []uint32{id, offset, seq, seq} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return append(b, make([]byte, 24)...)
}

func monotonic(t testing.TB) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

func TestSource(t *testing.T) {
	haltest.Source(t, func(t *testing.T) hal.Source {
		s, w := lines(t)
		for i := range uint32(8) {
			w.Write(edge(17, 1+i%2, i+1, monotonic(t)))
		}
		return s
	})
}

// TestEdges: the state at each edge, with its time; what the kernel dropped is
// counted.
func TestEdges(t *testing.T) {
	s, w := lines(t)
	now := monotonic(t)
	w.Write(slices.Concat(edge(17, 1, 1, now-3*time.Second), edge(4, 1, 2, now-2*time.Second), edge(99, 1, 3, now), edge(17, 2, 6, now-time.Second)))
	var f hal.Frame
	for i, want := range []struct {
		samples []float32
		ago     time.Duration
	}{{[]float32{0, 0}, 0}, {[]float32{1, 0}, 3 * time.Second}, {[]float32{1, 1}, 2 * time.Second}, {[]float32{1, 1}, 0}, {[]float32{0, 1}, time.Second}} {
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		if off := time.Since(f.Captured) - want.ago; !slices.Equal(f.Samples, want.samples) || off < 0 || off > 900*time.Millisecond || f.Channels != 2 || f.Seq != uint64(i+1) {
			t.Errorf("frame %d: %v, off by %v", i, f.Samples, off)
		}
	}
	if s.Dropped() != 2 {
		t.Errorf("%d dropped", s.Dropped())
	}
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := s.Next(ctx, &f); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	w.Close()
	if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("unplugged: %v", err)
	}
}

// On a chip that is polled an edge that is undone too soon is none, whatever other
// lines do.
func TestDebounce(t *testing.T) {
	for debounce, want := range map[time.Duration]string{0: "00 01 11 10 00 01", 30 * time.Millisecond: "00 01 00"} {
		s := &Source{c: Config{Debounce: debounce}, offsets: []uint32{17, 4}}
		got, now := "00", time.Now()
		// Line 17 goes on and off, line 4 only for a moment meanwhile, then line 17 once more.
		for _, values := range []uint64{0, 1, 1, 1, 1, 3, 3, 2, 0, 0, 0, 0, 1} {
			now = now.Add(10 * time.Millisecond)
			if settled := s.settle(values, now); settled != s.values {
				s.values = settled
				got += fmt.Sprintf(" %02b", settled)
			}
		}
		if got != want {
			t.Errorf("%v: got %s, want %s", debounce, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "chip")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one := []string{"1"}
	for _, tt := range []struct {
		c    Config
		code hal.Code
		want string
	}{
		{Config{Device: "x"}, hal.CodeConfig, "0 lines of x"},
		{Config{Device: "x", Lines: make([]string, 65)}, hal.CodeConfig, "65 lines"},
		{Config{Device: "x", Lines: one, Bias: "up"}, hal.CodeConfig, "pull-up, pull-down or none"},
		{Config{Device: "x", Lines: one, Debounce: -1}, hal.CodeConfig, "debounce"},
		{Config{Device: "no-such-chip", Lines: one}, hal.CodeSource, "no such chip"},
		{Config{Device: file, Lines: one}, hal.CodeSource, "no GPIO chip"},
	} {
		if _, err := Open(tt.c); hal.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.c, err)
		}
	}
	for err, want := range map[error]string{unix.EBUSY: "gpioinfo", unix.EACCES: "usermod -aG gpio covey", unix.EIO: "input/output"} {
		if got := explain(err); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

func TestProbe(t *testing.T) {
	got := Probe(fstest.MapFS{"dev/gpiochip0": {}, "dev/gpiochip1": {}, "dev/null": {}})
	if len(got) != 2 || got[0].ID != "gpiochip0" || got[0].Source != "gpio" || got[0].Detail == "" {
		t.Errorf("%+v", got)
	}
	if got := Probe(fstest.MapFS{}); got != nil {
		t.Errorf("nothing there: %+v", got)
	}
}

// FuzzEvents: whatever bytes come, a frame has as many samples as there are lines,
// each 0 or 1.
func FuzzEvents(f *testing.F) {
	f.Add(edge(17, 1, 1, 5))
	f.Add(append(edge(4, 2, 9, 5), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, w := lines(t)
		if len(b) > 4096 {
			return
		}
		w.Write(b)
		w.Close()
		var frame hal.Frame
		n := 0
		for s.Next(t.Context(), &frame) == nil {
			n++
			for _, v := range frame.Samples {
				if v != 0 && v != 1 || len(frame.Samples) != 2 {
					t.Fatal(frame.Samples)
				}
			}
		}
		if n > len(b)/eventSize+1 {
			t.Fatalf("%d frames of %d bytes", n, len(b))
		}
	})
}
