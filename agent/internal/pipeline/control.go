package pipeline

import (
	"context"

	"github.com/covey-edge/covey/hal/vision"
)

// SetMask covers parts of every frame from the next one on, before a model or anybody
// else sees it: polygons of corners (x, y) in 0..1. None covers nothing. The pipeline
// keeps them.
func (p *Pipeline) SetMask(polygons [][][2]float32) {
	if len(polygons) == 0 {
		p.mask.Store(nil)
		return
	}
	p.mask.Store(vision.NewMask(polygons)) // used by fill alone: a shadow sees what fill has covered
}

// Pause ends the taking of frames: a live source is closed, so that its camera is off
// and free for others; another source waits. Resume goes on: the source has to bear
// that Next opens it again, as source.Kept does.
func (p *Pipeline) Pause() {
	c := make(chan struct{})
	if p.paused.CompareAndSwap(nil, &c) {
		if stop := p.stop.Load(); stop != nil {
			(*stop)()
		}
	}
}

// Resume ends a pause.
func (p *Pipeline) Resume() {
	if c := p.paused.Swap(nil); c != nil {
		close(*c)
	}
}

// Paused says whether no frames are taken for now.
func (p *Pipeline) Paused() bool { return p.paused.Load() != nil }

// taking is the context of capture until the next pause. It waits for the end of the
// one that is; with ctx's end it returns that.
func (p *Pipeline) taking(ctx context.Context) context.Context {
	for {
		taking, stop := context.WithCancel(ctx)
		p.stop.Store(&stop)
		resume := p.paused.Load() // after stop is there for who pauses from now on
		if resume == nil {
			return taking
		}
		stop()
		if p.live {
			_ = p.cfg.Source.Close() // it is opened again
		}
		select {
		case <-*resume:
		case <-ctx.Done():
			return ctx
		}
	}
}
