//go:build cgo

package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// one is the library of the test: a process loads it once.
var one = sync.OnceValues(func() (*Library, error) {
	path, err := Find("", filepath.Join(os.Getenv("COVEY_BIN"), "covey-runner-onnx"))
	if err != nil {
		return nil, err
	}
	return Load(path)
})

func open(t testing.TB, model []byte, settings map[string]string) (*Model, error) {
	t.Helper()
	l, err := one()
	if err != nil {
		t.Fatalf("%v; . scripts/env first", err)
	}
	m, err := l.Open(proto.Open{Name: "m", Accelerator: hal.CPU, Threads: 1, Settings: settings}, model, func(string) {})
	if err == nil {
		t.Cleanup(m.Close)
	}
	return m, err
}

// run maps one buffer, as the agent would, and runs it.
func run(t testing.TB, m *Model, inputs ...[]byte) ([][]byte, proto.Ran) {
	t.Helper()
	layout, err := proto.Layout(m.Opened(), 1)
	if err != nil {
		t.Fatal(err)
	}
	memory := make([]byte, layout.Size)
	var in, out [][]byte
	for i, s := range layout.Buffers[0].In {
		in = append(in, s.Of(memory))
		if copy(in[i], inputs[i]) != len(in[i]) {
			t.Fatalf("input %d is of %d bytes, given %d", i, len(in[i]), len(inputs[i]))
		}
	}
	for _, s := range layout.Buffers[0].Out {
		out = append(out, s.Of(memory))
	}
	if err := m.Map([][][]byte{in}, [][][]byte{out}); err != nil {
		t.Fatal(err)
	}
	r := proto.Ran{Outputs: make([]proto.Result, len(out))}
	if err := m.Run(in, out, &r); err != nil {
		t.Fatal(err)
	}
	for i := range out {
		out[i] = out[i][:r.Outputs[i].Bytes]
	}
	return out, r
}

// A value is a TensorProto: what the published tests are given and answer.
type value struct {
	dims []int
	kind int
	data []byte
}

func readValue(t testing.TB, path string) value {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v value
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		b = b[n:]
		number, n := binary.Uvarint(b)
		b = b[n:]
		var body []byte
		if key&7 == 2 {
			body, b = b[:number], b[number:]
		}
		switch key >> 3 {
		case 1:
			if key&7 == 0 {
				v.dims = append(v.dims, int(number))
			}
			for len(body) > 0 {
				d, n := binary.Uvarint(body)
				v.dims, body = append(v.dims, int(d)), body[n:]
			}
		case 2:
			v.kind = int(number)
		case 4, 9:
			v.data = append(v.data, body...)
		case 7:
			for len(body) > 0 {
				d, n := binary.Uvarint(body)
				v.data, body = binary.LittleEndian.AppendUint64(v.data, d), body[n:]
			}
		}
	}
	return v
}

// near is the largest difference of two outputs, relative to what is right.
func near(kind hal.DType, got, want []byte) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	if kind != hal.Float32 {
		if slices.Equal(got, want) {
			return 0
		}
		return math.Inf(1)
	}
	far := 0.0
	for i := 0; i < len(got); i += 4 {
		g, w := real(got[i:]), real(want[i:])
		far = max(far, math.Abs(g-w)/(1e-2+math.Abs(w)))
	}
	return far
}

func real(b []byte) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))) }

// TestPublishedAnswers runs the tests that ONNX publishes for every runtime. What
// cannot be run is refused with the reason that belongs to it.
func TestPublishedAnswers(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(haltest.Models(t), "onnx", "*", "test_*", "model.onnx"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no models: run scripts/setup; %v", err)
	}
	right, refused := 0, map[hal.Code]int{}
	for _, path := range paths {
		model, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(filepath.Dir(path))
		var inputs [][]byte
		settings := map[string]string{}
		m, err := open(t, model, nil)
		if err != nil {
			if c := hal.CodeOf(err); strings.Contains(err.Error(), "\n") || !slices.Contains([]hal.Code{hal.CodeTensor, hal.CodeOp, hal.CodeRuntime, hal.CodeShape}, c) {
				t.Errorf("%s: %v", name, err)
			}
			refused[hal.CodeOf(err)]++
			continue
		}
		set := filepath.Join(filepath.Dir(path), "test_data_set_0")
		for i, x := range m.Opened().Inputs {
			v := readValue(t, fmt.Sprintf("%s/input_%d.pb", set, i))
			if !slices.Equal(v.dims, x.Shape) {
				settings = nil // the test wants another batch
			}
			inputs = append(inputs, v.data)
		}
		if settings == nil {
			refused["other shape"]++
			continue
		}
		out, ran := run(t, m, inputs...)
		for i, x := range m.Opened().Outputs {
			want := readValue(t, fmt.Sprintf("%s/output_%d.pb", set, i))
			got := ran.Outputs[i]
			if far := near(x.Type, out[i], want.data); far > 1e-3 || !slices.Equal(got.Dims[:got.Rank], want.dims) {
				t.Errorf("%s: output %d %v differs by %g from the right answer, of %v", name, i, got.Dims[:got.Rank], far, want.dims)
			}
		}
		right++
	}
	t.Logf("%d of %d right, refused: %v", right, len(paths), refused)
	if right < 97 { // the others use opset 6 or older, which ONNX Runtime has not, or text, or sequences
		t.Errorf("%d of %d models are run, 97 at least should be: %v", right, len(paths), refused)
	}
}

// TestSpeech runs a real model with a scalar input, an input whose length the file
// leaves open, and state: it says that a tone is no speech with the number that Python's
// onnxruntime gives.
func TestSpeech(t *testing.T) {
	model, err := os.ReadFile(filepath.Join(haltest.Models(t), "onnx/silero_vad_16k_op15.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, model, nil); hal.CodeOf(err) != hal.CodeShape || !strings.Contains(err.Error(), "add the setting shape.input: 1x") {
		t.Errorf("without a shape: %v", err)
	}
	m, err := open(t, model, map[string]string{"shape.input": "1x576"})
	if err != nil {
		t.Fatal(err)
	}
	var tone []byte
	for i := range 576 {
		tone = binary.LittleEndian.AppendUint32(tone, math.Float32bits(float32(math.Sin(float64(i)*2*math.Pi*220/16000)*0.5)))
	}
	rate := binary.LittleEndian.AppendUint64(nil, 16000)
	out, ran := run(t, m, tone, make([]byte, 4*2*128), rate)
	if got := real(out[0]); math.Abs(got-0.29789507) > 1e-4 {
		t.Errorf("speech with %.5f, Python says 0.29790", got)
	}
	if got := ran.Outputs[1]; !slices.Equal(got.Dims[:got.Rank], []int{2, 1, 128}) || math.Abs(real(out[1])+0.0558565) > 1e-4 {
		t.Errorf("state %v begins with %v", got.Dims[:got.Rank], real(out[1]))
	}
}

// TestNothingIsCopied: an output of a known shape is written where the agent reads it.
func TestNothingIsCopied(t *testing.T) {
	m, err := open(t, haltest.FailingONNX(), nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, m, make([]byte, 16), make([]byte, 16))
	if n := copied(m); n != 0 {
		t.Errorf("%d outputs are copied", n)
	}
	s := haltest.Graph{Nodes: []haltest.Node{{Op: "NonZero", In: []string{"x"}, Out: []string{"y"}}},
		In: []haltest.Value{{Name: "x", Type: haltest.ONNXFloat, Shape: []any{4}}}, Out: []haltest.Value{{Name: "y", Type: haltest.ONNXInt64, Shape: []any{1, nil}}}}
	if m, err = open(t, haltest.ONNX(s), nil); err != nil {
		t.Fatal(err)
	}
	run(t, m, make([]byte, 16))
	if n := copied(m); n != 1 {
		t.Errorf("%d outputs are copied, want the one whose shape nobody knows", n)
	}
}

// TestFunctionTable compares the places of the functions that shim.c calls with the
// header of the binding.
func TestFunctionTable(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("shim.c")
	if err != nil {
		t.Fatal(err)
	}
	var c strings.Builder
	fmt.Fprintf(&c, "#include <stddef.h>\n#include %q\n_Static_assert(ORT_API_VERSION == 24, \"version\");\n", strings.TrimSpace(string(dir))+"/onnxruntime_c_api.h")
	n := 0
	for line := range strings.Lines(string(source)) {
		var place int
		var name string
		if k, _ := fmt.Sscanf(strings.ReplaceAll(line, ",", " "), "  F(%d %s", &place, &name); k == 2 {
			n++
			fmt.Fprintf(&c, "_Static_assert(offsetof(OrtApi, %s) == %d * sizeof(void*), %q);\n", name, place, name)
		}
	}
	if n < 25 {
		t.Fatalf("found %d functions in shim.c", n)
	}
	path := filepath.Join(t.TempDir(), "places.c")
	if err := os.WriteFile(path, []byte(c.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if out, err := exec.Command(cc, "-fsyntax-only", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestOldLibraries(t *testing.T) {
	for version, want := range map[string]bool{"1.23.2": true, "1.9": true, "0.5.1": true, "1.x": true, "": false, "1.24.4": false, "1.130.0": false, "2.0.0": false} {
		if version != "" && tooOld(version) != want {
			t.Errorf("%s: %v", version, !want)
		}
	}
}
