package registry

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/wire"
)

// maxValue is how long a device's name may be, bytes.
const maxValue = 64

// Subject is the device as queries see it.
func (d *Device) Subject(now time.Time) group.Subject {
	return group.Subject{
		ID: d.ID, Name: d.Name, Labels: d.Labels, Online: d.Online(), Revoked: !d.Revoked.IsZero(),
		Seen: d.LastSeen, Joined: d.Enrolled, Twin: d.Duplicate(now),
		Hello: d.Hello, Health: d.Health, Reported: d.Reported, Now: now,
	}
}

// AllLabels are the device's labels: those of its own configuration, and over
// them the operator's.
func (d *Device) AllLabels() map[string]string {
	all := map[string]string{}
	if d.Hello != nil {
		maps.Copy(all, d.Hello.Labels)
	}
	maps.Copy(all, d.Labels)
	return all
}

// Match says whether a device is in a group now.
func (r *Registry) Match(q group.Query, d Device) bool {
	s := d.Subject(r.cfg.Now())
	return q.Match(&s)
}

// Select are the devices of a query, by id.
func (r *Registry) Select(q group.Query) []Device {
	now := r.cfg.Now()
	var s group.Subject // one for all: it would go to the heap for each
	var found []*Device
	r.mu.RLock()
	for _, e := range r.order {
		d := e.dev.Load()
		if s = d.Subject(now); q.Match(&s) {
			found = append(found, d)
		}
	}
	r.mu.RUnlock()
	list := make([]Device, len(found))
	for i, d := range found {
		list[i] = *d
	}
	return list
}

// ValidLabels checks labels to be set: wire.CheckLabels, and no name that a query
// gives another meaning. Errors wrap ErrInvalid.
func ValidLabels(labels map[string]string) error {
	for k := range labels {
		if group.Taken(k) {
			return fmt.Errorf("label %q: %w: queries mean something else by this name; choose another", k, ErrInvalid)
		}
	}
	if err := wire.CheckLabels(labels); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func printable(s string) bool {
	for _, c := range s {
		if !strconv.IsPrint(c) || c == '\uFFFD' {
			return false
		}
	}
	return true
}
