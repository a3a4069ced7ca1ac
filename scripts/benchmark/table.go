package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// A row is one thing that the bench shows: a figure for each round, and what it
// should be at most, or at least.
type row struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"` // "ratio", "us", "MB", "allocs", "frames", "MB/s"
	Rounds  []float64 `json:"rounds"`
	Median  float64   `json:"median"`
	Worst   float64   `json:"worst"`
	Target  *float64  `json:"target,omitempty"`
	AtLeast bool      `json:"at_least,omitempty"` // larger is better
	Verdict string    `json:"verdict"`            // ok, miss, "" without a target, or why there is no figure
}

// measured makes a row of a round's figures each. The median is held against the
// target, so that one disturbed round decides nothing.
func measured(name, unit string, rounds []float64, aim goal) row {
	r := row{Name: name, Unit: unit, Rounds: rounds, Target: aim.value, AtLeast: aim.atLeast}
	if len(rounds) == 0 {
		r.Verdict = "not measured"
		return r
	}
	sorted := slices.Sorted(slices.Values(rounds))
	r.Median, r.Worst = percentile(sorted, 50), sorted[len(sorted)-1]
	if aim.atLeast {
		r.Worst = sorted[0]
	}
	if aim.value != nil {
		r.Verdict = "ok"
		if aim.atLeast && r.Median < *aim.value || !aim.atLeast && r.Median > *aim.value {
			r.Verdict = "miss"
		}
	}
	return r
}

// A goal is a target; the zero value is none, with smaller figures being better.
type goal struct {
	value   *float64
	atLeast bool
}

func atMost(v float64) goal  { return goal{value: &v} }
func atLeast(v float64) goal { return goal{value: &v, atLeast: true} }

var (
	noGoal     = goal{}
	moreBetter = goal{atLeast: true}
)

// percentile of sorted figures, 0 to 100.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := p / 100 * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

// print writes the rows as a table for people.
func print(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tmedian\tworst\ttarget\t")
	for _, r := range rows {
		if len(r.Rounds) == 0 {
			fmt.Fprintf(t, "%s\t\t\t%s\t%s\n", r.Name, r.goal(), r.Verdict)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Name, r.figure(r.Median), r.figure(r.Worst), r.goal(), r.Verdict)
	}
	t.Flush()
}

func (r row) figure(v float64) string {
	switch r.Unit {
	case "ratio":
		return fmt.Sprintf("%.3f", v)
	case "frames", "allocs":
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.1f %s", v, r.Unit)
}

func (r row) goal() string {
	if r.Target == nil {
		return ""
	}
	sign := "≤ "
	if r.AtLeast {
		sign = "≥ "
	}
	return sign + strings.TrimSpace(fmt.Sprintf("%g %s", *r.Target, strings.NewReplacer("ratio", "", "frames", "", "allocs", "").Replace(r.Unit)))
}

// printJSON writes the rows for programs.
func printJSON(w io.Writer, rows []row) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rows)
}
