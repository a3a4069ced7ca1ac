package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
	"github.com/covey-edge/covey/hal/task"
)

// A described release is what its consumers see of it.
type described struct {
	name, version, task string
	labels              []string // by class
	inputs, outputs     []hal.TensorInfo
	decode              release.Decode
	digest              wire.Digest
	size                int64
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
	c := &cobra.Command{
		Use: "diff <old> <new>", Short: "Show what a new release changes for those who use its results", Args: cobra.ExactArgs(2),
		Long: `Show what a new release changes for those who use its results: labels that vanish or
mean another class, tensors of other shapes, another task. Both are folders or model
files on this machine.`,
		Example: "  covey release diff ./birds-1.0.0 ./birds-1.1.0",
	}
	c.RunE = do(func(_ context.Context, args []string) error {
		var list [2]described
		for i, from := range args {
			var err error
			if list[i], err = describe(from); err != nil {
				return usage("", "%s", err)
			}
		}
		changes := difference(list[0], list[1])
		if a.json {
			return encode(a.out, changes)
		}
		if len(changes) == 0 {
			fmt.Fprintln(a.out, "nothing changes for those who use its results")
		}
		breaks := 0
		for _, c := range changes {
			word := " "
			if c.Breaks {
				breaks++
				word = a.paint(red, "!")
			}
			fmt.Fprintln(a.out, word, clean(c.line()))
		}
		if breaks > 0 {
			fmt.Fprintf(a.out, "%s: somebody may rely on the old\n", plural(breaks, "change")+" marked !")
		}
		return nil
	})
	return c
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

// describe builds a release and opens the first of its models.
func describe(from string) (described, error) {
	m, files, err := release.Build(from, release.Defaults{})
	if err != nil {
		return described{}, err
	}
	first := m.Variants[0].File
	model, err := modelfile.Open(files[wire.Digest(first.SHA256)])
	if err != nil {
		return described{}, err
	}
	d := described{name: m.Name, version: m.Version, task: m.Task, inputs: model.Inputs(), outputs: model.Outputs(), decode: m.Decode, digest: m.Digest(), size: first.Length}
	text := model.LabelFile()
	if m.Labels != nil {
		if text, err = os.ReadFile(files[wire.Digest(m.Labels.SHA256)]); err != nil {
			return described{}, err
		}
	}
	if len(text) > 0 {
		d.labels, err = task.ParseLabels(text)
	}
	return d, err
}

// difference says what differs, what breaks first.
func difference(old, now described) []change {
	var list []change
	add := func(breaks bool, what, old, now string) {
		if old != now {
			list = append(list, change{what, old, now, breaks})
		}
	}
	add(true, "name", old.name, now.name)
	add(true, "task", taskName(old.task), taskName(now.task))
	list = append(list, labelChanges(old.labels, now.labels)...)
	add(false, "inputs", tensorList(old.inputs), tensorList(now.inputs))
	add(old.task != now.task || len(old.outputs) != len(now.outputs), "outputs", tensorList(old.outputs), tensorList(now.outputs))
	add(false, "threshold", fmt.Sprint(old.decode.Threshold), fmt.Sprint(now.decode.Threshold))
	add(false, "top", fmt.Sprint(old.decode.Top), fmt.Sprint(now.decode.Top))
	if old.size != now.size {
		add(false, "size", size(old.size), size(now.size))
	}
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

func tensorList(list []hal.TensorInfo) string {
	var words []string
	for _, t := range list {
		words = append(words, fmt.Sprintf("%s%v", t.Type, t.Shape))
	}
	return strings.Join(words, " ")
}
