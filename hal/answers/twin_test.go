package answers

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// TestTwin runs one network in two formats on one picture: MobileNet by TFLite, and
// the same weights by ONNX Runtime.
func TestTwin(t *testing.T) {
	const model = "label_image/mobilenet_quant_v1_224.tflite"
	path := filepath.Join(t.TempDir(), "twin.onnx")
	if err := os.WriteFile(path, twin(t, read(t, filepath.Join(haltest.Models(t), model))), 0o600); err != nil {
		t.Fatal(err)
	}
	one, other := open(t, model, hal.Options{Accelerator: hal.XNNPACK}), openFile(t, engine(t, "onnx"), path, hal.Options{Accelerator: hal.CPU})
	for picture, some := range map[string]int{"label_image/peacock.png": 1, "ssd/example.jpg": 5} {
		show(t, one, picture)
		show(t, other, picture)
		run(t, one)
		run(t, other)
		a, b := one.Output(0, 0).Data, other.Output(0, 0).Data
		t.Logf("%s: classes %v and %v, %d of 256 off", picture, best(a, some), best(b, some), off(a, b))
		if len(a) != 1001 || len(b) != 1001 || off(a, b) > 12 || best(a, 1)[0] != best(b, 1)[0] {
			t.Errorf("%s: TFLite says %v, ONNX Runtime %v, %d of 256 off", picture, best(a, some), best(b, some), off(a, b))
		}
	}
}

// best is the n classes of the highest scores.
func best(scores []byte, n int) []int {
	classes := make([]int, len(scores))
	for i := range classes {
		classes[i] = i
	}
	slices.SortStableFunc(classes, func(a, b int) int { return int(scores[b]) - int(scores[a]) })
	return classes[:n]
}

// A layer of MobileNet, as make.py found it.
type layer struct {
	Op            string // "" of a convolution
	Depthwise     bool
	Stride        int
	Weights, Bias weights
	Out           quant
}

type quant struct {
	Scale float64
	Zero  int
}

type weights struct {
	quant
	At    int // in the file
	Shape []int
}

// twin writes MobileNet as ONNX, with the weights of the TFLite file. What is
// quantised there is quantised here, after each layer.
func twin(t *testing.T, file []byte) []byte {
	net := expected[struct {
		In     quant
		Layers []layer
	}](t, "mobilenet.json")
	var g haltest.Graph
	constant := func(name string, kind int, shape []int, data []byte) string {
		g.Weights = append(g.Weights, haltest.Constant{Name: name, Type: kind, Shape: shape, Data: data})
		return name
	}
	node := func(op string, attributes map[string]any, in ...string) string {
		out := fmt.Sprintf("v%d", len(g.Nodes))
		g.Nodes = append(g.Nodes, haltest.Node{Op: op, In: in, Out: []string{out}, Attributes: attributes})
		return out
	}
	scaled := func(op, x string, q quant) string {
		n := len(g.Nodes)
		return node(op, nil, x, constant(fmt.Sprintf("scale%d", n), haltest.ONNXFloat, nil, float32s(q.Scale)),
			constant(fmt.Sprintf("zero%d", n), haltest.ONNXUint8, nil, []byte{byte(q.Zero)}))
	}
	x := scaled("DequantizeLinear", node("Transpose", map[string]any{"perm": []int{0, 3, 1, 2}}, "picture"), net.In)
	for i, l := range net.Layers {
		switch l.Op {
		case "":
			x = node("Conv", convolution(l), x,
				node("Transpose", map[string]any{"perm": order(l)}, scaled("DequantizeLinear",
					constant(fmt.Sprintf("w%d", i), haltest.ONNXUint8, l.Weights.Shape, file[l.Weights.At:][:product(l.Weights.Shape)]), l.Weights.quant)),
				constant(fmt.Sprintf("b%d", i), haltest.ONNXFloat, l.Bias.Shape, bias(file, l.Bias)))
		case "AVERAGE_POOL_2D":
			x = node("GlobalAveragePool", nil, x)
		case "RESHAPE", "SQUEEZE":
			x = node("Flatten", nil, x)
		case "SOFTMAX":
			x = node("Softmax", map[string]any{"axis": 1}, x)
		default:
			t.Fatalf("no twin of %s", l.Op)
		}
		if x = scaled("QuantizeLinear", x, l.Out); i < len(net.Layers)-1 {
			x = scaled("DequantizeLinear", x, l.Out)
		}
	}
	g.In = []haltest.Value{{Name: "picture", Type: haltest.ONNXUint8, Shape: []any{1, 224, 224, 3}}}
	g.Out = []haltest.Value{{Name: x, Type: haltest.ONNXUint8, Shape: []any{1, 1001}}}
	return haltest.ONNX(g)
}

func convolution(l layer) map[string]any {
	kernel, groups := l.Weights.Shape[1:3], 1
	if l.Depthwise {
		groups = l.Weights.Shape[3]
	}
	return map[string]any{"kernel_shape": kernel, "strides": []int{l.Stride, l.Stride}, "group": groups, "auto_pad": "SAME_UPPER"}
}

// order leads from TFLite's weights, [out,h,w,in] or [1,h,w,out], to ONNX's [out,in,h,w].
func order(l layer) []int {
	if l.Depthwise {
		return []int{3, 0, 1, 2}
	}
	return []int{0, 3, 1, 2}
}

// bias is int32 in the file and real numbers here.
func bias(file []byte, b weights) []byte {
	real := make([]float64, product(b.Shape))
	for i := range real {
		real[i] = float64(int32(binary.LittleEndian.Uint32(file[b.At+4*i:]))-int32(b.Zero)) * b.Scale
	}
	return float32s(real...)
}

func float32s(v ...float64) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
	}
	return b
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
