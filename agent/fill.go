package agent

import (
	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/signal"
	"github.com/covey-edge/covey/hal/vision"
)

// newFiller is the way from a pipeline's frames into a model's input.
func newFiller(t hal.TensorInfo, p PipelineFile, mean, std []float32) (pipeline.Filler, error) {
	s := p.Source
	if !s.Samples() {
		f, err := vision.NewFiller(t, vision.Options{Mean: mean, Std: std, Fit: vision.Fit(p.Fit), Crop: p.Crop, BGR: p.BGR})
		if err != nil {
			return nil, err
		}
		return &pictures{f}, nil
	}
	f, err := signal.NewFiller(t, signal.Options{Mean: mean, Std: std, Scale: float32(s.Scale), Channels: len(s.Channels)})
	if err != nil {
		return nil, err
	}
	n, _, err := signal.Window(t, len(s.Channels))
	if err != nil {
		return nil, err
	}
	return &samples{f, hal.Want{Samples: n}}, nil
}

// Pictures fill a model's input with pictures.
type pictures struct{ *vision.Filler }

// Want is the least size of a picture that serves.
func (p *pictures) Want() hal.Want {
	w, h := p.Filler.Want()
	return hal.Want{Width: w, Height: h}
}

// Samples fill a model's input with windows of samples.
type samples struct {
	filler *signal.Filler
	want   hal.Want
}

// Fill writes a window. There is nothing to lead back to: samples have no boxes.
func (s *samples) Fill(dst []byte, f *hal.Frame) (vision.View, error) {
	return vision.View{}, s.filler.Fill(dst, f)
}

// Want is how many samples the model takes.
func (s *samples) Want() hal.Want { return s.want }
