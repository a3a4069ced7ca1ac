// Package rollout brings releases to devices and counts how it went. Whatever
// changes a device is a rollout, one device too. A rollout has one execution per
// device: an entry in that device's desired document, and what the device has
// said about it since. Those that were before it, of an earlier attempt, are kept.
//
// What should happen next (next.go), what a device's word changes (decide.go), which
// device is in which phase (spread.go) and whether a gate opens (gate.go) are pure
// functions. Service does the rest. The package touches the registry and the
// store, never the network.
package rollout

import (
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

// A Rollout is a release going to a group of devices.
type Rollout struct {
	ID       string            `json:"id"`
	Release  Release           `json:"release"`
	Pipeline string            `json:"pipeline"`
	Query    string            `json:"query"`           // the group, as the operator wrote it
	By       string            `json:"by"`              // who asked
	Apply    string            `json:"apply,omitempty"` // the file that asked, by its name
	Policy   policy.Policy     `json:"policy,omitzero"`
	State    wire.RolloutState `json:"state"`
	// Cause is why it is paused, one of the Causes; Reason is for people: what it
	// waits for, or what went wrong.
	Cause   string    `json:"cause,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Phases  []Phase   `json:"phases,omitempty"` // as in Policy
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended,omitzero"`
	// Tail says that it goes on after its end: for devices that were away, and for
	// those that come into the group later.
	Tail    bool  `json:"tail,omitempty"`
	Devices int   `json:"devices"`
	History []Act `json:"history,omitempty"` // the newest last
	// Counts is how many executions stand in each state, and Back in how many devices
	// run again what they ran before.
	Counts map[wire.ExecState]int `json:"counts"`
	Back   int                    `json:"back,omitempty"`
}

// Causes of a pause.
const (
	CauseOperator = "operator"
	CauseErrors   = "error_threshold"
	CauseGate     = "gate"
	CauseDrift    = "drift" // a gate, too: what boards name first has changed
)

// gated says whether a rollout was paused by what its devices did.
func gated(cause string) bool {
	return cause == CauseErrors || cause == CauseGate || cause == CauseDrift
}

// Over says whether a rollout in this state has come to its end.
func over(s wire.RolloutState) bool {
	return s == wire.RolloutCompleted || s == wire.RolloutAborted || s == wire.RolloutRolledBack
}

// A PhaseState is where a phase stands.
type PhaseState string

// States of a phase, in their order.
const (
	PhasePending PhaseState = "PENDING"
	PhaseRunning PhaseState = "RUNNING"
	PhaseSoaking PhaseState = "SOAKING"
	PhaseGating  PhaseState = "GATING"
	PhasePassed  PhaseState = "PASSED"
	PhaseFailed  PhaseState = "FAILED"
)

// A Phase is how a phase of the policy stands.
type Phase struct {
	State    PhaseState `json:"state"`
	Since    time.Time  `json:"since,omitzero"`   // in this state
	Reason   string     `json:"reason,omitempty"` // what it waits for, or why it failed
	Approved *Approval  `json:"approved,omitempty"`
	// Forgiven is how many failures somebody has seen and gone on with.
	Forgiven int      `json:"forgiven,omitempty"`
	Gates    []Gating `json:"gates,omitempty"` // as they were looked at last
}

// An Approval is who said yes.
type Approval struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// An Act is something that somebody did to a rollout, or that it did by itself.
type Act struct {
	At   time.Time `json:"at"`
	By   string    `json:"by,omitempty"` // "": the rollout by its policy
	What string    `json:"what"`
}

// maxHistory bounds the acts of a rollout that are kept: the first few, and the last.
const maxHistory = 200

// note adds an act. It leaves the slice that others hold alone.
func (r *Rollout) note(at time.Time, by, what string) {
	h := append(slices.Clone(r.History), Act{At: at, By: by, What: what})
	if n := len(h) - maxHistory; n > 0 {
		h = slices.Delete(h, 10, 10+n)
	}
	r.History = h
}

// A Release is what a rollout needs to know of one.
type Release struct {
	Digest  wire.Digest `json:"digest"` // of the manifest
	Length  int64       `json:"length"` // of the manifest, bytes
	Name    string      `json:"name"`
	Version string      `json:"version"`
}

// String is name@version.
func (r Release) String() string { return r.Name + "@" + r.Version }

// An Execution is a rollout on one device, one attempt.
type Execution struct {
	ID      string        `json:"id"`
	Rollout string        `json:"rollout"`
	Device  wire.DeviceID `json:"device"`
	Phase   int           `json:"phase"` // index; -1: it is in none, since it cannot take it
	Attempt int           `json:"attempt"`
	Rev     uint64        `json:"rev"` // of the desired document that asks for it; 0: not asked yet
	// Mode is what was asked for last, wire.ModeStage or wire.ModeActivate.
	Mode    string         `json:"mode,omitempty"`
	State   wire.ExecState `json:"state"`
	N       int            `json:"n"` // of the last step taken in
	Done    int64          `json:"done,omitempty"`
	Total   int64          `json:"total,omitempty"`
	GapMS   int64          `json:"gap_ms,omitempty"` // that nothing ran, as wire.ExecStep has it
	Fault   *wire.Fault    `json:"fault,omitempty"`
	Updated time.Time      `json:"updated"`
	// Variant is the model file that the board took or, before it says so, would take.
	Variant  wire.Digest    `json:"variant,omitempty"`
	Evidence *wire.Evidence `json:"evidence,omitempty"`
	// Before is the wish that this one replaced and that was fulfilled: what to go
	// back to when the rollout is aborted. nil: the device keeps what it runs.
	Before *wire.DesiredRelease `json:"before,omitempty"`
	// To is what it brings where that is not the rollout's release: it takes its device
	// back to what ran before.
	To *Release `json:"to,omitempty"`
	// Kept is why a device does not go back though the rollout does.
	Kept string `json:"kept,omitempty"`
}

// goal is the release that an execution brings.
func goal(r Rollout, x Execution) Release {
	if x.To != nil {
		return *x.To
	}
	return r.Release
}

// back says whether an execution has taken its device back.
func (x Execution) back() bool { return x.To != nil && x.State.Word() == "done" }

// count is how many executions stand in each state, and how many devices are back.
func count(xs []Execution) (n map[wire.ExecState]int, back int) {
	n = map[wire.ExecState]int{}
	for _, x := range xs {
		n[x.State]++
		if x.back() {
			back++
		}
	}
	return n, back
}

// filled is r as it is meant where an older controller wrote it, which knew neither
// policies nor phases.
func (r Rollout) filled() Rollout {
	r.Policy = r.Policy.Filled()
	if len(r.Phases) == 0 {
		r.Phases = pending(r.Policy)
		if !r.Ended.IsZero() {
			r.Phases[0].State = PhasePassed
		}
	}
	return r
}

// pending is the phases of a policy before anything happened.
func pending(p policy.Policy) []Phase {
	list := make([]Phase, len(p.Phases))
	for i := range list {
		list[i].State = PhasePending
	}
	return list
}
