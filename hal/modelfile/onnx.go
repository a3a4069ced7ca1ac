package modelfile

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// ONNX is what only an .onnx file says about itself.
type ONNX struct {
	IR         int               // version of the format
	Producer   string            // "pytorch 2.4.0"
	Opsets     map[string]int    // set of operators by its domain; "" is ONNX's own
	Functions  []string          // domains of the functions that the file brings along
	Properties map[string]string // what its maker wrote into it: "names", "imgsz"
	External   bool              // weights lie in files beside it
}

// Formats of model files.
const (
	FormatTFLite = "tflite"
	FormatONNX   = "onnx"
)

// Limits on what an .onnx file may hold, besides those of all files.
const (
	maxOpsets     = 64
	maxProperties = 256
	maxDepth      = 8    // bodies of If, Loop and Scan in each other
	maxDims       = 1024 // of a tensor that is stored in the file
)

// domains are those whose operators ONNX Runtime has built in.
var domains = []string{"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.preview.training"}

// builtins are the operators that matter to us, by their numbers in TFLite.
var builtins = map[string]int{
	"Softmax": OpSoftmax, "LogSoftmax": OpLogSoftmax, "Sigmoid": OpLogistic,
	"Reshape": OpReshape, "Flatten": OpReshape, "Unsqueeze": OpReshape, "Squeeze": OpSqueeze,
	"QuantizeLinear": OpQuantize, "DequantizeLinear": OpDequantize,
}

// perIndex is what the index of a tensor costs us, counted against maxCopied.
const perIndex = 8

// noBuiltin is the number of all other operators of ONNX: none of TFLite's.
const noBuiltin = -1

// onnxTypes maps ONNX's numbers of types to ours.
var onnxTypes = [...]hal.DType{
	1: hal.Float32, 2: hal.Uint8, 3: hal.Int8, 4: hal.Uint16, 5: hal.Int16, 6: hal.Int32, 7: hal.Int64, 8: hal.String,
	9: hal.Bool, 10: hal.Float16, 11: hal.Float64, 12: hal.Uint32, 13: hal.Uint64, 14: hal.Complex64,
}

// isONNX says whether a file begins as a serialised ModelProto does: its version,
// which is small, and then a field that comes next.
func isONNX(head []byte) bool {
	return len(head) > 2 && head[0] == 0x08 && head[1] < 0x80 && slices.Contains([]byte{0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42}, head[2])
}

// A graphReader collects one model.
type graphReader struct {
	p       *pager
	m       *Model
	g       *Subgraph
	x       *ONNX
	tensors map[string]int     // by name
	kinds   map[[2]string]int  // index of m.OpCodes, by domain and name
	scalars map[string]float64 // constants of one element
}

// readONNX reads the ModelProto that the whole file is.
func readONNX(p *pager) *Model {
	r := &graphReader{
		p: p, m: &Model{Format: FormatONNX, Size: p.size, Subgraphs: make([]Subgraph, 1)},
		x:       &ONNX{Opsets: map[string]int{}, Properties: map[string]string{}},
		tensors: map[string]int{}, kinds: map[[2]string]int{}, scalars: map[string]float64{},
	}
	r.m.ONNX, r.g = r.x, &r.m.Subgraphs[0]
	graphs := 0
	var version string
	message{p, 0, p.size}.each(func(f field) {
		switch f.number {
		case 1:
			r.x.IR = int(f.value)
		case 2:
			r.x.Producer = f.text(p)
		case 3:
			version = f.text(p)
		case 6:
			r.m.Description = string(f.bytes(p, maxMetadata))
		case 7:
			graphs++
			r.graph(f.body)
		case 8:
			r.opset(f.body)
		case 14:
			r.property(f.body)
		case 25:
			r.function(f.body)
		}
	})
	r.x.Producer = strings.TrimSpace(r.x.Producer + " " + version)
	r.m.Version = r.x.IR
	switch {
	case graphs != 1:
		p.broken("it has %d graphs", graphs)
	case len(r.x.Opsets) == 0:
		p.broken("it does not say which operators it was made for")
	}
	r.versions()
	r.quantisation()
	return r.m
}

// pair reads a message of two fields: a name and what belongs to it, whose number
// is 0 when it is not there.
func (r *graphReader) pair(m message) (key string, value field) {
	m.each(func(f field) {
		switch f.number {
		case 1:
			key = f.text(r.p)
		case 2:
			value = f
		}
	})
	return key, value
}

func (r *graphReader) opset(m message) {
	domain, version := r.pair(m)
	if domain == "ai.onnx" {
		domain = ""
	}
	if r.x.Opsets[domain] = int(version.value); len(r.x.Opsets) > maxOpsets {
		r.p.broken("more than %d sets of operators", maxOpsets)
	}
}

func (r *graphReader) property(m message) {
	key, value := r.pair(m)
	if value.number != 0 {
		r.x.Properties[key] = string(value.bytes(r.p, maxMetadata))
	}
	if len(r.x.Properties) > maxProperties {
		r.p.broken("more than %d properties", maxProperties)
	}
}

// function reads an operator that the file defines itself.
func (r *graphReader) function(m message) {
	m.each(func(f field) {
		switch f.number {
		case 7:
			r.node(f.body, 1)
		case 10:
			if d := f.text(r.p); !slices.Contains(r.x.Functions, d) {
				r.x.Functions = append(r.x.Functions, d)
			}
			if len(r.x.Functions) > maxOpsets {
				r.p.broken("functions of more than %d domains", maxOpsets)
			}
		}
	})
}

// graph reads the main graph.
func (r *graphReader) graph(m message) {
	m.each(func(f field) {
		switch f.number {
		case 1:
			r.node(f.body, 0)
		case 2:
			r.g.Name = f.text(r.p)
		case 5:
			r.constant(f.body)
		case 11:
			r.g.Inputs = append(r.g.Inputs, r.value(f.body))
		case 12:
			r.g.Outputs = append(r.g.Outputs, r.value(f.body))
		}
		if len(r.g.Inputs) > maxArguments || len(r.g.Outputs) > maxArguments {
			r.p.broken("more than %d inputs or outputs", maxArguments)
		}
	})
	if r.p.err != nil {
		return // indexes may be wrong
	}
	// What has a value in the file need not be given.
	r.g.Inputs = slices.DeleteFunc(r.g.Inputs, func(i int) bool { return r.g.Tensors[i].Constant })
}

// body reads the graph within a node: which operators it has, and whether its
// weights are here.
func (r *graphReader) body(m message, depth int) {
	if depth > maxDepth {
		r.p.broken("more than %d graphs in each other", maxDepth)
		return
	}
	m.each(func(f field) {
		switch f.number {
		case 1:
			r.node(f.body, depth)
		case 5:
			r.stored(f.body)
		}
	})
}

// node reads an operator; of the main graph, depth 0, with its place in it.
func (r *graphReader) node(m message, depth int) {
	if !r.p.spend(perTable) {
		return
	}
	var o Operator
	var kind, domain string
	m.each(func(f field) {
		switch {
		case f.number == 1 && depth == 0:
			o.Inputs = append(o.Inputs, r.tensor(f.text(r.p)))
		case f.number == 2 && depth == 0:
			if i := r.tensor(f.text(r.p)); i >= 0 {
				o.Outputs = append(o.Outputs, i)
			}
		case f.number == 4:
			kind = f.text(r.p)
		case f.number == 5:
			r.attribute(f.body, depth+1)
		case f.number == 7:
			domain = f.text(r.p)
		}
		if len(o.Inputs) > maxArguments || len(o.Outputs) > maxArguments {
			r.p.broken("an operator of more than %d tensors", maxArguments)
		}
	})
	o.Code = r.kind(domain, kind)
	if depth > 0 {
		return
	}
	if len(r.g.Operators) == maxOperators {
		r.p.broken("more than %d operators", maxOperators)
		return
	}
	r.g.Operators = append(r.g.Operators, o)
}

// kind is the index of an operator's kind.
func (r *graphReader) kind(domain, name string) int {
	if domain == "ai.onnx" {
		domain = ""
	}
	key := [2]string{domain, name}
	i, ok := r.kinds[key]
	switch {
	case ok:
		return i
	case len(r.m.OpCodes) == maxOpCodes:
		r.p.broken("more than %d kinds of operators", maxOpCodes)
		return 0
	}
	code := OpCode{Builtin: noBuiltin, Domain: domain, Name: name}
	if b, ok := builtins[name]; ok && domain == "" {
		code.Builtin = b
	}
	r.kinds[key] = len(r.m.OpCodes)
	r.m.OpCodes = append(r.m.OpCodes, code)
	return r.kinds[key]
}

func (r *graphReader) attribute(m message, depth int) {
	m.each(func(f field) {
		switch f.number {
		case 5, 10:
			r.stored(f.body)
		case 6, 11:
			r.body(f.body, depth)
		}
	})
}

// tensor is the index of a name; -1 of the empty one, which means none. Whoever asks
// keeps the index, so that it counts.
func (r *graphReader) tensor(name string) int {
	if !r.p.spend(perIndex) || name == "" {
		return -1
	}
	if i, ok := r.tensors[name]; ok {
		return i
	}
	if len(r.g.Tensors) == maxTensors {
		r.p.broken("more than %d tensors", maxTensors)
	}
	if r.p.err != nil || !r.p.spend(perTable) {
		return -1
	}
	i := len(r.g.Tensors)
	r.tensors[name] = i
	r.g.Tensors = append(r.g.Tensors, Tensor{TensorInfo: hal.TensorInfo{Name: name}})
	return i
}

// A stored tensor is one whose value is in the file, or beside it.
type stored struct {
	name   string
	kind   int
	dims   []int64
	scalar float64 // NaN: not one number
}

func (r *graphReader) stored(m message) stored {
	s := stored{scalar: math.NaN()}
	r.p.spend(perTable)
	m.each(func(f field) {
		switch f.number {
		case 1:
			if s.dims = f.longs(s.dims, maxDims); len(s.dims) > maxDims {
				r.p.broken("a tensor of more than %d dimensions", maxDims)
			}
		case 2:
			s.kind = int(f.value)
		case 4, 5, 9:
			s.scalar = r.number(f, s.kind)
		case 8:
			s.name = f.text(r.p)
		case 14:
			r.x.External = r.x.External || f.value == 1
		}
	})
	return s
}

// number is the value of a tensor of one element, NaN of any other.
func (r *graphReader) number(f field, kind int) float64 {
	n := f.body.end - f.body.at
	switch {
	case f.number == 4 && f.wire == wireFixed4:
		return float64(math.Float32frombits(uint32(f.value)))
	case f.number == 5 && f.wire == wireVarint:
		return float64(int32(f.value))
	case f.number == 5 && n > 0 && n <= 10:
		if v := f.longs(nil, 1); len(v) == 1 {
			return float64(int32(v[0]))
		}
	case n == 4 && (f.number == 4 || kind == 1):
		return float64(math.Float32frombits(uint32(f.body.fixed(4))))
	case n == 1 && kind == 2:
		return float64(r.p.u8(f.body.at))
	case n == 1 && kind == 3:
		return float64(int8(r.p.u8(f.body.at)))
	}
	return math.NaN()
}

// constant reads a tensor with a value, of the main graph.
func (r *graphReader) constant(m message) {
	s := r.stored(m)
	i := r.tensor(s.name)
	if i < 0 {
		return
	}
	t := &r.g.Tensors[i]
	t.Constant = true
	t.Type, t.Kind = elementType(s.kind)
	t.Shape = nil
	for _, d := range s.dims {
		if d < 0 || d > math.MaxInt32 {
			r.p.err = tensorError(r.p.err, "tensor %d %q has dimension %d", i, s.name, d)
		}
		t.Shape = append(t.Shape, int(d))
	}
	if n, ok := elements(t.Shape); ok && n == 1 && !math.IsNaN(s.scalar) {
		r.scalars[s.name] = s.scalar
	}
}

// elementType is ours for ONNX's, or a word for one that we do not have.
func elementType(n int) (hal.DType, string) {
	if n > 0 && n < len(onnxTypes) {
		return onnxTypes[n], ""
	}
	for _, k := range []struct {
		n    int
		name string
	}{{15, "complex128"}, {16, "bfloat16"}, {21, "uint4"}, {22, "int4"}, {23, "float4"}} {
		if k.n == n {
			return hal.DTypeNone, k.name
		}
	}
	return hal.DTypeNone, fmt.Sprintf("of type %d", n)
}

// value reads an input or output of the graph, and answers with its index.
func (r *graphReader) value(m message) int {
	name, kind := r.pair(m)
	i := r.tensor(name)
	if i < 0 {
		r.p.broken("an input or output without a name")
		return 0
	}
	t := &r.g.Tensors[i]
	if t.Constant || t.Type != hal.DTypeNone || t.Kind != "" { // an output that is an input, too
		return i
	}
	t.Kind = "of no type"
	if kind.number == 0 {
		return i
	}
	kind.body.each(func(f field) {
		switch f.number {
		case 1:
			r.shaped(t, i, f.body)
		case 4, 5, 8, 9:
			t.Kind = map[int]string{4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional value"}[f.number]
		}
	})
	return i
}

// shaped reads the type of a tensor: that of its elements, and its shape.
func (r *graphReader) shaped(t *Tensor, index int, m message) {
	t.Shape, t.Symbols, t.Kind = []int{-1}, []string{""}, "of no type" // without a shape: of any rank
	m.each(func(f field) {
		switch f.number {
		case 1:
			t.Type, t.Kind = elementType(int(f.value))
		case 2:
			t.Shape, t.Symbols = []int{}, nil
			f.body.each(func(f field) {
				if f.number == 1 && len(t.Shape) <= maxRank {
					r.dimension(t, index, f.body)
				}
			})
		}
	})
	if len(t.Shape) > maxRank {
		r.p.err = tensorError(r.p.err, "%q has more than %d dimensions", t.Name, maxRank)
	}
	if !slices.Contains(t.Shape, -1) {
		t.Symbols = nil
	}
}

func (r *graphReader) dimension(t *Tensor, index int, m message) {
	size, symbol := -1, ""
	m.each(func(f field) {
		switch f.number {
		case 1:
			if size = int(f.value); size < 0 { // some converters write -1
				size = -1
			} else if size > math.MaxInt32 {
				r.p.err = tensorError(r.p.err, "tensor %d %q has dimension %d", index, t.Name, size)
			}
		case 2:
			symbol = f.text(r.p)
		}
	})
	t.Shape, t.Symbols = append(t.Shape, size), append(t.Symbols, symbol)
}

// versions says for each kind of operator which version the file was made for.
func (r *graphReader) versions() {
	for i, c := range r.m.OpCodes {
		r.m.OpCodes[i].Version = r.x.Opsets[c.Domain]
	}
}

// quantisation finds the scale and zero point of inputs and outputs that are
// integers: the operator next to them knows.
func (r *graphReader) quantisation() {
	if r.p.err != nil {
		return
	}
	for _, o := range r.g.Operators {
		switch code := r.m.OpCodes[o.Code].Builtin; {
		case code == OpDequantize && len(o.Inputs) > 1 && slices.Contains(r.g.Inputs, o.Inputs[0]):
			r.quantise(o.Inputs[0], o.Inputs[1:])
		case code == OpQuantize && len(o.Inputs) > 1 && len(o.Outputs) == 1 && slices.Contains(r.g.Outputs, o.Outputs[0]):
			r.quantise(o.Outputs[0], o.Inputs[1:])
		}
	}
}

func (r *graphReader) quantise(tensor int, by []int) {
	value := func(i int) (float64, bool) {
		if i < 0 {
			return 0, false
		}
		v, ok := r.scalars[r.g.Tensors[i].Name]
		return v, ok
	}
	scale, ok := value(by[0])
	if !ok {
		return
	}
	var zero float64
	if len(by) > 1 && by[1] >= 0 {
		if zero, ok = value(by[1]); !ok {
			return
		}
	}
	r.g.Tensors[tensor].Quant = hal.Quant{Scale: []float32{float32(scale)}, ZeroPoint: []int32{int32(zero)}}
}

// checkONNX is Check for an .onnx file.
func (m *Model) checkONNX(l Limits) error {
	if m.ONNX.External {
		return &hal.Error{Code: hal.CodeModelFormat, Text: "model keeps its weights in another file: save it as one, with onnx.save_model(onnx.load(path), path2)"}
	}
	for i, c := range m.OpCodes {
		if !slices.Contains(domains, c.Domain) && !slices.Contains(m.ONNX.Functions, c.Domain) && !slices.Contains(l.Custom, c.Name) {
			return opError(c.Domain+"."+c.Name, i, "convert the model with the operators of ONNX only")
		}
	}
	g := m.Main()
	for _, side := range []struct {
		name  string
		index []int
	}{{"input", g.Inputs}, {"output", g.Outputs}} {
		if len(side.index) == 0 {
			return &hal.Error{Code: hal.CodeTensor, Text: "model has no " + side.name + ": export it with one"}
		}
		for i, at := range side.index {
			if err := checkValue(side.name, i, g.Tensors[at]); err != nil {
				return err
			}
		}
	}
	for i, t := range g.Tensors {
		t.Shape = slices.Clone(t.Shape)
		for j, d := range t.Shape {
			if d < 0 { // not known yet: one at least
				t.Shape[j] = 1
			}
		}
		if err := checkTensor(i, t, l.TensorBytes); err != nil {
			return err
		}
	}
	return nil
}

// checkValue refuses an input or output whose bytes nobody can fill or read.
func checkValue(side string, i int, t Tensor) error {
	what := t.Kind
	if what == "" && t.Type == hal.String {
		what = "text"
	}
	if what == "" {
		return nil
	}
	fix := "export the model with plain tensors of numbers"
	if strings.HasPrefix(what, "a ") {
		fix += " (of a scikit-learn model: zipmap=False)"
	}
	return &hal.Error{Code: hal.CodeTensor, Text: fmt.Sprintf("%s %d %.40q of the model is %s: %s", side, i, t.Name, what, fix)}
}

// onnxNames are the class names that an Ultralytics export keeps in its
// properties, a name a line; nil when there are none.
func (m *Model) onnxNames() []byte {
	if names, ok := m.ONNX.Properties["names"]; ok {
		return dictionaryNames([]byte("names: " + names))
	}
	return nil
}
