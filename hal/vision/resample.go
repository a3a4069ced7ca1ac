package vision

import (
	"math"
	"math/bits"
	"unsafe"
)

// Resampling brings a plane to the size of the model's picture a row at a time, in
// two steps: down adds up lines of the plane, eight bytes at once, whatever they
// mean; across picks from that sum what belongs to a channel, so that pixels that
// lie together (RGB, YUYV, NV12) need no step of their own.
//
// Along each axis, enlarging and slight shrinking is bilinear, with the centres of
// pixels at halves, as OpenCV and TensorFlow (half_pixel_centers) have it. Where a
// pixel of the result covers two or more of the source, bilinear would look at two
// of them and miss the rest, which costs small models much of their certainty
// (MobileNet v1 0.25 on a daisy: 0.49 instead of 0.68): there the mean of up to
// eight samples is taken.

// A span is a piece of an axis of the source, in its pixels, that becomes n pixels
// of the result.
type span struct {
	from, length float64
	n            int
}

// ratio is how many pixels of the source one of the result covers.
func (s span) ratio() float64 { return s.length / float64(s.n) }

// grid is how many samples a pixel of the result takes; 1 means bilinear.
func (s span) grid(most int) int {
	switch r := s.ratio(); {
	case r >= 3.5:
		return most
	case r >= 1.5:
		return min(most, 4)
	}
	return 1
}

// taps are the two pixels between which each pixel of the result lies, of size
// there are, and how far it lies towards the second, of one.
func (s span) taps(size, one int, put func(i, a, b, weight int)) {
	for i := range s.n {
		at := min(max(s.from+(float64(i)+0.5)*s.ratio()-0.5, 0), float64(size-1))
		a := int(at)
		put(i, a, min(a+1, size-1), int((at-float64(a))*float64(one)+0.5))
	}
}

// samples are grid positions for each pixel of the result. They lie as the weights
// of a triangle twice as wide as the pixel would have them (the quantiles of it),
// which is how Pillow shrinks pictures, and most models' reference answers are made.
func (s span) samples(size, grid int, put func(i, at int)) {
	for i := range s.n * grid {
		part := (float64(i%grid) + 0.5) / float64(grid)
		away := math.Sqrt(2*min(part, 1-part)) - 1 // from the middle, in pixels of the result
		if part > 0.5 {
			away = -away
		}
		at := s.from + (float64(i/grid)+0.5+away)*s.ratio() + 1e-6 // which is often a whole number, or nearly
		put(i, min(max(int(at), 0), size-1))
	}
}

func growTo[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// down makes one line of sums out of the lines of a plane.
type down struct {
	grid   int     // lines for each row; 1: bilinear, between two
	lines  []int32 // their numbers, row by row
	weight []int32 // of the second of two, of downOne
	more   []uint64
}

// downOne is the weight of a line alone: with a pixel it fits 16 bits.
const downOne = 256

func (d *down) set(s span, size, most int) {
	d.grid = s.grid(most)
	if d.grid > 1 {
		d.lines = growTo(d.lines, s.n*d.grid)
		s.samples(size, d.grid, func(i, at int) { d.lines[i] = int32(at) })
		return
	}
	d.lines, d.weight = growTo(d.lines, 2*s.n), growTo(d.weight, s.n)
	s.taps(size, downOne, func(i, a, b, weight int) {
		d.lines[2*i], d.lines[2*i+1], d.weight[i] = int32(a), int32(b), int32(weight)
	})
}

// total is the weight of a sum: how much larger it is than a pixel.
func (d *down) total() int {
	if d.grid > 1 {
		return d.grid
	}
	return downOne
}

// row writes the sums for row y, of bytes from to to of the plane's lines.
func (d *down) row(sums []uint64, plane []byte, stride, from, to, y int) {
	line := func(i int) []byte { return plane[int(d.lines[i])*stride+from : int(d.lines[i])*stride+to] }
	switch d.grid {
	case 8:
		add4(sums, line(8*y), line(8*y+1), line(8*y+2), line(8*y+3))
		add4(d.more, line(8*y+4), line(8*y+5), line(8*y+6), line(8*y+7))
		for i, w := range d.more[:len(sums)] {
			sums[i] += w
		}
	case 4:
		add4(sums, line(4*y), line(4*y+1), line(4*y+2), line(4*y+3))
	case 2:
		add2(sums, line(2*y), line(2*y+1))
	default:
		blend(sums, line(2*y), line(2*y+1), downOne-uint64(d.weight[y]), uint64(d.weight[y]))
	}
}

// Sums have 16 bits. Eight bytes of a line become two words of four sums: of those
// at even places, then of those at odd ones.
const evens = 0x00ff00ff00ff00ff

// sumWords is the room for the sums of a line of n bytes.
func sumWords(n int) int { return (n + 7) / 8 * 2 }

// sumAt is the index of the sum of byte i of a line, among all sums.
func sumAt(i int) int { return i>>3<<3 | i&1<<2 | i&7>>1 }

// blend, add2 and add4 are simple loops over words, which the compiler can prove to stay
// in bounds. What does not fill a word at the end of the lines is done as one more.
func blend(sums []uint64, a, b []byte, wa, wb uint64) {
	w, x := words(a), words(b)
	x = x[:len(w)]
	for i, p := range w {
		q, s := x[i], sums[2*i:2*i+2:2*i+2]
		s[0] = p&evens*wa + q&evens*wb
		s[1] = p>>8&evens*wa + q>>8&evens*wb
	}
	if done := 8 * len(w); done < len(a) {
		p, q, s := rest(a[done:]), rest(b[done:]), sums[2*len(w):]
		s[0] = p&evens*wa + q&evens*wb
		s[1] = p>>8&evens*wa + q>>8&evens*wb
	}
}

func add2(sums []uint64, a, b []byte) {
	w, x := words(a), words(b)
	x = x[:len(w)]
	for i, p := range w {
		q, s := x[i], sums[2*i:2*i+2:2*i+2]
		s[0] = p&evens + q&evens
		s[1] = p>>8&evens + q>>8&evens
	}
	if done := 8 * len(w); done < len(a) {
		p, q, s := rest(a[done:]), rest(b[done:]), sums[2*len(w):]
		s[0] = p&evens + q&evens
		s[1] = p>>8&evens + q>>8&evens
	}
}

func add4(sums []uint64, a, b, c, d []byte) {
	w, x, y, z := words(a), words(b), words(c), words(d)
	x, y, z = x[:len(w)], y[:len(w)], z[:len(w)]
	for i, p := range w {
		q, r, t, s := x[i], y[i], z[i], sums[2*i:2*i+2:2*i+2]
		s[0] = p&evens + q&evens + r&evens + t&evens
		s[1] = p>>8&evens + q>>8&evens + r>>8&evens + t>>8&evens
	}
	if done := 8 * len(w); done < len(a) {
		p, q, r, t, s := rest(a[done:]), rest(b[done:]), rest(c[done:]), rest(d[done:]), sums[2*len(w):]
		s[0] = p&evens + q&evens + r&evens + t&evens
		s[1] = p>>8&evens + q>>8&evens + r>>8&evens + t>>8&evens
	}
}

// words is b as little-endian words, without what does not fill one. Every machine
// that Covey runs on is little-endian and reads words from any address.
func words(b []byte) []uint64 {
	if len(b) < 8 {
		return nil
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}

// rest is up to seven bytes as a word.
func rest(b []byte) (w uint64) {
	for i, v := range b {
		w |= uint64(v) << (8 * i)
	}
	return w
}

// shorts are the sums in words.
func shorts(w []uint64) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(w))), 4*len(w))
}

// across makes a row of a channel out of sums.
type across struct {
	grid   int      // samples of a pixel; 1: bilinear, between two
	cols   []uint32 // where in the sums they are, pixel by pixel
	weight []uint32 // of the second of two, of acrossOne
	shift  int      // brings what was added up back to a byte
}

// acrossOne and a sum of weight downOne fit 32 bits together.
const acrossOne = 2048

// set prepares for a channel of size pixels, the first of which is offset bytes
// behind the first sum and the others step bytes further each.
func (a *across) set(s span, size, most, offset, step, total int) {
	a.grid = s.grid(most)
	weight := acrossOne
	if a.grid > 1 {
		weight = a.grid
		a.cols = growTo(a.cols, s.n*a.grid)
		s.samples(size, a.grid, func(i, at int) { a.cols[i] = uint32(sumAt(at*step + offset)) })
	} else {
		a.cols, a.weight = growTo(a.cols, 2*s.n), growTo(a.weight, s.n)
		s.taps(size, acrossOne, func(i, p, q, weight int) {
			a.cols[2*i], a.cols[2*i+1], a.weight[i] = uint32(sumAt(p*step+offset)), uint32(sumAt(q*step+offset)), uint32(weight)
		})
	}
	a.shift = bits.TrailingZeros(uint(weight * total)) // both are powers of two
}

func (a *across) row(dst []byte, sums []uint16) {
	shift, half := a.shift&31, uint32(1)<<(a.shift-1)
	switch a.grid {
	case 8:
		cols := a.cols[:8*len(dst)]
		for i := range dst {
			c := (*[8]uint32)(cols[8*i:])
			dst[i] = byte((uint32(sums[c[0]]) + uint32(sums[c[1]]) + uint32(sums[c[2]]) + uint32(sums[c[3]]) +
				uint32(sums[c[4]]) + uint32(sums[c[5]]) + uint32(sums[c[6]]) + uint32(sums[c[7]]) + half) >> shift)
		}
	case 4:
		cols := a.cols[:4*len(dst)]
		for i := range dst {
			c := (*[4]uint32)(cols[4*i:])
			dst[i] = byte((uint32(sums[c[0]]) + uint32(sums[c[1]]) + uint32(sums[c[2]]) + uint32(sums[c[3]]) + half) >> shift)
		}
	case 2:
		cols := a.cols[:2*len(dst)]
		for i := range dst {
			c := (*[2]uint32)(cols[2*i:])
			dst[i] = byte((uint32(sums[c[0]]) + uint32(sums[c[1]]) + half) >> shift)
		}
	default:
		cols, weight := a.cols[:2*len(dst)], a.weight[:len(dst)]
		for i := range dst {
			c, w := (*[2]uint32)(cols[2*i:]), weight[i]
			dst[i] = byte((uint32(sums[c[0]])*(acrossOne-w) + uint32(sums[c[1]])*w + half) >> shift)
		}
	}
}
