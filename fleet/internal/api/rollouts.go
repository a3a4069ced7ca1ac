package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
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
	add(a, huma.Operation{OperationID: "abort-rollout", Method: http.MethodPost, Path: "/v1/rollouts/{id}/abort", Summary: "Stop a rollout; devices that are not done keep what they run", Tags: tags}, operator, a.abortRollout)
}

// A plan is what is found out before a rollout.
type plan struct {
	entry   rollout.Entry
	devices []registry.Device
	targets []rollout.Target
}

func (a *API) plan(set v1.Set) (p plan, err error) {
	entry, m, err := a.release(set.Release)
	if err != nil {
		return p, err
	}
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
		cs[i] = rollout.Candidate{Device: d.ID, Revoked: !d.Revoked.IsZero(), Hello: d.Hello, Reported: d.Reported}
		if wish, ok := w.Pipelines[set.Pipeline]; ok {
			cs[i].Wish = &wish
		}
	}
	return plan{entry, devices, rollout.Plan(*m, entry.Digest, set.Pipeline, cs)}, nil
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
	for i, t := range p.targets {
		d := deviceOf(p.devices[i], wire.DesiredSigned{}, p.devices[i].LastSeen)
		out.Targets = append(out.Targets, v1.Target{Device: t.Device, State: d.State, Now: slotOf(t.Now), Variant: t.Variant, Attempt: t.Attempt, Refusal: t.Refusal})
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
	r, err := a.cfg.Rollouts.Start(p.entry.Release, in.Body.Pipeline, in.Body.Query, principal(ctx).Name, p.targets)
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
		out.Rollouts = append(out.Rollouts, rolloutOf(r))
	}
	return ok(out)
}

func (a *API) showRollout(_ context.Context, in *RolloutID) (*body[v1.RolloutDetail], error) {
	r, xs, err := a.cfg.Rollouts.Get(in.ID)
	if err != nil {
		return nil, err
	}
	out := v1.RolloutDetail{Rollout: rolloutOf(r), Executions: []v1.Execution{}}
	for _, x := range xs {
		out.Executions = append(out.Executions, executionOf(x))
	}
	return ok(out)
}

func (a *API) abortRollout(ctx context.Context, in *RolloutID) (*body[v1.Rollout], error) {
	r, err := a.cfg.Rollouts.Abort(in.ID, principal(ctx).Name)
	if err != nil {
		return nil, err
	}
	return ok(rolloutOf(r))
}

func rolloutOf(r rollout.Rollout) v1.Rollout {
	return v1.Rollout{
		ID: r.ID, Release: briefOf(r.Release), Pipeline: r.Pipeline, Query: r.Query, By: r.By, State: r.State,
		Created: r.Created, Ended: r.Ended, Devices: r.Devices, Counts: r.Counts,
	}
}

func executionOf(x rollout.Execution) v1.Execution {
	return v1.Execution{
		ID: x.ID, Device: x.Device, Attempt: x.Attempt, State: x.State, Done: x.Done, Total: x.Total,
		GapMS: x.GapMS, Fault: x.Fault, Updated: x.Updated,
	}
}
