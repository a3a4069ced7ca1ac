package release

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/covey-edge/covey/hal"
)

// Compare holds output i of a golden sample against what was expected: the bytes
// of the tensor, in the machine's order (little-endian). No element may differ by
// more than tolerance, in real units: what is quantised per tensor is dequantised.
// The error is E_GOLDEN, or E_SHAPE when the sizes differ.
func Compare(i int, got hal.Tensor, want []byte, tolerance float64) error {
	info := got.Info
	if len(got.Data) != len(want) {
		return coded(hal.CodeShape, "golden output %d (%s) has %d bytes, expected %d", i, info.Name, len(got.Data), len(want))
	}
	size := info.Type.Size()
	if size == 0 {
		return coded(hal.CodeShape, "golden output %d (%s) has type %s, which cannot be compared", i, info.Name, info.Type)
	}
	for at := 0; at+size <= len(want); at += size {
		g, w := real(info, got.Data[at:]), real(info, want[at:])
		// NaN expected and given is right; the negation makes any other NaN wrong.
		if !(math.Abs(g-w) <= tolerance) && g != w && !(math.IsNaN(g) && math.IsNaN(w)) {
			return coded(hal.CodeGolden, "golden output %d (%s) element %d is %.6g, expected %.6g ± %g: the model answers otherwise here than where it was made",
				i, info.Name, at/size, g, w, tolerance)
		}
	}
	return nil
}

// real is the value of the first element of b.
func real(info *hal.TensorInfo, b []byte) float64 {
	var v float64
	switch le := binary.LittleEndian; info.Type {
	case hal.Float32:
		return float64(math.Float32frombits(le.Uint32(b)))
	case hal.Float64:
		return math.Float64frombits(le.Uint64(b))
	case hal.Int8:
		v = float64(int8(b[0]))
	case hal.Uint8, hal.Bool:
		v = float64(b[0])
	case hal.Int16:
		v = float64(int16(le.Uint16(b)))
	case hal.Uint16, hal.Float16:
		v = float64(le.Uint16(b)) // half floats: equal or not
	case hal.Int32:
		v = float64(int32(le.Uint32(b)))
	case hal.Uint32:
		v = float64(le.Uint32(b))
	case hal.Int64:
		v = float64(int64(le.Uint64(b)))
	default:
		v = float64(le.Uint64(b))
	}
	if len(info.Quant.Scale) == 1 && len(info.Quant.ZeroPoint) == 1 {
		v = (v - float64(info.Quant.ZeroPoint[0])) * float64(info.Quant.Scale[0])
	}
	return v
}

// CompareLabel holds the label that came first against the expected one.
func CompareLabel(got, want string) error {
	if got == want {
		return nil
	}
	return &hal.Error{Code: hal.CodeGolden, Text: fmt.Sprintf("top-1 %q expected %q: labels or weights are not the right ones", got, want)}
}
