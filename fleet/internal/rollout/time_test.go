package rollout

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// start begins a rollout to devices, by number.
func (l *life) start(release wire.Digest, query string, p policy.Policy, devices ...int) string {
	l.t.Helper()
	var ts []Target
	for _, i := range devices {
		ts = append(ts, Target{Device: l.id(i), Online: true, Attempt: 1})
	}
	r, err := l.s.Start(Wanted{Release: Release{Digest: release, Length: 1, Name: "m", Version: "1.0.0"}, Pipeline: "cam", Query: query, By: "ada", Policy: p}, ts)
	l.check(err)
	l.ids = append(l.ids, r.ID)
	synctest.Wait()
	return r.ID
}

func (l *life) is(id string, state wire.RolloutState, phases ...PhaseState) Rollout {
	l.t.Helper()
	synctest.Wait()
	r, _, err := l.s.Get(id)
	l.check(err)
	if r.State != state {
		l.t.Fatalf("the rollout is %s (%s), not %s: %+v", r.State, r.Reason, state, r.Phases)
	}
	for i, p := range phases {
		if r.Phases[i].State != p {
			l.t.Fatalf("phase %d is %s (%s), not %s", i, r.Phases[i].State, r.Phases[i].Reason, p)
		}
	}
	return r
}

// turns lets boards go on until they are through; no time passes.
func (l *life) turns() {
	for range len(path) + 2 {
		l.turn()
	}
}

func (l *life) end() {
	l.stop()
	l.check(l.raw.Close())
}

// TestTime is what happens though nobody says anything.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, 1, 4)
		p := policy.Policy{
			Phases: []policy.Phase{{Name: "one", Count: 1, Soak: policy.Duration(time.Hour)}, {Name: "two", Percent: 50}, {Name: "all", Percent: 100}},
			Start:  time.Now().Add(2 * time.Hour), Offline: policy.Duration(24 * time.Hour), Gates: &policy.Gates{Success: 90},
		}
		id := l.start(digestOne, "all", p, 0, 1, 2, 3)
		l.is(id, wire.RolloutScheduled)
		time.Sleep(2*time.Hour - time.Second)
		l.is(id, wire.RolloutScheduled)
		time.Sleep(time.Second)
		l.is(id, wire.RolloutRunning, PhaseRunning, PhasePending)
		l.turns()
		l.is(id, wire.RolloutRunning, PhaseSoaking, PhasePending)
		time.Sleep(time.Hour - time.Second)
		l.is(id, wire.RolloutRunning, PhaseSoaking, PhasePending)
		l.stop() // the rest of the hour passes while nobody is there
		time.Sleep(time.Minute)
		l.boot(-1, false)
		l.is(id, wire.RolloutRunning, PhasePassed, PhaseRunning, PhasePending)

		// A device of the second phase goes away, and is waited for for a day.
		gone := -1
		for i := range l.boards {
			doc, err := l.reg.Desired(l.id(i))
			l.check(err)
			if w := doc.Pipelines["cam"]; w.Release != "" && l.boards[i].runs == "" {
				gone = i
			}
		}
		l.boards[gone].online = false
		l.say(gone, "status", wire.Status{V: 1, State: wire.StateOffline, SID: 1, MID: "m", TS: time.Now()})
		time.Sleep(24*time.Hour - time.Second)
		l.is(id, wire.RolloutRunning, PhasePassed, PhaseRunning, PhasePending)
		time.Sleep(time.Second)
		// Nobody else is in that phase: a phase that nobody saw proves nothing.
		r := l.is(id, wire.RolloutRunning, PhasePassed, PhaseRunning, PhasePending)
		if r.Phases[1].Reason != "none of its 1 device has a connection" {
			t.Errorf("it waits because %q", r.Phases[1].Reason)
		}
		l.say(gone, "status", wire.Status{V: 1, State: wire.StateOnline, SID: 2, MID: "m", TS: time.Now()})
		l.turns()
		l.turns()
		l.is(id, wire.RolloutCompleted)
		l.end()
	})
}

// Who was away gets it in the end, although the rollout is over.
func TestATail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, 1, 3)
		p := policy.Policy{Offline: policy.Duration(time.Hour)}
		l.say(2, "status", wire.Status{V: 1, State: wire.StateOffline, SID: 1, MID: "m", TS: time.Now()})
		id := l.start(digestOne, "all", p, 0, 1, 2)
		away := l.boards[2]
		l.boards[2].wish.Execution, l.boards[2].rev = "", 1 // it hears of nothing
		for range len(path) {
			for _, i := range []int{0, 1} {
				doc, err := l.reg.Desired(l.id(i))
				l.check(err)
				l.boards[i].step(doc.Rev, doc.Pipelines["cam"])
				rep := l.boards[i].report()
				rep.TS = time.Now()
				l.say(i, "reported", rep)
			}
		}
		l.is(id, wire.RolloutRunning)
		time.Sleep(time.Hour)
		r := l.is(id, wire.RolloutCompleted)
		if !r.Tail || r.Counts[wire.Succeeded] != 2 {
			t.Errorf("ended as %+v", r)
		}
		l.stop()
		l.boards[2] = away
		l.boot(-1, false)
		l.turns()
		if r := l.is(id, wire.RolloutCompleted); r.Tail || r.Counts[wire.Succeeded] != 3 {
			t.Errorf("in the end %+v", r)
		}
		l.end()
	})
}

// A rollout of dynamic membership takes devices that join, until a newer one of the same
// group takes its place.
func TestNewDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, 1, 2)
		id := l.start(digestOne, "all", policy.Policy{Membership: policy.Dynamic}, 0, 1)
		l.turns()
		l.is(id, wire.RolloutCompleted)
		join := func() int {
			i := len(l.boards)
			l.stop()
			l.boards = append(l.boards, board{fate: wire.Succeeded})
			l.check(l.raw.Update(func(tx *store.Tx) error {
				return store.Put(tx, "reg.device", string(l.id(i)), registry.Device{ID: l.id(i), Enrolled: time.Now()})
			}))
			l.boot(-1, false)
			time.Sleep(recruitEvery)
			l.turns()
			l.turns()
			return i
		}
		if i := join(); l.boards[i].runs != digestOne {
			t.Errorf("a device that joined runs %q", l.boards[i].runs)
		}
		if r := l.is(id, wire.RolloutCompleted); r.Devices != 3 || r.Counts[wire.Succeeded] != 3 {
			t.Errorf("%+v", r)
		}
		fresh := l.start(digestTwo, "all", policy.Policy{}, 0, 1, 2)
		l.turns()
		l.turns()
		l.is(fresh, wire.RolloutCompleted)
		if i := join(); l.boards[i].runs != "" {
			t.Errorf("a device that joined later runs %q", l.boards[i].runs)
		}
		l.end()
	})
}

// What was staged goes on in the same execution.
func TestStageAndActivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, 1, 3)
		id := l.start(digestOne, "all", policy.Policy{Phases: policy.Default().Phases, Order: policy.Order{Mode: wire.ModeStage, Rate: 1000}}, 0, 1, 2)
		for range 40 {
			l.turn()
			time.Sleep(time.Minute)
		}
		l.is(id, wire.RolloutApproval, PhasePassed, PhasePassed, PhasePassed)
		_, staged, err := l.s.Get(id)
		l.check(err)
		for i, x := range staged {
			if doc, err := l.reg.Desired(x.Device); err != nil || x.State != wire.Staged || doc.Pipelines["cam"].Rate != 1000 || l.boards[i].runs != "" {
				t.Errorf("%+v, %+v", x, doc)
			}
		}
		_, err = l.s.Activate(id, "ada")
		l.check(err)
		l.is(id, wire.RolloutRunning, PhaseRunning, PhasePending)
		for range 40 {
			l.turn()
			time.Sleep(time.Minute)
		}
		l.is(id, wire.RolloutCompleted)
		_, xs, err := l.s.Get(id)
		l.check(err)
		for i, x := range xs {
			if x.ID != staged[i].ID || x.State != wire.Succeeded {
				t.Errorf("%+v was staged as %s", x, staged[i].ID)
			}
		}
		l.end()
	})
}

// What a device is at goes on until the newer rollout gets to it; what it was not asked
// for yet does not begin.
func TestANewerRolloutTakesOverPhaseByPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, 1, 4)
		old := l.start(digestOne, "all", policy.Policy{Concurrency: 2}, 0, 1, 2, 3)
		_, xs, err := l.s.Get(old)
		l.check(err)
		asked := map[wire.DeviceID]bool{}
		for _, x := range xs {
			asked[x.Device] = x.Rev > 0
		}
		var first, last int // that are at it, and one that waits
		for i := range l.boards {
			if asked[l.id(i)] {
				first = i
			} else {
				last = i
			}
		}
		match := func(query string) (map[wire.DeviceID]bool, error) {
			return map[wire.DeviceID]bool{l.id(last): true}, nil
		}
		l.s.match = match
		fresh := l.start(digestTwo, "all", policy.Policy{Phases: []policy.Phase{{Name: "one", Query: "x"}, {Name: "all", Percent: 100}}}, 0, 1, 2, 3)
		state := func() (s [2]wire.ExecState) {
			_, xs, err := l.s.Get(old)
			l.check(err)
			return [2]wire.ExecState{xs[first].State, xs[last].State}
		}
		if got := state(); got[0] != wire.Queued || got[1] != wire.Superseded {
			t.Errorf("when it begins: %v", got)
		}
		l.turns()
		l.turns()
		l.is(fresh, wire.RolloutCompleted)
		l.is(old, wire.RolloutCompleted)
		if got := state(); got[0] != wire.Superseded && got[0] != wire.Succeeded {
			t.Errorf("in the end: %v", got)
		}
		for i, b := range l.boards {
			if b.runs != digestTwo {
				t.Errorf("%s runs %s", l.id(i), b.runs.Short())
			}
		}
		l.end()
	})
}
