package pipeline

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
)

const (
	firstDelay = 200 * time.Millisecond // before a lost session is opened again
	lastDelay  = 30 * time.Second
	goodAge    = time.Minute // of a session that was not lost at once
)

// OpenTime is the longest that a model may take to open: a driver may compile it for 20
// minutes, in two ways (TensorRT).
const OpenTime = 45 * time.Minute

// reopenLost opens lost sessions again until ctx ends.
func (p *Pipeline) reopenLost(ctx context.Context) {
	if p.cfg.Reopen == nil {
		return
	}
	loop := p.loop("reopen")
	defer loop.Leave(ctx)
	for {
		loop.Beat()
		select {
		case g := <-p.lost:
			p.reopen(ctx, g, loop)
		case <-loop.Pulse():
		case <-ctx.Done():
			return
		}
	}
}

// reopen tries until a session stands in for the lost one, or another replaced it.
func (p *Pipeline) reopen(ctx context.Context, lost *generation, loop *pulse.Loop) {
	for delay := delayAfter(lost.delay, time.Since(lost.since)); ; delay = min(2*delay, lastDelay) {
		loop.Rest(2 * lastDelay)
		t := time.NewTimer(jitter(delay))
		select {
		case <-t.C:
		case <-lost.replaced:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		}
		loop.Beat()
		loop.Do("opens its model again", OpenTime)
		m, err := p.cfg.Reopen(ctx)
		if err != nil {
			if ctx.Err() == nil {
				p.failed(err)
			}
			continue
		}
		gen := newGeneration(m)
		gen.delay = delay
		if err := p.hand(ctx, &handover{gen: gen, replaces: lost}); err != nil {
			m.Session.Close()
		}
		return
	}
}

// delayAfter is how long to wait after a session was lost at an age, when it had
// been waited for before.
func delayAfter(before, age time.Duration) time.Duration {
	if before == 0 || age >= goodAge {
		return firstDelay
	}
	return min(2*before, lastDelay)
}

// jitter is d, up to half shorter, so that many pipelines do not start at once.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/2+1) }
