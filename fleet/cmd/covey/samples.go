package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/hal/ladder"
	"github.com/covey-edge/covey/hal/task"
)

// A sample is a file that a model has to answer.
type sample struct {
	path  string
	label string // that must come first: its folder's name; "" where its maker says none
}

// Pictures and bare tensors, by the ends of their names.
var (
	pictureNames = []string{".jpg", ".jpeg", ".png", ".bmp", ".gif"}
	tensorName   = ".bin"
)

// findSamples lists DIR/<label>/<file>, and DIR/<file>, which has no label: one of each
// label, then the next of each, so that the first few are of many labels.
func findSamples(dir string) ([]sample, error) {
	byLabel := map[string][]sample{}
	var labels []string
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		depth := strings.Count(name, "/")
		if e.IsDir() && (depth > 0 || name != "." && strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		ext := strings.ToLower(path.Ext(name))
		if e.IsDir() || strings.HasPrefix(path.Base(name), ".") || ext != tensorName && !slices.Contains(pictureNames, ext) {
			return nil
		}
		label := ""
		if depth > 0 {
			label = path.Dir(name)
		}
		if byLabel[label] == nil {
			labels = append(labels, label)
		}
		byLabel[label] = append(byLabel[label], sample{filepath.Join(dir, filepath.FromSlash(name)), label})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(labels)
	if len(labels) > 0 && labels[0] == "" { // what has no label is worth less
		labels = append(labels[1:], "")
	}
	var list []sample
	for n, more := 0, true; more; n++ {
		more = false
		for _, l := range labels {
			if n < len(byLabel[l]) {
				list, more = append(list, byLabel[l][n]), true
			}
		}
	}
	return list, nil
}

// maxSamples is how many golden samples are made: each board gets all of them.
const maxSamples = 16

// A golden is a sample as it is written.
type golden struct {
	inputs, outputs [][]byte
	tolerance       float64
	label           string // that must come first; ""
	vouched         bool   // somebody said so, and not the model itself
}

func (g golden) size() (n int64) {
	for _, b := range slices.Concat(g.inputs, g.outputs) {
		n += int64(len(b))
	}
	return n
}

// A making is how the making of golden samples went.
type making struct {
	golden []golden
	wrong  []string // samples that the model answers otherwise than their maker, and how
	mute   []string // of which nothing can be kept
	rest   int      // that were left out, because there are enough
}

// makeGolden answers samples until there are enough of them. They take no more room
// than the model does, but for the first.
func (t *tryout) makeGolden(samples []sample, labels []string, room int64, step func(n int)) (making, error) {
	var m making
	files := 2 // the model and its labels
	for n, s := range samples {
		step(n)
		g, a, err := t.golden(s)
		switch {
		case err != nil:
			return m, fmt.Errorf("%s: %w", s.path, err)
		case s.label != "" && t.kind == task.Raw:
			return m, usage("put the samples beside the folders; or say another --task", "%s: the model's results are raw numbers, which have no label", s.path)
		case s.label != "" && labels != nil && !slices.ContainsFunc(labels, func(l string) bool { return same(l, s.label) }):
			return m, usage("name the folder as the model's label, or put its pictures beside the folders", "%s: the model has no label %q", s.path, s.label)
		case s.label != "" && !same(a.first, s.label):
			m.wrong = append(m.wrong, fmt.Sprintf("%s is %s for the model", s.path, a))
			continue
		case g.label == "" && len(g.outputs) == 0:
			m.mute = append(m.mute, s.path)
			continue
		}
		files += len(g.inputs) + len(g.outputs)
		if full := len(m.golden) == maxSamples || files > release.MaxFiles || g.size() > room; full && len(m.golden) > 0 {
			m.rest = len(samples) - n
			return m, nil
		}
		room -= g.size()
		m.golden = append(m.golden, g)
	}
	return m, nil
}

// golden answers one sample.
func (t *tryout) golden(s sample) (golden, answer, error) {
	var in []byte
	var err error
	if strings.EqualFold(path.Ext(s.path), tensorName) {
		in, err = readUpTo(s.path, release.MaxFile)
	} else {
		in, err = t.picture(s.path)
	}
	if err != nil {
		return golden{}, answer{}, err
	}
	g, a, err := t.asked([][]byte{in})
	if g.vouched = s.label != ""; g.vouched {
		g.label = a.first // the model's own spelling
	}
	return g, a, err
}

// madeUp is the golden sample of a maker who has none.
func (t *tryout) madeUp() (golden, error) {
	g, _, err := t.asked(ladder.MadeUp(t.session.Info().Inputs))
	g.tolerance *= 2 // it is like nothing that the model was trained on: see ladder
	return g, err
}

// asked is what the model itself says.
func (t *tryout) asked(inputs [][]byte) (golden, answer, error) {
	a, err := t.run(inputs)
	g := golden{inputs: inputs}
	if a.numbers {
		g.tolerance = a.tolerance
		for _, o := range a.outputs {
			g.outputs = append(g.outputs, o.Data)
		}
	} else {
		g.label = a.first
	}
	return g, a, err
}

// same says whether two labels are one, written in other letters or with other marks
// between words, as names of folders have to be.
func same(a, b string) bool {
	words := func(s string) []string {
		return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return strings.ContainsRune(" _-,./", r) })
	}
	return a == b || slices.Equal(words(a), words(b))
}

// String says what the model saw.
func (a answer) String() string {
	if a.first == "" {
		return "nothing"
	}
	return fmt.Sprintf("%q (%.2f)", a.first, a.score)
}
