package update_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
)

// installed is a disk with v1 running and settled, made once for each cut.
func installed(t *testing.T, c *controller, v1 wire.DesiredRelease) *board {
	b := newBoard(t, crashfs.New(), c)
	synctest.Test(t, func(t *testing.T) {
		s, err := b.boot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.bring(1, v1)
		s.stop()
	})
	return b
}

// tryUpdate is one life of the agent with an update wanted, until that is over, the
// power goes, or an hour has passed. It says whether it was over.
func tryUpdate(t *testing.T, b *board, w wire.DesiredRelease) (over bool, err error) {
	synctest.Test(t, func(t *testing.T) {
		var s *session
		s, err = b.boot(t.Context())
		if err != nil {
			return
		}
		defer s.stop()
		if err = s.desire(2, map[string]wire.DesiredRelease{pipe: w}); err != nil {
			return
		}
		s.tick(time.Hour, func() bool {
			if _, ferr := b.fs.Free("/"); ferr != nil {
				err = ferr
				return true
			}
			over = s.settled(w.Execution)()
			return over
		})
	})
	return over, err
}

// Killed in every state, before and after it is written, again and again: it ends
// on what is wanted or on what ran before.
func TestKilledInEveryState(t *testing.T) {
	kills := 0
	for _, model := range []string{"good 2", "run:E_CRASH x"} {
		for _, st := range []wire.ExecState{wire.Queued, wire.Downloading, wire.Verifying, wire.Staged, wire.SelfTesting,
			wire.Shadowing, wire.Switching, wire.Probation, wire.Succeeded, wire.RolledBack} {
			for _, times := range []int{1, 2, 5} {
				kills += killed(t, model, st, times)
			}
		}
	}
	t.Logf("%d kills", kills)
}

func killed(t *testing.T, model string, st wire.ExecState, times int) (kills int) {
	t.Helper()
	c := newController()
	v1, v2 := c.release("good 1"), c.release(model)
	v2.Shadow, v2.Probation = &wire.ShadowRun{Frames: 20, Agreement: 80}, &wire.ProbationLimits{Slower: 150, Score: 50}
	b := installed(t, c, v1)
	for range times {
		synctest.Test(t, func(t *testing.T) {
			s, err := b.boot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = s.desire(2, map[string]wire.DesiredRelease{pipe: v2})
			// Steps are said right after the state is written.
			s.tick(time.Minute, func() bool {
				e := s.pipeline(pipe).Exec
				return e.Want.Execution == v2.Execution && (e.State == st || e.State.Terminal())
			})
			s.fs.CutAt(0)
			s.stop()
			b.fs = s.fs.Crash(uint64(kills))
			kills++
		})
	}
	b = newBoard(t, b.fs, c)
	if over, err := tryUpdate(t, b, v2); !over {
		t.Fatalf("%s, killed %d times in %s: not over, %v", model, times, st, err)
	}
	state, err := slots.Open("/data/state", b.fs)
	if err != nil {
		t.Fatal(err)
	}
	p := state.State().Pipelines[pipe]
	good := p.Exec.State == wire.Succeeded && p.Active.Release == v2.Release && model == "good 2" ||
		p.Exec.State == wire.RolledBack && p.Active.Release == v1.Release ||
		p.Exec.State == wire.Rejected && p.Active.Release == v1.Release && st == wire.Shadowing && times >= maxBoots
	if why := sound(b.fs, v1.Release, v2.Release); !good || why != "" {
		t.Errorf("%s, killed %d times in %s: ended %s on %s, %s", model, times, st, p.Exec.State, p.Active.Release.Short(), why)
	}
	// Three restarts while it is tried, and it is given up; fewer do no harm.
	if model == "good 2" && times < 3 && p.Exec.State != wire.Succeeded {
		t.Errorf("killed %d times in %s: ended %s", times, st, p.Exec.State)
	}
	if st == wire.Probation && times == 5 && p.Exec.State != wire.RolledBack {
		t.Errorf("killed %d times in %s: ended %s", times, st, p.Exec.State)
	}
	return kills
}

// maxBoots is how many restarts in the middle of a trial are forgiven, and one more.
const maxBoots = 3

// Chance: releases of all kinds, cuts, full disks, broken links, in any order. A
// failure names the seed.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { randomLives(t, seed) })
	}
}

func randomLives(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	c := newController()
	words := []string{"good", "good", "run:E_CRASH", "run:E_INVOKE", "open:E_OP", "golden", "flaky", "open:E_MEMORY", "slow", "unsure", "shadow:half", "shadow:E_CRASH"}
	var all []wire.DesiredRelease
	for i := range 6 {
		w := c.release(fmt.Sprintf("%s %d", words[rng.IntN(len(words))], i))
		if rng.IntN(2) == 0 {
			w.Shadow, w.Probation = &wire.ShadowRun{Frames: 1 + rng.IntN(200), Agreement: 80}, &wire.ProbationLimits{Slower: 150, Score: 50}
		}
		all = append(all, w)
	}
	good := c.release("good last")
	f := crashfs.New()
	rev := uint64(0)
	for range 15 {
		b := newBoard(t, f, c)
		synctest.Test(t, func(t *testing.T) {
			s, err := b.boot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer s.stop()
			for range 1 + rng.IntN(3) {
				w := all[rng.IntN(len(all))]
				rev++
				w.Execution, w.Attempt = fmt.Sprintf("ex-%d", rev), 1+rng.IntN(3)
				_ = s.desire(rev, map[string]wire.DesiredRelease{pipe: w})
				s.tick(time.Duration(rng.IntN(60_000))*time.Millisecond, func() bool { return false })
			}
			if rng.IntN(2) == 0 {
				f.CutAt(1 + rng.IntN(20))
				rev++
				w := all[rng.IntN(len(all))]
				w.Execution, w.Attempt = fmt.Sprintf("ex-%d", rev), 1+rng.IntN(3)
				_ = s.desire(rev, map[string]wire.DesiredRelease{pipe: w})
				s.tick(time.Minute, func() bool { _, err := f.Free("/"); return err != nil })
			}
		})
		b.checkBad()
		f = f.Crash(rng.Uint64())
	}
	b := newBoard(t, f, c)
	b.lives(func(s *session) {
		good.Execution, good.Attempt = "ex-last", 99
		s.bring(rev+1, good)
		if s.runs(pipe) != good.Release {
			t.Error("the last wish does not run")
		}
	})
}
