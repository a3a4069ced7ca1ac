package iio

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/covey-edge/covey/hal/source/window"
)

// An element is a channel in the records that a device's buffer gives, and how a
// stored value becomes one of the unit that the kernel's ABI says:
// (raw + offset) × scale.
type element struct {
	name          string // "accel_x"
	index         int    // order in a record
	big, signed   bool
	bits, storage int // bits in use, and that are stored: 8, 16, 32 or 64
	shift         int
	scale, offset float64
	at            int // bytes from the begin of a record
}

// parseType reads a file like in_accel_x_type: "le:s12/16>>4", endianness, sign,
// bits in use, bits stored and shift (Documentation/ABI/testing/sysfs-bus-iio).
func (e *element) parseType(s string) error {
	var endian, sign string
	var bits, storage, shift int
	n, err := fmt.Sscanf(s, "%2s:%1s%d/%d>>%d", &endian, &sign, &bits, &storage, &shift)
	if err != nil || n != 5 || endian != "le" && endian != "be" || sign != "s" && sign != "u" {
		return fmt.Errorf("its samples are stored as %.40q, which cannot be read", s)
	}
	if !slices.Contains([]int{8, 16, 32, 64}, storage) || bits < 1 || shift < 0 || bits > storage || shift > storage-bits {
		return fmt.Errorf("its samples are stored as %.40q, which makes no sense", s)
	}
	e.big, e.signed, e.bits, e.storage, e.shift = endian == "be", sign == "s", bits, storage, shift
	return nil
}

// raw is the stored value in a record.
func (e *element) raw(record []byte) int64 {
	var order binary.ByteOrder = binary.LittleEndian
	if e.big {
		order = binary.BigEndian
	}
	var v uint64
	switch b := record[e.at:]; e.storage {
	case 8:
		v = uint64(b[0])
	case 16:
		v = uint64(order.Uint16(b))
	case 32:
		v = uint64(order.Uint32(b))
	default:
		v = order.Uint64(b)
	}
	v = v >> e.shift << (64 - e.bits)
	if e.signed {
		return int64(v) >> (64 - e.bits)
	}
	return int64(v >> (64 - e.bits))
}

// value is what was measured.
func (e *element) value(raw float64) float32 {
	v := float32((raw + e.offset) * e.scale)
	if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
		return 0
	}
	return v
}

// A record is what a buffer gives at a time: all elements in the order of their
// indexes, each at a multiple of its size, and the whole a multiple of the largest.
type record struct {
	elements []element // channels, in the order that was asked for
	stamp    *element  // time in ns; nil: none
	size     int
}

func layout(channels []element, stamp *element) (record, error) {
	r := record{elements: channels, stamp: stamp}
	if len(channels) == 0 || len(channels) > window.MostChannels {
		return r, fmt.Errorf("%d channels: 1 to %d can be read", len(channels), window.MostChannels)
	}
	var order []*element
	for i := range r.elements {
		order = append(order, &r.elements[i])
	}
	if stamp != nil {
		order = append(order, stamp)
	}
	slices.SortStableFunc(order, func(a, b *element) int { return a.index - b.index })
	largest := 1
	for i, e := range order {
		if i > 0 && e.index == order[i-1].index {
			return r, fmt.Errorf("%s and %s have the same place", e.name, order[i-1].name)
		}
		n := e.storage / 8
		largest = max(largest, n)
		e.at = (r.size + n - 1) / n * n
		r.size = e.at + n
	}
	r.size = (r.size + largest - 1) / largest * largest
	return r, nil
}

// parse appends the values of a record, one of each channel, and returns its time,
// 0 when it has none.
func (r *record) parse(dst []float32, b []byte) ([]float32, int64) {
	for i := range r.elements {
		e := &r.elements[i]
		dst = append(dst, e.value(float64(e.raw(b))))
	}
	if r.stamp == nil {
		return dst, 0
	}
	return dst, r.stamp.raw(b)
}
