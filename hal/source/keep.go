package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/covey-edge/covey/hal"
)

// Config of Keep. Open is required.
type Config struct {
	Open func(ctx context.Context) (hal.Source, error)
	Live bool // what Open's sources will say

	// Hang is how long Open, Next or Close may take before the source is called Stalled;
	// 0: for ever, as a folder may that waits for pictures. Sources have shorter limits of
	// their own; this one shows a source that does not keep to them. What hangs is told
	// and not abandoned: it still holds the caller's frame.
	Hang time.Duration
	// Busy is told, from the goroutine of Next, before anything that may take its time:
	// how long at the most, 0 for ever. May be nil.
	Busy func(time.Duration)
	// Changed is told when the state changes and when a source broke, from the
	// goroutine of Next or from one of its own, one call at a time; may be nil. It must
	// not call back.
	Changed func(Status)
}

// A Status is how a kept source stands.
type Status struct {
	State  State
	Since  time.Time           // of State
	Fault  error               // why no frames come; nil while they do, and before anything went wrong
	Again  time.Duration       // before it is opened again; 0: at once, or it is not broken
	Frames uint64              // good ones
	Last   time.Time           // when the last of them came; zero: none did
	Bad    uint64              // frames that could not be read
	Opened uint64              // times it was opened
	Faults map[hal.Code]uint64 // how often what went wrong, bad frames included
}

// A Kept source opens another, and opens it again when it breaks: a folder that is
// not mounted yet, a camera that was unplugged. Frames are counted through.
type Kept struct {
	c        Config
	watchdog *time.Timer // nil without Config.Hang

	source hal.Source    // nil while it is broken
	first  time.Time     // frame since it was opened
	delay  time.Duration // before it is opened again
	pause  bool          // that delay is still to come

	mutex  sync.Mutex
	status Status
	busy   time.Time // since when Open, Next or Close is at work; zero: it is not
}

// Keep returns a source that opens itself at the first Next.
func Keep(c Config) *Kept {
	k := &Kept{c: c, status: Status{Since: time.Now(), Faults: map[hal.Code]uint64{}}}
	if c.Hang > 0 {
		k.watchdog = time.AfterFunc(c.Hang, k.hangs)
	}
	return k
}

// Status is how the source stands. Any goroutine may ask.
func (k *Kept) Status() Status {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	return k.copied()
}

func (k *Kept) copied() Status {
	s := k.status
	s.Faults = maps.Clone(s.Faults)
	return s
}

// Live is Config.Live.
func (k *Kept) Live() bool { return k.c.Live }

// Next waits for a frame, for as long as that takes: of the errors that hal.Source
// names it returns io.EOF, those of bad frames, and ctx's.
func (k *Kept) Next(ctx context.Context, f *hal.Frame) error {
	for {
		if err := k.mend(ctx); err != nil {
			return err
		}
		k.begin()
		err := k.source.Next(ctx, f)
		k.end()
		switch {
		case err == nil:
			k.good(f)
			return nil
		case ctx.Err() != nil:
			return err
		case err == io.EOF: // itself: what is lost may wrap one
			k.note(finished, nil)
			return io.EOF
		case errors.Is(err, hal.ErrBadFrame):
			k.note(bad, err)
			return err
		}
		k.broke(err)
		k.begin()
		_ = k.source.Close() // it has said what is wrong with it
		k.end()
		k.source = nil
	}
}

// mend opens the source when it is not open.
func (k *Kept) mend(ctx context.Context) error {
	for k.source == nil {
		if err := k.wait(ctx); err != nil {
			return err
		}
		k.begin()
		source, err := k.c.Open(ctx)
		k.end()
		switch {
		case err == nil:
			k.source, k.first = source, time.Time{}
			k.note(opened, nil)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			k.broke(err)
		}
	}
	return nil
}

// wait lets the delay pass. Many sources that broke at once do not come back at once.
func (k *Kept) wait(ctx context.Context) error {
	if k.pause && k.delay > 0 {
		k.busyFor(2 * k.delay)
		t := time.NewTimer(time.Duration(float64(k.delay) * (0.8 + 0.4*rand.Float64())))
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	k.pause = false
	return ctx.Err()
}

// good takes in a frame that came.
func (k *Kept) good(f *hal.Frame) {
	now := time.Now()
	if k.first.IsZero() {
		k.first = now
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.status.Frames++
	k.status.Last = now
	f.Seq = k.status.Frames
	if k.status.State != Live {
		k.take(frame, nil)
	}
}

// broke plans the next try.
func (k *Kept) broke(err error) {
	var ran time.Duration
	if !k.first.IsZero() {
		ran = k.Status().Last.Sub(k.first)
	}
	k.delay, k.pause, k.first = again(k.delay, ran), true, time.Time{}
	k.note(happening(err), err)
}

func (k *Kept) note(e event, err error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.take(e, err)
}

// take takes in what happened and tells of it when it is news. The mutex is held
// meanwhile, so that what is told is in order.
func (k *Kept) take(e event, err error) {
	s := &k.status
	was := s.State
	if s.State = was.after(e); s.State != was {
		s.Since = time.Now()
	}
	switch e {
	case opened:
		s.Opened++
	case frame:
		s.Fault, s.Again = nil, 0
	case bad:
		s.Bad++
	case silent, gone:
		s.Fault, s.Again = err, k.delay
	}
	if err != nil {
		s.Faults[codeOf(err)]++
	}
	if k.c.Changed != nil && (s.State != was || e == silent || e == gone) {
		k.c.Changed(k.copied())
	}
}

func codeOf(err error) hal.Code {
	if code := hal.CodeOf(err); code != "" {
		return code
	}
	return hal.CodeUnknown
}

// Close closes what is open.
func (k *Kept) Close() error {
	if k.source == nil {
		return nil
	}
	source := k.source
	k.source = nil
	return source.Close()
}

// patience is how many times Hang a source may hang: it is told by then, what else runs
// goes on meanwhile, and to start everything again is the last that can be tried.
const patience = 5

func (k *Kept) busyFor(d time.Duration) {
	if k.c.Busy != nil {
		k.c.Busy(d)
	}
}

// begin and end enclose what may hang.
func (k *Kept) begin() {
	k.busyFor(patience * k.c.Hang)
	if k.watchdog == nil {
		return
	}
	k.mutex.Lock()
	k.busy = time.Now()
	k.mutex.Unlock()
	k.watchdog.Reset(k.c.Hang)
}

func (k *Kept) end() {
	if k.watchdog == nil {
		return
	}
	k.mutex.Lock()
	k.busy = time.Time{}
	k.mutex.Unlock()
}

// hangs is what the watchdog does. It comes for nothing when all is well.
func (k *Kept) hangs() {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if k.busy.IsZero() || time.Since(k.busy) < k.c.Hang {
		return
	}
	k.take(silent, &hal.Error{Code: hal.CodeSourceStalled, Text: fmt.Sprintf(
		"source has not answered for %v and cannot be interrupted: restart the agent if this lasts", k.c.Hang)})
}
