package rollout

import (
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// recruits says whether a rollout takes devices that come into its group.
func (r Rollout) recruits() bool {
	return r.Policy.Membership == policy.Dynamic &&
		(r.State == wire.RolloutRunning || r.State == wire.RolloutApproval || r.State == wire.RolloutCompleted)
}

// recruitAll takes devices into the rollouts whose groups they came into, the newest
// rollout first: a device that two of them want gets what was asked for last.
func (s *Service) recruitAll() error {
	s.mu.Lock()
	var gs []*group
	for _, g := range s.live {
		if g.r.recruits() {
			gs = append(gs, g)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(gs, func(a, b *group) int { return b.r.Created.Compare(a.r.Created) })
	for _, g := range gs {
		if err := s.recruit(g); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) recruit(g *group) error {
	s.work.Lock()
	defer s.work.Unlock()
	in, err := s.match(g.r.Query)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var fresh []wire.DeviceID
	for id := range in {
		if _, known := g.at[id]; !known {
			fresh = append(fresh, id)
		}
	}
	r := g.r
	s.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	slices.Sort(fresh)
	taken, err := s.overtaken(r)
	if err != nil {
		return err
	}
	phase, err := joining(r.Policy, s.match)
	if err != nil {
		return err
	}
	var xs []Execution
	for _, id := range fresh[:min(len(fresh), movesPerCommit)] {
		if taken[id] {
			continue
		}
		x, err := s.again(r, Execution{Rollout: r.ID, Device: id, Phase: phase(id)})
		if err != nil {
			return err
		}
		xs = append(xs, x)
	}
	if len(xs) == 0 {
		return nil
	}
	r.Devices += len(xs)
	err = s.db.Update(func(tx *store.Tx) error {
		for _, x := range xs {
			if err := putExec(tx, x); err != nil {
				return err
			}
		}
		return store.Put(tx, bucketRollout, r.ID, r)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	all := append(slices.Clone(g.xs), xs...)
	slices.SortFunc(all, compareDevice)
	s.drop(g)
	g = newGroup(r, all)
	old := s.supersede(g) // of older rollouts
	s.add(g)
	s.tell()
	s.mu.Unlock()
	return s.put(old)
}

// again is a fresh execution in the place of x, with the attempt that the device takes.
func (s *Service) again(r Rollout, x Execution) (Execution, error) {
	y := Execution{
		ID: wire.NewID("ex"), Rollout: x.Rollout, Device: x.Device, Phase: x.Phase, Variant: x.Variant,
		To: x.To, Before: x.Before, State: wire.Queued, Updated: time.Now().UTC(),
	}
	doc, err := s.reg.Desired(x.Device)
	if err != nil {
		return y, err
	}
	var now *wire.DesiredRelease
	if w, ok := doc.Pipelines[r.Pipeline]; ok {
		now = &w
	}
	dev, _ := s.reg.Device(x.Device)
	y.Attempt = max(attempt(r.Pipeline, goal(r, y).Digest, now, dev.Reported), x.Attempt)
	return y, nil
}

// overtaken is the devices that a newer rollout asked, on the same pipeline, for
// something.
func (s *Service) overtaken(r Rollout) (map[wire.DeviceID]bool, error) {
	taken := map[wire.DeviceID]bool{}
	err := s.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketRollout, "", func(_ string, o Rollout) error {
			if o.ID == r.ID || o.Pipeline != r.Pipeline || !o.Created.After(r.Created) {
				return nil
			}
			xs, err := executions(tx, o.ID)
			for _, x := range xs {
				if x.Rev > 0 || !x.State.Terminal() {
					taken[x.Device] = true
				}
			}
			return err
		})
	})
	return taken, err
}
