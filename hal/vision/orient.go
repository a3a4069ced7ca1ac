package vision

import (
	"encoding/binary"

	"github.com/covey-edge/covey/hal"
)

// tiffOrientation looks the orientation up in the first directory of a TIFF header.
func tiffOrientation(b []byte) int {
	const entry, orientationTag, short = 12, 0x0112, 3
	if len(b) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.LittleEndian
	if string(b[:2]) == "MM" {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(b[4:]))
	if at+2 > int64(len(b)) {
		return 1
	}
	n := int(order.Uint16(b[at:]))
	for b = b[at+2:]; n > 0 && len(b) >= entry; n, b = n-1, b[entry:] {
		if order.Uint16(b) == orientationTag && order.Uint16(b[2:]) == short {
			if v := int(order.Uint16(b[8:])); v >= 1 && v <= 8 {
				return v
			}
		}
	}
	return 1
}

// Orient turns a frame upright, of any format but YUYV. The number says which way
// it was stored: the EXIF orientation, 1 for upright.
func Orient(f *hal.Frame, number int) {
	if number == 1 {
		return
	}
	w, h := f.Width, f.Height
	for _, c := range channelsOf(f.Format) {
		if c.offset == 0 { // the first of its plane: the others are turned with it
			cw, ch := c.size(w, h)
			f.Planes[c.plane], f.Strides[c.plane] = turn(f.Planes[c.plane], f.Strides[c.plane], cw, ch, c.step, number)
		}
	}
	if number >= 5 {
		f.Width, f.Height = h, w
		switch f.Format {
		case hal.FormatYUV422:
			f.Format = hal.FormatYUV440
		case hal.FormatYUV440:
			f.Format = hal.FormatYUV422
		}
	}
}

// turn returns a turned copy of a plane of w×h pixels of n bytes, and its stride.
func turn(src []byte, stride, w, h, n, number int) (dst []byte, dstStride int) {
	dw, dh := w, h
	if number >= 5 {
		dw, dh = h, w
	}
	dst = make([]byte, dw*dh*n)
	for y := range dh {
		for x := range dw {
			sx, sy := x, y
			if number >= 5 {
				sx, sy = y, x
			}
			switch number {
			case 2, 3, 7, 8: // from right to left
				sx = w - 1 - sx
			}
			switch number {
			case 3, 4, 6, 7: // from below
				sy = h - 1 - sy
			}
			copy(dst[(y*dw+x)*n:(y*dw+x+1)*n], src[sy*stride+sx*n:])
		}
	}
	return dst, dw * n
}
