package vision

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/covey-edge/covey/hal"
)

// A tensor is the model's input: its size, and what is stored for a pixel.
type tensor struct {
	width, height, channels int
	element                 int  // bytes
	planar                  bool // a plane a channel (NCHW) instead of channels that lie together (NHWC)
	swap                    bool // the first channel is blue

	table [3][256]uint32 // what is stored for each value, by channel
	plain bool           // nothing but bytes, xor flip
	flip  byte
}

// pictureOf reads the shape of a picture out of a tensor's, with h = 0 for what is
// none. Sizes are bounded so that no table can overflow.
func pictureOf(s []int) (t tensor) {
	colours := func(n int) bool { return n == 1 || n == 3 }
	if len(s) == 4 && s[0] == 1 {
		s = s[1:]
	}
	switch {
	case len(s) != 3:
		return tensor{}
	case colours(s[2]):
		t = tensor{height: s[0], width: s[1], channels: s[2]}
	case colours(s[0]):
		t = tensor{height: s[1], width: s[2], channels: s[0], planar: s[0] > 1}
	}
	const most = 1 << 14
	if t.height < 1 || t.width < 1 || t.height > most || t.width > most {
		return tensor{}
	}
	return t
}

// newTensor is E_SHAPE for what is no picture.
func newTensor(info hal.TensorInfo, o Options) (tensor, error) {
	t := pictureOf(info.Shape)
	switch info.Type {
	case hal.Uint8, hal.Int8, hal.Int16, hal.Float16, hal.Float32:
	default:
		t.height = 0
	}
	if t.height == 0 {
		return t, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
			"model wants %v %s in input %.60q, which is no picture: use a model whose input is [1,height,width,1 or 3] or [1,1 or 3,height,width] of uint8, int8, int16, float16 or float32",
			info.Shape, info.Type, info.Name)}
	}
	t.element, t.swap = info.Type.Size(), o.BGR && t.channels == 3
	return t, t.makeTables(info, o)
}

// size is the tensor's, in bytes.
func (t *tensor) size() int { return t.width * t.height * t.channels * t.element }

// makeTables computes what is stored for each value of a pixel, a channel each.
func (t *tensor) makeTables(info hal.TensorInfo, o Options) error {
	raw := t.element == 1 && len(o.Std) == 0 && len(o.Mean) == 0
	for c := range t.channels {
		mean, err1 := perChannel(o.Mean, c, t.channels, 127.5)
		std, err2 := perChannel(o.Std, c, t.channels, 127.5)
		if err1 != nil || err2 != nil || std == 0 {
			return &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
				"mean %v and std %v do not fit a picture of %d channels: give one value or one a channel, std not 0", o.Mean, o.Std, t.channels)}
		}
		for v := range 256 {
			switch real := (float32(v) - mean) / std; {
			case raw && info.Type == hal.Int8:
				t.table[c][v] = uint32(uint8(v - 128))
			case raw:
				t.table[c][v] = uint32(v)
			default:
				t.table[c][v] = store(real, info)
			}
		}
	}
	if t.plain = t.element == 1 && !t.planar && !t.swap; t.plain {
		t.flip = byte(t.table[0][0])
	}
	for c := range t.channels {
		for v, stored := range t.table[c] {
			t.plain = t.plain && byte(stored) == byte(v)^t.flip
		}
	}
	return nil
}

// perChannel is the value for channel c of a list that has none, one, or one a
// channel.
func perChannel(list []float32, c, channels int, none float32) (float32, error) {
	switch len(list) {
	case 0:
		return none, nil
	case 1:
		return list[0], nil
	case channels:
		return list[c], nil
	}
	return 0, fmt.Errorf("%d values", len(list))
}

// store is the bits of a real number in a tensor.
func store(real float32, info hal.TensorInfo) uint32 {
	var lo, hi float64
	switch info.Type {
	case hal.Float32:
		return math.Float32bits(real)
	case hal.Float16:
		return uint32(float16(real))
	case hal.Uint8:
		lo, hi = 0, math.MaxUint8
	case hal.Int8:
		lo, hi = math.MinInt8, math.MaxInt8
	case hal.Int16:
		lo, hi = math.MinInt16, math.MaxInt16
	}
	scale, zero := float32(1), int32(0)
	if len(info.Quant.Scale) > 0 && len(info.Quant.ZeroPoint) > 0 && info.Quant.Scale[0] != 0 {
		scale, zero = info.Quant.Scale[0], info.Quant.ZeroPoint[0]
	}
	q := math.RoundToEven(float64(real/scale)) + float64(zero)
	return uint32(int32(max(lo, min(hi, q)))) & (1<<(8*info.Type.Size()) - 1)
}

// float16 rounds to the nearest half-precision number (IEEE 754 binary16), ties to
// even. Numbers too large become infinite, NaN stays NaN.
func float16(f float32) uint16 {
	b := math.Float32bits(f)
	sign, a := uint16(b>>16&0x8000), b&^(1<<31)
	switch {
	case a > 0x7f800000:
		return sign | 0x7e00
	case a >= 0x477ff000: // 65520 rounds up to what there is none of
		return sign | 0x7c00
	case a < 0x38800000: // subnormal: in steps of 2^-24
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(a))*(1<<24)))
	}
	a -= 112 << 23 // the exponent's bias is 15 instead of 127
	return sign | uint16((a+0xfff+a>>13&1)>>13)
}

// put stores a row of pixels, RGB or grey, as row y of the tensor.
func (t *tensor) put(dst, row []byte, y int) {
	if t.planar {
		for c := range t.channels {
			n := t.width * t.element
			from := c
			if t.swap {
				from = 2 - c
			}
			t.putPlane(dst[(c*t.height+y)*n:][:n], row[from:], c)
		}
		return
	}
	dst = dst[y*len(row)*t.element:][:len(row)*t.element]
	if t.channels == 1 {
		t.putPlane(dst, row, 0)
		return
	}
	a, b, c := &t.table[0], &t.table[1], &t.table[2]
	first, third := 0, 2
	if t.swap {
		first, third = 2, 0
	}
	switch t.element {
	case 1:
		for ; len(row) >= 3 && len(dst) >= 3; row, dst = row[3:], dst[3:] {
			dst[0], dst[1], dst[2] = byte(a[row[first]]), byte(b[row[1]]), byte(c[row[third]])
		}
	case 2:
		for ; len(row) >= 3 && len(dst) >= 6; row, dst = row[3:], dst[6:] {
			binary.LittleEndian.PutUint16(dst, uint16(a[row[first]]))
			binary.LittleEndian.PutUint16(dst[2:], uint16(b[row[1]]))
			binary.LittleEndian.PutUint16(dst[4:], uint16(c[row[third]]))
		}
	case 4:
		for ; len(row) >= 3 && len(dst) >= 12; row, dst = row[3:], dst[12:] {
			binary.LittleEndian.PutUint32(dst, a[row[first]])
			binary.LittleEndian.PutUint32(dst[4:], b[row[1]])
			binary.LittleEndian.PutUint32(dst[8:], c[row[third]])
		}
	}
}

// putPlane stores every channels-th byte of a row, through the table of channel c.
func (t *tensor) putPlane(dst, row []byte, c int) {
	table, step := &t.table[c], t.channels
	switch t.element {
	case 1:
		for i, j := 0, 0; i < len(dst) && j < len(row); i, j = i+1, j+step {
			dst[i] = byte(table[row[j]])
		}
	case 2:
		for j := 0; len(dst) >= 2 && j < len(row); dst, j = dst[2:], j+step {
			binary.LittleEndian.PutUint16(dst, uint16(table[row[j]]))
		}
	case 4:
		for j := 0; len(dst) >= 4 && j < len(row); dst, j = dst[4:], j+step {
			binary.LittleEndian.PutUint32(dst, table[row[j]])
		}
	}
}

// xor flips bits of every byte.
func xor(b []byte, flip byte) {
	word := uint64(flip) * 0x0101010101010101
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^word)
	}
	for i := range b {
		b[i] ^= flip
	}
}
