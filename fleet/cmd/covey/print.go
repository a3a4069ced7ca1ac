package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/covey-edge/covey/fleet/wire"
)

// encode writes JSON for scripts.
func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// encodeLine writes JSON in one line, for streams.
func encodeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// clean takes out what could move a terminal's cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
)

func (a *app) paint(color, s string) string {
	if !a.color || color == "" || s == "" {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// colorOf is the colour of a word that says how something stands.
func colorOf(word string) string {
	switch word {
	case "done", "online", "COMPLETED", "PASSED", "passed":
		return green
	case "failed", "revoked", "refused", "ABORTED", "PAUSED", "ROLLED_BACK", "FAILED":
		return red
	case "waiting", "downloading", "trying", "RUNNING", "SOAKING", "GATING", "ROLLING_BACK", "WAITING_FOR_APPROVAL", "SCHEDULED":
		return yellow
	case "offline", "stopped", "new", "PENDING", "DRAFT":
		return dim
	}
	return ""
}

// table prints rows under a head, each column as wide as it must be. Words that
// say how something stands are coloured.
func (a *app) table(head []string, rows [][]string) {
	widths := make([]int, len(head))
	all := append([][]string{head}, rows...)
	for _, row := range all {
		for i, cell := range row {
			row[i] = clean(cell)
			if cell == "" {
				row[i] = "-"
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for n, row := range all {
		var line strings.Builder
		for i, cell := range row {
			color := colorOf(cell)
			if n == 0 {
				color = dim
			}
			line.WriteString(a.paint(color, cell))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		fmt.Fprintln(a.out, line.String())
	}
}

// pairs prints names and values one under the other; empty values are left out.
func (a *app) pairs(list ...string) {
	width := 0
	for i := 0; i < len(list); i += 2 {
		if list[i+1] != "" {
			width = max(width, len(list[i]))
		}
	}
	for i := 0; i < len(list); i += 2 {
		if list[i+1] != "" {
			v := clean(list[i+1])
			fmt.Fprintf(a.out, "%s%s\n", a.paint(dim, fmt.Sprintf("%-*s  ", width, list[i])), a.paint(colorOf(v), v))
		}
	}
}

// ago is how long a moment is past, roughly.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := a.now().Sub(t)
	switch {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%d kB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// plural is "1 device", "2 devices".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// words counts executions by the five words that people see, as in
// "3 done, 1 failed".
func words(counts map[wire.ExecState]int) string {
	n := map[string]int{}
	for state, c := range counts {
		n[state.Word()] += c
	}
	var parts []string
	for _, w := range []string{"done", "trying", "downloading", "waiting", "failed"} {
		if n[w] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[w], w))
		}
	}
	return strings.Join(parts, ", ")
}

func fault(f *wire.Fault) string {
	if f == nil {
		return ""
	}
	return strings.TrimSuffix(f.Code+": "+f.Text, ": ")
}

// confirm asks a person; without one the answer must have been given by --yes.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.ask {
		return usage("say --yes if that is what you want", "nobody is here to answer: %s", question)
	}
	fmt.Fprint(a.err, question+" [y/N] ")
	line, err := bufio.NewReader(io.LimitReader(a.in, 1024)).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err == nil && (answer == "y" || answer == "yes") {
		return nil
	}
	return &failure{code: exitRefused, what: "nothing was changed"}
}
