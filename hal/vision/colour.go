package vision

import (
	"encoding/binary"
	"fmt"

	"github.com/covey-edge/covey/hal"
)

// A joiner makes pixels of the tensor from the three channels of a row.
type joiner func(pixels []byte, a, b, c []byte)

func joinGrey(pixels []byte, a, _, _ []byte) { copy(pixels, a) }

func joinGreyToRGB(pixels []byte, a, _, _ []byte) {
	for i, v := range a {
		d := pixels[3*i : 3*i+3 : 3*i+3]
		d[0], d[1], d[2] = v, v, v
	}
}

func joinRGB(pixels []byte, a, b, c []byte) {
	b, c = b[:len(a)], c[:len(a)]
	for i := range a {
		d := pixels[3*i : 3*i+3 : 3*i+3]
		d[0], d[1], d[2] = a[i], b[i], c[i]
	}
}

func joinRGBToGrey(pixels []byte, a, b, c []byte) {
	b, c, pixels = b[:len(a)], c[:len(a)], pixels[:len(a)]
	for i := range a {
		pixels[i] = grey(int32(a[i]), int32(b[i]), int32(c[i]))
	}
}

// joinYUV converts full-range BT.601 with the constants of image/color, so that
// both give the same pixels. It is half of the work of a Fill and stands in one
// piece: a call for each pixel would cost more than the conversion.
func joinYUV(pixels []byte, a, b, c []byte) {
	b, c = b[:len(a)], c[:len(a)]
	for i := range a {
		y, cb, cr := int32(a[i])*0x10101, int32(b[i])-128, int32(c[i])-128
		d := pixels[3*i : 3*i+3 : 3*i+3]
		d[0] = clamp((y + 91881*cr) >> 16)
		d[1] = clamp((y - 22554*cb - 46802*cr) >> 16)
		d[2] = clamp((y + 116130*cb) >> 16)
	}
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
