package vision

import (
	"cmp"
	"math"
	"slices"

	"github.com/covey-edge/covey/hal"
)

// A Mask blackens parts of frames, so that nothing behind it sees them. Each part is
// a polygon of corners (x, y) in 0..1 of the picture; one of fewer than three corners
// is none. It is used by one goroutine at a time.
type Mask struct {
	polygons [][][2]float32
	w, h     int         // of the frames that rows are for
	rows     [][]stretch // of pixels, apart and in order
}

// A stretch is pixels [from, to) of a row.
type stretch struct{ from, to int }

// NewMask makes a mask of polygons, which it keeps.
func NewMask(polygons [][][2]float32) *Mask { return &Mask{polygons: polygons} }

// Paint blackens every pixel that a polygon touches. A nil mask and a frame of samples
// are allowed. The error is E_IMAGE: the frame does not hold its pixels.
func (m *Mask) Paint(f *hal.Frame) error {
	if m == nil || len(m.polygons) == 0 || f.Format == hal.FormatNone {
		return nil
	}
	if err := checkFrame(f); err != nil {
		return err
	}
	if f.Width != m.w || f.Height != m.h {
		m.rasterise(f.Width, f.Height)
	}
	for i, c := range formats[f.Format] {
		black := byte(0)
		switch {
		case isRGB(f.Format):
		case i > 0:
			black = 128
		case f.Limited:
			black = 16
		}
		m.paint(f, c, black)
	}
	return nil
}

func (m *Mask) paint(f *hal.Frame, c channel, black byte) {
	cw, _ := c.size(f.Width, f.Height)
	for y, spans := range m.rows {
		if c.halfY {
			y /= 2
		}
		row := f.Planes[c.plane][y*f.Strides[c.plane]+c.offset:]
		for _, s := range spans {
			from, to := s.from, s.to
			if c.halfX {
				from, to = from/2, min((to+1)/2, cw)
			}
			for x := from; x < to; x++ {
				row[x*c.step] = black
			}
		}
	}
}

// rasterise finds the stretches of each row of pictures of w×h. What a polygon covers of a
// row is what lies within it at the row's upper and at its lower end, and what its
// edges pass over in between.
func (m *Mask) rasterise(w, h int) {
	m.w, m.h, m.rows = w, h, make([][]stretch, h)
	for y := range m.rows {
		var spans []stretch
		for _, p := range m.polygons {
			if len(p) < 3 {
				continue
			}
			spans = within(p, float64(y), w, h, spans)
			spans = within(p, float64(y+1), w, h, spans)
			spans = passed(p, float64(y), w, h, spans)
		}
		m.rows[y] = join(spans)
	}
}

// within adds what of a line y lies within a polygon, by the rule of non-zero winding.
func within(p [][2]float32, y float64, w, h int, spans []stretch) []stretch {
	type crossing struct {
		x   float64
		way int
	}
	var all []crossing
	for i := range p {
		x0, y0, x1, y1 := edge(p, i, w, h)
		if (y0 <= y) == (y1 <= y) {
			continue
		}
		way := 1
		if y1 < y0 {
			way = -1
		}
		all = append(all, crossing{x0 + (y-y0)/(y1-y0)*(x1-x0), way})
	}
	slices.SortFunc(all, func(a, b crossing) int { return cmp.Compare(a.x, b.x) })
	winding := 0
	for i, c := range all {
		if winding != 0 {
			spans = add(spans, all[i-1].x, c.x, w)
		}
		winding += c.way
	}
	return spans
}

// passed adds what the edges of a polygon pass over between y and y+1.
func passed(p [][2]float32, y float64, w, h int, spans []stretch) []stretch {
	for i := range p {
		x0, y0, x1, y1 := edge(p, i, w, h)
		if y0 > y1 {
			x0, y0, x1, y1 = x1, y1, x0, y0
		}
		if y1 < y || y0 > y+1 {
			continue
		}
		at := func(line float64) float64 {
			if y1 == y0 {
				return x0
			}
			return x0 + (min(max(line, y0), y1)-y0)/(y1-y0)*(x1-x0)
		}
		a, b := at(y), at(y+1)
		if y1 == y0 {
			b = x1
		}
		spans = add(spans, min(a, b), max(a, b), w)
	}
	return spans
}

// edge is from corner i to the next, in pixels.
func edge(p [][2]float32, i, w, h int) (x0, y0, x1, y1 float64) {
	a, b := p[i], p[(i+1)%len(p)]
	return float64(a[0]) * float64(w), float64(a[1]) * float64(h), float64(b[0]) * float64(w), float64(b[1]) * float64(h)
}

func add(spans []stretch, from, to float64, w int) []stretch {
	s := stretch{max(int(math.Floor(from)), 0), min(int(math.Floor(to))+1, w)}
	if s.from < s.to {
		spans = append(spans, s)
	}
	return spans
}

// join makes one of spans that touch.
func join(spans []stretch) []stretch {
	slices.SortFunc(spans, func(a, b stretch) int { return a.from - b.from })
	var joined []stretch
	for _, s := range spans {
		if n := len(joined); n > 0 && s.from <= joined[n-1].to {
			joined[n-1].to = max(joined[n-1].to, s.to)
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}
