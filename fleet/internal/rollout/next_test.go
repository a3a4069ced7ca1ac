package rollout

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// phased is a rollout in its first phase, with an execution per letter: q queued, o
// ordered, d done, f failed, s staged, c canceled; a bar begins the next phase.
func phased(p policy.Policy, letters string) (Rollout, []Execution) {
	r := underWay()
	r.Policy = p.Filled()
	r.Phases = pending(r.Policy)
	var xs []Execution
	phase := 0
	for _, c := range letters {
		x := Execution{ID: fmt.Sprintf("ex-%d", len(xs)), Device: wire.DeviceID(fmt.Sprintf("pi-%d", len(xs))), Phase: phase, Rev: 1, Mode: r.Policy.Order.Mode}
		switch c {
		case '|':
			phase++
			continue
		case 'q':
			x.Rev, x.Mode, x.State = 0, "", wire.Queued
		case 'o':
			x.State = wire.Downloading
		case 'd':
			x.State = wire.Succeeded
		case 'f':
			x.State, x.Fault = wire.RolledBack, &wire.Fault{Code: "E_GOLDEN"}
		case 'x':
			x.State, x.Fault = wire.RolledBack, &wire.Fault{Code: "E_CRASH"}
		case 's':
			x.State = wire.Staged
		case 'c':
			x.State = wire.Canceled
		case 'r': // refused from the beginning
			x.Rev, x.Mode, x.State, x.Phase = 0, "", wire.Rejected, -1
		}
		xs = append(xs, x)
	}
	return r, xs
}

func online(xs []Execution) Facts {
	f := Facts{Now: noon, Devices: make([]Fact, len(xs))}
	for i := range f.Devices {
		f.Devices[i] = Fact{Online: true, Seen: noon}
	}
	return f
}

func sketch(d Decision) string {
	s := string(d.State)
	if d.Cause != "" {
		s += "/" + d.Cause
	}
	for _, p := range d.Phases {
		s += " " + string(p.State)
	}
	for _, m := range d.Moves {
		s += fmt.Sprintf(" %s%d", []string{"order", "drop", "undo", "back"}[m.Kind], m.Execution)
	}
	return s
}

func TestNext(t *testing.T) {
	three := policy.Policy{
		Phases: []policy.Phase{{Name: "one", Percent: 5}, {Name: "some", Percent: 25}, {Name: "all", Percent: 100}},
		Gates:  &policy.Gates{Success: 90}, Errors: policy.Errors{Percent: 10},
	}
	with := func(fn func(*policy.Policy)) policy.Policy {
		p := three
		p.Phases = slices.Clone(p.Phases)
		fn(&p)
		return p
	}
	none := 0.0
	for _, tc := range []struct {
		name    string
		policy  policy.Policy
		letters string
		want    string
	}{
		{"all at once", policy.Policy{}, "qodq", "RUNNING RUNNING order0 order3"},
		{"all at once, over", policy.Policy{}, "dfr", "COMPLETED PASSED"},
		{"nobody", policy.Policy{}, "", "COMPLETED PASSED"},
		{"the canary alone", three, "q|qq|qqqq", "RUNNING RUNNING PENDING PENDING order0"},
		{"the canary passed", three, "d|qq|qqqq", "RUNNING PASSED RUNNING PENDING order1 order2"},
		{"a canary of one that failed", three, "f|qq|qqqq", "PAUSED/error_threshold FAILED PENDING PENDING"},
		{"abort", with(func(p *policy.Policy) { p.OnError = policy.Abort }), "f|qq|qqqq", "ABORTED FAILED PENDING PENDING"},
		{"revert", with(func(p *policy.Policy) { p.OnError = policy.Revert }), "f|qq|qqqq", "ROLLING_BACK FAILED PENDING PENDING"},
		{"nobody left in the canary", three, "c|qq|qqqq", "RUNNING PASSED RUNNING PENDING order1 order2"},
		{"a failure within bounds", three, "d|dddddddddddddddddddf|q", "RUNNING PASSED PASSED RUNNING order21"},
		{"too few to be judged", three, "d|fqqqqqqqqqq|q", "RUNNING PASSED RUNNING PENDING order2 order3 order4 order5 order6 order7 order8 order9 order10 order11"},
		{"halts within a phase", three, "d|ffddqqqqqqqqqqq|q", "PAUSED/error_threshold PASSED FAILED PENDING"},
		{"soaks", with(func(p *policy.Policy) { p.Phases[0].Soak = policy.Duration(time.Minute) }), "d|q|q", "RUNNING SOAKING PENDING PENDING"},
		{"approval first", with(func(p *policy.Policy) { p.Phases[1].Approval = "admin" }), "d|q|q", "WAITING_FOR_APPROVAL PASSED PENDING PENDING"},
		{"not yet", with(func(p *policy.Policy) { p.Start = noon.Add(time.Hour) }), "q|q|q", "SCHEDULED PENDING PENDING PENDING"},
		{"now", with(func(p *policy.Policy) { p.Start = noon }), "q|q|q", "RUNNING RUNNING PENDING PENDING order0"},
		{"three at a time", with(func(p *policy.Policy) { p.Concurrency = 3 }), "d|oqqqqq|q", "RUNNING PASSED RUNNING PENDING order2 order3"},
		{"two of a site", with(func(p *policy.Policy) { p.PerSite = 2 }), "d|oqqqqq|q", "RUNNING PASSED RUNNING PENDING order2"},
		{"sure before the end", three, "d|" + strings.Repeat("d", 98) + "oo|q", "RUNNING PASSED PASSED RUNNING order101"},
		{"not sure yet", three, "d|" + strings.Repeat("d", 20) + strings.Repeat("o", 80) + "|q", "RUNNING PASSED RUNNING PENDING"},
		{"the last phase waits for all", three, "d|d|" + strings.Repeat("d", 98) + "oo", "RUNNING PASSED PASSED RUNNING"},
		{"a crash", with(func(p *policy.Policy) { p.Errors, p.Gates = policy.Errors{}, &policy.Gates{Crashes: &none} }), "ddddddddddddx|q|q", "PAUSED/gate FAILED PENDING PENDING"},
		{"staged", with(func(p *policy.Policy) { p.Order.Mode = wire.ModeStage }), "s|ss|s", "WAITING_FOR_APPROVAL PASSED PASSED PASSED"},
		{"staged, but one", with(func(p *policy.Policy) { p.Order.Mode = wire.ModeStage }), "s|so|q", "RUNNING PASSED RUNNING PENDING"},
	} {
		r, xs := phased(tc.policy, tc.letters)
		d := Next(r, xs, online(xs))
		if got := sketch(d); got != tc.want {
			t.Errorf("%s:\n got %s (%s)\nwant %s", tc.name, got, d.Reason, tc.want)
		}
	}
}

func TestNextAfterSomebodySpoke(t *testing.T) {
	p := policy.Default()
	for _, tc := range []struct {
		name, letters string
		change        func(*Rollout, []Execution)
		want          string
	}{
		{"paused", "d|qo|q", func(r *Rollout, _ []Execution) { r.State = wire.RolloutPaused }, "PAUSED PENDING PENDING PENDING"},
		{"draft", "q|q|q", func(r *Rollout, _ []Execution) { r.State = wire.RolloutDraft }, "DRAFT PENDING PENDING PENDING"},
		{"aborted", "d|qof|q", func(r *Rollout, _ []Execution) { r.State = wire.RolloutAborted }, "ABORTED PENDING PENDING PENDING drop1 undo2 drop4"},
		{"reverted", "d|qodf|qr", func(r *Rollout, _ []Execution) { r.State = wire.RolloutRollingBack }, "ROLLING_BACK PENDING PENDING PENDING back0 drop1 undo2 back3 drop5"},
		{"reverted in probation", "o|q|q", func(r *Rollout, xs []Execution) {
			r.State, xs[0].State = wire.RolloutRollingBack, wire.Probation
		}, "ROLLING_BACK PENDING PENDING PENDING back0 drop1 drop2"},
		{"all are back", "dd", func(r *Rollout, xs []Execution) {
			r.State, xs[0].To, xs[1].Kept = wire.RolloutRollingBack, &Release{}, "nothing ran before"
		}, "ROLLED_BACK PENDING PENDING PENDING"},
		{"activated", "s|ss|s", func(r *Rollout, xs []Execution) {
			r.Policy.Order.Mode = wire.ModeActivate
			for i := range xs {
				xs[i].Mode = wire.ModeStage
			}
		}, "RUNNING RUNNING PENDING PENDING order0"},
		{"forgiven", "f|q|q", func(r *Rollout, xs []Execution) {
			r.Policy.Gates = nil
			r.Phases[0].State, r.Phases[0].Forgiven = PhaseFailed, 1
		}, "RUNNING SOAKING PENDING PENDING"},
		{"a tail", "d|d|do", func(r *Rollout, xs []Execution) {
			r.State = wire.RolloutCompleted
			for i := range r.Phases {
				r.Phases[i].State = PhasePassed
			}
			xs[3].Rev = 0
		}, "COMPLETED PASSED PASSED PASSED order3"},
	} {
		r, xs := phased(p, tc.letters)
		tc.change(&r, xs)
		if got := sketch(Next(r, xs, online(xs))); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// Who is away for long is not waited for, and gets it when it is back.
func TestWhoIsAwayHoldsNobodyUp(t *testing.T) {
	p := policy.Policy{Phases: []policy.Phase{{Name: "one", Percent: 50}, {Name: "all", Percent: 100}}, Offline: policy.Duration(time.Hour), Gates: &policy.Gates{Success: 90}}
	r, xs := phased(p, "do|qq")
	f := online(xs)
	f.Devices[1] = Fact{Seen: noon.Add(-59 * time.Minute)}
	d := Next(r, xs, f)
	if got := sketch(d); got != "RUNNING RUNNING PENDING" || !d.Wake.Equal(noon.Add(time.Minute)) {
		t.Errorf("%s, wakes %s", got, d.Wake)
	}
	f.Now = noon.Add(time.Minute)
	if got := sketch(Next(r, xs, f)); got != "RUNNING PASSED RUNNING order2 order3" {
		t.Errorf("an hour later: %s", got)
	}
	r, xs = phased(p, "do|do")
	f.Devices[3] = f.Devices[1]
	if d := Next(r, xs, f); sketch(d) != "COMPLETED PASSED PASSED" || !d.Over || !d.Tail {
		t.Errorf("in the end: %s %+v", sketch(d), d)
	}
	// But a canary that nobody sees proves nothing.
	r, xs = phased(p, "o|qq")
	f = online(xs)
	f.Devices[0] = Fact{Seen: noon.Add(-2 * time.Hour)}
	if d := Next(r, xs, f); sketch(d) != "RUNNING RUNNING PENDING" || !strings.Contains(d.Phases[0].Reason, "connection") {
		t.Errorf("nobody there: %s %s", sketch(d), d.Phases[0].Reason)
	}
}

func TestBound(t *testing.T) {
	for _, tc := range []struct {
		k, n, all int
		want      float64
	}{
		// Of a population without end, as tables have it.
		{0, 10, 0, 0}, {10, 10, 0, 0.7225}, {50, 50, 0, 0.9287}, {9, 10, 0, 0.5958}, {90, 100, 0, 0.8256},
		// Everybody was seen.
		{1, 1, 1, 1}, {19, 20, 20, 0.95},
		// The more were seen, the surer.
		{50, 50, 1000, 0.9320}, {50, 50, 60, 0.9872}, {0, 0, 5, 0},
	} {
		if got := lower(tc.k, tc.n, tc.all); math.Abs(got-tc.want) > 5e-4 {
			t.Errorf("%d of %d of %d: %.4f, want %.4f", tc.k, tc.n, tc.all, got, tc.want)
		}
	}
	for n := 1; n <= 60; n++ { // and never above what was seen
		for k := 0; k <= n; k++ {
			for _, all := range []int{0, n, n + 1, 2 * n, 100 * n} {
				if got := lower(k, n, all); got < 0 || got > float64(k)/float64(n)+1e-9 {
					t.Fatalf("%d of %d of %d: %v", k, n, all, got)
				}
			}
		}
	}
}

func TestGates(t *testing.T) {
	one, two := wire.Digest(strings.Repeat("a", 64)), wire.Digest(strings.Repeat("b", 64))
	measured := func(v wire.Digest, p50, before float64) func(*Execution) {
		return func(x *Execution) {
			x.Variant = v
			x.Evidence = &wire.Evidence{Model: v, Trial: &wire.Measure{Runs: 20, P50: p50, Score: p50 / 100}, Before: &wire.Measure{Runs: 20, P50: before, Score: 0.5}, Shadow: &wire.Agreement{Frames: 100, Agreed: int(p50)}}
			temp := p50
			x.Evidence.Temp = &temp
		}
	}
	hardly := func(x *Execution) {
		measured(one, 30, 10)(x)
		x.Evidence.Trial.Runs, x.Evidence.Before.Runs = 8, 600
	}
	drifting := func(d float64) func(*Execution) {
		return func(x *Execution) { x.Evidence = &wire.Evidence{Model: one, Drift: &d} }
	}
	few := 5.0
	for _, tc := range []struct {
		name    string
		gates   policy.Gates
		letters string
		change  map[int]func(*Execution)
		degrade []int
		want    string
		says    string
	}{
		{"slower", policy.Gates{Slower: 150}, "dd", map[int]func(*Execution){0: measured(one, 10, 10), 1: measured(one, 15, 10)}, nil, "passed", ""},
		{"too slow", policy.Gates{Slower: 150}, "dd", map[int]func(*Execution){0: measured(one, 10, 10), 1: measured(one, 16, 10)}, nil, "failed", "slower: 1 of 2 devices of variant aaaaaaaa"},
		{"slower by less than a millisecond", policy.Gates{Slower: 150}, "d", map[int]func(*Execution){0: measured(one, 1.3, 0.4)}, nil, "passed", ""},
		{"slower in a few runs", policy.Gates{Slower: 150, Score: 90}, "d", map[int]func(*Execution){0: hardly}, nil, "passed", ""},
		{"one variant is too slow", policy.Gates{Slower: 150, Share: 60}, "ddddd", map[int]func(*Execution){
			0: measured(one, 10, 10), 1: measured(one, 10, 10), 2: measured(one, 10, 10), 3: measured(one, 10, 10), 4: measured(two, 20, 10),
		}, nil, "failed", "0 of 1 device of variant bbbbbbbb"},
		{"nobody says", policy.Gates{Slower: 150}, "dd", nil, nil, "passed", ""},
		{"nobody says, but must", policy.Gates{Slower: 150, Sample: 2}, "dd", nil, nil, "waits", "slower: 0 of 0"},
		{"latency", policy.Gates{LatencyMS: 20}, "d", map[int]func(*Execution){0: measured(one, 21, 0)}, nil, "failed", "latency"},
		{"agreement", policy.Gates{Agreement: 95}, "d", map[int]func(*Execution){0: measured(one, 94, 0)}, nil, "failed", "agreement"},
		{"agrees", policy.Gates{Agreement: 95}, "d", map[int]func(*Execution){0: measured(one, 95, 0)}, nil, "passed", ""},
		{"score", policy.Gates{Score: 50}, "d", map[int]func(*Execution){0: measured(one, 24, 0)}, nil, "failed", "score"},
		{"drifts", policy.Gates{Drift: 20}, "d", map[int]func(*Execution){0: drifting(0.21)}, nil, "failed", "drift"},
		{"hardly drifts", policy.Gates{Drift: 20}, "d", map[int]func(*Execution){0: drifting(0.2)}, nil, "passed", ""},
		{"hot", policy.Gates{TempMax: 80}, "d", map[int]func(*Execution){0: measured(one, 81, 0)}, nil, "failed", "temp"},
		{"degraded", policy.Gates{Fallback: &few}, "dd", nil, []int{1}, "failed", "fallback"},
		{"crashes", policy.Gates{Crashes: &few}, "dx", nil, nil, "failed", "crashes"},
		{"crashes within bounds", policy.Gates{Crashes: &few}, strings.Repeat("d", 20) + "x", nil, nil, "passed", ""},
		{"a small phase passes", policy.Gates{Success: 95}, "d", nil, nil, "passed", ""},
		{"but not a strict one", policy.Gates{Success: 95, Strict: true}, "ddd", nil, nil, "failed", "43.9 % at the least"},
		{"a large one does", policy.Gates{Success: 95, Strict: true}, strings.Repeat("d", 80), nil, nil, "passed", ""},
		{"some are open", policy.Gates{Success: 95}, "ddo", nil, nil, "waits", "success"},
	} {
		r, xs := phased(policy.Policy{Gates: &tc.gates}, tc.letters)
		for i, fn := range tc.change {
			fn(&xs[i])
		}
		n := next{r: r, xs: xs, f: online(xs), d: Decision{Phases: r.Phases}}
		for _, i := range tc.degrade {
			n.f.Devices[i].Degraded = true
		}
		_, verdict, reason := n.judge(0, n.tallies()[0])
		if string(verdict) != tc.want || !strings.Contains(reason, tc.says) {
			t.Errorf("%s: %s %q, want %s %q", tc.name, verdict, reason, tc.want, tc.says)
		}
	}
}

func TestAssign(t *testing.T) {
	targets := func(n int, sites ...string) (ts []Target) {
		for i := range n {
			ts = append(ts, Target{Device: wire.DeviceID(fmt.Sprintf("pi-%03d", i)), Online: true, Site: sites[i%len(sites)]})
		}
		return ts
	}
	sizes := func(ts []Target, phases int) []int {
		n := make([]int, phases+1)
		for _, x := range ts {
			if x.Phase < 0 {
				n[phases]++
			} else {
				n[x.Phase]++
			}
		}
		return n
	}
	for _, tc := range []struct {
		devices int
		want    []int
	}{{0, []int{0, 0, 0, 0}}, {1, []int{1, 0, 0, 0}}, {2, []int{1, 0, 1, 0}}, {3, []int{1, 0, 2, 0}}, {10, []int{1, 2, 7, 0}}, {1000, []int{50, 200, 750, 0}}} {
		ts := targets(tc.devices, "a", "b")
		if err := Assign(policy.Default(), digestTwo, ts, nil); err != nil {
			t.Fatal(err)
		}
		if got := sizes(ts, 3); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%d devices: %v, want %v", tc.devices, got, tc.want)
		}
	}
	// Spread over sites, who is online first, the same every time.
	ts := targets(300, "a", "a", "a", "a", "b")
	for i := range ts {
		ts[i].Online = i%5 != 4 || i > 100 // most of b are there
	}
	p := policy.Policy{Phases: []policy.Phase{{Name: "four", Count: 4}, {Name: "b", Query: "site=b"}, {Name: "rest", Count: 10}}}
	match := func(q string) (map[wire.DeviceID]bool, error) {
		in := map[wire.DeviceID]bool{}
		for _, x := range ts {
			if q == "site="+x.Site {
				in[x.Device] = true
			}
		}
		return in, nil
	}
	if err := Assign(p, digestTwo, ts, match); err != nil {
		t.Fatal(err)
	}
	if got := sizes(ts, 3); !reflect.DeepEqual(got, []int{4, 58, 10, 228}) {
		t.Errorf("phases of %v", got)
	}
	site := map[string]int{}
	for _, x := range ts {
		if x.Phase == 0 {
			site[x.Site]++
			if !x.Online {
				t.Errorf("%s is not there, and goes first", x.Device)
			}
		}
	}
	if site["a"] != 2 || site["b"] != 2 {
		t.Errorf("the first four: %v", site)
	}
	again := slices.Clone(ts)
	slices.Reverse(again)
	if err := Assign(p, digestTwo, again, match); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(again)
	if !reflect.DeepEqual(again, ts) {
		t.Error("the order of the devices changes the phases")
	}
	first := func(d wire.Digest) (who wire.DeviceID) {
		ts := targets(20, "a")
		if err := Assign(policy.Default(), d, ts, nil); err != nil {
			t.Fatal(err)
		}
		return ts[slices.IndexFunc(ts, func(x Target) bool { return x.Phase == 0 })].Device
	}
	if first(digestOne) == first(digestTwo) {
		t.Error("it is always the same device that goes first")
	}
}

// Of a thousand devices no more than the canary gets a release that fails, and once some
// have failed, no more of the canary.
func TestAThousandDevicesAndABadRelease(t *testing.T) {
	p := policy.Default()
	p.Concurrency = 5
	ts := make([]Target, 1000)
	for i := range ts {
		ts[i] = Target{Device: wire.DeviceID(fmt.Sprintf("pi-%03d", i)), Online: true}
	}
	if err := Assign(p, digestTwo, ts, nil); err != nil {
		t.Fatal(err)
	}
	r := underWay()
	r.Policy = p.Filled()
	r.Phases = pending(r.Policy)
	var xs []Execution
	for _, x := range ts {
		xs = append(xs, Execution{Device: x.Device, Phase: x.Phase, State: wire.Queued})
	}
	asked, f := 0, online(xs)
	for range 1000 {
		d := Next(r, xs, f)
		r = r.decided(d, xs, f.Now)
		for _, m := range d.Moves {
			asked++
			x := &xs[m.Execution]
			x.Rev, x.Mode, x.State, x.Fault = 1, wire.ModeActivate, wire.RolledBack, &wire.Fault{Code: "E_GOLDEN"}
		}
		f.Now = f.Now.Add(time.Minute)
	}
	// More than a tenth of the canary's fifty: six, in steps of five.
	if r.State != wire.RolloutPaused || r.Cause != CauseErrors || asked != 10 {
		t.Errorf("%s (%s), %d devices were asked", r.State, r.Reason, asked)
	}
}

func BenchmarkNext(b *testing.B) {
	r, xs := phased(policy.Default(), "d|"+strings.Repeat("d", 25_000)+"|"+strings.Repeat("odddq", 15_000))
	for i := range r.Phases[:2] {
		r.Phases[i].State = PhasePassed
	}
	f := online(xs)
	for b.Loop() {
		if d := Next(r, xs, f); len(d.Moves) != 15_000 {
			b.Fatal(len(d.Moves))
		}
	}
}
