package haltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
)

// Engine is the suite that every hal.Engine must pass. m is a small model that
// it opens, with fixed shapes, named by its path.
func Engine(t *testing.T, e hal.Engine, m hal.Model) {
	t.Helper()
	file, err := os.ReadFile(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	if e.Name() == "" {
		t.Error("Name is empty")
	}
	t.Run("Probe", func(t *testing.T) { probe(t, e) })
	t.Run("Info", func(t *testing.T) { info(t, e, m, file) })
	t.Run("Buffers", func(t *testing.T) { buffers(t, e, m) })
	t.Run("Timing", func(t *testing.T) { timing(t, e, m) })
	t.Run("Allocations", func(t *testing.T) { allocations(t, e, m) })
	t.Run("Concurrent", func(t *testing.T) { concurrent(t, e, m) })
	t.Run("Close", func(t *testing.T) { closing(t, e, m) })
	t.Run("Refuses", func(t *testing.T) { refuses(t, e, m, file) })
}

func open(t *testing.T, e hal.Engine, m hal.Model, o hal.Options) hal.Session {
	t.Helper()
	s, err := e.Open(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func probe(t *testing.T, e hal.Engine) {
	devices, diagnoses := e.Probe(t.Context())
	if len(devices) == 0 {
		t.Errorf("no device; diagnoses: %+v", diagnoses)
	}
	for _, d := range devices {
		if d.Accelerator == "" || d.Accelerator == hal.Auto || d.Name == "" {
			t.Errorf("device %+v: wants an accelerator and a name", d)
		}
	}
	for _, d := range diagnoses {
		if d.Subject == "" || d.Detail == "" || (!d.OK && d.Fix == "") {
			t.Errorf("diagnosis %+v: wants a subject, a detail, and a fix where it is not OK", d)
		}
	}
}

func info(t *testing.T, e hal.Engine, m hal.Model, file []byte) {
	s := open(t, e, m, hal.Options{})
	i := s.Info()
	sum := sha256.Sum256(file)
	if got, want := i.SHA256, hex.EncodeToString(sum[:]); got != want {
		t.Errorf("SHA256 = %s, want %s", got, want)
	}
	if i.Buffers != 2 || i.Deadline != 10*time.Second {
		t.Errorf("defaults: %d buffers, deadline %v; want 2, 10s", i.Buffers, i.Deadline)
	}
	if i.Accelerator == "" || i.Accelerator == hal.Auto || i.Runtime == "" || i.Threads < 1 {
		t.Errorf("Info = %+v: wants an accelerator, a runtime, threads", i)
	}
	if len(i.Inputs) == 0 || len(i.Outputs) == 0 {
		t.Fatalf("%d inputs, %d outputs", len(i.Inputs), len(i.Outputs))
	}
	for n, in := range i.Inputs {
		if got, want := len(s.Input(0, n)), in.Elements()*in.Type.Size(); got != want {
			t.Errorf("input %d: %d bytes, want %d for %v of %s", n, got, want, in.Shape, in.Type)
		}
	}
	if three := open(t, e, m, hal.Options{Buffers: 3, Deadline: time.Minute}).Info(); three.Buffers != 3 || three.Deadline != time.Minute {
		t.Errorf("asked for 3 buffers and a minute, got %d and %v", three.Buffers, three.Deadline)
	}
}

// fill writes a pattern, another one for each seed.
func fill(s hal.Session, buf int, seed byte) {
	for n := range s.Info().Inputs {
		in := s.Input(buf, n)
		for i := range in {
			in[i] = byte(i)*31 ^ byte(i>>8) ^ seed
			if s.Info().Inputs[n].Type == hal.Float32 && i%4 == 3 {
				in[i] = 0x3f // floats between 0.5 and 2
			}
		}
	}
}

func run(t *testing.T, s hal.Session, buf int) [][]byte {
	t.Helper()
	if _, err := s.Run(buf); err != nil {
		t.Fatal(err)
	}
	return outputs(t, s, buf)
}

// outputs copies what a buffer holds, and checks that it is what Info says.
func outputs(t *testing.T, s hal.Session, buf int) [][]byte {
	t.Helper()
	var all [][]byte
	for n, want := range s.Info().Outputs {
		out := s.Output(buf, n)
		if out.Info == nil || out.Info.Name != want.Name {
			t.Fatalf("output %d has the Info %+v, want %+v", n, out.Info, want)
		}
		if size := (hal.TensorInfo{Shape: out.Shape}).Elements() * want.Type.Size(); size != len(out.Data) && want.Type.Size() > 0 {
			t.Fatalf("output %d: %d bytes for %v of %s", n, len(out.Data), out.Shape, want.Type)
		}
		all = append(all, bytes.Clone(out.Data))
	}
	return all
}

func buffers(t *testing.T, e hal.Engine, m hal.Model) {
	s := open(t, e, m, hal.Options{})
	fill(s, 0, 1)
	fill(s, 1, 200)
	first := bytes.Clone(s.Input(0, 0))
	one, other := run(t, s, 0), run(t, s, 1)
	if !bytes.Equal(s.Input(0, 0), first) {
		t.Error("the input of buffer 0 changed while buffer 1 ran")
	}
	if got := outputs(t, s, 0); !equal(got, one) {
		t.Error("the outputs of buffer 0 changed while buffer 1 ran")
	}
	fill(s, 1, 1)
	if got := run(t, s, 1); !equal(got, one) {
		t.Error("the same input gave other outputs in buffer 1")
	}
	fill(s, 0, 200)
	if got := run(t, s, 0); !equal(got, other) {
		t.Error("the same input gave other outputs in buffer 0")
	}
	if err := s.Reset(); err != nil {
		t.Errorf("Reset: %v", err)
	}
	if got := run(t, s, 1); !equal(got, one) {
		t.Error("the same input gave other outputs after Reset")
	}
}

func equal(a, b [][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

func timing(t *testing.T, e hal.Engine, m hal.Model) {
	s := open(t, e, m, hal.Options{})
	for range 5 {
		start := time.Now()
		got, err := s.Run(0)
		wall := time.Since(start)
		if err != nil {
			t.Fatal(err)
		}
		if got.Engine < 0 || got.Hop < 0 || got.Engine+got.Hop > wall {
			t.Errorf("engine %v + hop %v in a run of %v", got.Engine, got.Hop, wall)
		}
	}
}

func allocations(t *testing.T, e hal.Engine, m hal.Model) {
	s := open(t, e, m, hal.Options{})
	if n := testing.AllocsPerRun(20, func() {
		if _, err := s.Run(0); err != nil {
			t.Fatal(err)
		}
		_ = s.Output(0, 0)
		_ = s.Input(0, 0)
	}); n > 0 {
		t.Errorf("%v allocations a run, want 0", n)
	}
}

func concurrent(t *testing.T, e hal.Engine, m hal.Model) {
	want := func() [][]byte {
		s := open(t, e, m, hal.Options{})
		fill(s, 0, 7)
		return run(t, s, 0)
	}()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			s, err := e.Open(t.Context(), m, hal.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for i := range 4 {
				fill(s, i%2, 7)
				if _, err := s.Run(i % 2); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(s.Output(i%2, 0).Data, want[0]) {
					t.Error("sessions beside each other disturb each other's outputs")
				}
			}
		})
	}
	group.Wait()
}

func closing(t *testing.T, e hal.Engine, m hal.Model) {
	s := open(t, e, m, hal.Options{})
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := s.Run(0); !errors.Is(err, hal.ErrLost) {
		t.Errorf("Run after Close: %v, want an error that wraps ErrLost", err)
	}
	if err := s.Reset(); !errors.Is(err, hal.ErrLost) {
		t.Errorf("Reset after Close: %v, want an error that wraps ErrLost", err)
	}
}

func refuses(t *testing.T, e hal.Engine, m hal.Model, file []byte) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		model hal.Model
		o     hal.Options
		want  hal.Code
	}{
		{"no file", hal.Model{Name: "gone", Path: filepath.Join(dir, "gone")}, hal.Options{}, hal.CodeModelFormat},
		{"empty file", hal.Model{Name: "empty", Path: empty}, hal.Options{}, hal.CodeModelEmpty},
		{"other hash", hal.Model{Name: "rotten", Path: m.Path, SHA256: hex.EncodeToString(make([]byte, 32))}, hal.Options{}, hal.CodeHashAtRest},
		{"too short", hal.Model{Name: "short", Path: m.Path, Size: int64(len(file)) + 1}, hal.Options{}, hal.CodeModelShort},
		{"too long", hal.Model{Name: "long", Path: m.Path, Size: int64(len(file)) - 1}, hal.Options{}, hal.CodeLength},
		{"no such accelerator", m, hal.Options{Accelerator: "external:none"}, hal.CodeAccel},
	} {
		s, err := e.Open(t.Context(), c.model, c.o)
		if err == nil {
			s.Close()
		}
		if got := hal.CodeOf(err); got != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := e.Open(ctx, m, hal.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Open with an ended context: session %v, error %v", s, err)
	}
}
