package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// kill -9 of the agent or of the controller at moments that chance names, in the
// middle of updates: the controller never heard of more than is on the board's disk,
// and each update comes to its good end. COVEY_KILLS is how many; COVEY_SEED goes
// through what a run has printed again, as far as two runs are alike.
func TestKilledAtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("the moments with a name are enough for a newcomer")
	}
	kills, seed := 4, rand.Uint64()
	for name, set := range map[string]func(uint64){
		"COVEY_KILLS": func(n uint64) { kills = int(n) }, "COVEY_SEED": func(n uint64) { seed = n },
	} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			set(n)
		}
	}
	t.Logf("COVEY_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	m := newMortal(t)
	// More releases than a board keeps, one after the other: each is downloaded anew.
	var wishes []wish
	for i := range 5 {
		wishes = append(wishes, m.release(fmt.Sprintf("1.0.%d", i+1)))
		m.mustEnd(wishes[i], "nothing")
	}
	struck := map[string]int{} // by what was killed, and the state that the board's disk had then
	done := 0
	for n := 0; done < kills; n++ {
		w := &wishes[n%len(wishes)]
		w.rollout = ask[rollout](m.c, "set", "pi-1", "cam=birds@"+fmt.Sprintf("1.0.%d", n%len(wishes)+1), "--yes").ID
		m.start()
		// Not more often: three restarts in a trial, and the board gives a release up.
		for range 1 + rng.IntN(2) {
			victim, moment := "agent", time.Duration(rng.Int64N(int64(1200*time.Millisecond)))
			if rng.IntN(4) == 0 {
				victim = "controller"
			}
			<-time.After(moment) // the moment is what is tested
			done++
			if victim == "controller" {
				m.c.kill()
				m.c.start()
			} else {
				m.strike()
			}
			state, err := m.stands(*w)
			struck[victim+" "+string(state)]++
			if err != nil {
				t.Errorf("%s killed after %s: %v", victim, moment, err)
			}
			if victim == "agent" {
				m.start()
			}
		}
		m.finish(*w, fmt.Sprintf("update %d of seed %d", n, seed))
		if t.Failed() {
			return
		}
	}
	m.ledger.mustBeWhole(t)
	t.Logf("%d kills: %v; %v", done, struck, m.ledger)
}

// strike is kill -9 of the agent, wherever it is; nothing of it stays.
func (m *mortal) strike() {
	m.t.Helper()
	m.process.kill()
	until(m.t, 5*time.Second, "runners of the dead agent end", func() error {
		if left := m.session(); len(left) > 0 {
			return fmt.Errorf("%v still run", left)
		}
		return nil
	})
}

// stands is how far a board's disk says that a wish is, "" before it was heard of, and
// an error when the controller has heard of more.
func (m *mortal) stands(w wish) (wire.ExecState, error) {
	m.t.Helper()
	release, state, err := onDisk(m.dir + "/data/" + stateFile)
	if os.IsNotExist(err) { // between two renames
		release, state, err = onDisk(m.dir + "/data/" + stateFile + ".old")
	}
	if err != nil {
		return "", err
	}
	if release != w.Digest {
		state = ""
	}
	said := ask[rollout](m.c, "rollout", "show", w.rollout).Executions[0].State
	if slices.Index(happy, said) > max(0, slices.Index(happy, state)) {
		// The board may have gone on since, where it was not the one that was killed.
		if again, now, err := onDisk(m.dir + "/data/" + stateFile); err == nil && again == w.Digest && slices.Index(happy, said) <= slices.Index(happy, now) {
			return state, nil
		}
		return state, fmt.Errorf("the controller heard %s, on the disk is %s of %s", said, state, release.Short())
	}
	return state, nil
}
