package haltest

import (
	"encoding/binary"
	"slices"
)

// A Table is a flatbuffer table to write: slot → uint8, uint32, string, []byte,
// []int32, Table or []Table. Everything lies aligned, as TFLite's verifier wants it.
type Table map[int]any

// pad makes len(b)+ahead a multiple of n.
func pad(b []byte, n, ahead int) []byte {
	for (len(b)+ahead)%n != 0 {
		b = append(b, 0)
	}
	return b
}

func putTable(b []byte, t Table) ([]byte, int) {
	n := 0
	for slot := range t {
		n = max(n, slot+1)
	}
	b = pad(b, 8, 4+2*n)
	vt := len(b)
	b = append(b, make([]byte, 4+2*n)...)
	base := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(base-vt))
	type ref struct {
		at int
		v  any
	}
	var refs []ref
	for slot := range n {
		v, ok := t[slot]
		if !ok {
			continue
		}
		if _, small := v.(uint8); !small {
			b = pad(b, 4, 0)
		}
		binary.LittleEndian.PutUint16(b[vt+4+2*slot:], uint16(len(b)-base))
		switch v := v.(type) {
		case uint8:
			b = append(b, v)
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, v)
		default:
			refs = append(refs, ref{len(b), v})
			b = binary.LittleEndian.AppendUint32(b, 0)
		}
	}
	binary.LittleEndian.PutUint16(b[vt:], uint16(4+2*n))
	binary.LittleEndian.PutUint16(b[vt+2:], uint16(len(b)-base))
	for _, r := range refs {
		var to int
		b, to = putRef(b, r.v)
		binary.LittleEndian.PutUint32(b[r.at:], uint32(to-r.at))
	}
	return b, base
}

func putRef(b []byte, v any) ([]byte, int) {
	if t, ok := v.(Table); ok {
		return putTable(b, t)
	}
	b = pad(b, 16, 4) // buffers of weights want 16
	at := len(b)
	switch v := v.(type) {
	case string:
		b = append(append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...), 0)
	case []byte:
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...)
	case []int32:
		b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, uint32(x))
		}
	case []Table:
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), make([]byte, 4*len(v))...)
		for i, x := range v {
			var to int
			b, to = putTable(b, x)
			binary.LittleEndian.PutUint32(b[at+4+4*i:], uint32(to-(at+4+4*i)))
		}
	default:
		panic("unknown value")
	}
	return b, at
}

// Types of tensors in the file format.
const (
	Float32Type = uint8(0)
	Int32Type   = uint8(2)
	Int64Type   = uint8(4)
	StringType  = uint8(5)
	BoolType    = uint8(6)
)

// Operators, by their number in the file format.
const (
	OpAdd           = 0
	OpConcatenation = 2
	OpSVDF          = 27
	OpCustom        = 32
	OpGather        = 36
	OpDiv           = 42
	OpReshape       = 22
	OpWhere         = 109
)

// An Op is the one operator of a model.
type Op struct {
	Code    int
	Version uint32  // 0 means 1
	Custom  string  // name of a custom operator
	In      []int32 // tensors it takes besides the model's inputs
	Options Table
	Kind    uint8   // of the options
	Beside  []Table // subgraphs beside the main one
}

// Tensor is a tensor without data.
func Tensor(name string, kind uint8, shape ...int32) Table {
	return Table{0: shape, 1: kind, 2: uint32(0), 3: name}
}

// Weights is a tensor with data.
func Weights(name string, kind uint8, data []byte, shape ...int32) Table {
	return Table{0: shape, 1: kind, 2: data, 3: name}
}

// TFLite makes a model of one operator: its first tensors are the inputs, the last
// one is the output.
func TFLite(o Op, inputs int, tensors ...Table) []byte {
	buffers := []Table{{}}
	for _, t := range tensors {
		if data, ok := t[2].([]byte); ok {
			t[2] = uint32(len(buffers))
			buffers = append(buffers, Table{0: data})
		}
	}
	var in []int32
	for i := range inputs {
		in = append(in, int32(i))
	}
	out := []int32{int32(len(tensors) - 1)}
	operator := Table{0: uint32(0), 1: slices.Concat(in, o.In), 2: out}
	if o.Options != nil {
		operator[3], operator[4] = o.Kind, o.Options
	}
	code := Table{0: uint8(o.Code), 2: max(1, o.Version), 3: uint32(o.Code)}
	if o.Custom != "" {
		code[1] = o.Custom
	}
	b, at := putTable(append(make([]byte, 4), "TFL3"...), Table{
		0: uint32(3), 1: []Table{code}, 3: "a model for tests", 4: buffers,
		2: append([]Table{{0: tensors, 1: in, 2: out, 3: []Table{operator}, 4: "main"}}, o.Beside...),
	})
	binary.LittleEndian.PutUint32(b, uint32(at))
	return b
}

// CrashingModel divides x by y, two int32 each. Where y is 0, as in memory that
// nobody has filled, TFLite 2.17 dies by SIGFPE.
func CrashingModel() []byte {
	return TFLite(Op{Code: OpDiv}, 2, Tensor("x", Int32Type, 2), Tensor("y", Int32Type, 2), Tensor("z", Int32Type, 2))
}

// FailingModel gives x[i], for four int32 x and two int32 i. Where an i is outside
// 0 to 3, the run fails and the engine lives.
func FailingModel() []byte {
	return TFLite(Op{Code: OpGather}, 2, Tensor("x", Int32Type, 4), Tensor("i", Int32Type, 2), Tensor("y", Int32Type, 2))
}

// CustomModel needs an operator that no runtime has built in.
func CustomModel(operator string) []byte {
	return TFLite(Op{Code: OpCustom, Custom: operator}, 1, Tensor("x", Float32Type, 1), Tensor("y", Float32Type, 1))
}
