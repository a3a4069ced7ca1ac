package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurnsAreFair: two pipelines with as much work as they can get share a runner
// by their weights, however long a run of each takes.
func TestTurnsAreFair(t *testing.T) {
	for _, c := range []struct {
		weights [2]float64
		runs    [2]time.Duration
		want    float64 // time of the first / time of the second
	}{
		{[2]float64{1, 1}, [2]time.Duration{10 * time.Millisecond, 10 * time.Millisecond}, 1},
		{[2]float64{1, 1}, [2]time.Duration{10 * time.Millisecond, 50 * time.Millisecond}, 1},
		{[2]float64{3, 1}, [2]time.Duration{10 * time.Millisecond, 10 * time.Millisecond}, 3},
		{[2]float64{1, 2}, [2]time.Duration{40 * time.Millisecond, 10 * time.Millisecond}, 0.5},
	} {
		t.Run(fmt.Sprint(c.weights, c.runs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var q turns
				var got [2]time.Duration
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				var all sync.WaitGroup
				for i := range 2 {
					// Two frames are under way in each pipeline, so that it always waits.
					for range 2 {
						s := newShare(c.weights[i], time.Hour)
						s.weight /= 2
						all.Go(func() {
							for ctx.Err() == nil && q.take(ctx, s) == nil {
								time.Sleep(c.runs[i])
								got[i] += c.runs[i]
								q.give(s, c.runs[i])
							}
						})
					}
				}
				all.Wait()
				if ratio := got[0].Seconds() / got[1].Seconds(); ratio < c.want*0.95 || ratio > c.want*1.05 {
					t.Errorf("%v and %v of a minute: ratio %.2f, want %.2f", got[0], got[1], ratio, c.want)
				}
				if sum := got[0] + got[1]; sum < 59*time.Second {
					t.Errorf("the runner worked %v of a minute", sum)
				}
			})
		})
	}
}

// TestSleepersSaveNothing: a pipeline that did nothing for a while may not have the
// runner to itself afterwards.
func TestSleepersSaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q turns
		busy, idle := newShare(1, time.Hour), newShare(1, time.Hour)
		for range 1000 {
			if err := q.take(t.Context(), busy); err != nil {
				t.Fatal(err)
			}
			q.give(busy, time.Second)
		}
		if err := q.take(t.Context(), idle); err != nil {
			t.Fatal(err)
		}
		q.give(idle, time.Second)
		if idle.used < busy.used-2*time.Second {
			t.Errorf("the sleeper has %v to catch up", busy.used-idle.used)
		}
	})
}

func TestNext(t *testing.T) {
	now := time.Now()
	ago := func(used, waited, deadline time.Duration) *share {
		return &share{used: used, since: now.Add(-waited), deadline: deadline}
	}
	for _, c := range []struct {
		name string
		w    []*share
		want int
	}{
		{"alone", []*share{ago(5, 0, 100)}, 0},
		{"used least", []*share{ago(5, 0, 100), ago(3, 0, 100), ago(4, 0, 100)}, 1},
		{"came first", []*share{ago(3, 2, 100), ago(3, 1, 100)}, 0},
		{"waits too long", []*share{ago(1, 10, 100), ago(9, 60, 100)}, 1},
		{"nearest deadline", []*share{ago(1, 60, 100), ago(9, 40, 50), ago(0, 0, 50)}, 1},
	} {
		if got := next(c.w, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestTurnsGivenUp: whoever stops waiting leaves no hole.
func TestTurnsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q turns
		a, b, c := newShare(1, time.Hour), newShare(1, time.Hour), newShare(1, time.Hour)
		if err := q.take(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { gone <- q.take(ctx, b) }()
		synctest.Wait()
		got := make(chan error)
		go func() { got <- q.take(t.Context(), c) }()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("take with an ended context: %v", err)
		}
		q.give(a, time.Second)
		if err := <-got; err != nil {
			t.Error(err)
		}
		q.give(c, time.Second)
		if q.taken || len(q.waiting) > 0 {
			t.Errorf("still taken: %+v", &q)
		}
	})
}

func BenchmarkTurn(b *testing.B) {
	var q turns
	s := newShare(1, time.Hour)
	for b.Loop() {
		_ = q.take(b.Context(), s)
		q.give(s, time.Microsecond)
	}
}
