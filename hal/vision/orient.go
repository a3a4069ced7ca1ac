package vision

import (
	"encoding/binary"

	"github.com/covey-edge/covey/hal"
)

// orientation is how a camera was held when it took a JPEG: the EXIF number from
// 1 (upright) to 8; 1 when the file does not say. It reads markers up to the
// picture itself and never past b.
func orientation(b []byte) int {
	for b = b[2:]; len(b) >= 4 && b[0] == 0xff; {
		marker, n := b[1], 2+int(binary.BigEndian.Uint16(b[2:]))
		if marker == 0xda || n < 4 || n > len(b) {
			break
		}
		if marker == 0xe1 && n > 10 && string(b[4:10]) == "Exif\x00\x00" {
			return tiffOrientation(b[10:n])
		}
		b = b[n:]
	}
	return 1
}

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

// orient turns a frame upright. The number says which way it was stored.
func orient(f *hal.Frame, number int) {
	if number == 1 {
		return
	}
	w, h := f.Width, f.Height
	cw, ch := chromaSize(f.Format, w, h)
	f.Planes[0], f.Strides[0] = turn(f.Planes[0], f.Strides[0], w, h, pixelBytes(f.Format), number)
	if cw > 0 {
		f.Planes[1], _ = turn(f.Planes[1], f.Strides[1], cw, ch, 1, number)
		f.Planes[2], f.Strides[1] = turn(f.Planes[2], f.Strides[2], cw, ch, 1, number)
		f.Strides[2] = f.Strides[1]
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
