package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

// A Move is one thing that Next asks for, about one execution (an index).
type Move struct {
	Kind      MoveKind
	Execution int
}

// A MoveKind says what to do.
type MoveKind int

const (
	Order MoveKind = iota // write the execution into its device's desired document
	Drop                  // cancel an execution that was never ordered
	Undo                  // cancel an execution and put back what the device was asked for before
	Back                  // begin an execution that takes the device back, in this one's place
)

// A Fact is what is known of a device besides its execution.
type Fact struct {
	Online   bool
	Seen     time.Time // when it last was, where it is not
	Degraded bool      // its pipeline lost its accelerator
	Site     string
}

// Facts are what a decision is made by, besides the rollout and what its devices said.
type Facts struct {
	Now     time.Time
	Devices []Fact // as the executions
}

// A Decision is how a rollout stands and what is to be done.
type Decision struct {
	Moves  []Move
	State  wire.RolloutState
	Cause  string
	Reason string
	Phases []Phase
	Over   bool // it has come to its end; what Tail says may go on
	// Tail says that devices which were away, or are not there yet, may still get it.
	Tail bool
	Wake time.Time // when to ask again though nothing happened; zero: no need
	Acts []string  // what the rollout did by itself, for its history
}

// Next says how a rollout stands now and what should be done. It is asked again
// after every change, after a restart, and at Wake, so that nothing has to be
// remembered. The same arguments give the same decision.
func Next(r Rollout, xs []Execution, f Facts) Decision {
	n := next{r: r, xs: xs, f: f, d: Decision{State: r.State, Cause: r.Cause, Reason: r.Reason, Phases: slices.Clone(r.Phases)}}
	switch r.State {
	case wire.RolloutScheduled, wire.RolloutRunning, wire.RolloutApproval:
		n.run()
		n.order()
	case wire.RolloutCompleted:
		n.d.Over = true
		n.order()
	case wire.RolloutAborted:
		n.d.Over = n.stop()
	case wire.RolloutRollingBack:
		if n.back() {
			n.d.State, n.d.Over = wire.RolloutRolledBack, true
		}
		n.wakeForAway()
	case wire.RolloutRolledBack:
		n.d.Over = true
	}
	switch n.d.State {
	case wire.RolloutCompleted, wire.RolloutRolledBack:
		n.d.Over, n.d.Tail = true, n.tail()
	}
	return n.d
}

// A next is one decision being made.
type next struct {
	r  Rollout
	xs []Execution
	f  Facts
	d  Decision
}

// A tally is how the devices of a phase stand. Live are those that count: not those
// that somebody took out of it, nor those that have been away for too long.
type tally struct {
	members, live, done, failed int
	open                        int // live, and neither done nor failed
}

func (t tally) through() int { return t.done + t.failed }

// member says whether an execution belongs to its phase still.
func member(x Execution) bool {
	return x.Phase >= 0 && x.State != wire.Superseded && x.State != wire.Canceled && x.State != wire.Removed
}

// done says whether an execution has what the rollout is for.
func (n *next) done(x Execution) bool {
	return x.State.Word() == "done" || x.State == wire.Staged && n.r.Policy.Order.Stages()
}

func (n *next) failed(x Execution) bool { return x.State.Terminal() && !n.done(x) }

// away says whether nobody waits for the device any more.
func (n *next) away(i int) bool {
	limit, f := time.Duration(n.r.Policy.Offline), n.f.Devices[i]
	return limit > 0 && !f.Online && n.f.Now.Sub(f.Seen) >= limit
}

func (n *next) tallies() []tally {
	ts := make([]tally, len(n.d.Phases))
	for i, x := range n.xs {
		if !member(x) {
			continue
		}
		t := &ts[x.Phase]
		t.members++
		switch {
		case n.done(x):
			t.done++
			t.live++
		case n.failed(x):
			t.failed++
			t.live++
		case !n.away(i):
			t.open++
			t.live++
		}
	}
	return ts
}

// run goes through the phases as far as they go.
func (n *next) run() {
	d, p := &n.d, n.r.Policy
	if n.f.Now.Before(p.Start) {
		d.State, d.Reason = wire.RolloutScheduled, begins(p.Start)
		n.wake(p.Start)
		return
	}
	d.State, d.Cause, d.Reason = wire.RolloutRunning, "", ""
	ts := n.tallies()
	for i := range d.Phases {
		if d.Phases[i].State == PhasePassed {
			continue
		}
		if !n.phase(i, ts) {
			return
		}
	}
	if p.Order.Stages() {
		d.State, d.Reason = wire.RolloutApproval, "staged; covey rollout activate "+n.r.ID+" lets the devices run it"
		return
	}
	d.State = wire.RolloutCompleted
}

func begins(at time.Time) string { return "begins at " + at.UTC().Format(time.RFC3339) }

// phase brings a phase as far as it goes, and says whether it has passed.
func (n *next) phase(i int, ts []tally) (passed bool) {
	p, spec, t := &n.d.Phases[i], n.r.Policy.Phases[i], ts[i]
	p.Reason = ""
	if p.State == PhasePending {
		if t.members == 0 {
			n.enter(p, PhasePassed)
			return true
		}
		if spec.Approval != "" && p.Approved == nil {
			p.Reason = fmt.Sprintf("waits for an %s: covey rollout approve %s", spec.Approval, n.r.ID)
			n.d.State, n.d.Reason = wire.RolloutApproval, "phase "+spec.Name+" "+p.Reason
			return false
		}
		n.enter(p, PhaseRunning)
	}
	if p.State == PhaseFailed { // somebody went on
		n.enter(p, PhaseRunning)
	}
	if why := n.tooMany(p, t); why != "" {
		n.fail(i, CauseErrors, why)
		return false
	}
	if p.State == PhaseRunning {
		if why := n.unfinished(i, ts); why != "" {
			p.Reason = why
			n.wakeForAway()
			return false
		}
		n.enter(p, PhaseSoaking)
	}
	if p.State == PhaseSoaking {
		if end := p.Since.Add(time.Duration(spec.Soak)); n.f.Now.Before(end) && !leadsNowhere(i, ts) {
			p.Reason = "is looked at until " + end.UTC().Format(time.RFC3339)
			n.wake(end)
			return false
		}
		n.enter(p, PhaseGating)
	}
	var verdict Verdict
	p.Gates, verdict, p.Reason = n.judge(i, t)
	switch verdict {
	case GatePassed:
		n.pass(i)
		return true
	case GateFailed:
		n.fail(i, causeOf(p.Gates), p.Reason)
	default:
		n.wakeForAway()
	}
	return false
}

// causeOf is the cause of a pause by gates: drift where nothing else failed.
func causeOf(gates []Gating) string {
	if slices.ContainsFunc(gates, func(g Gating) bool { return g.Verdict == GateFailed && g.Gate != "drift" }) {
		return CauseGate
	}
	return CauseDrift
}

// leadsNowhere says whether the phases after phase i have no device: then there is
// nothing to look at it for.
func leadsNowhere(i int, ts []tally) bool {
	return i < len(ts)-1 && !slices.ContainsFunc(ts[i+1:], func(t tally) bool { return t.members > 0 })
}

func (n *next) enter(p *Phase, s PhaseState) { p.State, p.Since = s, n.f.Now }

func (n *next) pass(i int) {
	n.enter(&n.d.Phases[i], PhasePassed)
	if len(n.d.Phases) > 1 {
		n.act("phase %s passed", n.r.Policy.Phases[i].Name)
	}
}

// fail ends a phase, and does with the rollout what the policy says.
func (n *next) fail(i int, cause, why string) {
	p, name := &n.d.Phases[i], n.r.Policy.Phases[i].Name
	n.enter(p, PhaseFailed)
	p.Reason, n.d.Reason = why, "phase "+name+": "+why
	n.act("phase %s failed: %s", name, why)
	switch n.r.Policy.OnError {
	case policy.Abort:
		n.d.State = wire.RolloutAborted
		n.act("aborted")
	case policy.Revert:
		n.d.State = wire.RolloutRollingBack
		n.act("goes back")
	default:
		n.d.State, n.d.Cause = wire.RolloutPaused, cause
		n.act("paused: %s", cause)
	}
}

func (n *next) act(format string, args ...any) {
	n.d.Acts = append(n.d.Acts, fmt.Sprintf(format, args...))
}

// tooMany says why so many devices of a phase failed that it must not go on; "" when
// it may.
func (n *next) tooMany(p *Phase, t tally) string {
	e := n.r.Policy.Errors
	failed := t.failed - p.Forgiven
	if e.Percent == 0 || failed <= 0 || t.through() < min(e.Sample, t.live) {
		return ""
	}
	if share := 100 * float64(failed) / float64(t.live); share > e.Percent {
		return fmt.Sprintf("%d of %s failed, %.3g %%; more than %v %%", failed, devices(t.live), share, e.Percent)
	}
	return ""
}

// unfinished says what a phase waits for before it is looked at; "" when nothing.
// One that is sure of its success already waits for nobody, but in the last phase,
// where there is nothing to hurry to.
func (n *next) unfinished(i int, ts []tally) string {
	t, last, before := ts[i], i == len(ts)-1, 0
	for _, b := range ts[:i] {
		before += b.through()
	}
	switch {
	case t.members == 0: // all were taken out
		return ""
	case t.open == 0 && t.live == 0 && (!last || before == 0):
		return fmt.Sprintf("none of its %s has a connection", devices(t.members))
	case t.open == 0:
		return ""
	case !last && n.sure(i, t):
		return ""
	}
	return fmt.Sprintf("waits for %d of %s", t.open, devices(t.live))
}

// sure says whether a phase will have enough success, whatever the rest of it does.
func (n *next) sure(i int, t tally) bool {
	need := n.r.Policy.GatesOf(i).Success
	return need > 0 && t.done > 0 && lower(t.done, t.through(), t.live) >= need/100
}

func (n *next) wake(t time.Time) {
	if n.d.Wake.IsZero() || t.Before(n.d.Wake) {
		n.d.Wake = t
	}
}

// wakeForAway is when the next device has been away for too long.
func (n *next) wakeForAway() {
	limit := time.Duration(n.r.Policy.Offline)
	if limit == 0 {
		return
	}
	for i, x := range n.xs {
		if f := n.f.Devices[i]; (n.begun(x) || x.To != nil) && !x.State.Terminal() && !f.Online && !n.away(i) {
			n.wake(f.Seen.Add(limit))
		}
	}
}

// order asks devices of the phases that have begun, as many as may be at it.
func (n *next) order() {
	switch n.d.State {
	case wire.RolloutRunning, wire.RolloutApproval, wire.RolloutCompleted:
	default:
		return
	}
	p := n.r.Policy
	capped := p.Concurrency > 0 || p.PerSite > 0
	all, site := 0, map[string]int{}
	if capped {
		for i, x := range n.xs {
			if n.asked(x) && !x.State.Terminal() && !n.done(x) && n.f.Devices[i].Online {
				all++
				site[n.f.Devices[i].Site]++
			}
		}
	}
	for i, x := range n.xs {
		if x.State.Terminal() || !n.begun(x) || n.asked(x) || x.To != nil {
			continue
		}
		if f := n.f.Devices[i]; capped {
			// One that is away would take somebody's place, for who knows how long.
			if !f.Online || p.Concurrency > 0 && all >= p.Concurrency || p.PerSite > 0 && site[f.Site] >= p.PerSite {
				continue
			}
			all++
			site[f.Site]++
		}
		n.move(Order, i)
	}
}

// begun says whether the phase of an execution has begun: the first that has not passed,
// or one before it.
func (n *next) begun(x Execution) bool {
	if x.Phase < 0 {
		return false
	}
	now := slices.IndexFunc(n.d.Phases, func(p Phase) bool { return p.State != PhasePassed })
	if now < 0 || x.Phase < now {
		return true
	}
	s := n.d.Phases[now].State
	return x.Phase == now && s != PhasePending && s != PhaseFailed
}

// asked says whether a device was asked for what the rollout wants of it now.
func (n *next) asked(x Execution) bool {
	return x.Rev > 0 && (x.Mode == n.r.Policy.Order.Mode || x.Mode == "")
}

func (n *next) move(k MoveKind, i int) { n.d.Moves = append(n.d.Moves, Move{k, i}) }

// tail says whether devices may still get it, though it is over.
func (n *next) tail() bool {
	return n.d.State == wire.RolloutCompleted && n.r.Policy.Membership == policy.Dynamic || slices.ContainsFunc(n.xs, func(x Execution) bool { return !x.State.Terminal() })
}

// stop cancels what is under way, and says whether nothing is.
func (n *next) stop() (over bool) {
	over = true
	for i, x := range n.xs {
		switch {
		case x.State.Terminal():
			continue
		case x.Rev == 0:
			n.move(Drop, i)
		default:
			n.move(Undo, i)
		}
		over = false
	}
	return over
}

// back takes every device that got the release back, and says whether all are.
func (n *next) back() (over bool) {
	over = true
	for i, x := range n.xs {
		switch {
		case x.Kept != "" || x.To != nil && x.State.Terminal():
			continue
		case x.To != nil && x.Rev == 0:
			n.move(Order, i)
		case x.To != nil && n.away(i): // it goes back when it is there again
			continue
		case x.To != nil: // on its way
		case x.State == wire.Succeeded, x.Rev > 0 && (x.State == wire.Switching || x.State == wire.Probation):
			n.move(Back, i)
		case x.State.Terminal():
			continue
		case x.Rev == 0:
			n.move(Drop, i)
		default:
			n.move(Undo, i)
		}
		over = false
	}
	return over
}

// devices is "1 device", "2 devices".
func devices(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}
