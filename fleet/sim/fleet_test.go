package sim_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/sim"
	"github.com/covey-edge/covey/fleet/wire"
)

// A fleet is a controller's rooms and its boards, inside a bubble.
type fleet struct {
	t      *testing.T
	ctx    context.Context
	dir    string
	broker *mem.Broker
	link   *mem.Link
	boards map[wire.DeviceID]*sim.Board

	db      *store.Store
	reg     *registry.Registry
	rollout *rollout.Service
	cat     *rollout.Catalogue
	stop    func()

	ends map[string]wire.ExecState // of executions, as they were seen first

	mu    sync.Mutex
	chaos *rand.Rand     // nil: messages come once and in order
	held  []wire.Message // that come later than what was sent after them
}

func (f *fleet) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// in runs fn with a fleet of n boards, in a bubble, on a disk in memory.
func in(t *testing.T, n int, fn func(f *fleet)) {
	dir, err := os.MkdirTemp("/dev/shm", "covey-sim-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))) // a bubble begins in 2000
		ctx, cancel := context.WithCancel(t.Context())
		f := &fleet{t: t, ctx: ctx, dir: dir, broker: mem.NewBroker(), boards: map[wire.DeviceID]*sim.Board{}}
		f.link = f.broker.Link("controller", false)
		f.devices(n)
		f.on()
		for i := range n {
			id := name(i)
			f.boards[id] = &sim.Board{ID: id, Dir: filepath.Join(dir, string(id)), Broker: f.broker, FPS: 2, Log: zerolog.Nop()}
			f.check(f.boards[id].On(ctx))
		}
		fn(f)
		for _, b := range f.boards {
			f.check(b.Off())
		}
		f.off()
		cancel()
		synctest.Wait()
	})
}

func name(i int) wire.DeviceID { return wire.DeviceID(fmt.Sprintf("pi-%d", i)) }

// devices enrols n boards by writing what enrolment leaves.
func (f *fleet) devices(n int) {
	db, err := store.Open(filepath.Join(f.dir, "fleet.db"))
	f.check(err)
	f.check(db.Update(func(tx *store.Tx) error {
		for i := range n {
			if err := store.Put(tx, "reg.device", string(name(i)), registry.Device{ID: name(i), Enrolled: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	}))
	f.check(db.Close())
}

type sender struct{ b *mem.Broker }

func (s sender) Publish(m wire.Message) error { s.b.Publish(m); return nil }
func (s sender) Kick(id wire.DeviceID)        { s.b.Cut(string(id)) }

// on starts the controller.
func (f *fleet) on() {
	var err error
	f.db, err = store.Open(filepath.Join(f.dir, "fleet.db"))
	f.check(err)
	a, err := auth.Open(f.db, auth.Config{})
	f.check(err)
	blobs, err := blob.Open(filepath.Join(f.dir, "blobs"), blob.OS{})
	f.check(err)
	f.reg, err = registry.Open(f.db, a, sender{f.broker}, registry.Config{Root: "covey", Log: zerolog.Nop(), Blobs: blobs})
	f.check(err)
	f.rollout, err = rollout.Open(f.db, f.reg, zerolog.Nop())
	f.check(err)
	f.cat = rollout.NewCatalogue(f.db, blobs)
	f.check(f.reg.PublishAll())
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	up := make(chan struct{})
	var once sync.Once
	wg.Go(func() { _ = f.reg.Run(ctx) })
	wg.Go(func() { _ = f.rollout.Run(ctx) })
	wg.Go(func() {
		_ = f.link.Run(ctx, wire.Spec{Subscribe: []wire.Subscription{{Filter: "covey/1/d/+/up/#", QoS: 1}}, Up: func() { once.Do(func() { close(up) }) }, Receive: f.receive})
	})
	<-up
	f.stop = func() { cancel(); wg.Wait() }
}

// off ends the controller as a crash would: nothing that it meant to write is written.
func (f *fleet) off() {
	f.stop()
	f.check(f.db.Close())
}

// receive takes in what boards say: with chaos, some of it twice, some of it later than
// what was said after it, some of it only when it is sent again.
func (f *fleet) receive(m wire.Message) error {
	f.mu.Lock()
	list := []wire.Message{m}
	if r := f.chaos; r != nil {
		switch {
		case r.IntN(20) == 0:
			f.mu.Unlock()
			return errors.New("the disk is busy")
		case r.IntN(5) == 0:
			list = append(list, m)
		case r.IntN(5) == 0 && len(f.held) < 100:
			f.held, list = append(f.held, m), nil
		}
		if len(f.held) > 0 && r.IntN(5) == 0 {
			n := r.IntN(len(f.held))
			list = append(list, f.held[n])
			f.held = slices.Delete(f.held, n, n+1)
		}
	}
	f.mu.Unlock()
	for _, m := range list {
		parts := strings.SplitN(m.Topic, "/", 6) // covey/1/d/<id>/up/<rest>
		if err := f.reg.Handle(wire.DeviceID(parts[3]), parts[5], m.Payload); err != nil {
			return err
		}
	}
	return nil
}

// calm ends the chaos: what was held comes, in an order of its own, and then what the
// boards last said for good, as a broker's retained messages do.
func (f *fleet) calm() {
	f.mu.Lock()
	held, r := f.held, f.chaos
	f.held, f.chaos = nil, nil
	f.mu.Unlock()
	if r != nil {
		r.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	}
	for _, m := range held {
		f.check(f.receive(m))
	}
	for id := range f.boards {
		f.broker.Cut(string(id))
	}
}

// push makes a release of a script.
func (f *fleet) push(version string, s sim.Script) rollout.Release {
	f.t.Helper()
	s.Tag = version
	path := filepath.Join(f.dir, "m.tflite")
	f.check(os.WriteFile(path, sim.Model(s), 0o600))
	m, files, err := release.Build(path, release.Defaults{Name: "birds", Version: version})
	f.check(err)
	blobs, err := blob.Open(filepath.Join(f.dir, "blobs"), blob.OS{})
	f.check(err)
	for sha, from := range files {
		r, err := os.Open(from)
		f.check(err)
		fi, err := r.Stat()
		f.check(err)
		f.check(blobs.Put(f.ctx, sha, fi.Size(), r))
		f.check(r.Close())
	}
	e, missing, err := f.cat.Add(f.ctx, m.Canonical(), "ada")
	f.check(err)
	if missing != nil {
		f.t.Fatalf("missing %v", missing)
	}
	return e.Release
}

// start begins a rollout of a release to the devices of a query.
func (f *fleet) start(r rollout.Release, query string, p policy.Policy) string {
	f.t.Helper()
	var list []rollout.Target
	in, err := f.reg.Query(query)
	f.check(err)
	for _, d := range f.reg.Select(in) {
		list = append(list, rollout.Target{Device: d.ID, Attempt: f.attempt(d, r.Digest)})
	}
	got, err := f.rollout.Start(rollout.Wanted{Release: r, Pipeline: sim.Pipeline, Query: query, By: "ada", Policy: p}, list)
	f.check(err)
	return got.ID
}

// attempt is one more than the last that failed, as a plan would have it.
func (f *fleet) attempt(d registry.Device, digest wire.Digest) int {
	n := 1
	if d.Reported != nil {
		for _, q := range d.Reported.Quarantine {
			if q.Release == digest {
				n = max(n, q.Attempt+1)
			}
		}
	}
	return n
}

// until lets the bubble's time pass until a rollout is as ok wants it.
func (f *fleet) until(id, what string, limit time.Duration, ok func(rollout.Rollout, []rollout.Execution) bool) (rollout.Rollout, []rollout.Execution) {
	f.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Second) {
		synctest.Wait()
		r, xs, err := f.rollout.Get(id)
		f.check(err)
		if ok(r, xs) {
			return r, xs
		}
		if time.Since(began) > limit {
			f.t.Fatalf("rollout %s is not %s within %v: %s %s %v, phases %+v, first %+v", id, what, limit, r.State, r.Reason, r.Counts, r.Phases, xs[0])
		}
	}
}

func ended(r rollout.Rollout, _ []rollout.Execution) bool { return !r.Ended.IsZero() }

// runs is the release that a board says it runs.
func (f *fleet) runs(id wire.DeviceID) wire.Digest {
	m, ok := f.broker.Retained(wire.Device{Root: "covey", ID: id}.Reported())
	if !ok {
		return ""
	}
	r, err := wire.Parse[wire.Reported](m.Payload, wire.MaxReported)
	f.check(err)
	if a := r.Pipelines[sim.Pipeline].Active; a != nil {
		return a.Release
	}
	return ""
}

// all wants every board to run a release.
func (f *fleet) all(what string, digest wire.Digest) {
	f.t.Helper()
	for id := range f.boards {
		if got := f.runs(id); got != digest {
			f.t.Errorf("%s: %s runs %.8s, want %.8s", what, id, got, digest)
		}
	}
}
