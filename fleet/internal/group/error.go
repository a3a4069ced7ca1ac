package group

import (
	"fmt"
	"strings"
	"unicode"
)

// An Error is a mistake in a query, and where it is.
type Error struct {
	Text   string // the query
	Column int    // of the mistake, in characters from 1; one behind the last: something is missing
	What   string // happened, one line
	Fix    string // one line; "" where What says it
}

// Error is all of it, over several lines: what happened, the query with a caret
// under the place, what to do.
func (e *Error) Error() string {
	s := fmt.Sprintf("query, column %d: %s\n%s", e.Column, e.What, e.Mark())
	if e.Fix != "" {
		s += "\nfix: " + e.Fix
	}
	return s
}

// markWidth is how much of a query is shown to either side of a mistake.
const markWidth = 40

// Mark is two lines: the query, or the part of it around the mistake, and a caret
// under the place.
func (e *Error) Mark() string {
	line := []rune(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, e.Text))
	at := min(e.Column-1, len(line))
	from, to := max(at-markWidth, 0), min(at+markWidth, len(line))
	before, after := "", ""
	if from > 0 {
		before = "…"
	}
	if to < len(line) {
		after = "…"
	}
	return before + string(line[from:to]) + after + "\n" + strings.Repeat(" ", len([]rune(before))+at-from) + "^"
}
