package agent

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A steady source opens another, and opens it again when it breaks: a folder that
// is not mounted yet, a camera that was unplugged. Frames are counted through.
type steady struct {
	open    func() (hal.Source, error)
	live    bool
	log     zerolog.Logger
	trouble *atomic.Pointer[wire.Fault] // why there are no frames; nil while there are

	source hal.Source // nil while it is broken
	seq    uint64
	delay  time.Duration // before it is opened again
}

// Next waits for a frame, for as long as that takes.
func (s *steady) Next(ctx context.Context, f *hal.Frame) error {
	for {
		if err := s.mend(ctx); err != nil {
			return err
		}
		err := s.source.Next(ctx, f)
		switch {
		case err == nil:
			s.delay = 0
			s.seq++
			f.Seq = s.seq
			s.trouble.Store(nil)
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, hal.ErrBadFrame), ctx.Err() != nil:
			return err
		}
		s.broke(err)
		if err := s.source.Close(); err != nil {
			s.log.Warn().Err(err).Msg("source closed")
		}
		s.source = nil
	}
}

// mend opens the source when it is not open.
func (s *steady) mend(ctx context.Context) error {
	for s.source == nil {
		if s.delay > 0 && !sleep(ctx, s.delay) {
			return ctx.Err()
		}
		source, err := s.open()
		if err != nil {
			s.broke(err)
			continue
		}
		s.source = source
	}
	return nil
}

func (s *steady) broke(err error) {
	s.delay = min(max(time.Second, 2*s.delay), 30*time.Second)
	s.trouble.Store(update.FaultOf(err))
	s.log.Error().Err(err).Dur("again", s.delay).Msg("source gives no frames")
}

// Live says what the source will be.
func (s *steady) Live() bool { return s.live }

// Close closes what is open.
func (s *steady) Close() error {
	if s.source == nil {
		return nil
	}
	return s.source.Close()
}
