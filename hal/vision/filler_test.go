package vision

import (
	"encoding/binary"
	"fmt"
	"image/color"
	"iter"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/covey-edge/covey/hal"
)

var formatNames = map[string]hal.PixelFormat{
	"grey": hal.FormatGray, "rgb": hal.FormatRGB, "rgba": hal.FormatRGBA, "yuv420": hal.FormatYUV420,
	"yuv422": hal.FormatYUV422, "yuv444": hal.FormatYUV444, "yuv440": hal.FormatYUV440,
	"yuyv": hal.FormatYUYV, "nv12": hal.FormatNV12,
}

// newFrame is a picture of soft waves with some noise, its rows padded.
func newFrame(format hal.PixelFormat, w, h int) *hal.Frame {
	f := &hal.Frame{Format: format, Width: w, Height: h}
	rnd := rand.New(rand.NewPCG(1, uint64(format)))
	plane := func(i, width, height, n int) {
		f.Strides[i] = width*n + 5
		f.Planes[i] = make([]byte, f.Strides[i]*height)
		for y := range height {
			for x := range width * n {
				v := 128 + 100*math.Sin(float64(x/n)/7+float64(x%n+i))*math.Cos(float64(y)/9) + float64(rnd.IntN(20))
				f.Planes[i][y*f.Strides[i]+x] = byte(max(0, min(255, v)))
			}
		}
	}
	for _, c := range channelsOf(format) {
		if c.offset == 0 {
			cw, ch := c.size(w, h)
			plane(c.plane, cw, ch, c.step)
		}
	}
	return f
}

// slow is what Fill approaches before it stores: a triangle filter in floating
// point, as wide as the pixel it makes; where nothing is shrunk it is bilinear.
func slow(f *hal.Frame, w, h, x, y, want int) [3]float64 {
	channels := channelsOf(f.Format)
	value := func(i int) float64 {
		c := channels[i]
		cw, ch := c.size(f.Width, f.Height)
		half := map[bool]float64{false: 1, true: .5}
		var sum, weights float64
		for sy, wy := range triangle(y, ch, h, float64(f.Height)*half[c.halfY]) {
			for sx, wx := range triangle(x, cw, w, float64(f.Width)*half[c.halfX]) {
				sum += wx * wy * float64(f.Planes[c.plane][sy*f.Strides[c.plane]+sx*c.step+c.offset])
				weights += wx * wy
			}
		}
		return sum / weights
	}
	var p [3]float64
	switch {
	case len(channels) == 1 || !isRGB(f.Format) && want == 1:
		p[0] = value(0)
		p[1], p[2] = p[0], p[0]
	case !isRGB(f.Format):
		p = colour(value(0), value(1), value(2), false)
	default:
		p = [3]float64{value(0), value(1), value(2)}
		if want == 1 {
			p[0] = .299*p[0] + .587*p[1] + .114*p[2]
		}
	}
	for c := range p {
		p[c] = max(0, min(255, p[c]))
	}
	return p
}

// triangle gives source pixels and their weights for a destination pixel.
// The axis is length long: of colour, half a pixel less than there are may be.
func triangle(i, src, dst int, length float64) iter.Seq2[int, float64] {
	ratio := length / float64(dst)
	wide := max(1, ratio)
	middle := (float64(i)+.5)*ratio - .5
	return func(yield func(int, float64) bool) {
		for s := int(math.Floor(middle - wide)); s <= int(math.Ceil(middle+wide)); s++ {
			if w := 1 - math.Abs(float64(s)-middle)/wide; w > 0 && !yield(max(0, min(src-1, s)), w) {
				return
			}
		}
	}
}

func input(t hal.DType, shape ...int) hal.TensorInfo {
	return hal.TensorInfo{Name: "in", Type: t, Shape: shape}
}

func TestFillAgainstSlow(t *testing.T) {
	for name, format := range formatNames {
		for _, channels := range []int{1, 3} {
			for _, tt := range []struct {
				size       [4]int // of the frame, of the model's picture
				most, mean float64
			}{
				{[4]int{24, 18, 55, 43}, 2.5, 0.9}, {[4]int{33, 17, 33, 17}, 2.5, 0.9}, {[4]int{5, 3, 40, 41}, 2.5, 0.9}, {[4]int{1, 1, 4, 4}, 2.5, 0.9},
				// Shrunk pictures are sampled: noise of ±10 is left in part.
				{[4]int{80, 60, 20, 15}, 45, 4}, {[4]int{200, 150, 7, 9}, 60, 11}, {[4]int{40, 40, 20, 20}, 45, 4}, {[4]int{30, 50, 25, 13}, 60, 6},
			} {
				s, w, h := tt.size, tt.size[2], tt.size[3]
				if format == hal.FormatYUYV {
					s[0] += s[0] % 2
				}
				frame := newFrame(format, s[0], s[1])
				f, err := NewFiller(input(hal.Uint8, 1, h, w, channels), Options{})
				if err != nil {
					t.Fatal(err)
				}
				dst := make([]byte, w*h*channels)
				if _, err := f.Fill(dst, frame); err != nil {
					t.Fatal(err)
				}
				var sum, most float64
				for i, got := range dst {
					p := i / channels
					d := math.Abs(float64(got) - slow(frame, w, h, p%w, p/w, channels)[i%channels])
					sum, most = sum+d, max(most, d)
				}
				if mean := sum / float64(len(dst)); most > tt.most || mean > tt.mean {
					t.Errorf("%s %v to %d channels: off by %.2f at most, %.2f on average", name, s, channels, most, mean)
				}
			}
		}
	}
}

// TestFlat: a picture of one colour stays that colour at any size.
func TestFlat(t *testing.T) {
	for name, format := range formatNames {
		for _, size := range [][2]int{{1, 1}, {7, 300}, {64, 64}, {200, 100}, {1000, 20}} {
			if format == hal.FormatYUYV {
				size[0] += size[0] % 2
			}
			frame := newFrame(format, size[0], size[1])
			for p, v := range []byte{200, 100, 50} {
				fill(frame.Planes[p], v)
			}
			for i := range frame.Planes[0] {
				if format == hal.FormatYUYV && i%frame.Strides[0]%2 == 1 {
					frame.Planes[0][i] = 10 // colour
				}
			}
			f, err := NewFiller(input(hal.Uint8, 1, 40, 30, 1), Options{})
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]byte, 1200)
			if _, err := f.Fill(dst, frame); err != nil {
				t.Fatal(err)
			}
			for i, v := range dst {
				if v != 200 {
					t.Fatalf("%s %v: byte %d is %d", name, size, i, v)
				}
			}
		}
	}
}

// TestFillIsGo: without resizing, pixels are those of image/color.
func TestFillIsGo(t *testing.T) {
	frame := newFrame(hal.FormatYUV444, 40, 30)
	f, _ := NewFiller(input(hal.Uint8, 1, 30, 40, 3), Options{})
	dst := make([]byte, 3600)
	if _, err := f.Fill(dst, frame); err != nil {
		t.Fatal(err)
	}
	for y := range 30 {
		for x := range 40 {
			at := func(i int) byte { return frame.Planes[i][y*frame.Strides[i]+x] }
			r, g, b := color.YCbCrToRGB(at(0), at(1), at(2))
			if got, want := [3]byte(dst[3*(y*40+x):]), [3]byte{r, g, b}; got != want {
				t.Fatalf("%d,%d: got %v want %v", x, y, got, want)
			}
		}
	}
	frame = newFrame(hal.FormatRGB, 40, 30)
	g, _ := NewFiller(input(hal.Uint8, 1, 30, 40, 1), Options{})
	dst = make([]byte, 1200)
	if _, err := g.Fill(dst, frame); err != nil {
		t.Fatal(err)
	}
	for i, got := range dst {
		p := frame.Planes[0][i/40*frame.Strides[0]+i%40*3:]
		if want := color.GrayModel.Convert(color.RGBA{p[0], p[1], p[2], 255}).(color.Gray).Y; max(got, want)-min(got, want) > 1 {
			t.Fatalf("grey %d: got %d want %d", i, got, want)
		}
	}
}

func TestStoredValues(t *testing.T) {
	quant := func(t hal.DType, scale float32, zero int32) hal.TensorInfo {
		x := input(t, 1, 1, 256, 1)
		x.Quant = hal.Quant{Scale: []float32{scale}, ZeroPoint: []int32{zero}}
		return x
	}
	half := Options{Mean: []float32{127.5}, Std: []float32{127.5}}
	for _, tt := range []struct {
		name string
		info hal.TensorInfo
		o    Options
		want func(v int) float64
	}{
		{"uint8 raw", quant(hal.Uint8, 1./128, 128), Options{}, func(v int) float64 { return float64(v) }},
		{"uint8 identity by numbers", quant(hal.Uint8, 1/127.5, 127), half, nil},
		{"int8 raw", quant(hal.Int8, 1./255, -128), Options{}, func(v int) float64 { return float64(v - 128) }},
		{"int8 given", quant(hal.Int8, 1./255, -128), Options{Mean: []float32{0}, Std: []float32{255}}, func(v int) float64 { return float64(v - 128) }},
		{"int8 narrow", quant(hal.Int8, 1./64, 0), half, func(v int) float64 {
			return max(-128, min(127, math.RoundToEven((float64(v)-127.5)/127.5*64)))
		}},
		{"float", input(hal.Float32, 1, 1, 256, 1), Options{}, func(v int) float64 { return (float64(v) - 127.5) / 127.5 }},
		{"float 0 to 1", input(hal.Float32, 1, 1, 256, 1), Options{Mean: []float32{0}, Std: []float32{255}}, func(v int) float64 { return float64(v) / 255 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := NewFiller(tt.info, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			frame := &hal.Frame{Format: hal.FormatGray, Width: 256, Height: 1, Strides: [3]int{256}}
			for v := range 256 {
				frame.Planes[0] = append(frame.Planes[0], byte(v))
			}
			dst := make([]byte, 256*tt.info.Type.Size())
			if _, err := f.Fill(dst, frame); err != nil {
				t.Fatal(err)
			}
			for v := range 256 {
				var got float64
				switch tt.info.Type {
				case hal.Uint8:
					got = float64(dst[v])
				case hal.Int8:
					got = float64(int8(dst[v]))
				case hal.Float32:
					got = float64(math.Float32frombits(binary.LittleEndian.Uint32(dst[4*v:])))
				}
				want := float64(v)
				if tt.want != nil {
					want = tt.want(v)
				} else if math.Abs(got-want) <= 1 {
					continue // half a step between zero points
				}
				if math.Abs(got-want) > 1e-6 {
					t.Fatalf("pixel %d: got %v want %v", v, got, want)
				}
			}
		})
	}
}

func TestPerChannelMean(t *testing.T) {
	f, err := NewFiller(input(hal.Float32, 1, 1, 1, 3), Options{Mean: []float32{1, 2, 3}, Std: []float32{1, 2, 4}})
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 12)
	if _, err := f.Fill(dst, &hal.Frame{Format: hal.FormatRGB, Width: 1, Height: 1, Planes: [3][]byte{{11, 12, 13}}, Strides: [3]int{3}}); err != nil {
		t.Fatal(err)
	}
	for c, want := range []float32{10, 5, 2.5} {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(dst[4*c:])); got != want {
			t.Errorf("channel %d: got %v want %v", c, got, want)
		}
	}
}

func TestLetterbox(t *testing.T) {
	f, err := NewFiller(input(hal.Uint8, 1, 10, 10, 1), Options{Fit: Letterbox})
	if err != nil {
		t.Fatal(err)
	}
	frame := &hal.Frame{Format: hal.FormatGray, Width: 40, Height: 20, Planes: [3][]byte{make([]byte, 800)}, Strides: [3]int{40}}
	fill(frame.Planes[0], 200)
	dst := make([]byte, 100)
	view, err := f.Fill(dst, frame)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range dst {
		want := byte(200)
		if y := i / 10; y < 2 || y > 6 {
			want = boxGrey
		}
		if v != want {
			t.Fatalf("pixel %d: got %d want %d\n%v", i, v, want, dst)
		}
	}
	// 2 grey rows above: the picture is from 0.2 to 0.7 of the tensor.
	got := view.Box([4]float32{0.5, 0.2, 2, 0.45})
	if fmt.Sprintf("%.2f", got) != "[0.50 0.00 1.00 0.50]" {
		t.Errorf("box %.2f", got)
	}
}

func TestRefused(t *testing.T) {
	for _, info := range []hal.TensorInfo{
		input(hal.Float32, 1, 7), input(hal.Float32), input(hal.Int64, 1, 8, 8, 3), input(hal.String, 1), input(hal.Uint8, 1, 8, 8, 4),
		input(hal.Uint8, 1, 4, 8, 8), input(hal.Uint8, 2, 8, 8, 3), input(hal.Uint8, 1, -1, 8, 3), input(hal.Uint8, 1, 0, 8, 3), input(hal.Uint8, 1, 1<<40, 8, 3),
	} {
		if _, err := NewFiller(info, Options{}); hal.CodeOf(err) != hal.CodeShape {
			t.Errorf("%v %v: %v", info.Type, info.Shape, err)
		}
	}
	for _, o := range []Options{{Mean: []float32{1, 2}}, {Std: []float32{0}}, {Std: []float32{1, 2, 3, 4}}} {
		if _, err := NewFiller(input(hal.Uint8, 1, 8, 8, 3), o); hal.CodeOf(err) != hal.CodeShape {
			t.Errorf("%v: %v", o, err)
		}
	}
	f, err := NewFiller(input(hal.Uint8, 28, 28, 1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	good := newFrame(hal.FormatYUV420, 9, 9)
	for name, change := range map[string]func(f *hal.Frame){
		"no format": func(f *hal.Frame) { f.Format = hal.FormatNone }, "unknown format": func(f *hal.Frame) { f.Format = 99 },
		"width 0": func(f *hal.Frame) { f.Width = 0 }, "short plane": func(f *hal.Frame) { f.Planes[0] = f.Planes[0][:80] },
		"no chroma": func(f *hal.Frame) { f.Planes[2] = nil }, "stride": func(f *hal.Frame) { f.Strides[1] = 4 },
		"negative stride": func(f *hal.Frame) { f.Strides[0] = -14 }, "huge": func(f *hal.Frame) { f.Height = 1 << 60 },
	} {
		frame := *good
		change(&frame)
		if _, err := f.Fill(make([]byte, 784), &frame); hal.CodeOf(err) != hal.CodeImage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.Fill(make([]byte, 783), good); hal.CodeOf(err) != hal.CodeShape {
		t.Errorf("short tensor: %v", err)
	}
}

func TestFillAllocatesNothing(t *testing.T) {
	for name, format := range formatNames {
		f, err := NewFiller(input(hal.Float32, 1, 24, 24, 3), Options{Fit: Letterbox})
		if err != nil {
			t.Fatal(err)
		}
		frame, dst := newFrame(format, 64, 48), make([]byte, 24*24*3*4)
		if n := testing.AllocsPerRun(10, func() {
			if _, err := f.Fill(dst, frame); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a frame", name, n)
		}
	}
}

func BenchmarkFill(b *testing.B) {
	for _, bb := range []struct {
		name       string
		format     hal.PixelFormat
		w, h, size int
		in         hal.DType
	}{
		{"1080p-yuv420-224-uint8", hal.FormatYUV420, 1920, 1080, 224, hal.Uint8}, {"1080p-yuv420-224-float32", hal.FormatYUV420, 1920, 1080, 224, hal.Float32},
		{"1080p-yuv420-300-uint8", hal.FormatYUV420, 1920, 1080, 300, hal.Uint8}, {"1080p-yuv420-640-float32", hal.FormatYUV420, 1920, 1080, 640, hal.Float32},
		{"720p-yuv420-224-uint8", hal.FormatYUV420, 1280, 720, 224, hal.Uint8}, {"720p-yuv420-300-int8", hal.FormatYUV420, 1280, 720, 300, hal.Int8},
		{"720p-yuv420-640-float32", hal.FormatYUV420, 1280, 720, 640, hal.Float32},
		{"720p-yuyv-224-int8", hal.FormatYUYV, 1280, 720, 224, hal.Int8}, {"720p-nv12-224-int8", hal.FormatNV12, 1280, 720, 224, hal.Int8},
		{"1080p-rgb-224-int8", hal.FormatRGB, 1920, 1080, 224, hal.Int8}, {"540p-yuv420-224-uint8", hal.FormatYUV420, 960, 540, 224, hal.Uint8},
		{"480p-yuv420-224-uint8", hal.FormatYUV420, 640, 480, 224, hal.Uint8}, {"224-rgb-224-uint8", hal.FormatRGB, 224, 224, 224, hal.Uint8},
	} {
		b.Run(bb.name, func(b *testing.B) {
			f, err := NewFiller(input(bb.in, 1, bb.size, bb.size, 3), Options{})
			if err != nil {
				b.Fatal(err)
			}
			frame, dst := newFrame(bb.format, bb.w, bb.h), make([]byte, f.size())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Fill(dst, frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
