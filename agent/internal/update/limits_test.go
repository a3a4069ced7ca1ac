package update

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// runs is a tally of n runs.
func runs(n int, run func(i int) Run) *tally {
	t := &tally{}
	for i := range n {
		t.add(run(i))
	}
	return t
}

// plain is a sample of n runs that took so long and were so sure.
func plain(n int, ms, score float64) Sample {
	return runs(n, func(i int) Run {
		return Run{Engine: time.Duration((ms + 0.01*float64(i%3)) * 1e6), Score: float32(score), Scored: score != 0}
	}).sample()
}

func memory(s Sample, mib int64) Sample { s.Memory = mib << 20; return s }

func failing(s Sample, n int) Sample { s.Runs += n; s.Errors += n; return s }

func degrees(c float64) *float64 { return &c }

func TestLimits(t *testing.T) {
	sure := plain(600, 10, 0.9)
	for name, c := range map[string]struct {
		limits wire.ProbationLimits
		seen   Seen
		code   hal.Code
		text   string // of the fault, in parts
		doubt  bool
	}{
		"no limits":              {wire.ProbationLimits{}, Seen{Trial: failing(plain(30, 99, 0.1), 9), Before: sure, Degraded: "x", Temp: degrees(99)}, "", "", false},
		"all is well":            {wire.ProbationLimits{Errors: 5, Latency: 20, Slower: 150, Score: 50, Memory: 100 << 20, TempMax: 80, Fallback: true}, Seen{Trial: memory(plain(30, 11, 0.8), 90), Before: sure, Temp: degrees(70)}, "", "", false},
		"slower than before":     {wire.ProbationLimits{Slower: 150}, Seen{Trial: plain(20, 20, 0.9), Before: sure}, hal.CodeSlow, "20 runs, 20.0 ms, 200 %, 10.0 ms, 150 %", false},
		"slower, few runs":       {wire.ProbationLimits{Slower: 150}, Seen{Trial: plain(3, 20, 0.9), Before: sure}, hal.CodeSlow, "3 runs, 200 %", false},
		"slower, too few runs":   {wire.ProbationLimits{Slower: 150}, Seen{Trial: plain(2, 20, 0.9), Before: sure}, "", "", true},
		"slow, too few runs":     {wire.ProbationLimits{Latency: 15}, Seen{Trial: plain(8, 20, 0.9), Before: sure}, "", "", true},
		"slow, enough":           {wire.ProbationLimits{Latency: 15}, Seen{Trial: plain(9, 20, 0.9), Before: sure}, hal.CodeSlow, "9 runs", false},
		"slower, too few before": {wire.ProbationLimits{Slower: 150}, Seen{Trial: plain(20, 20, 0.9), Before: plain(19, 10, 0.9)}, "", "", false},
		"slower, nobody notices": {wire.ProbationLimits{Slower: 150}, Seen{Trial: plain(99, 0.9, 0.9), Before: plain(99, 0.2, 0.9)}, "", "", false},
		"slow":                   {wire.ProbationLimits{Latency: 19}, Seen{Trial: plain(20, 20, 0.9)}, hal.CodeSlow, "20 runs, 20.0 ms, 19 ms", false},
		"slow, and before":       {wire.ProbationLimits{Latency: 19}, Seen{Trial: plain(20, 20, 0.9), Before: sure}, hal.CodeSlow, "10.0 ms before", false},
		"slow by half its runs": {wire.ProbationLimits{Latency: 15}, Seen{Trial: runs(21, func(i int) Run { return Run{Engine: time.Duration(10+10*(i%2)) * time.Millisecond} }).sample()},
			"", "", false},
		"slow by some more": {wire.ProbationLimits{Latency: 15}, Seen{Trial: runs(25, func(i int) Run { return Run{Engine: time.Duration(10+10*min(i%5%3, 1)) * time.Millisecond} }).sample()},
			"", "", true},
		"less sure":             {wire.ProbationLimits{Score: 50}, Seen{Trial: plain(20, 10, 0.3), Before: sure}, hal.CodeScore, "20 results, 0.3, 33 %, 0.9, 50 %", false},
		"less sure, within":     {wire.ProbationLimits{Score: 30}, Seen{Trial: plain(20, 10, 0.3), Before: sure}, "", "", false},
		"no answers any more":   {wire.ProbationLimits{Score: 50}, Seen{Trial: plain(20, 10, 0), Before: sure}, hal.CodeScore, "0 %", false},
		"nothing to see before": {wire.ProbationLimits{Score: 50}, Seen{Trial: plain(20, 10, 0.1), Before: plain(99, 10, 0)}, "", "", false},
		"an empty yard": {wire.ProbationLimits{Score: 50}, Seen{Trial: plain(99, 10, 0),
			Before: runs(99, func(i int) Run { return Run{Score: 0.9, Scored: i%2 == 0} }).sample()}, "", "", false},
		"less than nothing": {wire.ProbationLimits{Score: 50}, Seen{Trial: plain(99, 10, -9), Before: plain(99, 10, -3)}, "", "", false},
		"memory":            {wire.ProbationLimits{Memory: 100 << 20}, Seen{Trial: memory(Sample{}, 101), Before: memory(sure, 60)}, hal.CodeMemory, "101.0 MiB, 100.0 MiB, 60.0 MiB before", false},
		"hot":               {wire.ProbationLimits{TempMax: 80}, Seen{Temp: degrees(80.5), Cool: degrees(60)}, hal.CodeHot, "80.5 °C, 80 °C, 60.0 °C before", false},
		"hot before":        {wire.ProbationLimits{TempMax: 80}, Seen{Temp: degrees(90), Cool: degrees(81)}, "", "", false},
		"fallback":          {wire.ProbationLimits{Fallback: true}, Seen{Degraded: "edgetpu is gone"}, hal.CodeFallback, "edgetpu is gone", false},
		"errors":            {wire.ProbationLimits{Errors: 5}, Seen{Trial: failing(plain(16, 10, 0.9), 4), Before: failing(sure, 6)}, hal.CodeErrors, "4 of 20, 5 %, 6 of 606 before", false},
		"errors, perhaps":   {wire.ProbationLimits{Errors: 5}, Seen{Trial: failing(plain(18, 10, 0.9), 2), Before: sure}, "", "", true},
		"errors, too few":   {wire.ProbationLimits{Errors: 5}, Seen{Trial: failing(plain(10, 10, 0.9), 4), Before: sure}, "", "", false},
		"after a restart":   {wire.ProbationLimits{Slower: 150, Score: 50}, Seen{Trial: plain(20, 20, 0.9), Before: remembered(&sure.Measure)}, hal.CodeSlow, "200 %", false},
	} {
		v := judge(c.limits, c.seen)
		code := hal.Code("")
		if v.fault != nil {
			code = hal.Code(v.fault.Code)
			for part := range strings.SplitSeq(c.text, ", ") {
				if !strings.Contains(v.fault.Text, part) {
					t.Errorf("%s: %q does not say %q", name, v.fault.Text, part)
				}
			}
		}
		if code != c.code || v.doubt != c.doubt {
			t.Errorf("%s: got %q %v, want %q %v: %+v", name, code, v.doubt, c.code, c.doubt, c.seen)
		}
	}
}

func TestLimitsOf(t *testing.T) {
	own := release.Variant{LatencyMS: 30, Memory: 100}
	for name, c := range map[string]struct {
		want   *wire.ProbationLimits
		own    release.Variant
		got    wire.ProbationLimits
		enough int
	}{
		"the device's own":      {nil, release.Variant{}, wire.ProbationLimits{Results: 5, Seconds: 31}, 5},
		"the release's budget":  {nil, own, wire.ProbationLimits{Results: 5, Seconds: 31, Latency: 30, Memory: 100}, 20},
		"the fleet is stricter": {&wire.ProbationLimits{Latency: 20, Memory: 90, Results: 50}, own, wire.ProbationLimits{Results: 50, Seconds: 31, Latency: 20, Memory: 90}, 50},
		"the release is":        {&wire.ProbationLimits{Latency: 40, Memory: 110, Seconds: 9}, own, wire.ProbationLimits{Results: 5, Seconds: 9, Latency: 30, Memory: 100}, 20},
		"nothing to count":      {&wire.ProbationLimits{Memory: 1, TempMax: 80, Results: 2}, release.Variant{}, wire.ProbationLimits{Results: 2, Seconds: 31, Memory: 1, TempMax: 80}, 2},
	} {
		got := limitsOf(c.want, 5, 30500*time.Millisecond, c.own)
		if got != c.got || enough(got) != c.enough {
			t.Errorf("%s: got %+v, enough %d", name, got, enough(got))
		}
	}
}

// A world of noise: times with a tail and with spikes, scores as a camera gives
// them, that stay as they are for a while.
type noise struct {
	rng   *rand.Rand
	scene float64
}

func (n *noise) run(slower, surer float64) Run {
	ms := 20 * slower * math.Exp(0.15*n.rng.NormFloat64())
	if n.rng.IntN(20) == 0 {
		ms *= 1 + 4*n.rng.Float64() // something else wanted the cores
	}
	n.scene = 0.9*n.scene + 0.1*n.rng.NormFloat64()
	return Run{Engine: time.Duration(ms * 1e6), Score: float32(surer * min(max(0.7+0.3*n.scene+0.05*n.rng.NormFloat64(), 0.1), 1)), Scored: n.rng.IntN(50) > 0}
}

// trial plays a probation with a look after each run, as often as a fast pipeline
// could ever be looked at, and says what came of it.
func trial(rng *rand.Rand, l wire.ProbationLimits, before, results int, slower, surer float64) (v verdict, after int) {
	n := &noise{rng: rng}
	ran := runs(before, func(int) Run { return n.run(1, 1) }).sample()
	var t tally
	for i := 1; ; i++ {
		t.add(n.run(slower, surer))
		v = judge(l, Seen{Trial: t.sample(), Before: ran})
		if v.fault != nil || i >= results && !v.doubt || i == 5*results {
			return v, i
		}
	}
}

// A twin of what ran before is never taken back, however the noise falls; one that
// is twice as slow, or not half as sure, always is.
func TestTwinsPass(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	l := wire.ProbationLimits{Slower: 150, Score: 60, Latency: 40}
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	for i := range n {
		if v, after := trial(rng, l, 20+rng.IntN(200), 20+rng.IntN(30), 1, 1); v.fault != nil {
			t.Fatalf("twin %d was taken back after %d runs: %s", i, after, v.fault.Text)
		}
	}
	longest := 0
	for i := range n / 10 {
		v, after := trial(rng, wire.ProbationLimits{Slower: 150}, 100+rng.IntN(100), 20, 2, 1)
		if v.fault == nil || v.fault.Code != string(hal.CodeSlow) {
			t.Fatalf("twice as slow, %d: passed after %d runs: %+v", i, after, v)
		}
		longest = max(longest, after)
	}
	unsure := 0
	for i := range n / 10 {
		v, after := trial(rng, wire.ProbationLimits{Score: 60}, 100+rng.IntN(100), 20, 1, 0.1)
		if v.fault == nil || v.fault.Code != string(hal.CodeScore) {
			t.Fatalf("a tenth as sure, %d: passed after %d runs: %+v", i, after, v)
		}
		unsure = max(unsure, after)
	}
	t.Logf("%d twins passed; twice as slow is taken back after %d runs at the latest, a tenth as sure after %d", n, longest, unsure)
}

// The known-bad rule, bare medians and means, takes twins back: so the property
// above is worth something.
func TestBareMediansTakeTwinsBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 2))
	back := 0
	for range 1000 {
		n := &noise{rng: rng}
		before := runs(20, func(int) Run { return n.run(1, 1) }).sample()
		after := runs(20, func(int) Run { return n.run(1, 1) }).sample()
		if after.P50 > 1.1*before.P50 || after.Score < 0.8*before.Score {
			back++
		}
	}
	if back < 10 {
		t.Errorf("bare medians took back %d of 1000 twins: there is no noise in this test", back)
	}
}

func TestTally(t *testing.T) {
	tally := runs(recent+100, func(i int) Run {
		r := Run{Engine: time.Duration(i) * time.Millisecond, Score: 1, Scored: true}
		if i%10 == 0 {
			r.Err = errors.New("x")
		}
		return r
	})
	s := tally.sample()
	if s.Runs != recent || s.Errors != recent/10 || s.Scored != recent*9/10 || s.P50 < 399 || s.P50 > 401 || s.P99 < 692 || s.P99 > 696 || s.Score != 1 {
		t.Errorf("got %+v", s)
	}
	if s.Low >= s.P50 || s.High <= s.P50 || s.Low < 350 || s.High > 450 {
		t.Errorf("the median is within %v…%v", s.Low, s.High)
	}
	if n := testing.AllocsPerRun(1000, func() { tally.add(Run{Engine: 1}) }); n != 0 {
		t.Errorf("%v allocations a run", n)
	}
	tally.begin("other")
	if s := tally.sample(); s.Runs != 0 || s.measure() != nil {
		t.Errorf("another release has %+v", s)
	}
	// What no message may say.
	if s := plain(1, 10, 1e30); s.Score != 1e9 || s.Low != 0 || s.High != 0 {
		t.Errorf("got %+v", s)
	}
	if s := plain(1, 10, math.NaN()); s.Score != 0 || s.Scored != 0 {
		t.Errorf("got %+v", s)
	}
}
