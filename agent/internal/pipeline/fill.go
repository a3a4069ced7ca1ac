package pipeline

import (
	"context"
	"slices"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/hal"
)

// A filler is the goroutine between capture and run: it brings frame, buffer and
// model together, and it alone decides which model is in use.
type filler struct {
	*Pipeline
	gen     *generation   // nil before the first
	pending *handover     // to be looked at before the next frame
	again   []*frame      // kept frames that need a run, oldest first
	box     <-chan *frame // nil once the source has ended
	loop    *pulse.Loop
}

// fill runs until the source has ended and its last frame is through, or ctx ends.
func (p *Pipeline) fill(ctx context.Context) {
	w := &filler{Pipeline: p, box: p.box, loop: p.loop("fill")}
	defer w.loop.End()
	for w.step(ctx) {
		w.loop.Beat()
	}
	for _, f := range w.again {
		p.drop(f, DropBusy)
	}
	if w.pending != nil {
		w.pending.taken <- false
	}
	if w.gen != nil {
		p.retiring.Go(w.gen.retire)
	}
}

// step takes one frame to where run finds it. False: there will be none.
func (w *filler) step(ctx context.Context) bool {
	buf, ok := w.buffer(ctx)
	if !ok {
		return false
	}
	gen := w.gen
	f, ok := w.frame(ctx)
	if f == nil {
		gen.free <- buf
		return ok
	}
	if gen.lost.Load() {
		gen.free <- buf
		w.putBack(f)
		return true
	}
	begin := time.Now()
	j := job{gen: gen, buf: buf, n: f.n, seq: f.Seq, captured: f.Captured, name: f.Name}
	err := safely(func() (err error) {
		j.view, err = gen.Filler.Fill(gen.Session.Input(buf, 0), &f.Frame)
		return err
	})
	if err != nil {
		gen.free <- buf
		w.failed(err)
		w.drop(f, DropError)
		return true
	}
	j.pre = time.Since(begin)
	if w.shade(&j, f); w.keep {
		j.frame = f
	} else if j.shadow == nil {
		w.release(f)
	}
	w.underway.Add(1)
	if w.cfg.Serial {
		w.process(ctx, j, w.loop)
	} else {
		w.work <- j
	}
	return true
}

// buffer waits for a model and a free buffer of it. Meanwhile handovers are
// taken, and frames of a live source that has no model are dropped.
func (w *filler) buffer(ctx context.Context) (int, bool) {
	for {
		if h := w.pending; h != nil {
			w.pending = nil
			w.accept(h)
		}
		if ctx.Err() != nil {
			return 0, false
		}
		var free <-chan int
		var box <-chan *frame
		switch {
		case w.gen != nil && !w.gen.lost.Load():
			free = w.gen.free
		case w.live && w.box == nil:
			return 0, false
		case w.live:
			box = w.box
		}
		select {
		case buf := <-free:
			if !w.gen.lost.Load() {
				return buf, true
			}
			w.gen.free <- buf
		case f, ok := <-box:
			if !ok {
				w.box = nil
				continue
			}
			w.drop(f, DropBusy)
		case w.pending = <-w.next:
		case <-w.loop.Pulse():
			w.loop.Beat()
		case <-ctx.Done():
		}
	}
}

// frame waits for the next frame: one to be run again, or a new one. It is nil
// when a handover comes first, and with false when there will be no more.
func (w *filler) frame(ctx context.Context) (*frame, bool) {
	for {
		idle := w.underway.Load() == 0 // asked before retry is looked at: a frame is in one or the other
		for len(w.retry) > 0 {
			w.putBack(<-w.retry)
		}
		if len(w.again) > 0 {
			f := w.again[0]
			w.again = slices.Delete(w.again, 0, 1)
			return f, true
		}
		if w.box == nil && idle {
			return nil, false
		}
		select {
		case f, ok := <-w.box:
			if ok {
				return f, true
			}
			w.box = nil
		case f := <-w.retry:
			w.putBack(f)
		case w.pending = <-w.next:
			return nil, true
		case <-w.settled:
		case <-w.loop.Pulse():
			w.loop.Beat()
		case <-ctx.Done():
			return nil, false
		}
	}
}

// putBack keeps a frame for a later run, in its place by age. A live source has a
// newer one by then.
func (w *filler) putBack(f *frame) {
	if w.live {
		w.drop(f, DropBusy)
		return
	}
	i, _ := slices.BinarySearchFunc(w.again, f, func(a, b *frame) int { return int(int64(a.n - b.n)) })
	w.again = slices.Insert(w.again, i, f)
}

// accept makes a handover's generation the one in use.
func (w *filler) accept(h *handover) {
	old := w.gen
	if h.replaces != nil && h.replaces != old {
		h.taken <- false
		return
	}
	if old != nil {
		close(old.replaced)
		w.retiring.Go(old.retire)
	}
	w.gen = h.gen
	w.want.Store(wantOf(h.gen))
	h.taken <- true
}

// wantOf is what a generation needs of frames.
func wantOf(g *generation) *hal.Want {
	var want hal.Want
	if g != nil {
		if w, ok := g.Filler.(Wanter); ok {
			want = w.Want()
		}
	}
	return &want
}
