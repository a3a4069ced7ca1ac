package vision

import "math"

// A resampler brings one plane, or one channel of pixels that lie together, to
// the size of the model's picture, a row at a time.
//
// Enlarging and slight shrinking is bilinear, with the centres of pixels at
// halves, as OpenCV and TensorFlow (half_pixel_centers) have it. Where a pixel of
// the result covers two or more of the source, bilinear would look at four of them
// and miss the rest, which costs small models much of their certainty (MobileNet
// v1 0.25 on a daisy: 0.49 instead of 0.68): there the mean of a grid of up to 4×4
// samples is taken.
type resampler struct {
	x, y   []tap // bilinear
	nx, ny int   // grid of samples; 0: bilinear
	cols   []int32
	lines  []int32
	sum    []uint16 // of a row of the grid; 16 × 255 fits
}

// A tap says between which two source pixels a destination pixel lies, and how
// far towards the second.
type tap struct{ a, b, weight int32 }

// Weights of taps have 11 bits, so that two of them times a pixel fit 31.
const (
	weightBits = 11
	one        = 1 << weightBits
	half       = 1 << (2*weightBits - 1)
)

// set makes the tables for a plane of srcW×srcH pixels, step bytes apart. most is
// the largest grid.
func (s *resampler) set(srcW, srcH, dstW, dstH, step, most int) {
	s.nx, s.ny = grid(srcW, dstW, most), grid(srcH, dstH, most)
	if s.nx == 1 && s.ny == 1 {
		s.nx, s.ny = 0, 0
		s.x, s.y = taps(s.x, srcW, dstW, step), taps(s.y, srcH, dstH, 1)
		return
	}
	s.cols, s.lines = samples(s.cols, srcW, dstW, s.nx, step), samples(s.lines, srcH, dstH, s.ny, 1)
	s.sum = growTo(s.sum, dstW)
}

// grid is how many samples a destination pixel takes along one axis.
func grid(src, dst, most int) int {
	switch ratio := float64(src) / float64(dst); {
	case ratio >= 2.5:
		return most
	case ratio >= 1.5:
		return 2
	}
	return 1
}

func taps(t []tap, src, dst, step int) []tap {
	t = growTo(t, dst)
	ratio := float64(src) / float64(dst)
	for i := range t {
		at := min(max((float64(i)+0.5)*ratio-0.5, 0), float64(src-1))
		a := int(at)
		t[i] = tap{a: int32(a * step), b: int32(min(a+1, src-1) * step), weight: int32((at-float64(a))*one + 0.5)}
	}
	return t
}

// samples are n positions for each destination pixel. They lie as the weights of
// a triangle twice as wide as the pixel would have them (the quantiles of it),
// which is how Pillow shrinks pictures, and most models' reference answers are made.
func samples(s []int32, src, dst, n, step int) []int32 {
	s = growTo(s, n*dst)
	ratio := float64(src) / float64(dst)
	for i := range s {
		part := (float64(i%n) + 0.5) / float64(n)
		away := math.Sqrt(2*min(part, 1-part)) - 1 // from the middle, in destination pixels
		if part > 0.5 {
			away = -away
		}
		at := (float64(i/n) + 0.5 + away) * ratio
		s[i] = int32(min(max(int(at), 0), src-1) * step)
	}
	return s
}

func growTo[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// row writes row y of the result.
func (s *resampler) row(dst, plane []byte, stride, y int) {
	if s.nx == 0 {
		s.bilinear(dst, plane, stride, s.y[y])
		return
	}
	sum := s.sum[:len(dst)]
	clear(sum)
	for _, line := range s.lines[y*s.ny : (y+1)*s.ny] {
		s.add(sum, plane[int(line)*stride:])
	}
	n := uint32(s.nx * s.ny)
	scale := (1<<16 + n/2) / n // n is a power of two: exact
	for i, v := range sum {
		dst[i] = byte((uint32(v)*scale + 1<<15) >> 16)
	}
}

// add adds a source line to the sums.
func (s *resampler) add(sum []uint16, line []byte) {
	switch s.nx {
	case 4:
		cols := s.cols[:4*len(sum)]
		for i := range sum {
			c := cols[4*i : 4*i+4 : 4*i+4]
			sum[i] += uint16(line[c[0]]) + uint16(line[c[1]]) + uint16(line[c[2]]) + uint16(line[c[3]])
		}
	case 2:
		cols := s.cols[:2*len(sum)]
		for i := range sum {
			c := cols[2*i : 2*i+2 : 2*i+2]
			sum[i] += uint16(line[c[0]]) + uint16(line[c[1]])
		}
	default:
		for i, c := range s.cols[:len(sum)] {
			sum[i] += uint16(line[c])
		}
	}
}

func (s *resampler) bilinear(dst, plane []byte, stride int, ty tap) {
	top, bottom := plane[int(ty.a)*stride:], plane[int(ty.b)*stride:]
	wy := ty.weight
	for i, t := range s.x[:len(dst)] {
		a, b := int32(top[t.a]), int32(top[t.b])
		c, d := int32(bottom[t.a]), int32(bottom[t.b])
		upper := a<<weightBits + (b-a)*t.weight
		lower := c<<weightBits + (d-c)*t.weight
		dst[i] = byte((upper<<weightBits + (lower-upper)*wy + half) >> (2 * weightBits))
	}
}
