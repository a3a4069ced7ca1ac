package update

import (
	"context"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const (
	// minFrames are needed to say that a candidate does not agree.
	minFrames = 10
	// shadowTime is how long a shadow run may take where nobody says it.
	shadowTime = time.Hour
	// noMetric is the metric of a candidate that could not be held against what ran.
	noMetric = "none"
)

// Shadowed is how a shadow run ended.
type Shadowed struct {
	Agreement wire.Agreement
	Err       error // E_AGREEMENT: the two cannot be compared; any other: what the candidate failed with
}

// afterTest is where a tested candidate goes: into a shadow run, if one is asked
// for and something runs that it can be held against.
func afterTest(p slots.Pipeline, o Observed) wire.ExecState {
	if p.Exec.Want.Shadow != nil && p.Active != nil && o.Running == p.Active.Release {
		return wire.Shadowing
	}
	return wire.Switching
}

// shadowing lets the candidate answer frames beside what runs, which it never
// touches. Disagreement is no quarantine: it says something of two models, of what
// the board saw and of the limit, and asking again costs nobody anything.
func shadowing(p slots.Pipeline, o Observed) Step {
	s, want := o.Shadow, p.Exec.Want.Shadow
	if s == nil {
		switch {
		case !o.Warm: // a restart lost it
			return selfTesting(p, o)
		case afterTest(p, o) != wire.Shadowing:
			return Step{Do: Move, To: wire.Switching}
		}
		return Step{Do: Shadow}
	}
	a, code := s.Agreement, hal.CodeOf(s.Err)
	if want == nil { // not asked for any more
		want = &wire.ShadowRun{}
	}
	switch {
	case code == hal.CodeAgreement && want.Agreement > 0:
		return Step{Do: Move, To: wire.Rejected, Fault: FaultOf(s.Err)}
	case code == hal.CodeAgreement || s.Err == nil && want.Agreement == 0:
		return Step{Do: Move, To: wire.Switching}
	case blames(code):
		return Step{Do: Move, To: wire.Rejected, Fault: FaultOf(s.Err), Quarantine: true}
	case s.Err != nil:
		return Step{Do: Move, To: wire.Failed, Fault: FaultOf(s.Err)}
	case a.Frames < min(minFrames, want.Frames):
		return Step{Do: Move, To: wire.Failed, Fault: fault(hal.CodeAgreement,
			"%d frames in %s are too few to judge by, %d are needed: give the shadow run more seconds", a.Frames, shadowSeconds(want), min(minFrames, want.Frames))}
	case a.Agreed*100 < want.Agreement*a.Frames:
		return Step{Do: Move, To: wire.Rejected, Fault: fault(hal.CodeAgreement,
			"%d of %d frames agree with what runs (%s, mean %.3g), the limit is %d %%: see what differs, or ask for less", a.Agreed, a.Frames, a.Metric, a.Mean, want.Agreement)}
	}
	return Step{Do: Move, To: wire.Switching}
}

func shadowSeconds(s *wire.ShadowRun) time.Duration {
	if s.Seconds == 0 {
		return shadowTime
	}
	return time.Duration(s.Seconds) * time.Second
}

// doShadow runs the candidate beside what runs. A candidate that failed is not used
// any more.
func (j *journey) doShadow(ctx context.Context) {
	want := *j.pipeline().Exec.Want.Shadow
	want.Seconds = int(shadowSeconds(&want) / time.Second)
	a, err := j.l.c.Installer.Shadow(ctx, j.name, j.warm, want)
	if ctx.Err() != nil {
		return
	}
	if hal.CodeOf(err) == hal.CodeAgreement {
		a = wire.Agreement{Metric: noMetric}
	} else if err != nil {
		j.discard()
	}
	j.shadowed = &Shadowed{Agreement: a, Err: err}
	j.log.Info().Err(err).Str("metric", a.Metric).Int("frames", a.Frames).Int("agreed", a.Agreed).Float64("mean", a.Mean).Float64("delta", a.Delta).Msg("shadow run")
	if a.Metric != "" {
		j.mu.Lock()
		j.record.shadow = &a
		j.mu.Unlock()
	}
}

// skipped notes that a shadow run that was asked for does not take place.
func (j *journey) skipped() {
	j.log.Warn().Msg("no shadow run: nothing runs beside the candidate, be it for want of room")
	j.mu.Lock()
	j.record.shadow = &wire.Agreement{Metric: noMetric}
	j.mu.Unlock()
}
