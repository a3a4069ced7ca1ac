package ladder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/hal"
)

// How candidates are timed.
const (
	budget = 20 * time.Second // from then on no candidate is begun

	fewRuns = 3 // for a rough time

	// A race is turns of a few runs each. In between is rest: the threads of kernel
	// libraries go on spinning for some 50 ms when they have nothing to do, and take a
	// core from whoever comes next.
	inTurn    = 3
	turnTime  = 3 * time.Millisecond // as many runs as fit, where three are over sooner: what takes microseconds has to get warm
	mostRuns  = 60                   // of a turn
	rest      = 80 * time.Millisecond
	turns     = 3                      // of each, at least
	mostTurns = 12                     // and at most
	raceTime  = 500 * time.Millisecond // after which the least is enough
	longRace  = 3 * time.Second        // after which even fewer are

	hopeless = 1.5  // times the best: no more runs
	far      = 3    // times the best: so it is after two runs. Fewer threads are tried even so: on busy cores two take ten times as long as one
	tie      = 0.02 // of the best: then fewer threads are better. With what measuring is off, no more than 3 %

	leastDeadline = 2 * time.Second // of a candidate's run
	deadlineRatio = 10              // of a candidate's deadline and the plain CPU's time
	lastDeadline  = 10 * time.Second
	leastOpen     = 5 * time.Second  // for opening on the CPU
	driverOpen    = 20 * time.Minute // for a driver that compiles the model: TensorRT takes minutes
)

// A found is what a walk came to.
type found struct {
	session   hal.Session // of choices[0], warm
	choices   []Choice    // that agree, the one to use first, then fastest first, one an accelerator
	times     []trial     // all that agree, fastest first
	lost      []hal.Attempt
	reference time.Duration // p50 of the plain CPU; 0 without one
}

// A trial is a candidate that is open and agrees.
type trial struct {
	choice  Choice
	session hal.Session
	rel     float64 // its time in those of the first trial
	against Choice  // that it was timed with in turns
	allowed bool    // to win; a reference that the order leaves out is not
}

// A walk measures one model.
type walk struct {
	e *Engine
	m hal.Model
	o hal.Options

	began time.Time
	gated bool // what kills the runtime's own kernels is refused

	samples   []hal.Sample // nil until the tensors are known
	reference [][]output   // of zeros, then of each sample; nil without a plain CPU
	cpu       time.Duration
	opening   time.Duration // that the plain CPU took
	compiled  time.Duration // that drivers took to open: no part of the budget

	best   *trial
	agreed []trial // closed ones too
	lost   []hal.Attempt
	failed []Choice // settings that broke

	patient   bool  // the next candidate gets the longest deadlines
	alone     bool  // there is no room for two at a time: each is timed by itself
	condemned error // why the model is refused, whatever else could run it
}

// walk measures all candidates. When it returns an error, nothing is left open;
// the error is the plain CPU's when every candidate failed.
//
// A gated walk is for a model that nobody has trusted yet: one that kills the
// runtime's own kernels, or whose tensors are not there when they have run, is
// refused, for its file has corrupted memory, and on the next rung it only did not
// show. A driver that dies is another's fault, and costs that candidate alone.
func (e *Engine) walk(ctx context.Context, m hal.Model, o hal.Options, devices []hal.Device, gated bool) (*found, error) {
	w := &walk{e: e, m: m, o: o, gated: gated, began: time.Now()}
	defer w.free()
	order := e.order(o)
	accelerators := offered(order, devices)
	if len(accelerators) == 0 {
		return nil, &hal.Error{Code: hal.CodeAccel, Text: fmt.Sprintf("this board has none of %v: see covey-agent doctor", order)}
	}
	for _, a := range o.Order {
		if a != External && !slices.Contains(accelerators, a) {
			w.lost = append(w.lost, hal.Attempt{Accelerator: a, Reason: "this board has none that can be used: see covey-agent doctor"})
		}
	}
	cpuErr := w.plain(ctx, slices.Contains(accelerators, hal.CPU))
	if cpuErr != nil && !needsAccelerator(cpuErr) {
		return nil, cpuErr
	}
	// Too slow for the CPU is what accelerators are for, where there are any.
	if gated && deadly(cpuErr) && !slices.ContainsFunc(accelerators, isDriver) {
		return nil, cpuErr
	}
	var lastErr error
	for _, c := range candidates(accelerators, e.cores(), o.Threads, e.config.Settings) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if time.Since(w.began) > budget+w.compiled && w.best != nil && w.best.allowed {
			w.lose(c, fmt.Sprintf("not tried: measuring had taken %v", budget))
			continue
		}
		if err := w.try(ctx, c); err != nil {
			lastErr = err
		}
		if w.condemned != nil {
			return nil, w.condemned
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(w.ranking()) == 0 {
		return nil, cmp.Or(lastErr, cpuErr, noneRuns(w.lost)) // its own words are better
	}
	return w.finish(ctx)
}

func noneRuns(lost []hal.Attempt) error {
	return &hal.Error{Code: hal.CodeAccel, Text: "no accelerator of this board can run the model: " + reasons(lost)}
}

// needsAccelerator says whether what the plain CPU failed with leaves hope for
// others: it lacks an operator, or it is too slow. A model that crashes there, or
// gives wrong answers, is no good anywhere.
func needsAccelerator(err error) bool {
	switch hal.CodeOf(err) {
	case hal.CodeAccel, hal.CodeOp, hal.CodeRuntime, hal.CodeTimeout:
		return true
	}
	return false
}

func (w *walk) lose(c Choice, reason string) { w.lost = append(w.lost, c.lost(reason)) }

// broke takes a candidate out, and those that are like it, and in a gated walk
// condemns a model that broke it on the CPU. One that is proven, because all its
// answers were right, may be too slow afterwards: then the board was busy.
func (w *walk) broke(c Choice, err error, proven bool) {
	w.failed = append(w.failed, c)
	w.lose(c, err.Error())
	if !w.gated || !onCPU(c.Accelerator) || proven && hal.CodeOf(err) == hal.CodeTimeout {
		return
	}
	if deadly(err) || hal.CodeOf(err) == hal.CodeTensor {
		w.condemned = fmt.Errorf("on %v: %w", c, err)
	}
}

// deadly says whether an error is the death of a runner.
func deadly(err error) bool {
	switch hal.CodeOf(err) {
	case hal.CodeCrash, hal.CodeTimeout, hal.CodeMemory:
		return true
	}
	return false
}

func isDriver(a hal.Accelerator) bool { return !onCPU(a) }

// model is the file that an accelerator runs.
func (w *walk) model(a hal.Accelerator) hal.Model { return fileFor(a, w.m, w.o) }

// fileFor: where a model has a sibling, it is compiled for an Edge TPU.
func fileFor(a hal.Accelerator, m hal.Model, o hal.Options) hal.Model {
	if o.Sibling != nil && a != hal.EdgeTPU {
		return *o.Sibling
	}
	return m
}

// plain runs everything on the plain CPU: what the others are held against. It is
// the first trial.
func (w *walk) plain(ctx context.Context, wanted bool) error {
	threads := w.o.Threads
	if threads == 0 {
		threads = most(w.e.cores())
	}
	c := Choice{Accelerator: hal.CPU, Threads: threads}
	if ways := w.e.config.Settings[hal.CPU]; len(ways) > 0 {
		c.Settings = ways[0]
	}
	begin := time.Now()
	err := w.e.supports(w.model(hal.CPU).Path, hal.CPU)
	var s hal.Session
	if err == nil {
		s, err = w.open(ctx, c, w.o.Deadline, w.o.OpenTimeout)
	}
	w.opening = time.Since(begin)
	if err == nil {
		w.samples = w.o.Golden
		if len(w.samples) == 0 {
			w.samples = madeUp(s.Info().Inputs)
		}
		var all [][]output
		if all, err = w.answers(s); err == nil {
			w.reference = all
			w.best = &trial{choice: c, session: s, rel: 1, allowed: wanted}
			w.cpu, err = median(s, fewRuns)
		}
	}
	if err != nil {
		if s != nil {
			s.Close()
		}
		w.best = nil
		w.failed = append(w.failed, c)
		if wanted {
			w.lose(c, err.Error())
		}
		return err
	}
	w.best.choice.Took = w.cpu
	w.agreed = append(w.agreed, *w.best)
	return nil
}

// open opens a candidate.
func (w *walk) open(ctx context.Context, c Choice, deadline, timeout time.Duration) (hal.Session, error) {
	o := w.o
	o.Deadline, o.OpenTimeout = deadline, timeout
	return w.e.open(ctx, w.m, o, c)
}

// try opens a candidate, asks it what the plain CPU was asked, and times it. The
// error says why it cannot be used at all.
func (w *walk) try(ctx context.Context, c Choice) error {
	if slices.ContainsFunc(w.agreed, func(t trial) bool { return t.choice.same(c) }) || slices.ContainsFunc(w.failed, c.alike) {
		return nil // the plain CPU, or its reason was said
	}
	s, err := w.begin(ctx, c)
	if hal.CodeOf(err) == hal.CodeAdmission && w.best != nil && w.best.session != nil {
		w.alone = true
		w.free()
		s, err = w.begin(ctx, c)
	}
	if w.gated && onCPU(c.Accelerator) && hal.CodeOf(err) == hal.CodeTimeout {
		w.patient = true // the board may have been busy: nobody is condemned for that
		s, err = w.begin(ctx, c)
		w.patient = false
	}
	if err != nil {
		w.broke(c, err, false)
		return err
	}
	t := &trial{choice: c, session: s, rel: 1, allowed: true}
	switch {
	case w.best == nil:
		t.choice.Took, err = median(s, fewRuns)
	case w.alone:
		var list []time.Duration
		if list, err = turn(ctx, s); err == nil {
			t.choice.Took = p50(list)
			t.rel = w.best.rel * float64(t.choice.Took) / float64(max(1, w.best.choice.Took))
		}
	default:
		err = w.race(ctx, t)
	}
	if err != nil {
		w.broke(c, err, true)
		return errors.Join(err, s.Close())
	}
	w.agreed = append(w.agreed, *t)
	if w.best != nil && t.rel >= w.best.rel && w.best.allowed {
		return s.Close()
	}
	w.free()
	w.best = t
	return nil
}

// free closes the best one, if it is open.
func (w *walk) free() {
	if w.best != nil && w.best.session != nil {
		w.best.session.Close()
		w.best.session = nil
	}
}

// begin opens a candidate and compares it.
func (w *walk) begin(ctx context.Context, c Choice) (hal.Session, error) {
	if err := w.e.supports(w.model(c.Accelerator).Path, c.Accelerator); err != nil {
		return nil, err
	}
	timeout := w.o.OpenTimeout
	switch {
	case timeout != 0:
	case !onCPU(c.Accelerator):
		timeout = driverOpen
	case w.opening > 0 && !w.patient:
		timeout = max(leastOpen, deadlineRatio*w.opening)
	}
	begin := time.Now()
	s, err := w.open(ctx, c, w.deadline(), timeout)
	if !onCPU(c.Accelerator) {
		w.compiled += time.Since(begin)
	}
	if err != nil {
		return nil, err
	}
	if w.samples == nil {
		if w.samples = w.o.Golden; len(w.samples) == 0 {
			w.samples = madeUp(s.Info().Inputs)
		}
	}
	got, err := w.answers(s)
	if err == nil {
		err = w.agrees(got)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// deadline is of a candidate's runs.
func (w *walk) deadline() time.Duration {
	if w.o.Deadline != 0 || w.cpu == 0 || w.patient {
		return w.o.Deadline
	}
	return deadlineFor(w.cpu)
}

// deadlineFor is a run's deadline for a model that takes so long on the plain CPU.
func deadlineFor(cpu time.Duration) time.Duration {
	return min(lastDeadline, max(leastDeadline, deadlineRatio*cpu))
}

// answers runs zeros and every sample.
func (w *walk) answers(s hal.Session) ([][]output, error) {
	info := s.Info()
	for i := range info.Inputs {
		clear(s.Input(0, i))
	}
	if _, err := s.Run(0); err != nil {
		return nil, fmt.Errorf("run on zeros: %w", err)
	}
	all := [][]output{outputs(s, 0)}
	for n, sample := range w.samples {
		if len(sample.Inputs) != len(info.Inputs) {
			return nil, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("sample %d has %d inputs, the model %d", n, len(sample.Inputs), len(info.Inputs))}
		}
		for i, b := range sample.Inputs {
			in := s.Input(0, i)
			if len(in) != len(b) {
				return nil, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("input %d of sample %d has %d bytes, the model wants %d", i, n, len(b), len(in))}
			}
			copy(in, b)
		}
		if _, err := s.Run(0); err != nil {
			return nil, fmt.Errorf("run on sample %d: %w", n, err)
		}
		got := outputs(s, 0)
		if why := golden(sample, got); why != "" {
			return nil, &hal.Error{Code: hal.CodeGolden, Text: fmt.Sprintf("golden sample %d: %s", n, why)}
		}
		all = append(all, got)
	}
	return all, nil
}

// golden holds outputs against the known ones of a sample.
func golden(s hal.Sample, got []output) string {
	if len(s.Outputs) == 0 {
		return ""
	}
	want := make([]output, len(s.Outputs))
	for i, b := range s.Outputs {
		if i < len(got) {
			want[i] = output{info: got[i].info, shape: got[i].shape, data: b}
		}
	}
	if len(want) < len(got) {
		got = got[:len(want)] // the rest is not said
	}
	return disagree(want, got, s.Tolerance, 1)
}

// agrees holds a candidate's answers against the plain CPU's.
func (w *walk) agrees(got [][]output) error {
	slack := 1.0
	if len(w.o.Golden) == 0 {
		slack = slackMadeUp
	}
	for i := range w.reference {
		what, tolerance := "zeros", 0.0
		if i > 0 {
			what, tolerance = fmt.Sprintf("sample %d", i-1), w.samples[i-1].Tolerance
		}
		if why := disagree(w.reference[i], got[i], tolerance, slack); why != "" {
			return &hal.Error{Code: hal.CodeDisagree, Text: "on " + what + ": " + why}
		}
	}
	return nil
}

// race times a trial in turns with the best one, so that heat and other work do
// the same to both, and says how they compare.
func (w *walk) race(ctx context.Context, t *trial) error {
	var ours, theirs []time.Duration
	begin := time.Now()
	for n := 1; ; n++ {
		them, err := turn(ctx, w.best.session)
		if err != nil {
			return w.dethrone(ctx, err, t)
		}
		us, err := turn(ctx, t.session)
		if err != nil {
			return err
		}
		ours, theirs = append(ours, us...), append(theirs, them...)
		spent := time.Since(begin)
		times := float64(slices.Min(ours)) / float64(max(1, p50(theirs)))
		if times > far || times > hopeless && n > 1 || spent >= longRace || n >= turns && (spent >= raceTime || n >= mostTurns) {
			break
		}
	}
	t.choice.Took, t.against = p50(ours), w.best.choice
	t.rel = w.best.rel * float64(t.choice.Took) / float64(max(1, p50(theirs)))
	return nil
}

// dethrone is for a best one that failed after all: the other takes its place.
func (w *walk) dethrone(ctx context.Context, err error, t *trial) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.drop(w.best.choice, err)
	t.rel = w.best.rel
	w.free()
	w.best = nil
	var took error
	t.choice.Took, took = median(t.session, fewRuns)
	return took
}

// drop takes out one that agreed and failed after all.
func (w *walk) drop(c Choice, err error) {
	before := len(w.agreed)
	if w.agreed = slices.DeleteFunc(w.agreed, func(t trial) bool { return t.choice.same(c) }); len(w.agreed) < before {
		w.broke(c, err, true)
	}
}

// ranking is what may win, fastest first.
func (w *walk) ranking() []trial {
	list := slices.DeleteFunc(slices.Clone(w.agreed), func(t trial) bool { return !t.allowed })
	slices.SortStableFunc(list, faster)
	return list
}

// finish picks the winner, opens it unless it is open, and says why others lost. One
// that fails now gives way to the next.
func (w *walk) finish(ctx context.Context) (*found, error) {
	var list []trial
	var winner trial
	var s hal.Session
	for s == nil {
		if list = w.ranking(); len(list) == 0 {
			return nil, noneRuns(w.lost)
		}
		failed, err := w.runoff(ctx, list)
		if err == nil {
			slices.SortStableFunc(list, faster)
			winner = list[0]
			for _, t := range list {
				if t.rel <= list[0].rel*(1+tie) && t.choice.Threads < winner.choice.Threads {
					winner = t
				}
			}
			if w.best != nil && !w.best.choice.same(winner.choice) {
				w.free() // there may be no room for two
			}
			failed = winner.choice
			s, err = w.winner(ctx, winner)
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil || blamesModel(err) {
			return nil, err
		}
		if w.drop(failed, err); w.condemned != nil {
			return nil, w.condemned
		}
	}
	f := &found{session: s, choices: []Choice{winner.choice}, reference: w.cpu}
	f.times = list
	for _, t := range list {
		if t.choice.same(winner.choice) {
			continue
		}
		times := t.rel / winner.rel
		reason := fmt.Sprintf("%.2f times as long as %v", times, winner.choice)
		if times <= 1+tie {
			reason = fmt.Sprintf("as fast as %v, which leaves more to others", winner.choice)
		}
		w.lose(t.choice, reason)
		if !slices.ContainsFunc(f.choices, func(c Choice) bool { return c.Accelerator == t.choice.Accelerator }) {
			f.choices = append(f.choices, t.choice)
		}
	}
	f.lost = w.lost
	return f, nil
}

func faster(a, b trial) int { return cmp.Compare(a.rel, b.rel) }

// runoff times the others in turns with the first of the list once more. So far most
// were compared by way of a third, and on a board that was busy just then that way
// can be long. Who fails now keeps its time.
//
// With an error it says who failed: the first.
func (w *walk) runoff(ctx context.Context, list []trial) (failed Choice, err error) {
	if len(list) == 1 || w.alone {
		return Choice{}, nil
	}
	first := list[0]
	if w.best == nil || w.best.session == nil || !w.best.choice.same(first.choice) {
		s, err := w.winner(ctx, first)
		if err != nil {
			return first.choice, err
		}
		w.free()
		first.session = s
		w.best = &first
	}
	for i := 1; i < len(list) && time.Since(w.began) < budget+w.compiled; i++ {
		t := list[i]
		if t.against.same(first.choice) || first.against.same(t.choice) {
			continue
		}
		s, err := w.winner(ctx, t)
		if err != nil {
			continue
		}
		t.session = s
		err = w.race(ctx, &t)
		s.Close()
		if w.best == nil { // it failed after all
			return first.choice, fmt.Errorf("while it was timed: %w", cmp.Or(err, noneRuns(w.lost)))
		}
		if err == nil {
			list[i].rel = t.rel
		}
	}
	return first.choice, ctx.Err()
}

// winner returns the winner's session, without what the trial left in it.
func (w *walk) winner(ctx context.Context, t trial) (hal.Session, error) {
	if w.best != nil && w.best.session != nil && w.best.choice.same(t.choice) {
		s := w.best.session
		w.best = nil
		if err := s.Reset(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		return s, nil
	}
	return w.open(ctx, t.choice, w.deadline(), w.o.OpenTimeout)
}

func reasons(lost []hal.Attempt) string {
	if len(lost) == 0 {
		return "none was tried"
	}
	l := lost[len(lost)-1]
	return fmt.Sprintf("%s: %s", l.Accelerator, l.Reason)
}

// turn is a session's turn in a race: a rest, a run to get warm, some that count.
func turn(ctx context.Context, s hal.Session) ([]time.Duration, error) {
	select {
	case <-time.After(rest):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if _, err := timed(s); err != nil {
		return nil, err
	}
	var list []time.Duration
	for begin := time.Now(); len(list) < inTurn || len(list) < mostRuns && time.Since(begin) < turnTime; {
		d, err := timed(s)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

func timed(s hal.Session) (time.Duration, error) {
	t, err := s.Run(0)
	return t.Engine + t.Hop, err
}

// median runs a session and returns its p50.
func median(s hal.Session, n int) (time.Duration, error) {
	var list []time.Duration
	for range n {
		d, err := timed(s)
		if err != nil {
			return 0, err
		}
		list = append(list, d)
	}
	return p50(list), nil
}

func p50(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// blamesModel says whether an error is about the file or the caller, so that no
// other accelerator can do better.
func blamesModel(err error) bool {
	switch hal.CodeOf(err) {
	case hal.CodeModelEmpty, hal.CodeModelFormat, hal.CodeModelShort, hal.CodeHash, hal.CodeHashAtRest, hal.CodeLength, hal.CodeAdmission:
		return true
	}
	return errors.Is(err, context.Canceled)
}
