package main

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
	"github.com/covey-edge/covey/hal/task"
)

// A source is a release and the files that it was built of.
type source struct {
	*release.Manifest
	files  map[wire.Digest]string
	models []*modelfile.Model // by variant; nil where Covey cannot read it
	labels []string           // by class; nil: the model has none
}

// read builds a release, opens what is in it, and holds one against the other: a web page or half a file is noticed
// here, before it is noticed on a thousand boards.
func read(from string, d release.Defaults) (*source, error) {
	m, files, err := release.Build(from, d)
	if err != nil {
		return nil, usage("", "%s", err)
	}
	s := &source{Manifest: m, files: files}
	if err = s.open(); err == nil {
		err = s.agrees()
	}
	var f *failure
	if err != nil && !errors.As(err, &f) {
		err = usage("", "%s", err)
	}
	return s, err
}

// open reads the models and the labels.
func (s *source) open() error {
	s.models, s.labels = nil, nil
	for _, v := range s.Variants {
		var m *modelfile.Model
		if v.Engine == modelfile.FormatTFLite || v.Engine == modelfile.FormatONNX { // others' files are theirs to read
			var err error
			if m, err = modelfile.Open(s.path(v.File)); err != nil {
				return err
			}
		}
		s.models = append(s.models, m)
	}
	var text []byte
	if s.plain() >= 0 {
		text = s.plainModel().LabelFile()
	}
	if s.Labels != nil {
		b, err := os.ReadFile(s.path(*s.Labels))
		if err != nil {
			return err
		}
		text = b
	}
	labels, err := task.ParseLabels(text)
	s.labels = labels
	return err
}

func (s *source) path(f release.File) string { return s.files[wire.Digest(f.SHA256)] }

// plain is the variant for any accelerator, which others are held against; without one
// the first; -1 where there is none that Covey can read.
func (s *source) plain() int {
	for i, v := range s.Variants {
		if v.Accelerator == "" && s.models[i] != nil {
			return i
		}
	}
	return slices.IndexFunc(s.models, func(m *modelfile.Model) bool { return m != nil })
}

func (s *source) plainModel() *modelfile.Model { return s.models[s.plain()] }

// decoder is the one that an agent takes for outputs of the plain variant, and the kind
// of its results.
func (s *source) decoder(info hal.Info) (task.Decoder, string, error) {
	c, err := task.Choose(s.plainModel(), info, s.labels,
		task.Options{Kind: cmp.Or(s.Decode.Decoder, s.Task), Threshold: s.Decode.Threshold, Top: s.Decode.Top})
	return c.Decoder, c.Kind, err
}

// result is what those who use the results get, as far as the files say.
func (s *source) result() (*release.Result, error) {
	m := s.plainModel()
	_, kind, err := s.decoder(hal.Info{Inputs: m.Inputs(), Outputs: m.Outputs()})
	if err != nil {
		return nil, err
	}
	r := &release.Result{Kind: kind, Inputs: tensors(m, m.Main().Inputs), Outputs: tensors(m, m.Main().Outputs)}
	for _, l := range s.labels {
		if l != "" {
			r.Labels++
		}
	}
	return r, nil
}

func tensors(m *modelfile.Model, index []int) []release.Tensor {
	list := []release.Tensor{}
	for _, i := range index {
		t := m.Main().Tensors[i]
		shape := t.Shape
		if t.Signature != nil {
			shape = t.Signature
		}
		list = append(list, release.Tensor{Type: t.Type.String(), Shape: append([]int{}, shape...)})
	}
	return list
}

// fill writes down what the files say of themselves.
func (s *source) fill() error {
	if s.plain() < 0 {
		return nil
	}
	for i, m := range s.models {
		v := &s.Variants[i]
		if m == nil {
			continue
		}
		v.Quantisation = m.Quantisation()
		if release.ValidRuntime(m.MinRuntime) {
			v.MinRuntime = m.MinRuntime
		}
		if m.ONNX != nil {
			v.Ops = m.ONNX.Opsets[""]
		}
	}
	m := s.plainModel()
	s.Notes, s.Author, s.License = m.Description, "", ""
	if md := m.Metadata; md != nil {
		s.Notes, s.Author, s.License = cmp.Or(md.Description, m.Description), md.Author, md.License
	}
	if m.ONNX != nil {
		p := m.ONNX.Properties
		s.Notes, s.Author, s.License = cmp.Or(p["description"], m.Description), p["author"], p["license"]
	}
	for _, text := range []*string{&s.Notes, &s.Author, &s.License} {
		*text = note(*text)
	}
	s.Decode.Mean, s.Decode.Std = m.Normalization()
	result, err := s.result()
	if err != nil {
		return err
	}
	s.Result = result
	s.Task = result.Kind
	return nil
}

// maxNote is how much of a text of a model's maker is kept, bytes.
const maxNote = 1000

func note(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "")
	if len(s) > maxNote {
		return strings.ToValidUTF8(s[:maxNote], "") + "…"
	}
	return s
}

// agrees holds what the manifest promises of results against its files.
func (s *source) agrees() error {
	if s.Result == nil || s.plain() < 0 {
		return nil
	}
	is, err := s.result()
	if err != nil {
		return err
	}
	want := s.Result
	for _, c := range []struct{ what, says, is string }{
		{"kind", want.Kind, is.Kind},
		{"labels", number(want.Labels), number(is.Labels)},
		{"inputs", tensorList(want.Inputs), tensorList(is.Inputs)},
		{"outputs", tensorList(want.Outputs), tensorList(is.Outputs)},
	} {
		if c.says != "" && c.says != c.is {
			return usage("write that, or leave "+c.what+" out", "result says of its %s %s, and the model has %s", c.what, c.says, cmp.Or(c.is, "none"))
		}
	}
	return nil
}

// number is "" for none.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
