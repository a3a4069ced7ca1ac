// Package group is the small language in which people say which devices they mean:
//
//	site == "lyon" and accel has "edgetpu" and ram >= 1GiB and not (agent < 1.4.0)
//
// A query is read once, with every mistake found and pointed at, and then asked of
// as many devices as there are. The package is pure: a device is a Subject, named
// groups are what a function says they are.
package group

import (
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

// Limits of a query.
const (
	MaxText  = 4 << 10 // bytes, as it is written and as String writes it
	MaxDepth = 32      // of parentheses, and of not
	maxCost  = 4096    // conditions, those of named groups each time they are used
)

// A Query names devices. A device that was revoked is in no group, unless the
// query itself speaks of revoked. The zero Query names none.
type Query struct {
	root node
	all  bool // revoked devices, too
}

// All names every device.
func All() Query { return Query{root: everyone{}} }

// Match says whether a device is in the group. Named groups must have been resolved;
// nobody is in one that was not.
func (q Query) Match(s *Subject) bool {
	return q.root != nil && (q.all || !s.Revoked) && q.root.match(s)
}

// String is the query in its one canonical form. Parse reads it as the same query.
func (q Query) String() string {
	if q.root == nil {
		return ""
	}
	var b strings.Builder
	q.root.write(&b)
	return b.String()
}

// A node is a part of a query.
type node interface {
	match(*Subject) bool
	write(*strings.Builder)
}

type (
	everyone struct{}
	allOf    []node // two or more, none of them an allOf
	anyOf    []node // two or more, none of them an anyOf
	notOf    struct{ node }
	// A ref is a named group. at is its column, for who cannot find it.
	ref struct {
		name string
		at   int
		*members
	}
)

// members are who is in a named group: a query or a list.
type members struct {
	query Query
	list  map[wire.DeviceID]bool // nil: the query counts
	cost  int                    // conditions to be asked
}

func (everyone) match(*Subject) bool { return true }

func (n allOf) match(s *Subject) bool {
	for _, k := range n {
		if !k.match(s) {
			return false
		}
	}
	return true
}

func (n anyOf) match(s *Subject) bool {
	for _, k := range n {
		if k.match(s) {
			return true
		}
	}
	return false
}

func (n notOf) match(s *Subject) bool { return !n.node.match(s) }

func (r ref) match(s *Subject) bool {
	switch {
	case r.members == nil:
		return false
	case r.list != nil:
		return r.list[s.ID]
	}
	return r.query.Match(s)
}

func (everyone) write(b *strings.Builder) { b.WriteString("all") }

func (n allOf) write(b *strings.Builder) {
	for i, k := range n {
		if i > 0 {
			b.WriteString(" and ")
		}
		if _, is := k.(anyOf); is {
			inParentheses(b, k)
			continue
		}
		k.write(b)
	}
}

func (n anyOf) write(b *strings.Builder) {
	for i, k := range n {
		if i > 0 {
			b.WriteString(" or ")
		}
		k.write(b)
	}
}

// write puts parentheses around whatever is more than a word. They count as one
// with their not, or what Parse took could be too deep when it is written.
func (n notOf) write(b *strings.Builder) {
	b.WriteString("not ")
	switch k := n.node.(type) {
	case everyone, ref, notOf:
		k.write(b)
		return
	case *test:
		if k.field.kind == truth && k.yes {
			k.write(b)
			return
		}
	}
	inParentheses(b, n.node)
}

func (r ref) write(b *strings.Builder) { b.WriteString("@" + r.name) }

func inParentheses(b *strings.Builder, n node) {
	b.WriteByte('(')
	n.write(b)
	b.WriteByte(')')
}
