package task

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/covey-edge/covey/hal"
)

// A reader gives the elements of a tensor as real numbers.
type reader struct {
	size  int // bytes of an element
	scale float64
	zero  float64
	at    func(b []byte) float64
}

// newReader returns a reader for a tensor; ok is false for types without numbers.
func newReader(t hal.TensorInfo) (r reader, ok bool) {
	le := binary.LittleEndian
	r = reader{size: t.Type.Size(), scale: 1}
	if len(t.Quant.Scale) == 1 && len(t.Quant.ZeroPoint) == 1 && t.Quant.Scale[0] != 0 {
		r.scale, r.zero = float64(t.Quant.Scale[0]), float64(t.Quant.ZeroPoint[0])
	}
	switch t.Type {
	case hal.Float32:
		r.at = func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) }
	case hal.Float64:
		r.at = func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) }
	case hal.Uint8, hal.Bool:
		r.at = func(b []byte) float64 { return float64(b[0]) }
	case hal.Int8:
		r.at = func(b []byte) float64 { return float64(int8(b[0])) }
	case hal.Int16:
		r.at = func(b []byte) float64 { return float64(int16(le.Uint16(b))) }
	case hal.Uint16:
		r.at = func(b []byte) float64 { return float64(le.Uint16(b)) }
	case hal.Int32:
		r.at = func(b []byte) float64 { return float64(int32(le.Uint32(b))) }
	case hal.Uint32:
		r.at = func(b []byte) float64 { return float64(le.Uint32(b)) }
	case hal.Int64:
		r.at = func(b []byte) float64 { return float64(int64(le.Uint64(b))) }
	case hal.Uint64:
		r.at = func(b []byte) float64 { return float64(le.Uint64(b)) }
	default:
		return reader{}, false
	}
	return r, true
}

// real is element i of b.
func (r reader) real(b []byte, i int) float64 {
	return (r.at(b[i*r.size:]) - r.zero) * r.scale
}

func float(b []byte, i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}

func shapeError(format string, args ...any) error {
	return &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(format, args...) + ": use task raw, or another model"}
}
