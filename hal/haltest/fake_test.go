package haltest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/hal"
)

// TestFakesPass holds the fakes to the suites of the real ones.
func TestFakesPass(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	if err := os.WriteFile(path, []byte("model"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &FakeEngine{
		Inputs: []hal.TensorInfo{{Name: "in", Type: hal.Uint8, Shape: []int{1, 8}}},
		Outputs: []hal.TensorInfo{
			{Name: "out", Type: hal.Uint8, Shape: []int{1, 8}}},
		Compute: func(in, out [][]byte) { copy(out[0], in[0]) },
	}
	Engine(t, e, hal.Model{Name: "m", Path: path})
	Source(t, func(*testing.T) hal.Source { return &FakeSource{Frames: 3} })
	Source(t, func(*testing.T) hal.Source {
		return &FakeSource{IsLive: true, Bad: func(n int) bool { return n%2 == 1 }}
	})
}

func TestFakeCrashIsLost(t *testing.T) {
	e := &FakeEngine{OnRun: func(n int) error {
		if n == 2 {
			return Crash()
		}
		return nil
	}}
	s, err := e.Open(t.Context(), hal.Model{}, hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []error{nil, hal.ErrLost, hal.ErrLost} {
		if _, err := s.Run(0); !errors.Is(err, want) {
			t.Errorf("run %d: %v, want %v", n+1, err, want)
		}
	}
	if got := e.Sessions()[0].Runs(); got != 2 {
		t.Errorf("the engine saw %d runs, want 2: a lost session stays lost", got)
	}
}

func TestFakesUseTheTestsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := &FakeSource{Frames: 10, Every: time.Minute}
		var f hal.Frame
		for range 10 {
			if err := s.Next(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(start); got != 10*time.Minute || FakeSeq(&f) != 10 {
			t.Errorf("10 frames took %v, the last is number %d", got, FakeSeq(&f))
		}
	})
}
