package update

import (
	"fmt"
	"math"
	"time"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// What it takes to say that a release is worse.
const (
	// minRuns are needed before scores and errors are judged, and of what ran before for
	// any comparison: with them the bounds of a median are within the fastest and the
	// slowest fifth. A slow model must not get away with few runs: there is a bound for
	// its median from nine on.
	minRuns = 20
	// fewRuns are enough where all of them were slower than all but the slowest
	// hundredth before.
	fewRuns = 3
	// tie is a difference of medians that no consumer notices, ms.
	tie = 1.0
	// always is the part of results with a score from which on one without has lost it:
	// a classifier has one for every frame, a detector has none for an empty yard.
	always = 0.95
	// judgeAgain is how often memory, temperature and the limits are looked at.
	judgeAgain = time.Second
)

// Seen is what is known of a release on probation.
type Seen struct {
	Trial, Before Sample
	Degraded      string   // it lost its accelerator, and why
	Temp, Cool    *float64 // °C of the board now, and before the switch; nil: not known
}

// limitsOf are the limits of an execution: the fleet's, the device's own where it
// says nothing, and the release's own budget where that is the stricter.
func limitsOf(want *wire.ProbationLimits, results int, time time.Duration, own release.Variant) wire.ProbationLimits {
	var l wire.ProbationLimits
	if want != nil {
		l = *want
	}
	if l.Results == 0 {
		l.Results = results
	}
	if l.Seconds == 0 {
		l.Seconds = int(math.Ceil(time.Seconds()))
	}
	if own.LatencyMS > 0 && (l.Latency == 0 || own.LatencyMS < float64(l.Latency)) {
		l.Latency = int(math.Ceil(min(own.LatencyMS, math.MaxInt32)))
	}
	if own.Memory > 0 && (l.Memory == 0 || own.Memory < l.Memory) {
		l.Memory = own.Memory
	}
	return l
}

// enough is after how many good results probation may be over: where runs are
// judged, not before there is something to judge by.
func enough(l wire.ProbationLimits) int {
	if l.Latency > 0 || l.Slower > 0 || l.Score > 0 || l.Errors > 0 {
		return max(l.Results, minRuns)
	}
	return l.Results
}

// A verdict is a limit that is not kept for certain, or, with doubt, that seems not
// to be kept: more runs will tell.
type verdict struct {
	fault *wire.Fault
	doubt bool
}

// judge holds what is seen against the limits. Times, scores and errors count when
// chance cannot be the reason: a twin of what ran before passes.
func judge(l wire.ProbationLimits, s Seen) verdict {
	var doubt bool
	for _, v := range []verdict{
		judgeMemory(l, s), judgeHeat(l, s), judgeFallback(l, s),
		judgeErrors(l, s), judgeLatency(l, s), judgeSlower(l, s), judgeScore(l, s),
	} {
		if v.fault != nil {
			return v
		}
		doubt = doubt || v.doubt
	}
	return verdict{doubt: doubt}
}

func judgeMemory(l wire.ProbationLimits, s Seen) verdict {
	if l.Memory == 0 || s.Trial.Memory <= l.Memory {
		return verdict{}
	}
	return verdict{fault: fault(hal.CodeMemory, "runner takes %s, the limit is %s%s: make the model smaller or allow more memory",
		mib(s.Trial.Memory), mib(l.Memory), ifKnown(s.Before.Memory > 0, "; %s before", mib(s.Before.Memory)))}
}

// judgeHeat blames nothing on a release where the board was as hot before it.
func judgeHeat(l wire.ProbationLimits, s Seen) verdict {
	limit := float64(l.TempMax)
	if l.TempMax == 0 || s.Temp == nil || *s.Temp <= limit || s.Cool != nil && *s.Cool > limit {
		return verdict{}
	}
	before := ""
	if s.Cool != nil {
		before = fmt.Sprintf("; %.1f °C before", *s.Cool)
	}
	return verdict{fault: fault(hal.CodeHot, "board is at %.1f °C, the limit is %d °C%s: cool it, or run a lighter model or fewer frames", *s.Temp, l.TempMax, before)}
}

func judgeFallback(l wire.ProbationLimits, s Seen) verdict {
	if !l.Fallback || s.Degraded == "" {
		return verdict{}
	}
	return verdict{fault: fault(hal.CodeFallback, "model lost its accelerator: %s", s.Degraded)}
}

func judgeErrors(l wire.ProbationLimits, s Seen) verdict {
	n, bad := s.Trial.Runs, s.Trial.Errors
	limit := float64(l.Errors) / 100
	if l.Errors == 0 || n < minRuns || float64(bad) <= limit*float64(n) {
		return verdict{}
	}
	if least(bad, n) <= limit {
		return verdict{doubt: true}
	}
	return verdict{fault: fault(hal.CodeErrors, "%d of %d runs failed, the limit is %d %%%s: the log has each reason", bad, n, l.Errors,
		ifKnown(s.Before.Runs > 0, "; %d of %d before", s.Before.Errors, s.Before.Runs))}
}

// least is the lower end of Wilson's interval for a part of n, at three sigmas.
func least(part, n int) float64 {
	const z = 3.0
	p, m := float64(part)/float64(n), float64(n)
	return (p + z*z/(2*m) - z*math.Sqrt(p*(1-p)/m+z*z/(4*m*m))) / (1 + z*z/m)
}

func judgeLatency(l wire.ProbationLimits, s Seen) verdict {
	limit := float64(l.Latency)
	if l.Latency == 0 || s.Trial.P50 <= limit {
		return verdict{}
	}
	if s.Trial.Low <= limit {
		return verdict{doubt: true}
	}
	return verdict{fault: fault(hal.CodeSlow, "median of %d runs is %.1f ms, the limit is %d ms%s: use a lighter model or allow it more time",
		s.Trial.good(), s.Trial.P50, l.Latency, ifKnown(s.Before.good() > 0, "; %.1f ms before", s.Before.P50))}
}

func judgeSlower(l wire.ProbationLimits, s Seen) verdict {
	factor := float64(l.Slower) / 100
	slower := func(now, before float64) bool { return now > max(factor*before, before+tie) }
	if l.Slower == 0 || s.Before.good() < minRuns || !slower(s.Trial.P50, s.Before.P50) {
		return verdict{}
	}
	few := s.Trial.good() >= fewRuns && slower(s.Trial.Fastest, s.Before.P99)
	if !few && !slower(s.Trial.Low, s.Before.High) {
		return verdict{doubt: true}
	}
	return verdict{fault: fault(hal.CodeSlow, "median of %d runs is %.1f ms, %.0f %% of the %.1f ms before; the limit is %d %%: use a lighter model or allow it more time",
		s.Trial.good(), s.Trial.P50, 100*s.Trial.P50/s.Before.P50, s.Before.P50, l.Slower)}
}

func judgeScore(l wire.ProbationLimits, s Seen) verdict {
	n, m := s.Trial.Scored, s.Before.Scored
	if l.Score == 0 || m < minRuns || s.Trial.good() < minRuns {
		return verdict{}
	}
	if float64(m) >= always*float64(s.Before.good()) {
		n = s.Trial.good() // an answer without a score is one of 0
	}
	before, unsure := s.Before.scores(m)
	if n == 0 || before <= 0 {
		return verdict{}
	}
	factor := float64(l.Score) / 100
	mean, doubt := s.Trial.scores(n)
	if mean >= factor*before {
		return verdict{}
	}
	if n < minRuns || mean+doubt >= factor*(before-unsure) {
		return verdict{doubt: true}
	}
	return verdict{fault: fault(hal.CodeScore, "mean score of %d results is %.3g, %.0f %% of the %.3g before; the limit is %d %%: the model, its labels or its preparation are not right for what this board sees",
		n, mean, 100*mean/before, before, l.Score)}
}

// good is how many runs gave an answer.
func (s Sample) good() int { return s.Runs - s.Errors }

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func ifKnown(known bool, format string, args ...any) string {
	if !known {
		return ""
	}
	return fmt.Sprintf(format, args...)
}
