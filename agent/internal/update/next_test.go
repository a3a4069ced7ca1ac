package update

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

func sha(c string) wire.Digest { return wire.Digest(strings.Repeat(c, 64)) }

// at is a pipeline that runs a, ran b before, and is in state st of bringing c.
func at(st wire.ExecState) slots.State {
	p := slots.Pipeline{Active: &slots.Slot{Release: sha("a")}, Previous: &slots.Slot{Release: sha("b")}}
	if st != "" {
		p.Exec = &slots.Execution{Want: *wants("c", "ex-c").Release, State: st, N: 1}
	}
	switch st {
	case wire.Verifying, wire.Staged, wire.SelfTesting, wire.Shadowing, wire.Switching, wire.Probation:
		p.Candidate = &slots.Slot{Release: sha("c")}
	}
	return slots.State{}.With("p", p)
}

// ordering is s with an order for a shadow run and for limits in its execution.
func ordering(s slots.State, shadow *wire.ShadowRun, limits *wire.ProbationLimits) slots.State {
	p := s.Pipelines["p"]
	x := *p.Exec
	x.Want.Shadow, x.Want.Probation = shadow, limits
	p.Exec = &x
	return s.With("p", p)
}

func wants(c, execution string) Want {
	return Want{Known: true, Release: &wire.DesiredRelease{Release: sha(c), Execution: execution, Attempt: 1, Mode: wire.ModeActivate}}
}

func staging(c, execution string) Want {
	w := wants(c, execution)
	w.Release.Mode = wire.ModeStage
	return w
}

var underWay = []wire.ExecState{wire.Queued, wire.Downloading, wire.Verifying, wire.Staged, wire.SelfTesting, wire.Shadowing, wire.Switching, wire.Probation}

// Every state, for every way the wish may have changed.
func TestNextByWish(t *testing.T) {
	ahead := map[wire.ExecState]Step{
		wire.Queued:      {Do: Move, To: wire.Downloading},
		wire.Downloading: {Do: Download},
		wire.Verifying:   {Do: Verify},
		wire.Staged:      {Do: Move, To: wire.SelfTesting},
		wire.SelfTesting: {Do: Trial},
		wire.Shadowing:   {Do: Trial}, // restarted: the candidate is not open
		wire.Switching:   {Do: Trial},
		wire.Probation:   {Do: Trial}, // restarted: the candidate does not run yet
	}
	old := Observed{Running: sha("a")}
	for _, st := range underWay {
		for name, c := range map[string]struct {
			want Want
			o    Observed
			step Step
		}{
			"the same":           {wants("c", "ex-c"), old, ahead[st]},
			"nothing heard yet":  {Want{}, old, ahead[st]},
			"something newer":    {wants("d", "ex-d"), old, Step{Do: Move, To: wire.Superseded}},
			"what runs":          {wants("a", "ex-a"), old, Step{Do: Move, To: wire.Superseded}},
			"nothing any more":   {Want{Known: true}, old, Step{Do: Move, To: wire.Canceled}},
			"too late":           {wants("c", "ex-c"), Observed{Running: sha("a"), Age: maxAge}, Step{Do: Move, To: wire.TimedOut}},
			"after a restart":    {wants("c", "ex-c"), Observed{}, Step{Do: Restore}},
			"active does not go": {wants("c", "ex-c"), Observed{RestoreTries: 1, RestoreWait: 1}, ahead[st]},
		} {
			if name == "too late" && waits(st) {
				c.step = ahead[st] // waiting is never too late
			}
			got := Next(at(st), "p", c.want, c.o)
			if got.Do != c.step.Do || got.To != c.step.To || got.Quarantine {
				t.Errorf("%s, %s: got %v %s, want %v %s", st, name, got.Do, got.To, c.step.Do, c.step.To)
			}
		}
	}
}

func TestNextByOutcome(t *testing.T) {
	e := func(code hal.Code) error { return &hal.Error{Code: code, Text: "x"} }
	run := Observed{Running: sha("a")}
	trial := Observed{Running: sha("c"), Probation: Probation{Results: 20, Window: time.Minute}}
	with := func(o Observed, edit func(*Observed)) Observed { edit(&o); return o }
	boots := at(wire.Probation)
	p := boots.Pipelines["p"].Booted().Booted().Booted()
	boots = boots.With("p", p)
	testing3 := at(wire.SelfTesting).With("p", at(wire.SelfTesting).Pipelines["p"].Booted().Booted().Booted())
	blamed := at(wire.Probation)
	blamed = blamed.With("p", blamed.Pipelines["p"].Moved(wire.Probation, &wire.Fault{Code: "E_CRASH"}))
	shadowed := ordering(at(wire.SelfTesting), &wire.ShadowRun{Frames: 20}, nil)
	for name, c := range map[string]struct {
		s    slots.State
		o    Observed
		want Step
	}{
		"downloaded":         {at(wire.Downloading), with(run, func(o *Observed) { o.Downloaded = &slots.Slot{} }), Step{Do: Move, To: wire.Verifying}},
		"link broke":         {at(wire.Downloading), with(run, func(o *Observed) { o.Err, o.Tries, o.Wait = e(""), 1, 1 }), Step{Do: Wait}},
		"link broke, again":  {at(wire.Downloading), with(run, func(o *Observed) { o.Err, o.Tries = e(""), 2 }), Step{Do: Download}},
		"link is hopeless":   {at(wire.Downloading), with(run, func(o *Observed) { o.Err, o.Tries = e(""), maxTries }), Step{Do: Move, To: wire.Failed}},
		"wrong hash":         {at(wire.Downloading), with(run, func(o *Observed) { o.Err, o.Tries = e(hal.CodeHash), maxHash }), Step{Do: Move, To: wire.Failed}},
		"verified":           {at(wire.Verifying), with(run, func(o *Observed) { o.Verified = true }), Step{Do: Move, To: wire.Staged}},
		"rotted at once":     {at(wire.Verifying), with(run, func(o *Observed) { o.Err = e(hal.CodeHashAtRest) }), Step{Do: Move, To: wire.Failed}},
		"tested":             {at(wire.SelfTesting), with(run, func(o *Observed) { o.Warm = true }), Step{Do: Move, To: wire.Switching}},
		"failed the test":    {at(wire.SelfTesting), with(run, func(o *Observed) { o.Err = e(hal.CodeGolden) }), Step{Do: Move, To: wire.Rejected, Quarantine: true}},
		"slow test":          {at(wire.SelfTesting), with(run, func(o *Observed) { o.Err, o.Tries, o.Wait = e(hal.CodeTimeout), 1, 1 }), Step{Do: Wait}},
		"slow test, again":   {at(wire.SelfTesting), with(run, func(o *Observed) { o.Err, o.Tries = e(hal.CodeTimeout), maxSlow }), Step{Do: Move, To: wire.Rejected, Quarantine: true}},
		"slow after restart": {at(wire.Switching), with(run, func(o *Observed) { o.Err, o.Tries = e(hal.CodeTimeout), 1 }), Step{Do: Trial}},
		"ready":              {at(wire.Switching), with(run, func(o *Observed) { o.Warm = true }), Step{Do: Switch}},
		"switched":           {at(wire.Switching), trial, Step{Do: Move, To: wire.Probation}},
		"on probation":       {at(wire.Probation), trial, Step{Do: Wait}},
		"enough results":     {at(wire.Probation), with(trial, func(o *Observed) { o.Probation.Good = 20 }), Step{Do: Commit, To: wire.Succeeded}},
		"enough time":        {at(wire.Probation), with(trial, func(o *Observed) { o.Probation.Age = time.Minute }), Step{Do: Commit, To: wire.Succeeded}},
		"fails at the end":   {at(wire.Probation), with(trial, func(o *Observed) { o.Probation.Age, o.Probation.Streak = time.Minute, 1 }), Step{Do: Move, To: wire.Probation}},
		"crashed":            {at(wire.Probation), with(trial, func(o *Observed) { o.Probation.Deadly = true }), Step{Do: Move, To: wire.Probation}},
		"blamed":             {blamed, trial, Step{Do: Restore}},
		"back":               {blamed, run, Step{Do: Move, To: wire.RolledBack, Quarantine: true}},
		"no way back yet":    {blamed, with(trial, func(o *Observed) { o.RestoreTries, o.RestoreWait = 1, 1 }), Step{Do: Wait}},
		"no way back":        {blamed, with(trial, func(o *Observed) { o.RestoreTries = maxRestore; o.RestoreErr = e("") }), Step{Do: Move, To: wire.RollbackFailed, Quarantine: true}},
		"died of it":         {boots, run, Step{Do: Move, To: wire.RolledBack, Quarantine: true}},
		"died of the test":   {testing3, run, Step{Do: Move, To: wire.Rejected, Quarantine: true}},
		"active rotten":      {at(""), Observed{RestoreTries: 1, RestoreErr: e(hal.CodeHashAtRest), RestoreWait: 1}, Step{Do: Demote}},
		"active crashes":     {at(""), Observed{RestoreTries: maxRestore, RestoreErr: e(hal.CodeCrash)}, Step{Do: Demote}},
		"runner is missing":  {at(""), Observed{RestoreTries: maxRestore, RestoreErr: e(hal.CodeEngine)}, Step{Do: Restore}},
		"all is well":        {at(""), run, Step{Do: Wait}},
		"tested, shadow":     {shadowed, with(run, func(o *Observed) { o.Warm = true }), Step{Do: Move, To: wire.Shadowing}},
		"shadow called off":  {at(wire.Shadowing), with(run, func(o *Observed) { o.Warm, o.Shadow = true, &Shadowed{} }), Step{Do: Move, To: wire.Switching}},
		"nothing to shadow":  {shadowed, with(run, func(o *Observed) { o.Warm, o.Running = true, "" }), Step{Do: Move, To: wire.Switching}},
		"from a later agent": {at("DREAMING"), run, Step{Do: Move, To: wire.Failed}},
		"no candidate":       {at("").With("p", slots.Pipeline{Exec: &slots.Execution{Want: *wants("c", "ex-c").Release, State: wire.Probation}}), Observed{}, Step{Do: Move, To: wire.Failed}},
	} {
		w := Want{}
		if e := c.s.Pipelines["p"].Exec; e != nil {
			w = Want{Known: true, Release: &e.Want}
		}
		got := Next(c.s, "p", w, c.o)
		if got.Do != c.want.Do || got.To != c.want.To || got.Quarantine != c.want.Quarantine {
			t.Errorf("%s: got %v %s %t, want %v %s %t", name, got.Do, got.To, got.Quarantine, c.want.Do, c.want.To, c.want.Quarantine)
		}
	}
}

// Whatever is observed: no panic, no SUCCEEDED but by Commit of what runs, no end
// of another kind while the candidate still runs (but for ROLLBACK_FAILED), and an
// end has a reason when it is a failure.
func TestNextKeepsItsPromises(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	coin := func() bool { return rng.IntN(2) == 0 }
	codes := []hal.Code{"", hal.CodeHash, hal.CodeHashAtRest, hal.CodeCrash, hal.CodeGolden, hal.CodeFetch, hal.CodeDiskFull, hal.CodeEngine, hal.CodeAccel, hal.CodeJSON}
	all := append([]wire.ExecState{"", wire.Succeeded, wire.Failed, wire.RolledBack, wire.Shadowing, "DREAMING"}, underWay...)
	seen := map[Action]int{}
	for range 50_000 {
		s := at(all[rng.IntN(len(all))])
		p := s.Pipelines["p"]
		if coin() {
			p.Previous = nil
		}
		if rng.IntN(4) == 0 {
			p.Active = nil
		}
		for p.Exec != nil && coin() {
			p = p.Booted()
		}
		if p.Exec != nil && coin() {
			p.Exec.Want.Shadow = &wire.ShadowRun{Frames: 20, Agreement: 80 * rng.IntN(2)}
		}
		s = s.With("p", p)
		if coin() {
			s = s.WithQuarantine(wire.Quarantined{Release: sha("c"), Attempt: rng.IntN(3), Code: "E_CRASH"})
		}
		o := Observed{Running: []wire.Digest{"", sha("a"), sha("c")}[rng.IntN(3)], Warm: coin(), Verified: coin(), Tries: rng.IntN(10), RestoreTries: rng.IntN(5)}
		if coin() {
			o.Err = &hal.Error{Code: codes[rng.IntN(len(codes))], Text: "x"}
		}
		if o.RestoreTries > 0 {
			o.RestoreErr = &hal.Error{Code: codes[rng.IntN(len(codes))], Text: "x"}
			o.RestoreWait = time.Duration(rng.IntN(2))
		}
		if coin() {
			o.Downloaded = &slots.Slot{}
		}
		o.Probation = Probation{Good: rng.IntN(30), Streak: rng.IntN(4), Deadly: coin(), Age: time.Duration(rng.IntN(40)) * time.Second, Results: 20, Window: 30 * time.Second}
		if coin() {
			o.Probation.Limits.Memory, o.Probation.Seen.Trial.Memory = 1, int64(rng.IntN(3))
		}
		if p.Exec != nil && p.Exec.Want.Shadow != nil && coin() {
			o.Shadow = &Shadowed{Agreement: wire.Agreement{Frames: rng.IntN(21)}}
			o.Shadow.Agreement.Agreed = rng.IntN(o.Shadow.Agreement.Frames + 1)
			if coin() {
				o.Shadow.Err = &hal.Error{Code: append(codes, hal.CodeAgreement)[rng.IntN(len(codes)+1)], Text: "x"}
			}
		}
		if o.Probation.Streak > 0 || o.Probation.Deadly {
			o.Probation.Fault = &wire.Fault{Code: "E_INVOKE"}
		}
		want := []Want{{}, {Known: true}, wants("a", "ex-a"), wants("c", "ex-c"), wants("d", "ex-d"), staging("c", "ex-c")}[rng.IntN(6)]
		step := Next(s, "p", want, o)
		seen[step.Do]++
		onTrial := onTrial(p, o)
		switch {
		case step.Do == Commit && (p.Exec.State != wire.Probation || !onTrial || p.Exec.Fault != nil):
			t.Fatalf("committed %+v with %+v", p, o)
		case step.Do == Move && step.To == wire.Succeeded:
			t.Fatalf("succeeded without a commit: %+v", p)
		case step.Do == Move && step.To.Terminal() && step.To != wire.RollbackFailed && onTrial:
			t.Fatalf("%s while the candidate runs: %+v", step.To, p.Exec)
		case (step.To == wire.Failed || step.To == wire.Rejected || step.To == wire.RolledBack || step.To == wire.RollbackFailed) && step.Fault == nil:
			t.Fatalf("%s without a reason: %+v %+v", step.To, p, o)
		case step.Do == Shadow && (!o.Warm || o.Running == "" || o.Running == p.Candidate.Release || p.Exec.State != wire.Shadowing):
			t.Fatalf("shadow run of %+v with %+v", p, o)
		case step.Do == Switch && (!o.Warm || p.Candidate == nil):
			t.Fatalf("switch to nothing: %+v", p)
		case step.Do == Demote && p.Previous == nil:
			t.Fatal("demoted to nothing")
		case step.Do == Begin && (step.Want == nil || !p.Over()):
			t.Fatalf("began in the middle: %+v", p)
		}
	}
	for a := Wait; a <= Switch; a++ {
		if seen[a] == 0 {
			t.Errorf("never saw %v", a)
		}
	}
}
