package signal

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
)

func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		shape       []int
		channels    int
		samples, of int
		planar      bool
		refused     string
	}{
		{shape: []int{15600}, samples: 15600, of: 1},
		{shape: []int{1, 144000}, samples: 144000, of: 1},
		{shape: []int{1, 1, 512}, samples: 512, of: 1},
		{shape: []int{1, 128, 6}, samples: 128, of: 6},
		{shape: []int{1, 3, 200}, samples: 200, of: 3, planar: true},
		{shape: []int{1, 200, 1, 3}, samples: 200, of: 3},
		{shape: []int{1, 3, 10}, channels: 10, samples: 3, of: 10},
		{shape: []int{1, 375}, channels: 3, samples: 125, of: 3},
		{shape: []int{1}, samples: 1, of: 1},
		{shape: nil, samples: 1, of: 1},
		{shape: []int{1, 375}, channels: 2, refused: "does not take 2 channels"},
		{shape: []int{1, 20, 3}, channels: 2, refused: "does not take 2 channels"},
		{shape: []int{1, 20}, channels: -1, refused: "does not take"},
		{shape: []int{1, 224, 224, 3}, refused: "no window of samples"},
		{shape: []int{-1}, refused: "have to be known"},
		{shape: []int{0, 5}, refused: "have to be known"},
		{shape: []int{1 << 20, 1 << 20}, refused: "too large"},
		{shape: []int{math.MaxInt, math.MaxInt}, refused: "too large"},
	} {
		info := hal.TensorInfo{Name: "x", Type: hal.Float32, Shape: tt.shape}
		samples, of, planar, err := layout(info, tt.channels)
		if tt.refused != "" {
			if hal.CodeOf(err) != hal.CodeShape || !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("%v: %v", tt.shape, err)
			}
			continue
		}
		if err != nil || samples != tt.samples || of != tt.of || planar != tt.planar {
			t.Errorf("%v of %d: %d samples of %d, planar %v, %v", tt.shape, tt.channels, samples, of, planar, err)
		}
	}
}

// TestFill: every type, layout and scale, against one value at a time in exact
// arithmetic.
func TestFill(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	types := []hal.DType{hal.Float32, hal.Float16, hal.Int8, hal.Uint8, hal.Int16}
	shapes := [][]int{{40}, {1, 40}, {1, 1, 40}, {1, 20, 2}, {1, 2, 20}, {20, 1, 2}}
	for range 3000 {
		info := hal.TensorInfo{Type: types[rnd.IntN(len(types))], Shape: shapes[rnd.IntN(len(shapes))]}
		var o Options
		if rnd.IntN(2) == 0 {
			info.Quant = hal.Quant{Scale: []float32{rnd.Float32()*.1 + .001}, ZeroPoint: []int32{rnd.Int32N(256) - 128}}
		}
		if rnd.IntN(2) == 0 {
			o.Scale = 32768
		}
		f, err := NewFiller(info, o)
		if err != nil {
			t.Fatal(err)
		}
		for range rnd.IntN(3) {
			o.Mean = append(o.Mean, rnd.Float32())
		}
		if len(o.Mean) == f.channels || len(o.Mean) == 1 {
			o.Std = []float32{rnd.Float32() + .5}
		} else {
			o.Mean = nil
		}
		if f, err = NewFiller(info, o); err != nil {
			t.Fatal(err)
		}
		frame := &hal.Frame{Channels: f.channels, Samples: make([]float32, 40)}
		for i := range frame.Samples {
			frame.Samples[i] = rnd.Float32()*2.2 - 1.1
		}
		size := info.Type.Size()
		dst := make([]byte, 40*size)
		if err := f.Fill(dst, frame); err != nil {
			t.Fatal(err)
		}
		for i, v := range frame.Samples {
			s, c := i/f.channels, i%f.channels
			at := i
			if len(info.Shape) == 3 && info.Shape[1] == 2 {
				at = c*20 + s
			}
			got, want := load(info.Type, dst[at*size:]), plain(info, o, v, c, f.channels)
			// Reals are made in float32, so a value that is next to a tie may go the other way.
			tolerance := 1.0
			switch info.Type {
			case hal.Float32:
				tolerance = math.Abs(want)*1e-5 + 1e-6*max(1, float64(o.Scale))
			case hal.Float16:
				tolerance = math.Abs(want)*1e-3 + 1e-6*max(1, float64(o.Scale))
			}
			if math.Abs(got-want) > tolerance && !(math.IsInf(got, 0) && math.Abs(want) > 65504) {
				t.Fatalf("%v %v %+v: sample %d %v is stored as %v, want %v", info.Shape, info.Type, o, i, v, got, want)
			}
		}
	}
}

func load(t hal.DType, b []byte) float64 {
	switch t {
	case hal.Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case hal.Float16:
		return unhalf(binary.LittleEndian.Uint16(b))
	case hal.Int8:
		return float64(int8(b[0]))
	case hal.Uint8:
		return float64(b[0])
	}
	return float64(int16(binary.LittleEndian.Uint16(b)))
}

func unhalf(h uint16) float64 {
	sign := 1 - 2*float64(h>>15)
	exp, frac := int(h>>10&31), float64(h&1023)
	switch {
	case exp == 31 && frac != 0:
		return math.NaN()
	case exp == 31:
		return sign * math.Inf(1)
	case exp == 0:
		return sign * math.Ldexp(frac, -24)
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

func plain(info hal.TensorInfo, o Options, v float32, c, channels int) float64 {
	real := float64(v)
	if o.Scale != 0 {
		real *= float64(o.Scale)
	}
	if m, ok := perChannel(o.Mean, c, channels, 0); ok {
		real -= float64(m)
	}
	if s, ok := perChannel(o.Std, c, channels, 1); ok {
		real /= float64(s)
	}
	scale, zero, lo, hi := 1/128., 0., -128., 127.
	switch info.Type {
	case hal.Float32, hal.Float16:
		return real
	case hal.Uint8:
		zero, lo, hi = 128, 0, 255
	case hal.Int16:
		scale, lo, hi = 1/32768., -32768, 32767
	}
	if len(info.Quant.Scale) > 0 {
		scale, zero = float64(info.Quant.Scale[0]), float64(info.Quant.ZeroPoint[0])
	}
	return max(lo, min(hi, math.RoundToEven(real/scale)+zero))
}

// TestExact: numbers that leave no doubt.
func TestExact(t *testing.T) {
	for _, tt := range []struct {
		info hal.TensorInfo
		o    Options
		v    float32
		want float64
	}{
		{hal.TensorInfo{Type: hal.Int16}, Options{}, -1, -32768},
		{hal.TensorInfo{Type: hal.Int16}, Options{}, 1, 32767},
		{hal.TensorInfo{Type: hal.Int16}, Options{}, 1. / 32768, 1},
		{hal.TensorInfo{Type: hal.Int8}, Options{}, .5, 64},
		{hal.TensorInfo{Type: hal.Uint8}, Options{}, 0, 128},
		{hal.TensorInfo{Type: hal.Uint8}, Options{}, -2, 0},
		{hal.TensorInfo{Type: hal.Float32}, Options{Scale: 32768}, -.5, -16384},
		{hal.TensorInfo{Type: hal.Float32}, Options{Mean: []float32{3}, Std: []float32{2}}, 7, 2},
		{hal.TensorInfo{Type: hal.Int8, Quant: hal.Quant{Scale: []float32{.5}, ZeroPoint: []int32{-3}}}, Options{}, 10, 17},
		{hal.TensorInfo{Type: hal.Int8}, Options{}, float32(math.NaN()), 0},
		{hal.TensorInfo{Type: hal.Uint8}, Options{}, float32(math.Inf(1)), 255},
	} {
		f, err := NewFiller(tt.info, tt.o)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, tt.info.Type.Size())
		if err := f.Fill(dst, &hal.Frame{Channels: 1, Samples: []float32{tt.v}}); err != nil {
			t.Fatal(err)
		}
		if got := load(tt.info.Type, dst); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}

// TestHalf: every float16 goes there and back, and what is between two goes to the
// nearer one.
func TestHalf(t *testing.T) {
	for h := range uint16(0x7c00) {
		v := unhalf(h)
		if got := half(float32(v)); got != h {
			t.Fatalf("%v: %#x, want %#x", v, got, h)
		}
		if got := half(float32(-v)); got != h|0x8000 {
			t.Fatalf("%v: %#x", -v, got)
		}
		next := 65536.
		if h < 0x7bff {
			next = unhalf(h + 1)
		}
		middle := float32((v + next) / 2)
		if got := half(middle); got != h+h&1 {
			t.Fatalf("%v, between %#x and the next: %#x", middle, h, got)
		}
		if got := half(math.Nextafter32(middle, 0)); got != h {
			t.Fatalf("just below %v: %#x, want %#x", middle, got, h)
		}
	}
	for v, want := range map[float64]uint16{math.Inf(1): 0x7c00, math.Inf(-1): 0xfc00, 65520: 0x7c00, 1e30: 0x7c00, math.NaN(): 0x7e00} {
		if got := half(float32(v)); got != want {
			t.Errorf("%v: %#x", v, got)
		}
	}
}

func TestFillRefused(t *testing.T) {
	info := hal.TensorInfo{Name: "audio", Type: hal.Float32, Shape: []int{1, 100, 3}}
	for _, tt := range []struct {
		info hal.TensorInfo
		o    Options
	}{
		{hal.TensorInfo{Type: hal.Int32, Shape: []int{5}}, Options{}},
		{hal.TensorInfo{Type: hal.String, Shape: []int{5}}, Options{}},
		{info, Options{Std: []float32{0}}},
		{info, Options{Mean: []float32{1, 2}}},
		{info, Options{Scale: float32(math.NaN())}},
		{info, Options{Channels: 7}},
	} {
		if _, err := NewFiller(tt.info, tt.o); hal.CodeOf(err) != hal.CodeShape {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	f, err := NewFiller(info, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		n     int
		frame hal.Frame
		want  string
	}{
		{1200, hal.Frame{Format: hal.FormatRGB}, "gives pictures"},
		{1200, hal.Frame{Channels: 1, Samples: make([]float32, 300)}, "set the source's window to 100 and its channels to 3"},
		{1200, hal.Frame{Channels: 3, Samples: make([]float32, 150)}, "windows of 50 samples of 3 channels: set the source's window to 100"},
		{1200, hal.Frame{}, "set the source's window"},
		{1199, hal.Frame{Channels: 3, Samples: make([]float32, 300)}, "input has 1199 bytes"},
	} {
		if err := f.Fill(make([]byte, tt.n), &tt.frame); hal.CodeOf(err) != hal.CodeShape || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.want, err)
		}
	}
}

func TestFillAllocatesNothing(t *testing.T) {
	f, err := NewFiller(hal.TensorInfo{Type: hal.Int16, Shape: []int{1, 16000}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	dst, frame := make([]byte, 32000), &hal.Frame{Channels: 1, Samples: make([]float32, 16000)}
	if n := testing.AllocsPerRun(10, func() { f.Fill(dst, frame) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
