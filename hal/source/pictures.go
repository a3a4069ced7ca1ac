package source

import (
	"context"
	"fmt"
	"time"

	"github.com/covey-edge/covey/hal"
)

// Pictures takes pictures out of a box and decodes them: what is the same in all
// live sources of encoded pictures.
type Pictures struct {
	Box *Box
	// Decode sets Format, size, planes and strides of f from a picture, and keeps
	// nothing of it. Its errors make a bad frame.
	Decode func(picture []byte, f *hal.Frame) error
	Quiet  time.Duration // Next's longest wait; 0: for ever

	used []byte
	seq  uint64
}

// Next decodes the newest picture into f. It returns ErrQuiet after Quiet, and once
// the box is empty what its End was told.
func (p *Pictures) Next(ctx context.Context, f *hal.Frame) error {
	item, err := p.Box.Take(ctx, p.Quiet, p.used)
	p.used = item.Data
	if err != nil {
		return err
	}
	if item.Err != nil {
		return item.Err
	}
	f.Limited = false
	if err := p.Decode(item.Data, f); err != nil {
		return fmt.Errorf("%w: %w", hal.ErrBadFrame, err)
	}
	p.seq++
	f.Seq, f.Captured, f.Name = p.seq, item.At, ""
	return nil
}
