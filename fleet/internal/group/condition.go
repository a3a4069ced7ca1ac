package group

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

// An op is what stands between a field and a value.
type op string

const (
	equal   op = "=="
	differs op = "!="
	less    op = "<"
	atMost  op = "<="
	more    op = ">"
	atLeast op = ">="
	like    op = "~"
	has     op = "has"
	in      op = "in"
)

// ordered says whether the op asks for an order.
func (o op) ordered() bool { return o == less || o == atMost || o == more || o == atLeast }

// holds says whether a comparison with this result is what the op asks for.
func (o op) holds(c int) bool {
	switch o {
	case less:
		return c < 0
	case atMost:
		return c <= 0
	case more:
		return c > 0
	case atLeast:
		return c >= 0
	}
	return c == 0 // != is turned round in match
}

// A test is one condition: a field, an op, a value or, behind in, some.
type test struct {
	field  *field
	key    string // label, engine or pipeline
	op     op
	values []value
	yes    bool              // a truth's value
	is     func(string) bool // whether a word is one of the values; made once, since lists are many
}

// A value is what a person wrote, and what it means for the field's kind.
type value struct {
	text  string
	num   float64
	ver   semver
	isNum bool
	isVer bool
	name  string // of a release; ver is its version where it has one
}

// match follows one rule: where a device has nothing to compare, nothing holds
// but !=.
func (t *test) match(s *Subject) bool { return t.holds(s) != (t.op == differs) }

// holds answers what != asks as if it were ==.
func (t *test) holds(s *Subject) bool {
	switch t.field.kind {
	case truth:
		return t.field.yes(s) == t.yes
	case list:
		return t.field.any(s, t.is)
	case number, size, age:
		have, ok := t.field.num(s)
		return ok && slices.ContainsFunc(t.values, func(v value) bool { return t.op.holds(cmp.Compare(have, v.num)) })
	case label:
		have, ok := s.Label(t.key)
		if !t.op.ordered() {
			return ok && t.is(have)
		}
		return ok && t.orderedLabel(have)
	case release:
		return t.matchRelease(t.field.slot(s, t.key))
	}
	have := t.field.word(s, t.key)
	if have == "" {
		return false
	}
	switch t.field.kind {
	case version:
		return t.matchVersion(have)
	case state:
		return t.is(have) || t.is(wire.ExecState(have).Word())
	}
	return t.is(have)
}

// word says whether a word is one of the values, or like the one.
func (t *test) word(have string) bool {
	if t.op == like {
		return glob(t.values[0].text, have)
	}
	for _, v := range t.values {
		if v.text == have {
			return true
		}
	}
	return false
}

func (t *test) orderedLabel(have string) bool {
	v := t.values[0]
	if v.isNum {
		n, ok := parseNumber(have)
		return ok && t.op.holds(cmp.Compare(n, v.num))
	}
	ver, ok := parseVersion(have)
	return ok && t.op.holds(ver.compare(v.ver))
}

// matchVersion compares versions as such, and what is none as a word.
func (t *test) matchVersion(have string) bool {
	if t.op == like {
		return t.is(have)
	}
	ver, ok := parseVersion(have)
	for _, v := range t.values {
		if ok && v.isVer && t.op.holds(ver.compare(v.ver)) || !t.op.ordered() && v.text == have {
			return true
		}
	}
	return false
}

// matchRelease: a name alone means any version; an order is within the name.
func (t *test) matchRelease(have *wire.ReportedSlot) bool {
	if have == nil {
		return false
	}
	if t.op == like {
		return t.is(have.Name + "@" + have.Version)
	}
	ver, ok := parseVersion(have.Version)
	for _, v := range t.values {
		switch {
		case v.name != have.Name:
		case v.text == v.name: // any version
			return true
		case ok && v.isVer:
			if t.op.holds(ver.compare(v.ver)) {
				return true
			}
		case !t.op.ordered() && v.text == v.name+"@"+have.Version:
			return true
		}
	}
	return false
}

// name is the field as it is written: a label's without "label." where that will do.
func (t *test) name() string {
	if t.field.kind == label && !Taken(t.key) {
		return t.key
	}
	return t.field.name + t.key
}

func (t *test) write(b *strings.Builder) {
	b.WriteString(t.name())
	if t.field.kind == truth {
		if !t.yes {
			b.WriteString(" == false")
		}
		return
	}
	b.WriteString(" " + string(t.op) + " ")
	if t.op != in {
		t.writeValue(b, t.values[0])
		return
	}
	for i, v := range t.values {
		b.WriteString([]string{"[", ", "}[min(i, 1)])
		t.writeValue(b, v)
	}
	b.WriteByte(']')
}

func (t *test) writeValue(b *strings.Builder, v value) {
	switch k := t.field.kind; {
	case k == number:
		b.WriteString(formatNumber(v.num))
	case k == size:
		b.WriteString(formatSize(v.num))
	case k == age:
		b.WriteString(formatAge(v.num))
	case k == version && v.isVer && t.op != like, k == label && t.op.ordered():
		b.WriteString(v.text)
	default:
		b.WriteString(quote(v.text))
	}
}

// read is what a person wrote as a value of the field. fix is what could have
// been written, where it cannot be read.
func (t *test) read(s string) (v value, fix string) {
	v.text = s
	switch t.field.kind {
	case number:
		trimmed := strings.TrimSuffix(s, t.field.unit)
		if v.num, v.isNum = parseNumber(trimmed); !v.isNum {
			return v, "write a number: " + t.field.example
		}
	case size:
		if v.num, v.isNum = parseSize(s); !v.isNum {
			return v, "write a size, as 512MiB, 1GiB or 2GB: " + t.field.example
		}
	case age:
		if v.num, v.isNum = parseAge(s); !v.isNum {
			return v, "write a duration, as 30m, 24h or 7d: " + t.field.example
		}
	case version:
		if v.ver, v.isVer = parseVersion(s); !v.isVer && t.op.ordered() {
			return v, "write a version: " + t.field.example
		}
	case label:
		v.num, v.isNum = parseNumber(s)
		if v.ver, v.isVer = parseVersion(s); !v.isNum && !v.isVer && t.op.ordered() {
			return v, "labels have an order by number or version: floor >= 2"
		}
	case release:
		name, ver, _ := strings.Cut(s, "@")
		v.name = name
		if v.ver, v.isVer = parseVersion(ver); !v.isVer && t.op.ordered() {
			return v, "write name@version: " + t.field.example
		}
	case state:
		if !wire.ExecState(s).Valid() && !slices.Contains([]string{"waiting", "downloading", "trying", "done", "failed"}, s) {
			return v, "write waiting, downloading, trying, done, failed, or a state as SUCCEEDED, ROLLED_BACK"
		}
	}
	return v, ""
}

// quote writes a text so that the lexer reads it again.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// noun is what stands behind an op where not any word will do.
func (f *field) noun() string {
	if f.kind == label {
		return "a number or a version"
	}
	return kinds[f.kind].name
}

// ops is a field's list of what may be asked, for people.
func (f *field) ops() string {
	list := kinds[f.kind].ops
	var b strings.Builder
	for i, o := range list {
		switch {
		case i == 0:
		case i == len(list)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(o))
	}
	return b.String()
}

// clip shortens what is shown of somebody's text.
func clip(s string) string {
	if r := []rune(s); len(r) > 32 {
		s = string(r[:32]) + "…"
	}
	return strconv.Quote(s)
}
