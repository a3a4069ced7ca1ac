package vision

import (
	"encoding/binary"
	"fmt"

	"github.com/covey-edge/covey/hal"
)

// Bilinear sampling with the centres of pixels at halves, as OpenCV and
// TensorFlow (half_pixel_centers) have it. Weights have 11 bits, so that two of
// them times a pixel fit 31.
const (
	weightBits = 11
	one        = 1 << weightBits
	half       = 1 << (2*weightBits - 1)
)

// A tap says between which two source pixels a destination pixel lies, and how
// far towards the second.
type tap struct{ a, b, weight int32 }

// A scale has the taps of every column and row of the destination.
type scale struct{ x, y []tap }

func (s *scale) set(srcW, srcH, dstW, dstH int) {
	s.x = taps(s.x, srcW, dstW)
	s.y = taps(s.y, srcH, dstH)
}

func taps(t []tap, src, dst int) []tap {
	if cap(t) < dst {
		t = make([]tap, dst)
	}
	t = t[:dst]
	ratio := float64(src) / float64(dst)
	for i := range t {
		at := min(max((float64(i)+0.5)*ratio-0.5, 0), float64(src-1))
		a := int(at)
		t[i] = tap{a: int32(a), b: int32(min(a+1, src-1)), weight: int32((at-float64(a))*one + 0.5)}
	}
	return t
}

// mix blends four neighbours.
func mix(p00, p01, p10, p11 byte, wx, wy int32) int32 {
	top := int32(p00)<<weightBits + (int32(p01)-int32(p00))*wx
	bottom := int32(p10)<<weightBits + (int32(p11)-int32(p10))*wx
	return (top<<weightBits + (bottom-top)*wy + half) >> (2 * weightBits)
}

// rows returns the two rows of a plane that a tap blends.
func rows(f *hal.Frame, plane int, t tap) (top, bottom []byte) {
	p, stride := f.Planes[plane], f.Strides[plane]
	return p[int(t.a)*stride:], p[int(t.b)*stride:]
}

func sampleGrey(f *Filler, frame *hal.Frame, y int) {
	ty := f.luma.y[y]
	top, bottom := rows(frame, 0, ty)
	for x, t := range f.luma.x {
		f.pixels[x] = byte(mix(top[t.a], top[t.b], bottom[t.a], bottom[t.b], t.weight, ty.weight))
	}
}

func sampleGreyToRGB(f *Filler, frame *hal.Frame, y int) {
	ty := f.luma.y[y]
	top, bottom := rows(frame, 0, ty)
	for x, t := range f.luma.x {
		v := byte(mix(top[t.a], top[t.b], bottom[t.a], bottom[t.b], t.weight, ty.weight))
		d := f.pixels[3*x : 3*x+3 : 3*x+3]
		d[0], d[1], d[2] = v, v, v
	}
}

func sampleRGB(f *Filler, frame *hal.Frame, y int) {
	ty := f.luma.y[y]
	top, bottom := rows(frame, 0, ty)
	n := pixelBytes(frame.Format)
	for x, t := range f.luma.x {
		a, b := int(t.a)*n, int(t.b)*n
		p00, p01, p10, p11 := top[a:a+3:a+3], top[b:b+3:b+3], bottom[a:a+3:a+3], bottom[b:b+3:b+3]
		d := f.pixels[3*x : 3*x+3 : 3*x+3]
		d[0] = byte(mix(p00[0], p01[0], p10[0], p11[0], t.weight, ty.weight))
		d[1] = byte(mix(p00[1], p01[1], p10[1], p11[1], t.weight, ty.weight))
		d[2] = byte(mix(p00[2], p01[2], p10[2], p11[2], t.weight, ty.weight))
	}
}

func sampleRGBToGrey(f *Filler, frame *hal.Frame, y int) {
	ty := f.luma.y[y]
	top, bottom := rows(frame, 0, ty)
	n := pixelBytes(frame.Format)
	for x, t := range f.luma.x {
		a, b := int(t.a)*n, int(t.b)*n
		p00, p01, p10, p11 := top[a:a+3:a+3], top[b:b+3:b+3], bottom[a:a+3:a+3], bottom[b:b+3:b+3]
		f.pixels[x] = grey(
			mix(p00[0], p01[0], p10[0], p11[0], t.weight, ty.weight),
			mix(p00[1], p01[1], p10[1], p11[1], t.weight, ty.weight),
			mix(p00[2], p01[2], p10[2], p11[2], t.weight, ty.weight))
	}
}

func sampleYUV(f *Filler, frame *hal.Frame, y int) {
	ty, tc := f.luma.y[y], f.chroma.y[y]
	top, bottom := rows(frame, 0, ty)
	cbTop, cbBottom := rows(frame, 1, tc)
	crTop, crBottom := rows(frame, 2, tc)
	luma, chroma := f.luma.x, f.chroma.x
	chroma = chroma[:len(luma)]
	for x := range luma {
		t, c := luma[x], chroma[x]
		yy := mix(top[t.a], top[t.b], bottom[t.a], bottom[t.b], t.weight, ty.weight)
		cb := mix(cbTop[c.a], cbTop[c.b], cbBottom[c.a], cbBottom[c.b], c.weight, tc.weight)
		cr := mix(crTop[c.a], crTop[c.b], crBottom[c.a], crBottom[c.b], c.weight, tc.weight)
		toRGB(f.pixels[3*x:3*x+3:3*x+3], yy, cb, cr)
	}
}

// toRGB converts full-range BT.601 with the constants of image/color, so that
// both give the same pixels.
func toRGB(d []byte, y, cb, cr int32) {
	y *= 0x10101
	cb -= 128
	cr -= 128
	d[0] = clamp((y + 91881*cr) >> 16)
	d[1] = clamp((y - 22554*cb - 46802*cr) >> 16)
	d[2] = clamp((y + 116130*cb) >> 16)
}

func clamp(v int32) byte {
	if uint32(v) > 255 {
		return byte(^(v >> 31)) // 0 below, 255 above
	}
	return byte(v)
}

// grey is the luma of image/color.
func grey(r, g, b int32) byte { return byte((19595*r + 38470*g + 7471*b + 1<<15) >> 16) }

func putUint32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }

// pixelBytes is the number of bytes of one pixel in plane 0.
func pixelBytes(f hal.PixelFormat) int {
	switch f {
	case hal.FormatRGB:
		return 3
	case hal.FormatRGBA:
		return 4
	}
	return 1
}

// chromaSize is the size of planes 1 and 2, 0, 0 for formats without them.
func chromaSize(f hal.PixelFormat, w, h int) (cw, ch int) {
	switch f {
	case hal.FormatYUV420:
		return (w + 1) / 2, (h + 1) / 2
	case hal.FormatYUV422:
		return (w + 1) / 2, h
	case hal.FormatYUV440:
		return w, (h + 1) / 2
	case hal.FormatYUV444:
		return w, h
	}
	return 0, 0
}

// checkFrame proves that the planes hold what the frame's size promises.
func checkFrame(f *hal.Frame) error {
	holds := func(plane, width, height int) bool {
		stride := f.Strides[plane]
		return stride >= width && len(f.Planes[plane]) >= (height-1)*stride+width
	}
	w, h := f.Width, f.Height
	ok := f.Format >= hal.FormatGray && f.Format <= hal.FormatYUV440 && w > 0 && h > 0 && w <= maxSide && h <= maxSide &&
		holds(0, w*pixelBytes(f.Format), h)
	if cw, ch := chromaSize(f.Format, w, h); ok && cw > 0 {
		ok = holds(1, cw, ch) && holds(2, cw, ch)
	}
	if !ok {
		return &hal.Error{Code: hal.CodeImage, Text: fmt.Sprintf(
			"frame %d %q of %d×%d does not hold its pixels: the source is at fault", f.Seq, f.Name, w, h)}
	}
	return nil
}

const maxSide = 1 << 16
