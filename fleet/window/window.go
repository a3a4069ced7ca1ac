// Package window says when a wire.Window is open: both ends read it, the
// controller before it asks for it, a board in its own local time. It is pure.
//
// A day of month and a day of week that are both restricted mean either, as in
// every cron. A start that the clock leaps over in spring takes place within the
// hour, one that it comes by twice in autumn takes place once.
package window

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// maxMinutes is a week: the longest that a window may be open.
const maxMinutes = 7 * 24 * 60

// horizon is how far ahead a start is looked for, days: 29 February comes within.
const horizon = 8*366 + 1

// A Window is one that was read. The zero Window is never open.
type Window struct {
	minute, hour, day, month, weekday set
	either                            bool // the day of month or the day of week, not both
	length                            time.Duration
}

// A set has a bit for each value of a field.
type set uint64

func (s set) has(n int) bool { return s>>n&1 == 1 }

// A field of a cron line.
type field struct {
	name   string
	lo, hi int
	names  string // of the values from lo on, three letters each
}

var fields = [5]field{
	{"minute", 0, 59, ""},
	{"hour", 0, 23, ""},
	{"day of month", 1, 31, ""},
	{"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
	{"day of week", 0, 7, "sunmontuewedthufrisat"}, // 7 is sunday, too
}

// Parse reads a window. Errors: E_JSON, which says what is wrong; a date that no
// year has, such as 30 February, is wrong.
func Parse(w wire.Window) (Window, error) {
	p := Window{length: time.Duration(w.Minutes) * time.Minute}
	if w.Minutes < 1 || w.Minutes > maxMinutes {
		return Window{}, wrong(w, "%d minutes are not within 1…%d", w.Minutes, maxMinutes)
	}
	words := strings.Fields(w.Cron)
	if len(words) != len(fields) || len(w.Cron) > 100 {
		return Window{}, wrong(w, "want five fields: minute hour day-of-month month day-of-week")
	}
	for i, to := range []*set{&p.minute, &p.hour, &p.day, &p.month, &p.weekday} {
		s, ok := fields[i].read(strings.ToLower(words[i]))
		if !ok {
			return Window{}, wrong(w, "%q is not a %s within %d…%d", words[i], fields[i].name, fields[i].lo, fields[i].hi)
		}
		*to = s
	}
	if p.weekday.has(7) {
		p.weekday |= 1
	}
	p.either = words[2][0] != '*' && words[4][0] != '*'
	if p.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Window{}, wrong(w, "no year has such a day")
	}
	return p, nil
}

func wrong(w wire.Window, format string, args ...any) error {
	return &hal.Error{Code: hal.CodeJSON, Text: fmt.Sprintf("window %.100q: ", w.Cron) + fmt.Sprintf(format, args...)}
}

// read reads a field: a list of *, a, a-b, each with /step.
func (f field) read(text string) (s set, ok bool) {
	for part := range strings.SplitSeq(text, ",") {
		span, by, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			if step, ok = number(by); !ok || step < 1 {
				return 0, false
			}
		}
		first, last, ranged := strings.Cut(span, "-")
		lo, ok := f.value(first)
		hi := lo
		switch {
		case span == "*":
			lo, hi, ok = f.lo, f.hi, true
		case ranged && ok:
			hi, ok = f.value(last)
		case stepped:
			hi = f.hi
		}
		if !ok || lo > hi {
			return 0, false
		}
		for n := lo; n <= hi; n += step {
			s |= 1 << n
		}
	}
	return s, s != 0
}

func (f field) value(text string) (int, bool) {
	if at := strings.Index(f.names, text); len(text) == 3 && at >= 0 && at%3 == 0 {
		return f.lo + at/3, true
	}
	n, ok := number(text)
	return n, ok && n >= f.lo && n <= f.hi
}

// number is one or two digits.
func number(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 8)
	return int(n), err == nil && len(text) <= 2
}

// Open says whether the window is open at t, in t's location.
func (w Window) Open(t time.Time) bool { return !w.Until(t).IsZero() }

// Until is when the window that is open at t closes, if it does not open anew
// before; zero: it is closed.
func (w Window) Until(t time.Time) time.Time {
	begin := w.Next(t.Add(-w.length))
	if begin.IsZero() || begin.After(t) {
		return time.Time{}
	}
	return begin.Add(w.length)
}

// Next is when the window opens after t, in t's location; zero: never.
func (w Window) Next(t time.Time) time.Time {
	year, month, day := t.Date()
	// From the day before: a leap of the clock may move a start over midnight.
	for d := -1; d < horizon; d++ {
		noon := time.Date(year, month, day+d, 12, 0, 0, 0, t.Location())
		if !w.on(noon) {
			continue
		}
		if begin := w.within(noon, t); !begin.IsZero() {
			return begin
		}
	}
	return time.Time{}
}

// on says whether the window opens on the day of noon.
func (w Window) on(noon time.Time) bool {
	day, weekday := w.day.has(noon.Day()), w.weekday.has(int(noon.Weekday()))
	return w.month.has(int(noon.Month())) && (day && weekday || w.either && (day || weekday))
}

// within is the first start on the day of noon that is after t.
func (w Window) within(noon, t time.Time) (first time.Time) {
	year, month, day := noon.Date()
	for h := range 24 {
		for m := range 60 {
			if !w.hour.has(h) {
				break
			}
			if !w.minute.has(m) {
				continue
			}
			// Where the clock leaps, a later one may be earlier.
			begin := time.Date(year, month, day, h, m, 0, 0, t.Location())
			if begin.After(t) && (first.IsZero() || begin.Before(first)) {
				first = begin
			}
		}
	}
	return first
}
