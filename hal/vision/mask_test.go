package vision

import (
	"math/rand/v2"
	"testing"

	"github.com/covey-edge/covey/hal"
)

// white is a frame of a format with every pixel white, in planes that are just long
// enough.
func white(format hal.PixelFormat, w, h int) *hal.Frame {
	f := &hal.Frame{Format: format, Width: w, Height: h}
	for i, c := range channelsOf(format) {
		cw, ch := c.size(w, h)
		if f.Planes[c.plane] == nil {
			f.Strides[c.plane] = cw * c.step
			f.Planes[c.plane] = make([]byte, cw*c.step*ch)
		}
		v := byte(255)
		if i > 0 && !isRGB(format) {
			v = 7 // some colour
		}
		for y := range ch {
			for x := range cw {
				f.Planes[c.plane][y*f.Strides[c.plane]+c.offset+x*c.step] = v
			}
		}
	}
	return f
}

// black says whether nothing of a pixel is left.
func black(f *hal.Frame, x, y int) bool {
	for i, c := range channelsOf(f.Format) {
		cx, cy, want := x, y, byte(0)
		if c.halfX {
			cx /= 2
		}
		if c.halfY {
			cy /= 2
		}
		if i > 0 && !isRGB(f.Format) {
			want = 128
		}
		if f.Planes[c.plane][cy*f.Strides[c.plane]+c.offset+cx*c.step] != want {
			return false
		}
	}
	return true
}

// inside is the rule of non-zero winding, point by point.
func inside(p [][2]float32, x, y float64) bool {
	winding := 0
	for i := range p {
		a, b := p[i], p[(i+1)%len(p)]
		ax, ay, bx, by := float64(a[0]), float64(a[1]), float64(b[0]), float64(b[1])
		side := (bx-ax)*(y-ay) - (x-ax)*(by-ay)
		switch {
		case ay <= y && by > y && side > 0:
			winding++
		case ay > y && by <= y && side < 0:
			winding--
		}
	}
	return winding != 0
}

// No point within a polygon may be seen, in any format, and what is far from it stays.
func TestMaskHidesAllOfAPolygon(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		polygon := make([][2]float32, 3+random.IntN(5))
		for i := range polygon {
			polygon[i] = [2]float32{random.Float32(), random.Float32()}
		}
		w, h := 2+2*random.IntN(20), 1+random.IntN(30)
		m := NewMask([][][2]float32{polygon})
		for format := hal.FormatGray; format <= hal.FormatNV12; format++ {
			f := white(format, w, h)
			if err := m.Paint(f); err != nil {
				t.Fatal(err)
			}
			for range 200 {
				x, y := random.Float64(), random.Float64()
				if inside(polygon, x, y) && !black(f, int(x*float64(w)), int(y*float64(h))) {
					t.Fatalf("format %d, %d×%d, %v: (%.3f, %.3f) can be seen", format, w, h, polygon, x, y)
				}
			}
		}
	}
}

func TestMaskLeavesTheRest(t *testing.T) {
	m := NewMask([][][2]float32{{{0.25, 0.25}, {0.5, 0.25}, {0.5, 0.5}, {0.25, 0.5}}, {{0.9, 0.9}, {1, 1}}}) // the second is no polygon
	f := white(hal.FormatRGB, 40, 40)
	if err := m.Paint(f); err != nil {
		t.Fatal(err)
	}
	for y := range 40 {
		for x := range 40 {
			want := x >= 10 && x <= 20 && y >= 9 && y <= 20
			if edge := x == 20 || y == 9 || y == 20; black(f, x, y) != want && !edge {
				t.Fatalf("pixel %d, %d is black: %v", x, y, !want)
			}
		}
	}
}

func TestMaskOfNothing(t *testing.T) {
	var none *Mask
	f := white(hal.FormatGray, 4, 4)
	if err := none.Paint(f); err != nil || black(f, 0, 0) {
		t.Errorf("no mask: %v", err)
	}
	if err := NewMask([][][2]float32{{{0, 0}, {1, 0}, {1, 1}}}).Paint(&hal.Frame{Samples: []float32{1}}); err != nil {
		t.Errorf("samples: %v", err)
	}
	f.Planes[0] = f.Planes[0][:3]
	if err := NewMask([][][2]float32{{{0, 0}, {1, 0}, {1, 1}}}).Paint(f); hal.CodeOf(err) != hal.CodeImage {
		t.Errorf("a frame without its pixels: %v", err)
	}
}

func BenchmarkMask(b *testing.B) {
	m := NewMask([][][2]float32{{{0.1, 0.1}, {0.6, 0.2}, {0.5, 0.7}}})
	f := white(hal.FormatYUV422, 640, 480)
	for b.Loop() {
		if err := m.Paint(f); err != nil {
			b.Fatal(err)
		}
	}
}

func TestBrightness(t *testing.T) {
	for format := hal.FormatGray; format <= hal.FormatNV12; format++ {
		f := white(format, 10, 6)
		if light, ok := Brightness(f); !ok || light != 1 {
			t.Errorf("format %d, white: %v, %v", format, light, ok)
		}
		if err := NewMask([][][2]float32{{{0, 0}, {0.49, 0}, {0.49, 1}, {0, 1}}}).Paint(f); err != nil {
			t.Fatal(err)
		}
		if light, ok := Brightness(f); !ok || light < 0.45 || light > 0.55 {
			t.Errorf("format %d, half black: %v, %v", format, light, ok)
		}
	}
	limited := white(hal.FormatNV12, 10, 6)
	limited.Limited = true
	if light, _ := Brightness(limited); light != 1 {
		t.Errorf("limited: %v", light)
	}
	for _, f := range []*hal.Frame{{Samples: []float32{1}}, {Format: hal.FormatRGB, Width: 5, Height: 5}} {
		if _, ok := Brightness(f); ok {
			t.Error("brightness of nothing")
		}
	}
}
