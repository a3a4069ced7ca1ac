package haltest

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/covey-edge/covey/hal"
)

// A FakeSource gives RGB frames whose first pixel tells their number: R, G and B
// are the low three bytes of Seq.
type FakeSource struct {
	Frames        int           // then io.EOF; 0: without end
	Every         time.Duration // between frames; 0: at once
	Width, Height int           // 0 means 4
	IsLive        bool
	// Bad says which attempts (from 1) fail with hal.ErrBadFrame; nil: none. A bad
	// frame takes no Seq.
	Bad func(attempt int) bool

	attempt int
	seq     uint64
	closed  bool
}

// Next gives the next frame.
func (s *FakeSource) Next(ctx context.Context, f *hal.Frame) error {
	if err := wait(ctx, s.Every); err != nil {
		return err
	}
	if s.closed || (s.Frames > 0 && s.seq == uint64(s.Frames)) {
		return io.EOF
	}
	s.attempt++
	if s.Bad != nil && s.Bad(s.attempt) {
		return fmt.Errorf("frame %d: %w", s.attempt, hal.ErrBadFrame)
	}
	s.seq++
	w, h := max(s.Width, 0), max(s.Height, 0)
	if w == 0 || h == 0 {
		w, h = 4, 4
	}
	n := 3 * w * h
	if cap(f.Planes[0]) < n {
		f.Planes[0] = make([]byte, n)
	}
	p := f.Planes[0][:n]
	clear(p)
	p[0], p[1], p[2] = byte(s.seq), byte(s.seq>>8), byte(s.seq>>16)
	*f = hal.Frame{
		Seq: s.seq, Captured: time.Now(), Name: "fake",
		Format: hal.FormatRGB, Width: w, Height: h,
		Planes: [3][]byte{p}, Strides: [3]int{3 * w},
	}
	return nil
}

// FakeSeq is the number that a FakeSource wrote into a frame's first pixel.
func FakeSeq(f *hal.Frame) uint64 {
	p := f.Planes[0]
	return uint64(p[0]) | uint64(p[1])<<8 | uint64(p[2])<<16
}

// Live is IsLive.
func (s *FakeSource) Live() bool { return s.IsLive }

// Close ends the source.
func (s *FakeSource) Close() error { s.closed = true; return nil }
