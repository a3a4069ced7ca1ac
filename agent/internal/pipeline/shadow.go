package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

// rest is how often as long as it worked a shadow rests: it has a fifth of the
// time at the most, so that four frames of five find the board to themselves.
const rest = 4

// A shadow takes frames that the model in use has answered, one at a time. The
// frame stays with it, and another one takes its place among the pipeline's: so
// nothing is copied, and capture never waits for it.
type shadow struct {
	every  int
	frames int         // seen since the start; fill's own
	passed int         // frames in a row that came at a bad time; run's own
	idle   chan *frame // 1: the frame that takes the next one's place; who has it has the shadow
	todo   chan *frame // 1: its answer is in now
	now    task.Result // of the model in use; who has the shadow has it
}

// Shadow lets m answer frames beside the model in use, and calls pair with both
// answers, boxes in 0..1 of the frame, until pair says that it was the last. m's
// answers go nowhere else; m is the caller's before and after, and used by nobody
// else meanwhile. It runs on each every-th frame (0: on any), not before that frame's
// own result is out, rather where no other frame waits, and for a fifth of the time
// at the most. The error is m's (a lost session, or maxBad frames in a row without an
// answer), pair's, ErrEnded, or ctx's. One shadow at a time.
func (p *Pipeline) Shadow(ctx context.Context, m Model, every int, pair func(now, other *task.Result) (more bool, err error)) error {
	s := &shadow{every: max(every, 1), idle: make(chan *frame, 1), todo: make(chan *frame, 1)}
	s.idle <- &frame{}
	want := wantOf(&generation{Model: m})
	p.also.Store(want)
	defer p.also.Store(nil)
	p.shadow.Store(s)
	defer p.shadow.Store(nil)
	var other task.Result
	for bad := 0; ; {
		select {
		case f := <-s.todo:
			begin := time.Now()
			err := answer(m, f, &other)
			switch {
			case err == nil:
				bad = 0
				more, err := pair(&s.now, &other)
				if err != nil || !more {
					return err
				}
			case errors.Is(err, hal.ErrLost):
				return err
			default:
				if bad++; bad == maxBad {
					return err
				}
			}
			if !sleep(ctx, rest*time.Since(begin)) {
				return ctx.Err()
			}
			s.idle <- f
		case <-p.ended:
			return ErrEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// patience is how many frames in a row a shadow lets go because the next one already
// waits: a pipeline that never rests gets it on every ninth.
const patience = 8

// maxBad frames in a row that a shadow does not answer are its end.
const maxBad = 3

// answer runs a model on one frame.
func answer(m Model, f *frame, r *task.Result) error {
	var view vision.View
	return safely(func() (err error) {
		if view, err = m.Filler.Fill(m.Session.Input(0, 0), &f.Frame); err != nil {
			return err
		}
		if _, err = m.Session.Run(0); err != nil {
			return err
		}
		if err = m.Decoder.Decode(m.Session, 0, r); err != nil {
			return err
		}
		ofFrame(r, view)
		return nil
	})
}

// ofFrame brings boxes back to the frame.
func ofFrame(r *task.Result, v vision.View) {
	for i := range r.Items {
		if r.Items[i].HasBox {
			r.Items[i].Box = v.Box(r.Items[i].Box)
		}
	}
}

// shade marks a filled job for the shadow, if there is one and it is free.
func (p *Pipeline) shade(j *job, f *frame) {
	s := p.shadow.Load()
	if s == nil {
		return
	}
	if s.frames++; s.frames%s.every != 0 {
		return
	}
	select {
	case spare := <-s.idle:
		j.shadow, j.frame = s, f
		if p.keep {
			j.spare = spare // the frame may be needed for another run
		} else {
			p.release(spare)
		}
	default:
	}
}

// done gives back the frame that a job held, or with an answer hands it to the
// shadow.
func (p *Pipeline) done(j job, answered bool) {
	s := j.shadow
	if s != nil && answered {
		quiet := p.underway.Load() <= 1 && len(p.box) == 0 // but for this one
		if answered = quiet || s.passed == patience; answered {
			s.passed = 0
		} else {
			s.passed++
		}
	}
	switch {
	case s == nil:
		p.release(j.frame)
	case answered:
		s.now.Kind, s.now.Items = p.run.answer.Kind, append(s.now.Items[:0], p.run.answer.Items...)
		ofFrame(&s.now, j.view)
		p.release(j.spare)
		s.todo <- j.frame
	case j.spare != nil:
		s.idle <- j.spare
		p.release(j.frame)
	default:
		s.idle <- j.frame
	}
}

// unshade takes a job that is to be run again from the shadow.
func (j *job) unshade() {
	if j.shadow != nil && j.spare != nil {
		j.shadow.idle <- j.spare
		j.shadow, j.spare = nil, nil
	}
}

// both is what a frame has to be for the model in use, and for one beside it: a
// picture that is large enough for either. Windows are the first one's.
func both(want, also *hal.Want) hal.Want {
	w := *want
	if also == nil {
		return w
	}
	size := func(a, b int) int {
		if a == 0 || b == 0 {
			return 0
		}
		return max(a, b)
	}
	w.Width, w.Height = size(w.Width, also.Width), size(w.Height, also.Height)
	return w
}
