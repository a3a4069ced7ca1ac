package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

var (
	errLost    = &hal.Error{Code: hal.CodeSourceLost, Text: "unplugged", Err: io.EOF}
	errStalled = &hal.Error{Code: hal.CodeSourceStalled, Text: "nothing for 10 s"}
	errRefused = &hal.Error{Code: hal.CodeSource, Text: "not there"}
)

func TestAfter(t *testing.T) {
	all := []event{opened, frame, bad, silent, gone, finished}
	for s, want := range map[State]string{
		Opening: "OPENING LIVE OPENING STALLED LOST ENDED",
		Live:    "LIVE LIVE LIVE STALLED LOST ENDED",
		Stalled: "STALLED LIVE STALLED STALLED LOST ENDED",
		Lost:    "LOST LIVE LOST STALLED LOST ENDED",
		Ended:   "ENDED ENDED ENDED ENDED ENDED ENDED",
	} {
		var got []string
		for _, e := range all {
			got = append(got, s.after(e).String())
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%v: got %s, want %s", s, got, want)
		}
	}
}

func TestAgain(t *testing.T) {
	for _, tt := range []struct{ before, ran, want time.Duration }{
		{0, 0, time.Second},
		{time.Second, 0, 2 * time.Second},
		{16 * time.Second, 0, 30 * time.Second},
		{30 * time.Second, 0, 30 * time.Second},
		{30 * time.Second, 29 * time.Second, 30 * time.Second},
		{30 * time.Second, 30 * time.Second, 0},
		{0, 30 * time.Second, 0},
	} {
		if got := again(tt.before, tt.ran); got != tt.want {
			t.Errorf("again(%v, %v) = %v, want %v", tt.before, tt.ran, got, tt.want)
		}
	}
}

// A script is a source that does what it says: nil is a frame, after every.
type script struct {
	every  time.Duration
	steps  []error // the last one for ever
	closes time.Duration
	closed *int
}

func (s *script) Next(ctx context.Context, f *hal.Frame) error {
	time.Sleep(s.every)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := s.steps[0]
	if len(s.steps) > 1 {
		s.steps = s.steps[1:]
	}
	f.Seq = 77
	return err
}
func (*script) Live() bool { return true }
func (s *script) Close() error {
	time.Sleep(s.closes)
	*s.closed++
	return errors.New("close failed")
}

// world opens one script after the other and writes down what was told.
type world struct {
	scripts []*script // nil: cannot be opened
	hang    time.Duration
	opened  int
	closed  int
	told    []string
	began   time.Time
}

func (w *world) keep() *Kept {
	w.began = time.Now()
	return Keep(Config{Live: true, Hang: w.hang,
		Open: func(context.Context) (hal.Source, error) {
			i := min(w.opened, len(w.scripts)-1)
			w.opened++
			if w.scripts[i] == nil {
				return nil, errRefused
			}
			w.scripts[i].closed = &w.closed
			return w.scripts[i], nil
		},
		Changed: func(s Status) { w.told = append(w.told, fmt.Sprintf("%v:%v", s.State, s.Again)) },
	})
}

func TestSuite(t *testing.T) {
	haltest.Source(t, func(*testing.T) hal.Source {
		w := &world{}
		return Keep(Config{Changed: func(Status) {}, Open: func(context.Context) (hal.Source, error) {
			if w.opened++; w.opened == 1 {
				return &haltest.FakeSource{Frames: 9, Bad: func(n int) bool { return n == 2 }}, nil
			}
			return nil, errRefused
		}})
	})
}

// What breaks is opened again; frames are counted through, faults by their reason.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{scripts: []*script{
			{steps: []error{nil, hal.ErrBadFrame, nil, errLost}},
			nil,
			{steps: []error{errStalled}},
			{steps: []error{nil, nil, io.EOF}},
		}}
		k := w.keep()
		defer k.Close()
		var f hal.Frame
		var got []string
		for range 7 {
			switch err := k.Next(t.Context(), &f); {
			case err == nil:
				got = append(got, fmt.Sprint(f.Seq))
			case errors.Is(err, hal.ErrBadFrame):
				got = append(got, "bad")
			default:
				got = append(got, err.Error())
			}
		}
		if got, want := strings.Join(got, " "), "1 bad 2 3 4 EOF EOF"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := strings.Join(w.told, " "), "LIVE:0s LOST:1s LOST:2s STALLED:4s LIVE:0s ENDED:0s"; got != want {
			t.Errorf("told %s, want %s", got, want)
		}
		s := k.Status()
		if got, want := fmt.Sprint(s.State, s.Frames, s.Bad, s.Opened, s.Fault, s.Faults, w.closed),
			"ENDED 4 1 3 <nil> map[E_SOURCE:1 E_SOURCE_LOST:1 E_SOURCE_STALLED:1 E_UNKNOWN:1] 2"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if took := time.Since(w.began); took < 5600*time.Millisecond || took > 8400*time.Millisecond {
			t.Errorf("took %v, want 7 s ± 20 %%", took)
		}
		if s.Since.Before(w.began) || s.Last.Before(w.began) {
			t.Errorf("since %v, last %v", s.Since, s.Last)
		}
	})
}

// A source that ran well is opened at once, and that once only.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		well := append(make([]error, 40), errLost)
		w := &world{scripts: []*script{{every: time.Second, steps: well}, {steps: []error{errLost}}}}
		k := w.keep()
		defer k.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
		defer cancel()
		var f hal.Frame
		for k.Next(ctx, &f) == nil {
		}
		if got, want := strings.Join(w.told, " "), "LIVE:0s LOST:0s LOST:1s LOST:2s LOST:4s LOST:8s"; got != want {
			t.Errorf("told %s, want %s", got, want)
		}
		if n := k.Status().Frames; n != 40 {
			t.Errorf("%d frames", n)
		}
	})
}

// A source that gives a frame and breaks, over and over, is not opened every second.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		k := Keep(Config{Open: func(context.Context) (hal.Source, error) {
			opened++
			return &script{steps: []error{nil, errLost}, closed: new(int)}, nil
		}})
		defer k.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var f hal.Frame
		for k.Next(ctx, &f) == nil {
		}
		if opened < 100 || opened > 160 {
			t.Errorf("opened %d times in an hour", opened)
		}
	})
}

// A source that hangs is told while it hangs.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Status
		slow := &script{every: 90 * time.Second, steps: []error{nil}, closed: new(int)}
		k := Keep(Config{Hang: time.Minute, Changed: func(s Status) { told = append(told, s) },
			Open: func(context.Context) (hal.Source, error) {
				return slow, nil
			}})
		defer k.Close()
		var f hal.Frame
		done := make(chan error)
		go func() { done <- k.Next(t.Context(), &f) }()
		time.Sleep(70 * time.Second)
		if s := k.Status(); s.State != Stalled || hal.CodeOf(s.Fault) != hal.CodeSourceStalled {
			t.Errorf("while it hangs: %+v", s)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		slow.every = 30 * time.Second
		if err := k.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // nobody asks for a frame: that is no fault of the source
		if s := k.Status(); s.State != Live || s.Fault != nil || s.Frames != 2 || len(told) != 2 {
			t.Errorf("afterwards: %+v, told %d times", s, len(told))
		}
	})
}

// One that hangs while it is closed, to be opened again, is told too.
func TestHangInClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{hang: time.Minute, scripts: []*script{{steps: []error{errLost}, closes: 90 * time.Second}, {steps: []error{nil}}}}
		k := w.keep()
		defer k.Close()
		done := make(chan error)
		go func() { done <- k.Next(t.Context(), new(hal.Frame)) }()
		time.Sleep(70 * time.Second)
		if s := k.Status(); s.State != Stalled || hal.CodeOf(s.Fault) != hal.CodeSourceStalled {
			t.Errorf("while it hangs: %+v", s)
		}
		if err := <-done; err != nil || k.Status().State != Live {
			t.Errorf("afterwards: %v, %+v", err, k.Status())
		}
	})
}

// Waiting for the next try ends with the context, and so does opening.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{scripts: []*script{nil}}
		k := w.keep()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := k.Next(ctx, new(hal.Frame)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if s := k.Status(); s.State != Lost || s.Faults[hal.CodeSource] != 4 || hal.CodeOf(s.Fault) != hal.CodeSource {
			t.Errorf("status %+v", s)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
}
