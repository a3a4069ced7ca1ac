package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

var errKilled = errors.New("killed")

// A mortal is a store that dies at one of its writes: the transaction is on the disk, or
// it is not, and nothing comes after it.
type mortal struct {
	*store.Store
	left  int  // writes until then; < 0: it lives
	after bool // the last write is on the disk
	dead  bool
	wrote int
}

func (m *mortal) Update(fn func(*store.Tx) error) error {
	if m.dead {
		return errKilled
	}
	m.wrote++
	if m.left--; m.left == 0 {
		m.dead = true
		if !m.after {
			return errKilled
		}
		if err := m.Store.Update(fn); err != nil {
			return err
		}
		return errKilled
	}
	return m.Store.Update(fn)
}

// deaf is a broker that nobody listens to: the boards of this test read the store.
type deaf struct{}

func (deaf) Publish(wire.Message) error { return nil }
func (deaf) Kick(wire.DeviceID)         {}

// A life is a controller with its devices, which outlives its deaths.
type life struct {
	t      *testing.T
	rnd    *rand.Rand
	path   string
	raw    *store.Store
	db     *mortal
	reg    *registry.Registry
	s      *Service
	boards []board
	stop   func()

	ids  []string // rollouts
	ends map[string]wire.ExecState
}

func newLife(t *testing.T, seed uint64, n int) *life {
	time.Sleep(time.Until(noon)) // a bubble begins in a year in which no certificate is made
	l := &life{t: t, rnd: rand.New(rand.NewPCG(seed, 2)), path: filepath.Join(memory(t), "fleet.db"),
		ends: map[string]wire.ExecState{}}
	var err error
	l.raw, err = store.Open(l.path)
	l.check(err)
	l.check(l.raw.Update(func(tx *store.Tx) error {
		for i := range n {
			l.boards = append(l.boards, board{online: true, fate: wire.Succeeded, runs: ""})
			id := l.id(i)
			if err := store.Put(tx, "reg.device", string(id), registry.Device{ID: id, Enrolled: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	}))
	l.boot(-1, false)
	return l
}

// memory is a folder on no disk, where there is one: what is killed here is a program,
// between two transactions, and a sync of the disk is what this test would wait for.
func memory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "covey-rollout")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (l *life) id(i int) wire.DeviceID { return wire.DeviceID(fmt.Sprintf("pi-%02d", i)) }

func (l *life) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// boot starts a controller, which dies at a write.
func (l *life) boot(left int, after bool) {
	l.t.Helper()
	a, err := auth.Open(l.raw, auth.Config{})
	l.check(err)
	blobs, err := blob.Open(filepath.Join(filepath.Dir(l.path), "blobs"), blob.OS{})
	l.check(err)
	l.reg, err = registry.Open(l.raw, a, deaf{}, registry.Config{Root: "covey", Log: zerolog.Nop(), Blobs: blobs})
	l.check(err)
	l.db = &mortal{Store: l.raw, left: left, after: after}
	l.s, err = open(l.db, l.reg, zerolog.Nop())
	if l.db.dead { // at once
		l.boot(-1, false)
		return
	}
	l.check(err)
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	s := l.s
	go func() { done <- s.Run(ctx) }()
	l.stop = func() { cancel(); l.check(<-done) }
	for i := range l.boards {
		l.say(i, "status", wire.Status{V: 1, State: wire.StateOnline, SID: 1, MID: "m", TS: time.Now()})
	}
	synctest.Wait()
}

// reborn starts the controller anew if it has died.
func (l *life) reborn() {
	synctest.Wait()
	if l.db.dead {
		l.stop()
		l.boot(-1, false)
	}
}

func (l *life) say(i int, topic string, v any) {
	b, err := json.Marshal(v)
	l.check(err)
	l.check(l.reg.Handle(l.id(i), topic, b))
}

// turn lets every board go on by one step, in some order.
func (l *life) turn() {
	for _, i := range l.rnd.Perm(len(l.boards)) {
		doc, err := l.reg.Desired(l.id(i))
		l.check(err)
		w := doc.Pipelines["cam"]
		if s := l.boards[i].step(doc.Rev, w); s != nil && l.rnd.IntN(5) > 0 {
			s.ID, s.Pipeline = fmt.Sprintf("%s/%s/%d", l.id(i), s.Execution, s.N), "cam"
			l.say(i, "exec/"+s.Execution, s)
		}
		if b := &l.boards[i]; b.silent {
			b.silent = false
			rep := b.report()
			rep.SID, rep.TS = 1, time.Now()
			l.say(i, "reported", rep)
		}
	}
	synctest.Wait()
	l.look()
}

// look holds how things stand against what must always be true.
func (l *life) look() {
	l.t.Helper()
	if l.db.dead {
		return
	}
	seen := map[string]bool{}
	for _, id := range l.ids {
		r, xs, err := l.s.Get(id)
		l.check(err)
		past, err := l.s.Past(id)
		l.check(err)
		_, stored, err := l.s.stored(id)
		l.check(err)
		for _, x := range past {
			if !x.State.Terminal() {
				l.t.Fatalf("%s of %s has another in its place, and is %s", x.ID, x.Device, x.State)
			}
		}
		for i, x := range append(xs, past...) {
			if seen[x.ID] {
				l.t.Fatalf("execution %s of %s is there twice", x.ID, x.Device)
			}
			seen[x.ID] = true
			if was, over := l.ends[x.ID]; over && x.State != was {
				l.t.Fatalf("%s of %s ended as %s, and is %s", x.ID, x.Device, was, x.State)
			}
			if x.State.Terminal() {
				l.ends[x.ID] = x.State
			}
			for p := range max(0, x.Phase) {
				if x.Rev > 0 && x.Mode == r.Policy.Order.Mode && x.To == nil && r.Phases[p].State != PhasePassed {
					l.t.Fatalf("%s of phase %d was ordered, and phase %d is %s", x.Device, x.Phase, p, r.Phases[p].State)
				}
			}
			if i < len(xs) && stored[i].ID != x.ID {
				l.t.Fatalf("%s: execution %s in memory, %s in the store", x.Device, x.ID, stored[i].ID)
			}
		}
	}
	for id := range l.ends {
		if !seen[id] {
			l.t.Fatalf("execution %s is forgotten", id)
		}
	}
}

// story is what happens to a fleet: a release for all, one that fails on a few, which
// somebody lets go on, and takes back. It returns how many writes that took.
func (l *life) story() int {
	p := policy.Default()
	p.Phases[0].Soak, p.Phases[1].Soak = policy.Duration(time.Minute), 0
	p.Concurrency = 3
	begin := func(release wire.Digest, p policy.Policy) string {
		ts := make([]Target, len(l.boards))
		for i := range ts {
			ts[i] = Target{Device: l.id(i), Online: true, Attempt: 1}
		}
		var r Rollout
		for try := 0; ; try++ {
			var err error
			r, err = l.s.Start(Wanted{Release: Release{Digest: release, Length: 1, Name: "m", Version: "1.0.0"}, Pipeline: "cam", Query: "all", By: "ada", Policy: p}, ts)
			if err == nil {
				break
			}
			if !errors.Is(err, errKilled) || try > 1 {
				l.t.Fatal(err)
			}
			l.reborn() // it may be there, though nobody was told: then it goes on
			if _, _, err := l.s.Get(r.ID); r.ID != "" && err == nil {
				break
			}
		}
		l.ids = append(l.ids, r.ID)
		return r.ID
	}
	// do says something until it is heard, as an operator would.
	do := func(id string, fn func(*Service) (Rollout, error)) {
		for try := range 3 {
			_, err := fn(l.s)
			if err == nil || try > 0 && (errors.Is(err, ErrOver) || errors.Is(err, ErrState)) {
				return // it was heard the first time
			}
			if !errors.Is(err, errKilled) {
				l.t.Fatal(err)
			}
			l.reborn()
		}
	}
	until := func(id string, state wire.RolloutState) Rollout {
		var r Rollout
		for range 400 {
			l.reborn()
			var err error
			if r, _, err = l.s.Get(id); err == nil && r.State == state && (!over(state) || !r.Ended.IsZero()) {
				return r
			}
			l.turn()
			time.Sleep(10 * time.Second)
		}
		l.t.Fatalf("rollout %s is never %s, but %s: %s", id, state, r.State, r.Reason)
		return r
	}
	one := begin(digestOne, policy.Policy{})
	until(one, wire.RolloutCompleted)

	for i := range l.boards {
		if i%4 == 1 {
			l.boards[i].fate = wire.RolledBack
		}
	}
	two := begin(digestTwo, p)
	r := until(two, wire.RolloutPaused)
	if !gated(r.Cause) {
		l.t.Fatalf("paused by %q", r.Cause)
	}
	for range 6 { // until it is through, in spite of all
		r, _, err := l.s.Get(two)
		l.check(err)
		if r.State == wire.RolloutCompleted {
			break
		}
		if r.State == wire.RolloutPaused {
			do(two, func(s *Service) (Rollout, error) { return s.Approve(two, "ada", func(string) bool { return true }) })
		}
		for range 200 {
			l.reborn()
			if r, _, _ = l.s.Get(two); r.State != wire.RolloutRunning {
				break
			}
			l.turn()
			time.Sleep(10 * time.Second)
		}
	}
	do(two, func(s *Service) (Rollout, error) { return s.Revert(two, "ada") })
	until(two, wire.RolloutRolledBack)
	wrote := l.db.wrote
	l.settle(two)
	return wrote
}

// settle is what must be true in the end.
func (l *life) settle(id string) {
	l.reborn()
	l.look()
	for i, b := range l.boards {
		if b.runs != digestOne {
			l.t.Fatalf("%s runs %s in the end", l.id(i), b.runs.Short())
		}
		doc, err := l.reg.Desired(l.id(i))
		l.check(err)
		if w := doc.Pipelines["cam"]; w.Release != digestOne && b.fate == wire.Succeeded {
			l.t.Fatalf("%s is asked for %+v in the end", l.id(i), w)
		}
		// One order, one undone at the most, one back: what is asked twice is more.
		if doc.Rev > 4 {
			l.t.Fatalf("%s was asked %d times", l.id(i), doc.Rev)
		}
	}
	// Each change of a state was said once, and in order.
	is := map[string]wire.RolloutState{}
	for n := uint64(0); ; n++ {
		e, err := l.s.NextEvent(n)
		if errors.Is(err, ErrNoEvent) {
			break
		}
		l.check(err)
		if e.N != n+1 || is[e.Rollout] != e.Before || e.Before == e.State {
			l.t.Fatalf("event %d after %d: from %q, and it was %q", e.N, n, e.Before, is[e.Rollout])
		}
		is[e.Rollout] = e.State
	}
	if is[id] != wire.RolloutRolledBack {
		l.t.Fatalf("the last that was said of it: %s", is[id])
	}
	l.stop()
	l.boot(-1, false) // and a restart changes nothing
	r, xs, err := l.s.Get(id)
	l.check(err)
	if r.State != wire.RolloutRolledBack || len(xs) != len(l.boards) || len(r.History) == 0 {
		l.t.Fatalf("after a restart: %+v", r)
	}
	l.stop()
	l.check(l.raw.Close())
}

// A controller that is killed at any of its writes loses nothing, asks nobody twice, and
// comes to the same end.
func TestKilledAnywhere(t *testing.T) {
	writes := 0
	synctest.Test(t, func(t *testing.T) { writes = newLife(t, 0, 8).story() })
	n := runs(t, 80)
	t.Logf("the story takes %d writes; %d deaths", writes, n)
	for i := range n {
		at, after := 1+i%writes, (i/writes+i)%2 == 1
		ok := t.Run(fmt.Sprintf("write-%d-%v-%d", at, after, i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, uint64(i), 8)
				l.stop()
				l.boot(at, after)
				l.story()
			})
		})
		if !ok && strings.Contains(t.Name(), "Killed") {
			return // one is enough to look at
		}
	}
}
