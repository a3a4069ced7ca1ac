package api

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/wire"
)

// RolloutID is a rollout in a path.
type RolloutID struct {
	ID string `path:"id" pattern:"^[a-z0-9-]{1,32}$"`
}

// rollouts registers what changes devices.
func (a *API) rollouts() {
	tags := []string{"rollouts"}
	add(a, huma.Operation{OperationID: "plan", Method: http.MethodPost, Path: "/v1/plan", Summary: "What a rollout would do; changes nothing", Tags: tags}, viewer, a.planRollout)
	add(a, huma.Operation{OperationID: "start-rollout", Method: http.MethodPost, Path: "/v1/rollouts", Summary: "Bring a release to a pipeline of a group of devices", DefaultStatus: http.StatusCreated, Tags: tags}, operator, a.startRollout)
	add(a, huma.Operation{OperationID: "list-rollouts", Method: http.MethodGet, Path: "/v1/rollouts", Summary: "Rollouts, newest first", Tags: tags}, viewer, a.listRollouts)
	add(a, huma.Operation{OperationID: "show-rollout", Method: http.MethodGet, Path: "/v1/rollouts/{id}", Summary: "A rollout with its executions", Tags: tags}, viewer, a.showRollout)
	for _, c := range a.commands() {
		add(a, huma.Operation{OperationID: c.name + "-rollout", Method: http.MethodPost, Path: "/v1/rollouts/{id}/" + c.name, Summary: c.does, Tags: tags}, operator, func(ctx context.Context, in *RolloutID) (*body[v1.Rollout], error) {
			r, err := c.do(in.ID, principal(ctx))
			if err != nil {
				return nil, err
			}
			return ok(rolloutOf(r, nil))
		})
	}
}

// A command is what one may do to a rollout.
type command struct {
	name, does string
	do         func(id string, by auth.Principal) (rollout.Rollout, error)
}

func (a *API) commands() []command {
	by := func(fn func(id, by string) (rollout.Rollout, error)) func(string, auth.Principal) (rollout.Rollout, error) {
		return func(id string, p auth.Principal) (rollout.Rollout, error) { return fn(id, p.Name) }
	}
	s := a.cfg.Rollouts
	return []command{
		{"pause", "Order nothing more; what is under way goes on", by(s.Pause)},
		{"resume", "Go on, or begin a draft", by(s.Resume)},
		{"approve", "Say yes to the phase that waits for it, or let one pass that failed", func(id string, p auth.Principal) (rollout.Rollout, error) {
			return s.Approve(id, p.Name, func(role string) bool { return p.Role.Covers(auth.Role(role)) })
		}},
		{"abort", "Stop a rollout; devices that are not done keep what they run", by(s.Abort)},
		{"revert", "Stop a rollout, also one that is over; who has the release goes back to what ran before", by(s.Revert)},
		{"retry", "Ask the devices that failed again", by(s.Retry)},
		{"activate", "Let devices run what was staged", by(s.Activate)},
	}
}

// A plan is what is found out before a rollout.
type plan struct {
	entry   rollout.Entry
	policy  policy.Policy // as it was said: what is absent may depend on the group
	devices []registry.Device
	targets []rollout.Target
}

func (a *API) plan(set v1.Set) (p plan, err error) {
	entry, m, err := a.release(set.Release)
	if err != nil {
		return p, err
	}
	how := policy.AtOnce()
	if set.Policy != nil {
		how = *set.Policy
	}
	if err := how.Validate(); err != nil {
		return p, err
	}
	site := how.Filled().SiteLabel
	devices, err := a.group(set.Query)
	if err != nil {
		return p, err
	}
	cs := make([]rollout.Candidate, len(devices))
	for i, d := range devices {
		w, err := a.cfg.Registry.Desired(d.ID)
		if err != nil {
			return p, err
		}
		cs[i] = rollout.Candidate{Device: d.ID, Online: d.Online(), Site: d.Labels[site], Revoked: !d.Revoked.IsZero(), Hello: d.Hello, Reported: d.Reported}
		if wish, ok := w.Pipelines[set.Pipeline]; ok {
			cs[i].Wish = &wish
		}
	}
	p = plan{entry, how, devices, rollout.Plan(*m, entry.Digest, set.Pipeline, cs)}
	return p, a.cfg.Rollouts.Assign(how, entry.Digest, p.targets)
}

// group is the devices of a query, at least one. A query that is just the id of
// a revoked device finds it too, so that it is refused with the reason.
func (a *API) group(s string) ([]registry.Device, error) {
	q, err := a.cfg.Registry.Query(s)
	if err != nil {
		return nil, err
	}
	if list := a.cfg.Registry.Select(q); len(list) > 0 {
		return list, nil
	}
	if d, found := a.cfg.Registry.Device(wire.DeviceID(s)); found {
		return []registry.Device{d}, nil
	}
	return nil, notFound("see `covey device list`", "no device matches %s", s)
}

func (a *API) planRollout(_ context.Context, in *struct{ Body v1.Set }) (*body[v1.Plan], error) {
	p, err := a.plan(in.Body)
	if err != nil {
		return nil, err
	}
	out := v1.Plan{Release: briefOf(p.entry.Release), Pipeline: in.Body.Pipeline, Query: in.Body.Query, Targets: []v1.Target{}}
	if out.Warnings, err = a.trustWarnings(p.entry, time.Now()); err != nil {
		return nil, err
	}
	out.Seconds = int64(rollout.Expected(p.policy, p.targets).Seconds())
	phases := p.policy.Filled().Phases
	for i, t := range p.targets {
		d := deviceOf(p.devices[i], wire.DesiredSigned{}, p.devices[i].LastSeen)
		v := v1.Target{Device: t.Device, State: d.State, Now: slotOf(t.Now), Variant: t.Variant, Bytes: t.Bytes, Attempt: t.Attempt, Refusal: t.Refusal}
		if t.Phase >= 0 {
			v.Phase = phases[t.Phase].Name
		}
		out.Targets = append(out.Targets, v)
	}
	return ok(out)
}

func (a *API) startRollout(ctx context.Context, in *struct{ Body v1.Set }) (*body[v1.RolloutDetail], error) {
	p, err := a.plan(in.Body)
	if err != nil {
		return nil, err
	}
	if n := in.Body.Devices; n != 0 && n != len(p.targets) {
		return nil, problem(http.StatusConflict, v1.CodeConflict, "look at the plan again", "the group has %d devices now, not %d", len(p.targets), n)
	}
	if err := refused(p); err != nil {
		return nil, err
	}
	r, err := a.cfg.Rollouts.Start(rollout.Wanted{
		Release: p.entry.Release, Pipeline: in.Body.Pipeline, Query: in.Body.Query, By: principal(ctx).Name, Policy: p.policy, Draft: in.Body.Draft, Apply: in.Body.Apply,
	}, p.targets)
	if err != nil {
		return nil, err
	}
	return a.showRollout(ctx, &RolloutID{r.ID})
}

// refused is a problem when no device of the group would do anything.
func refused(p plan) error {
	var details []v1.Detail
	for _, t := range p.targets {
		if t.Refusal == nil {
			return nil
		}
		if len(details) < 20 {
			details = append(details, v1.Detail{Where: string(t.Device), What: t.Refusal.Code + ": " + t.Refusal.Text})
		}
	}
	out := problem(http.StatusConflict, v1.CodeRefused, "", "%s: %s", details[0].Where, details[0].What)
	if n := len(p.targets); n > 1 {
		out.Detail = "none of the devices can run it; the first, " + out.Detail
	}
	out.Errors = details
	return out
}

func (a *API) listRollouts(_ context.Context, in *struct {
	Limit int `query:"limit" minimum:"1" maximum:"10000" default:"100"`
}) (*body[v1.Rollouts], error) {
	list, err := a.cfg.Rollouts.List()
	if err != nil {
		return nil, err
	}
	out := v1.Rollouts{Rollouts: []v1.Rollout{}}
	for _, r := range list[:min(len(list), in.Limit)] {
		out.Rollouts = append(out.Rollouts, rolloutOf(r, nil))
	}
	return ok(out)
}

func (a *API) showRollout(_ context.Context, in *RolloutID) (*body[v1.RolloutDetail], error) {
	r, xs, err := a.cfg.Rollouts.Get(in.ID)
	if err != nil {
		return nil, err
	}
	past, err := a.cfg.Rollouts.Past(in.ID)
	if err != nil {
		return nil, err
	}
	out := v1.RolloutDetail{Rollout: rolloutOf(r, xs), Policy: r.Policy, Executions: []v1.Execution{}, Earlier: []v1.Execution{}, History: []v1.Act{}}
	for _, x := range xs {
		out.Executions = append(out.Executions, executionOf(r, x))
	}
	for _, x := range past {
		out.Earlier = append(out.Earlier, executionOf(r, x))
	}
	for _, h := range r.History {
		out.History = append(out.History, v1.Act{At: h.At, By: h.By, What: h.What})
	}
	return ok(out)
}

// rolloutOf is r for others; without its executions its phases have no counts.
func rolloutOf(r rollout.Rollout, xs []rollout.Execution) v1.Rollout {
	out := v1.Rollout{
		ID: r.ID, Release: briefOf(r.Release), Pipeline: r.Pipeline, Query: r.Query, By: r.By, State: r.State,
		Created: r.Created, Ended: r.Ended, Devices: r.Devices, Counts: r.Counts, Back: r.Back,
		Mode: r.Policy.Order.Mode, Cause: r.Cause, Reason: r.Reason, Apply: r.Apply, Tail: r.Tail, Phases: make([]v1.Phase, len(r.Phases)),
	}
	for i, p := range r.Phases {
		spec := r.Policy.Phases[i]
		v := v1.Phase{Name: spec.Name, State: string(p.State), Since: p.Since, Soak: spec.Soak, Reason: p.Reason, Approval: spec.Approval}
		if p.Approved != nil {
			v.Approved = &v1.Act{At: p.Approved.At, By: p.Approved.By}
		}
		for _, g := range p.Gates {
			v.Gates = append(v.Gates, v1.Gate{Gate: g.Gate, Variant: g.Variant, Within: g.Within, Measured: g.Measured, Of: g.Of, Bound: math.Round(g.Bound*100) / 100, Need: g.Need, Verdict: string(g.Verdict)})
		}
		out.Phases[i] = v
	}
	for _, x := range xs {
		if x.Phase < 0 {
			continue
		}
		p := &out.Phases[x.Phase]
		if p.Counts == nil {
			p.Counts = map[wire.ExecState]int{}
		}
		p.Devices++
		p.Counts[x.State]++
		if x.To != nil && x.State.Word() == "done" {
			p.Back++
		}
	}
	return out
}

func executionOf(r rollout.Rollout, x rollout.Execution) v1.Execution {
	v := v1.Execution{
		ID: x.ID, Device: x.Device, Attempt: x.Attempt, State: x.State, Done: x.Done, Total: x.Total,
		GapMS: x.GapMS, Fault: x.Fault, Updated: x.Updated, Variant: x.Variant, Kept: x.Kept, Evidence: x.Evidence,
	}
	if x.Phase >= 0 {
		v.Phase = r.Policy.Phases[x.Phase].Name
	}
	if x.To != nil {
		to := briefOf(*x.To)
		v.Back = &to
	}
	return v
}
