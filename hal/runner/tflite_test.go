package runner_test

import (
	"errors"
	"image"
	_ "image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner"
)

// tflite is the engine over the real runner, through the real stage.
func tflite(t testing.TB) *runner.Engine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := haltest.Program(t, "covey-runner-tflite")
	return runner.New(runner.Config{
		Name: "tflite", Program: program, Units: runner.UnitsOf(program),
		Stage: []string{self, "stage"}, Logger: zerolog.New(zerolog.NewTestWriter(t)),
	})
}

func model(t testing.TB, path string) hal.Model {
	return hal.Model{Name: filepath.Base(path), Path: filepath.Join(haltest.Models(t), path)}
}

const mobilenet = "label_image/mobilenet_quant_v1_224.tflite"

func TestPeacock(t *testing.T) {
	for _, a := range []hal.Accelerator{hal.Auto, hal.CPU} {
		s, err := tflite(t).Open(t.Context(), model(t, mobilenet), hal.Options{Accelerator: a})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		peacock(t, s.Input(0, 0))
		timing, err := s.Run(0)
		if err != nil {
			t.Fatal(err)
		}
		best, score := 0, byte(0)
		for i, v := range s.Output(0, 0).Data {
			if v > score {
				best, score = i, v
			}
		}
		i := s.Info()
		t.Logf("%s: %s %.2f, engine %v, hop %v; %s, %d threads, %d of %d ops", a, label(t, best), float64(score)/255, timing.Engine, timing.Hop, i.Accelerator, i.Threads, i.Delegated, i.Ops)
		if label(t, best) != "peacock" || score < 200 {
			t.Errorf("%s: best is %s with %d of 255, want peacock", a, label(t, best), score)
		}
		if want := map[hal.Accelerator]hal.Accelerator{hal.Auto: hal.XNNPACK, hal.CPU: hal.CPU}[a]; i.Accelerator != want {
			t.Errorf("asked for %s, got %s, tried %v; want %s", a, i.Accelerator, i.Tried, want)
		}
	}
}

// peacock writes the demo picture into a 224×224 RGB tensor, nearest pixels.
func peacock(t *testing.T, to []byte) {
	t.Helper()
	f, err := os.Open(filepath.Join(haltest.Models(t), "label_image/peacock.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, _, err := image.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	b := img.Bounds()
	for y := range 224 {
		for x := range 224 {
			r, g, bl, _ := img.At(b.Min.X+x*b.Dx()/224, b.Min.Y+y*b.Dy()/224).RGBA()
			copy(to[3*(224*y+x):], []byte{byte(r >> 8), byte(g >> 8), byte(bl >> 8)})
		}
	}
}

func label(t *testing.T, i int) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(haltest.Models(t), "label_image/labels.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.Split(string(b), "\n")[i])
}

func TestEngineSuite(t *testing.T) {
	haltest.Engine(t, tflite(t), model(t, mobilenet))
}

func BenchmarkRun(b *testing.B) {
	s, err := tflite(b).Open(b.Context(), model(b, mobilenet), hal.Options{Threads: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	var hop float64
	for b.Loop() {
		t, err := s.Run(0)
		if err != nil {
			b.Fatal(err)
		}
		hop += float64(t.Hop.Nanoseconds())
	}
	b.ReportMetric(hop/float64(b.N), "hop-ns/op")
}

func file(t testing.TB, content []byte) hal.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.tflite")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return hal.Model{Name: "m.tflite", Path: path}
}

// TestRealModels opens the other demo models and checks what they say of themselves.
func TestRealModels(t *testing.T) {
	for path, want := range map[string]struct {
		in      hal.DType
		outputs int
	}{
		"ssd/detect.tflite":                   {hal.Uint8, 4},
		"segment/deeplabv3_257_mv_gpu.tflite": {hal.Float32, 1},
	} {
		s, err := tflite(t).Open(t.Context(), model(t, path), hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		timing, err := s.Run(0)
		if err != nil {
			t.Fatal(err)
		}
		i := s.Info()
		t.Logf("%s: engine %v, hop %v; %s, %d of %d ops", path, timing.Engine, timing.Hop, i.Accelerator, i.Delegated, i.Ops)
		if i.Accelerator != hal.XNNPACK || i.Inputs[0].Type != want.in || len(i.Outputs) != want.outputs {
			t.Errorf("%s: %s, input %s, %d outputs; want xnnpack, %s, %d", path, i.Accelerator, i.Inputs[0].Type, len(i.Outputs), want.in, want.outputs)
		}
	}
}

func TestBadModels(t *testing.T) {
	good, err := os.ReadFile(model(t, mobilenet).Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		content []byte
		want    hal.Code
	}{
		{"web page", []byte("<html>404</html>"), hal.CodeModelFormat},
		{"cut in half", good[:len(good)/2], hal.CodeModelFormat},
		{"unknown operator", haltest.CustomModel("Whatever"), hal.CodeOp},
		{"for an Edge TPU", haltest.CustomModel("edgetpu-custom-op"), hal.CodeAccel},
	} {
		s, err := tflite(t).Open(t.Context(), file(t, c.content), hal.Options{})
		if err == nil {
			s.Close()
		}
		if hal.CodeOf(err) != c.want || errors.Is(err, hal.ErrLost) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s from a runner that lives", c.name, err, c.want)
		}
	}
}

// TestRealCrash runs a model that really kills the library.
func TestRealCrash(t *testing.T) {
	e, m := tflite(t), file(t, haltest.CrashingModel())
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
	again, err := e.Open(t.Context(), m, hal.Options{})
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	again.Close()
}

func TestFailedRunIsNoLoss(t *testing.T) {
	s, err := tflite(t).Open(t.Context(), file(t, haltest.FailingModel()), hal.Options{})
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

// TestRealMemoryLimit finds out how little is enough, and that less is refused
// with the one right code.
func TestRealMemoryLimit(t *testing.T) {
	opened := false
	for mb := int64(16); mb <= 256 && !opened; mb += 16 {
		s, err := tflite(t).Open(t.Context(), model(t, mobilenet), hal.Options{MemoryLimit: mb << 20})
		if err == nil {
			if opened = true; mb < 32 {
				t.Errorf("a 4 MB model and a Go runtime fit into %d MB: is there a limit?", mb)
			}
			t.Logf("MobileNet opens with %d MB", mb)
			s.Close()
		} else if hal.CodeOf(err) != hal.CodeMemory {
			t.Errorf("%d MB: %v, want %s", mb, err, hal.CodeMemory)
		}
	}
	if !opened {
		t.Error("MobileNet does not open with 256 MB")
	}
}

// A run that does not come back cannot be stopped, only its process can.
func TestPitfall13StuckRunIsKilled(t *testing.T) {
	s, err := tflite(t).Open(t.Context(), model(t, mobilenet), hal.Options{Deadline: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	runner.Stop(t, s)
	start := time.Now()
	_, err = s.Run(0)
	if hal.CodeOf(err) != hal.CodeTimeout || !errors.Is(err, hal.ErrLost) || time.Since(start) > 1200*time.Millisecond {
		t.Errorf("%v after %v, want %s within a second of the deadline", err, time.Since(start), hal.CodeTimeout)
	}
}

// Without its library the runner does not start; the agent is none the worse.
func TestPitfall14NoLibraryIsOneLine(t *testing.T) {
	program, err := os.ReadFile(haltest.Program(t, "covey-runner-tflite"))
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "covey-runner-tflite")
	if err := os.WriteFile(alone, program, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := runner.New(runner.Config{Name: "tflite", Program: alone, Units: runner.UnitsOf(alone), Stage: []string{self, "stage"}, Logger: zerolog.Nop()})
	_, err = e.Open(t.Context(), model(t, mobilenet), hal.Options{})
	if hal.CodeOf(err) != hal.CodeEngine || !strings.Contains(err.Error(), "libtensorflowlite_c.so: cannot open shared object file") {
		t.Errorf("%v, want %s that names the library", err, hal.CodeEngine)
	}
	devices, diagnoses := e.Probe(t.Context())
	if len(devices) != 0 || len(diagnoses) != 1 || diagnoses[0].OK || diagnoses[0].Fix == "" {
		t.Errorf("Probe = %+v, %+v; want one diagnosis with a fix", devices, diagnoses)
	}
}
