package vision

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/covey-edge/covey/hal"
)

// plain is what a Filler does, pixel by pixel and in floating point: the value of
// channel c of the tensor at x, y, from 0 to 255, before it is stored.
func plain(f *hal.Frame, o Options, width, height, channels, x, y, c int) float64 {
	// The region of the frame, and the window of the tensor it goes to.
	rx, ry, rw, rh := 0., 0., float64(f.Width), float64(f.Height)
	if o.Crop != [4]float32{} {
		x0, y0, x1, y1 := float64(o.Crop[0]), float64(o.Crop[1]), float64(o.Crop[2]), float64(o.Crop[3])
		rx, ry, rw, rh = x0*rw, y0*rh, (x1-x0)*rw, (y1-y0)*rh
	}
	wx, wy, ww, wh := 0, 0, width, height
	switch o.Fit {
	case Letterbox:
		if gain := float64(width) / rw; gain*rh <= float64(height) {
			wh = max(1, int(math.Floor(rh*gain+.5)))
		} else {
			ww = max(1, int(math.Floor(rw*float64(height)/rh+.5)))
		}
		wx, wy = (width-ww)/2, (height-wh)/2
	case Crop:
		if want := rh * float64(width) / float64(height); want <= rw {
			rx, rw = rx+(rw-want)/2, want
		} else {
			want = rw * float64(height) / float64(width)
			ry, rh = ry+(rh-want)/2, want
		}
	}
	if x < wx || x >= wx+ww || y < wy || y >= wy+wh {
		return 114
	}
	value := func(c channel) float64 {
		cw, ch := c.size(f.Width, f.Height)
		x0, xn, y0, yn, mostX, mostY := rx, rw, ry, rh, 8, 8
		if c.halfX {
			x0, xn = x0/2, xn/2
		}
		if c.halfY {
			y0, yn = y0/2, yn/2
		}
		if c.halfX || c.halfY { // colour is sampled less
			mostX, mostY = 4, 4
		}
		if f.Format == hal.FormatYUYV {
			mostY = 8 // one plane, one choice of lines
		}
		var sum, weights float64
		for _, line := range points(y0, yn, wh, y-wy, ch, mostY) {
			for _, col := range points(x0, xn, ww, x-wx, cw, mostX) {
				sum += col.weight * line.weight * float64(f.Planes[c.plane][line.at*f.Strides[c.plane]+col.at*c.step+c.offset])
				weights += col.weight * line.weight
			}
		}
		return sum / weights
	}
	all := channelsOf(f.Format)
	luma := value(all[0])
	if f.Limited && !isRGB(f.Format) && (len(all) == 1 || channels == 1) {
		luma = max(0, min(255, (luma-16)*255/219))
	}
	if len(all) == 1 || channels == 1 && !isRGB(f.Format) {
		return luma
	}
	rgb := [3]float64{luma, value(all[1]), value(all[2])}
	if !isRGB(f.Format) {
		rgb = colour(rgb[0], rgb[1], rgb[2], f.Limited)
	}
	if channels == 1 {
		return .299*rgb[0] + .587*rgb[1] + .114*rgb[2]
	}
	if o.BGR {
		c = 2 - c
	}
	return rgb[c]
}

// colour is BT.601.
func colour(y, u, v float64, limited bool) (rgb [3]float64) {
	u, v = u-128, v-128
	if limited {
		y, u, v = (y-16)*255/219, u*255/224, v*255/224
	}
	for i, p := range [3]float64{y + 1.402*v, y - .344136*u - .714136*v, y + 1.772*u} {
		rgb[i] = max(0, min(255, p))
	}
	return rgb
}

// A point is a source pixel and its weight.
type point struct {
	at     int
	weight float64
}

// points are the source pixels of one of n along an axis.
func points(from, length float64, n, i, size, most int) (all []point) {
	ratio := length / float64(n)
	middle := from + (float64(i)+.5)*ratio
	clamp := func(v float64) int { return max(0, min(size-1, int(math.Floor(v)))) }
	if ratio < 1.5 {
		at := max(0, min(float64(size-1), middle-.5))
		return []point{{clamp(at), 1 - (at - math.Floor(at))}, {clamp(at + 1), at - math.Floor(at)}}
	}
	grid := 4
	if ratio >= 3.5 {
		grid = most
	}
	for g := range grid {
		// Where a triangle from -1 to 1 has so much of its area to the left.
		left := (float64(g) + .5) / float64(grid)
		p := math.Sqrt(2*left) - 1
		if left > .5 {
			p = 1 - math.Sqrt(2*(1-left))
		}
		all = append(all, point{clamp(middle + p*ratio + 1e-6), 1})
	}
	return all
}

// stored reads one element of a tensor as a real number.
func stored(info hal.TensorInfo, data []byte, i int) float64 {
	scale, zero := 1., 0.
	if len(info.Quant.Scale) > 0 {
		scale, zero = float64(info.Quant.Scale[0]), float64(info.Quant.ZeroPoint[0])
	}
	switch info.Type {
	case hal.Uint8:
		return (float64(data[i]) - zero) * scale
	case hal.Int8:
		return (float64(int8(data[i])) - zero) * scale
	case hal.Int16:
		return (float64(int16(binary.LittleEndian.Uint16(data[2*i:]))) - zero) * scale
	case hal.Float16:
		b := binary.LittleEndian.Uint16(data[2*i:])
		sign, exponent, fraction := 1-2*float64(b>>15), int(b>>10&31), float64(b&1023)
		if exponent == 0 {
			return sign * math.Ldexp(fraction, -24)
		}
		return sign * math.Ldexp(1024+fraction, exponent-25)
	}
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
}

// TestFillIsPlain goes through every format, range, fit, crop, element, layout and
// order of colours, each with a few of many sizes.
//
// Tolerances in pixels of 255. Grey and RGB: half for the result and half for the
// weights of lines, which have 8 bits. YUV: the same for each of Y, U, V, times what
// they count in a colour, and one for the conversion, which cuts. And half a step of
// what is stored.
func TestFillIsPlain(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	sizes := [][4]int{ // of the frame, of the model's picture
		{24, 18, 31, 29}, {34, 17, 34, 17}, {4, 3, 9, 8}, {2, 1, 4, 5}, {80, 60, 20, 15}, {62, 33, 21, 24},
		{100, 31, 9, 17}, {40, 90, 20, 11}, {66, 35, 44, 16}, {50, 50, 1, 1}, {33, 17, 16, 33}, {15, 41, 6, 7}, {1, 1, 3, 3},
	}
	crops := [][4]float32{{}, {.25, .5, .75, 1}, {0, 0, .31, .17}, {.613, .2, .871, .97}}
	types := []hal.TensorInfo{
		{Type: hal.Uint8, Quant: hal.Quant{Scale: []float32{1 / 127.5}, ZeroPoint: []int32{128}}},
		{Type: hal.Int8, Quant: hal.Quant{Scale: []float32{1 / 127.5}, ZeroPoint: []int32{-1}}},
		{Type: hal.Int16, Quant: hal.Quant{Scale: []float32{1. / 32768}, ZeroPoint: []int32{0}}},
		{Type: hal.Float16}, {Type: hal.Float32},
	}
	try := func(name string, limited bool, fit Fit, crop [4]float32, info hal.TensorInfo, layout string) {
		format, size := formatNames[name], sizes[rnd.IntN(len(sizes))]
		if format == hal.FormatYUYV {
			size[0] += size[0] % 2
		}
		o := Options{Fit: fit, Crop: crop, BGR: rnd.IntN(2) == 0, Mean: []float32{127.5}, Std: []float32{127.5}}
		w, h, channels := size[2], size[3], 3
		switch layout {
		case "grey":
			channels, info.Shape = 1, []int{1, h, w, 1}
		case "nhwc":
			info.Shape = []int{1, h, w, 3}
		case "nchw":
			if w == 1 || w == 3 {
				return // a picture of 3 rows as much as one of 3 channels
			}
			info.Shape = []int{1, 3, h, w}
		}
		frame := newFrame(format, size[0], size[1])
		frame.Limited = limited
		what := fmt.Sprintf("%s limited=%v %v %s %+v", name, limited, size, info.Type, o)
		againstPlain(t, what, frame, info, o, w, h, channels)
	}
	for _, name := range slices.Sorted(maps.Keys(formatNames)) { // the same sizes every time
		for _, limited := range []bool{false, true} {
			for _, fit := range []Fit{Squash, Letterbox, Crop} {
				for _, crop := range crops {
					for _, info := range types {
						for _, layout := range []string{"grey", "nhwc", "nchw"} {
							try(name, limited, fit, crop, info, layout)
						}
					}
				}
			}
		}
	}
}

func againstPlain(t *testing.T, what string, frame *hal.Frame, info hal.TensorInfo, o Options, w, h, channels int) {
	t.Helper()
	f, err := NewFiller(info, o)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	dst := make([]byte, f.size())
	if _, err := f.Fill(dst, frame); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	most, step := 1.05, map[hal.DType]float64{hal.Uint8: 1, hal.Int8: 1.05}[info.Type]
	if len(channelsOf(frame.Format)) > 1 && channels == 3 && !isRGB(frame.Format) {
		most = 4.1
		if frame.Limited {
			most = 4.6
		}
	} else if frame.Limited {
		most = 1.8
	}
	var sum float64
	for y := range h {
		for x := range w {
			for c := range channels {
				i := (y*w+x)*channels + c
				if info.Shape[1] == 3 && channels == 3 && info.Shape[3] != 3 {
					i = (c*h+y)*w + x
				}
				want := plain(frame, o, w, h, channels, x, y, c)
				got := stored(info, dst, i)*127.5 + 127.5
				d := math.Abs(got - want)
				sum += d
				if d > most+step/2+.2 {
					t.Fatalf("%s: channel %d at %d,%d is %.2f, want %.2f", what, c, x, y, got, want)
				}
			}
		}
	}
	if mean := sum / float64(w*h*channels); w*h > 100 && mean > 1.2+step/2 {
		t.Errorf("%s: off by %.2f on average", what, mean)
	}
}

// TestView: a mark somewhere in the frame is seen where the View says.
func TestView(t *testing.T) {
	for _, o := range []Options{
		{}, {Fit: Letterbox}, {Fit: Crop}, {Crop: [4]float32{.25, .125, .75, 1}}, {Fit: Letterbox, Crop: [4]float32{.25, .125, .75, 1}},
		{Fit: Crop, Crop: [4]float32{.3, .2, .9, .8}},
	} {
		for _, size := range [][2]int{{320, 160}, {160, 320}, {200, 200}} {
			frame := &hal.Frame{Format: hal.FormatGray, Width: size[0], Height: size[1], Strides: [3]int{size[0]}, Planes: [3][]byte{make([]byte, size[0]*size[1])}}
			for y := size[1] * 2 / 5; y < size[1]*3/5; y++ {
				fill(frame.Planes[0][y*size[0]+size[0]*2/5:][:size[0]/5], 255)
			}
			f, err := NewFiller(input(hal.Uint8, 1, 100, 120, 1), o)
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]byte, 12000)
			view, err := f.Fill(dst, frame)
			if err != nil {
				t.Fatal(err)
			}
			x0, y0, x1, y1 := 120, 100, 0, 0
			for i, v := range dst {
				if x, y := i%120, i/120; v > 127 {
					x0, y0, x1, y1 = min(x, x0), min(y, y0), max(x+1, x1), max(y+1, y1)
				}
			}
			box := view.Box([4]float32{float32(x0) / 120, float32(y0) / 100, float32(x1) / 120, float32(y1) / 100})
			for i, want := range [4]float32{.4, .4, .6, .6} {
				if d := box[i] - want; d > .02 || d < -.02 {
					t.Errorf("%+v of %v: the mark is seen at %.3f, it is at 0.4 to 0.6", o, size, box)
					break
				}
			}
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	nan := float32(math.NaN())
	for _, o := range []Options{
		{Fit: "zoom"}, {Crop: [4]float32{.5, 0, .5, 1}}, {Crop: [4]float32{0, 0, 1.1, 1}}, {Crop: [4]float32{-.1, 0, 1, 1}}, {Crop: [4]float32{0, nan, 1, 1}},
	} {
		if _, err := NewFiller(input(hal.Uint8, 1, 8, 8, 3), o); hal.CodeOf(err) != hal.CodeConfig {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestFloat16 goes through all half-precision numbers, and what lies between two.
func TestFloat16(t *testing.T) {
	info := hal.TensorInfo{Type: hal.Float16}
	for b := range 0x7c00 {
		data := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, uint16(b)), uint16(b+1))
		low := stored(info, data, 0)
		if got := float16(float32(low)); got != uint16(b) {
			t.Fatalf("%v is stored as %#x, want %#x", low, got, b)
		}
		if got := float16(float32(-low)); got != uint16(b)|0x8000 {
			t.Fatalf("%v is stored as %#x, want %#x", -low, got, b|0x8000)
		}
		if b+1 == 0x7c00 {
			break
		}
		high := stored(info, data, 1)
		even := uint16(b + b%2)
		if got := float16(float32((low + high) / 2)); got != even {
			t.Fatalf("%v, between %#x and %#x, is stored as %#x", (low+high)/2, b, b+1, got)
		}
	}
	for f, want := range map[float32]uint16{65519: 0x7bff, 65520: 0x7c00, float32(math.Inf(-1)): 0xfc00} {
		if got := float16(f); got != want {
			t.Errorf("%v is stored as %#x, want %#x", f, got, want)
		}
	}
}

// FuzzFill holds any size, crop and fit against plain.
func FuzzFill(f *testing.F) {
	f.Add(uint8(30), uint8(20), uint8(7), uint8(9), uint8(4), uint8(1), float32(.1), float32(.2), float32(.9), float32(.7))
	f.Add(uint8(174), uint8(8), uint8(0), uint8(5), uint8(3), uint8(1), float32(.1), float32(.4), float32(.9), float32(.59444445)) // one column for a wide region
	f.Fuzz(func(t *testing.T, w, h, tw, th, format, fit uint8, x0, y0, x1, y1 float32) {
		o := Options{Fit: []Fit{Squash, Letterbox, Crop}[fit%3], Crop: [4]float32{x0, y0, x1, y1}, Mean: []float32{127.5}, Std: []float32{127.5}}
		if checkCrop(o.Crop) != nil || x1-x0 < 1e-3 || y1-y0 < 1e-3 && o.Crop != [4]float32{} {
			return
		}
		size := [4]int{1 + int(w), 1 + int(h), 1 + int(tw)%40, 1 + int(th)%40}
		pixels := hal.FormatGray + hal.PixelFormat(format)%hal.FormatNV12
		if pixels == hal.FormatYUYV {
			size[0] += size[0] % 2
		}
		info := hal.TensorInfo{Type: hal.Float32, Shape: []int{1, size[3], size[2], 3}}
		againstPlain(t, fmt.Sprint(pixels, size, o), newFrame(pixels, size[0], size[1]), info, o, size[2], size[3], 3)
	})
}
