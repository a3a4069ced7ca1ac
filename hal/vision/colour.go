package vision

// A joiner makes pixels, RGB or grey, from the channels of a row.
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

// grey is the luma of image/color.
func grey(r, g, b int32) byte { return byte((19595*r + 38470*g + 7471*b + 1<<15) >> 16) }

// A matrix converts Y, U, V to red, green, blue, in 65536ths (ITU-R BT.601).
type matrix struct {
	y, bias        int32
	rv, gu, gv, bu int32
}

var (
	// fullRange has the constants of image/color, so that both give the same pixels.
	fullRange = matrix{y: 0x10101, rv: 91881, gu: 22554, gv: 46802, bu: 116130}
	// limitedRange also brings luma from 16–235, and chroma from 16–240, to 0–255.
	limitedRange = matrix{y: 76309, bias: 1<<15 - 16*76309, rv: 104597, gu: 25675, gv: 53279, bu: 132201}
)

// join is half of the work of a Fill and stands in one piece: a call for each
// pixel would cost more than the conversion.
func (m matrix) join(pixels []byte, a, b, c []byte) {
	b, c = b[:len(a)], c[:len(a)]
	for i := range a {
		y, u, v := int32(a[i])*m.y+m.bias, int32(b[i])-128, int32(c[i])-128
		d := pixels[3*i : 3*i+3 : 3*i+3]
		d[0] = clamp((y + m.rv*v) >> 16)
		d[1] = clamp((y - m.gu*u - m.gv*v) >> 16)
		d[2] = clamp((y + m.bu*u) >> 16)
	}
}

func clamp(v int32) byte {
	if uint32(v) > 255 {
		return byte(^(v >> 31)) // 0 below, 255 above
	}
	return byte(v)
}

// widen brings luma of limited range to 0–255, and goes on to join.
func widen(join joiner) joiner {
	var table [256]byte
	for v := range table {
		table[v] = clamp((int32(v)*limitedRange.y + limitedRange.bias) >> 16)
	}
	return func(pixels []byte, a, b, c []byte) {
		for i, v := range a {
			a[i] = table[v]
		}
		join(pixels, a, b, c)
	}
}
