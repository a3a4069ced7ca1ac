package registry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

const (
	bucketGroup = "reg.group" // name → Group

	maxGroups = 1000
	// MaxMembers is how many devices a static group may list.
	MaxMembers = 10_000
)

var (
	// ErrNoGroup says that there is no group of a name.
	ErrNoGroup = errors.New("no such group")
	// ErrUsed says that something else needs what is to be deleted.
	ErrUsed = errors.New("in use")
)

// A Group is a name for devices: a query, or a list.
type Group struct {
	Name       string           `json:"name"`
	Membership group.Membership `json:"membership"`
	Query      string           `json:"query,omitempty"`   // in its canonical form; "" of a static one
	Devices    []wire.DeviceID  `json:"devices,omitempty"` // of a static one, in order
	By         string           `json:"by"`
	Changed    time.Time        `json:"changed"`

	def group.Definition
}

// readGroups reads all groups. One that this version cannot read is left out, and
// queries that name it are refused, which is better than to ask the wrong devices.
func (r *Registry) readGroups(tx *store.Tx) error {
	return store.Each(tx, bucketGroup, "", func(name string, g Group) (err error) {
		if g.def, err = define(g); err != nil {
			r.cfg.Log.Error().Str("group", name).Err(err).Msg("group left out: set it again")
			return nil
		}
		r.groups[name] = g
		return nil
	})
}

func define(g Group) (def group.Definition, err error) {
	if g.Membership == group.Static {
		return group.Definition{Devices: g.Devices}, nil
	}
	def.Query, err = group.Parse(g.Query)
	return def, err
}

// Query reads a query, with the named groups in it as they are now. The error is a
// *group.Error. A query that is asked for long is read anew on EventGroup.
func (r *Registry) Query(text string) (group.Query, error) {
	r.grouping.RLock()
	defer r.grouping.RUnlock()
	return r.query(text, func(name string) (group.Definition, bool) {
		g, ok := r.groups[name]
		return g.def, ok
	})
}

func (r *Registry) query(text string, lookup func(string) (group.Definition, bool)) (group.Query, error) {
	q, err := group.Parse(text)
	if err != nil {
		return q, err
	}
	return q.Resolve(text, lookup)
}

// Membership says when it is decided who is in the group of a query: a named group
// alone has its own, and any other query is a snapshot.
func (r *Registry) Membership(q group.Query) group.Membership {
	if name, ok := q.Named(); ok {
		if g, ok := r.Group(name); ok {
			return g.Membership
		}
	}
	return group.Snapshot
}

// Group is one by its name.
func (r *Registry) Group(name string) (g Group, ok bool) {
	r.grouping.RLock()
	defer r.grouping.RUnlock()
	g, ok = r.groups[name]
	return g, ok
}

// Groups are all, by name.
func (r *Registry) Groups() []Group {
	r.grouping.RLock()
	defer r.grouping.RUnlock()
	return slices.SortedFunc(maps.Values(r.groups), func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
}

// SetGroup makes a group, or makes another one of it. Membership says which of
// Query and Devices counts. Errors wrap ErrInvalid, or are a *group.Error.
func (r *Registry) SetGroup(g Group) (Group, error) {
	if !wire.ValidID(g.Name) {
		return g, fmt.Errorf("group %q: %w: use [a-z0-9-]{1,32}", g.Name, ErrInvalid)
	}
	g.Changed = r.cfg.Now().UTC()
	r.grouping.Lock()
	defer r.grouping.Unlock()
	if _, there := r.groups[g.Name]; !there && len(r.groups) >= maxGroups {
		return g, fmt.Errorf("group %q: %w: there are %d already", g.Name, ErrInvalid, maxGroups)
	}
	var err error
	switch g.Membership {
	case group.Static:
		if g.Devices, err = members(g.Devices); err != nil {
			return g, fmt.Errorf("group %q: %w", g.Name, err)
		}
		g.Query = ""
	case group.Snapshot, group.Dynamic:
		g.Devices = nil
		err = r.checkGroup(&g)
	default:
		err = fmt.Errorf("group %q: %w: membership %q is not static, snapshot or dynamic", g.Name, ErrInvalid, g.Membership)
	}
	if err != nil {
		return g, err
	}
	if g.def, err = define(g); err != nil {
		return g, err
	}
	if err := r.db.Update(func(tx *store.Tx) error { return store.Put(tx, bucketGroup, g.Name, g) }); err != nil {
		return g, fmt.Errorf("group %q: %w", g.Name, err)
	}
	r.groups[g.Name] = g
	r.watch.send(Event{Kind: EventGroup})
	return g, nil
}

// checkGroup reads a group's query, and those of all groups as they would be with
// it: it must be no part of itself, and nobody's query may become too long by it.
func (r *Registry) checkGroup(g *Group) error {
	q, err := group.Parse(g.Query)
	if err != nil {
		return err
	}
	lookup := func(name string) (group.Definition, bool) {
		if name == g.Name {
			return group.Definition{Query: q}, true
		}
		other, ok := r.groups[name]
		return other.def, ok
	}
	if _, err := q.Resolve(g.Query, lookup); err != nil {
		return err
	}
	for _, other := range r.groups {
		if other.Membership == group.Static || other.Name == g.Name {
			continue
		}
		if _, err := other.def.Query.Resolve(other.Query, lookup); err != nil {
			var e *group.Error
			errors.As(err, &e)
			return fmt.Errorf("group %q: %w: group %s, which uses it, could not be asked any more: %s", g.Name, ErrInvalid, other.Name, e.What)
		}
	}
	g.Query = q.String()
	return nil
}

func members(ids []wire.DeviceID) ([]wire.DeviceID, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	if len(ids) > MaxMembers {
		return nil, fmt.Errorf("%w: %d devices, at most %d; give them a label, and make it a query", ErrInvalid, len(ids), MaxMembers)
	}
	for _, id := range ids {
		if !wire.ValidID(string(id)) {
			return nil, fmt.Errorf("%w: %q is not the id of a device", ErrInvalid, id)
		}
	}
	return ids, nil
}

// DeleteGroup forgets a group. ErrNoGroup, or ErrUsed while another one needs it.
func (r *Registry) DeleteGroup(name string) error {
	r.grouping.Lock()
	defer r.grouping.Unlock()
	if _, ok := r.groups[name]; !ok {
		return fmt.Errorf("group %q: %w", name, ErrNoGroup)
	}
	for _, other := range r.groups {
		if other.Name != name && slices.Contains(other.def.Query.Groups(), name) {
			return fmt.Errorf("group %q: %w by group %s", name, ErrUsed, other.Name)
		}
	}
	if err := r.db.Update(func(tx *store.Tx) error { return store.Delete(tx, bucketGroup, name) }); err != nil {
		return fmt.Errorf("group %q: %w", name, err)
	}
	delete(r.groups, name)
	r.watch.send(Event{Kind: EventGroup})
	return nil
}
