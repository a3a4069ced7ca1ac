package update

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// ordered is a wish for c with more to say.
func ordered(edit func(*wire.DesiredRelease)) Want {
	w := wants("c", "ex-c")
	edit(w.Release)
	return w
}

// held is at, with the order that is wanted, too.
func held(st wire.ExecState, w Want) slots.State {
	s := at(st)
	return s.With("p", s.Pipelines["p"].Ordered(*w.Release))
}

func TestNextByOrder(t *testing.T) {
	night := &wire.Window{Cron: "0 2 * * *", Minutes: 90}
	nightly := &wire.Window{Cron: "0 2 * * *", Minutes: 90, Download: true}
	clock := func(s string) Observed {
		at, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return Observed{Running: sha("a"), Now: at, ClockOK: at.Year() > 1970}
	}
	day, inside, closing, dead := clock("2026-05-04 12:00"), clock("2026-05-04 02:30"), clock("2026-05-04 01:59"), clock("1970-01-01 02:30")
	stage := staging("c", "ex-c")
	consent := ordered(func(w *wire.DesiredRelease) { w.Consent = true })
	windowed := ordered(func(w *wire.DesiredRelease) { w.Window = night })
	download := ordered(func(w *wire.DesiredRelease) { w.Window = nightly })
	both := ordered(func(w *wire.DesiredRelease) { w.Window, w.Consent = night, true })
	said := func(s slots.State) slots.State {
		p := s.Pipelines["p"]
		p.Consented = sha("c")
		return s.With("p", p)
	}
	noFiles := func(s slots.State) slots.State {
		p := s.Pipelines["p"]
		p.Candidate = nil
		return s.With("p", p)
	}
	with := func(o Observed, edit func(*Observed)) Observed { edit(&o); return o }
	expired := with(day, func(o *Observed) { o.Err = &hal.Error{Code: hal.CodeExpired, Text: "x"} })
	for name, c := range map[string]struct {
		s    slots.State
		w    Want
		o    Observed
		want Step
	}{
		"staged and no more":           {held(wire.Staged, stage), stage, day, Step{Do: Wait}},
		"staged for a year":            {held(wire.Staged, stage), stage, with(day, func(o *Observed) { o.Age = 365 * 24 * time.Hour }), Step{Do: Wait}},
		"stage does download":          {held(wire.Queued, stage), stage, day, Step{Do: Move, To: wire.Downloading}},
		"now activate":                 {held(wire.Staged, stage), wants("c", "ex-c"), day, Step{Do: Order}},
		"activated":                    {at(wire.Staged), wants("c", "ex-c"), day, Step{Do: Move, To: wire.SelfTesting}},
		"staged and called off":        {held(wire.Staged, stage), Want{Known: true}, day, Step{Do: Move, To: wire.Canceled}},
		"staged and something newer":   {held(wire.Staged, stage), wants("d", "ex-d"), day, Step{Do: Move, To: wire.Superseded}},
		"back to stage":                {at(wire.SelfTesting), stage, day, Step{Do: Order}},
		"back in stage":                {held(wire.SelfTesting, stage), stage, with(day, func(o *Observed) { o.Warm = true }), Step{Do: Move, To: wire.Staged}},
		"back in stage, at the switch": {held(wire.Switching, stage), stage, with(day, func(o *Observed) { o.Warm = true }), Step{Do: Move, To: wire.Staged}},
		"too late for stage":           {held(wire.Probation, stage), stage, with(day, func(o *Observed) { o.Running, o.Probation = sha("c"), Probation{Results: 2, Good: 2} }), Step{Do: Commit, To: wire.Succeeded}},
		"an unknown mode":              {at(wire.Staged), ordered(func(w *wire.DesiredRelease) { w.Mode = "sing" }), day, Step{Do: Move, To: wire.Rejected}},
		"a broken window":              {at(""), ordered(func(w *wire.DesiredRelease) { w.Window = &wire.Window{Cron: "0 0 30 2 *", Minutes: 5} }), day, Step{Do: Begin, To: wire.Rejected}},
		"a broken window later":        {at(wire.Staged), ordered(func(w *wire.DesiredRelease) { w.Window = &wire.Window{Cron: "x", Minutes: 5} }), day, Step{Do: Move, To: wire.Rejected}},
		"another release, same name":   {at(wire.Staged), wants("d", "ex-c"), day, Step{Do: Move, To: wire.Failed}},

		"consent is asked":            {held(wire.Staged, consent), consent, day, Step{Do: Move, To: wire.WaitingConsent}},
		"consent is waited for":       {held(wire.WaitingConsent, consent), consent, day, Step{Do: Wait}},
		"consent was given":           {said(held(wire.WaitingConsent, consent)), consent, day, Step{Do: Move, To: wire.SelfTesting}},
		"consent was given before":    {said(held(wire.Staged, consent)), consent, day, Step{Do: Move, To: wire.SelfTesting}},
		"consent is needed after all": {held(wire.Switching, consent), consent, with(day, func(o *Observed) { o.Warm = true }), Step{Do: Move, To: wire.WaitingConsent}},
		"consent, then the window":    {said(held(wire.WaitingConsent, both)), both, day, Step{Do: Move, To: wire.WaitingWindow}},

		"by day":                {held(wire.Staged, windowed), windowed, day, Step{Do: Move, To: wire.WaitingWindow}},
		"waits for the night":   {held(wire.WaitingWindow, windowed), windowed, day, Step{Do: Wait, Wait: time.Minute}},
		"nearly":                {held(wire.WaitingWindow, windowed), windowed, closing, Step{Do: Wait, Wait: time.Minute}},
		"by night":              {held(wire.WaitingWindow, windowed), windowed, inside, Step{Do: Move, To: wire.SelfTesting}},
		"no window any more":    {at(wire.WaitingWindow), wants("c", "ex-c"), day, Step{Do: Move, To: wire.SelfTesting}},
		"tried to its end":      {held(wire.SelfTesting, windowed), windowed, day, Step{Do: Trial}},
		"downloads by day":      {held(wire.Queued, windowed), windowed, day, Step{Do: Move, To: wire.Downloading}},
		"not this one":          {held(wire.Queued, download), download, day, Step{Do: Move, To: wire.WaitingWindow}},
		"but by night":          {noFiles(held(wire.WaitingWindow, download)), download, inside, Step{Do: Move, To: wire.Downloading}},
		"the window closes":     {held(wire.Downloading, download), download, day, Step{Do: Move, To: wire.WaitingWindow}},
		"all here when it does": {held(wire.Downloading, download), download, with(day, func(o *Observed) { o.Downloaded = &slots.Slot{} }), Step{Do: Move, To: wire.Verifying}},
		"1970":                  {held(wire.Staged, windowed), windowed, dead, Step{Do: Move, To: wire.WaitingWindow}},
		"still 1970":            {held(wire.WaitingWindow, windowed), windowed, dead, Step{Do: Wait, Wait: time.Minute}},
		"1970 and no window":    {at(wire.Staged), wants("c", "ex-c"), dead, Step{Do: Move, To: wire.SelfTesting}},
		"expired since":         {at(wire.SelfTesting), wants("c", "ex-c"), expired, Step{Do: Move, To: wire.Rejected}},
		"expired at the switch": {at(wire.Switching), wants("c", "ex-c"), expired, Step{Do: Move, To: wire.Rejected}},
		"expired in probation":  {at(wire.Probation), wants("c", "ex-c"), expired, Step{Do: Move, To: wire.RolledBack}},
		"too many bytes":        {at(wire.Downloading), wants("c", "ex-c"), with(day, func(o *Observed) { o.Err = &hal.Error{Code: hal.CodeBudget, Text: "x"} }), Step{Do: Move, To: wire.Failed}},
	} {
		if c.s.Pipelines["p"].Exec != nil && c.s.Pipelines["p"].Exec.State == wire.WaitingConsent || name == "no window any more" || name == "by night" || name == "waits for the night" || name == "nearly" || name == "still 1970" {
			p := c.s.Pipelines["p"]
			p.Candidate = &slots.Slot{Release: sha("c")}
			c.s = c.s.With("p", p)
		}
		got := Next(c.s, "p", c.w, c.o)
		if got.Do != c.want.Do || got.To != c.want.To || got.Wait != c.want.Wait || got.Quarantine {
			t.Errorf("%s: got %v %s %s %t, want %v %s %s", name, got.Do, got.To, got.Wait, got.Quarantine, c.want.Do, c.want.To, c.want.Wait)
		}
		if note := got.Note != nil; note != (name == "still 1970") {
			t.Errorf("%s: note %v", name, got.Note)
		}
		if got.To.Terminal() && got.To != wire.Succeeded && got.To != wire.Canceled && got.To != wire.Superseded && got.Fault == nil {
			t.Errorf("%s: %s without a reason", name, got.To)
		}
	}
}

// A world is a board as Next sees it, without a clock or a disk: effects are over at
// once, and go as chance has it.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	s    slots.State
	want Want
	o    Observed
	j    journey // its apply
	at   string  // "execution state" that o's effect is about

	ended   map[string]wire.ExecState
	began   map[string]bool
	tally   map[Action]int
	history []string
}

func (w *world) pipeline() slots.Pipeline { return w.s.Pipelines["p"] }

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf(format+"\n%s", append(args, w.history)...)
}

// step asks Next once and does it.
func (w *world) step() Step {
	p := w.pipeline()
	now := ""
	if p.Exec != nil {
		now = p.Exec.Want.Execution + " " + string(p.Exec.State)
	}
	if now != w.at {
		w.at = now
		w.o.Err, w.o.Tries, w.o.Downloaded, w.o.Verified, w.o.Shadow = nil, 0, nil, false, nil
		if p.Exec == nil || p.Exec.State != wire.SelfTesting && p.Exec.State != wire.Shadowing && p.Exec.State != wire.Switching && p.Exec.State != wire.Probation {
			w.o.Warm = false
		}
	}
	step := Next(w.s, "p", w.want, w.o)
	w.tally[step.Do]++
	w.history = append(w.history[max(0, len(w.history)-40):], fmt.Sprintf("%s: %v %s", now, step.Do, step.To))
	w.look(step)
	switch step.Do {
	case Begin, Order, Move, Commit, Demote:
		w.j.download = w.o.Downloaded
		w.s = w.j.apply(w.s, step)
		if step.Do == Demote {
			w.o.RestoreErr, w.o.RestoreTries = nil, 0
		}
	case Download:
		w.effect(func() { w.o.Downloaded = &slots.Slot{Release: p.Exec.Want.Release} }, "", hal.CodeHash, hal.CodeFetch, hal.CodeDiskFull, hal.CodeBudget)
	case Verify:
		w.effect(func() { w.o.Verified = true }, hal.CodeHashAtRest)
	case Trial:
		w.effect(func() { w.o.Warm = true }, "", hal.CodeGolden, hal.CodeCrash, hal.CodeExpired, hal.CodeAccel)
	case Shadow:
		w.o.Shadow = &Shadowed{Agreement: wire.Agreement{Metric: "top1", Frames: 20, Agreed: w.rng.IntN(21)}}
		if w.rng.IntN(4) == 0 {
			w.o.Shadow.Err, w.o.Warm = &hal.Error{Code: hal.CodeCrash, Text: "x"}, false
		}
	case Switch:
		w.effect(func() {
			w.o.Running, w.o.Warm, w.o.Probation = p.Candidate.Release, false, Probation{Results: 3, Window: time.Minute}
		}, "")
	case Restore:
		w.o.Warm = false
		if w.rng.IntN(2) == 0 {
			w.o.RestoreErr, w.o.RestoreTries = &hal.Error{Code: hal.CodeCrash, Text: "x"}, w.o.RestoreTries+1
			break
		}
		w.o.RestoreErr, w.o.RestoreTries, w.o.Running = nil, 0, ""
		if p.Active != nil {
			w.o.Running = p.Active.Release
		}
	}
	return step
}

func (w *world) effect(good func(), codes ...hal.Code) {
	if w.rng.IntN(5) > 0 {
		w.o.Err, w.o.Tries = nil, 0
		good()
		return
	}
	w.o.Err, w.o.Tries = &hal.Error{Code: codes[w.rng.IntN(len(codes))], Text: "x"}, w.o.Tries+1
}

// look holds a step against what was promised.
func (w *world) look(step Step) {
	p := w.pipeline()
	asked := p.Exec != nil && w.want.Release != nil && w.want.Release.Execution == p.Exec.Want.Execution
	changed := w.want.Known && (!asked || w.want.Release.Mode != wire.ModeActivate || w.want.Release.Consent && p.Consented != w.want.Release.Release)
	switch {
	case (step.Do == Switch || step.Do == Trial) && changed && !onTrial(p, w.o) && p.Exec.State != wire.Probation:
		w.fail("%v although the wish has changed to %+v", step.Do, w.want.Release)
	case step.Do == Begin:
		id := step.Want.Execution
		if w.began[id] {
			w.fail("%s begins twice", id)
		}
		w.began[id] = true
		if q, ok := w.s.Quarantined(step.Want.Release, step.Want.Attempt); ok && !step.To.Terminal() {
			w.fail("%s begins, and %s is in quarantine up to attempt %d", id, q.Release.Short(), q.Attempt)
		}
	}
	if step.To.Terminal() {
		id := ""
		if step.Do == Begin {
			id = step.Want.Execution
		} else {
			id = p.Exec.Want.Execution
		}
		if before, ok := w.ended[id]; ok {
			w.fail("%s ended %s and then %s", id, before, step.To)
		}
		w.ended[id] = step.To
		if step.To == wire.Succeeded && w.o.Running != p.Candidate.Release {
			w.fail("%s succeeded and does not run", id)
		}
		if step.To != wire.Succeeded && step.To != wire.RollbackFailed && onTrial(p, w.o) {
			w.fail("%s ended %s and its candidate runs", id, step.To)
		}
	}
}

// restart is a crash of the agent: all that it saw is gone.
func (w *world) restart() {
	probation := w.o.Probation
	w.o = Observed{Now: w.o.Now, ClockOK: w.o.ClockOK, Probation: Probation{Results: probation.Results, Window: probation.Window}}
	w.at, w.want = "", Want{}
	p := w.pipeline()
	if !p.Over() {
		switch p.Exec.State {
		case wire.SelfTesting, wire.Shadowing, wire.Switching, wire.Probation:
			w.s = w.s.With("p", p.Booted())
		}
	}
}

// Chance walks through orders of all kinds, changed on the way, doubled, late, with
// restarts, words of the house and clocks between: what was promised of every step
// holds, an execution ends once, and the last wish is where it comes to.
func TestOrdersAtRandom(t *testing.T) {
	walks := 3000
	if testing.Short() {
		walks = 1000
	}
	tally, ends := map[Action]int{}, map[wire.ExecState]int{}
	for seed := range uint64(walks) {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 11)), tally: tally, ended: map[string]wire.ExecState{}, began: map[string]bool{},
			history: []string{fmt.Sprintf("seed %d", seed)}}
		w.j.name = "p"
		w.walk()
		for _, st := range w.ended {
			ends[st]++
		}
	}
	for a := Wait; a <= Switch; a++ {
		if tally[a] == 0 && a != Repair {
			t.Errorf("never saw %v", a)
		}
	}
	t.Logf("%d walks, %v, %v", walks, tally, ends)
}

func (w *world) walk() {
	w.s, w.o.ClockOK = at(""), true
	doc := Want{Known: true} // the last that the controller has written; older ones are refused by their revision
	for n := range 150 {
		switch w.rng.IntN(14) {
		case 0: // something new, or nothing
			doc = wants(string("abcd"[w.rng.IntN(4)]), fmt.Sprintf("ex-%d", n))
			doc.Release.Attempt = 1 + w.rng.IntN(2)
			if w.rng.IntN(3) == 0 {
				doc.Release.Shadow = &wire.ShadowRun{Frames: 20, Agreement: 50}
			}
			if w.rng.IntN(4) == 0 {
				doc.Release = nil
			}
		case 1: // the same in another way
			if doc.Release == nil {
				break
			}
			r := *doc.Release
			r.Mode, r.Consent, r.Window = wire.ModeActivate, w.rng.IntN(3) == 0, nil
			if w.rng.IntN(2) == 0 {
				r.Mode = wire.ModeStage
			}
			if w.rng.IntN(3) == 0 {
				r.Window = &wire.Window{Cron: "0 2 * * *", Minutes: 60, Download: w.rng.IntN(2) == 0}
			}
			doc.Release = &r
		case 7, 8: // it comes; or it is lost, or comes again
			w.want = doc
		case 2:
			w.restart()
		case 3: // the house's word
			if p := w.pipeline(); asks(p, "") == nil {
				p.Consented = p.Exec.Want.Release
				w.s = w.s.With("p", p)
			}
		case 4:
			w.o.Now = time.Date(2026, 5, 4, w.rng.IntN(6), 0, 0, 0, time.UTC)
			w.o.ClockOK = w.rng.IntN(4) > 0
		case 5:
			w.o.Probation.Good += 2
		case 6:
			if w.rng.IntN(3) == 0 {
				w.o.Probation.Streak, w.o.Probation.Fault, w.o.Probation.Deadly = 1, &wire.Fault{Code: "E_CRASH"}, true
			}
		default:
			w.step()
		}
	}
	// At last a wish that nothing keeps from being carried out.
	last := wants("e", "ex-last")
	last.Release.Attempt = 9
	w.want = last
	for range 200 {
		w.o.Probation.Good++
		if step := w.step(); step.Do == Wait && w.pipeline().Over() {
			break
		}
	}
	p := w.pipeline()
	end, ok := w.ended["ex-last"]
	active := wire.Digest("")
	if p.Active != nil {
		active = p.Active.Release
	}
	if !ok || p.Exec.Want.Execution != "ex-last" || end == wire.Succeeded && active != sha("e") || w.o.Running != active {
		w.fail("in the end %s %t, active %s, running %s", end, ok, active.Short(), w.o.Running.Short())
	}
	for id := range w.began {
		if _, ok := w.ended[id]; !ok {
			w.fail("%s never ended", id)
		}
	}
}
