package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	groups "github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// buckets of the store
const (
	bucketRollout = "rollout"      // id → Rollout
	bucketExec    = "rollout.exec" // rollout/device → Execution, the last one
	bucketPast    = "rollout.past" // rollout/device/execution → Execution, those before it
)

// movesPerCommit bounds one transaction: many devices share a sync of the disk,
// and others still get their turn.
const movesPerCommit = 256

// Rollouts of dynamic membership look for new devices whenever something happens, since
// that may bring one into a group, and every recruitEvery, since time may. Each look goes
// through all devices: recruitPause is between two, however much happens.
const (
	recruitEvery = 30 * time.Second
	recruitPause = time.Second
)

// retry is how long the loop waits after a move that could not be made.
const retry = 5 * time.Second

// eventBuffer is how many events of the registry may wait and be stored at once.
const eventBuffer = 1024

var (
	// ErrNotFound says that there is no such rollout.
	ErrNotFound = errors.New("no such rollout")
	// ErrOver says that a rollout has ended.
	ErrOver = errors.New("rollout is over")
	// ErrState says that a rollout is not in a state in which one can ask this of it.
	ErrState = errors.New("not now")
	// ErrRole says that somebody may not approve a phase.
	ErrRole = errors.New("not allowed to approve")
)

// A Service runs all rollouts. It may be used by many goroutines. Rollouts that
// are not over are in memory, and every change of them in the store as well.
type Service struct {
	db    database
	reg   *registry.Registry
	log   zerolog.Logger
	match Match
	began time.Time
	wake  chan struct{} // one waiting wake-up is enough: the loop looks at everything

	recruited time.Time // when new devices were looked for; Run's own

	// work is held by who decides about a rollout, from looking at it until what was
	// decided is stored: what people ask and what the loop does are one after the other.
	work sync.Mutex

	mu      sync.Mutex
	live    map[string]*group          // rollouts that may do something still
	of      map[wire.DeviceID][]*group // the live rollouts of a device
	changed chan struct{}              // closed and made anew at each change
}

// A database is what is needed of the store. Tests put one in its place that breaks.
type database interface {
	View(func(*store.Tx) error) error
	Update(func(*store.Tx) error) error
}

// A group is a live rollout. Its fields are guarded by Service.mu.
type group struct {
	r   Rollout
	xs  []Execution
	at  map[wire.DeviceID]int // index in xs
	due bool                  // something happened since Next was asked
	// stands is how its devices stood when they were looked at last.
	stands map[wire.DeviceID]stand
	// when to ask Next though nothing happens; zero: no need
	wake time.Time
}

// A stand is what of a device changes decisions, besides what it says of an execution.
type stand struct{ online, degraded bool }

func newGroup(r Rollout, xs []Execution) *group {
	g := &group{r: r, xs: xs, at: make(map[wire.DeviceID]int, len(xs)), stands: make(map[wire.DeviceID]stand, len(xs)), due: true}
	for i, x := range xs {
		g.at[x.Device] = i
	}
	return g
}

// Open reads the rollouts that are not over. They go on with Run.
func Open(db *store.Store, reg *registry.Registry, log zerolog.Logger) (*Service, error) {
	return open(db, reg, log)
}

func open(db database, reg *registry.Registry, log zerolog.Logger) (*Service, error) {
	s := &Service{
		db: db, reg: reg, log: log, match: matchIn(reg), began: time.Now(), wake: make(chan struct{}, 1),
		live: map[string]*group{}, of: map[wire.DeviceID][]*group{}, changed: make(chan struct{}),
	}
	var live []*group
	err := db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketRollout, "", func(_ string, r Rollout) error {
			if !r.Ended.IsZero() && !r.Tail {
				return nil
			}
			xs, err := executions(tx, r.ID)
			live = append(live, newGroup(r.filled(), xs))
			return err
		})
	})
	// A crash may have come between a rollout and what it supersedes.
	slices.SortFunc(live, func(a, b *group) int { return a.r.Created.Compare(b.r.Created) })
	var old []Execution
	var retired []Rollout
	for _, g := range live {
		old, retired = append(old, s.supersede(g)...), append(retired, s.retire(g)...)
		s.add(g)
	}
	if err == nil {
		err = s.put(old, retired...)
	}
	if err != nil {
		return nil, fmt.Errorf("open rollouts: %w", err)
	}
	return s, nil
}

// matchIn finds the devices of a query in a registry.
func matchIn(reg *registry.Registry) Match {
	return func(query string) (map[wire.DeviceID]bool, error) {
		q, err := reg.Query(query)
		if err != nil {
			return nil, err
		}
		in := map[wire.DeviceID]bool{}
		for _, d := range reg.Select(q) {
			in[d.ID] = true
		}
		return in, nil
	}
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

// A Wanted is a rollout as it is asked for.
type Wanted struct {
	Release  Release
	Pipeline string
	Query    string // the group
	By       string
	Policy   policy.Policy
	Draft    bool   // it begins when it is resumed
	Apply    string // name of the file that asks for it; "": a person does
}

// Assign puts the targets of a plan into the phases of a policy.
func (s *Service) Assign(p policy.Policy, digest wire.Digest, targets []Target) error {
	return Assign(p, digest, targets, s.match)
}

// follows says whether the query is a named group that rollouts go on asking.
func (s *Service) follows(query string) bool {
	q, err := s.reg.Query(query)
	return err == nil && s.reg.Membership(q) == groups.Dynamic
}

// Start begins a rollout to the targets of a plan. Refused targets get an
// execution that is REJECTED at once, so that nobody misses them; those that no phase
// takes get none. Executions of older rollouts on the same pipeline of these devices
// are superseded. When it returns, the rollout is stored and nothing of it is ordered
// yet; Run does that.
func (s *Service) Start(w Wanted, targets []Target) (Rollout, error) {
	if err := w.Policy.Validate(); err != nil {
		return Rollout{}, err
	}
	if w.Policy.Membership == "" && s.follows(w.Query) {
		w.Policy.Membership = policy.Dynamic
	}
	now := time.Now().UTC()
	r := Rollout{
		ID: wire.NewID("ro"), Release: w.Release, Pipeline: w.Pipeline, Query: w.Query, By: w.By, Apply: w.Apply, Policy: w.Policy.Filled(),
		State: wire.RolloutRunning, Created: now,
	}
	r.Phases = pending(r.Policy)
	switch {
	case w.Draft:
		r.State = wire.RolloutDraft
	case now.Before(r.Policy.Start):
		r.State, r.Reason = wire.RolloutScheduled, begins(r.Policy.Start)
	}
	if err := s.Assign(r.Policy, r.Release.Digest, targets); err != nil {
		return r, err
	}
	var xs []Execution
	for _, t := range targets {
		x := Execution{ID: wire.NewID("ex"), Rollout: r.ID, Device: t.Device, Phase: t.Phase, Attempt: t.Attempt, Variant: t.SHA256, State: wire.Queued, Updated: now}
		switch {
		case t.Refusal != nil:
			x.State, x.Fault = wire.Rejected, t.Refusal
		case t.Phase < 0:
			continue
		}
		xs = append(xs, x)
	}
	// In the order that the store gives them back.
	slices.SortFunc(xs, compareDevice)
	r.Devices = len(xs)
	r.Counts, _ = count(xs)
	r.note(now, w.By, fmt.Sprintf("asked for %s on %s of %s", r.Release, r.Pipeline, devices(r.Devices)))
	s.work.Lock()
	defer s.work.Unlock()
	err := s.db.Update(func(tx *store.Tx) error {
		for _, x := range xs {
			if err := putExec(tx, x); err != nil {
				return err
			}
		}
		if err := putEvent(tx, "", r, xs, w.By); err != nil {
			return err
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

// putPast keeps an execution that another one takes the place of.
func putPast(tx *store.Tx, x Execution) error {
	return store.Put(tx, bucketPast, x.Rollout+"/"+string(x.Device)+"/"+x.ID, x)
}

// begin makes a stored rollout live and supersedes what it replaces.
func (s *Service) begin(g *group) error {
	s.mu.Lock()
	old, retired := s.supersede(g), s.retire(g)
	s.add(g)
	s.tell()
	s.mu.Unlock()
	return s.put(old, retired...)
}

// retire ends the membership of older rollouts that take new devices of the very group
// that this one is of, in memory, and returns them. The caller holds mu, or nobody else
// knows s.
func (s *Service) retire(g *group) (old []Rollout) {
	for _, o := range s.live {
		r := &o.r
		if o != g && r.Policy.Membership == policy.Dynamic && r.Pipeline == g.r.Pipeline && r.Query == g.r.Query && r.Created.Before(g.r.Created) {
			r.Policy.Membership = policy.Snapshot
			r.note(g.r.Created, g.r.By, "takes no more devices: rollout "+g.r.ID+" took its place")
			o.due = true
			old = append(old, *r)
		}
	}
	return old
}

// supersede ends the executions that a rollout which is not live yet replaces, in
// memory, and returns them: those that were not asked of their devices. What a device
// is at goes on until the device is asked for something else. The caller holds mu, or
// nobody else knows s.
func (s *Service) supersede(g *group) (old []Execution) {
	for _, x := range g.xs {
		for _, o := range s.olderThan(g, x) {
			if i := o.at[x.Device]; o.xs[i].Rev == 0 || x.Rev > 0 {
				o.xs[i], o.due = superseded(o.xs[i], g.r), true
				old = append(old, o.xs[i])
			}
		}
	}
	return old
}

// olderThan is the rollouts whose executions on a device x takes the place of: they are
// older, of the same pipeline, and not through with the device. The caller holds mu, or
// nobody else knows s.
func (s *Service) olderThan(g *group, x Execution) (list []*group) {
	if x.State.Terminal() {
		return nil
	}
	for _, o := range s.of[x.Device] {
		if o.r.ID != g.r.ID && o.r.Pipeline == g.r.Pipeline && !o.r.Created.After(g.r.Created) && !o.xs[o.at[x.Device]].State.Terminal() {
			list = append(list, o)
		}
	}
	return list
}

// superseded is x after a newer rollout took its place.
func superseded(x Execution, by Rollout) Execution {
	x.State, x.Updated = wire.Superseded, time.Now().UTC()
	x.Fault = &wire.Fault{Code: string(wire.Superseded), Text: "rollout " + by.ID + " took its place"}
	return x
}

// put stores executions and rollouts as they are.
func (s *Service) put(xs []Execution, rs ...Rollout) error {
	if len(xs)+len(rs) == 0 {
		return nil
	}
	return s.db.Update(func(tx *store.Tx) error {
		for _, r := range rs {
			if err := store.Put(tx, bucketRollout, r.ID, r); err != nil {
				return err
			}
		}
		for _, x := range xs {
			if err := putExec(tx, x); err != nil {
				return err
			}
		}
		return nil
	})
}

// Get is one rollout with its executions by device: ErrNotFound.
func (s *Service) Get(id string) (r Rollout, xs []Execution, err error) {
	s.mu.Lock()
	g := s.live[id]
	if g != nil {
		r, xs = g.r, slices.Clone(g.xs)
	}
	s.mu.Unlock()
	if g == nil {
		r, xs, err = s.stored(id)
	}
	r.Counts, r.Back = count(xs)
	return r, xs, err
}

// stored is a rollout as it is in the store.
func (s *Service) stored(id string) (r Rollout, xs []Execution, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		if r, err = store.Get[Rollout](tx, bucketRollout, id); err != nil {
			return err
		}
		xs, err = executions(tx, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNotFound
	}
	return r.filled(), xs, err
}

// Past is the executions of a rollout in whose place others came: those of earlier
// attempts, and those that brought what a revert took back.
func (s *Service) Past(id string) (xs []Execution, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketPast, id+"/", func(_ string, x Execution) error {
			xs = append(xs, x)
			return nil
		})
	})
	return xs, err
}

// List is every rollout, newest first.
func (s *Service) List() (rs []Rollout, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketRollout, "", func(_ string, r Rollout) error {
			rs = append(rs, r.filled())
			return nil
		})
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range rs {
		if g := s.live[r.ID]; g != nil {
			rs[i] = g.r
			rs[i].Counts, rs[i].Back = count(g.xs)
		}
	}
	slices.SortFunc(rs, func(a, b Rollout) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return rs, err
}
