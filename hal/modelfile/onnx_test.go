package modelfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

func float(v float32) []byte {
	return binary.LittleEndian.AppendUint32(nil, math.Float32bits(v))
}

// detector is a graph with all that the reader looks at.
func detector() haltest.Graph {
	branch := haltest.Graph{Nodes: []haltest.Node{{Op: "Abs", In: []string{"x"}, Out: []string{"b"}}},
		Out: []haltest.Value{{Name: "b", Type: haltest.ONNXFloat}}}
	return haltest.Graph{
		Domains: []string{"com.microsoft"},
		Nodes: []haltest.Node{
			{Op: "DequantizeLinear", In: []string{"pixels", "scale", "zero"}, Out: []string{"x"}},
			{Op: "If", In: []string{"flag"}, Out: []string{"y"}, Attributes: map[string]any{"then_branch": branch, "else_branch": branch}},
			{Op: "Conv", In: []string{"y", "w", ""}, Out: []string{"c"}, Attributes: map[string]any{"pads": []int{1, 1, 1, 1}}},
			{Op: "Gelu", Domain: "com.microsoft", In: []string{"c"}, Out: []string{"g"}},
			{Op: "Softmax", In: []string{"g"}, Out: []string{"scores"}, Attributes: map[string]any{"axis": 1}},
		},
		Weights: []haltest.Constant{
			{Name: "scale", Type: haltest.ONNXFloat, Data: float(0.5)},
			{Name: "zero", Type: haltest.ONNXUint8, Data: []byte{128}},
			{Name: "w", Type: haltest.ONNXFloat, Shape: []int{1, 3, 1, 1}, Data: make([]byte, 12)},
			{Name: "flag", Type: haltest.ONNXBool, Data: []byte{1}},
		},
		In: []haltest.Value{{Name: "pixels", Type: haltest.ONNXUint8, Shape: []any{"batch", 3, 224, nil}},
			{Name: "w", Type: haltest.ONNXFloat, Shape: []any{1, 3, 1, 1}}},
		Out:        []haltest.Value{{Name: "scores", Type: haltest.ONNXFloat, Shape: []any{"batch", 10}}},
		Properties: [][2]string{{"names", "{0: 'cat', 1: 'dog'}"}, {"imgsz", "[224, 224]"}},
	}
}

func TestONNX(t *testing.T) {
	m, err := Parse(haltest.ONNX(detector()))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(Limits{}); err != nil {
		t.Error(err)
	}
	if m.Format != FormatONNX || m.ONNX.IR != 8 || m.ONNX.Producer != "haltest" || m.ONNX.Opsets[""] != 17 || m.ONNX.Opsets["com.microsoft"] != 1 {
		t.Errorf("format %s, %+v", m.Format, m.ONNX)
	}
	want := []hal.TensorInfo{{Name: "pixels", Type: hal.Uint8, Shape: []int{-1, 3, 224, -1}, Quant: hal.Quant{Scale: []float32{0.5}, ZeroPoint: []int32{128}}}}
	if got := m.Inputs(); !reflect.DeepEqual(got, want) {
		t.Errorf("inputs %+v\nwant %+v", got, want)
	}
	if got := m.Main().Tensors[m.Main().Inputs[0]].Symbols; !slices.Equal(got, []string{"batch", "", "", ""}) {
		t.Errorf("symbols %q", got)
	}
	if got := m.Outputs(); len(got) != 1 || got[0].Name != "scores" || !slices.Equal(got[0].Shape, []int{-1, 10}) {
		t.Errorf("outputs %+v", got)
	}
	var ops []string
	for _, c := range m.OpCodes {
		ops = append(ops, c.Domain+":"+c.Name)
	}
	if want := []string{":DequantizeLinear", ":Abs", ":If", ":Conv", "com.microsoft:Gelu", ":Softmax"}; !slices.Equal(ops, want) {
		t.Errorf("operators %q, want %q", ops, want)
	}
	if o := m.Producer(m.Main().Outputs[0]); o == nil || m.OpCodes[o.Code].Builtin != OpSoftmax || m.OpCodes[o.Code].Version != 17 {
		t.Errorf("the output comes from %+v", o)
	}
	if got := string(m.LabelFile()); got != "cat\ndog\n" {
		t.Errorf("labels %q", got)
	}
}

func TestBadONNX(t *testing.T) {
	whole := haltest.ONNX(detector())
	in := func(v haltest.Value) func(*haltest.Graph) {
		return func(g *haltest.Graph) { g.In[0] = v }
	}
	deep := haltest.Graph{Nodes: []haltest.Node{{Op: "Abs"}}}
	for range maxDepth + 1 {
		deep = haltest.Graph{Nodes: []haltest.Node{{Op: "If", Attributes: map[string]any{"then_branch": deep}}}}
	}
	for _, tt := range []struct {
		name   string
		change func(*haltest.Graph)
		bytes  []byte
		want   string // start of the error, code first
	}{
		{name: "external weights", change: func(g *haltest.Graph) { g.Weights[2].External = true }, want: "E_MODEL_FORMAT: model keeps its weights in another file"},
		{name: "external weights in a branch", change: func(g *haltest.Graph) {
			g.Nodes[1].Attributes["then_branch"] = haltest.Graph{Weights: []haltest.Constant{{Name: "v", External: true}}}
		}, want: "E_MODEL_FORMAT: model keeps its weights in another file"},
		{name: "custom domain", change: func(g *haltest.Graph) { g.Nodes[3].Domain = "acme" }, want: `E_OP: custom operator "acme.Gelu"`},
		{name: "custom domain in a branch", change: func(g *haltest.Graph) {
			g.Nodes[1].Attributes["then_branch"] = haltest.Graph{Nodes: []haltest.Node{{Op: "Foo", Domain: "acme"}}}
		}, want: `E_OP: custom operator "acme.Foo"`},
		{name: "text", change: in(haltest.Value{Name: "pixels", Type: haltest.ONNXString, Shape: []any{1}}), want: `E_TENSOR: input 0 "pixels" of the model is text`},
		{name: "bfloat16", change: in(haltest.Value{Name: "pixels", Type: haltest.ONNXBFloat, Shape: []any{1}}), want: `E_TENSOR: input 0 "pixels" of the model is bfloat16`},
		{name: "sequence", change: func(g *haltest.Graph) { g.Out[0].Type = haltest.ONNXSequence }, want: `E_TENSOR: output 0 "scores" of the model is a sequence`},
		{name: "optional", change: in(haltest.Value{Name: "pixels", Type: haltest.ONNXOptional}), want: `E_TENSOR: input 0 "pixels" of the model is an optional value`},
		{name: "no inputs", change: func(g *haltest.Graph) { g.In = nil }, want: "E_TENSOR: model has no input"},
		{name: "no outputs", change: func(g *haltest.Graph) { g.Out = nil }, want: "E_TENSOR: model has no output"},
		{name: "no name", change: in(haltest.Value{Type: haltest.ONNXFloat}), want: "E_MODEL_FORMAT: broken model file: an input or output without a name"},
		{name: "huge dimension", change: in(haltest.Value{Name: "pixels", Type: 1, Shape: []any{1 << 40}}), want: `E_TENSOR: tensor 0 "pixels" has dimension 1099511627776`},
		{name: "huge tensor", change: in(haltest.Value{Name: "pixels", Type: 1, Shape: []any{1 << 30, "n"}}), want: `E_TENSOR: tensor 0 "pixels" [1073741824 1] needs 4.0 GiB`},
		{name: "dimensions", change: in(haltest.Value{Name: "pixels", Type: 1, Shape: make([]any, 9)}), want: `E_TENSOR: "pixels" has more than 8 dimensions`},
		{name: "deep", change: func(g *haltest.Graph) { *g = deep }, want: "E_MODEL_FORMAT: broken model file: more than 8 graphs in each other"},
		{name: "cut in half", bytes: whole[:len(whole)/2], want: "E_MODEL_SHORT: got"},
		{name: "two graphs", bytes: slices.Concat(whole, []byte{0x3a, 0}), want: "E_MODEL_FORMAT: broken model file: it has 2 graphs"},
		{name: "no graph", bytes: []byte("\x08\x08\x12\x01a"), want: "E_MODEL_FORMAT: broken model file: it has 0 graphs"},
		{name: "graph is a number", bytes: []byte("\x08\x08\x38\x01\x42\x02\x10\x11"), want: "E_MODEL_FORMAT: not a TFLite or ONNX file"},
		{name: "graph is a number, later", bytes: []byte("\x08\x08\x12\x01a\x38\x01\x42\x02\x10\x11"), want: ""},
		{name: "field 0", bytes: []byte("\x08\x08\x12\x01a\x02\x01a"), want: "E_MODEL_FORMAT: broken model file: field 0"},
		{name: "group", bytes: []byte("\x08\x08\x12\x01a\x0b"), want: "E_MODEL_FORMAT: broken model file: wire type 3"},
		{name: "long number", bytes: []byte("\x08\x08\x12\x01a\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), want: "E_MODEL_FORMAT: broken model file: number of more than 64 bits"},
		{name: "ORT format", bytes: []byte("\x18\x00\x00\x00ORTM..."), want: "E_MODEL_FORMAT: not a TFLite or ONNX file (found ONNX Runtime's own format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.bytes
			if b == nil {
				g := detector()
				tt.change(&g)
				b = haltest.ONNX(g)
			}
			m, err := Parse(b)
			if err == nil {
				err = m.Check(Limits{})
			}
			if err == nil && tt.want != "" || err != nil && !strings.HasPrefix(err.Error(), tt.want) || err != nil && hal.CodeOf(err) == "" {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// A file cut anywhere before its operator sets is refused; what comes after them
// only advises.
func TestEveryCutOfONNXIsRefused(t *testing.T) {
	g := detector()
	g.Properties, g.Domains = nil, nil
	whole := haltest.ONNX(g)
	for n := range whole {
		if _, err := Parse(whole[:n]); hal.CodeOf(err) == "" {
			t.Fatalf("cut at %d of %d: %v", n, len(whole), err)
		}
	}
}

// Weights are stepped over, not read, and a file cannot make the reader keep more
// than its budget.
func TestONNXMemory(t *testing.T) {
	g := detector()
	g.Weights[2].Data = make([]byte, 64<<20)
	big := haltest.ONNX(g)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Parse(big); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("%d bytes allocated to read %d", got, len(big))
	}
	var nodes []haltest.Node
	for range maxOperators + 1 {
		nodes = append(nodes, haltest.Node{Op: "Abs", In: []string{"x"}, Out: []string{"x"}})
	}
	if _, err := Parse(haltest.ONNX(haltest.Graph{Nodes: nodes})); hal.CodeOf(err) != hal.CodeModelFormat {
		t.Errorf("%d operators: %v", len(nodes), err)
	}
}

// A list within one message is bounded while it is read, not when it has been kept:
// a field of two bytes would cost many more.
func TestONNXLists(t *testing.T) {
	field := func(number uint64, body []byte) []byte {
		return append(binary.AppendUvarint(binary.AppendUvarint(nil, number<<3|wireBytes), uint64(len(body))), body...)
	}
	var domains []byte
	for n := range 30_000 {
		domains = append(domains, field(10, fmt.Appendf(nil, "%05d", n))...)
	}
	for name, b := range map[string][]byte{
		"operator's inputs":  field(7, field(1, bytes.Repeat([]byte{1<<3 | wireBytes, 0}, 1<<20))),
		"functions' domains": field(25, domains),
	} {
		b = append([]byte{1 << 3, 8, 2<<3 | wireBytes, 0}, b...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse(b)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 2<<20 || hal.CodeOf(err) != hal.CodeModelFormat || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %v, and %d bytes allocated", name, err, got)
		}
	}
}

// What many operators say is bounded, too.
func TestONNXBudget(t *testing.T) {
	operator := append([]byte{1<<3 | wireBytes, 0x80, 0x40}, bytes.Repeat([]byte{1<<3 | wireBytes, 0}, 4096)...)
	graph := bytes.Repeat(operator, 4000)
	b := append([]byte{1 << 3, 8, 2<<3 | wireBytes, 0, 7<<3 | wireBytes}, binary.AppendUvarint(nil, uint64(len(graph)))...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Parse(append(b, graph...))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 5*maxCopied || hal.CodeOf(err) != hal.CodeModelFormat || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v, and %d MiB allocated", err, got>>20)
	}
}

func FuzzONNX(f *testing.F) {
	f.Add(haltest.ONNX(detector()))
	f.Add(haltest.CrashingONNX())
	f.Add([]byte("\x08\x08\x12\x01a\x3a\x00\x42\x02\x10\x11"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !isONNX(b) {
			b = append([]byte{0x08, 0x08, 0x12, 0x00}, b...)
		}
		m, err := Parse(b)
		if err != nil {
			if hal.CodeOf(err) == "" {
				t.Errorf("no code in %v", err)
			}
			return
		}
		_ = m.Check(Limits{})
		for _, o := range m.Main().Operators {
			if o.Code < 0 || o.Code >= len(m.OpCodes) {
				t.Fatalf("operator of kind %d of %d", o.Code, len(m.OpCodes))
			}
			for _, i := range slices.Concat(o.Inputs, o.Outputs) {
				if i < -1 || i >= len(m.Main().Tensors) {
					t.Fatalf("tensor %d of %d", i, len(m.Main().Tensors))
				}
			}
		}
		for _, x := range slices.Concat(m.Inputs(), m.Outputs()) {
			if x.Name == "" || len(x.Shape) > maxRank {
				t.Fatalf("%+v", x)
			}
		}
		m.LabelFile()
		m.Normalization()
	})
}
