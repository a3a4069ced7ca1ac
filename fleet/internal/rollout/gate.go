package rollout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A Verdict is what a gate says.
type Verdict string

const (
	GatePassed Verdict = "passed"
	GateWaits  Verdict = "waits"
	GateFailed Verdict = "failed"
)

// A Gating is how a gate stands for one variant.
type Gating struct {
	Gate     string      `json:"gate"`              // success, crashes, fallback, slower, latency, agreement, score, drift, temp
	Variant  wire.Digest `json:"variant,omitempty"` // "": of all, as success is
	Within   int         `json:"within"`            // devices that keep to it
	Measured int         `json:"measured"`          // of so many that say
	Of       int         `json:"of"`                // of so many that count
	Bound    float64     `json:"bound"`             // percent that are within, at the least
	Need     float64     `json:"need"`              // percent
	Verdict  Verdict     `json:"verdict"`
}

// maxGatings bounds what is kept: gates times variants.
const maxGatings = 64

// z is the standard score of a bound that holds in 97.5 % of all cases: the lower end
// of the 95 % interval.
const z = 1.959964

// A device's trial is held against what it ran before from so many runs on each side,
// as the device itself does; with fewer it has not measured. Slow models give few runs:
// of a trial's times fewer are enough. A difference of medians below tie, ms, is none.
const (
	minRuns  = 20
	minTimes = 9
	tie      = 1.0
)

// lower is Wilson's lower bound of a share, of which k of n were seen, in a
// population of all; all of 0 is one without end. When everybody has been seen there
// is nothing left to guess, and the bound is the share itself: so a phase of one
// device can pass, and one of a thousand needs no more than it takes to be sure.
func lower(k, n, all int) float64 {
	if n == 0 {
		return 0
	}
	share, m := float64(k)/float64(n), float64(n)
	if all > 0 {
		if n >= all {
			return share
		}
		m *= float64(all-1) / float64(all-n) // of a finite population
	}
	mid, spread := share+z*z/(2*m), z*math.Sqrt(share*(1-share)/m+z*z/(4*m*m))
	return max(0, (mid-spread)/(1+z*z/m))
}

// crashed are the codes of faults that a gate on crashes counts.
var crashed = []string{string(hal.CodeCrash), string(hal.CodeTimeout), string(hal.CodeMemory)}

// A limit is a gate that each device is measured by.
type limit struct {
	gate  string
	share float64 // percent of devices that must keep to it
	// measure is whether the device says, and whether it keeps to it.
	measure func(x Execution, f Fact) (said, within bool)
}

// limits of a phase.
func (n *next) limits(phase int) (list []limit) {
	g := n.r.Policy.GatesOf(phase)
	add := func(gate string, set bool, share float64, fn func(Execution, Fact) (bool, bool)) {
		if set {
			list = append(list, limit{gate, share, fn})
		}
	}
	of := func(p *float64) float64 { // percent that may not
		if p == nil {
			return 0
		}
		return 100 - *p
	}
	add("crashes", g.Crashes != nil, of(g.Crashes), func(x Execution, _ Fact) (bool, bool) {
		return true, x.Fault == nil || !slices.Contains(crashed, x.Fault.Code)
	})
	add("fallback", g.Fallback != nil, of(g.Fallback), func(x Execution, f Fact) (bool, bool) {
		return x.State.Word() == "done", !f.Degraded
	})
	add("slower", g.Slower > 0, g.Share, func(x Execution, _ Fact) (bool, bool) {
		t, b := trial(x), former(x)
		return t.Runs >= minTimes && b.Runs >= minRuns && b.P50 > 0, t.P50*100 <= b.P50*g.Slower || t.P50-b.P50 < tie
	})
	add("latency", g.LatencyMS > 0, g.Share, func(x Execution, _ Fact) (bool, bool) {
		t := trial(x)
		return t.Runs > 0, t.P50 <= g.LatencyMS
	})
	add("agreement", g.Agreement > 0, g.Share, func(x Execution, _ Fact) (bool, bool) {
		if x.Evidence == nil || x.Evidence.Shadow == nil {
			return false, false
		}
		s := x.Evidence.Shadow
		return s.Frames > 0, float64(s.Agreed)*100 >= float64(s.Frames)*g.Agreement
	})
	add("score", g.Score > 0, g.Share, func(x Execution, _ Fact) (bool, bool) {
		t, b := trial(x), former(x)
		return t.Runs >= minRuns && b.Runs >= minRuns && b.Score > 0, t.Score*100 >= b.Score*g.Score
	})
	add("drift", g.Drift > 0, g.Share, func(x Execution, _ Fact) (bool, bool) {
		if x.Evidence == nil || x.Evidence.Drift == nil {
			return false, false
		}
		return true, *x.Evidence.Drift*100 <= g.Drift
	})
	add("temp", g.TempMax > 0, g.Share, func(x Execution, _ Fact) (bool, bool) {
		if x.Evidence == nil || x.Evidence.Temp == nil {
			return false, false
		}
		return true, *x.Evidence.Temp <= g.TempMax
	})
	return list
}

// trial and former are what was measured of the new and of the old model; without
// runs where it was not.
func trial(x Execution) (m wire.Measure) {
	if x.Evidence != nil && x.Evidence.Trial != nil {
		m = *x.Evidence.Trial
	}
	return m
}

func former(x Execution) (m wire.Measure) {
	if x.Evidence != nil && x.Evidence.Before != nil {
		m = *x.Evidence.Before
	}
	return m
}

// judge asks every gate of a phase. reason says what is waited for, or what failed.
func (n *next) judge(phase int, t tally) (list []Gating, verdict Verdict, reason string) {
	g := n.r.Policy.GatesOf(phase)
	if g.Success > 0 && t.through() > 0 {
		list = append(list, settle(Gating{Gate: "success", Within: t.done, Measured: t.through(), Of: t.live, Need: g.Success}, g.Strict, 0, t.open))
	}
	for _, l := range n.limits(phase) {
		list = append(list, n.byVariant(phase, l)...)
	}
	verdict = GatePassed
	var waits []string
	for _, x := range list {
		switch x.Verdict {
		case GateFailed:
			if verdict != GateFailed {
				verdict, reason = GateFailed, x.String()
			}
		case GateWaits:
			waits = append(waits, x.String())
			if verdict == GatePassed {
				verdict = GateWaits
			}
		}
	}
	if verdict == GateWaits {
		reason = "waits: " + strings.Join(waits[:min(len(waits), 3)], "; ")
	}
	return list[:min(len(list), maxGatings)], verdict, reason
}

// byVariant asks one gate for each variant of a phase.
func (n *next) byVariant(phase int, l limit) (list []Gating) {
	g := n.r.Policy.GatesOf(phase)
	type pool struct{ within, measured, silent, open int }
	pools := map[wire.Digest]*pool{}
	for i, x := range n.xs {
		if x.Phase != phase || !member(x) {
			continue
		}
		p := pools[x.Variant]
		if p == nil {
			p = &pool{}
			pools[x.Variant] = p
		}
		if !n.done(x) && !n.failed(x) {
			if !n.away(i) {
				p.open++
			}
			continue
		}
		switch said, within := l.measure(x, n.f.Devices[i]); {
		case !said:
			p.silent++
		case within:
			p.within++
			fallthrough
		default:
			p.measured++
		}
	}
	for v, p := range pools {
		need := g.Sample
		if !g.Strict {
			need = min(need, p.measured+p.silent+p.open)
		}
		if p.measured+p.silent+p.open > 0 {
			list = append(list, settle(Gating{Gate: l.gate, Variant: v, Within: p.within, Measured: p.measured, Of: p.measured + p.open, Need: l.share}, g.Strict, need, p.open))
		}
	}
	slices.SortFunc(list, func(a, b Gating) int { return cmp.Compare(a.Variant, b.Variant) })
	return list
}

// settle gives a gate its verdict. What is open may still be measured.
func settle(x Gating, strict bool, sample, open int) Gating {
	all := x.Of
	if strict {
		all = 0
	}
	x.Bound = 100 * lower(x.Within, x.Measured, all)
	switch {
	case x.Measured < sample:
		x.Verdict = GateWaits
	case x.Measured == 0, x.Bound >= x.Need:
		x.Verdict = GatePassed
	case open > 0:
		x.Verdict = GateWaits
	default:
		x.Verdict = GateFailed
	}
	return x
}

// String is how it stands, for people.
func (x Gating) String() string {
	of := ""
	if x.Variant != "" {
		of = " of variant " + string(x.Variant[:min(8, len(x.Variant))])
	}
	return fmt.Sprintf("%s: %d of %s%s within, %.3g %% at the least, %.4g %% are needed", x.Gate, x.Within, devices(x.Measured), of, x.Bound, x.Need)
}
