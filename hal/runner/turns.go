package runner

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A turns hands a runner to one session at a time. Sessions that share one, on an
// Edge TPU or in a CUDA context, get its time by their weights (start-time fair
// queueing: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996); but one
// that has waited for half of its deadline goes first.
type turns struct {
	mu      sync.Mutex
	taken   bool
	clock   time.Duration // virtual time: that of the share whose turn it is
	waiting []*share      // in the order they came
}

// A share is one session's part in a runner's time. It asks for one turn at a time.
type share struct {
	weight   float64       // 2 gets twice the time of 1
	deadline time.Duration // of a request
	used     time.Duration // of the runner's time, over weight
	since    time.Time     // that it waits
	ready    chan struct{} // of one: its turn has come
}

func newShare(weight float64, deadline time.Duration) *share {
	if weight <= 0 {
		weight = 1
	}
	return &share{weight: weight, deadline: deadline, ready: make(chan struct{}, 1)}
}

// take waits for a turn, and allocates nothing where it need not wait. After an
// error, ctx's, there is no turn to give back.
func (t *turns) take(ctx context.Context, s *share) error {
	t.mu.Lock()
	s.used = max(s.used, t.clock) // who slept has saved up nothing
	if !t.taken {
		t.taken, t.clock = true, s.used
		t.mu.Unlock()
		return nil
	}
	s.since = time.Now()
	t.waiting = append(t.waiting, s)
	t.mu.Unlock()
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, s); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		return ctx.Err()
	}
	<-s.ready // it came at the same moment
	t.pass()
	return ctx.Err()
}

// give ends a turn that took so long.
func (t *turns) give(s *share, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.used += time.Duration(float64(took) / s.weight)
	t.pass()
}

// pass hands the turn on. The mutex is held.
func (t *turns) pass() {
	if len(t.waiting) == 0 {
		t.taken = false
		return
	}
	i := next(t.waiting, time.Now())
	s := t.waiting[i]
	t.waiting = slices.Delete(t.waiting, i, i+1)
	t.clock = s.used
	s.ready <- struct{}{}
}

// next is whose turn it is: of those that may miss their deadlines the one whose
// deadline is nearest, else who has used least; of equals who came first.
func next(waiting []*share, now time.Time) int {
	best, urgent := 0, false
	for i, s := range waiting {
		hurry := now.Sub(s.since) > s.deadline/2
		b := waiting[best]
		switch {
		case hurry && !urgent:
			best, urgent = i, true
		case hurry && s.since.Add(s.deadline).Before(b.since.Add(b.deadline)),
			!urgent && s.used < b.used:
			best = i
		}
	}
	return best
}
