package rollout

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

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
		wake, again := s.moveAll(ctx)
		if again || err != nil {
			if !sleep(ctx, retry) {
				break
			}
			events = append(events[:0], registry.Event{Kind: registry.EventLagged})
			continue
		}
		events = s.wait(ctx, w, wake, events[:0])
	}
	return nil
}

// wait returns the events that came, as many as are there already, so that they
// share a commit; none when the loop was woken, wake has come, or ctx ended.
func (s *Service) wait(ctx context.Context, w *registry.Watch, wake time.Time, events []registry.Event) []registry.Event {
	var alarm <-chan time.Time
	if !wake.IsZero() {
		t := time.NewTimer(time.Until(wake))
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-ctx.Done():
		return events
	case <-alarm:
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

// moveAll brings every live rollout as far as it goes by itself, and says when to look
// again, and whether something failed and should be tried again.
func (s *Service) moveAll(ctx context.Context) (wake time.Time, again bool) {
	now, look := time.Now(), s.recruited.Add(recruitPause)
	if !now.Before(look) {
		if err := s.recruitAll(); err != nil {
			s.log.Error().Err(err).Msg("new devices cannot be taken into rollouts")
			again = true
		}
		s.recruited, look = now, now.Add(recruitEvery)
	}
	s.mu.Lock()
	var due []string
	for id, g := range s.live {
		if g.due || !g.wake.IsZero() && !now.Before(g.wake) {
			due = append(due, id)
		}
	}
	s.mu.Unlock()
	slices.Sort(due)
	for _, id := range due {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = s.move(id); err != nil {
				s.log.Error().Err(err).Str("rollout", id).Msg("rollout cannot go on")
				again = true
				break
			}
		}
	}
	return s.next(look), again
}

// next is when some rollout wants to be looked at though nothing happens. New devices
// are looked for at look, where a rollout takes any.
func (s *Service) next(look time.Time) (wake time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.live {
		if !g.wake.IsZero() && (wake.IsZero() || g.wake.Before(wake)) {
			wake = g.wake
		}
		if g.r.recruits() && (wake.IsZero() || look.Before(wake)) {
			wake = look
		}
	}
	return wake
}

// move decides about one rollout, once, and does as much of it as one transaction may
// hold. more says that there is more to be done now.
func (s *Service) move(id string) (more bool, err error) {
	s.work.Lock()
	defer s.work.Unlock()
	s.mu.Lock()
	g := s.live[id]
	if g == nil {
		s.mu.Unlock()
		return false, nil
	}
	g.due = false
	r, xs := g.r, slices.Clone(g.xs)
	s.mu.Unlock()
	facts := s.facts(r, xs)
	d := Next(r, xs, facts)
	next := r.decided(d, xs, facts.Now)
	quiet := len(d.Moves) == 0 && reflect.DeepEqual(next, r)
	if !quiet {
		err = s.commit(g, next, d.Moves[:min(len(d.Moves), movesPerCommit)])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		g.due = true
		return false, err
	}
	g.wake = d.Wake
	if quiet && d.Over && !d.Tail {
		s.drop(g)
		s.tell()
	}
	return !quiet, nil
}

// decided is r as a decision leaves it.
func (r Rollout) decided(d Decision, xs []Execution, now time.Time) Rollout {
	r.State, r.Cause, r.Reason, r.Phases, r.Tail = d.State, d.Cause, d.Reason, d.Phases, d.Tail
	for _, a := range d.Acts {
		r.note(now, "", a)
	}
	if d.Over && r.Ended.IsZero() {
		r.Ended = now
		r.note(now, "", string(r.State))
	}
	if d.Over {
		r.Counts, r.Back = count(xs)
	}
	return r
}

// commit stores how a rollout stands and makes moves, in one transaction: the desired
// documents and the executions that ask for them change together or not at all.
func (s *Service) commit(g *group, r Rollout, moves []Move) error {
	var made, old []Execution
	s.mu.Lock()
	before, xs := g.r, slices.Clone(g.xs)
	s.mu.Unlock()
	err := s.db.Update(func(tx *store.Tx) error {
		made, old = made[:0], old[:0]
		for _, m := range moves {
			x := xs[m.Execution]
			y, err := s.make(tx, m.Kind, r, x)
			if err == nil && y.ID != x.ID {
				if !x.State.Terminal() {
					x.State = wire.Canceled
				}
				err = putPast(tx, x)
			}
			if err == nil {
				err = putExec(tx, y)
			}
			if err != nil {
				return fmt.Errorf("device %s: %w", x.Device, err)
			}
			made = append(made, y)
			if m.Kind == Order {
				old = append(old, s.replaced(g, y)...)
			}
		}
		for _, x := range old {
			if err := putExec(tx, x); err != nil {
				return err
			}
		}
		if err := putEvent(tx, before.State, r, xs, ""); err != nil {
			return err
		}
		return store.Put(tx, bucketRollout, r.ID, r)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.r = r
	for _, x := range made {
		g.xs[g.at[x.Device]] = x
	}
	for _, x := range old {
		o := s.live[x.Rollout]
		o.xs[o.at[x.Device]], o.due = x, true
	}
	s.tell()
	if before.State != r.State || !before.Ended.Equal(r.Ended) {
		s.log.Info().Str("rollout", r.ID).Str("state", string(r.State)).Str("reason", r.Reason).Msg("rollout goes on")
	}
	return nil
}

// replaced is the executions of older rollouts, as they end now that their device was
// asked for another.
func (s *Service) replaced(g *group, y Execution) (old []Execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.olderThan(g, y) {
		old = append(old, superseded(o.xs[o.at[y.Device]], g.r))
	}
	return old
}

// make makes one move and returns the execution after it.
func (s *Service) make(tx *store.Tx, kind MoveKind, r Rollout, x Execution) (Execution, error) {
	x.Updated = time.Now().UTC()
	switch kind {
	case Order:
		w := wish(r, x)
		d, err := s.reg.UpdateDesired(tx, x.Device, func(d *wire.DesiredSigned) error {
			if d.Pipelines[r.Pipeline].Execution != x.ID && x.To == nil { // else it was staged, and goes on
				dev, _ := s.reg.Device(x.Device)
				if b := before(d.Pipelines, r.Pipeline, dev.Reported); b != nil {
					x.Before = b
				} else if x.Before == nil {
					x.Before = running(tx, r, dev.Reported)
				}
			}
			d.Pipelines[r.Pipeline] = w
			return nil
		})
		x.Rev, x.Mode = d.Rev, w.Mode
		switch {
		case errors.Is(err, registry.ErrNotFound):
			return Revoked(x), nil
		case errors.Is(err, registry.ErrInvalid): // the others of the commit shall not wait for this one
			return reject(x, CodeDesired, err.Error()), nil
		}
		return x, err
	case Back:
		return s.takeBack(tx, r, x)
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

// running is a wish for what a device runs though it was asked for something else last,
// which it refused or went back from; nil where that is no release of ours.
func running(tx *store.Tx, r Rollout, rep *wire.Reported) *wire.DesiredRelease {
	if rep == nil {
		return nil
	}
	a := rep.Pipelines[r.Pipeline].Active
	if a == nil || a.Release == "" || a.Release == r.Release.Digest {
		return nil
	}
	e, err := store.Get[Entry](tx, bucketRelease, string(a.Release))
	if err != nil {
		return nil
	}
	return &wire.DesiredRelease{
		Release: e.Digest, Length: e.Length, Name: e.Name, Version: e.Version,
		Execution: wire.NewID("ex"), Attempt: 1, Mode: wire.ModeActivate,
	}
}

// takeBack begins the execution that takes a device back to what it ran before, in the
// place of x, which it returns.
func (s *Service) takeBack(tx *store.Tx, r Rollout, x Execution) (Execution, error) {
	keep := func(why string) (Execution, error) {
		x.Kept = why
		return x, nil
	}
	switch b := x.Before; {
	case b == nil:
		return keep(CodeBefore + ": nothing of ours ran before; it keeps what it runs")
	case b.Release == r.Release.Digest:
		return keep("it ran this release before")
	}
	y := Execution{
		ID: wire.NewID("ex"), Rollout: x.Rollout, Device: x.Device, Phase: x.Phase, State: wire.Queued, Updated: x.Updated,
		To: &Release{Digest: x.Before.Release, Length: x.Before.Length, Name: x.Before.Name, Version: x.Before.Version},
	}
	d, err := s.reg.UpdateDesired(tx, x.Device, func(d *wire.DesiredSigned) error {
		now := d.Pipelines[r.Pipeline]
		if now.Execution != x.ID {
			return errOvertaken
		}
		dev, _ := s.reg.Device(x.Device)
		y.Attempt = attempt(r.Pipeline, y.To.Digest, &now, dev.Reported)
		w := wish(r, y)
		d.Pipelines[r.Pipeline], y.Mode = w, w.Mode
		return nil
	})
	y.Rev = d.Rev
	switch {
	case errors.Is(err, errOvertaken):
		return keep("something else was asked of it since")
	case errors.Is(err, registry.ErrNotFound):
		return keep(CodeRevoked + ": the device is revoked")
	case errors.Is(err, registry.ErrInvalid):
		return keep(err.Error())
	}
	return y, err
}

// errOvertaken ends a change that somebody else's wish forbids.
var errOvertaken = errors.New("something else is asked for")
