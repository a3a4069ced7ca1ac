package main

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/wire"
)

// barWidth is how many cells a phase has.
const barWidth = 20

// cells are the words that people see, from left to right, and how they look.
var cells = []struct{ word, cell, color string }{
	{"done", "█", green}, {"back", "<", dim}, {"failed", "x", red}, {"trying", "▓", yellow}, {"downloading", "▒", yellow}, {"waiting", "░", dim},
}

// picture draws a phase: how many of its devices are done, failed, at it, waiting. Who
// is there at all is seen, be it one of a thousand.
func (a *app) picture(counts map[wire.ExecState]int, back, devices int) string {
	if devices == 0 {
		return strings.Repeat(" ", barWidth)
	}
	n := map[string]int{"back": back}
	for s, c := range ahead(counts, back) {
		n[s.Word()] += c
	}
	width := make([]int, len(cells))
	left := barWidth
	for i, c := range cells {
		if n[c.word] > 0 {
			width[i] = max(1, n[c.word]*barWidth/devices)
			left -= width[i]
		}
	}
	for left != 0 { // what rounding left over goes to, or comes from, the widest
		i := slices.Index(width, slices.Max(width))
		step := 1
		if left < 0 {
			step = -1
		}
		width[i] += step
		left -= step
	}
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(a.paint(c.color, strings.Repeat(c.cell, width[i])))
	}
	return b.String()
}

// phases prints a picture of a rollout: a line a phase.
func (a *app) phases(r v1.Rollout) {
	wide := 0
	for _, p := range r.Phases {
		wide = max(wide, len(p.Name))
	}
	for _, p := range r.Phases {
		line := p.Name + strings.Repeat(" ", wide-len(p.Name)+2) + a.picture(p.Counts, p.Back, p.Devices) + "  " +
			a.paint(colorOf(p.State), p.State) + strings.Repeat(" ", len("RUNNING")-min(len(p.State), len("RUNNING"))+2)
		if p.Devices == 0 {
			line += "no device"
		} else {
			line += progress(p.Counts, p.Back)
		}
		if p.Reason != "" {
			line += "; " + clean(p.Reason)
		}
		if p.Approved != nil {
			line += "; approved by " + clean(p.Approved.By)
		}
		fmt.Fprintln(a.out, line)
	}
}

// gates prints what the gates of the phases said that did not all pass, or were looked
// at last.
func (a *app) gates(r v1.Rollout) {
	var rows [][]string
	for _, p := range r.Phases {
		if p.State != "GATING" && p.State != "FAILED" && p.State != "PASSED" {
			continue
		}
		for _, g := range p.Gates {
			rows = append(rows, []string{p.Name, g.Gate, string(g.Variant[:min(8, len(g.Variant))]), fmt.Sprintf("%d of %d", g.Within, g.Measured), fmt.Sprintf("%.4g %%", g.Bound), fmt.Sprintf("%.4g %%", g.Need), g.Verdict})
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(a.out)
		a.table([]string{"PHASE", "GATE", "VARIANT", "WITHIN", "AT LEAST", "NEEDED", "SAYS"}, rows)
	}
}
