package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/ladder"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

// A tryout is a model on the plain CPU, with the way into it and out of it that an
// agent takes. What it answers is what golden samples expect.
type tryout struct {
	session hal.Session
	decoder task.Decoder
	kind    string         // of its results
	filler  *vision.Filler // nil: the model takes no pictures
	blind   error          // why it takes none

	frame  hal.Frame
	answer task.Result
}

// How long a model may take here, which may be an old machine.
const (
	tryOpen = 5 * time.Minute
	tryRun  = time.Minute
)

// tryOut opens the plain variant.
func (s *source) tryOut(ctx context.Context) (*tryout, error) {
	v := s.Variants[s.plain()]
	e, err := engine(v.Engine)
	if err != nil {
		return nil, err
	}
	session, err := e.Open(ctx, hal.Model{Name: v.File.Name, Path: s.path(v.File), SHA256: v.File.SHA256, Size: v.File.Length},
		hal.Options{Accelerator: hal.CPU, Buffers: 1, Deadline: tryRun, OpenTimeout: tryOpen})
	if err != nil {
		return nil, err
	}
	t := &tryout{session: session}
	info := session.Info()
	if t.decoder, t.kind, err = s.decoder(info); err != nil {
		return nil, errors.Join(err, session.Close())
	}
	if len(info.Inputs) != 1 {
		t.blind = fmt.Errorf("the model has %d inputs, a picture fills one", len(info.Inputs))
		return t, nil
	}
	mean, std := s.Decode.Mean, s.Decode.Std
	if mean == nil && std == nil {
		mean, std = s.plainModel().Normalization()
	}
	t.filler, t.blind = vision.NewFiller(info.Inputs[0], vision.Options{Mean: mean, Std: std})
	return t, nil
}

func (t *tryout) close() error { return t.session.Close() }

// picture makes a picture's file the model's input.
func (t *tryout) picture(path string) ([]byte, error) {
	if t.blind != nil {
		return nil, t.blind
	}
	b, err := readUpTo(path, vision.MaxPictureBytes)
	if err != nil {
		return nil, err
	}
	if err := vision.DecodePicture(b, &t.frame); err != nil {
		return nil, err
	}
	in := make([]byte, len(t.session.Input(0, 0)))
	_, err = t.filler.Fill(in, &t.frame)
	return in, err
}

func readUpTo(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("longer than %d bytes", limit)
	}
	return b, err
}

// An answer is what a model gave for one input.
type answer struct {
	outputs   []hal.Tensor // copies
	first     string       // label that comes first; "" where nothing is seen
	score     float32
	tolerance float64 // that other processors need
	numbers   bool    // whether outputs can be compared by it
}

// run answers inputs, as a board's self-test does.
func (t *tryout) run(inputs [][]byte) (answer, error) {
	info := t.session.Info()
	if len(inputs) != len(info.Inputs) {
		return answer{}, fmt.Errorf("%d inputs for a model of %d", len(inputs), len(info.Inputs))
	}
	if err := t.session.Reset(); err != nil {
		return answer{}, err
	}
	for i, b := range inputs {
		if in := t.session.Input(0, i); len(in) != len(b) {
			return answer{}, fmt.Errorf("input %d has %d bytes, the model takes %d", i, len(b), len(in))
		} else {
			copy(in, b)
		}
	}
	if _, err := t.session.Run(0); err != nil {
		return answer{}, err
	}
	if err := t.decoder.Decode(t.session, 0, &t.answer); err != nil {
		return answer{}, err
	}
	var a answer
	if len(t.answer.Items) > 0 {
		a.first, a.score = t.answer.Items[0].Label, t.answer.Items[0].Score
	}
	for i := range info.Outputs {
		o := t.session.Output(0, i)
		a.outputs = append(a.outputs, hal.Tensor{Info: o.Info, Shape: append([]int(nil), o.Shape...), Data: bytes.Clone(o.Data)})
	}
	a.tolerance, a.numbers = ladder.Tolerance(a.outputs)
	return a, nil
}

// proves runs the golden samples of a release, as a board does before it switches.
func (t *tryout) proves(s *source, step func()) error {
	v := s.Variants[s.plain()]
	for i, g := range s.Golden {
		var inputs [][]byte
		for _, f := range g.Inputs {
			b, err := os.ReadFile(s.path(f))
			if err != nil {
				return err
			}
			inputs = append(inputs, b)
		}
		a, err := t.run(inputs)
		if err == nil && len(g.Outputs) > len(a.outputs) {
			err = fmt.Errorf("it has %d outputs, the model %d", len(g.Outputs), len(a.outputs))
		}
		for n, f := range g.Outputs {
			if err != nil {
				break
			}
			var want []byte
			if want, err = os.ReadFile(s.path(f)); err == nil {
				err = release.Compare(n, a.outputs[n], want, v.ToleranceOf(g))
			}
		}
		if err == nil && g.Label != "" {
			err = release.CompareLabel(a.first, g.Label)
		}
		if err != nil {
			return fmt.Errorf("golden sample %d: %w", i, err)
		}
		step()
	}
	return nil
}
