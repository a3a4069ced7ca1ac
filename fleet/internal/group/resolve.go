package group

import (
	"slices"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Membership says when it is decided who is in a group.
type Membership string

const (
	// Static is a list of ids: who is in it changes when somebody changes the list.
	Static Membership = "static"
	// Snapshot is a query that a rollout asks once, when it starts.
	Snapshot Membership = "snapshot"
	// Dynamic is a query that a rollout goes on asking: devices that come into the
	// group later get it, too.
	Dynamic Membership = "dynamic"
)

// A Definition is what a name of a group stands for.
type Definition struct {
	Query   Query
	Devices []wire.DeviceID // where there is no query
}

// Groups are the names of groups that a query uses, each once, in order.
func (q Query) Groups() (names []string) {
	walk(q.root, func(r ref) { names = append(names, r.name) })
	slices.Sort(names)
	return slices.Compact(names)
}

// Named is the name of the group that the query is, alone.
func (q Query) Named() (name string, ok bool) {
	r, ok := q.root.(ref)
	return r.name, ok
}

func walk(n node, fn func(ref)) {
	switch n := n.(type) {
	case ref:
		fn(n)
	case notOf:
		walk(n.node, fn)
	case allOf:
		for _, k := range n {
			walk(k, fn)
		}
	case anyOf:
		for _, k := range n {
			walk(k, fn)
		}
	}
}

// Resolve is the query with its named groups found, and theirs. text is the query
// as it was written, for what is said about a group that is not there, is a part
// of itself, or makes the query too long; an error is an *Error.
func (q Query) Resolve(text string, lookup func(name string) (Definition, bool)) (Query, error) {
	r := resolver{text: text, lookup: lookup, done: map[string]*members{}}
	root, cost, err := r.node(q.root, nil)
	if err == nil && cost > maxCost {
		err = &Error{Text: text, Column: 1, What: "with the groups that it names the query asks too much of each device", Fix: "name a group once"}
	}
	if err != nil {
		return Query{}, err
	}
	return Query{root, q.all}, nil
}

type resolver struct {
	text   string
	lookup func(string) (Definition, bool)
	done   map[string]*members
	at     int // of the group in text that is being resolved
}

// node is n with its groups, and how many conditions that is. path is the names
// on the way to it.
func (r *resolver) node(n node, path []string) (node, int, error) {
	switch n := n.(type) {
	case ref:
		if len(path) == 0 {
			r.at = min(n.at, len(r.text))
		}
		m, err := r.members(n.name, path)
		if err != nil {
			return nil, 0, err
		}
		n.members = m
		return n, m.cost + 1, nil
	case notOf:
		k, cost, err := r.node(n.node, path)
		return notOf{k}, cost, err
	case allOf:
		list, cost, err := r.nodes(n, path)
		return allOf(list), cost, err
	case anyOf:
		list, cost, err := r.nodes(n, path)
		return anyOf(list), cost, err
	case *test:
		return n, max(len(n.values), 1), nil
	}
	return n, 1, nil
}

func (r *resolver) nodes(list []node, path []string) (out []node, cost int, err error) {
	for _, n := range list {
		k, c, err := r.node(n, path)
		if err != nil {
			return nil, 0, err
		}
		out, cost = append(out, k), min(cost+c, maxCost+1)
	}
	return out, cost, nil
}

func (r *resolver) members(name string, path []string) (*members, error) {
	if slices.Contains(path, name) {
		return nil, mistake(r.text, r.at, "a group cannot be a part of itself: "+strings.Join(append(path, name), " → "), "take one of them out")
	}
	if m := r.done[name]; m != nil {
		return m, nil
	}
	def, ok := r.lookup(name)
	if !ok {
		return nil, mistake(r.text, r.at, "there is no group "+name, "see covey group list")
	}
	m := &members{cost: 1}
	if def.Query.root == nil {
		m.list = make(map[wire.DeviceID]bool, len(def.Devices))
		for _, id := range def.Devices {
			m.list[id] = true
		}
	} else {
		root, cost, err := r.node(def.Query.root, append(slices.Clip(path), name))
		if err != nil {
			return nil, err
		}
		m.query, m.cost = Query{root, def.Query.all}, cost
	}
	r.done[name] = m
	return m, nil
}
