package registry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

const (
	maxQuery  = 1024 // bytes
	maxTerms  = 32
	maxLabels = 32 // of a device
	maxValue  = 64 // bytes of a label's value or a device's name
)

// A Query names a group of devices: "all", an id, or "key=value", joined by
// commas that all must hold. The keys are labels, and from the inventory id, name,
// board, os, arch, agent, accelerator, pipeline and online. Devices that were
// revoked are in no group. The zero Query is the empty group.
type Query struct{ terms []term }

type term struct{ key, value string }

// inventory is what a device says of itself, by the key of a query. A label
// cannot have such a name.
func inventory(d Device, key string) (values []string, ok bool) {
	switch key {
	case "all":
		return nil, true
	case "id":
		return []string{string(d.ID)}, true
	case "name":
		return []string{d.Name}, true
	case "online":
		return []string{strconv.FormatBool(d.Online())}, true
	}
	h := d.Hello
	if h == nil {
		h = &wire.Hello{}
	}
	switch key {
	case "board":
		return []string{h.Board}, true
	case "os":
		return []string{h.OS}, true
	case "arch":
		return []string{h.Arch}, true
	case "agent":
		return []string{h.Agent}, true
	case "accelerator":
		for _, a := range h.Accelerators {
			values = append(values, a.Accelerator)
		}
		return values, true
	case "pipeline":
		for _, p := range h.Pipelines {
			values = append(values, p.Name)
		}
		return values, true
	}
	return nil, false
}

// ParseQuery reads a query. Errors wrap ErrInvalid.
func ParseQuery(s string) (q Query, err error) {
	if len(s) > maxQuery {
		return q, fmt.Errorf("query: %w: longer than %d bytes", ErrInvalid, maxQuery)
	}
	for part := range strings.SplitSeq(s, ",") {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return Query{}, fmt.Errorf("query %q: %w", s, err)
		}
		q.terms = append(q.terms, t)
	}
	if len(q.terms) > maxTerms {
		return Query{}, fmt.Errorf("query: %w: more than %d terms", ErrInvalid, maxTerms)
	}
	ids := 0
	for _, t := range q.terms {
		if t.key == "id" {
			ids++
		}
	}
	if ids > 1 {
		return Query{}, fmt.Errorf("query %q: %w: a comma means and, no device has two ids; give the devices a label, `covey device label`", s, ErrInvalid)
	}
	return q, nil
}

func parseTerm(s string) (t term, err error) {
	key, value, isPair := strings.Cut(s, "=")
	switch {
	case s == "all":
		return term{key: "all"}, nil
	case !isPair && wire.ValidID(s):
		return term{"id", s}, nil
	case !isPair:
		return t, fmt.Errorf("%w: %q is neither all, an id nor key=value", ErrInvalid, s)
	case !wire.ValidID(key) || key == "all":
		return t, fmt.Errorf("%w: %q is no key, use [a-z0-9-]{1,32}", ErrInvalid, key)
	case !validValue(value):
		return t, fmt.Errorf("%w: %q is no value, use 1 to %d printable characters", ErrInvalid, value, maxValue)
	}
	return term{key, value}, nil
}

// String is the query as ParseQuery reads it.
func (q Query) String() string {
	parts := make([]string, len(q.terms))
	for i, t := range q.terms {
		switch t.key {
		case "all":
			parts[i] = "all"
		default:
			parts[i] = t.key + "=" + t.value
		}
	}
	return strings.Join(parts, ",")
}

// Match says whether a device is in the group.
func (q Query) Match(d Device) bool {
	for _, t := range q.terms {
		values, ok := inventory(d, t.key)
		if !ok {
			values = []string{d.Labels[t.key]}
		}
		if t.key != "all" && !slices.Contains(values, t.value) {
			return false
		}
	}
	return len(q.terms) > 0 && d.Revoked.IsZero()
}

// All matches every device that was not revoked.
func All() Query { return Query{[]term{{key: "all"}}} }

// ValidLabels checks labels to be set: keys like ids that no inventory key is
// called, values printable and short. An empty value takes a label away.
func ValidLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("labels: %w: at most %d", ErrInvalid, maxLabels)
	}
	for k, v := range labels {
		if _, taken := inventory(Device{}, k); taken || !wire.ValidID(k) {
			return fmt.Errorf("label %q: %w: use [a-z0-9-]{1,32}, and not a key of the inventory", k, ErrInvalid)
		}
		if v != "" && !validValue(v) {
			return fmt.Errorf("label %s=%q: %w: use up to %d printable characters without a comma", k, v, ErrInvalid, maxValue)
		}
	}
	return nil
}

func validValue(v string) bool {
	return v != "" && len(v) <= maxValue && printable(v) && !strings.Contains(v, ",") && strings.TrimSpace(v) == v
}

func printable(s string) bool {
	for _, c := range s {
		if !strconv.IsPrint(c) || c == '\uFFFD' {
			return false
		}
	}
	return true
}
