package update

import (
	"context"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A journey is one pipeline's way through the states.
type journey struct {
	l      *Loop
	name   string
	pinned bool
	log    zerolog.Logger
	rare   zerolog.Logger // for what would be said again and again
	wake   chan struct{}  // 1: a wake-up is never lost, and two are one

	// Of the journey's own goroutine:
	loop     *pulse.Loop
	exec     string         // the execution that what follows is about
	state    wire.ExecState // and its state
	began    time.Time      // when this process took the execution up; later, by what it waited
	entered  time.Time      // when it came into state
	costs    *toll          // of its downloads; nil: none yet
	running  wire.Digest
	stopped  time.Time     // since when nothing runs, to make room; zero: not so
	gap      time.Duration // that nothing ran in this execution, to make room
	warm     Warm
	download *slots.Slot
	verified bool
	at       time.Time // of the transition
	effect   failures
	restore  failures
	shadowed *Shadowed

	mu      sync.Mutex // guards all below
	wanted  Want
	doing   *wire.DesiredRelease    // the order that the effect under way is for; nil for none
	cancel  context.CancelCauseFunc // ends that effect
	trial   wire.Digest             // the release on probation; "" for none
	since   time.Time               // of the switch
	score   Probation
	enough  int             // good results that may end it
	accel   hal.Accelerator // in use
	trouble *wire.Fault     // of getting the active release to run
	refused []wire.Fault    // why better files of the last release do not fit
	pending *wire.Fault     // what the execution waits for, where somebody should know
	percent int             // of the download
	record  record
}

// failures of one kind of effect, one behind the other.
type failures struct {
	err   error
	tries int
	next  time.Time // not before
}

// A failure is followed by a pause of 0.5 to 1 times 1, 2, 4 … 60 s.
func (f *failures) add(err error) {
	pause := min(time.Second<<min(f.tries, 6), time.Minute)
	f.err, f.tries = err, f.tries+1
	f.next = time.Now().Add(pause/2 + rand.N(pause/2))
}

func (f *failures) wait() time.Duration { return max(0, time.Until(f.next)) }

func newJourney(l *Loop, p wire.HelloPipeline) *journey {
	return &journey{l: l, name: p.Name, pinned: p.Pinned, wake: make(chan struct{}, 1),
		log: l.c.Log.With().Str("pipeline", p.Name).Logger(),
		// A disk that refuses is asked every second.
		rare: l.c.Log.Sample(&zerolog.BurstSampler{Burst: 3, Period: time.Minute}).With().Str("pipeline", p.Name).Logger()}
}

// run asks Next and does what it says until ctx ends.
func (j *journey) run(ctx context.Context) {
	j.loop = j.l.c.Pulse.Loop(j.name + " update")
	defer j.loop.Leave(ctx)
	defer j.discard()
	for j.loop.Do("writes its state", diskTime); !j.start(); {
		if !j.loop.Sleep(ctx.Done(), time.Second) {
			return
		}
	}
	for ctx.Err() == nil {
		j.loop.Beat()
		step := j.next()
		effect, cancel := j.effectContext(ctx)
		err := j.do(ctx, effect, step)
		cancel()
		if err != nil {
			// Only the state's own disk: without it nothing may move.
			j.rare.Error().Err(err).Stringer("step", step.Do).Msg("state not saved")
			j.loop.Sleep(ctx.Done(), time.Second)
		}
	}
}

// diskTime is how long a disk may take: a worn card is busy with itself for many seconds
// now and then.
const diskTime = 2 * time.Minute

// limitOf is how long a step may take, 0 for ever. Each effect has limits of its own, and
// all but Repair, which waits for a controller, the age of their execution.
func limitOf(d Action) time.Duration {
	switch d {
	case Begin, Order, Move, Commit, Demote:
		return diskTime
	case Verify:
		return time.Hour // to read and hash every byte
	case Restore:
		return 2 * prepareTimeout
	case Repair:
		return 0
	}
	return maxAge + prepareTimeout
}

// start counts a restart in the middle of a trial, and says again where the
// execution stands: the step may have been lost. It returns false to be called again.
func (j *journey) start() bool {
	p := j.pipeline()
	j.running = j.l.c.Running[j.name]
	if p.Over() {
		j.emit(p, 0, 0)
		return true
	}
	if onTrial(p, Observed{Running: j.running}) {
		j.beginTrial()
	}
	if Tried(p) && j.name != wire.ConfigPipeline { // that one was counted before it was read
		if err := j.save(func(s slots.State) slots.State { return s.With(j.name, s.Pipelines[j.name].Booted()) }); err != nil {
			j.rare.Error().Err(err).Msg("state not saved")
			return false
		}
	}
	j.emit(p, 0, 0)
	return true
}

// Tried says whether a release is in the middle of its trial, at work or before.
func Tried(p slots.Pipeline) bool {
	return p.Exec != nil && p.Candidate != nil && tries(p.Exec.State)
}

// tries says whether a candidate is open in st, or about to be.
func tries(st wire.ExecState) bool {
	switch st {
	case wire.SelfTesting, wire.Shadowing, wire.Switching, wire.Probation:
		return true
	}
	return false
}

// AtStart is the release that an agent which starts has to begin with, where it cannot
// exchange it while it runs; nil for none. The one on trial is, until something speaks
// against it.
func AtStart(p slots.Pipeline) *slots.Slot {
	if c := p.Candidate; c != nil && onTrial(p, Observed{Running: c.Release}) && p.Exec.Fault == nil && p.Exec.Boots < maxBoots {
		return c
	}
	return p.Active
}

func (j *journey) pipeline() slots.Pipeline { return j.l.c.State.State().Pipelines[j.name] }

func (j *journey) save(change func(slots.State) slots.State) error {
	return j.l.c.State.Update(func(s slots.State) slots.State { return change(j.l.latest(s)) })
}

// next observes and asks Next.
func (j *journey) next() Step {
	s := j.l.c.State.State()
	j.forget(s.Pipelines[j.name])
	o := Observed{Age: time.Since(j.began), Now: time.Now(), ClockOK: j.l.clockOK(), Running: j.running, Warm: j.warm != nil,
		AtStart: j.name == wire.ConfigPipeline, Downloaded: j.download, Verified: j.verified, Shadow: j.shadowed,
		Err: j.effect.err, Tries: j.effect.tries, Wait: j.effect.wait(),
		RestoreErr: j.restore.err, RestoreTries: j.restore.tries, RestoreWait: j.restore.wait()}
	if j.pinned {
		o.Refuse = fault(hal.CodePipeline, "the model of pipeline %s is named by the board's own configuration", j.name)
		if j.name == wire.ConfigPipeline {
			o.Refuse = fault(hal.CodePipeline, "the board's own configuration takes none from its fleet (fleet.config)")
		}
	}
	var vitals Vitals
	var temp *float64
	if j.state == wire.Probation { // they read files, which nobody should wait for
		vitals, temp = j.l.c.Vitals(j.name), j.l.c.Temperature()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	o.Probation = j.score
	if j.state == wire.Probation {
		o.Probation.Limits = j.limits(s.Pipelines[j.name])
		o.Probation.Seen = j.record.look(vitals, temp)
		o.Probation.Results, o.Probation.Window = enough(o.Probation.Limits), time.Duration(o.Probation.Limits.Seconds)*time.Second
	}
	if !j.since.IsZero() {
		o.Probation.Age = time.Since(j.since)
	}
	return Next(s, j.name, j.wanted, o)
}

// forget drops what was observed in another state or of another execution.
func (j *journey) forget(p slots.Pipeline) {
	id, st := "", wire.ExecState("")
	if p.Exec != nil {
		id, st = p.Exec.Want.Execution, p.Exec.State
	}
	now := time.Now()
	switch {
	case id != j.exec:
		j.began, j.gap, j.costs = now, 0, nil
		j.mu.Lock()
		j.record.tried.begin("")
		j.record.shadow = nil
		j.mu.Unlock()
	case st == j.state:
		return
	case waits(j.state):
		j.began = j.began.Add(now.Sub(j.entered))
	}
	j.entered = now
	j.exec, j.state = id, st
	j.effect, j.download, j.verified, j.shadowed = failures{}, nil, false, nil
	if !tries(st) {
		j.discard()
	}
}

// discard closes a candidate that was not put to work.
func (j *journey) discard() {
	if j.warm != nil {
		if err := j.warm.Close(); err != nil {
			j.log.Warn().Err(err).Msg("candidate closed")
		}
		j.warm = nil
	}
}

// effectContext is ctx until something else is wanted, or in another way, or the
// execution is too old, or the window of its download closes.
func (j *journey) effectContext(ctx context.Context) (context.Context, context.CancelFunc) {
	stop := context.CancelFunc(func() {})
	var doing *wire.DesiredRelease
	if p := j.pipeline(); j.exec != "" && !p.Over() {
		doing = &p.Exec.Want
		end, why := j.began.Add(maxAge), errTooLong
		if w := doing.Window; j.state == wire.Downloading && w != nil && w.Download {
			if shuts := closes(*w, time.Now()); shuts.Before(end) {
				end, why = shuts, errShut
			}
		}
		ctx, stop = context.WithDeadlineCause(ctx, end, why)
	}
	effect, cancel := context.WithCancelCause(ctx)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.doing, j.cancel = doing, cancel
	j.cancelOther() // a wish may have come between asking Next and now
	return effect, func() { cancel(nil); stop() }
}

// want takes a new wish; an effect for another one ends.
func (j *journey) want(w Want) {
	j.mu.Lock()
	j.wanted = w
	j.cancelOther()
	j.mu.Unlock()
	j.poke()
}

// cancelOther ends an effect for what is not wanted any more, or not in this way. The
// caller holds mu.
func (j *journey) cancelOther() {
	w := j.wanted
	if j.doing != nil && w.Known && (w.Release == nil || !reflect.DeepEqual(w.Release, j.doing)) {
		j.cancel(errChanged)
	}
}

func (j *journey) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// note takes in a run, which counts for more when it is of the release on probation.
func (j *journey) note(release wire.Digest, r Run) {
	j.mu.Lock()
	if !j.record.note(release, j.trial, r) {
		j.mu.Unlock()
		return
	}
	err := r.Err
	if err == nil {
		j.score.Good++
		j.score.Streak = 0
	} else {
		j.score.Streak++
		j.score.Fault = FaultOf(err)
		switch hal.CodeOf(err) {
		case hal.CodeCrash, hal.CodeTimeout, hal.CodeMemory:
			j.score.Deadly = true
		}
	}
	// What comes of limits is seen when it is looked at again.
	decided := j.score.Deadly || j.score.Streak >= maxStreak || err == nil && j.score.Good == j.enough
	j.mu.Unlock()
	if decided {
		j.poke()
	}
}

// seen is what Reported says besides the state.
func (j *journey) seen() (accelerator string, refused []wire.Fault, trouble *wire.Fault) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.trouble == nil {
		return string(j.accel), j.refused, j.pending
	}
	return string(j.accel), j.refused, j.trouble
}

// say keeps what an execution waits for, and says it once.
func (j *journey) say(f *wire.Fault) {
	j.mu.Lock()
	before := j.pending
	j.pending = f
	j.mu.Unlock()
	if reflect.DeepEqual(before, f) {
		return
	}
	if f != nil {
		j.log.Warn().Str("code", f.Code).Str("fault", f.Text).Msg("waits")
	}
	j.l.c.Changed()
}

// far is how many percent of the download are here.
func (j *journey) far() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.percent
}

// do does one step. The error is the state's disk; what an effect fails with is
// an observation. A wish interrupts every effect but the way back.
func (j *journey) do(run, ctx context.Context, step Step) error {
	switch step.Do {
	case Wait:
		j.say(step.Note)
		j.pause(run, step.Wait)
		return nil
	}
	j.say(nil)
	j.loop.Do(step.Do.String(), limitOf(step.Do))
	switch step.Do {
	case Begin, Order, Move, Commit, Demote:
		return j.transit(step)
	case Restore:
		j.doRestore(run)
	case Repair:
		j.doRepair(run)
	case Download:
		j.doDownload(ctx)
	case Verify:
		j.doVerify(ctx)
	case Trial:
		j.doSelfTest(ctx)
	case Shadow:
		j.doShadow(ctx)
	case Switch:
		j.doSwitch(ctx)
	}
	return nil
}

// pause waits until d has passed (0: for ever), or something happens.
func (j *journey) pause(ctx context.Context, d time.Duration) {
	limits := []time.Duration{j.restore.wait()}
	if !waits(j.state) { // the execution's own end
		limits = append(limits, time.Until(j.began.Add(maxAge)))
	}
	for _, l := range limits {
		if l > 0 && (d == 0 || l < d) {
			d = l
		}
	}
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	for {
		select {
		case <-j.wake:
			return
		case <-timer:
			return
		case <-j.loop.Pulse():
			j.loop.Beat()
		case <-ctx.Done():
			return
		}
	}
}

// transit writes a change of the state, then says it.
func (j *journey) transit(step Step) error {
	var after slots.Pipeline
	j.at = j.l.Now().UTC().Truncate(time.Second)
	p := j.pipeline()
	if !p.Over() && p.Exec.Want.Shadow != nil && step.To == wire.Switching && j.shadowed == nil {
		j.skipped()
	}
	j.mu.Lock()
	evidence := j.record.evidence(p)
	j.mu.Unlock()
	err := j.save(func(s slots.State) slots.State {
		s = j.apply(s, step)
		if evidence != nil {
			s = s.With(j.name, s.Pipelines[j.name].Proved(evidence))
		}
		after = s.Pipelines[j.name]
		return s
	})
	if err != nil {
		return err
	}
	if step.Do == Demote {
		j.restore = failures{}
	}
	e := j.log.Info()
	if step.Fault != nil {
		e = j.log.Warn().Str("code", step.Fault.Code).Str("fault", step.Fault.Text)
	}
	e.Stringer("step", step.Do).Str("state", string(step.To)).Msg("update")
	if step.Do != Demote && step.Do != Order {
		j.emit(after, 0, 0)
	}
	j.l.c.Changed()
	if step.Do == Commit {
		j.mu.Lock()
		j.record.committed()
		j.mu.Unlock()
	}
	if after.Over() {
		j.endTrial()
		j.tidy()
	}
	return nil
}

// apply is the change of the state that a step asks for.
func (j *journey) apply(s slots.State, step Step) slots.State {
	p := s.Pipelines[j.name]
	switch step.Do {
	case Begin:
		p = p.Took(*step.Want, step.To, step.Fault)
	case Order:
		p = p.Ordered(*step.Want)
	case Move:
		if step.To == wire.Verifying {
			p.Candidate = j.download
		}
		if step.Quarantine {
			w := p.Exec.Want
			s = s.WithQuarantine(j.quarantined(w.Release, w.Attempt, step.Fault))
			p.Consented = "" // nobody meant this
		}
		p = p.Moved(step.To, step.Fault)
	case Commit:
		s = s.Cleared(p.Candidate.Release)
		p = p.Committed()
	case Demote:
		s = s.WithQuarantine(j.quarantined(p.Active.Release, p.Active.Attempt, step.Fault))
		p = p.Demoted()
	}
	return s.With(j.name, p)
}

func (j *journey) quarantined(release wire.Digest, attempt int, f *wire.Fault) wire.Quarantined {
	q := wire.Quarantined{Release: release, Attempt: attempt, At: j.at}
	if f != nil {
		q.Code = f.Code
	}
	return q
}

// tidy removes what nothing needs any more, unless somebody fetches.
func (j *journey) tidy() {
	select {
	case j.l.fetching <- struct{}{}:
		j.l.sweep(nil)
		unlock(j.l.fetching)
	default: // tidy when that is over
	}
}

// emit sends where the execution stands. N is a hundred for each transition, and
// on top of it the percent of a download: it grows, and a restart, which loses
// count of what was said but not of transitions, says the same again.
func (j *journey) emit(p slots.Pipeline, done, total int64) {
	e := p.Exec
	if e == nil {
		return
	}
	j.mu.Lock()
	j.percent = int(done * 100 / max(total, 1))
	j.mu.Unlock()
	n := e.N * 100
	if total > 0 {
		n += int(min(99, done*100/total))
	}
	step := wire.ExecStep{V: wire.Version, Execution: e.Want.Execution, Pipeline: j.name, Release: e.Want.Release,
		ID: stepID(j.l.c.Device, e.Want.Execution, n), N: n, State: e.State, TS: j.l.Now().UTC(), Done: done, Total: total, Fault: e.Fault, Evidence: e.Evidence}
	if e.Want.Execution == j.exec {
		step.GapMS = j.gap.Milliseconds()
	}
	if err := j.l.c.Steps.Step(step); err != nil {
		j.log.Warn().Err(err).Str("state", string(e.State)).Msg("step not sent")
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
