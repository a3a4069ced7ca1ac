package group

import (
	"fmt"
	"slices"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

// Parse reads a query:
//
//	query = or | item "," item …        ids: any of them; conditions: all of them
//	or    = and "or" and …
//	and   = unary "and" unary …
//	unary = "not" unary | "(" or ")" | "all" | "@" name | "group" name | id | condition
//
// An error is an *Error.
func Parse(s string) (Query, error) {
	if len(s) > MaxText {
		return Query{}, &Error{Text: s, Column: 1, What: fmt.Sprintf("the query has %d bytes, more than %d", len(s), MaxText), Fix: "name a part of it: covey group set <name> '<query>'"}
	}
	tokens, err := lex(s)
	if err != nil {
		return Query{}, err
	}
	p := &parser{text: s, tokens: tokens}
	root, err := p.query()
	if err != nil {
		return Query{}, err
	}
	q := Query{root: root, all: p.revoked}
	if n := len(q.String()); n > MaxText {
		return Query{}, &Error{Text: s, Column: 1, What: fmt.Sprintf("the query has %d bytes when it is written out, more than %d", n, MaxText), Fix: "name a part of it: covey group set <name> '<query>'"}
	}
	return q, nil
}

type parser struct {
	text    string
	tokens  []token
	depth   int
	revoked bool // the query speaks of revoked
}

func (p *parser) peek() token { return p.tokens[0] }

// next takes a token; the end stays.
func (p *parser) next() token {
	t := p.tokens[0]
	if t.kind != end {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *parser) fail(t token, fix, format string, args ...any) error {
	return mistake(p.text, t.at, fmt.Sprintf(format, args...), fix)
}

func (p *parser) query() (node, error) {
	if p.peek().kind == end {
		return nil, p.fail(p.peek(), "write all for every device", "the query is empty")
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	commas := p.peek().is(",")
	if commas {
		n, err = p.items(n)
		if err != nil {
			return nil, err
		}
	}
	switch t := p.peek(); {
	case t.kind == end:
	case commas && (t.is("and") || t.is("or")):
		return nil, p.mixed(t)
	default:
		return nil, p.fail(t, wrongWord(t), "expected and, or, or the end, found %s", t.shown())
	}
	return n, nil
}

// items reads a list with commas behind its first item. Ids in it are any of
// them, and conditions must all hold.
func (p *parser) items(first node) (node, error) {
	list, ids := allOf{first}, -1
	for {
		switch n := list[len(list)-1].(type) {
		case *test:
			if n.field.name != "id" || n.op != equal {
				break
			}
			if ids < 0 {
				ids = len(list) - 1
				break
			}
			one := list[ids].(*test)
			list[ids] = newTest(one.field, "", in, append(one.values, n.values...))
			list = list[:len(list)-1]
		case everyone, ref:
		default:
			return nil, p.mixed(p.peek())
		}
		if !p.peek().is(",") {
			break
		}
		p.next()
		n, err := p.unary()
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return list, nil
}

func (p *parser) mixed(t token) error {
	return p.fail(t, "write and, or, with parentheses where both are there", "a comma joins ids, or conditions without and, or, not")
}

func (p *parser) or() (node, error) {
	var list anyOf
	for {
		n, err := p.and()
		if err != nil {
			return nil, err
		}
		if more, is := n.(anyOf); is {
			list = append(list, more...)
		} else {
			list = append(list, n)
		}
		if !p.peek().is("or") {
			break
		}
		p.next()
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return list, nil
}

func (p *parser) and() (node, error) {
	var list allOf
	for {
		n, err := p.unary()
		if err != nil {
			return nil, err
		}
		if more, is := n.(allOf); is {
			list = append(list, more...)
		} else {
			list = append(list, n)
		}
		if !p.peek().is("and") {
			break
		}
		p.next()
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return list, nil
}

func (p *parser) unary() (node, error) {
	t := p.next()
	switch {
	case t.is("not"):
		if err := p.deeper(t); err != nil {
			return nil, err
		}
		var n node
		var err error
		if p.peek().is("(") { // counts as one with its not
			n, err = p.parentheses(p.next())
		} else {
			n, err = p.unary()
		}
		p.depth--
		return notOf{n}, err
	case t.is("("):
		if err := p.deeper(t); err != nil {
			return nil, err
		}
		n, err := p.parentheses(t)
		p.depth--
		return n, err
	case t.is("group"):
		name := p.next()
		if !name.value() {
			return nil, p.fail(name, "group kitchen, or @kitchen", "expected the name of a group, found %s", name.shown())
		}
		return p.ref(name, name.text)
	case t.kind == word && t.text[0] == '@':
		return p.ref(t, t.text[1:])
	case t.is("all"):
		return everyone{}, nil
	case !t.value() || t.is("and") || t.is("or") || t.is("in") || t.is("has"):
		return nil, p.fail(t, wrongWord(t), "expected a condition, found %s", t.shown())
	}
	return p.condition(t)
}

func (p *parser) deeper(t token) error {
	if p.depth++; p.depth > MaxDepth {
		return p.fail(t, "name a part of it: covey group set <name> '<query>'", "more than %d parentheses or nots in each other", MaxDepth)
	}
	return nil
}

// parentheses reads up to the closing one.
func (p *parser) parentheses(open token) (node, error) {
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	switch t := p.next(); {
	case t.is(")"):
		return n, nil
	case t.kind == end:
		return nil, p.fail(open, "put a ) where its part ends", "this parenthesis is never closed")
	case t.is(","):
		return nil, p.fail(t, "write and or or", "inside parentheses a comma means nothing")
	default:
		return nil, p.fail(t, wrongWord(t), "expected and, or or ), found %s", t.shown())
	}
}

func (p *parser) ref(t token, name string) (node, error) {
	if !wire.ValidID(name) {
		return nil, p.fail(t, "see covey group list", "%s is no name of a group: use [a-z0-9-]{1,32}", clip(name))
	}
	return ref{name: name, at: t.at}, nil
}

// condition reads what begins with a field's name, or is one alone, or an id.
func (p *parser) condition(t token) (node, error) {
	if o, _ := p.operator(); o == "" && !p.peek().is("not") {
		return p.alone(t)
	}
	f, key, keyless := find(t.text)
	switch {
	case t.kind == quoted:
		return nil, p.fail(t, "a field stands on the left, without quotes: site == lyon", "expected a field, found %s", t.shown())
	case keyless:
		return nil, p.fail(t, "as in "+f.example, "%s needs to be followed by a dot and a name", strings.TrimSuffix(f.name, "."))
	case f == nil && strings.Contains(t.text, "."):
		return nil, p.fail(t, "fields with a dot are label., runtime., release. and state.", "there is no field %s", t.shown())
	case f == nil || key != "" && !wire.ValidID(key):
		return nil, p.fail(t, "fields and labels are [a-z0-9-]{1,32}", "there is no field or label %s", t.shown())
	}
	if f.name == "revoked" {
		p.revoked = true
	}
	at := p.peek()
	o, n := p.operator()
	if o == "" { // a not
		return nil, p.fail(at, fmt.Sprintf("write not in front: not (%s in […])", t.text), "expected an operator, found not")
	}
	p.tokens = p.tokens[n:]
	if f.kind == list && o == equal {
		o = has
	}
	if !slices.Contains(kinds[f.kind].ops, o) {
		return nil, p.fail(at, "as in "+f.example, "%s is %s and takes %s, not %s", t.text, kinds[f.kind].name, f.ops(), o)
	}
	return p.values(f, key, o)
}

// operator is the one that comes next, "" for none, and of how many tokens it is.
func (p *parser) operator() (op, int) {
	switch t := p.peek(); {
	case t.is("="):
		return equal, 1
	case t.kind == sign && slices.Contains([]op{equal, differs, less, atMost, more, atLeast, like}, op(t.text)), t.is("has"), t.is("in"):
		return op(t.text), 1
	}
	return "", 0
}

// values reads what stands behind an operator.
func (p *parser) values(f *field, key string, o op) (node, error) {
	t := newTest(f, key, o, nil)
	one := func() error {
		tok := p.next()
		if !tok.value() {
			return p.fail(tok, "as in "+f.example, "expected a value behind %s, found %s", o, tok.shown())
		}
		if f.kind == truth {
			t.yes = tok.text == "true" && o == equal || tok.text == "false" && o == differs
			if tok.text != "true" && tok.text != "false" {
				return p.fail(tok, fmt.Sprintf("write %s, or not %s", f.name, f.name), "expected true or false, found %s", tok.shown())
			}
			t.op = equal
			return nil
		}
		v, fix := t.read(tok.text)
		if fix != "" {
			return p.fail(tok, fix, "expected %s behind %s %s, found %s", f.noun(), t.name(), o, tok.shown())
		}
		t.values = append(t.values, v)
		return nil
	}
	if o != in {
		if p.peek().is("[") {
			return nil, p.fail(p.peek(), fmt.Sprintf("write %s in […]", t.name()), "several values need in")
		}
		if err := one(); err != nil {
			return nil, err
		}
		return t, nil
	}
	if open := p.next(); !open.is("[") {
		return nil, p.fail(open, fmt.Sprintf("write %s in [one, two]", t.name()), "expected [ behind in, found %s", open.shown())
	}
	for {
		if err := one(); err != nil {
			return nil, err
		}
		switch tok := p.next(); {
		case tok.is("]"):
			return t, nil
		case !tok.is(","):
			return nil, p.fail(tok, "put commas between values and a ] behind them", "expected , or ], found %s", tok.shown())
		}
	}
}

func newTest(f *field, key string, o op, values []value) *test {
	t := &test{field: f, key: key, op: o, values: values}
	t.is = t.word
	return t
}

// alone reads a word without an operator: yes or no, or the id of a device.
func (p *parser) alone(t token) (node, error) {
	f, key, keyless := find(t.text)
	switch {
	case t.kind == quoted || f == nil || f.name == "label." && key == t.text:
		if !wire.ValidID(t.text) {
			return nil, p.fail(t, "as in site == lyon", "%s is neither the id of a device nor a condition", t.shown())
		}
		byID, _, _ := find("id")
		return newTest(byID, "", equal, []value{{text: t.text}}), nil
	case f.kind == truth:
		p.revoked = p.revoked || f.name == "revoked"
		return &test{field: f, op: equal, yes: true}, nil
	case keyless:
		return nil, p.fail(t, "as in "+f.example, "%s needs to be followed by a dot and a name", t.text)
	}
	at := p.peek()
	return nil, p.fail(at, "as in "+f.example, "expected %s behind %s, found %s", f.ops(), t.text, at.shown())
}

// wrongWord is the fix for what people bring along from other languages.
func wrongWord(t token) string {
	switch t.text {
	case "&&", "&", "AND", "And":
		return "write and"
	case "||", "|", "OR", "Or":
		return "write or"
	case "!", "NOT", "Not":
		return "write not"
	case "=~":
		return "write ~ and a pattern with * and ?"
	case ")":
		return "it closes nothing"
	}
	if t.value() {
		return "put and, or between conditions; text with spaces goes into quotes"
	}
	return `as in site == "lyon" and online`
}
