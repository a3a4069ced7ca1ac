// Package task turns what a model gives into what people mean: labels, scores,
// boxes. There is one decoder a file, and Choose takes the right one from what the
// model says about itself. Pure; decoders allocate nothing once warm.
package task

import (
	"fmt"
	"strings"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
)

// Kinds of tasks.
const (
	Auto     = "auto"
	Classify = "classify"
	Detect   = "detect"
	Raw      = "raw"
)

// A Result is the answer to one frame. It is reused from frame to frame.
type Result struct {
	Kind  string
	Items []Item // best first
}

// An Item is one thing that a model saw.
type Item struct {
	Label  string
	ID     int // of the class, as the model counts
	Score  float32
	Box    [4]float32 // x0, y0, x1, y1 in 0..1 of the model's picture; see vision.View
	HasBox bool
}

// Outputs are the output tensors of a run; a hal.Session is one.
type Outputs interface {
	Output(buf, i int) hal.Tensor
}

// A Decoder reads the outputs of one model. It is used by one goroutine at a time.
type Decoder interface {
	// Decode reads the outputs of the last run of a buffer into r. An error is
	// E_SHAPE: the tensors are not those that the decoder was made for.
	Decode(o Outputs, buf int, r *Result) error
}

// Options of Choose; zero values mean the defaults.
type Options struct {
	Kind      string  // one of the kinds above; "" is Auto
	Threshold float32 // least score; 0 means 0.1 to classify, 0.5 to detect; negative means all
	Top       int     // most items; 0 means 5 to classify, 25 to detect, 64 raw
}

// A model is what a decoder is chosen by.
type model struct {
	file   *modelfile.Model
	info   hal.Info
	labels []string
	Options
}

// A matcher makes the decoder of one kind, and says in a few words what it saw
// in the model. Without a decoder, why says what is missing; err is for a model
// that is of this kind but contradicts itself.
type matcher struct {
	kind string
	make func(m model) (d Decoder, why string, err error)
}

// matchers in the order they are tried. Raw takes everything.
func matchers() []matcher {
	return []matcher{{Detect, makeDetect}, {Classify, makeClassify}, {Raw, makeRaw}}
}

// Choose returns the decoder for a model, and why it was chosen. labels is the
// label file that was given, already parsed; nil: the model's own. Errors are
// E_SHAPE (the model cannot do o.Kind) and E_LABELS (labels do not fit).
func Choose(m *modelfile.Model, info hal.Info, labels []string, o Options) (d Decoder, reason string, err error) {
	if labels == nil {
		if labels, err = ParseLabels(m.LabelFile()); err != nil {
			return nil, "", err
		}
	}
	if o.Kind == "" {
		o.Kind = Auto
	}
	var tried []string
	for _, k := range matchers() {
		if o.Kind != Auto && o.Kind != k.kind {
			continue
		}
		d, why, err := k.make(model{m, info, labels, o})
		if err != nil {
			return nil, "", err
		}
		if d != nil {
			return d, strings.Join(append([]string{k.kind + ": " + why}, tried...), "; "), nil
		}
		tried = append(tried, "not "+k.kind+": "+why)
	}
	if len(tried) == 0 {
		return nil, "", &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("unknown task %.40q: use auto, classify, detect or raw", o.Kind)}
	}
	return nil, "", &hal.Error{Code: hal.CodeShape, Text: "model is " + tried[0] + ": use task auto or raw"}
}

func orElse[T comparable](v, none T) T {
	var zero T
	if v == zero {
		return none
	}
	return v
}
