package modelfile

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// Limits of Check: what the runtime at hand can do and may use. The zero value
// fits TFLite on the CPU.
type Limits struct {
	TensorBytes int64    // of one tensor; 0 means 256 MiB
	Custom      []string // custom operators that are allowed besides DetectionPostProcess
	EdgeTPU     bool     // an Edge TPU and its delegate are here
	Runtime     string   // the runtime's version, "2.17.1"; "" is not compared
}

const defaultTensorBytes = 256 << 20

// Check says whether a runtime may be given the file, before it sees it. The
// error is an *hal.Error: E_ACCEL, E_OP, E_TENSOR or E_RUNTIME.
func (m *Model) Check(l Limits) error {
	if l.TensorBytes == 0 {
		l.TensorBytes = defaultTensorBytes
	}
	if m.ONNX != nil {
		return m.checkONNX(l)
	}
	if err := m.checkOps(l); err != nil {
		return err
	}
	for _, g := range m.Subgraphs {
		for i, t := range g.Tensors {
			if err := checkTensor(i, t, l.TensorBytes); err != nil {
				return err
			}
		}
	}
	if l.Runtime != "" && m.MinRuntime != "" && older(l.Runtime, m.MinRuntime) {
		return &hal.Error{Code: hal.CodeRuntime, Text: fmt.Sprintf(
			"model needs runtime %s or newer, this is %s: update the runtime or convert the model with older operators", m.MinRuntime, l.Runtime)}
	}
	return nil
}

// checkOps looks at the operators that graphs use; what is only listed does no harm.
func (m *Model) checkOps(l Limits) error {
	allowed := append([]string{DetectionPostProcess}, l.Custom...)
	for _, g := range m.Subgraphs {
		for i, o := range g.Operators {
			code := m.OpCodes[o.Code]
			switch {
			case code.Builtin != OpCustom || slices.Contains(allowed, code.Custom):
			case code.Custom == edgeTPUOp && l.EdgeTPU:
			case code.Custom == edgeTPUOp:
				return &hal.Error{Code: hal.CodeAccel, Text: "model is compiled for an Edge TPU and none can be used here: " +
					"give the file it was compiled from (without _edgetpu), or a release with both"}
			case strings.HasPrefix(code.Custom, "Flex"):
				return opError(code.Custom, i, "convert the model without TensorFlow (Flex) operators")
			default:
				return opError(code.Custom, i, "convert the model with built-in operators only")
			}
		}
	}
	return nil
}

func opError(name string, index int, fix string) error {
	return &hal.Error{Code: hal.CodeOp, Text: fmt.Sprintf("custom operator %.60q (op %d) is not allowed: %s", name, index, fix)}
}

func checkTensor(index int, t Tensor, limit int64) error {
	bytes := math.Inf(1)
	if n, ok := elements(t.Shape); ok {
		bytes = float64(n) * elementSize(t.Type)
	}
	if bytes <= float64(limit) {
		return nil
	}
	return &hal.Error{Code: hal.CodeTensor, Text: fmt.Sprintf(
		"tensor %d %.40q %v needs %s, limit %s: make the model's input smaller or raise the limit",
		index, t.Name, t.Shape, size(bytes), size(float64(limit)))}
}

// elements multiplies dims; ok is false when that does not fit 62 bits.
func elements(dims []int) (n int64, ok bool) {
	n = 1
	for _, d := range dims {
		if d == 0 {
			return 0, true
		}
	}
	for _, d := range dims {
		if n > (1<<62)/int64(d) {
			return 0, false
		}
		n *= int64(d)
	}
	return n, true
}

func elementSize(t hal.DType) float64 {
	if t == hal.Int4 {
		return 0.5
	}
	return max(1, float64(t.Size()))
}

func size(bytes float64) string {
	switch {
	case math.IsInf(bytes, 1):
		return "more bytes than can be counted"
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", bytes/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", math.Ceil(bytes/(1<<20)))
}

// older compares dotted versions by number; what is no number counts as 0.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var v, w int
		if i < len(x) {
			v, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			w, _ = strconv.Atoi(y[i])
		}
		if v != w {
			return v < w
		}
	}
	return false
}
