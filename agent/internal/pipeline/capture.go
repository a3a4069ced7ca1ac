package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/covey-edge/covey/hal"
)

const (
	badInARow = 10                     // bad frames before capture slows down
	badPause  = 100 * time.Millisecond // after each further one
)

// capture moves frames from the source into the box until either ends.
func (p *Pipeline) capture(ctx context.Context) error {
	p.capturing = p.loop("capture")
	defer p.capturing.End()
	bad := 0
	for {
		p.capturing.Beat()
		f, ok := p.emptyFrame(ctx)
		if !ok {
			return nil
		}
		f.Want = both(p.want.Load(), p.also.Load())
		p.capturing.Rest(0) // a source may be silent, and says by Busy when it may not
		err := p.cfg.Source.Next(ctx, &f.Frame)
		p.capturing.Beat()
		switch {
		case err == nil:
			bad = 0
			f.n, f.tries = p.counters.captured.Add(1), 0
			p.post(ctx, f)
			continue
		case errors.Is(err, hal.ErrBadFrame):
			bad++
			p.counters.captured.Add(1)
			p.drop(f, DropError)
			p.cfg.Log.Warn().Err(err).Msg("frame")
			if bad >= badInARow {
				sleep(ctx, badPause)
			}
			continue
		}
		p.release(f)
		if err == io.EOF || ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("source of pipeline %s: %w", p.cfg.Name, err)
	}
}

func (p *Pipeline) emptyFrame(ctx context.Context) (*frame, bool) {
	if ctx.Err() != nil {
		return nil, false
	}
	for {
		select {
		case f := <-p.free:
			return f, true
		case <-p.capturing.Pulse():
			p.capturing.Beat()
		case <-ctx.Done():
			return nil, false
		}
	}
}

// post puts a frame into the box. A live frame takes the place of one that still
// waits there; another waits for its turn.
func (p *Pipeline) post(ctx context.Context, f *frame) {
	for !p.live {
		select {
		case p.box <- f:
			return
		case <-p.capturing.Pulse():
			p.capturing.Beat()
		case <-ctx.Done():
			p.drop(f, DropBusy)
			return
		}
	}
	for {
		select {
		case p.box <- f:
			return
		default:
		}
		select {
		case old := <-p.box:
			p.drop(old, DropStale)
		default: // fill has just taken it
		}
	}
}

// sleep waits for d or the end of ctx, and says whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
