package modelfile

import (
	"bytes"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// Metadata is what the model's maker wrote into the file for those who run it
// (the TFLITE_METADATA entry).
type Metadata struct {
	Name        string
	Description string
	Version     string
	Author      string
	License     string
	Inputs      []TensorMetadata // in the order of the graph's inputs, but see TensorMetadata.Name
	Outputs     []TensorMetadata
}

// TensorMetadata is what is said about one input or output. Fields are empty
// where nothing is said.
type TensorMetadata struct {
	Name        string
	Description string
	Mean, Std   []float32 // real = (pixel - Mean) / Std, before quantisation; one value or one a channel
	Threshold   float32   // below it a score means nothing; 0: not said
	Files       []AssociatedFile
}

// An AssociatedFile names a file of Model.Files and says what it is for.
type AssociatedFile struct {
	Name   string
	Kind   int // AxisLabels, ValueLabels or another number of the metadata schema
	Locale string
}

// Kinds of associated files.
const (
	AxisLabels  = 2
	ValueLabels = 3
)

const maxEntries = 64

// readEntries reads the metadata entries of a model that we understand.
func readEntries(t table, m *Model) {
	t.each(6, maxEntries, func(_ int, s table) {
		switch s.string(0) {
		case "min_runtime_version":
			m.MinRuntime = string(bytes.TrimRight(bufferBytes(t, int64(s.u32(1)), 64), "\x00"))
		case "TFLITE_METADATA":
			m.Metadata = parseMetadata(bufferBytes(t, int64(s.u32(1)), maxMetadata))
		}
	})
}

// bufferBytes is the content of a buffer of the model.
func bufferBytes(t table, index, limit int64) []byte {
	at, n := t.vector(4, 4, maxBuffers)
	if index >= n {
		t.p.broken("metadata has buffer %d of %d", index, n)
		return nil
	}
	return t.p.table(t.p.ref(at+4*index)).bytes(0, limit)
}

// parseMetadata reads the flatbuffer that is nested in a model. Metadata that is
// broken is nil: it only advises, and the model runs without.
func parseMetadata(b []byte) *Metadata {
	if len(b) < 12 || string(b[4:8]) != "M001" {
		return nil
	}
	p := newPager(bytes.NewReader(b), int64(len(b)))
	t := p.table(p.ref(0))
	md := &Metadata{Name: t.string(0), Description: t.string(1), Version: t.string(2), Author: t.string(4), License: t.string(5)}
	t.each(3, maxSubgraphs, func(i int, s table) {
		if i == 0 {
			s.each(2, maxArguments, func(_ int, x table) { md.Inputs = append(md.Inputs, readTensorMetadata(x)) })
			s.each(3, maxArguments, func(_ int, x table) { md.Outputs = append(md.Outputs, readTensorMetadata(x)) })
		}
	})
	if p.err != nil {
		return nil
	}
	return md
}

func readTensorMetadata(t table) TensorMetadata {
	const normalization, thresholding = 1, 3
	x := TensorMetadata{Name: t.string(0), Description: t.string(1)}
	t.each(4, maxEntries, func(_ int, s table) {
		options, ok := s.sub(1)
		if !ok {
			return
		}
		switch s.u8(0) {
		case normalization:
			x.Mean, x.Std = options.floats(0, 16), options.floats(1, 16)
		case thresholding:
			x.Threshold = options.f32(0)
		}
	})
	t.each(6, maxEntries, func(_ int, s table) {
		x.Files = append(x.Files, AssociatedFile{Name: s.string(0), Kind: int(s.u8(2)), Locale: s.string(3)})
	})
	return x
}

// Normalization is how the first input wants pixels (0 to 255) scaled:
// (pixel - mean) / std, one value or one a channel; nil, nil when the file does
// not say. For a quantised input it is nil: such models take raw pixels, and what
// their metadata says has already gone into scale and zero point.
func (m *Model) Normalization() (mean, std []float32) {
	in := m.Inputs()
	if len(in) == 0 || in[0].Type != hal.Float32 && in[0].Type != hal.Float16 {
		return nil, nil
	}
	if m.Metadata != nil && len(m.Metadata.Inputs) > 0 && len(m.Metadata.Inputs[0].Std) > 0 {
		return m.Metadata.Inputs[0].Mean, m.Metadata.Inputs[0].Std
	}
	if m.ultralytics() != nil {
		return []float32{0}, []float32{255}
	}
	return nil, nil
}

// LabelFile is the content of the label file packed behind the model, nil when
// there is none: a label a line.
func (m *Model) LabelFile() []byte {
	if m.Metadata != nil {
		for _, out := range m.Metadata.Outputs {
			for _, a := range out.Files {
				if (a.Kind == AxisLabels || a.Kind == ValueLabels) && (a.Locale == "" || strings.HasPrefix(a.Locale, "en")) {
					if b := m.file(a.Name); b != nil {
						return b
					}
				}
			}
		}
	}
	return m.ultralytics()
}

func (m *Model) file(name string) []byte {
	for _, f := range m.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}
