// Package task turns what a model gives into what people mean: labels, scores,
// boxes. There is one decoder a file, and Choose takes the right one from what the
// model says about itself. Pure; decoders allocate nothing once warm.
package task

import (
	"fmt"
	"slices"
	"strings"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
)

// Kinds of results. Auto, as a wish, is whatever the model says of itself.
const (
	Auto     = "auto"
	Classify = "classify" // labels of the whole frame
	Detect   = "detect"   // labels in boxes
	Segment  = "segment"  // labels of pixels: areas and masks
	Pose     = "pose"     // points of bodies, hands, faces
	Depth    = "depth"    // how far away things are
	Text     = "text"     // what was read
	Embed    = "embed"    // whom or what it is like, of those that were shown before
	Audio    = "audio"    // labels of a window of sound, any number at once
	Series   = "series"   // numbers over time: what is unusual, what comes next
	Raw      = "raw"      // the outputs as numbers
)

// A Result is the answer to one frame. It is reused from frame to frame.
type Result struct {
	Kind  string
	Items []Item // best first
}

// An Item is one thing that a model saw. What it has besides Label, ID and Score
// depends on the kind of result. Points and Mask are the decoder's until its next Decode.
type Item struct {
	Label  string
	ID     int // of the class, as the model counts
	Score  float32
	Box    [4]float32 // x0, y0, x1, y1 in 0..1 of the model's picture; see vision.View
	HasBox bool
	Angle  float32      // turns Box about its middle, radians, clockwise as one sees it
	Points [][3]float32 // x and y in 0..1 of the model's picture and a score each, in the model's order
	Area   float32      // share of the model's picture that it covers, where its pixels are known
	Mask   *Mask        // which pixels
}

// A Mask says which cells of a part of the model's picture are of an item.
type Mask struct {
	Box        [4]float32 // x0, y0, x1, y1 in 0..1 of the model's picture
	Rows, Cols int
	Counts     []byte // see AppendRuns
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
	Kind      string  // a kind of results, or the name of one decoder; "" is Auto
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

// A matcher makes one decoder, and says in a few words what it saw in the model.
// Without a decoder, why says what is missing; err is for a model that is of this
// decoder but contradicts itself.
type matcher struct {
	name string // of the decoder: what the model's makers call what it gives
	kind string // of the results
	make func(m model) (d Decoder, why string, err error)
}

// matchers in the order they are tried. Raw takes everything.
func matchers() []matcher {
	return []matcher{
		{"ssd", Detect, makeDetect},
		{"scores", Classify, makeClassify},
		{"numbers", Raw, makeRaw},
	}
}

// Known is the kinds of results and the names of decoders, which Options.Kind may be.
func Known() []string {
	known := []string{Auto}
	for _, k := range matchers() {
		if !slices.Contains(known, k.kind) {
			known = append(known, k.kind)
		}
	}
	for _, k := range matchers() {
		known = append(known, k.name)
	}
	return known
}

// A Choice is how a model is decoded.
type Choice struct {
	Decoder Decoder
	Name    string    // of the decoder
	Kind    string    // of its results
	Why     string    // what was seen in the model
	Not     []Refusal // by decoders that come before it
}

// A Refusal is a decoder that does not fit a model.
type Refusal struct{ Name, Kind, Why string }

// Reason is the choice in one line.
func (c Choice) Reason() string { return fmt.Sprintf("%s (%s): %s", c.Kind, c.Name, c.Why) }

// Choose returns the decoder for a model. labels is the label file that was given,
// already parsed; nil: the model's own. Errors are E_SHAPE (no decoder of o.Kind fits the
// model; it lists why not) and E_LABELS (labels do not fit).
func Choose(m *modelfile.Model, info hal.Info, labels []string, o Options) (c Choice, err error) {
	if labels == nil {
		if labels, err = ParseLabels(m.LabelFile()); err != nil {
			return c, err
		}
	}
	if o.Kind == "" {
		o.Kind = Auto
	}
	if !slices.Contains(Known(), o.Kind) {
		return c, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("unknown task or decoder %.40q: use one of %s", o.Kind, strings.Join(Known(), ", "))}
	}
	for _, k := range matchers() {
		if o.Kind != Auto && o.Kind != k.kind && o.Kind != k.name {
			continue
		}
		d, why, err := k.make(model{m, info, labels, o})
		if err != nil {
			return c, err
		}
		if d != nil {
			c.Decoder, c.Name, c.Kind, c.Why = d, k.name, k.kind, why
			return c, nil
		}
		c.Not = append(c.Not, Refusal{k.name, k.kind, why})
	}
	var why []string
	for _, n := range c.Not {
		why = append(why, n.Name+": "+n.Why)
	}
	return c, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("model is not %s (%s): use task auto or raw", o.Kind, strings.Join(why, "; "))}
}

func orElse[T comparable](v, none T) T {
	var zero T
	if v == zero {
		return none
	}
	return v
}
