package update

import (
	"math"
	"slices"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A Run is how one run of a release's model went.
type Run struct {
	Engine time.Duration // inside the engine
	Score  float32       // of the first item of its answer
	Scored bool          // there was an item
	Label  uint32        // of that item, as any number that labels differ by
	Err    error         // why there is no answer; nil: there is one
}

// Vitals are how the model at work in a pipeline does, besides its runs.
type Vitals struct {
	Accelerator hal.Accelerator
	Degraded    string // why it does not run on what it ran best on; "" while it does
	Memory      int64  // PSS of its runner, bytes; 0: not known
}

// recent is how many runs a measure looks back on: at ten a second, the last minute.
const recent = 600

// A tally keeps the last runs of one release. It allocates with the first of them,
// and never again.
type tally struct {
	release wire.Digest
	ring    []sample
	oldest  int // in a full ring
}

type sample struct {
	ms, score      float32
	label          uint32
	scored, failed bool
}

// begin makes it another release's tally.
func (t *tally) begin(release wire.Digest) {
	t.release, t.ring, t.oldest = release, t.ring[:0], 0
}

// add takes in a run; a score that is no number is none.
func (t *tally) add(r Run) {
	s := sample{ms: float32(r.Engine) / 1e6, score: r.Score, label: r.Label, scored: r.Scored && r.Score-r.Score == 0, failed: r.Err != nil}
	switch {
	case t.ring == nil:
		t.ring = append(make([]sample, 0, recent), s)
	case len(t.ring) < recent:
		t.ring = append(t.ring, s)
	default:
		t.ring[t.oldest] = s
		t.oldest = (t.oldest + 1) % recent
	}
}

// A Sample is a Measure with what it takes to tell a difference from noise.
type Sample struct {
	wire.Measure
	Low, High float64 // the true median is within, but for three times in a thousand; ms; 0 for few runs
	Fastest   float64 // ms
	Scored    int     // answers with a score
	Sum, Sum2 float64 // of the scores, and of their squares
	// Labels is how often each label came first; nil where nobody counted.
	Labels map[uint32]int
}

// sample sums a tally up. All but its memory is known then.
func (t *tally) sample() Sample {
	s := Sample{Measure: wire.Measure{Runs: len(t.ring)}, Labels: map[uint32]int{}}
	took := make([]float32, 0, len(t.ring))
	for _, r := range t.ring {
		switch {
		case r.failed:
			s.Errors++
			continue
		case r.scored:
			s.Scored++
			s.Labels[r.label]++
			s.Sum += float64(r.score)
			s.Sum2 += float64(r.score) * float64(r.score)
		}
		took = append(took, r.ms)
	}
	if s.Scored > 0 {
		s.Score = rounded(s.Sum/float64(s.Scored), 1e4)
	}
	n := len(took)
	if n == 0 {
		return s
	}
	slices.Sort(took)
	at := func(i int) float64 { return rounded(float64(took[i]), 1e3) }
	s.P50, s.P99 = at(n/2), at((n*99)/100)
	// Of n runs n/2 are faster than the true median, give or take 3√n/2: so the
	// bounds need not know how times are spread.
	if k := int(math.Floor(float64(n)/2 - 1.5*math.Sqrt(float64(n)))); k >= 0 {
		s.Low, s.High = at(k), at(n-1-k)
	}
	s.Fastest = at(0)
	return s
}

// drifted is how far apart two samples are in what they named first: half the sum of
// the differences of each label's share, 0…1, which is the total variation distance. nil
// below driftRuns named on either side, where chance alone makes much of that.
func drifted(before, trial Sample) *float64 {
	if before.Labels == nil || before.Scored < driftRuns || trial.Scored < driftRuns {
		return nil
	}
	sum := 0.0
	for label, n := range before.Labels {
		sum += math.Abs(float64(n)/float64(before.Scored) - float64(trial.Labels[label])/float64(trial.Scored))
	}
	for label, n := range trial.Labels {
		if before.Labels[label] == 0 {
			sum += float64(n) / float64(trial.Scored)
		}
	}
	d := rounded(sum/2, 1e3)
	return &d
}

const driftRuns = 100

// remembered is a Sample of which only the measure is left, without its noise.
func remembered(m *wire.Measure) Sample {
	if m == nil {
		return Sample{}
	}
	n := m.Runs - m.Errors
	return Sample{Measure: *m, Low: m.P50, High: m.P50, Fastest: m.P50, Scored: n, Sum: m.Score * float64(n), Sum2: m.Score * m.Score * float64(n)}
}

// alike is how many results in a row say as much as one another's neighbours can:
// frames that follow each other are not independent, so that more make a mean no
// surer.
const alike = 20

// scores is the mean of n scores, of which those behind Scored are 0, and how far
// from it the true one may be.
func (s Sample) scores(n int) (mean, doubt float64) {
	mean = s.Sum / float64(n)
	spread := max(0, s.Sum2/float64(n)-mean*mean)
	return mean, 3 * math.Sqrt(spread/float64(min(n, alike)))
}

// rounded keeps messages short, and within what a message may say.
func rounded(v, parts float64) float64 {
	return math.Round(min(max(v, -1e9), 1e9)*parts) / parts
}

// measure is nil for a sample of nothing.
func (s Sample) measure() *wire.Measure {
	if s.Runs == 0 && s.Memory == 0 {
		return nil
	}
	m := s.Measure
	return &m
}

// A record is what a journey measures of the releases in its pipeline. The
// journey's mu guards it.
type record struct {
	now    tally // of what runs, or ran until the switch
	tried  tally // of the candidate, since the switch
	before Sample
	own    release.Variant // the candidate's, for its budget
	memory int64           // the most that the candidate's runner took
	accel  hal.Accelerator
	cool   *float64 // °C of the board before the switch
	hot    *float64 // the most since
	shadow *wire.Agreement
}

// note takes in a run of a release, and says whether it is the candidate's.
func (r *record) note(release, trial wire.Digest, run Run) bool {
	t := &r.now
	if release == trial {
		t = &r.tried
	}
	if t.release != release {
		t.begin(release)
	}
	t.add(run)
	return release == trial
}

// freeze keeps what is known of what runs now: the candidate's runs begin. old is
// what was known before a restart of the agent.
func (r *record) freeze(active *slots.Slot, candidate wire.Digest, v Vitals, temp *float64, old *wire.Evidence) {
	r.before = Sample{}
	if active != nil && r.now.release == active.Release {
		r.before = r.now.sample()
		r.before.Memory = v.Memory
	}
	if old != nil && old.Before != nil && r.before.Runs < minRuns {
		r.before = remembered(old.Before)
	}
	r.tried.begin(candidate)
	r.memory, r.accel, r.cool, r.hot = 0, "", temp, nil
}

// look is what is seen of the candidate now.
func (r *record) look(v Vitals, temp *float64) Seen {
	r.memory, r.accel = max(r.memory, v.Memory), v.Accelerator
	if temp != nil && (r.hot == nil || *temp > *r.hot) {
		r.hot = temp
	}
	s := Seen{Trial: r.tried.sample(), Before: r.before, Degraded: v.Degraded, Cool: r.cool, Temp: temp}
	s.Trial.Memory = v.Memory
	return s
}

// committed makes the candidate's runs those of what runs.
func (r *record) committed() { r.now, r.tried = r.tried, tally{} }

// evidence is e with what was measured since, of the candidate of p.
func (r *record) evidence(p slots.Pipeline) *wire.Evidence {
	if p.Over() || p.Candidate == nil {
		return nil
	}
	var e wire.Evidence
	if p.Exec.Evidence != nil {
		e = *p.Exec.Evidence
	}
	e.Model = p.Candidate.Model
	if r.shadow != nil {
		e.Shadow = r.shadow
	}
	if r.tried.release == p.Candidate.Release {
		trial := r.tried.sample()
		trial.Memory = r.memory
		e.Trial, e.Before, e.Temp, e.Drift = trial.measure(), r.before.measure(), r.hot, drifted(r.before, trial)
		if r.accel != "" {
			e.Accel = string(r.accel)
		}
	}
	if e == (wire.Evidence{Model: e.Model}) {
		return nil
	}
	return &e
}

// budget notes what a release that is tried says of itself.
func (j *journey) budget(f Files) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.record.own = f.Variant
}

// limits of p's execution. The caller holds mu, which runs of models wait for: so the
// state, which may be on its way to a slow disk, is not asked here.
func (j *journey) limits(p slots.Pipeline) wire.ProbationLimits {
	var want *wire.ProbationLimits
	if e := p.Exec; e != nil {
		want = e.Want.Probation
	}
	return limitsOf(want, j.l.c.ProbationResults, j.l.c.ProbationWindow, j.record.own)
}
