package synthetic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

func open(t *testing.T, c Config) *Source {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSource(t *testing.T) {
	for _, c := range []Config{{}, {Width: 7, Height: 5, Count: 3}, {Width: 1, Height: 1, Live: true}, {FPS: 1000, Count: 9}} {
		haltest.Source(t, func(t *testing.T) hal.Source { return open(t, c) })
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []Config{{Width: 5}, {Width: -1, Height: 5}, {Width: 9000, Height: 5}, {FPS: -1}, {FPS: 1e9}} {
		if _, err := New(c); hal.CodeOf(err) != hal.CodeConfig {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

// TestDeterministic: two sources give the same frames, and no two frames in a row
// are the same.
func TestDeterministic(t *testing.T) {
	a, b := open(t, Config{Width: 65, Height: 33}), open(t, Config{Width: 65, Height: 33})
	var fa, fb hal.Frame
	last := []byte(nil)
	for i := range 300 {
		if err := errors.Join(a.Next(t.Context(), &fa), b.Next(t.Context(), &fb)); err != nil {
			t.Fatal(err)
		}
		for p := range fa.Planes {
			if !bytes.Equal(fa.Planes[p], fb.Planes[p]) {
				t.Fatalf("frame %d, plane %d differs", i, p)
			}
		}
		if bytes.Equal(last, fa.Planes[0]) {
			t.Fatalf("frame %d stands still", i)
		}
		last = append(last[:0], fa.Planes[0]...)
	}
	if n := testing.AllocsPerRun(20, func() { a.Next(t.Context(), &fa) }); n > 1 {
		t.Errorf("%v allocations a frame", n)
	}
}

func TestPace(t *testing.T) {
	for _, tt := range []struct {
		name  string
		live  bool
		pause time.Duration // after the third frame
		want  time.Duration // of 11 frames at 10 a second
	}{
		{"steady", false, 0, time.Second},
		{"a file catches up", false, 500 * time.Millisecond, time.Second},
		{"a live source does not", true, 500 * time.Millisecond, 1500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, Config{Width: 4, Height: 4, FPS: 10, Count: 11, Live: tt.live})
				var f hal.Frame
				began := time.Now()
				var last time.Time
				for i := range 11 {
					if err := s.Next(t.Context(), &f); err != nil {
						t.Fatal(err)
					}
					if last = f.Captured; i == 2 {
						time.Sleep(tt.pause)
					}
				}
				if got := last.Sub(began); got < tt.want-110*time.Millisecond || got > tt.want {
					t.Errorf("took %v, want %v", got, tt.want)
				}
				if err := s.Next(t.Context(), &f); err != io.EOF {
					t.Errorf("after the last: %v", err)
				}
			})
		})
	}
}

func TestCancelWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Config{FPS: 0.001})
		var f hal.Frame
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Next(ctx, &f); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
