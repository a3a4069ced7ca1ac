package pipeline

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/task"
)

// pairs counts what a shadow run brings, and wants both answers to be of one frame.
func pairs(t *testing.T, n *int, most int) func(now, other *task.Result) (bool, error) {
	return func(now, other *task.Result) (bool, error) {
		if len(now.Items) != 1 || len(other.Items) != 1 || now.Items[0].ID != other.Items[0].ID || now.Kind != task.Raw {
			t.Errorf("the answers of two frames: %+v, %+v", now, other)
		}
		*n++
		return *n < most, nil
	}
}

// A shadow answers frames beside the model in use; no frame is lost, late or
// doubled by it, whatever kind of source they come from and however it ends.
func TestShadow(t *testing.T) {
	for _, c := range []struct {
		live, serial bool
		every        int
		slow         time.Duration
		busy         time.Duration // what the model in use takes
		crash        bool          // the model in use, now and then
	}{
		{live: true}, {live: false}, {live: false, serial: true}, {live: true, serial: true},
		{live: true, every: 7}, {live: true, slow: 70 * time.Millisecond}, {live: false, slow: 70 * time.Millisecond},
		{live: true, busy: 25 * time.Millisecond}, {live: false, busy: 25 * time.Millisecond},
		{live: true, crash: true}, {live: false, crash: true},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			measure := func(shadow bool) (s Stats, n int) {
				synctest.Test(t, func(t *testing.T) {
					e, beside := engine(max(c.busy, 5*time.Millisecond)), engine(3*time.Millisecond+c.slow)
					if c.crash {
						e.OnRun = func(n int) error {
							if n%40 == 0 {
								return haltest.Crash()
							}
							return nil
						}
					}
					out := &results{}
					p := New(Config{Source: &haltest.FakeSource{Frames: 400, Every: 10 * time.Millisecond, IsLive: c.live}, Publish: out.publish, Serial: c.serial,
						Reopen: func(context.Context) (Model, error) { return open(t, e, "a"), nil }})
					wait := start(t, t.Context(), p)
					swap(t, p, open(t, e, "a"))
					if shadow {
						m := open(t, beside, "b")
						err := p.Shadow(t.Context(), m, c.every, pairs(t, &n, 1<<30))
						if !errors.Is(err, ErrEnded) || beside.Sessions()[0].Closed() {
							t.Errorf("got %v, closed %v", err, beside.Sessions()[0].Closed())
						}
					}
					wait()
					s = p.Stats()
					if !c.live {
						out.wantAll(t, 400)
					}
				})
				return s, n
			}
			without, _ := measure(false)
			with, n := measure(true)
			if !c.crash && (with.Published != without.Published || with.Dropped != without.Dropped || with.Latency.Quantile(0.99) != without.Latency.Quantile(0.99)) {
				t.Errorf("published %d and %d, dropped %v and %v, p99 %v and %v", without.Published, with.Published, without.Dropped, with.Dropped,
					without.Latency.Quantile(0.99), with.Latency.Quantile(0.99))
			}
			// A fifth of 4 s at the most, and not much less where it is asked for any frame.
			took := 3*time.Millisecond + c.slow
			most := int(4*time.Second/(5*took)) + 1
			if n > most || n < most/3 && c.every == 0 && !c.crash && c.busy == 0 || c.every > 0 && n > 400/c.every || n == 0 {
				t.Errorf("%d frames beside, want %d at the most", n, most)
			}
			t.Logf("%d frames of 400 beside", n)
		})
	}
}

// A shadow that fails says so; the pipeline has not noticed, and takes another.
func TestShadowFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &results{}
		p := New(Config{Source: &haltest.FakeSource{Frames: 1000, Every: 10 * time.Millisecond, IsLive: true}, Publish: out.publish})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, engine(time.Millisecond), "a"))
		run := func(ctx context.Context, onRun func(int) error, most int) (n int, err error) {
			e := engine(time.Millisecond)
			e.OnRun = onRun
			return n, p.Shadow(ctx, open(t, e, "b"), 0, pairs(t, &n, most))
		}
		if _, err := run(t.Context(), func(n int) error { return haltest.Crash() }, 10); hal.CodeOf(err) != hal.CodeCrash {
			t.Errorf("crash: %v", err)
		}
		bad := &hal.Error{Code: hal.CodeInvoke, Text: "no"}
		if _, err := run(t.Context(), func(int) error { return bad }, 10); hal.CodeOf(err) != hal.CodeInvoke {
			t.Errorf("fails always: %v", err)
		}
		if _, err := run(t.Context(), func(n int) error {
			if n%3 > 0 {
				return bad
			}
			return nil
		}, 10); err != nil {
			t.Errorf("fails now and then: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := run(ctx, nil, 1<<30); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("time over: %v", err)
		}
		other := errors.New("incomparable")
		if err := p.Shadow(t.Context(), open(t, engine(0), "b"), 0, func(_, _ *task.Result) (bool, error) { return true, other }); err != other {
			t.Errorf("got %v", err)
		}
		wait()
		if s := p.Stats(); s.Published != 1000 {
			t.Errorf("%d results of 1000 frames: %v", s.Published, s.Dropped)
		}
	})
}

// While a shadow runs, pictures are as large as the larger of two models wants them.
func TestShadowWant(t *testing.T) {
	for _, c := range []struct {
		want hal.Want
		also *hal.Want
		both hal.Want
	}{
		{hal.Want{Width: 10, Height: 20}, nil, hal.Want{Width: 10, Height: 20}},
		{hal.Want{Width: 10, Height: 20}, &hal.Want{Width: 20, Height: 10}, hal.Want{Width: 20, Height: 20}},
		{hal.Want{Width: 10, Height: 20}, &hal.Want{}, hal.Want{}}, // as they are
		{hal.Want{Samples: 100}, &hal.Want{Samples: 200}, hal.Want{Samples: 100}},
	} {
		if got := both(&c.want, c.also); got != c.both {
			t.Errorf("%+v and %+v: %+v", c.want, c.also, got)
		}
	}
}
