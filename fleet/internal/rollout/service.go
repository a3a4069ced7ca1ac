package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// buckets of the store
const (
	bucketRollout = "rollout"      // id → Rollout
	bucketExec    = "rollout.exec" // rollout/device → Execution
)

// movesPerCommit bounds one transaction: many devices share a sync of the disk,
// and others still get their turn.
const movesPerCommit = 256

// retry is how long the loop waits after a move that could not be made.
const retry = 5 * time.Second

// eventBuffer is how many events of the registry may wait and be stored at once.
const eventBuffer = 1024

var (
	// ErrNotFound says that there is no such rollout.
	ErrNotFound = errors.New("no such rollout")
	// ErrOver says that a rollout has ended.
	ErrOver = errors.New("rollout is over")
)

// A Service runs all rollouts. It may be used by many goroutines. Rollouts that
// are not over are in memory, and every change of them in the store as well.
type Service struct {
	db   *store.Store
	reg  *registry.Registry
	log  zerolog.Logger
	wake chan struct{} // one waiting wake-up is enough: the loop looks at everything

	mu      sync.Mutex
	live    map[string]*group          // rollouts whose executions are not all over
	of      map[wire.DeviceID][]*group // the live rollouts of a device
	changed chan struct{}              // closed and made anew at each change
}

// A group is a live rollout. Its fields are guarded by Service.mu.
type group struct {
	r  Rollout
	xs []Execution
	at map[wire.DeviceID]int // index in xs
}

func newGroup(r Rollout, xs []Execution) *group {
	g := &group{r: r, xs: xs, at: make(map[wire.DeviceID]int, len(xs))}
	for i, x := range xs {
		g.at[x.Device] = i
	}
	return g
}

// Open reads the rollouts that are not over. They go on with Run.
func Open(db *store.Store, reg *registry.Registry, log zerolog.Logger) (*Service, error) {
	s := &Service{
		db: db, reg: reg, log: log, wake: make(chan struct{}, 1),
		live: map[string]*group{}, of: map[wire.DeviceID][]*group{}, changed: make(chan struct{}),
	}
	var live []*group
	err := db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketRollout, "", func(_ string, r Rollout) error {
			if !r.Ended.IsZero() {
				return nil
			}
			xs, err := executions(tx, r.ID)
			live = append(live, newGroup(r, xs))
			return err
		})
	})
	// A crash may have come between a rollout and what it supersedes.
	slices.SortFunc(live, func(a, b *group) int { return a.r.Created.Compare(b.r.Created) })
	var old []Execution
	for _, g := range live {
		old = append(old, s.supersede(g)...)
		s.add(g)
	}
	if err == nil {
		err = s.put(old)
	}
	if err != nil {
		return nil, fmt.Errorf("open rollouts: %w", err)
	}
	return s, nil
}

func executions(tx *store.Tx, id string) (xs []Execution, err error) {
	err = store.Each(tx, bucketExec, id+"/", func(_ string, x Execution) error {
		xs = append(xs, x)
		return nil
	})
	return xs, err
}

// add makes a rollout live. The caller holds mu, or nobody else knows s.
func (s *Service) add(g *group) {
	s.live[g.r.ID] = g
	for _, x := range g.xs {
		s.of[x.Device] = append(s.of[x.Device], g)
	}
}

// drop takes a rollout out of memory. The caller holds mu.
func (s *Service) drop(g *group) {
	delete(s.live, g.r.ID)
	for _, x := range g.xs {
		left := slices.DeleteFunc(s.of[x.Device], func(o *group) bool { return o == g })
		if s.of[x.Device] = left; len(left) == 0 {
			delete(s.of, x.Device)
		}
	}
}

// tell wakes the loop and whoever watches. The caller holds mu.
func (s *Service) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Changed is closed at the next change of any rollout. Take it before looking,
// then look, then wait.
func (s *Service) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Start begins a rollout to the targets of a plan. Refused targets get an
// execution that is REJECTED at once, so that nobody misses them. Executions of
// older rollouts on the same pipeline of these devices are superseded. When it
// returns, the rollout is stored and nothing of it is ordered yet; Run does that.
func (s *Service) Start(rel Release, pipeline, query, by string, targets []Target) (Rollout, error) {
	now := time.Now().UTC()
	r := Rollout{
		ID: wire.NewID("ro"), Release: rel, Pipeline: pipeline, Query: query, By: by,
		State: wire.RolloutRunning, Created: now, Devices: len(targets),
	}
	xs := make([]Execution, len(targets))
	for i, t := range targets {
		xs[i] = Execution{ID: wire.NewID("ex"), Rollout: r.ID, Device: t.Device, Attempt: t.Attempt, State: wire.Queued, Updated: now}
		if t.Refusal != nil {
			xs[i].State, xs[i].Fault = wire.Rejected, t.Refusal
		}
	}
	// In the order that the store gives them back.
	slices.SortFunc(xs, func(a, b Execution) int { return cmp.Compare(a.Device, b.Device) })
	r.Counts = count(xs)
	err := s.db.Update(func(tx *store.Tx) error {
		for _, x := range xs {
			if err := putExec(tx, x); err != nil {
				return err
			}
		}
		return store.Put(tx, bucketRollout, r.ID, r)
	})
	if err != nil {
		return r, fmt.Errorf("store rollout: %w", err)
	}
	return r, s.begin(newGroup(r, xs))
}

func putExec(tx *store.Tx, x Execution) error {
	return store.Put(tx, bucketExec, x.Rollout+"/"+string(x.Device), x)
}

// begin makes a stored rollout live and supersedes what it replaces.
func (s *Service) begin(g *group) error {
	s.mu.Lock()
	old := s.supersede(g)
	s.add(g)
	s.tell()
	s.mu.Unlock()
	return s.put(old)
}

// supersede ends the executions that a rollout which is not live yet replaces, in
// memory, and returns them. The caller holds mu, or nobody else knows s.
func (s *Service) supersede(g *group) (old []Execution) {
	for _, x := range g.xs {
		if x.State.Terminal() {
			continue
		}
		for _, o := range s.of[x.Device] {
			if i := o.at[x.Device]; o.r.Pipeline == g.r.Pipeline && !o.xs[i].State.Terminal() {
				o.xs[i].State, o.xs[i].Updated = wire.Superseded, g.r.Created
				o.xs[i].Fault = &wire.Fault{Code: string(wire.Superseded), Text: "rollout " + g.r.ID + " took its place"}
				old = append(old, o.xs[i])
			}
		}
	}
	return old
}

// put stores executions as they are.
func (s *Service) put(xs []Execution) error {
	if len(xs) == 0 {
		return nil
	}
	return s.db.Update(func(tx *store.Tx) error {
		for _, x := range xs {
			if err := putExec(tx, x); err != nil {
				return err
			}
		}
		return nil
	})
}

// take applies events of the registry and stores what follows from them.
func (s *Service) take(events []registry.Event) error {
	var dirty []Execution
	for _, e := range events {
		switch e.Kind {
		case registry.EventDevice:
			dirty = append(dirty, s.look(e.Device)...)
		case registry.EventExec:
			dirty = append(dirty, s.apply(e.Device, func(r Rollout, x Execution) Execution { return Step(r, x, *e.Step) })...)
		case registry.EventLagged:
			more, err := s.lookAll()
			if dirty = append(dirty, more...); err != nil {
				return err
			}
		}
	}
	if len(dirty) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *store.Tx) error {
		for _, x := range dirty {
			if err := putExec(tx, s.newest(x)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store executions: %w", err)
	}
	return nil
}

// look applies what the registry knows of a device.
func (s *Service) look(id wire.DeviceID) []Execution {
	s.mu.Lock()
	idle := len(s.of[id]) == 0
	s.mu.Unlock()
	if idle {
		return nil
	}
	d, ok := s.reg.Device(id)
	return s.apply(id, func(r Rollout, x Execution) Execution {
		if d.Reported != nil {
			x = Reported(r, x, *d.Reported)
		}
		if !ok || !d.Revoked.IsZero() {
			x = Revoked(x)
		}
		return x
	})
}

// lookAll applies all that the registry knows: after a start, or when events
// were missed.
func (s *Service) lookAll() (dirty []Execution, err error) {
	s.mu.Lock()
	var all []Execution
	for _, g := range s.live {
		all = append(all, g.xs...)
	}
	s.mu.Unlock()
	for _, x := range all {
		if x.State.Terminal() {
			continue
		}
		steps, err := s.reg.Steps(x.Device, x.ID)
		if err != nil {
			return dirty, err
		}
		for _, step := range steps {
			dirty = append(dirty, s.apply(x.Device, func(r Rollout, x Execution) Execution { return Step(r, x, step) })...)
		}
		dirty = append(dirty, s.look(x.Device)...)
	}
	return dirty, nil
}

// apply changes the live executions of a device in memory, and returns those
// that are to be stored.
func (s *Service) apply(id wire.DeviceID, fn func(Rollout, Execution) Execution) (dirty []Execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.of[id] {
		i := g.at[id]
		x := fn(g.r, g.xs[i])
		if reflect.DeepEqual(x, g.xs[i]) {
			continue
		}
		x.Updated = time.Now().UTC()
		g.xs[i] = x
		dirty = append(dirty, x)
	}
	if dirty != nil {
		s.tell()
	}
	return dirty
}

// newest is x as it is in memory now: commits may come in another order than
// the changes they carry.
func (s *Service) newest(x Execution) Execution {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.live[x.Rollout]; g != nil {
		return g.xs[g.at[x.Device]]
	}
	return x
}

// Abort ends a rollout: devices that are not done are asked for what they had
// before, and those that are done keep the release. ErrNotFound, ErrOver.
func (s *Service) Abort(id, by string) (Rollout, error) {
	s.mu.Lock()
	g := s.live[id]
	if g == nil {
		s.mu.Unlock()
		r, _, err := s.Get(id)
		if err == nil {
			err = ErrOver
		}
		return r, err
	}
	g.r.State = wire.RolloutAborted
	r := g.r
	s.tell()
	s.mu.Unlock()
	s.log.Info().Str("rollout", id).Str("by", by).Msg("rollout aborted")
	return r, s.db.Update(func(tx *store.Tx) error {
		// The loop may have closed it meanwhile, and its word is the last.
		now, err := store.Get[Rollout](tx, bucketRollout, id)
		if err != nil || !now.Ended.IsZero() {
			return err
		}
		return store.Put(tx, bucketRollout, id, r)
	})
}

// Get is one rollout with its executions by device: ErrNotFound.
func (s *Service) Get(id string) (r Rollout, xs []Execution, err error) {
	s.mu.Lock()
	if g := s.live[id]; g != nil {
		r, xs = g.r, slices.Clone(g.xs)
	}
	s.mu.Unlock()
	if xs == nil {
		err = s.db.View(func(tx *store.Tx) error {
			if r, err = store.Get[Rollout](tx, bucketRollout, id); err != nil {
				return err
			}
			xs, err = executions(tx, id)
			return err
		})
	}
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNotFound
	}
	r.Counts = count(xs)
	return r, xs, err
}

// List is every rollout, newest first.
func (s *Service) List() (rs []Rollout, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketRollout, "", func(_ string, r Rollout) error {
			rs = append(rs, r)
			return nil
		})
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range rs {
		if g := s.live[r.ID]; g != nil {
			rs[i] = g.r
			rs[i].Counts = count(g.xs)
		}
	}
	slices.SortFunc(rs, func(a, b Rollout) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return rs, err
}

// Run takes in what devices say and makes the moves that rollouts ask for,
// until ctx ends. It is called once.
func (s *Service) Run(ctx context.Context) error {
	w := s.reg.Watch(eventBuffer)
	defer w.Close()
	events := []registry.Event{{Kind: registry.EventLagged}} // what happened before
	for ctx.Err() == nil {
		err := s.take(events)
		if err != nil {
			s.log.Error().Err(err).Msg("what devices said of their executions is not stored")
		}
		if s.moveAll(ctx) || err != nil {
			if !sleep(ctx, retry) {
				break
			}
			events = append(events[:0], registry.Event{Kind: registry.EventLagged})
			continue
		}
		events = s.wait(ctx, w, events[:0])
	}
	return nil
}

// wait returns the events that came, as many as are there already, so that they
// share a commit; none when the loop was woken or ctx ended.
func (s *Service) wait(ctx context.Context, w *registry.Watch, events []registry.Event) []registry.Event {
	select {
	case <-ctx.Done():
		return events
	case <-s.wake:
	case e := <-w.C:
		events = append(events, e)
	}
	for len(events) < eventBuffer {
		select {
		case e := <-w.C:
			events = append(events, e)
		default:
			return events
		}
	}
	return events
}

func sleep(ctx context.Context, d time.Duration) (slept bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// moveAll brings every live rollout as far as it goes by itself, and says
// whether something failed and should be tried again.
func (s *Service) moveAll(ctx context.Context) (again bool) {
	s.mu.Lock()
	ids := make([]string, 0, len(s.live))
	for id := range s.live {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	for _, id := range ids {
		if err := s.move(ctx, id); err != nil {
			s.log.Error().Err(err).Str("rollout", id).Msg("rollout cannot go on")
			again = true
		}
	}
	return again
}

// move makes all moves of one rollout, and closes it when it is over.
func (s *Service) move(ctx context.Context, id string) error {
	s.mu.Lock()
	g := s.live[id]
	moves, over := Next(g.r, g.xs)
	s.mu.Unlock()
	for len(moves) > 0 && ctx.Err() == nil {
		n := min(len(moves), movesPerCommit)
		if err := s.commit(g, moves[:n]); err != nil {
			return err
		}
		moves = moves[n:]
	}
	if over {
		return s.close(g)
	}
	return nil
}

// commit makes moves in one transaction: the desired documents and the
// executions that ask for them change together or not at all.
func (s *Service) commit(g *group, moves []Move) error {
	var done []Execution
	err := s.db.Update(func(tx *store.Tx) error {
		done = done[:0]
		for _, m := range moves {
			s.mu.Lock()
			r, x := g.r, g.xs[m.Execution]
			s.mu.Unlock()
			if x.State.Terminal() {
				continue // superseded, or aborted, since Next looked
			}
			x, err := s.make(tx, m.Kind, r, x)
			if err == nil {
				err = putExec(tx, x)
			}
			if err != nil {
				return fmt.Errorf("device %s: %w", x.Device, err)
			}
			done = append(done, x)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range done {
		now := &g.xs[g.at[x.Device]]
		if now.State.Terminal() { // superseded meanwhile
			now.Rev, now.Before = x.Rev, x.Before
			continue
		}
		now.Rev, now.Before, now.State, now.Updated, now.Fault = x.Rev, x.Before, x.State, x.Updated, x.Fault
	}
	s.tell()
	return nil
}

// make makes one move and returns the execution after it.
func (s *Service) make(tx *store.Tx, kind MoveKind, r Rollout, x Execution) (Execution, error) {
	x.Updated = time.Now().UTC()
	switch kind {
	case Order:
		d, err := s.reg.UpdateDesired(tx, x.Device, func(d *wire.DesiredSigned) error {
			dev, _ := s.reg.Device(x.Device)
			x.Before = before(d.Pipelines, r.Pipeline, dev.Reported)
			d.Pipelines[r.Pipeline] = wish(r, x)
			return nil
		})
		x.Rev = d.Rev
		switch {
		case errors.Is(err, registry.ErrNotFound):
			return Revoked(x), nil
		case errors.Is(err, registry.ErrInvalid): // the others of the commit shall not wait for this one
			return reject(x, CodeDesired, err.Error()), nil
		}
		return x, err
	case Undo:
		_, err := s.reg.UpdateDesired(tx, x.Device, func(d *wire.DesiredSigned) error {
			if d.Pipelines[r.Pipeline].Execution != x.ID {
				return nil // somebody asked for something else since
			}
			delete(d.Pipelines, r.Pipeline)
			if x.Before != nil {
				d.Pipelines[r.Pipeline] = *x.Before
			}
			return nil
		})
		if errors.Is(err, registry.ErrNotFound) {
			err = nil
		}
		x.State, x.Fault = wire.Canceled, nil
		return x, err
	default:
		x.State, x.Fault = wire.Canceled, nil
		return x, nil
	}
}

// close writes the end of a rollout and forgets it.
func (s *Service) close(g *group) error {
	s.mu.Lock()
	r := g.r
	if r.State == wire.RolloutRunning {
		r.State = wire.RolloutCompleted
	}
	r.Ended, r.Counts = time.Now().UTC(), count(g.xs)
	s.mu.Unlock()
	if err := s.db.Update(func(tx *store.Tx) error { return store.Put(tx, bucketRollout, r.ID, r) }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(g)
	s.tell()
	s.log.Info().Str("rollout", r.ID).Str("state", string(r.State)).Interface("counts", r.Counts).Msg("rollout over")
	return nil
}
