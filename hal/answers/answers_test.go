// Package answers holds real models against answers that are known to be right:
// through the real runner programs in their sandbox and the agent's own way from a
// picture or a sound into the tensor. The answers are those of Google's Python
// package; testdata/make.py made them.
package answers

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "stage" {
		fmt.Fprintln(os.Stderr, runner.Stage(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// accelerators is what every machine has. Each is held against the answers.
var accelerators = []hal.Accelerator{hal.CPU, hal.XNNPACK}

// engine runs models of a format in the program that boards have.
func engine(t *testing.T, format string) hal.Engine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return runner.New(runner.Config{Name: format, Program: haltest.Program(t, "covey-runner-"+format),
		Stage: []string{self, "stage"}, Logger: zerolog.New(zerolog.NewTestWriter(t))})
}

// open opens a model of scripts/setup.
func open(t *testing.T, path string, o hal.Options) hal.Session {
	t.Helper()
	return openFile(t, engine(t, "tflite"), filepath.Join(haltest.Models(t), path), o)
}

func openFile(t *testing.T, e hal.Engine, path string, o hal.Options) hal.Session {
	t.Helper()
	s, err := e.Open(t.Context(), hal.Model{Name: filepath.Base(path), Path: path}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func run(t *testing.T, s hal.Session) {
	t.Helper()
	if _, err := s.Run(0); err != nil {
		t.Fatal(err)
	}
}

// expected reads what make.py wrote.
func expected[T any](t *testing.T, name string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(read(t, filepath.Join("testdata", name)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run ./scripts/setup", err)
	}
	return b
}

// floats reads the float32 of a tensor, putFloats writes them.
func floats(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

func putFloats(b []byte, v []float32) {
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(x))
	}
}

// farthest is the largest difference of two lists; infinite when they are not of one
// length or hold what is no number.
func farthest(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	far := 0.0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		far = max(far, d)
	}
	return far
}
