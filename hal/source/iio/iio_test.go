package iio

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// machine makes a root with an accelerometer that has a buffer, and a sensor of air
// that is polled. The character device of the first is a pipe.
func machine(t testing.TB) (root string, pipe *os.File) {
	t.Helper()
	root = t.TempDir()
	for file, text := range map[string]string{
		"0/name": "lis3dh", "0/label": "wrist", "0/sampling_frequency": "100",
		"0/in_accel_scale": "0.5", "0/in_accel_z_offset": "10", "0/in_accel_x_raw": "1", "0/in_accel_z_raw": "1",
		"0/scan_elements/in_accel_x_en": "0", "0/scan_elements/in_accel_x_index": "0", "0/scan_elements/in_accel_x_type": "le:s12/16>>4",
		"0/scan_elements/in_accel_z_en": "0", "0/scan_elements/in_accel_z_index": "2", "0/scan_elements/in_accel_z_type": "be:u16/32>>8",
		"0/scan_elements/in_timestamp_en": "0", "0/scan_elements/in_timestamp_index": "3", "0/scan_elements/in_timestamp_type": "le:s64/64>>0",
		"0/buffer/enable": "1", "0/buffer/length": "2", "0/trigger/current_trigger": "", "0/current_timestamp_clock": "monotonic",
		"1/name": "bme280", "1/in_temp_input": "21500", "1/in_pressure_raw": "200", "1/in_pressure_scale": "0.5", "1/in_pressure_offset": "2",
	} {
		number, file, _ := strings.Cut(file, "/")
		dir := filepath.Join(root, "sys/devices/i2c-1/1-007"+number, "iio:device"+number)
		write(t, filepath.Join(dir, file), text)
	}
	write(t, filepath.Join(root, "sys/bus/iio/devices/trigger0/name"), "other-dev9")
	write(t, filepath.Join(root, "sys/bus/iio/devices/trigger1/name"), "lis3dh-dev0")
	write(t, filepath.Join(root, "sys/bus/iio/devices/trigger1/sampling_frequency"), "1")
	for _, n := range []string{"0", "1"} {
		if err := os.Symlink("../../../devices/i2c-1/1-007"+n+"/iio:device"+n, filepath.Join(root, "sys/bus/iio/devices/iio:device"+n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "dev"), 0o700); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(root, "dev/iio:device0")
	if err := unix.Mkfifo(node, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pipe.Close() })
	return root, pipe
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func text(t testing.TB, root, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "sys/bus/iio/devices", file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func open(t testing.TB, c Config) *Source {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// accel is a record of the accelerometer as its types say.
func accel(x int, z uint16, at time.Time) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(int16(x)<<4|7)) // noise below
	b = append(b, 9, 9)                                               // z begins at a multiple of its size
	b = binary.BigEndian.AppendUint32(b, 0xab<<24|uint32(z)<<8|0xcd)
	return binary.LittleEndian.AppendUint64(b, uint64(at.UnixNano()))
}

func TestSource(t *testing.T) {
	haltest.Source(t, func(t *testing.T) hal.Source {
		root, pipe := machine(t)
		s := open(t, Config{Root: root, Device: "wrist", Window: 3, Hop: 1})
		for i := range 10 {
			pipe.Write(accel(i, 1, time.Now()))
		}
		return s
	})
	haltest.Source(t, func(t *testing.T) hal.Source {
		root, _ := machine(t)
		return open(t, Config{Root: root, Device: "bme280", Rate: 500, Window: 10})
	})
}

func TestBuffer(t *testing.T) {
	root, pipe := machine(t)
	s := open(t, Config{Root: root, Device: "lis3dh@1-0070", Channels: []string{"accel_z", "accel_x"}, Rate: 50, Window: 2})
	if s.Polled() != nil {
		t.Fatalf("polled: %v", s.Polled())
	}
	for file, want := range map[string]string{
		"iio:device0/scan_elements/in_accel_x_en": "1", "iio:device0/scan_elements/in_timestamp_en": "1", "iio:device0/buffer/enable": "1",
		"iio:device0/buffer/length": "256", "iio:device0/trigger/current_trigger": "lis3dh-dev0", "trigger1/sampling_frequency": "50",
		"iio:device0/sampling_frequency": "50", "iio:device0/current_timestamp_clock": "realtime",
	} {
		if got := text(t, root, file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	past := time.Now().Add(-time.Second)
	records := append(accel(-3, 500, past), accel(2047, 65535, past.Add(20*time.Millisecond))...)
	pipe.Write(records[:20]) // a piece that is no record
	go func() {
		time.Sleep(time.Millisecond)
		pipe.Write(records[20:])
	}()
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	if want := []float32{255, -1.5, 32772.5, 1023.5}; !slices.Equal(f.Samples, want) {
		t.Errorf("got %v, want %v", f.Samples, want)
	}
	if off := f.Captured.Sub(past.Add(20 * time.Millisecond)); f.Channels != 2 || f.Rate != 50 || off.Abs() > time.Millisecond || f.Seq != 1 {
		t.Errorf("%+v; captured off by %v", f, off)
	}
	s.Close()
	if got := text(t, root, "iio:device0/buffer/enable"); got != "0" {
		t.Errorf("left on: %q", got)
	}
}

func TestBufferFaults(t *testing.T) {
	root, pipe := machine(t)
	s := open(t, Config{Root: root, Device: "wrist"})
	s.quiet = 50 * time.Millisecond
	var f hal.Frame
	if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceStalled || !strings.Contains(err.Error(), "trigger") {
		t.Errorf("silent: %v", err)
	}
	s.quiet = time.Minute
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := s.Next(ctx, &f); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	pipe.Close()
	if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("gone: %v", err)
	}
}

// TestNoTrigger: a buffer that cannot be had is no reason not to measure.
func TestNoTrigger(t *testing.T) {
	root, _ := machine(t)
	for _, n := range []string{"0", "1"} {
		os.RemoveAll(filepath.Join(root, "sys/bus/iio/devices/trigger"+n))
	}
	s := open(t, Config{Root: root, Device: "lis3dh", Channels: []string{"accel_z"}, Rate: 100})
	if s.Polled() == nil || !strings.Contains(s.Polled().Error(), "triggers/hrtimer") {
		t.Errorf("why: %v", s.Polled())
	}
	var f hal.Frame
	if f.Want.Samples = 1; s.Next(t.Context(), &f) != nil || f.Samples[0] != 5.5 {
		t.Errorf("got %v", f.Samples)
	}
}

func TestPolled(t *testing.T) {
	root, _ := machine(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Config{Root: root, Device: "bme280@1-0071", Rate: 10, Window: 5})
		began := time.Now()
		var f hal.Frame
		for range 2 {
			if err := s.Next(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got != 900*time.Millisecond {
			t.Errorf("10 samples took %v", got)
		}
		if f.Channels != 2 || f.Rate != 10 || !slices.Equal(f.Samples[:2], []float32{101, 21500}) {
			t.Errorf("got %+v", f)
		}
		file := filepath.Join(root, "sys/bus/iio/devices/iio:device1/in_temp_input")
		write(t, file, "warm")
		if err := s.Next(t.Context(), &f); !errors.Is(err, hal.ErrBadFrame) || !strings.Contains(err.Error(), `in_temp_input says "warm"`) {
			t.Errorf("bad: %v", err)
		}
		bad := 0
		for err := error(hal.ErrBadFrame); errors.Is(err, hal.ErrBadFrame); bad++ {
			if err = s.Next(t.Context(), &f); !errors.Is(err, hal.ErrBadFrame) && hal.CodeOf(err) != hal.CodeSourceLost {
				t.Fatal(err)
			}
		}
		if bad != mostFaults-1 {
			t.Errorf("lost after %d more", bad)
		}
		os.Remove(file)
		if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceLost {
			t.Errorf("gone: %v", err)
		}
	})
}

func TestRefused(t *testing.T) {
	root, _ := machine(t)
	for _, tt := range []struct {
		c    Config
		code hal.Code
		want string
	}{
		{Config{Device: "none"}, hal.CodeSource, `["lis3dh@1-0070" "bme280@1-0071"]`},
		{Config{Device: "none", Root: t.TempDir()}, hal.CodeSource, "there are no IIO devices"},
		{Config{Device: "bme280", Channels: []string{"accel_x"}}, hal.CodeSource, `no channel "accel_x", but ["pressure" "temp"]`},
		{Config{Device: "bme280", Rate: -1}, hal.CodeConfig, "-1 samples"},
		{Config{Device: "bme280", Window: -1}, hal.CodeConfig, "window of -1"},
	} {
		if tt.c.Root == "" {
			tt.c.Root = root
		}
		if _, err := Open(tt.c); hal.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.c, err)
		}
	}
	write(t, filepath.Join(root, "sys/bus/iio/devices/iio:device0/name"), "bme280")
	if _, err := Open(Config{Device: "bme280", Root: root}); err == nil || !strings.Contains(err.Error(), "2 devices have this name") {
		t.Errorf("two of a name: %v", err)
	}
}

func TestProbe(t *testing.T) {
	root, _ := machine(t)
	want := []hal.Input{
		{Source: "iio", ID: "lis3dh@1-0070", Name: "wrist (lis3dh)", Detail: "accel_x accel_z"},
		{Source: "iio", ID: "bme280@1-0071", Name: "bme280", Detail: "pressure temp"},
	}
	if got := Probe(os.DirFS(root)); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestTypes(t *testing.T) {
	for _, tt := range []struct {
		kind   string
		stored []byte
		want   int64
	}{
		{"le:s8/8>>0", []byte{0xff}, -1}, {"le:u8/8>>0", []byte{0xff}, 255}, {"be:s12/16>>4", []byte{0x80, 0x0f}, -2048},
		{"le:u24/32>>8", []byte{9, 1, 2, 3}, 0x030201}, {"be:s64/64>>0", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}, -2},
	} {
		var e element
		if err := e.parseType(tt.kind); err != nil {
			t.Errorf("%s: %v", tt.kind, err)
		} else if got := e.raw(tt.stored); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.kind, got, tt.want)
		}
	}
	for _, kind := range []string{"", "le:s12/16", "xe:s12/16>>4", "le:f32/32>>0", "le:s12/24>>0", "le:s17/16>>0", "le:s12/16>>5", "le:s0/16>>0", "le:s12/16>>-1", "le:s32/32X4>>0"} {
		if err := new(element).parseType(kind); err == nil {
			t.Errorf("%q was taken", kind)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("le:s12/16>>4", "be:u16/32>>8", 0, 1, []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, a, b string, i, j int, stored []byte) {
		x, y := element{index: i, scale: .1}, element{index: j, scale: 1e300}
		if x.parseType(a) != nil || y.parseType(b) != nil {
			return
		}
		stamp := element{index: 99, big: true, bits: 64, storage: 64}
		r, err := layout([]element{x, y}, &stamp)
		if err != nil {
			return
		}
		if r.size < (x.storage+y.storage+64)/8 || r.size > 24 || r.size%8 != 0 {
			t.Fatalf("record of %d bytes for %q %q", r.size, a, b)
		}
		for ; len(stored) >= r.size; stored = stored[r.size:] {
			v, _ := r.parse(nil, stored[:r.size])
			if len(v) != 2 || v[0]-v[0] != 0 || v[1]-v[1] != 0 {
				t.Fatal(v)
			}
			if e := r.elements[0]; e.bits < 64 && !e.signed && e.raw(stored) >= 1<<e.bits {
				t.Fatalf("%d of %s", e.raw(stored), a)
			}
		}
	})
}
