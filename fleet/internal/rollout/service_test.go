package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// A controller is the rooms that rollouts live among, which can be restarted.
type controller struct {
	t    testing.TB
	dir  string
	db   *store.Store
	reg  *registry.Registry
	s    *rollout.Service
	stop func()
}

type nobody struct{}

func (nobody) Publish(wire.Message) error { return nil }
func (nobody) Kick(wire.DeviceID)         {}

func start(t testing.TB) *controller {
	c := &controller{t: t, dir: t.TempDir()}
	c.open()
	t.Cleanup(func() { c.close() })
	return c
}

func (c *controller) open() {
	c.t.Helper()
	var err error
	c.db, err = store.Open(filepath.Join(c.dir, "fleet.db"))
	c.check(err)
	a, err := auth.Open(c.db, auth.Config{})
	c.check(err)
	blobs, err := blob.Open(filepath.Join(c.dir, "blobs"), blob.OS{})
	c.check(err)
	c.reg, err = registry.Open(c.db, a, nobody{}, registry.Config{Root: "covey", Log: zerolog.Nop(), Blobs: blobs})
	c.check(err)
	c.s, err = rollout.Open(c.db, c.reg, zerolog.Nop())
	c.check(err)
	c.stop = func() {}
}

func (c *controller) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := c.s
	go func() { done <- s.Run(ctx) }()
	c.stop = func() {
		cancel()
		c.check(<-done)
		c.stop = func() {}
	}
}

func (c *controller) close() {
	c.stop()
	c.check(c.db.Close())
}

func (c *controller) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// device puts a device into the store, as enrolment would, after a restart.
func (c *controller) devices(n int) (targets []rollout.Target) {
	c.t.Helper()
	c.close()
	db, err := store.Open(filepath.Join(c.dir, "fleet.db"))
	c.check(err)
	c.check(db.Update(func(tx *store.Tx) error {
		for i := range n {
			id := wire.DeviceID(fmt.Sprintf("pi-%d", i))
			targets = append(targets, rollout.Target{Device: id, Attempt: 1})
			if err := store.Put(tx, "reg.device", string(id), registry.Device{ID: id, Enrolled: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	}))
	c.check(db.Close())
	c.open()
	return targets
}

func release(n int) rollout.Release {
	return rollout.Release{Digest: wire.Digest(fmt.Sprintf("%064d", n)), Length: 100, Name: "m", Version: fmt.Sprintf("%d.0.0", n)}
}

// until waits for a rollout to be as fn wants it.
func (c *controller) until(id string, what string, fn func(rollout.Rollout, []rollout.Execution) bool) (rollout.Rollout, []rollout.Execution) {
	c.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		changed := c.s.Changed()
		r, xs, err := c.s.Get(id)
		c.check(err)
		if fn(r, xs) {
			return r, xs
		}
		select {
		case <-changed:
		case <-limit:
			c.t.Fatalf("rollout is never %s: %+v %+v", what, r, xs)
		}
	}
}

func ordered(_ rollout.Rollout, xs []rollout.Execution) bool {
	for _, x := range xs {
		if x.Rev == 0 {
			return false
		}
	}
	return true
}

func over(r rollout.Rollout, _ []rollout.Execution) bool { return !r.Ended.IsZero() }

// succeed lets a device report what it was asked for. Many goroutines may.
func (c *controller) succeed(id wire.DeviceID) error {
	d, err := c.reg.Desired(id)
	if err != nil {
		return err
	}
	rep := wire.Reported{V: 1, Rev: d.Rev, SID: 1, TS: time.Now(), Pipelines: map[string]wire.ReportedPipeline{}}
	for name, w := range d.Pipelines {
		rep.Pipelines[name] = wire.ReportedPipeline{Execution: w.Execution, State: wire.Succeeded,
			Active: &wire.ReportedSlot{Release: w.Release, Name: w.Name, Version: w.Version, SHA256: w.Release}}
	}
	b, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	return c.reg.Handle(id, "reported", b)
}

func (c *controller) wish(id wire.DeviceID) wire.DesiredRelease {
	c.t.Helper()
	d, err := c.reg.Desired(id)
	c.check(err)
	return d.Pipelines["cam"]
}

func TestARestartForgetsNothing(t *testing.T) {
	c := start(t)
	targets := c.devices(3)
	r, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "cam", Query: "all", By: "ada"}, targets)
	c.check(err)
	// Nothing is ordered yet: the loop never ran before this restart.
	c.close()
	c.open()
	c.run()
	_, xs := c.until(r.ID, "ordered", ordered)
	if w := c.wish("pi-0"); w.Release != release(1).Digest || w.Execution != xs[0].ID || w.Mode != wire.ModeActivate {
		t.Errorf("desired %+v", w)
	}
	// A device answers while the service does not listen.
	c.stop()
	c.check(c.succeed("pi-0"))
	c.close()
	c.open()
	c.run()
	c.check(c.succeed("pi-1"))
	c.check(c.succeed("pi-2"))
	r, _ = c.until(r.ID, "over", over)
	if r.State != wire.RolloutCompleted || r.Counts[wire.Succeeded] != 3 {
		t.Errorf("ended as %+v", r)
	}
	// What is over stays over.
	c.close()
	c.open()
	c.run()
	list, err := c.s.List()
	c.check(err)
	if len(list) != 1 || list[0].State != wire.RolloutCompleted || list[0].Counts[wire.Succeeded] != 3 {
		t.Errorf("after a restart: %+v", list)
	}
	if doc, err := c.reg.Desired("pi-0"); err != nil || doc.Rev != 1 {
		t.Errorf("ordered again: rev %d %v", doc.Rev, err)
	}
}

func TestTheNewestSupersedes(t *testing.T) {
	c := start(t)
	targets := c.devices(2)
	c.run()
	old, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "cam", Query: "all", By: "ada"}, targets)
	c.check(err)
	c.until(old.ID, "ordered", ordered)
	other, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "door", Query: "pi-0", By: "ada"}, targets[:1]) // another pipeline: not touched
	c.check(err)
	fresh, err := c.s.Start(rollout.Wanted{Release: release(2), Pipeline: "cam", Query: "pi-0", By: "bob"}, targets[:1])
	c.check(err)
	c.until(fresh.ID, "ordered", ordered)
	c.until(other.ID, "ordered", ordered)
	_, xs, err := c.s.Get(old.ID)
	c.check(err)
	if xs[0].State != wire.Superseded || xs[1].State != wire.Queued {
		t.Errorf("older rollout: %s, %s", xs[0].State, xs[1].State)
	}
	if w := c.wish("pi-0"); w.Release != release(2).Digest {
		t.Errorf("desired %+v", w)
	}
	c.check(c.succeed("pi-0"))
	c.check(c.succeed("pi-1"))
	for id, want := range map[string]map[wire.ExecState]int{
		old.ID: {wire.Superseded: 1, wire.Succeeded: 1}, fresh.ID: {wire.Succeeded: 1}, other.ID: {wire.Succeeded: 1},
	} {
		if r, _ := c.until(id, "over", over); fmt.Sprint(r.Counts) != fmt.Sprint(want) {
			t.Errorf("%s ended with %v, want %v", id, r.Counts, want)
		}
	}
}

// A crash after a rollout was stored, and before what it replaces was, must not
// leave two that ask for different releases.
func TestACrashWhileSuperseding(t *testing.T) {
	c := start(t)
	targets := c.devices(1)
	old, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "cam", Query: "all", By: "ada"}, targets)
	c.check(err)
	_, before, err := c.s.Get(old.ID)
	c.check(err)
	fresh, err := c.s.Start(rollout.Wanted{Release: release(2), Pipeline: "cam", Query: "all", By: "bob"}, targets)
	c.check(err)
	c.check(c.db.Update(func(tx *store.Tx) error {
		return store.Put(tx, "rollout.exec", old.ID+"/pi-0", before[0])
	}))
	for range 2 { // what the first start made of it is on the disk
		c.close()
		c.open()
	}
	if _, xs, err := c.s.Get(old.ID); err != nil || xs[0].State != wire.Superseded {
		t.Errorf("older rollout: %+v, %v", xs, err)
	}
	c.run()
	c.until(old.ID, "over", over)
	c.until(fresh.ID, "ordered", ordered)
	if w := c.wish("pi-0"); w.Release != release(2).Digest {
		t.Errorf("desired %+v", w)
	}
}

// A device whose document cannot take another wish holds nobody up.
func TestAFullDocumentHoldsNobodyUp(t *testing.T) {
	c := start(t)
	targets := c.devices(2)
	_, err := c.reg.ChangeDesired("pi-0", func(d *wire.DesiredSigned) error {
		for i := range wire.MaxPipelines {
			d.Pipelines[fmt.Sprintf("p-%d", i)] = wire.DesiredRelease{Release: release(1).Digest, Length: 1, Name: "m", Version: "1.0.0", Execution: "ex-1", Attempt: 1, Mode: wire.ModeActivate}
		}
		return nil
	})
	c.check(err)
	c.run()
	r, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "cam", Query: "all", By: "ada"}, targets)
	c.check(err)
	_, xs := c.until(r.ID, "ordered", func(_ rollout.Rollout, xs []rollout.Execution) bool { return xs[1].Rev > 0 })
	if xs[0].State != wire.Rejected || xs[0].Fault == nil || xs[0].Fault.Code != rollout.CodeDesired {
		t.Errorf("full one: %+v", xs[0])
	}
}

func TestAbortGoesBackToWhatRan(t *testing.T) {
	c := start(t)
	targets := c.devices(3)
	c.run()
	first, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "cam", Query: "all", By: "ada"}, targets[:2])
	c.check(err)
	c.until(first.ID, "ordered", ordered)
	c.check(c.succeed("pi-0"))
	c.check(c.succeed("pi-1"))
	c.until(first.ID, "over", over)
	before := c.wish("pi-0")

	second, err := c.s.Start(rollout.Wanted{Release: release(2), Pipeline: "cam", Query: "all", By: "ada"}, targets)
	c.check(err)
	c.until(second.ID, "ordered", ordered)
	c.check(c.succeed("pi-1"))
	c.until(second.ID, "partly done", func(_ rollout.Rollout, xs []rollout.Execution) bool { return xs[1].State == wire.Succeeded })
	_, err = c.s.Abort(second.ID, "ada")
	c.check(err)
	r, _ := c.until(second.ID, "over", over)
	if r.State != wire.RolloutAborted || r.Counts[wire.Canceled] != 2 || r.Counts[wire.Succeeded] != 1 {
		t.Errorf("aborted as %+v", r)
	}
	if w := c.wish("pi-0"); w != before {
		t.Errorf("not done: desired %+v, want %+v", w, before)
	}
	if w := c.wish("pi-1"); w.Release != release(2).Digest {
		t.Errorf("done: desired %+v", w)
	}
	if w := c.wish("pi-2"); w.Release != "" {
		t.Errorf("ran nothing of ours: desired %+v", w)
	}
	if _, err := c.s.Abort(second.ID, "ada"); !errors.Is(err, rollout.ErrOver) {
		t.Errorf("second abort: %v", err)
	}
	if _, err := c.s.Abort("ro-none", "ada"); !errors.Is(err, rollout.ErrNotFound) {
		t.Errorf("abort of none: %v", err)
	}
}

func TestARevokedDeviceHoldsNobodyUp(t *testing.T) {
	c := start(t)
	targets := c.devices(2)
	c.check(c.reg.Revoke("pi-1"))
	c.run()
	r, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "cam", Query: "all", By: "ada"}, targets)
	c.check(err)
	c.until(r.ID, "ordered for one", func(_ rollout.Rollout, xs []rollout.Execution) bool { return xs[0].Rev > 0 })
	c.check(c.reg.Revoke("pi-0"))
	r, xs := c.until(r.ID, "over", over)
	if r.Counts[wire.Canceled] != 2 || xs[0].Fault == nil || xs[0].Fault.Code != rollout.CodeRevoked {
		t.Errorf("ended as %+v %+v", r, xs[0])
	}
}

func TestManyDevices(t *testing.T) {
	c := start(t)
	const n = 1000 // more than fit into one commit or wait in the event buffer
	targets := c.devices(n)
	c.run()
	began := time.Now()
	r, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: "cam", Query: "all", By: "ada"}, targets)
	c.check(err)
	c.until(r.ID, "ordered", ordered)
	t.Logf("%d devices ordered in %v", n, time.Since(began))
	began = time.Now()
	var g errgroup.Group
	g.SetLimit(64)
	for _, d := range targets {
		g.Go(func() error { return c.succeed(d.Device) })
	}
	c.check(g.Wait())
	r, _ = c.until(r.ID, "over", over)
	t.Logf("%d devices reported in %v", n, time.Since(began))
	if r.Counts[wire.Succeeded] != n {
		t.Errorf("ended with %v", r.Counts)
	}
}

// A device that comes back is news for every rollout that waits for it, of whatever
// pipeline.
func TestOneDeviceOfTwoRollouts(t *testing.T) {
	c := start(t)
	targets := c.devices(1)
	c.run()
	var ids []string
	for _, pipeline := range []string{"cam", "door", "yard"} {
		r, err := c.s.Start(rollout.Wanted{Release: release(1), Pipeline: pipeline, Query: "all", By: "ada", Policy: policy.Policy{Concurrency: 1}}, targets)
		c.check(err)
		c.until(r.ID, "waiting", func(r rollout.Rollout, xs []rollout.Execution) bool { return r.Phases[0].State == rollout.PhaseRunning })
		ids = append(ids, r.ID)
	}
	b, err := json.Marshal(wire.Status{V: 1, State: wire.StateOnline, SID: 1, MID: "m", TS: time.Now()})
	c.check(err)
	c.check(c.reg.Handle("pi-0", "status", b))
	for _, id := range ids {
		c.until(id, "ordered", ordered)
	}
}
