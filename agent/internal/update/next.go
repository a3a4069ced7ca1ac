package update

import (
	"fmt"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Limits of an execution. They are promises to operators, not settings.
const (
	maxBoots   = 3 // restarts of the agent during a trial
	maxTries   = 8 // of a download; with the backoff some four minutes
	maxHash    = 3 // downloads that end with the wrong hash
	maxTest    = 3 // self-tests that fail for reasons of ours, not the model's
	maxSlow    = 2 // self-tests that take too long: the board may be busy, once
	maxRestore = 3 // of opening what ran before
	maxStreak  = 3 // failed runs one after the other in probation
	maxAge     = 24 * time.Hour
)

// A Want is what the fleet wants of one pipeline.
type Want struct {
	Known   bool                 // a desired document was seen since the start
	Release *wire.DesiredRelease // nil: the fleet wants nothing of this pipeline
}

// Observed is what Next must know besides the state.
type Observed struct {
	Age     time.Duration // since the execution was taken up by this process, less what it waited
	Now     time.Time     // in the board's own local time
	ClockOK bool          // Now can be right
	Refuse  *wire.Fault   // nothing may be installed into this pipeline, and why
	Running wire.Digest   // the release that runs in this process; "" for none
	Warm    bool          // the candidate is open, tested, and waits for the switch
	AtStart bool          // what runs is exchanged by starting again, as the state says then

	// Of the effect that this state asks for:
	Downloaded *slots.Slot   // all files of the candidate are here
	Verified   bool          // and their bytes are right
	Err        error         // what the last effect failed with, nil when it did not
	Tries      int           // how often it failed without getting on
	Wait       time.Duration // until it may be tried again

	// The same of opening the active release again:
	RestoreErr   error
	RestoreTries int
	RestoreWait  time.Duration

	Probation Probation
	Shadow    *Shadowed // how the candidate's shadow run ended; nil: it did not
}

// Probation is how the candidate has done since the switch.
type Probation struct {
	Good   int           // results
	Streak int           // failures since the last good one
	Fault  *wire.Fault   // of the last failure
	Deadly bool          // one of them is enough: the runner crashed, hung, or ate its memory
	Age    time.Duration // since the switch
	// Passed when one of these is reached without a failure at the end, and no limit
	// seems to be broken:
	Results int
	Window  time.Duration
	Limits  wire.ProbationLimits
	Seen    Seen
}

// An Action is what a Step asks for.
type Action int

const (
	Wait     Action = iota // nothing to do until something happens, or Step.Wait has passed
	Begin                  // state: take up what is wanted, as Step.To
	Order                  // state: the same execution is wanted in another way
	Move                   // state: the execution goes to Step.To
	Commit                 // state: the candidate becomes active; SUCCEEDED
	Demote                 // state: the active release goes to quarantine, the previous one becomes active
	Restore                // effect: open the active release and put it to work
	Repair                 // effect: fetch the active release's files again
	Download               // effect: have all files of the candidate
	Verify                 // effect: hash them
	Trial                  // effect: open and test the candidate beside what runs
	Shadow                 // effect: run the candidate beside what runs, for nobody
	Switch                 // effect: put the candidate to work between two frames
)

var actions = [...]string{"wait", "begin", "order", "move", "commit", "demote", "restore", "repair", "download", "verify", "self-test", "shadow", "switch"}

// String is the action's name.
func (a Action) String() string { return actions[a] }

// A Step is one change of the state or one effect, never both: the state is on
// the disk before an effect begins, and again when its outcome was seen. So a cut
// at any moment leaves a state from which Next asks for the same effect again.
type Step struct {
	Do         Action
	Want       *wire.DesiredRelease // of Begin and Order
	To         wire.ExecState
	Fault      *wire.Fault   // goes into the state with To
	Quarantine bool          // the release is not tried again in this attempt
	Wait       time.Duration // of Wait: ask again then; 0: not before something happens
	Note       *wire.Fault   // of Wait: why, where somebody should know
}

// Next says what to do next for one pipeline. It is pure; asking again with the
// same arguments gives the same answer.
func Next(s slots.State, pipeline string, want Want, o Observed) Step {
	p := s.Pipelines[pipeline]
	if o.Refuse == nil {
		if step, ok := keepRunning(p, o); ok {
			return step
		}
	}
	if p.Over() {
		return rest(s, p, want, o)
	}
	if step, ok := giveUp(p, want, o); ok {
		return step
	}
	if step, ok := reorder(p, want, o); ok {
		return step
	}
	if step, ok := recall(p, o); ok {
		return step
	}
	switch st := p.Exec.State; {
	case st == wire.Queued, st == wire.WaitingWindow && p.Candidate == nil:
		return queued(p, o)
	case st == wire.Downloading:
		return downloading(p, o)
	case p.Candidate == nil: // written by another version
	case st == wire.Verifying:
		return verifying(o)
	case waits(st):
		return staged(p, o)
	case st == wire.SelfTesting:
		return selfTesting(p, o)
	case st == wire.Shadowing:
		return shadowing(p, o)
	case st == wire.Switching:
		return switching(p, o)
	case st == wire.Probation:
		return probation(p, o)
	}
	return Step{Do: Move, To: wire.Failed, Fault: &wire.Fault{Code: string(hal.CodeUnknown),
		Text: fmt.Sprintf("this agent cannot go on from %s: an older version than the one that began?", p.Exec.State)}}
}

// keepRunning comes before everything: a pipeline whose active release does not
// run gets it back, unless a candidate is where it should be. While that must
// wait, an execution goes on.
func keepRunning(p slots.Pipeline, o Observed) (Step, bool) {
	active := wire.Digest("")
	if p.Active != nil {
		active = p.Active.Release
	}
	// Where there is no room for two, the candidate that is ready is the next to run.
	if o.Running == active || onTrial(p, o) || o.Running == "" && o.Warm {
		return Step{}, false
	}
	code := hal.CodeOf(o.RestoreErr)
	hopeless := code == hal.CodeHashAtRest || o.RestoreTries >= maxRestore && blames(code)
	switch {
	case o.RestoreTries > 0 && hopeless && p.Previous != nil:
		return Step{Do: Demote, Fault: FaultOf(o.RestoreErr)}, true
	case o.RestoreWait > 0:
		return Step{}, false
	case o.RestoreTries > 0 && code == hal.CodeHashAtRest:
		return Step{Do: Repair}, true
	}
	return Step{Do: Restore}, true
}

// onTrial says whether the candidate is where it should be: at work.
func onTrial(p slots.Pipeline, o Observed) bool {
	return p.Exec != nil && (p.Exec.State == wire.Switching || p.Exec.State == wire.Probation) &&
		p.Candidate != nil && o.Running == p.Candidate.Release
}

// rest is a pipeline without an execution under way.
func rest(s slots.State, p slots.Pipeline, want Want, o Observed) Step {
	w := want.Release
	switch {
	case w == nil || p.Exec != nil && p.Exec.Want.Execution == w.Execution:
		return Step{Do: Wait} // a new attempt has a new id
	case o.Refuse != nil:
		return Step{Do: Begin, Want: w, To: wire.Rejected, Fault: o.Refuse}
	case unfit(w) != nil:
		return Step{Do: Begin, Want: w, To: wire.Rejected, Fault: unfit(w)}
	case p.Active != nil && p.Active.Release == w.Release:
		return Step{Do: Begin, Want: w, To: wire.AlreadyInstalled}
	}
	if q, ok := s.Quarantined(w.Release, w.Attempt); ok {
		return Step{Do: Begin, Want: w, To: wire.Rejected, Fault: fault(hal.CodeQuarantined,
			"since %s, reason %s: push a mended release, or ask again with a higher attempt", q.At.UTC().Format(time.DateOnly), q.Code)}
	}
	return Step{Do: Begin, Want: w, To: wire.Queued}
}

// giveUp ends an execution from outside: something newer is wanted, it took too
// long, or the agent died of the candidate too often.
func giveUp(p slots.Pipeline, want Want, o Observed) (Step, bool) {
	e := p.Exec
	switch {
	case e.Fault != nil:
		return Step{}, false // on its way back already
	case o.Refuse != nil:
		return Step{Do: Move, To: wire.Rejected, Fault: o.Refuse}, true
	case want.Known && want.Release == nil:
		return leave(p, o, wire.Canceled, nil, false), true
	case want.Known && want.Release.Execution != e.Want.Execution:
		return leave(p, o, wire.Superseded, nil, false), true
	case e.Boots >= maxBoots && (e.State == wire.SelfTesting || e.State == wire.Shadowing):
		return leave(p, o, wire.Rejected, tooManyBoots(e), true), true
	case e.Boots >= maxBoots:
		return leave(p, o, wire.RolledBack, tooManyBoots(e), true), true
	case o.Age >= maxAge && !waits(e.State):
		return leave(p, o, wire.TimedOut, fault(hal.CodeTimeout, "no end after %s in %s: ask again with a new attempt", maxAge, e.State), false), true
	}
	return Step{}, false
}

func tooManyBoots(e *slots.Execution) *wire.Fault {
	return fault(hal.CodeCrash, "the agent was restarted %d times while the release was tried", e.Boots)
}

// leave ends an execution in state to; a candidate that runs is taken off first.
func leave(p slots.Pipeline, o Observed, to wire.ExecState, f *wire.Fault, quarantine bool) Step {
	// A candidate that never ran leaves at once, even where nothing else runs. So does one
	// that only a start takes off: the start would find it on trial, and run it again. With
	// a fault on the disk it would not.
	if !onTrial(p, o) || o.AtStart && p.Exec.Fault == nil {
		return Step{Do: Move, To: to, Fault: f, Quarantine: quarantine}
	}
	if o.RestoreTries >= maxRestore {
		if f == nil {
			f = FaultOf(o.RestoreErr)
		}
		return Step{Do: Move, To: wire.RollbackFailed, Fault: f, Quarantine: quarantine}
	}
	if o.RestoreWait > 0 {
		return Step{Do: Wait, Wait: o.RestoreWait}
	}
	return Step{Do: Restore}
}

func downloading(p slots.Pipeline, o Observed) Step {
	code := hal.CodeOf(o.Err)
	_, _, closed := noDownload(p, o)
	switch {
	case o.Downloaded != nil:
		return Step{Do: Move, To: wire.Verifying}
	case closed:
		return Step{Do: Move, To: wire.WaitingWindow}
	case o.Err == nil:
		return Step{Do: Download}
	case final(code):
		return Step{Do: Move, To: endOf(code), Fault: FaultOf(o.Err)}
	case o.Tries >= maxTries || o.Tries >= maxHash && code == hal.CodeHash:
		return Step{Do: Move, To: wire.Failed, Fault: FaultOf(o.Err)}
	case o.Wait > 0:
		return Step{Do: Wait, Wait: o.Wait}
	}
	return Step{Do: Download}
}

func verifying(o Observed) Step {
	switch {
	case o.Err != nil:
		return Step{Do: Move, To: wire.Failed, Fault: FaultOf(o.Err)}
	case o.Verified:
		return Step{Do: Move, To: wire.Staged}
	}
	return Step{Do: Verify}
}

func selfTesting(p slots.Pipeline, o Observed) Step {
	code := hal.CodeOf(o.Err)
	switch {
	case o.Warm:
		return Step{Do: Move, To: afterTest(p, o)}
	case o.Err == nil:
		return Step{Do: Trial}
	case o.blamed() || code == hal.CodeAccel || distrusts(code):
		return Step{Do: Move, To: wire.Rejected, Fault: FaultOf(o.Err), Quarantine: blames(code)}
	case o.Tries >= maxTest:
		return Step{Do: Move, To: wire.Failed, Fault: FaultOf(o.Err)}
	case o.Wait > 0:
		return Step{Do: Wait, Wait: o.Wait}
	}
	return Step{Do: Trial}
}

// blamed says that what the self-test failed with is the model's.
func (o Observed) blamed() bool {
	code := hal.CodeOf(o.Err)
	return blames(code) && (code != hal.CodeTimeout || o.Tries >= maxSlow)
}

// switching opens the candidate again when a restart lost it.
func switching(p slots.Pipeline, o Observed) Step {
	switch {
	case o.Running == p.Candidate.Release && !o.Warm:
		return Step{Do: Move, To: wire.Probation}
	case distrusts(hal.CodeOf(o.Err)) && p.Exec.State == wire.Switching: // it never ran
		return leave(p, o, wire.Rejected, FaultOf(o.Err), false)
	case distrusts(hal.CodeOf(o.Err)):
		return leave(p, o, wire.RolledBack, FaultOf(o.Err), false)
	case o.Err != nil && (o.blamed() || o.Tries >= maxTest):
		return leave(p, o, wire.RolledBack, FaultOf(o.Err), blames(hal.CodeOf(o.Err)))
	case o.Err != nil && o.Wait > 0:
		return Step{Do: Wait, Wait: o.Wait}
	case o.Warm:
		return Step{Do: Switch}
	}
	return Step{Do: Trial}
}

func probation(p slots.Pipeline, o Observed) Step {
	w := o.Probation
	if f := p.Exec.Fault; f != nil {
		return leave(p, o, wire.RolledBack, f, true)
	}
	limits := judge(w.Limits, w.Seen)
	switch {
	case o.Running != p.Candidate.Release: // restarted in the middle of it
		return switching(p, o)
	case w.Deadly || w.Streak >= maxStreak || w.Streak > 0 && w.Age >= w.Window:
		// The reason is on the disk before the way back begins.
		return Step{Do: Move, To: wire.Probation, Fault: w.Fault}
	case limits.fault != nil:
		return Step{Do: Move, To: wire.Probation, Fault: limits.fault}
	case w.Streak == 0 && (w.Good >= w.Results && !limits.doubt || w.Age >= w.Window):
		return Step{Do: Commit, To: wire.Succeeded}
	}
	return Step{Do: Wait, Wait: min(judgeAgain, w.Window-w.Age)}
}

// final says that trying again cannot help: what is wrong is in the release.
func final(code hal.Code) bool {
	switch code {
	case "", hal.CodeHash, hal.CodeDiskFull, hal.CodeDiskIO, hal.CodeDiskRO, hal.CodeTimeout:
		return false
	}
	return true
}

// endOf is the end of an execution that failed before its model was opened.
func endOf(code hal.Code) wire.ExecState {
	if code == hal.CodeFetch || code == hal.CodeHashAtRest || code == hal.CodeBudget {
		return wire.Failed
	}
	return wire.Rejected
}

// blames says that an error is the model's and not the board's: it is not tried
// again. Devices come back, disks get room, an engine is installed.
func blames(code hal.Code) bool {
	switch code {
	case hal.CodeModelEmpty, hal.CodeModelFormat, hal.CodeModelShort, hal.CodeHash, hal.CodeHashAtRest, hal.CodeLength,
		hal.CodeOp, hal.CodeRuntime, hal.CodeTensor, hal.CodeShape, hal.CodeLabels,
		hal.CodeCrash, hal.CodeTimeout, hal.CodeMemory, hal.CodeInvoke, hal.CodeGolden, hal.CodeManifest, hal.CodeConfig:
		return true
	}
	return false
}

func fault(code hal.Code, format string, args ...any) *wire.Fault {
	return &wire.Fault{Code: string(code), Text: fmt.Sprintf(format, args...)}
}
