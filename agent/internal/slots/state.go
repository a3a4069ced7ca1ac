// Package slots remembers which release each pipeline runs, ran before and has
// on trial, how far an update has come, and what failed here: one file,
// state.json, that survives a power cut. State is plain values with pure
// transitions; Store is the file.
package slots

import (
	"maps"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/sketch"
)

// maxQuarantine is how many failed releases are remembered; the oldest go first.
const maxQuarantine = 32

// State is all that an agent remembers about releases. It is a value: every
// transition returns a new one and leaves the old as it was.
type State struct {
	Rev        uint64              `json:"rev"`            // of the last desired document that was taken in
	Floor      time.Time           `json:"floor,omitzero"` // it cannot be earlier than this
	Pipelines  map[string]Pipeline `json:"pipelines"`
	Quarantine []wire.Quarantined  `json:"quarantine,omitempty"` // oldest first
	// Home is what people at home have set, by pipeline.
	Home map[string]Home `json:"home,omitempty"`
	// Usual is what the first day of a pipeline's model has shown.
	Usual map[string]Usual `json:"usual,omitempty"`
}

// Usual is what a model was shown and what it said in its first day.
type Usual struct {
	Model   string         `json:"model"` // wire.ModelRef.SHA
	Profile sketch.Profile `json:"profile"`
}

// Home is what people at home have set of a pipeline. What Zones and Masks hold is
// never changed.
type Home struct {
	Off       bool           `json:"off,omitempty"`       // the pipeline takes no frames
	Threshold float32        `json:"threshold,omitempty"` // 0: not set
	Zones     []Zone         `json:"zones,omitempty"`
	Masks     [][][2]float32 `json:"masks,omitempty"`
}

// A Zone is a part of the picture: corners (x, y) in 0..1.
type Zone struct {
	Name    string       `json:"name"`
	Corners [][2]float32 `json:"corners"`
}

// A Pipeline has three slots and at most one execution, the last. What Active,
// Previous, Candidate and Exec point to is never changed.
type Pipeline struct {
	Active    *Slot      `json:"active,omitempty"`    // passed its probation
	Previous  *Slot      `json:"previous,omitempty"`  // was active before
	Candidate *Slot      `json:"candidate,omitempty"` // of the execution under way
	Exec      *Execution `json:"exec,omitempty"`
	// Consented is the release that somebody at home said install to, last.
	Consented wire.Digest `json:"consented,omitempty"`
}

// A Slot is a release with the files that are pinned for this board.
type Slot struct {
	Release wire.Digest   `json:"release"`
	Length  int64         `json:"length"` // of the manifest, bytes
	Attempt int           `json:"attempt"`
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Model   wire.Digest   `json:"model"`           // the variant's file
	Engine  string        `json:"engine"`          // that runs it
	Blobs   []wire.Digest `json:"blobs,omitempty"` // everything else: labels, golden samples. The manifest is Release
}

// An Execution is one attempt of a rollout on this board.
type Execution struct {
	Want  wire.DesiredRelease `json:"want"`
	State wire.ExecState      `json:"state"`
	N     int                 `json:"n"`               // transitions so far
	Boots int                 `json:"boots,omitempty"` // restarts of the agent while the candidate was tried
	Spent int64               `json:"spent,omitempty"` // bytes that were downloaded for it, as of the last tenth
	Fault *wire.Fault         `json:"fault,omitempty"` // why it is leaving, or left
	// Evidence is what was measured until the last transition.
	Evidence *wire.Evidence `json:"evidence,omitempty"`
}

// Over says whether there is no execution under way.
func (p Pipeline) Over() bool { return p.Exec == nil || p.Exec.State.Terminal() }

// With is s with another value for one pipeline.
func (s State) With(name string, p Pipeline) State {
	s.Pipelines = with(s.Pipelines, name, p)
	return s
}

// WithHome is s with what is set at home of one pipeline.
func (s State) WithHome(name string, h Home) State {
	s.Home = with(s.Home, name, h)
	return s
}

// WithUsual is s with what is usual in one pipeline.
func (s State) WithUsual(name string, u Usual) State {
	s.Usual = with(s.Usual, name, u)
	return s
}

// with is a copy of m with another value for one name.
func with[T any](m map[string]T, name string, v T) map[string]T {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]T{}
	}
	m[name] = v
	return m
}

// Quarantined says whether a release may not be tried in this attempt, and why.
func (s State) Quarantined(release wire.Digest, attempt int) (wire.Quarantined, bool) {
	for _, q := range s.Quarantine {
		if q.Release == release && attempt <= q.Attempt {
			return q, true
		}
	}
	return wire.Quarantined{}, false
}

// WithQuarantine is s with a release in quarantine.
func (s State) WithQuarantine(q wire.Quarantined) State {
	s = s.Cleared(q.Release)
	s.Quarantine = append(s.Quarantine, q)
	if n := len(s.Quarantine) - maxQuarantine; n > 0 {
		s.Quarantine = s.Quarantine[n:]
	}
	return s
}

// Cleared is s without a release in quarantine.
func (s State) Cleared(release wire.Digest) State {
	s.Quarantine = slices.DeleteFunc(slices.Clone(s.Quarantine), func(q wire.Quarantined) bool { return q.Release == release })
	return s
}

// Took is p with a new execution, in state st.
func (p Pipeline) Took(want wire.DesiredRelease, st wire.ExecState, f *wire.Fault) Pipeline {
	p.Candidate = nil
	p.Exec = &Execution{Want: want, State: st, N: 1, Fault: f}
	return p
}

// Moved is p with its execution in another state. With a terminal one the
// candidate leaves its slot.
func (p Pipeline) Moved(st wire.ExecState, f *wire.Fault) Pipeline {
	e := *p.Exec
	e.State, e.Fault = st, f
	e.N++
	p.Exec = &e
	if st.Terminal() {
		p.Candidate = nil
	}
	return p
}

// Ordered is p with its execution's order as it is wanted now.
func (p Pipeline) Ordered(want wire.DesiredRelease) Pipeline {
	e := *p.Exec
	e.Want = want
	p.Exec = &e
	return p
}

// Paid is p with its execution's downloads counted up to spent bytes.
func (p Pipeline) Paid(spent int64) Pipeline {
	e := *p.Exec
	e.Spent = spent
	p.Exec = &e
	return p
}

// Proved is p with what was measured in its execution.
func (p Pipeline) Proved(e *wire.Evidence) Pipeline {
	x := *p.Exec
	x.Evidence = e
	p.Exec = &x
	return p
}

// Booted is p after a restart of the agent in the middle of a trial.
func (p Pipeline) Booted() Pipeline {
	e := *p.Exec
	e.Boots++
	p.Exec = &e
	return p
}

// Committed is p with the candidate as the active release.
func (p Pipeline) Committed() Pipeline {
	p.Previous, p.Active = p.Active, p.Candidate
	return p.Moved(wire.Succeeded, nil)
}

// Demoted is p with the previous release in the place of the active one.
func (p Pipeline) Demoted() Pipeline {
	p.Active, p.Previous = p.Previous, nil
	return p
}

// Pins adds every blob that a slot or an execution under way needs to pins.
func (s State) Pins(pins map[wire.Digest]bool) {
	for _, p := range s.Pipelines {
		for _, slot := range []*Slot{p.Active, p.Previous, p.Candidate} {
			if slot == nil {
				continue
			}
			for _, sha := range slot.Files() {
				pins[sha] = true
			}
		}
		if !p.Over() {
			pins[p.Exec.Want.Release] = true
		}
	}
}

// Files are all blobs of the slot: manifest, model, the rest.
func (s *Slot) Files() []wire.Digest {
	return append([]wire.Digest{s.Release, s.Model}, s.Blobs...)
}

// Reported is the slot as the fleet sees it; nil for an empty one.
func (s *Slot) Reported() *wire.ReportedSlot {
	if s == nil {
		return nil
	}
	return &wire.ReportedSlot{Release: s.Release, Name: s.Name, Version: s.Version, SHA256: s.Model}
}
