package modelfile

import (
	"strings"

	"github.com/covey-edge/covey/hal"
)

// Quantisation is what the main graph keeps its weights and values as: "int8",
// "uint8", "int16" (weights of 8 bits, values of 16), "dynamic" (weights of 8 bits,
// values of float32), "float16", "float32"; "" where that cannot be told.
func (m *Model) Quantisation() string {
	weights := m.most(func(t Tensor) int {
		if n, ok := elements(t.Shape); t.Constant && ok {
			return int(min(n, 1<<40))
		}
		return 0
	})
	values := m.most(func(t Tensor) int {
		if t.Constant {
			return 0
		}
		return 1
	})
	if m.ONNX != nil {
		return m.onnxQuantisation(weights)
	}
	switch {
	case weights == hal.Float16, weights == hal.Float32:
		return weights.String()
	case weights != hal.Int8 && weights != hal.Uint8:
		return ""
	case values == hal.Float32:
		return "dynamic"
	case values == hal.Int16:
		return "int16"
	}
	return weights.String()
}

// onnxQuantisation goes by operators: between those that quantise, an ONNX graph has
// values of float32 in any case.
func (m *Model) onnxQuantisation(weights hal.DType) string {
	static, dynamic := false, false
	for _, c := range m.OpCodes {
		dynamic = dynamic || c.Name == "DynamicQuantizeLinear"
		static = static || strings.HasPrefix(c.Name, "QLinear") || c.Name == "QuantizeLinear"
	}
	switch weights {
	case hal.Float16, hal.Float32:
		return weights.String()
	case hal.Int8, hal.Uint8:
		if dynamic || !static {
			return "dynamic"
		}
		return weights.String()
	}
	return ""
}

// most is the type that has the most by count, of those that weights and values are
// kept as.
func (m *Model) most(count func(Tensor) int) hal.DType {
	sum := map[hal.DType]int{}
	for _, t := range m.Main().Tensors {
		sum[t.Type] += count(t)
	}
	best := hal.DTypeNone
	for _, t := range []hal.DType{hal.Float32, hal.Float16, hal.Int8, hal.Uint8, hal.Int16} {
		if sum[t] > sum[best] || best == hal.DTypeNone && sum[t] > 0 {
			best = t
		}
	}
	return best
}
