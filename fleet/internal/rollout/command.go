package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

func compareDevice(a, b Execution) int { return cmp.Compare(a.Device, b.Device) }

// A change is what somebody does to a rollout. It says what that was, for its history;
// the executions it returns take the place of their devices'.
type change func(r *Rollout, xs []Execution) (what string, instead []Execution, err error)

// command does to a rollout what somebody asked for.
// ErrNotFound, and the errors of fn.
func (s *Service) command(id, by string, fn change) (Rollout, error) {
	s.work.Lock()
	defer s.work.Unlock()
	s.mu.Lock()
	g := s.live[id]
	s.mu.Unlock()
	alive := g != nil
	if !alive {
		r, xs, err := s.stored(id)
		if err != nil {
			return r, err
		}
		g = newGroup(r, xs)
	}
	s.mu.Lock()
	r, xs := g.r, slices.Clone(g.xs)
	s.mu.Unlock()
	r.Phases = slices.Clone(r.Phases)
	before := r.State
	what, instead, err := fn(&r, xs)
	if err != nil {
		return r, err
	}
	r.note(time.Now().UTC(), by, what)
	if !over(r.State) {
		r.Ended = time.Time{}
	}
	err = s.db.Update(func(tx *store.Tx) error {
		for _, x := range instead {
			if err := putPast(tx, xs[g.at[x.Device]]); err != nil {
				return err
			}
			if err := putExec(tx, x); err != nil {
				return err
			}
		}
		if err := putEvent(tx, before, r, xs, by); err != nil {
			return err
		}
		return store.Put(tx, bucketRollout, id, r)
	})
	if err != nil {
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.r, g.due = r, true
	for _, x := range instead {
		g.xs[g.at[x.Device]] = x
	}
	if !alive {
		s.add(g)
	}
	s.tell()
	s.log.Info().Str("rollout", id).Str("by", by).Str("state", string(r.State)).Msg("rollout: " + what)
	r.Counts, r.Back = count(g.xs)
	return r, nil
}

// not says that one cannot ask this of a rollout now.
func not(r *Rollout, what string) error {
	if over(r.State) {
		return fmt.Errorf("%w: it is %s and cannot be %s", ErrOver, r.State, what)
	}
	return fmt.Errorf("%w: it is %s and cannot be %s", ErrState, r.State, what)
}

// Pause lets a rollout order nothing more. What is under way goes on.
func (s *Service) Pause(id, by string) (Rollout, error) {
	return s.command(id, by, pausing(by))
}

func pausing(by string) change {
	return func(r *Rollout, _ []Execution) (string, []Execution, error) {
		switch r.State {
		case wire.RolloutRunning, wire.RolloutApproval, wire.RolloutScheduled:
			r.State, r.Cause, r.Reason = wire.RolloutPaused, CauseOperator, "paused by "+by
			return "paused", nil, nil
		}
		return "", nil, not(r, "paused")
	}
}

// Resume lets a rollout go on, or begin where it is a draft. The failures so far are
// forgiven: whoever resumes has seen them. A gate is asked again.
func (s *Service) Resume(id, by string) (Rollout, error) {
	return s.command(id, by, resuming())
}

func resuming() change {
	return func(r *Rollout, xs []Execution) (string, []Execution, error) {
		switch r.State {
		case wire.RolloutPaused, wire.RolloutDraft:
			forgive(r, xs)
			r.State, r.Cause, r.Reason = wire.RolloutRunning, "", ""
			return "resumed", nil, nil
		}
		return "", nil, not(r, "resumed")
	}
}

// forgive takes note of the failures so far, in the phase that failed.
func forgive(r *Rollout, xs []Execution) {
	for i := range r.Phases {
		if p := &r.Phases[i]; p.State == PhaseFailed {
			n := next{r: *r}
			p.Forgiven = 0
			for _, x := range xs {
				if x.Phase == i && member(x) && n.failed(x) {
					p.Forgiven++
				}
			}
		}
	}
}

// Approve says yes to what a rollout waits for: a phase that wants to be approved
// before it begins, or one that failed, or whose gates wait, and that passes by this
// word. may says whether whoever it is has a role, "operator" or "admin". ErrRole.
func (s *Service) Approve(id, by string, may func(role string) bool) (Rollout, error) {
	return s.command(id, by, approving(by, time.Now().UTC(), may))
}

func approving(by string, now time.Time, may func(role string) bool) change {
	return func(r *Rollout, _ []Execution) (string, []Execution, error) {
		i := slices.IndexFunc(r.Phases, func(p Phase) bool { return p.State != PhasePassed })
		if i < 0 || over(r.State) || r.State == wire.RolloutDraft || r.State == wire.RolloutRollingBack {
			return "", nil, not(r, "approved")
		}
		p, spec := &r.Phases[i], r.Policy.Phases[i]
		role := cmp.Or(spec.Approval, "operator")
		if !may(role) {
			return "", nil, fmt.Errorf("%w: phase %s needs an %s", ErrRole, spec.Name, role)
		}
		switch {
		case p.State == PhasePending && spec.Approval != "" && p.Approved == nil:
			p.Approved = &Approval{by, now}
			return "approved phase " + spec.Name, nil, nil
		case p.State == PhaseFailed, p.State == PhaseGating:
			p.Approved, p.State, p.Since = &Approval{by, now}, PhasePassed, now
			if gated(r.Cause) {
				r.State, r.Cause, r.Reason = wire.RolloutRunning, "", ""
			}
			return "let phase " + spec.Name + " pass: " + p.Reason, nil, nil
		}
		return "", nil, fmt.Errorf("%w: nothing waits to be approved; phase %s is %s", ErrState, spec.Name, p.State)
	}
}

// Abort ends a rollout: devices that are not done are asked for what they had
// before, and those that are done keep the release. ErrNotFound, ErrOver.
func (s *Service) Abort(id, by string) (Rollout, error) {
	return s.command(id, by, aborting(by))
}

func aborting(by string) change {
	return func(r *Rollout, _ []Execution) (string, []Execution, error) {
		if over(r.State) && !r.Tail {
			return "", nil, ErrOver
		}
		r.State, r.Cause, r.Reason, r.Tail = wire.RolloutAborted, "", "aborted by "+by, false
		return "aborted; who has it keeps it", nil, nil
	}
}

// Revert ends a rollout, also one that ended before, and takes every device that runs
// the release by it back to what it ran before.
func (s *Service) Revert(id, by string) (Rollout, error) {
	return s.command(id, by, reverting(by))
}

func reverting(by string) change {
	return func(r *Rollout, _ []Execution) (string, []Execution, error) {
		if r.State == wire.RolloutRollingBack || r.State == wire.RolloutRolledBack {
			return "", nil, not(r, "reverted")
		}
		r.State, r.Cause, r.Reason = wire.RolloutRollingBack, "", "reverted by "+by
		return "reverted", nil, nil
	}
}

// Retry asks the devices that failed again, with a new execution each. Those that could
// not take it from the beginning, and those that a newer rollout asked for something
// since, are left alone.
func (s *Service) Retry(id, by string) (Rollout, error) {
	return s.command(id, by, retrying(s.overtaken, s.again))
}

func retrying(overtaken func(Rollout) (map[wire.DeviceID]bool, error), again func(Rollout, Execution) (Execution, error)) change {
	return func(r *Rollout, xs []Execution) (string, []Execution, error) {
		taken, err := overtaken(*r)
		if err != nil {
			return "", nil, err
		}
		goesBack := r.State == wire.RolloutRolledBack || r.State == wire.RolloutRollingBack
		if r.State == wire.RolloutAborted {
			return "", nil, not(r, "retried")
		}
		var instead []Execution
		for _, x := range xs {
			if !member(x) || !x.State.Terminal() || x.State.Word() != "failed" || taken[x.Device] || goesBack && x.To == nil {
				continue
			}
			y, err := again(*r, x)
			if err != nil {
				return "", nil, err
			}
			instead = append(instead, y)
			if p := &r.Phases[x.Phase]; !goesBack {
				p.Forgiven = 0
				if p.State == PhaseFailed || over(r.State) {
					p.State, p.Reason = PhaseRunning, ""
				}
			}
		}
		if len(instead) == 0 {
			return "", nil, fmt.Errorf("%w: no device failed that could be asked again", ErrState)
		}
		switch {
		case goesBack:
			r.State = wire.RolloutRollingBack
		case over(r.State), gated(r.Cause):
			r.State, r.Cause, r.Reason = wire.RolloutRunning, "", ""
		}
		return "asked " + devices(len(instead)) + " that failed again", instead, nil
	}
}

// Activate lets devices run what a rollout has staged, phase by phase as before.
func (s *Service) Activate(id, by string) (Rollout, error) {
	return s.command(id, by, activating())
}

func activating() change {
	return func(r *Rollout, _ []Execution) (string, []Execution, error) {
		if !r.Policy.Order.Stages() || over(r.State) || r.State == wire.RolloutRollingBack {
			return "", nil, fmt.Errorf("%w: nothing is staged by it", ErrState)
		}
		r.Policy.Order.Mode = wire.ModeActivate
		r.Phases = pending(r.Policy)
		r.State, r.Cause, r.Reason = wire.RolloutRunning, "", ""
		return "activated", nil, nil
	}
}
