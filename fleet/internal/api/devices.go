package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/wire"
)

// DeviceID is a device in a path.
type DeviceID struct {
	ID wire.DeviceID `path:"id" pattern:"^[a-z0-9-]{1,32}$"`
}

// DevicePipeline is a pipeline of a device in a path.
type DevicePipeline struct {
	DeviceID
	Pipeline string `path:"pipeline" pattern:"^([a-z0-9-]{1,32}|\\*)$" doc:"* is all"`
}

// devices registers what is about boards.
func (a *API) devices() {
	tags := []string{"devices"}
	add(a, huma.Operation{OperationID: "list-devices", Method: http.MethodGet, Path: "/v1/devices", Summary: "Devices of a query, by id", Tags: tags}, viewer, a.listDevices)
	add(a, huma.Operation{OperationID: "show-device", Method: http.MethodGet, Path: "/v1/devices/{id}", Summary: "All that is known of a device", Tags: tags}, viewer, a.showDevice)
	add(a, huma.Operation{OperationID: "change-device", Method: http.MethodPatch, Path: "/v1/devices/{id}", Summary: "Rename or label a device", Tags: tags}, operator, a.changeDevice)
	add(a, huma.Operation{OperationID: "revoke-device", Method: http.MethodPost, Path: "/v1/devices/{id}/revoke", Summary: "Take back a device's certificates and end its connections", Tags: tags}, operator,
		func(_ context.Context, in *DeviceID) (*empty, error) { return &empty{}, a.cfg.Registry.Revoke(in.ID) })
	add(a, huma.Operation{OperationID: "ask-results", Method: http.MethodPut, Path: "/v1/devices/{id}/pipelines/{pipeline}/results", Summary: "Ask for the results of a pipeline, or stop asking", Tags: tags}, operator, a.askResults)
	add(a, huma.Operation{OperationID: "list-results", Method: http.MethodGet, Path: "/v1/devices/{id}/pipelines/{pipeline}/results", Summary: "Results that were asked for, in order of arrival", Tags: tags}, viewer, a.listResults)
}

func (a *API) listDevices(_ context.Context, in *struct {
	Query string        `query:"query" maxLength:"4096" doc:"Which devices, as in site == lyon and ram >= 1GiB; empty: all"`
	After wire.DeviceID `query:"after" maxLength:"32" doc:"next of the page before"`
	Limit int           `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
}) (*body[v1.Devices], error) {
	q, err := a.query(in.Query)
	if err != nil {
		return nil, err
	}
	list := a.cfg.Registry.Select(q)
	at, found := slices.BinarySearchFunc(list, in.After, func(d registry.Device, id wire.DeviceID) int {
		return compare(d.ID, id)
	})
	if found {
		at++
	}
	list = list[at:]
	out := v1.Devices{Devices: []v1.Device{}}
	if len(list) > in.Limit {
		list = list[:in.Limit]
		out.Next = string(list[in.Limit-1].ID)
	}
	for _, d := range list {
		w, err := a.cfg.Registry.Desired(d.ID)
		if err != nil {
			return nil, err
		}
		out.Devices = append(out.Devices, deviceOf(d, w, time.Now()))
	}
	return ok(out)
}

func compare[S ~string](a, b S) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (a *API) device(id wire.DeviceID) (d registry.Device, w wire.DesiredSigned, err error) {
	d, found := a.cfg.Registry.Device(id)
	if !found {
		return d, w, fmt.Errorf("device %q: %w", id, registry.ErrNotFound)
	}
	w, err = a.cfg.Registry.Desired(id)
	return d, w, err
}

func (a *API) showDevice(_ context.Context, in *DeviceID) (*body[v1.DeviceDetail], error) {
	d, w, err := a.device(in.ID)
	if err != nil {
		return nil, err
	}
	return ok(v1.DeviceDetail{Device: deviceOf(d, w, time.Now()), Hello: d.Hello, Health: d.Health, Reported: d.Reported, Desired: &w})
}

func (a *API) changeDevice(_ context.Context, in *struct {
	DeviceID
	Body v1.DevicePatch
}) (*body[v1.Device], error) {
	labels := map[string]string{}
	for k, v := range in.Body.Labels {
		if v == nil {
			labels[k] = "" // takes it away
			continue
		}
		if *v == "" {
			return nil, invalid("label %q has no value; null takes a label away", k)
		}
		labels[k] = *v
	}
	if len(labels) > 0 {
		if err := a.cfg.Registry.SetLabels(in.ID, labels); err != nil {
			return nil, err
		}
	}
	if in.Body.Name != nil {
		if err := a.cfg.Registry.Rename(in.ID, *in.Body.Name); err != nil {
			return nil, err
		}
	}
	d, w, err := a.device(in.ID)
	if err != nil {
		return nil, err
	}
	return ok(deviceOf(d, w, time.Now()))
}

func (a *API) askResults(_ context.Context, in *struct {
	DevicePipeline
	Body v1.Ask
}) (*body[v1.Device], error) {
	_, err := a.cfg.Registry.ChangeDesired(in.ID, func(d *wire.DesiredSigned) error {
		d.Config.Results = ask(d.Config.Results, in.Pipeline, in.Body.On)
		return nil
	})
	if err != nil {
		return nil, err
	}
	d, w, err := a.device(in.ID)
	if err != nil {
		return nil, err
	}
	return ok(deviceOf(d, w, time.Now()))
}

// ask is the list of pipelines whose results are wanted, with one turned on or
// off. Turning off all empties it.
func ask(list []string, pipeline string, on bool) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(p string) bool { return p == pipeline || pipeline == "*" })
	if on {
		list = append(list, pipeline)
	}
	slices.Sort(list)
	return list
}

func (a *API) listResults(_ context.Context, in *struct {
	DevicePipeline
	After uint64 `query:"after" doc:"n of the last one of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
}) (*body[v1.Results], error) {
	if _, found := a.cfg.Registry.Device(in.ID); !found {
		return nil, fmt.Errorf("device %q: %w", in.ID, registry.ErrNotFound)
	}
	list, err := a.cfg.Registry.Answers(in.ID, in.Pipeline, in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	out := v1.Results{Results: []v1.Result{}}
	for _, w := range list {
		r := v1.Result{N: w.N, Arrived: w.At}
		if w.Lost {
			r.Lost = &wire.Lost{}
			err = json.Unmarshal(w.Payload, r.Lost)
		} else {
			r.Result = &wire.Result{}
			err = json.Unmarshal(w.Payload, r.Result)
		}
		if err != nil {
			return nil, fmt.Errorf("result %d of %s: %w", w.N, in.ID, err)
		}
		out.Results = append(out.Results, r)
	}
	return ok(out)
}

// deviceOf puts together what people see of a device. Pure.
func deviceOf(d registry.Device, w wire.DesiredSigned, now time.Time) v1.Device {
	out := v1.Device{
		ID: d.ID, Name: d.Name, Labels: d.AllLabels(), State: d.State, Seen: d.LastSeen, Joined: d.Enrolled,
		Pipelines: []v1.Pipeline{},
	}
	if out.State == "" {
		out.State = "new"
	}
	if !d.Revoked.IsZero() {
		out.State = "revoked"
	}
	if d.Duplicate(now) {
		out.Flags = append(out.Flags, "duplicate_identity")
	}
	if d.Hello != nil {
		out.Board, out.Agent = d.Hello.Board, d.Hello.Agent
	}
	for _, name := range pipelineNames(d, w) {
		out.Pipelines = append(out.Pipelines, pipelineOf(name, d, w))
	}
	return out
}

// pipelineNames are the pipelines that the device or the fleet speaks of.
func pipelineNames(d registry.Device, w wire.DesiredSigned) []string {
	names := map[string]bool{}
	if d.Hello != nil {
		for _, p := range d.Hello.Pipelines {
			names[p.Name] = true
		}
	}
	if d.Reported != nil {
		for name := range d.Reported.Pipelines {
			names[name] = true
		}
	}
	for name := range w.Pipelines {
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func pipelineOf(name string, d registry.Device, w wire.DesiredSigned) v1.Pipeline {
	p := v1.Pipeline{Name: name, Results: slices.Contains(w.Config.Results, name) || slices.Contains(w.Config.Results, "*")}
	if d.Reported != nil {
		r := d.Reported.Pipelines[name]
		p.State, p.Fault, p.Pinned, p.Accel = r.State, r.Fault, r.Pinned, r.Accelerator
		p.Release = slotOf(r.Active)
	}
	if want, ok := w.Pipelines[name]; ok {
		p.Wanted = &v1.Release{Digest: want.Release, Name: want.Name, Version: want.Version}
	}
	if d.Health != nil {
		p.FPS = d.Health.Pipes[name].FPS
	}
	return p
}

func slotOf(s *wire.ReportedSlot) *v1.Release {
	if s == nil {
		return nil
	}
	return &v1.Release{Digest: s.Release, Name: s.Name, Version: s.Version}
}
