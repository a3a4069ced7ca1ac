package hal

import "fmt"

// A DType is the type of a tensor's elements.
type DType uint8

const (
	DTypeNone DType = iota
	Float32
	Float16
	Float64
	Int8
	Uint8
	Int16
	Uint16
	Int32
	Uint32
	Int64
	Uint64
	Bool
	Int4 // two elements a byte
	String
	Complex64
	Resource
	Variant
)

var dtypes = [...]struct {
	name string
	size int
}{
	DTypeNone: {"none", 0}, Float32: {"float32", 4}, Float16: {"float16", 2}, Float64: {"float64", 8},
	Int8: {"int8", 1}, Uint8: {"uint8", 1}, Int16: {"int16", 2}, Uint16: {"uint16", 2},
	Int32: {"int32", 4}, Uint32: {"uint32", 4}, Int64: {"int64", 8}, Uint64: {"uint64", 8},
	Bool: {"bool", 1}, Int4: {"int4", 0}, String: {"string", 0}, Complex64: {"complex64", 8},
	Resource: {"resource", 0}, Variant: {"variant", 0},
}

// String is the type's name, as in "uint8".
func (t DType) String() string {
	if int(t) < len(dtypes) {
		return dtypes[t].name
	}
	return fmt.Sprintf("dtype(%d)", uint8(t))
}

// Size is the number of bytes of one element, 0 where that is not a whole
// number or not fixed (int4, string).
func (t DType) Size() int {
	if int(t) < len(dtypes) {
		return dtypes[t].size
	}
	return 0
}

// ParseDType is the inverse of String; DTypeNone for a name it does not know.
func ParseDType(name string) DType {
	for t, d := range dtypes {
		if d.name == name {
			return DType(t)
		}
	}
	return DTypeNone
}

// Quant maps stored integers to real numbers: real = (stored - ZeroPoint) * Scale.
// Per tensor: one element each. Per channel: one per index of dimension Dim.
// Empty Scale: the tensor is not quantised.
type Quant struct {
	Scale     []float32 `json:"scale,omitempty"`
	ZeroPoint []int32   `json:"zero_point,omitempty"`
	Dim       int       `json:"dim,omitempty"`
}

// TensorInfo describes an input or an output of a model. A dimension of -1 in
// Shape is known only at run time.
type TensorInfo struct {
	Name  string `json:"name"`
	Type  DType  `json:"type"`
	Shape []int  `json:"shape"`
	Quant Quant  `json:"quant,omitzero"`
}

// Elements is the number of elements, or -1 when a dimension is not known.
func (t TensorInfo) Elements() int {
	n := 1
	for _, d := range t.Shape {
		if d < 0 {
			return -1
		}
		n *= d
	}
	return n
}

// A Tensor is the value of one output of one run: bytes and their shape. Both
// are valid until the next Run of the same buffer.
type Tensor struct {
	Info  *TensorInfo
	Shape []int // of this run
	Data  []byte
}

// MarshalText writes the type's name, so that JSON says "uint8".
func (t DType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the type's name.
func (t *DType) UnmarshalText(b []byte) error {
	*t = ParseDType(string(b))
	if *t == DTypeNone && string(b) != "none" {
		return fmt.Errorf("unknown tensor type %q", b)
	}
	return nil
}
