package runner_test

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner"
)

// onnx is the engine over the real runner, through the real stage.
func onnx(t testing.TB, env ...string) *runner.Engine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := haltest.Program(t, "covey-runner-onnx")
	return runner.New(runner.Config{
		Name: "onnx", Program: program, Units: runner.UnitsOf(program), Env: env,
		Stage: []string{self, "stage"}, Logger: zerolog.New(zerolog.NewTestWriter(t)),
	})
}

func graph(t testing.TB, g haltest.Graph) hal.Model {
	t.Helper()
	m := file(t, haltest.ONNX(g))
	m.Name = "m.onnx"
	return m
}

// dense is y = softmax(x·w), large enough that buffers are told apart.
func dense() haltest.Graph {
	const in, out = 192, 10
	w := make([]byte, 0, 4*in*out)
	for i := range in * out {
		w = binary.LittleEndian.AppendUint32(w, math.Float32bits(float32(i%7)/70-0.03))
	}
	return haltest.Graph{
		Nodes: []haltest.Node{
			{Op: "MatMul", In: []string{"x", "w"}, Out: []string{"s"}},
			{Op: "Softmax", In: []string{"s"}, Out: []string{"y"}, Attributes: map[string]any{"axis": 1}},
		},
		Weights: []haltest.Constant{{Name: "w", Type: haltest.ONNXFloat, Shape: []int{in, out}, Data: w}},
		In:      []haltest.Value{{Name: "x", Type: haltest.ONNXFloat, Shape: []any{"batch", in}}},
		Out:     []haltest.Value{{Name: "y", Type: haltest.ONNXFloat, Shape: []any{"batch", out}}},
	}
}

func TestONNXEngineSuite(t *testing.T) {
	haltest.Engine(t, onnx(t), graph(t, dense()))
}

// TestONNXLadder: this library is for the CPU alone, so the better accelerators say
// why not.
func TestONNXLadder(t *testing.T) {
	s, err := onnx(t).Open(t.Context(), graph(t, dense()), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	i := s.Info()
	t.Logf("%+v", i)
	if i.Accelerator != hal.CPU || len(i.Tried) != 2 || i.Tried[0].Accelerator != hal.TensorRT || i.Tried[1].Accelerator != hal.CUDA {
		t.Errorf("%s after %+v, want cpu after tensorrt and cuda", i.Accelerator, i.Tried)
	}
	for _, a := range i.Tried {
		if !strings.HasPrefix(a.Reason, "E_ACCEL: no ") {
			t.Errorf("%s: %s", a.Accelerator, a.Reason)
		}
	}
	if !strings.HasPrefix(i.Runtime, "onnxruntime 1.") || i.Ops < 2 || i.Delegated != 0 || !slices.Equal(i.Outputs[0].Shape, []int{1, 10}) {
		t.Errorf("%+v", i)
	}
}

func TestBadONNX(t *testing.T) {
	good := haltest.ONNX(dense())
	with := func(change func(*haltest.Graph)) []byte {
		g := dense()
		change(&g)
		return haltest.ONNX(g)
	}
	wide := func(g *haltest.Graph) { g.In[0].Shape = []any{"batch", "n"} }
	for _, c := range []struct {
		name    string
		content []byte
		o       hal.Options
		want    hal.Code
		says    string
	}{
		{"web page", []byte("<html>404</html>"), hal.Options{}, hal.CodeModelFormat, "not a TFLite or ONNX file"},
		{"another format", haltest.CustomModel("x"), hal.Options{}, hal.CodeModelFormat, "this engine runs ONNX"},
		{"cut in half", good[:len(good)/2], hal.Options{}, hal.CodeModelShort, "cut off"},
		{"unknown operator", with(func(g *haltest.Graph) { g.Nodes[1].Op = "Whatever" }), hal.Options{}, hal.CodeOp, "Whatever"},
		{"operator of a custom domain", with(func(g *haltest.Graph) { g.Nodes[1].Domain = "acme" }), hal.Options{}, hal.CodeOp, "acme.Softmax"},
		{"later opset", with(func(g *haltest.Graph) { g.Opset = 99 }), hal.Options{}, hal.CodeRuntime, "pset 99"},
		{"later IR", with(func(g *haltest.Graph) { g.IR = 99 }), hal.Options{}, hal.CodeRuntime, "99"},
		{"wrong graph", with(func(g *haltest.Graph) { g.Nodes[0].In[1] = "nowhere" }), hal.Options{}, hal.CodeModelFormat, "nowhere"},
		{"weights elsewhere", with(func(g *haltest.Graph) { g.Weights[0].External = true }), hal.Options{}, hal.CodeModelFormat, "another file"},
		{"shape not known", with(wide), hal.Options{}, hal.CodeShape, "add the setting shape.x: 1x224"},
		{"shape that does not fit", with(wide), hal.Options{Settings: map[string]string{"shape.x": "1x2x3"}}, hal.CodeShape, "shape.x"},
		{"shape of no input", good, hal.Options{Settings: map[string]string{"shape.z": "1"}}, hal.CodeShape, "it has x"},
		{"unknown setting", good, hal.Options{Accelerator: hal.CPU, Settings: map[string]string{"trt_fp16_enable": "1"}}, hal.CodeAccel, "cpu has no setting"},
		{"wrong setting", good, hal.Options{Accelerator: hal.CPU, Settings: map[string]string{"enable_mem_pattern": "yes"}}, hal.CodeAccel, "cannot be"},
		{"wrong device", good, hal.Options{Accelerator: hal.CPU, Device: "gpu:0"}, hal.CodeAccel, "gpu:0"},
		{"TensorRT", good, hal.Options{Accelerator: hal.TensorRT, Device: "gpu:0", Settings: map[string]string{"trt_fp16_enable": "1", "trt_max_workspace_size": "1073741824"}}, hal.CodeAccel, "no tensorrt here"},
		{"CUDA", good, hal.Options{Accelerator: hal.CUDA}, hal.CodeAccel, "no cuda here"},
	} {
		m := file(t, c.content)
		s, err := onnx(t).Open(t.Context(), m, c.o)
		if err == nil {
			s.Close()
			t.Errorf("%s: it opened", c.name)
			continue
		}
		if hal.CodeOf(err) != c.want || errors.Is(err, hal.ErrLost) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s with %q from a runner that lives", c.name, err, c.want, c.says)
		}
	}
}

// TestONNXCrash: an integer divided by zero really kills the library.
func TestONNXCrash(t *testing.T) {
	e, m := onnx(t), file(t, haltest.CrashingONNX())
	s, err := e.Open(t.Context(), m, hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	copy(s.Input(0, 0), []byte{6, 0, 0, 0, 8, 0, 0, 0})
	copy(s.Input(0, 1), []byte{2, 0, 0, 0, 2, 0, 0, 0})
	if _, err := s.Run(0); err != nil || s.Output(0, 0).Data[0] != 3 {
		t.Fatalf("6/2 = %v, %v", s.Output(0, 0).Data, err)
	}
	clear(s.Input(0, 1))
	_, err = s.Run(0)
	if hal.CodeOf(err) != hal.CodeCrash || !errors.Is(err, hal.ErrLost) || !strings.Contains(err.Error(), "SIGFPE in run") {
		t.Errorf("%v, want %s by SIGFPE in run", err, hal.CodeCrash)
	}
}

func TestFailedONNXRunIsNoLoss(t *testing.T) {
	s, err := onnx(t).Open(t.Context(), file(t, haltest.FailingONNX()), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Input(0, 1)[0] = 9
	if _, err := s.Run(0); hal.CodeOf(err) != hal.CodeInvoke || errors.Is(err, hal.ErrLost) {
		t.Errorf("%v, want %s and the session alive", err, hal.CodeInvoke)
	}
	if _, err := s.Run(1); err != nil {
		t.Errorf("the run after a failed one: %v", err)
	}
}

// TestONNXTypes runs an identity of every type of number, and of shapes that are known
// only after a run.
func TestONNXTypes(t *testing.T) {
	for _, c := range []struct {
		kind int
		want hal.DType
	}{{1, hal.Float32}, {2, hal.Uint8}, {3, hal.Int8}, {4, hal.Uint16}, {5, hal.Int16}, {6, hal.Int32}, {7, hal.Int64}, {9, hal.Bool},
		{10, hal.Float16}, {11, hal.Float64}, {12, hal.Uint32}, {13, hal.Uint64}} {
		for _, shape := range [][]any{{}, {3}, {"batch", 2, 2}} {
			s, err := onnx(t).Open(t.Context(), graph(t, haltest.Graph{
				Nodes: []haltest.Node{{Op: "Identity", In: []string{"x"}, Out: []string{"y"}}},
				In:    []haltest.Value{{Name: "x", Type: c.kind, Shape: shape}},
				Out:   []haltest.Value{{Name: "y", Type: c.kind, Shape: shape}},
			}), hal.Options{Accelerator: hal.CPU})
			if err != nil {
				t.Errorf("%s %v: %v", c.want, shape, err)
				continue
			}
			in := s.Input(0, 0)
			for i := range in {
				in[i] = byte(i*7+1) & 1
			}
			_, err = s.Run(0)
			out := s.Output(0, 0)
			if err != nil || out.Info.Type != c.want || !slices.Equal(out.Data, in) || len(out.Shape) != len(shape) {
				t.Errorf("%s %v: %v of %s %v, want %v; %v", c.want, shape, out.Data, out.Info.Type, out.Shape, in, err)
			}
			s.Close()
		}
	}
}

// TestONNXDynamicOutput: what depends on the input's values, and what is larger than
// the room that such outputs get unasked.
func TestONNXDynamicOutput(t *testing.T) {
	const n = 3 << 20
	s, err := onnx(t).Open(t.Context(), graph(t, haltest.Graph{
		Nodes: []haltest.Node{
			{Op: "NonZero", In: []string{"x"}, Out: []string{"where"}},
			{Op: "Reshape", In: []string{"x", "shape"}, Out: []string{"flat"}},
			{Op: "ConstantOfShape", In: []string{"shape"}, Out: []string{"made"}},
		},
		In: []haltest.Value{{Name: "x", Type: haltest.ONNXUint8, Shape: []any{"rows", n}}, {Name: "shape", Type: haltest.ONNXInt64, Shape: []any{2}}},
		Out: []haltest.Value{{Name: "where", Type: haltest.ONNXInt64, Shape: []any{2, nil}}, {Name: "flat", Type: haltest.ONNXUint8, Shape: []any{nil, nil}},
			{Name: "made", Type: haltest.ONNXFloat, Shape: []any{nil, nil}}},
	}), hal.Options{Accelerator: hal.CPU})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Input(0, 0)[5], s.Input(0, 0)[n-1] = 1, 1
	shape := s.Input(0, 1)
	binary.LittleEndian.PutUint64(shape, 3)
	binary.LittleEndian.PutUint64(shape[8:], n/3)
	_, err = s.Run(0)
	if hal.CodeOf(err) != hal.CodeInvoke || !strings.Contains(err.Error(), "there is room for") {
		t.Errorf("an output past its room: %v", err)
	}
	clear(shape)
	if _, err := s.Run(0); err != nil {
		t.Fatal(err)
	}
	where, flat := s.Output(0, 0), s.Output(0, 1)
	if !slices.Equal(where.Info.Shape, []int{2, -1}) || !slices.Equal(where.Shape, []int{2, 2}) || where.Data[16] != 5 {
		t.Errorf("%v %v: %v", where.Info.Shape, where.Shape, where.Data)
	}
	if !slices.Equal(flat.Shape, []int{1, n}) || !slices.Equal(flat.Data, s.Input(0, 0)) {
		t.Errorf("flat is %v, %d bytes", flat.Shape, len(flat.Data))
	}
}

// TestNoONNXRuntime: what is wrong with the library is one line, and the agent is none
// the worse.
func TestNoONNXRuntime(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"/nowhere/libonnxruntime.so", "cannot open shared object file"},
		{"libc.so.6", "it has no OrtGetApiBase"},
	} {
		_, err := onnx(t, "COVEY_ONNXRUNTIME="+c.path).Open(t.Context(), graph(t, dense()), hal.Options{})
		if hal.CodeOf(err) != hal.CodeEngine || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s with %q", c.path, err, hal.CodeEngine, c.want)
		}
	}
}

// TestTwins: the same layer, written for both engines, answers the same picture alike.
func TestTwins(t *testing.T) {
	const in, out = 8 * 8 * 3, 10
	var w, b []byte
	for i := range in * out {
		w = binary.LittleEndian.AppendUint32(w, math.Float32bits(float32(math.Sin(float64(i*i)))/16))
	}
	for i := range out {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(i)/20))
	}
	const fullyConnected, itsOptions = 9, 8
	first := file(t, haltest.TFLite(haltest.Op{Code: fullyConnected, In: []int32{1, 2}, Options: haltest.Table{}, Kind: itsOptions}, 1,
		haltest.Tensor("x", haltest.Float32Type, 1, in), haltest.Weights("w", haltest.Float32Type, w, out, in),
		haltest.Weights("b", haltest.Float32Type, b, out), haltest.Tensor("y", haltest.Float32Type, 1, out)))
	second := graph(t, haltest.Graph{
		Nodes:   []haltest.Node{{Op: "Gemm", In: []string{"x", "w", "b"}, Out: []string{"y"}, Attributes: map[string]any{"transB": 1}}},
		Weights: []haltest.Constant{{Name: "w", Type: haltest.ONNXFloat, Shape: []int{out, in}, Data: w}, {Name: "b", Type: haltest.ONNXFloat, Shape: []int{out}, Data: b}},
		In:      []haltest.Value{{Name: "x", Type: haltest.ONNXFloat, Shape: []any{"batch", in}}},
		Out:     []haltest.Value{{Name: "y", Type: haltest.ONNXFloat, Shape: []any{"batch", out}}},
	})
	picture := make([]byte, 224*224*3)
	peacock(t, picture)
	var answers [2]hal.Tensor
	for k, e := range []struct {
		hal.Engine
		m hal.Model
	}{{tflite(t), first}, {onnx(t), second}} {
		s, err := e.Open(t.Context(), e.m, hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range in {
			pixel := picture[3*(224*(28*(i/24)+14)+28*(i/3%8)+14)+i%3]
			binary.LittleEndian.PutUint32(s.Input(0, 0)[4*i:], math.Float32bits(float32(pixel)/255))
		}
		if _, err := s.Run(0); err != nil {
			t.Fatal(err)
		}
		answers[k] = s.Output(0, 0)
	}
	value := func(k, i int) float64 {
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(answers[k].Data[4*i:])))
	}
	sum := 0.0
	for i := range out {
		if d := math.Abs(value(0, i) - value(1, i)); !(d < 1e-5) {
			t.Errorf("output %d: %v by TFLite, %v by ONNX Runtime", i, value(0, i), value(1, i))
		}
		sum += math.Abs(value(0, i))
	}
	if sum < 1 {
		t.Errorf("answers of %v in all: the picture did not arrive", sum)
	}
}
