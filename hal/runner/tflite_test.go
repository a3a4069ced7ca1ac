package runner_test

import (
	"image"
	_ "image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	return runner.New(runner.Config{
		Name: "tflite", Program: haltest.Program(t, "covey-runner-tflite"),
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
