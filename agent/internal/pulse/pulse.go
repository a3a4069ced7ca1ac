// Package pulse is how the loops of an agent say that they go on, and how it is seen
// which of them do not. A loop says so itself, from its own goroutine, each time around:
// nothing else can say it for it. Pure but for the clock.
package pulse

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Promise is how long a loop may be at one thing, unless it says otherwise.
const Promise = 15 * time.Second

// A Board is where loops are registered. The zero value is ready; nil watches nobody.
type Board struct {
	// Promise is of loops that are registered from now on; 0 means Promise.
	Promise time.Duration
	// OnBeat is called by each loop, from its goroutine, when it beats. Tests stall a
	// loop with it; nil everywhere else.
	OnBeat func(loop string)

	mu    sync.Mutex
	start time.Time // of the first loop; not written afterwards
	loops []*Loop
}

// A Loop is the pulse of one goroutine, which alone calls its methods but Late's. They
// allocate nothing. nil is a loop that nobody watches.
type Loop struct {
	board   *Board
	name    string
	promise time.Duration
	ticker  *time.Ticker
	due     atomic.Int64           // ns since the board's start at which it is late; 0: never
	since   atomic.Int64           // ns since the board's start of its last word
	doing   atomic.Pointer[string] // what it said it would do; nil: nothing in particular
}

// Loop registers a loop. Its time runs from now on, so register it right before its
// goroutine starts.
func (b *Board) Loop(name string) *Loop {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.start.IsZero() {
		b.start = time.Now()
	}
	l := &Loop{board: b, name: name, promise: cmp.Or(b.Promise, Promise)}
	l.ticker = time.NewTicker(l.promise / 3)
	l.set(l.promise)
	b.loops = append(b.loops, l)
	return l
}

func (l *Loop) set(d time.Duration) {
	now := max(time.Since(l.board.start), 1)
	l.since.Store(int64(now))
	if d > 0 {
		d += now
	}
	l.due.Store(int64(d))
}

// Beat says that the loop goes on: it comes back within its promise.
func (l *Loop) Beat() {
	if l == nil {
		return
	}
	if l.doing.Load() != nil {
		l.doing.Store(nil)
	}
	l.set(l.promise)
	if l.board.OnBeat != nil {
		l.board.OnBeat(l.name)
	}
}

// Rest says that the loop is back within d, and not before; 0: whenever that may be.
// The next Beat or Rest ends it. It is for what has a limit of its own, or rightly none.
func (l *Loop) Rest(d time.Duration) {
	if l != nil {
		l.set(d)
	}
}

// Do is Rest that says what for. It allocates.
func (l *Loop) Do(what string, d time.Duration) {
	if l != nil {
		l.doing.Store(&what)
		l.set(d)
	}
}

// Pulse fires several times within a promise: a loop that waits for something waits for
// this too, and beats. nil, which never fires, where nobody watches.
func (l *Loop) Pulse() <-chan time.Time {
	if l == nil {
		return nil
	}
	return l.ticker.C
}

// Sleep waits for d, or until done is closed, and beats meanwhile. It says whether it slept
// to the end.
func (l *Loop) Sleep(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.Beat()
			return true
		case <-l.Pulse():
			l.Beat()
		case <-done:
			return false
		}
	}
}

// End takes the loop off the board: it has come to its end.
func (l *Loop) End() {
	if l == nil {
		return
	}
	l.ticker.Stop()
	b := l.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.loops, l); i >= 0 {
		b.loops = slices.Delete(b.loops, i, i+1)
	}
}

// Leave is End for a loop that goes on for as long as ctx: before its end it should not
// have come to one, and is late from now on.
func (l *Loop) Leave(ctx context.Context) {
	if l == nil {
		return
	}
	if ctx.Err() != nil {
		l.End()
		return
	}
	what := "has ended"
	l.doing.Store(&what)
	l.due.Store(1)
}

// A Late is a loop that has not come back when it said.
type Late struct {
	Loop  string
	Doing string        // what it said it would do; "": nothing in particular
	For   time.Duration // since it said anything
}

// Late is every loop that is late, by name.
func (b *Board) Late() []Late {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := int64(time.Since(b.start))
	var late []Late
	for _, l := range b.loops {
		if due := l.due.Load(); due == 0 || now <= due {
			continue
		}
		late = append(late, Late{Loop: l.name, For: time.Duration(now - l.since.Load())})
		if what := l.doing.Load(); what != nil {
			late[len(late)-1].Doing = *what
		}
	}
	slices.SortFunc(late, func(a, b Late) int { return cmp.Compare(a.Loop, b.Loop) })
	return late
}

// Names is every loop on the board, by name.
func (b *Board) Names() []string {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for _, l := range b.loops {
		names = append(names, l.name)
	}
	slices.Sort(names)
	return names
}
