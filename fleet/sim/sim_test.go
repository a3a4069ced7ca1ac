package sim_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/sim"
	"github.com/covey-edge/covey/fleet/wire"
)

// long is the number of times, or boards, of the nightly form, else short.
func long(short int, name string) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return short
}

// A release that fails on the canary goes to nobody else, whatever is wrong with it,
// and who had it is back.
func TestABadReleaseStopsAtTheCanary(t *testing.T) {
	n := long(40, "COVEY_SIM_BOARDS")
	in(t, n, func(f *fleet) {
		one := f.push("1.0.0", sim.Script{})
		f.until(f.start(one, "all", policy.AtOnce()), "over", time.Hour, ended)
		f.all("the first release", one.Digest)
		for i, bad := range []sim.Script{
			{Crash: 5}, {Hang: 3}, {Fails: 2}, {Refuse: true},
			{Latency: 40}, // eight times as slow
			{Score: 0.1},  // not sure of anything any more
		} {
			p := policy.Default()
			p.OnError = policy.Revert
			p.Order.Probation = &wire.ProbationLimits{Results: 60, Seconds: 120, Slower: 200, Score: 50}
			r := f.push(fmt.Sprintf("2.%d.0", i), bad)
			got, xs := f.until(f.start(r, "all", p), "over", 3*time.Hour, ended)
			asked := 0
			for _, x := range xs {
				if x.Rev > 0 {
					asked++
				}
			}
			canary := max(1, (n*5+99)/100)
			if got.State != wire.RolloutRolledBack || asked > canary || asked == 0 {
				t.Errorf("%+v: %s, %d of %d boards were asked, the canary is %d", bad, got.State, asked, n, canary)
			}
			t.Logf("%+v: %s: %s; %d asked; over after %v", bad, got.State, got.Reason, asked, got.Ended.Sub(got.Created).Round(time.Second))
			f.all(fmt.Sprintf("after %+v", bad), one.Digest)
		}
		two := f.push("3.0.0", sim.Script{})
		got, _ := f.until(f.start(two, "all", policy.Default()), "over", 3*time.Hour, ended)
		if got.State != wire.RolloutCompleted || got.Counts[wire.Succeeded] != n {
			t.Errorf("a good one: %s %v", got.State, got.Counts)
		}
		f.all("the last release", two.Digest)
	})
}

// Whatever happens to boards, controller, network and messages: each execution has one
// end, a success is what it says, and in the end the fleet runs what was asked for last.
func TestChaos(t *testing.T) {
	first := uint64(long(1, "COVEY_SIM_SEED"))
	for seed := range uint64(long(1, "COVEY_SIM_RUNS")) {
		seed := first + seed
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { chaos(t, seed) })
	}
}

func chaos(t *testing.T, seed uint64) {
	const n = 6
	rng := rand.New(rand.NewPCG(seed, 5))
	in(t, n, func(f *fleet) {
		f.mu.Lock()
		f.chaos = rand.New(rand.NewPCG(seed, 6))
		f.mu.Unlock()
		f.ends = map[string]wire.ExecState{}
		var ids []string
		scripts := []sim.Script{{}, {}, {Crash: 4}, {Fails: 2}, {Refuse: true}, {Latency: 20}}
		for round := range 30 {
			time.Sleep(time.Duration(rng.IntN(15_000)) * time.Millisecond)
			b := f.boards[name(rng.IntN(n))]
			switch rng.IntN(10) {
			case 0, 1:
				p := policy.Default()
				if rng.IntN(2) == 0 {
					p = policy.AtOnce()
				}
				p.OnError = []policy.Action{policy.Pause, policy.Abort, policy.Revert}[rng.IntN(3)]
				r := f.push(fmt.Sprintf("1.%d.0", round), scripts[rng.IntN(len(scripts))])
				ids = append(ids, f.start(r, []string{"all", "id in [pi-1, pi-2, pi-3]"}[rng.IntN(2)], p))
			case 2:
				f.check(b.Off())
				time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
				f.check(b.On(f.ctx))
			case 3, 4:
				f.broker.Cut(string(b.ID))
			case 5:
				f.off()
				time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
				f.on()
			case 6:
				f.broker.Down(true)
				time.Sleep(time.Duration(rng.IntN(30_000)) * time.Millisecond)
				f.broker.Down(false)
			case 7:
				if len(ids) == 0 {
					break
				}
				id := ids[rng.IntN(len(ids))]
				// What is not possible now is refused, and that is as well.
				switch rng.IntN(5) {
				case 0:
					_, _ = f.rollout.Pause(id, "ada")
				case 1:
					_, _ = f.rollout.Resume(id, "ada")
				case 2:
					_, _ = f.rollout.Abort(id, "ada")
				case 3:
					_, _ = f.rollout.Revert(id, "ada")
				case 4:
					_, _ = f.rollout.Retry(id, "ada")
				}
			}
			for _, id := range ids {
				f.look(id)
			}
		}
		f.calm()
		last := f.push("9.0.0", sim.Script{})
		id := f.start(last, "all", policy.AtOnce())
		got, xs := f.until(id, "over", 2*time.Hour, ended)
		if got.State != wire.RolloutCompleted {
			t.Errorf("the last rollout is %s: %s", got.State, got.Reason)
		}
		for _, x := range xs {
			if x.State.Word() != "done" {
				t.Errorf("%s ended %s: %+v", x.Device, x.State, x.Fault)
			}
		}
		f.all("in the end", last.Digest)
		for _, id := range ids {
			f.look(id)
		}
	})
}

// look holds what is known of a rollout's executions against what was known before.
func (f *fleet) look(id string) {
	f.t.Helper()
	_, xs, err := f.rollout.Get(id)
	f.check(err)
	for _, x := range xs {
		before, known := f.ends[x.ID]
		switch {
		case known && before != x.State && before != wire.Superseded && before != wire.Canceled:
			f.t.Errorf("execution %s on %s ended %s, and then %s", x.ID, x.Device, before, x.State)
		case x.State.Terminal():
			f.ends[x.ID] = x.State
		}
	}
}
