package api

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/sse"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/wire"
)

const (
	// pingEvery tells both ends of a quiet stream that the other is there.
	pingEvery = 15 * time.Second
	// settle is how long changes are gathered before they are sent.
	settle = 100 * time.Millisecond
	// maxStreams bounds those of all clients: each remembers what it has sent.
	maxStreams = 256
)

// watches registers the streams. Each begins with how things stand.
func (a *API) watches() {
	tags := []string{"watch"}
	devices := a.prepare(huma.Operation{OperationID: "watch-devices", Method: http.MethodGet, Path: "/v1/watch/devices", Summary: "Devices of a query, now and whenever they change", Tags: tags}, viewer)
	devices.Middlewares = append(devices.Middlewares, a.knownQuery)
	sse.Register(a.huma, devices, map[string]any{"device": v1.DeviceChange{}, "ping": v1.Ping{}}, a.watchDevices)
	rollouts := a.prepare(huma.Operation{OperationID: "watch-rollout", Method: http.MethodGet, Path: "/v1/watch/rollouts/{id}", Summary: "A rollout, now and whenever it changes, until it is over", Tags: tags}, viewer)
	rollouts.Middlewares = append(rollouts.Middlewares, a.knownRollout)
	sse.Register(a.huma, rollouts, map[string]any{"rollout": v1.RolloutChange{}, "ping": v1.Ping{}}, a.watchRollout)
}

// A stream gives every write of an event its time, and lifts the limit once the
// event is through. With HTTP/2 a deadline that passes while there is nothing to
// write ends the stream, too.
type stream struct{ http.ResponseWriter }

// SetWriteDeadline is called before an event is written.
func (s stream) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(s.ResponseWriter).SetWriteDeadline(t)
}

// Flush is called when it was.
func (s stream) Flush() {
	c := http.NewResponseController(s.ResponseWriter)
	if err := c.Flush(); err == nil {
		_ = c.SetWriteDeadline(time.Time{}) // it was set a moment ago
	}
}

// WatchDevices is what watch-devices takes.
type WatchDevices struct {
	Query string `query:"query" maxLength:"4096"`
}

func (a *API) watchDevices(ctx context.Context, in *WatchDevices, send sse.Sender) {
	w := a.cfg.Registry.Watch(1024)
	defer w.Close()
	q, err := a.query(in.Query) // a group in it may have gone since it was checked
	if err != nil {
		return
	}
	sent := map[wire.DeviceID]v1.Device{}
	show := func(d registry.Device) error {
		desired, err := a.cfg.Registry.Desired(d.ID)
		if err != nil {
			return err
		}
		now := deviceOf(d, desired, time.Now())
		if old, ok := sent[d.ID]; ok && sameDevice(old, now) {
			return nil
		}
		sent[d.ID] = now
		return send.Data(v1.DeviceChange{Device: now})
	}
	all := func() error {
		for _, d := range a.cfg.Registry.Select(q) {
			if err := show(d); err != nil {
				return err
			}
		}
		return nil
	}
	err = all()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-ping.C:
			if err = a.welcome(ctx); err == nil {
				err = send.Data(v1.Ping{Time: time.Now().UTC()})
			}
		case e := <-w.C:
			d, found := a.cfg.Registry.Device(e.Device)
			_, shown := sent[e.Device] // one that left the group is shown leaving
			switch {
			case e.Kind == registry.EventLagged:
				err = all()
			case e.Kind == registry.EventGroup:
				if q, err = a.query(in.Query); err == nil {
					err = all()
				}
			case e.Kind == registry.EventResult || !found:
			case a.cfg.Registry.Match(q, d) || shown:
				err = show(d)
			}
		}
	}
}

// sameDevice says whether nothing but the time changed.
func sameDevice(a, b v1.Device) bool {
	a.Seen = b.Seen
	return reflect.DeepEqual(a, b)
}

// knownRollout answers not found while there is still a status to say it with.
func (a *API) knownRollout(ctx huma.Context, next func(huma.Context)) {
	if _, _, err := a.cfg.Rollouts.Get(ctx.Param("id")); err != nil {
		a.writeHuma(ctx, a.problem("watch-rollout", err))
		return
	}
	next(ctx)
}

func (a *API) watchRollout(ctx context.Context, in *RolloutID, send sse.Sender) {
	sent := map[wire.DeviceID]v1.Execution{}
	var last v1.Rollout
	for {
		changed := a.cfg.Rollouts.Changed()
		r, xs, err := a.cfg.Rollouts.Get(in.ID)
		if err != nil {
			return
		}
		c := v1.RolloutChange{Rollout: rolloutOf(r, xs), Executions: news(sent, r, xs)}
		if len(c.Executions) > 0 || !reflect.DeepEqual(c.Rollout, last) {
			last = c.Rollout
			if send.Data(c) != nil {
				return
			}
		}
		if !r.Ended.IsZero() || !a.pause(ctx, changed, send) {
			return
		}
	}
}

// news are the executions that differ from what was sent, which it updates.
func news(sent map[wire.DeviceID]v1.Execution, r rollout.Rollout, xs []rollout.Execution) []v1.Execution {
	list := []v1.Execution{}
	for _, x := range xs {
		v := executionOf(r, x)
		old, ok := sent[x.Device]
		old.Updated = v.Updated // the time alone is no news
		if ok && reflect.DeepEqual(old, v) {
			continue
		}
		sent[x.Device] = v
		list = append(list, v)
	}
	return list
}

// pause waits for a change, and a little more for those that come with it. It says
// no when the client is gone, or its token.
func (a *API) pause(ctx context.Context, changed <-chan struct{}, send sse.Sender) (goOn bool) {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ping.C:
			if a.welcome(ctx) != nil || send.Data(v1.Ping{Time: time.Now().UTC()}) != nil {
				return false
			}
		case <-changed:
			t := time.NewTimer(settle)
			defer t.Stop()
			select {
			case <-ctx.Done():
				return false
			case <-t.C:
				return a.welcome(ctx) == nil
			}
		}
	}
}
