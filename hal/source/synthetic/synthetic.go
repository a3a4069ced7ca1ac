// Package synthetic is a source that makes its pictures itself: a moving pattern
// that depends on the frame's number alone. For tests, for measuring, and for
// trying a board that has no camera.
package synthetic

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/covey-edge/covey/hal"
)

// Config of a Source. The zero value gives 640×480 as fast as they are taken,
// without end, and loses none.
type Config struct {
	Width, Height int     // pixels; 0 means 640, 480
	FPS           float64 // 0: as fast as they are taken
	Count         uint64  // frames, then io.EOF; 0: without end
	Live          bool    // time goes on: a frame that nobody took in time is not made up for
}

// A Source makes frames in FormatYUV420.
type Source struct {
	c      Config
	period time.Duration
	due    time.Time // of the next frame
	seq    uint64
	ramp   []byte // rows are cut out of it
}

const maxSide = 8192

// New returns a source. It fails only for sizes and rates that cannot be.
func New(c Config) (*Source, error) {
	if c.Width == 0 && c.Height == 0 {
		c.Width, c.Height = 640, 480
	}
	if c.Width < 1 || c.Height < 1 || c.Width > maxSide || c.Height > maxSide {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("synthetic source of %d×%d pixels: give a width and height from 1 to %d", c.Width, c.Height, maxSide)}
	}
	if !(c.FPS >= 0 && c.FPS <= 1e6) {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("synthetic source of %v frames a second: give 0 to 1000000", c.FPS)}
	}
	s := &Source{c: c, ramp: make([]byte, c.Width+256)}
	for i := range s.ramp {
		s.ramp[i] = byte(i)
	}
	if c.FPS > 0 {
		s.period = time.Duration(float64(time.Second) / c.FPS)
	}
	return s, nil
}

// Live says whether frames that come too late are lost.
func (s *Source) Live() bool { return s.c.Live }

// Close does nothing.
func (s *Source) Close() error { return nil }

// Next waits until the next frame is due and draws it into f's memory.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.c.Count > 0 && s.seq == s.c.Count {
		return io.EOF
	}
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.seq++
	f.Seq, f.Captured, f.Name = s.seq, time.Now(), ""
	s.draw(f)
	return nil
}

// wait keeps the pace. A live source that is late begins anew; others catch up.
func (s *Source) wait(ctx context.Context) error {
	if s.period == 0 {
		return nil
	}
	now := time.Now()
	if s.due.IsZero() || s.c.Live && now.Sub(s.due) > s.period {
		s.due = now
	}
	if d := s.due.Sub(now); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	s.due = s.due.Add(s.period)
	return nil
}

// draw makes slanted stripes that move a pixel a frame, of a colour that changes
// slowly, with a bright square on its way through the picture.
func (s *Source) draw(f *hal.Frame) {
	w, h, n := s.c.Width, s.c.Height, int(s.seq)
	cw, ch := (w+1)/2, (h+1)/2
	f.Format, f.Width, f.Height, f.Strides = hal.FormatYUV420, w, h, [3]int{w, cw, cw}
	for i, size := range [3]int{w * h, cw * ch, cw * ch} {
		if cap(f.Planes[i]) < size {
			f.Planes[i] = make([]byte, size)
		}
		f.Planes[i] = f.Planes[i][:size]
	}
	for y := range h {
		copy(f.Planes[0][y*w:(y+1)*w], s.ramp[(y+n)&255:])
	}
	for y := range ch {
		copy(f.Planes[1][y*cw:(y+1)*cw], s.ramp[n>>2&255:])
		copy(f.Planes[2][y*cw:(y+1)*cw], s.ramp[(y+n>>1)&255:])
	}
	side := max(1, min(w, h)/8)
	x, y := 5*n%(w-side+1), 3*n%(h-side+1)
	for row := range side {
		line := f.Planes[0][(y+row)*w+x : (y+row)*w+x+side]
		for i := range line {
			line[i] = 235
		}
	}
}
