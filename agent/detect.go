package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

const maxPicture = 16 << 20 // bytes of a picture's file

// A Detector answers single pictures: one model, no broker, no state.
type Detector struct {
	l      *loaded
	frame  hal.Frame
	answer task.Result
	items  pipeline.Items
	n      uint64
}

// NewDetector opens the model of a pipeline for single pictures. Only the fields
// about the model count.
func NewDetector(ctx context.Context, engines []hal.Engine, p PipelineFile, log zerolog.Logger) (*Detector, error) {
	r, err := localRecipe(p)
	if err != nil {
		return nil, err
	}
	o := &opener{engines: engines, log: log}
	l, err := o.open(ctx, p, r, true)
	if err != nil {
		return nil, err
	}
	return &Detector{l: l}, nil
}

// Info describes the open model.
func (d *Detector) Info() hal.Info { return d.l.Info() }

// Labels are what it can answer with; nil where neither the model nor a file says them.
func (d *Detector) Labels() []string { return d.l.labels }

// Detect answers one picture's file. The frame is valid until the next call.
func (d *Detector) Detect(path string) (*wire.Result, *hal.Frame, error) {
	if err := d.read(path); err != nil {
		return nil, nil, err
	}
	r, err := d.See(filepath.Base(path), &d.frame)
	if err != nil {
		return nil, nil, err
	}
	return r, &d.frame, nil
}

// See answers one frame, which the result calls name.
func (d *Detector) See(name string, f *hal.Frame) (*wire.Result, error) {
	s := d.l.Session
	begin := time.Now()
	view, err := d.l.Filler.Fill(s.Input(0, 0), f)
	if err != nil {
		return nil, err
	}
	filled := time.Now()
	timing, err := s.Run(0)
	if err != nil {
		return nil, err
	}
	ran := time.Now()
	if err := d.l.Decoder.Decode(s, 0, &d.answer); err != nil {
		return nil, err
	}
	d.n++
	r := &wire.Result{
		V: wire.Version, ID: "detect-" + strconv.FormatUint(d.n, 10), TS: begin.UTC(), Pipe: "detect", Frame: d.n, Seq: d.n,
		Name: name, Model: d.l.Ref, Accel: string(d.Info().Accelerator), Kind: d.answer.Kind,
		LatMS: wire.Latency{Pre: millis(filled.Sub(begin)), Inv: millis(timing.Engine), Post: millis(time.Since(ran))},
		Items: append([]wire.Item{}, wire.CloneItems(d.items.Of(d.answer.Items, view))...),
	}
	return r, nil
}

// Close frees the model.
func (d *Detector) Close() error { return d.l.Close() }

func (d *Detector) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return &hal.Error{Code: hal.CodeImage, Text: err.Error(), Err: err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPicture+1))
	if err != nil {
		return &hal.Error{Code: hal.CodeImage, Text: fmt.Sprintf("read %s: %v", path, err), Err: err}
	}
	if err := vision.DecodePicture(b, &d.frame); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func millis(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / 1e6 }
