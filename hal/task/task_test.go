package task

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
)

// outputs are tensors as a run leaves them.
type outputs []hal.Tensor

func (o outputs) Output(_, i int) hal.Tensor { return o[i] }

func floats(v ...float32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func vector(t hal.DType, n int, scale float32, zero int32) hal.TensorInfo {
	x := hal.TensorInfo{Name: "scores", Type: t, Shape: []int{1, n}}
	if scale != 0 {
		x.Quant = hal.Quant{Scale: []float32{scale}, ZeroPoint: []int32{zero}}
	}
	return x
}

// chain is a model whose output is made by operators one after the other.
func chain(ops ...int) *modelfile.Model {
	m := &modelfile.Model{Subgraphs: make([]modelfile.Subgraph, 1)}
	g := m.Main()
	g.Tensors = make([]modelfile.Tensor, len(ops)+1)
	g.Inputs, g.Outputs = []int{0}, []int{len(ops)}
	for i, op := range ops {
		m.OpCodes = append(m.OpCodes, modelfile.OpCode{Builtin: op})
		g.Operators = append(g.Operators, modelfile.Operator{Code: i, Inputs: []int{i}, Outputs: []int{i + 1}})
	}
	return m
}

func choose(t *testing.T, m *modelfile.Model, labels []string, o Options, out ...hal.TensorInfo) (Decoder, string) {
	t.Helper()
	c, err := Choose(m, hal.Info{Outputs: out}, labels, o)
	if err != nil {
		t.Fatal(err)
	}
	return c.Decoder, c.Reason()
}

func decode(t *testing.T, d Decoder, o outputs) string {
	t.Helper()
	var r Result
	if err := d.Decode(o, 0, &r); err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, it := range r.Items {
		if it.HasBox {
			s = append(s, fmt.Sprintf("%s %d %.2f %.2f", it.Label, it.ID, it.Score, it.Box))
		} else {
			s = append(s, fmt.Sprintf("%s %d %.2f", it.Label, it.ID, it.Score))
		}
	}
	return r.Kind + ": " + strings.Join(s, ", ")
}

const softmax, conv = modelfile.OpSoftmax, 3

func TestClassify(t *testing.T) {
	pets := []string{"cat", "dog", "bird", "fish"}
	for _, tt := range []struct {
		name   string
		model  *modelfile.Model
		out    hal.TensorInfo
		labels []string
		o      Options
		data   []byte
		want   string
	}{
		{"uint8", chain(softmax), vector(hal.Uint8, 4, 1./256, 0), pets, Options{}, []byte{10, 128, 100, 26}, "classify: dog 1 0.50, bird 2 0.39, fish 3 0.10"},
		{"threshold is met exactly", chain(softmax), vector(hal.Uint8, 4, 1./256, 0), pets, Options{Threshold: 0.5}, []byte{1, 128, 127, 0}, "classify: dog 1 0.50"},
		{"nothing", chain(softmax), vector(hal.Uint8, 4, 1./256, 0), pets, Options{Threshold: 0.9}, []byte{1, 128, 127, 0}, "classify: "},
		{"all", chain(softmax), vector(hal.Uint8, 4, 1./256, 0), pets, Options{Threshold: -1}, []byte{0, 0, 0, 255}, "classify: fish 3 1.00, cat 0 0.00, dog 1 0.00, bird 2 0.00"},
		{"top 1 is the first of equals", chain(softmax), vector(hal.Uint8, 4, 1./256, 0), pets, Options{Top: 1}, []byte{0, 99, 99, 0}, "classify: dog 1 0.39"},
		{"int8", chain(softmax), vector(hal.Int8, 4, 1./256, -128), pets, Options{}, []byte{0x80, 0x00, 0x7f, 0xff}, "classify: bird 2 1.00, dog 1 0.50, fish 3 0.50"},
		{"float", chain(softmax), vector(hal.Float32, 4, 0, 0), pets, Options{}, floats(.05, .7, .15, .1), "classify: dog 1 0.70, bird 2 0.15, fish 3 0.10"},
		{"stored otherwise", chain(softmax, modelfile.OpReshape, modelfile.OpQuantize), vector(hal.Uint8, 4, 1./200, 0), nil, Options{}, []byte{0, 100, 0, 0}, "classify: class 1 1 0.50"},
		{"sigmoid", chain(modelfile.OpLogistic), vector(hal.Float32, 4, 0, 0), pets, Options{}, floats(.9, .8, 0, 0), "classify: cat 0 0.90, dog 1 0.80"},
		{"compiled", chain(modelfile.OpCustom), vector(hal.Uint8, 4, 1./256, 0), nil, Options{}, []byte{0, 0, 200, 0}, "classify: class 2 2 0.78"},
		{"float logits", chain(conv), vector(hal.Float32, 4, 0, 0), pets, Options{}, floats(0, 2, 1, -50), "classify: dog 1 0.67, bird 2 0.24"},
		{"uint8 logits", chain(conv), vector(hal.Uint8, 4, 0.5, 100), pets, Options{Threshold: 0.05}, []byte{100, 104, 102, 0}, "classify: dog 1 0.67, bird 2 0.24, cat 0 0.09"},
		{"int8 logits", chain(conv), vector(hal.Int8, 4, 0.5, 0), pets, Options{Threshold: 0.05}, []byte{0, 4, 2, 0x80}, "classify: dog 1 0.67, bird 2 0.24, cat 0 0.09"},
		{"not a number", chain(softmax), vector(hal.Float32, 4, 0, 0), pets, Options{}, floats(float32(math.NaN()), .5, float32(math.Inf(1)), .2), "classify: dog 1 0.50, fish 3 0.20"},
		{"background in the model", chain(softmax), vector(hal.Uint8, 5, 1./256, 0), pets, Options{}, []byte{128, 64, 0, 0, 0}, "classify: background 0 0.50, cat 1 0.25"},
		{"background in the labels", chain(softmax), vector(hal.Uint8, 3, 1./256, 0), pets, Options{}, []byte{128, 64, 0}, "classify: dog 0 0.50, bird 1 0.25"},
		{"no labels", chain(softmax), vector(hal.Uint8, 2, 1./256, 0), nil, Options{}, []byte{0, 255}, "classify: class 1 1 1.00"},
		{"asked for", chain(conv), vector(hal.Float32, 2, 0, 0), nil, Options{Kind: Classify}, floats(9, 0), "classify: class 0 0 1.00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, reason := choose(t, tt.model, tt.labels, tt.o, tt.out)
			if got := decode(t, d, outputs{{Info: &tt.out, Data: tt.data}}); got != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", reason, got, tt.want)
			}
			before := d.(Tunable).Threshold()
			d.(Tunable).SetThreshold(1.5)
			if got := decode(t, d, outputs{{Info: &tt.out, Data: tt.data}}); got != "classify: " && tt.name != "not a number" && tt.o.Kind == "" {
				t.Errorf("with a threshold of 1.5: %s", got)
			}
			d.(Tunable).SetThreshold(before)
			if got := decode(t, d, outputs{{Info: &tt.out, Data: tt.data}}); got != tt.want {
				t.Errorf("with the threshold that it had: %s\nwant %s", got, tt.want)
			}
			if err := d.Decode(outputs{{Data: tt.data[1:]}}, 0, new(Result)); hal.CodeOf(err) != hal.CodeShape {
				t.Errorf("short output: %v", err)
			}
		})
	}
}

// TestQuantisedIsFloat: both ways to the scores agree for any bytes.
func TestQuantisedIsFloat(t *testing.T) {
	const n = 300
	for _, m := range []*modelfile.Model{chain(softmax), chain(conv)} {
		for _, typ := range []hal.DType{hal.Uint8, hal.Int8} {
			q := vector(typ, n, 0.043, 7)
			f := vector(hal.Float32, n, 0, 0)
			o := Options{Kind: Classify, Top: n, Threshold: 0.01}
			dq, _ := choose(t, m, nil, o, q)
			df, _ := choose(t, m, nil, o, f)
			var stored []byte
			var real []float32
			for i := range n {
				b := byte(i * 89)
				stored = append(stored, b)
				v := int(b)
				if typ == hal.Int8 {
					v = int(int8(b))
				}
				real = append(real, float32(v-7)*0.043)
			}
			got, want := decode(t, dq, outputs{{Data: stored}}), decode(t, df, outputs{{Data: floats(real...)}})
			if got != want {
				t.Errorf("%v:\ngot  %s\nwant %s", typ, got, want)
			}
		}
	}
}

// detector is a model whose outputs are scores, boxes, count, classes: an order
// that no rule of thumb has.
func detector() *modelfile.Model {
	m := &modelfile.Model{OpCodes: []modelfile.OpCode{{Builtin: modelfile.OpCustom, Custom: modelfile.DetectionPostProcess}},
		Subgraphs: make([]modelfile.Subgraph, 1)}
	g := m.Main()
	g.Tensors = make([]modelfile.Tensor, 7)
	g.Tensors[1].Shape = []int{1, 1917, 4} // 3 classes and the background
	g.Operators = []modelfile.Operator{{Inputs: []int{0, 1, 2}, Outputs: []int{3, 4, 5, 6}}}
	g.Outputs = []int{5, 3, 6, 4}
	return m
}

var detectorOutputs = []hal.TensorInfo{{Name: "a", Type: hal.Float32}, {Name: "b", Type: hal.Float32}, {Name: "c", Type: hal.Float32}, {Name: "d", Type: hal.Float32}}

func TestDetect(t *testing.T) {
	nan := float32(math.NaN())
	boxes := floats(.1, .2, .3, .4, -1, -1, 2, 2, .5, .5, .5, .9, .1, .2, .3, .4, .9, .9, .1, .1, nan, 0, 1, 1)
	run := func(count float32, scores, classes []float32) outputs {
		return outputs{{Data: floats(scores...)}, {Data: boxes}, {Data: floats(count)}, {Data: floats(classes...)}}
	}
	ones := []float32{1, 1, 1, 1, 1, 1}
	for _, tt := range []struct {
		name   string
		labels []string
		o      Options
		run    outputs
		want   string
	}{
		{"boxes are clamped, empty ones dropped", []string{"cat", "dog", "bird"}, Options{}, run(6, ones, []float32{0, 2, 0, 1, 0, 1}),
			"detect: cat 0 1.00 [0.20 0.10 0.40 0.30], bird 2 1.00 [0.00 0.00 1.00 1.00], dog 1 1.00 [0.20 0.10 0.40 0.30], dog 1 1.00 [0.00 0.00 1.00 1.00]"},
		{"what is behind the count is old", nil, Options{}, run(1, ones, []float32{2, 0, 0, 0, 0, 0}), "detect: class 2 2 1.00 [0.20 0.10 0.40 0.30]"},
		{"count is no number", nil, Options{}, run(nan, ones, ones), "detect: "},
		{"count is negative", nil, Options{}, run(-1, ones, ones), "detect: "},
		{"count is too large", nil, Options{Top: 1}, run(1e30, ones, ones), "detect: class 1 1 1.00 [0.20 0.10 0.40 0.30]"},
		{"scores", nil, Options{Threshold: .3}, run(6, []float32{.3, .29, .9, nan, 0, 0}, ones), "detect: class 1 1 0.30 [0.20 0.10 0.40 0.30]"},
		{"background in the labels", []string{"???", "cat", "dog", "bird"}, Options{Top: 1}, run(6, ones, ones), "detect: dog 1 1.00 [0.20 0.10 0.40 0.30]"},
		{"classes that nobody knows", nil, Options{Top: 2}, run(6, ones, []float32{77, nan, 0, 0, 0, 0}),
			"detect: unknown 77 1.00 [0.20 0.10 0.40 0.30], unknown -1 1.00 [0.00 0.00 1.00 1.00]"},
		{"tensors of unequal length", nil, Options{}, outputs{{Data: floats(1, 1)}, {Data: boxes[:20]}, {Data: floats(6)}, {Data: floats(1, 1, 1)}},
			"detect: class 1 1 1.00 [0.20 0.10 0.40 0.30]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := choose(t, detector(), tt.labels, tt.o, detectorOutputs...)
			if got := decode(t, d, tt.run); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	d, _ := choose(t, detector(), nil, Options{}, detectorOutputs...)
	if err := d.Decode(outputs{{}, {}, {}, {}}, 0, new(Result)); hal.CodeOf(err) != hal.CodeShape {
		t.Errorf("empty tensors: %v", err)
	}
}

func TestRaw(t *testing.T) {
	large := hal.TensorInfo{Name: "map", Type: hal.Int64, Shape: []int{1, 5, 5}}
	b := make([]byte, 200)
	b[8*17] = 200
	small := hal.TensorInfo{Type: hal.Int8, Shape: []int{1, 2}, Quant: hal.Quant{Scale: []float32{.5}, ZeroPoint: []int32{1}}}
	text := hal.TensorInfo{Name: "text", Type: hal.String, Shape: []int{1}}
	odd := hal.TensorInfo{Name: "odd", Type: hal.Float32, Shape: []int{1, 3}}
	d, reason := choose(t, chain(conv), nil, Options{}, large, small, text, odd)
	got := decode(t, d, outputs{{Data: b}, {Data: []byte{3, 0xff}}, {}, {Data: floats(1, float32(math.NaN()), float32(math.Inf(-1)))}})
	want := "raw: map [1×5×5] int64 17 200.00, output 1 [1×2] int8 0 1.00, output 1 [1×2] int8 1 -1.00, text [1] string 0 0.00, odd [1×3] float32 0 1.00"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !strings.HasPrefix(reason, "raw (numbers): 4 outputs") {
		t.Errorf("reason %q", reason)
	}
	// A place that holds no number is not the largest.
	many := make([]float32, 20)
	many[0], many[11] = float32(math.NaN()), 3
	wide := hal.TensorInfo{Name: "wide", Type: hal.Float32, Shape: []int{1, 4, 5}}
	d, _ = choose(t, chain(conv), nil, Options{}, wide)
	if got := decode(t, d, outputs{{Data: floats(many...)}}); got != "raw: wide [1×4×5] float32 11 3.00" {
		t.Errorf("got %s", got)
	}
	// Stored values that can be below 0 are no probabilities.
	if _, reason := choose(t, chain(conv), nil, Options{}, vector(hal.Int8, 9, 1./128, 0)); !strings.HasPrefix(reason, "raw") {
		t.Errorf("reason %q", reason)
	}
	// Numbers without labels that are no probabilities are nothing to classify.
	if _, reason := choose(t, chain(conv), nil, Options{}, vector(hal.Float32, 100, 0, 0)); !strings.HasPrefix(reason, "raw") {
		t.Errorf("reason %q", reason)
	}
}

func TestChooseRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		model  *modelfile.Model
		labels []string
		o      Options
		out    []hal.TensorInfo
		want   string
	}{
		{"unknown task", chain(conv), nil, Options{Kind: "poses"}, nil, `E_SHAPE: unknown task or decoder "poses": use one of auto, detect, `},
		{"labels", chain(softmax), make([]string, 90), Options{}, []hal.TensorInfo{vector(hal.Uint8, 1001, 1./256, 0)}, "E_LABELS: 90 labels for 1001 classes"},
		{"no detector", chain(softmax), nil, Options{Kind: Detect}, nil, "E_SHAPE: model is not detect (ssd: no operator TFLite_Detection_PostProcess)"},
		{"no scale", chain(softmax), nil, Options{}, []hal.TensorInfo{vector(hal.Uint8, 10, 0, 0)}, `E_SHAPE: output "scores" of uint8 scores has no scale`},
		{"output lost", detector(), nil, Options{}, detectorOutputs[:1], "E_SHAPE: output 0 of operator"},
		{"output type", detector(), nil, Options{}, []hal.TensorInfo{{}, {}, {}, {}}, "E_SHAPE: output 0 of operator TFLite_Detection_PostProcess is none, not float32"},
	} {
		_, err := Choose(tt.model, hal.Info{Outputs: tt.out}, tt.labels, tt.o)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestParseLabels(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"plain", "cat\ndog\n", `["cat" "dog"]`},
		{"windows", "\xef\xbb\xbfcat\r\ndog\r\n\r\n", `["cat" "dog"]`},
		{"unknown first", "???\nperson\n???\ncar", `["???" "person" "???" "car"]`},
		{"coral", "0  person\n1  bicycle\n3  car\n", `["person" "bicycle" "" "car"]`},
		{"coral unordered", "1 b\n0 a", `["a" "b"]`},
		{"numbers", "0\n1\n2\n", `["0" "1" "2"]`},
		{"a number in front of one", "7 segments\ncat\n", `["7 segments" "cat"]`},
		{"twice", "1 a\n1 b\n", `["1 a" "1 b"]`},
		{"a gap", "a\n\nb", `["a" "" "b"]`},
		{"empty", "\n\n", `[]`},
	} {
		got, err := ParseLabels([]byte(tt.file))
		if err != nil || fmt.Sprintf("%q", got) != tt.want {
			t.Errorf("%s: got %q %v, want %s", tt.name, got, err, tt.want)
		}
	}
	for _, bad := range []string{strings.Repeat("x", 257), strings.Repeat("x\n", 10_001) + "y", "a\x00b", "\xff\xfe", "a\x1b[2Jb"} {
		if _, err := ParseLabels([]byte(bad)); hal.CodeOf(err) != hal.CodeLabels {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	classes := make([]byte, 1001)
	for i := range classes {
		classes[i] = byte(i)
	}
	scores := vector(hal.Uint8, 1001, 1./256, 0)
	probability, _ := choose(t, chain(softmax), nil, Options{}, scores)
	logits, _ := choose(t, chain(conv), nil, Options{Kind: Classify}, vector(hal.Uint8, 1001, .1, 0))
	float, _ := choose(t, chain(conv), nil, Options{Kind: Classify}, vector(hal.Float32, 250, 0, 0))
	boxes, _ := choose(t, detector(), nil, Options{}, detectorOutputs...)
	any, _ := choose(t, chain(conv), nil, Options{Kind: Raw}, scores)
	ones := floats(1, 1, 1, 1)
	for name, x := range map[string]struct {
		d Decoder
		o outputs
	}{
		"probability": {probability, outputs{{Data: classes}}}, "logits": {logits, outputs{{Data: classes}}},
		"float": {float, outputs{{Data: classes[:1000]}}}, "raw": {any, outputs{{Data: classes}}},
		"detect": {boxes, outputs{{Data: ones}, {Data: floats(0, 0, 1, 1)}, {Data: floats(1)}, {Data: ones}}},
	} {
		var r Result
		var o Outputs = x.o
		if n := testing.AllocsPerRun(20, func() {
			if err := x.d.Decode(o, 0, &r); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a run", name, n)
		}
	}
}

// TestRealModels: the right decoder for what people use.
func TestRealModels(t *testing.T) {
	dir := os.Getenv("COVEY_MODELS")
	if dir == "" {
		t.Fatal("COVEY_MODELS is not set: run ./scripts/setup, then . scripts/env")
	}
	for _, tt := range []struct{ model, labels, want string }{
		{"label_image/mobilenet_quant_v1_224.tflite", "label_image/labels.txt", "classify (scores): one output of 1001 uint8 scores (softmax)"},
		{"ssd/detect.tflite", "ssd/labelmap.txt", "detect (ssd): operator TFLite_Detection_PostProcess in the graph, boxes in output 0"},
		{"segment/deeplabv3_257_mv_gpu.tflite", "", "raw (numbers): 1 outputs as numbers"},
	} {
		m, err := modelfile.Open(filepath.Join(dir, tt.model))
		if err != nil {
			t.Fatal(err)
		}
		var labels []string
		if tt.labels != "" {
			b, err := os.ReadFile(filepath.Join(dir, tt.labels))
			if err != nil {
				t.Fatal(err)
			}
			if labels, err = ParseLabels(b); err != nil {
				t.Fatal(err)
			}
		}
		c, err := Choose(m, hal.Info{Inputs: m.Inputs(), Outputs: m.Outputs()}, labels, Options{})
		d, reason := c.Decoder, c.Reason()
		if err != nil || !strings.HasPrefix(reason, tt.want) {
			t.Errorf("%s: got %q %v, want %q", tt.model, reason, err, tt.want)
		}
		if d, ok := d.(*detect); ok && d.names[0] != "person" {
			t.Errorf("first class is %q", d.names[0])
		}
	}
}

func FuzzParseLabels(f *testing.F) {
	for _, s := range []string{"cat\ndog\n", "0  person\n3  car\n", "???\r\nx", "\xef\xbb\xbfa"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		labels, err := ParseLabels(b)
		if err != nil && hal.CodeOf(err) != hal.CodeLabels {
			t.Fatal(err)
		}
		if len(labels) > maxLabels {
			t.Fatalf("%d labels", len(labels))
		}
		for _, l := range labels {
			if len(l) > maxLabelBytes {
				t.Fatalf("label of %d bytes", len(l))
			}
		}
		names(labels, 5, 1)
	})
}

// FuzzDecode gives any bytes as outputs to every decoder.
func FuzzDecode(f *testing.F) {
	f.Add(floats(1, 1), floats(0, 0, 1, 1, 0, 0, .5, .5), floats(2), floats(0, 1))
	f.Fuzz(func(t *testing.T, a, b, c, e []byte) {
		out := outputs{{Data: a}, {Data: b}, {Data: c}, {Data: e}}
		for _, m := range []struct {
			model *modelfile.Model
			info  []hal.TensorInfo
		}{
			{detector(), detectorOutputs},
			{chain(softmax), []hal.TensorInfo{vector(hal.Float32, max(2, len(a)/4), 0, 0)}},
			{chain(conv), []hal.TensorInfo{vector(hal.Int8, max(2, len(a)), .1, 3)}},
			{chain(conv), []hal.TensorInfo{{Type: hal.Int64}, {Type: hal.Float64}}},
		} {
			for _, kind := range []string{Auto, Classify} {
				c, err := Choose(m.model, hal.Info{Outputs: m.info}, nil, Options{Kind: kind, Threshold: -1})
				if err != nil {
					continue
				}
				var r Result
				if err := c.Decoder.Decode(out, 0, &r); err != nil && hal.CodeOf(err) != hal.CodeShape {
					t.Fatal(err)
				}
				for _, it := range r.Items {
					if it.Score-it.Score != 0 || it.Label == "" {
						t.Fatalf("%+v", it)
					}
					for _, v := range it.Box {
						if !(v >= 0 && v <= 1) {
							t.Fatalf("%+v", it)
						}
					}
				}
			}
		}
	})
}
