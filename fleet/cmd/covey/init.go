package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

// An initFlags is what is wanted of covey release init.
type initFlags struct {
	release.Defaults
	out, labels, samples string
	noGolden, force      bool
}

func (a *app) releaseInit() *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use: "init <file.tflite|file.onnx|folder>", Short: "Begin a release: a folder with a release.json, of a bare model", Args: cobra.ExactArgs(1),
		Long: `Begin a release: a folder with a release.json, of a bare model. What the file says of
itself is written down: labels, normalisation, licence, quantisation, results. Change
what is not right; covey release check says whether it still holds.

Golden samples are made too, which a board has to answer before it switches: tensor
bytes, with what the model gives for them here, on the plain CPU. With --samples they
are of pictures, in folders named by the label that has to come first:

  samples/peacock/garden.jpg    the model has to say peacock
  samples/empty.jpg             nobody says what is right: what the model says now counts

Pictures come into the model as on a board. A file .bin holds the bytes of the input.
Where the model answers otherwise than a folder says, nothing is made.`,
		Example: `  covey release init mobilenet.tflite --labels labels.txt --samples ./pictures
  covey release init ./models --name birds --version 1.2.0
  covey release init speech.onnx --no-golden`,
	}
	c.Flags().StringVar(&f.Name, "name", "", "name; default: the file's or folder's")
	c.Flags().StringVar(&f.Version, "version", "", "version; default: 1.0.0")
	c.Flags().StringVar(&f.Task, "task", "", "classify, detect or raw; default: from the model")
	c.Flags().StringVar(&f.out, "out", "", "folder of the release; default: the folder itself, or for a file one of the release's name")
	c.Flags().StringVar(&f.labels, "labels", "", "text file with a label a line; default: from the model")
	c.Flags().StringVar(&f.samples, "samples", "", "folder of pictures, in folders by label")
	c.Flags().BoolVar(&f.noGolden, "no-golden", false, "make no golden samples: no engine is needed")
	c.Flags().BoolVar(&f.force, "force", false, "leave out pictures that the model gets wrong, instead of giving up")
	c.MarkFlagsMutuallyExclusive("samples", "no-golden")
	c.RunE = do(func(ctx context.Context, args []string) error { return a.init(ctx, args[0], f) })
	return c
}

// firstVersion is what a release begins with.
const firstVersion = "1.0.0"

func (a *app) init(ctx context.Context, from string, f initFlags) error {
	dir, err := f.folder(from)
	if err != nil {
		return err
	}
	if f.Version == "" {
		f.Version = firstVersion
	}
	s, err := read(from, f.Defaults)
	if err != nil {
		return err
	}
	if f.out == "" && dir == "" {
		dir = s.Name
	}
	if _, err := os.Lstat(filepath.Join(dir, release.FileName)); !errors.Is(err, fs.ErrNotExist) {
		return usage("change it by hand, take it away, or name another folder: --out", "%s is there already", filepath.Join(dir, release.FileName))
	}
	if f.labels != "" {
		if err := addLabels(s.Manifest, s.files, f.labels); err != nil {
			return err
		}
		if err := s.open(); err != nil {
			return usage("", "%s", err)
		}
	}
	if err := s.fill(); err != nil {
		return usage("say another --task, or give --labels", "%s", err)
	}
	var m making
	if !f.noGolden {
		if m, err = a.golden(ctx, s, f); err != nil {
			return err
		}
	}
	if err := a.lay(dir, s, m.golden); err != nil {
		return err
	}
	made, err := read(dir, release.Defaults{})
	if err != nil {
		return err
	}
	return a.begun(dir, made, m)
}

// folder is where the release will be, "" when its name decides.
func (f *initFlags) folder(from string) (string, error) {
	fi, err := os.Stat(from)
	switch {
	case err != nil:
		return "", usage("", "%s", err)
	case f.out != "":
		return f.out, nil
	case fi.IsDir():
		return from, nil
	}
	return "", nil
}

// golden makes the golden samples.
func (a *app) golden(ctx context.Context, s *source, f initFlags) (making, error) {
	var samples []sample
	if f.samples != "" {
		var err error
		if samples, err = findSamples(f.samples); err != nil {
			return making{}, usage("", "%s", err)
		}
		if len(samples) == 0 {
			return making{}, usage("put them into folders by label, as in "+filepath.Join(f.samples, "peacock", "garden.jpg"), "no pictures in %s", f.samples)
		}
	}
	t, err := s.tryOut(ctx)
	if err != nil {
		var own *failure
		if errors.As(err, &own) {
			return making{}, err
		}
		return making{}, &failure{code: exitFailed, what: err.Error(), fix: "make the release with --no-golden if boards can do what this machine cannot"}
	}
	defer t.close()
	if samples == nil {
		g, err := t.madeUp()
		if err != nil {
			return making{}, err
		}
		m := making{golden: []golden{g}}
		if len(g.outputs) == 0 { // a label for noise says nothing
			m = making{mute: []string{"an input that was made up"}}
		}
		return m, nil
	}
	bar := a.bar("golden samples", int64(len(samples)))
	m, err := t.makeGolden(samples, s.labels, max(minRoom, s.Variants[s.plain()].File.Length), func(n int) { bar.add(int64(n) - bar.done) })
	bar.end()
	switch {
	case err != nil && t.blind != nil:
		return m, usage("give inputs as bare bytes, DIR/<label>/x.bin", "%s: pictures are no input of this model: %s", s.Name, t.blind)
	case err != nil:
		return m, err
	case len(m.wrong) > 0 && !f.force:
		return m, &failure{code: exitRefused, what: "the model does not answer as its samples say: " + some(m.wrong),
			fix: "mend the model, its labels or the folders' names; --force leaves these pictures out"}
	}
	return m, nil
}

// minRoom is what golden samples may take whatever the size of the model, bytes.
const minRoom = 1 << 20

// lay writes the folder: the files, and the manifest behind them.
func (a *app) lay(dir string, s *source, list []golden) error {
	for i, g := range list {
		entry := release.Golden{Tolerance: g.tolerance, Label: g.label}
		for end, tensors := range map[string][][]byte{"in": g.inputs, "out": g.outputs} {
			for n, b := range tensors {
				name := fmt.Sprintf("golden/%02d.%s", i, end)
				if n > 0 {
					name += fmt.Sprint(n)
				}
				if err := write(dir, name, b); err != nil {
					return err
				}
				if end == "in" {
					entry.Inputs = append(entry.Inputs, release.File{Name: name})
				} else {
					entry.Outputs = append(entry.Outputs, release.File{Name: name})
				}
			}
		}
		s.Golden = append(s.Golden, entry)
	}
	short := *s.Manifest
	short.Variants = append([]release.Variant(nil), s.Variants...)
	for i := range short.Variants {
		v := &short.Variants[i]
		if err := a.copy(dir, v.File, s.path(v.File)); err != nil {
			return err
		}
		v.File = release.File{Name: v.File.Name}
	}
	if s.Labels != nil {
		if err := a.copy(dir, *s.Labels, s.path(*s.Labels)); err != nil {
			return err
		}
		short.Labels = &release.File{Name: s.Labels.Name}
	}
	return write(dir, release.FileName, short.Short())
}

func write(dir, name string, b []byte) error {
	to := filepath.Join(dir, filepath.FromSlash(name))
	err := os.MkdirAll(filepath.Dir(to), 0o755)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	return err
}

// copy brings a file of a release into a folder, unless it is there.
func (a *app) copy(dir string, f release.File, from string) error {
	to := filepath.Join(dir, filepath.FromSlash(f.Name))
	if there, err := os.Stat(to); err == nil {
		if is, err := os.Stat(from); err == nil && os.SameFile(there, is) {
			return nil
		}
		return usage("name another folder: --out", "%s is there already", to)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	bar := a.bar(f.Name, f.Length)
	_, err = io.Copy(w, &counted{r, bar})
	bar.end()
	return errors.Join(err, w.Sync(), w.Close())
}

// A begun is what init says with --json.
type begun struct {
	Folder     string      `json:"folder"`
	Release    string      `json:"release"`
	Digest     wire.Digest `json:"digest"`
	Kind       string      `json:"kind,omitempty"`
	Labels     int         `json:"labels"`
	Golden     int         `json:"golden"`
	Vouched    int         `json:"vouched"`            // of Golden, that somebody gave the answer of
	Wrong      []string    `json:"wrong,omitempty"`    // left out: the model answers otherwise
	Mute       []string    `json:"mute,omitempty"`     // left out: nothing can be compared
	LeftOver   int         `json:"left_over"`          // samples that were too many
	Warnings   []string    `json:"warnings,omitempty"` // for people
	SampleSize int64       `json:"golden_bytes"`
}

func (a *app) begun(dir string, s *source, m making) error {
	b := begun{Folder: dir, Release: s.Name + "@" + s.Version, Digest: s.Digest(), Golden: len(m.golden), Wrong: m.wrong, Mute: m.mute, LeftOver: m.rest}
	if s.Result != nil {
		b.Kind, b.Labels = s.Result.Kind, s.Result.Labels
	}
	for _, g := range m.golden {
		b.SampleSize += g.size()
		if g.vouched {
			b.Vouched++
		}
	}
	warn := func(format string, args ...any) { b.Warnings = append(b.Warnings, fmt.Sprintf(format, args...)) }
	if n := b.Golden - b.Vouched; n > 0 {
		warn("%s of %d without an answer from you: what the model says now counts as right, its mistakes too. Give pictures in folders by label: --samples", plural(n, "golden sample"), b.Golden)
	}
	if b.Golden == 0 {
		warn("no golden samples: a board will switch to this model if it runs at all, whatever it answers")
	}
	if len(m.wrong) > 0 {
		warn("the model gets wrong, and they were left out: %s", some(m.wrong))
	}
	if len(m.mute) > 0 {
		warn("nothing of the answer can be compared on another processor: %s", some(m.mute))
	}
	if m.rest > 0 {
		warn("%s left out: these are enough", plural(m.rest, "sample"))
	}
	if b.Labels == 0 && b.Kind != "raw" {
		warn("no labels: results will say class 7. Give a text file with a label a line: --labels")
	}
	if a.json {
		return encode(a.out, b)
	}
	golden := ""
	if b.Golden > 0 {
		golden = fmt.Sprintf("%d, %d of them with your answer, %s", b.Golden, b.Vouched, size(b.SampleSize))
	}
	a.pairs("wrote", filepath.Join(dir, release.FileName), "release", b.Release, "digest", b.Digest.Short(), "results", strings.TrimSpace(b.Kind+" "+labelled(b.Labels)), "golden samples", golden)
	for _, w := range b.Warnings {
		fmt.Fprintln(a.err, a.paint(yellow, "warning: "+clean(w)))
	}
	fmt.Fprintf(a.out, "next: look at it, then covey release check %s\n", dir)
	return nil
}

func labelled(n int) string {
	if n == 0 {
		return ""
	}
	return "of " + plural(n, "label")
}
