package rollout

import (
	"fmt"
	"reflect"
	"time"

	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// take applies events of the registry and stores what follows from them.
func (s *Service) take(events []registry.Event) error {
	if len(events) == 0 {
		return nil
	}
	s.work.Lock()
	defer s.work.Unlock()
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
	s.stand(d)
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
		g.xs[i], g.due = x, true
		dirty = append(dirty, x)
	}
	if dirty != nil {
		s.tell()
	}
	return dirty
}

// stand notes how a device stands, and lets its rollouts be asked again when that
// changed.
func (s *Service) stand(d registry.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.of[d.ID] {
		now := stand{d.Online(), degraded(d, g.r.Pipeline)}
		if g.stands[d.ID] != now {
			g.stands[d.ID], g.due = now, true
		}
	}
}

// degraded says whether a pipeline of a device lost its accelerator.
func degraded(d registry.Device, pipeline string) bool {
	return d.Reported != nil && d.Reported.Pipelines[pipeline].Degraded != "" ||
		d.Health != nil && d.Health.Pipes[pipeline].Degraded == wire.DegradedFallback
}

// facts are what is known of the devices of a rollout. What a controller that was
// down has not heard is no reason to think that a device was away.
func (s *Service) facts(r Rollout, xs []Execution) Facts {
	f := Facts{Now: time.Now().UTC(), Devices: make([]Fact, len(xs))}
	for i, x := range xs {
		d, _ := s.reg.Device(x.Device)
		f.Devices[i] = Fact{Online: d.Online(), Seen: d.LastSeen, Degraded: degraded(d, r.Pipeline), Site: d.Labels[r.Policy.SiteLabel]}
		if d.LastSeen.Before(s.began) {
			f.Devices[i].Seen = s.began
		}
	}
	return f
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
