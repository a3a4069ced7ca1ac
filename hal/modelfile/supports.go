package modelfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// Operators that accelerators know, by their numbers in the schema. The lists are
// those of the newest TFLite: an older one knows fewer, so a model that has none
// of them runs on no version.
var (
	// VisitNode in delegates/xnnpack/xnnpack_delegate.cc.
	xnnpackOps = []int{0, 1, 2, 3, 4, 5, 6, 8, 9, 14, 17, 18, 19, 20, 21, 22, 23, 25, 26, 28, 34, 39, 40, 41, 42, 45, 47, 49, 54, 55, 57,
		59, 65, 66, 67, 70, 74, 75, 76, 82, 89, 92, 98, 99, 101, 104, 108, 111, 114, 116, 117, 126, 142, 143, 144, 150}
	xnnpackCustom = []string{"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D"}

	// NewOperationParser in delegates/gpu/common/model_builder.cc.
	gpuOps = []int{0, 1, 2, 3, 4, 5, 6, 8, 9, 14, 16, 17, 18, 19, 21, 22, 23, 25, 26, 28, 34, 36, 39, 40, 41, 42, 45, 47, 49, 53, 54, 55,
		57, 58, 59, 61, 62, 63, 65, 66, 67, 69, 71, 72, 73, 74, 75, 76, 78, 81, 82, 83, 85, 88, 89, 90, 92, 95, 97, 98, 99, 100, 101,
		102, 108, 111, 114, 117, 123, 126, 128, 150}
	gpuCustom = append([]string{"Resampler"}, xnnpackCustom...)
)

// computed is the types of values that both of them compute with.
var computed = []hal.DType{hal.Float32, hal.Float16, hal.Int8, hal.Uint8}

// Supports says whether an accelerator could run at least a part of a .tflite
// model, from its operators alone: E_ACCEL when it cannot, nil when nothing speaks
// against it. Whether it does, and is faster, only opening it tells.
func (m *Model) Supports(a hal.Accelerator) error {
	if m.Format != FormatTFLite {
		return nil
	}
	compiled := m.any(func(o OpCode, _ hal.DType) bool { return o.Builtin == OpCustom && o.Custom == edgeTPUOp })
	refuse := func(format string, args ...any) error {
		return &hal.Error{Code: hal.CodeAccel, Text: fmt.Sprintf(format, args...)}
	}
	switch {
	case a == hal.Auto, a == "":
		return nil
	case a == hal.EdgeTPU && !compiled:
		return refuse("model is not compiled for an Edge TPU: run edgetpu_compiler on it, or use another accelerator")
	case a == hal.EdgeTPU:
		return nil
	case compiled:
		return refuse("model is compiled for an Edge TPU and runs on nothing else: give %s the file it was compiled from (without _edgetpu)", a)
	case a == hal.XNNPACK && !m.any(known(xnnpackOps, xnnpackCustom)), a == hal.GPU && !m.any(known(gpuOps, gpuCustom)):
		return refuse("%s knows none of the model's %d operators: use cpu", a, m.operators())
	case a == hal.CPU, a == hal.XNNPACK, a == hal.GPU, strings.HasPrefix(string(a), "external:"):
		return nil
	}
	return refuse("%s does not run .tflite files: convert the model to .onnx, or use another accelerator", a)
}

func known(ops []int, custom []string) func(OpCode, hal.DType) bool {
	return func(o OpCode, gives hal.DType) bool {
		if !slices.Contains(computed, gives) {
			return false
		}
		return slices.Contains(ops, o.Builtin) || o.Builtin == OpCustom && slices.Contains(custom, o.Custom)
	}
}

// any says whether f holds for an operator of any graph and the type of the first
// value that it gives.
func (m *Model) any(f func(o OpCode, gives hal.DType) bool) bool {
	for _, g := range m.Subgraphs {
		for _, o := range g.Operators {
			gives := hal.DTypeNone
			if len(o.Outputs) > 0 && o.Outputs[0] >= 0 {
				gives = g.Tensors[o.Outputs[0]].Type
			}
			if f(m.OpCodes[o.Code], gives) {
				return true
			}
		}
	}
	return false
}

func (m *Model) operators() (n int) {
	for _, g := range m.Subgraphs {
		n += len(g.Operators)
	}
	return n
}
