package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/hal/task"
)

// A described release is what its consumers see of it.
type described struct {
	name, task, kind string
	labels           []string // by class
	inputs, outputs  []release.Tensor
	decode           release.Decode
	variants         []release.Variant
	lines            []string // of a configuration
	size             int64
}

// A change is one difference between two releases. One that breaks is noticed by
// somebody who subscribes to results.
type change struct {
	What   string `json:"what"`
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
	Breaks bool   `json:"breaks"`
}

func (a *app) releaseDiff() *cobra.Command {
	var exit bool
	c := &cobra.Command{
		Use: "diff <old> <new>", Short: "Show what a new release changes for those who use its results", Args: cobra.ExactArgs(2),
		Long: `Show what a new release changes for those who use its results: labels that vanish or
mean another class, entities that Home Assistant loses with them, another kind of
result, tensors of other shapes, boards that it does not fit any more, thresholds and
budgets. Both are folders or model files on this machine.

With --exit-code the exit code is 7 when somebody may rely on what changes: for CI.`,
		Example: "  covey release diff ./birds-1.0.0 ./birds-1.1.0\n  covey release diff --exit-code --json ./birds-1.0.0 ./birds",
	}
	c.Flags().BoolVar(&exit, "exit-code", false, "exit with 7 when there are changes marked !")
	c.RunE = do(func(_ context.Context, args []string) error {
		var list [2]described
		for i, from := range args {
			var err error
			if list[i], err = describe(from); err != nil {
				return err
			}
		}
		changes := difference(list[0], list[1])
		breaks := 0
		for _, c := range changes {
			if c.Breaks {
				breaks++
			}
		}
		if err := a.differs(changes, breaks); err != nil || breaks == 0 || !exit {
			return err
		}
		return &failure{code: exitDiffers, what: plural(breaks, "change") + " marked !: somebody may rely on the old", fix: "tell them, or give the new release another name"}
	})
	return c
}

func (a *app) differs(changes []change, breaks int) error {
	if a.json {
		return encode(a.out, changes)
	}
	if len(changes) == 0 {
		fmt.Fprintln(a.out, "nothing changes for those who use its results")
	}
	for _, c := range changes {
		word := " "
		if c.Breaks {
			word = a.paint(red, "!")
		}
		fmt.Fprintln(a.out, word, clean(c.line()))
	}
	if breaks > 0 {
		fmt.Fprintf(a.out, "%s: somebody may rely on the old\n", plural(breaks, "change")+" marked !")
	}
	return nil
}

func (c change) line() string {
	switch {
	case c.Old == "":
		return c.What + ": " + c.New
	case c.New == "":
		return c.What + ": " + c.Old
	}
	return c.What + ": " + c.Old + " → " + c.New
}

// describe builds a release and reads what is in it.
func describe(from string) (described, error) {
	s, err := read(from, release.Defaults{})
	if err != nil {
		return described{}, err
	}
	d := described{name: s.Name, task: s.Task, kind: "configuration", labels: s.labels, decode: s.Decode, variants: s.Variants}
	if s.Config != nil {
		b, err := os.ReadFile(s.path(*s.Config))
		d.lines = strings.Split(strings.TrimRight(string(b), "\n"), "\n")
		return d, err
	}
	d.size, d.kind = s.Variants[0].File.Length, "not known"
	if s.plain() < 0 {
		return d, nil
	}
	r, err := s.result()
	if err != nil {
		return d, usage("", "%s: %s", from, err)
	}
	d.kind, d.inputs, d.outputs = r.Kind, r.Inputs, r.Outputs
	return d, nil
}

// difference says what differs, what breaks first.
func difference(old, now described) []change {
	list := []change{}
	add := func(breaks bool, what, old, now string) {
		if old != now {
			list = append(list, change{what, old, now, breaks})
		}
	}
	add(true, "name", old.name, now.name)
	add(true, "task", taskName(old.task), taskName(now.task))
	add(true, "kind of result", old.kind, now.kind)
	list = append(list, labelChanges(old.labels, now.labels)...)
	if gone := entities(old, now); len(gone) > 0 {
		add(true, "entities that Home Assistant loses", "", "for each pipeline and zone the count of "+some(gone))
	}
	add(false, "inputs", tensorList(old.inputs), tensorList(now.inputs))
	add(old.task != now.task || old.kind != now.kind || len(old.outputs) != len(now.outputs), "outputs", tensorList(old.outputs), tensorList(now.outputs))
	add(false, "decoder", old.decode.Decoder, now.decode.Decoder)
	add(false, "threshold", fmt.Sprint(old.decode.Threshold), fmt.Sprint(now.decode.Threshold))
	add(false, "top", fmt.Sprint(old.decode.Top), fmt.Sprint(now.decode.Top))
	add(false, "mean and std", scaling(old.decode), scaling(now.decode))
	list = append(list, variantChanges(old.variants, now.variants)...)
	if old.size != now.size {
		add(false, "size", size(old.size), size(now.size))
	}
	add(false, "lines of configuration that go", some(without(old.lines, now.lines)), "")
	add(false, "lines of configuration that come", "", some(without(now.lines, old.lines)))
	slices.SortStableFunc(list, func(a, b change) int {
		switch {
		case a.Breaks == b.Breaks:
			return 0
		case a.Breaks:
			return -1
		}
		return 1
	})
	return list
}

// entities are the labels whose counts vanish from a home: one each, for the whole
// picture and for every zone.
func entities(old, now described) []string {
	counted := func(d described) []string {
		if d.kind != task.Detect && d.kind != task.Classify {
			return nil
		}
		return d.labels
	}
	return without(counted(old), counted(now))
}

// without is what of a is not in b, each once; what is empty does not count.
func without(a, b []string) []string {
	var list []string
	for _, s := range a {
		if s != "" && !slices.Contains(b, s) && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func scaling(d release.Decode) string {
	if d.Mean == nil {
		return ""
	}
	return fmt.Sprint(d.Mean, d.Std)
}

// variantChanges are boards that a release is for by now, or not any more, and what
// each is allowed.
func variantChanges(old, now []release.Variant) []change {
	var list []change
	in := func(l []release.Variant, like release.Variant) *release.Variant {
		i := slices.IndexFunc(l, func(v release.Variant) bool { return place(v) == place(like) })
		if i < 0 {
			return nil
		}
		return &l[i]
	}
	for _, v := range old {
		w := in(now, v)
		if w == nil {
			list = append(list, change{What: "variant that vanishes", Old: place(v), Breaks: true})
			continue
		}
		add := func(breaks bool, what, old, now string) {
			if old != now {
				list = append(list, change{what + " of " + place(v), cmp.Or(old, "none"), cmp.Or(now, "none"), breaks})
			}
		}
		add(false, "quantisation", v.Quantisation, w.Quantisation)
		add(w.MinRAM > v.MinRAM, "least memory of the board", bytesOf(v.MinRAM), bytesOf(w.MinRAM))
		add(release.OlderRuntime(cmp.Or(v.MinRuntime, "0"), w.MinRuntime), "oldest runtime", v.MinRuntime, w.MinRuntime)
		add(false, "budget of time", msOf(v.LatencyMS), msOf(w.LatencyMS))
		add(false, "budget of memory", bytesOf(v.Memory), bytesOf(w.Memory))
	}
	for _, w := range now {
		if in(old, w) == nil {
			list = append(list, change{What: "new variant", New: place(w)})
		}
	}
	return list
}

// place is which boards a variant is for.
func place(v release.Variant) string {
	words := []string{v.Engine}
	for _, w := range []string{v.Accelerator, v.Arch} {
		if w != "" {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

func bytesOf(n int64) string {
	if n == 0 {
		return ""
	}
	return size(n)
}

func msOf(ms float64) string {
	if ms == 0 {
		return ""
	}
	return fmt.Sprint(ms, " ms")
}

func taskName(s string) string {
	if s == "" {
		return "from the model"
	}
	return s
}

// labelChanges are labels that vanish, come, or belong to another class by now. A
// vanished one takes its entities along.
func labelChanges(old, now []string) []change {
	var list []change
	var gone, came, moved []string
	for class, label := range old {
		switch {
		case label == "": // a class that has none
		case !slices.Contains(now, label):
			gone = append(gone, label)
		case class >= len(now) || now[class] != label:
			moved = append(moved, label)
		}
	}
	for _, label := range now {
		if label != "" && !slices.Contains(old, label) {
			came = append(came, label)
		}
	}
	for _, c := range []struct {
		what   string
		labels []string
		breaks bool
	}{{"labels that vanish", gone, true}, {"labels of another class number", moved, true}, {"new labels", came, false}} {
		if len(c.labels) > 0 {
			list = append(list, change{What: c.what, New: some(c.labels), Breaks: c.breaks})
		}
	}
	return list
}

// shown is how many labels are named.
const shown = 8

func some(labels []string) string {
	if n := len(labels) - shown; n > 0 {
		return strings.Join(labels[:shown], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(labels, ", ")
}

func tensorList(list []release.Tensor) string {
	var words []string
	for _, t := range list {
		words = append(words, fmt.Sprintf("%s%v", t.Type, t.Shape))
	}
	return strings.Join(words, " ")
}
