package haltest

import (
	"encoding/binary"
	"math"
)

// A Graph is an ONNX model to write.
type Graph struct {
	IR, Opset  int // 0 means 8 and 17
	Domains    []string
	Nodes      []Node
	Weights    []Constant
	In, Out    []Value
	Properties [][2]string
}

// A Node is an operator. Attributes are int, float32, []int, string or Graph.
type Node struct {
	Op, Domain string
	In, Out    []string
	Attributes map[string]any
}

// A Constant is a tensor with its value, as raw bytes.
type Constant struct {
	Name     string
	Type     int
	Shape    []int
	Data     []byte
	External bool // the value is said to be in another file
}

// A Value is an input or an output. A dimension is an int, a name, or nil.
type Value struct {
	Name  string
	Type  int // of the elements; one of the kinds below makes it no tensor
	Shape []any
}

// Types of elements in ONNX, and kinds of values that are no tensors.
const (
	ONNXFloat   = 1
	ONNXUint8   = 2
	ONNXInt8    = 3
	ONNXInt32   = 6
	ONNXInt64   = 7
	ONNXString  = 8
	ONNXBool    = 9
	ONNXFloat16 = 10
	ONNXDouble  = 11
	ONNXBFloat  = 16

	ONNXSequence = 104
	ONNXOptional = 109
)

// fieldInt and fieldBytes append a field of a protobuf message.
func fieldInt(b []byte, number int, v int64) []byte {
	b = binary.AppendUvarint(b, uint64(number)<<3)
	return binary.AppendUvarint(b, uint64(v))
}

func fieldBytes[T string | []byte](b []byte, number int, v T) []byte {
	b = binary.AppendUvarint(b, uint64(number)<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// ONNX writes a model.
func ONNX(g Graph) []byte {
	or := func(v, other int) int64 {
		if v == 0 {
			v = other
		}
		return int64(v)
	}
	b := fieldInt(nil, 1, or(g.IR, 8))
	b = fieldBytes(b, 2, "haltest")
	b = fieldBytes(b, 7, g.bytes())
	b = fieldBytes(b, 8, fieldInt(nil, 2, or(g.Opset, 17)))
	for _, d := range g.Domains {
		b = fieldBytes(b, 8, fieldInt(fieldBytes(nil, 1, d), 2, 1))
	}
	for _, p := range g.Properties {
		b = fieldBytes(b, 14, fieldBytes(fieldBytes(nil, 1, p[0]), 2, p[1]))
	}
	return b
}

// bytes is the GraphProto.
func (g Graph) bytes() []byte {
	var b []byte
	for _, n := range g.Nodes {
		b = fieldBytes(b, 1, n.bytes())
	}
	b = fieldBytes(b, 2, "graph")
	for _, w := range g.Weights {
		b = fieldBytes(b, 5, w.bytes())
	}
	for _, v := range g.In {
		b = fieldBytes(b, 11, v.bytes())
	}
	for _, v := range g.Out {
		b = fieldBytes(b, 12, v.bytes())
	}
	return b
}

func (n Node) bytes() []byte {
	var b []byte
	for _, in := range n.In {
		b = fieldBytes(b, 1, in)
	}
	for _, out := range n.Out {
		b = fieldBytes(b, 2, out)
	}
	b = fieldBytes(b, 4, n.Op)
	for name, v := range n.Attributes {
		a := fieldBytes(nil, 1, name)
		kind := int64(0)
		switch v := v.(type) {
		case float32:
			a = binary.LittleEndian.AppendUint32(append(a, 2<<3|5), math.Float32bits(v))
			kind = 1
		case int:
			a, kind = fieldInt(a, 3, int64(v)), 2
		case string:
			a, kind = fieldBytes(a, 4, v), 3
		case Graph:
			a, kind = fieldBytes(a, 6, v.bytes()), 5
		case []int:
			for _, x := range v {
				a = fieldInt(a, 8, int64(x))
			}
			kind = 7
		default:
			panic("unknown attribute")
		}
		b = fieldBytes(b, 5, fieldInt(a, 20, kind))
	}
	if n.Domain != "" {
		b = fieldBytes(b, 7, n.Domain)
	}
	return b
}

func (c Constant) bytes() []byte {
	var b []byte
	for _, d := range c.Shape {
		b = fieldInt(b, 1, int64(d))
	}
	b = fieldInt(b, 2, int64(c.Type))
	b = fieldBytes(b, 8, c.Name)
	if c.External {
		b = fieldBytes(b, 13, fieldBytes(fieldBytes(nil, 1, "location"), 2, "weights.bin"))
		return fieldInt(b, 14, 1)
	}
	return fieldBytes(b, 9, c.Data)
}

func (v Value) bytes() []byte {
	var shape []byte
	for _, d := range v.Shape {
		var dim []byte
		switch d := d.(type) {
		case int:
			dim = fieldInt(nil, 1, int64(d))
		case string:
			dim = fieldBytes(nil, 2, d)
		}
		shape = fieldBytes(shape, 1, dim)
	}
	element := v.Type
	if element > 100 {
		element = ONNXFloat
	}
	kind := fieldBytes(nil, 1, fieldBytes(fieldInt(nil, 1, int64(element)), 2, shape))
	if v.Type > 100 { // a sequence or an optional value of tensors
		kind = fieldBytes(nil, v.Type-100, fieldBytes(nil, 1, kind))
	}
	return fieldBytes(fieldBytes(nil, 1, v.Name), 2, kind)
}

// CrashingONNX divides x by y, two int32 each; where y is 0, ONNX Runtime dies by
// SIGFPE on x86-64.
func CrashingONNX() []byte {
	two := func(name string) Value { return Value{name, ONNXInt32, []any{2}} }
	return ONNX(Graph{Nodes: []Node{{Op: "Div", In: []string{"x", "y"}, Out: []string{"z"}}},
		In: []Value{two("x"), two("y")}, Out: []Value{two("z")}})
}

// FailingONNX gives x[i], for four int32 x and two int64 i. Where an i is outside
// -4 to 3, the run fails and the engine lives.
func FailingONNX() []byte {
	return ONNX(Graph{Nodes: []Node{{Op: "Gather", In: []string{"x", "i"}, Out: []string{"y"}}},
		In:  []Value{{"x", ONNXInt32, []any{4}}, {"i", ONNXInt64, []any{2}}},
		Out: []Value{{"y", ONNXInt32, []any{2}}}})
}
