package update

import (
	"reflect"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/window"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// lookAgain is how often an execution that waits for a time looks at the clock,
// which may be set meanwhile.
const lookAgain = time.Minute

// waits says whether an execution in st waits for somebody or for a time. That may
// take weeks: no limit counts it.
func waits(st wire.ExecState) bool {
	return st == wire.Staged || st == wire.WaitingConsent || st == wire.WaitingWindow
}

// unfit is what is wrong with an order, nil when it can be carried out.
func unfit(w *wire.DesiredRelease) *wire.Fault {
	if w.Mode != wire.ModeActivate && w.Mode != wire.ModeStage {
		return fault(hal.CodeJSON, "mode %.40q is not known to this agent: update it", w.Mode)
	}
	if w.Window != nil {
		if _, err := window.Parse(*w.Window); err != nil {
			return FaultOf(err)
		}
	}
	return nil
}

// reorder takes over what has changed in the order of the execution under way,
// before anything else is done for it. Another release is never the same execution.
func reorder(p slots.Pipeline, want Want, o Observed) (Step, bool) {
	e, w := p.Exec, want.Release
	if e.Fault != nil || w == nil || reflect.DeepEqual(e.Want, *w) {
		return Step{}, false
	}
	if w.Release != e.Want.Release || w.Attempt != e.Want.Attempt {
		return leave(p, o, wire.Failed, fault(hal.CodeJSON, "execution %s was of another release, %s: the controller must count on", e.Want.Execution, e.Want.Release.Short()), false), true
	}
	if f := unfit(w); f != nil {
		return leave(p, o, wire.Rejected, f, false), true
	}
	return Step{Do: Order, Want: w}, true
}

// recall takes an execution that has not switched yet back to where it has to wait,
// when its order does not let it be tried any more.
func recall(p slots.Pipeline, o Observed) (Step, bool) {
	switch p.Exec.State {
	case wire.SelfTesting, wire.Shadowing, wire.Switching:
		if to := unasked(p); to != "" && p.Exec.Fault == nil && p.Candidate != nil && !onTrial(p, o) {
			return Step{Do: Move, To: to}, true
		}
	}
	return Step{}, false
}

// unasked is where an execution waits for a word: the fleet's or the house's. "" when
// both have been said.
func unasked(p slots.Pipeline) wire.ExecState {
	switch w := p.Exec.Want; {
	case w.Mode == wire.ModeStage:
		return wire.Staged
	case w.Consent && p.Consented != w.Release:
		return wire.WaitingConsent
	}
	return ""
}

// queued goes on to the download, in its window where it has to wait for that.
func queued(p slots.Pipeline, o Observed) Step {
	if again, note, closed := noDownload(p, o); closed {
		return hold(p, wire.WaitingWindow, again, note)
	}
	return Step{Do: Move, To: wire.Downloading}
}

// noDownload says whether the window keeps a download from going on, as shut does.
func noDownload(p slots.Pipeline, o Observed) (again time.Duration, note *wire.Fault, closed bool) {
	w := p.Exec.Want.Window
	if w == nil || !w.Download {
		return 0, nil, false
	}
	return shut(w, o)
}

// staged goes on to the self-test, once everything that has to be waited for is there.
// Consent is asked when the files are: who says install then sees it happen.
func staged(p slots.Pipeline, o Observed) Step {
	if to := unasked(p); to != "" {
		return hold(p, to, 0, nil)
	}
	if again, note, closed := shut(p.Exec.Want.Window, o); closed {
		return hold(p, wire.WaitingWindow, again, note)
	}
	return Step{Do: Move, To: wire.SelfTesting}
}

// hold waits in state to.
func hold(p slots.Pipeline, to wire.ExecState, again time.Duration, note *wire.Fault) Step {
	if p.Exec.State != to {
		return Step{Do: Move, To: to}
	}
	return Step{Do: Wait, Wait: again, Note: note}
}

// shut says whether a window is closed, when to look again, and what should be said
// of it. A clock that cannot be right opens none.
func shut(w *wire.Window, o Observed) (again time.Duration, note *wire.Fault, closed bool) {
	if w == nil {
		return 0, nil, false
	}
	if !o.ClockOK {
		return lookAgain, fault(hal.CodeClock, "the board's clock says %s: the window opens when it is right: check the network time (timedatectl)",
			o.Now.Format(time.DateOnly)), true
	}
	p, err := window.Parse(*w)
	if err != nil {
		return lookAgain, FaultOf(err), true // written by another version
	}
	if p.Open(o.Now) {
		return 0, nil, false
	}
	next := p.Next(o.Now)
	return max(time.Second, min(lookAgain, next.Sub(o.Now))), nil, true
}

// distrusts says that an error is about who vouches for a release, not about it.
func distrusts(code hal.Code) bool {
	switch code {
	case hal.CodeSignature, hal.CodeExpired, hal.CodeMixed, hal.CodeTrust:
		return true
	}
	return false
}

// closes is when a window that is open now does; now when it cannot be read.
func closes(w wire.Window, now time.Time) time.Time {
	p, err := window.Parse(w)
	if err != nil {
		return now
	}
	if until := p.Until(now); !until.IsZero() {
		return until
	}
	return now
}
