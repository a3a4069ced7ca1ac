package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"
	"unsafe"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
)

const (
	maxTries   = 3                      // runs of one frame that may lose their session
	offerAgain = 100 * time.Millisecond // to a full outbox that does not say when it has room
)

// runState is what the running goroutine keeps from frame to frame.
type runState struct {
	id     []byte // IDPrefix and "-", with room for a number
	answer task.Result
	items  Items
	result wire.Result

	gen       *generation // of the last published result
	published time.Time   // when that was
}

// runAll takes jobs to their end until there will be none.
func (p *Pipeline) runAll(ctx context.Context) {
	loop := p.loop("run")
	defer loop.End()
	for {
		select {
		case j, ok := <-p.work:
			if !ok {
				return
			}
			p.process(ctx, j, loop)
		case <-loop.Pulse():
		}
		loop.Beat()
	}
}

// process takes a job to its end: published, dropped, or back to be tried again. loop is
// of the goroutine that does.
func (p *Pipeline) process(ctx context.Context, j job, loop *pulse.Loop) {
	loop.Rest(j.gen.limit)
	lat, err := p.infer(j)
	loop.Beat()
	switch {
	case errors.Is(err, hal.ErrLost):
		p.sessionLost(j, err)
		j.gen.free <- j.buf
	case err != nil:
		j.gen.free <- j.buf
		p.failed(err)
		p.dropJob(j, DropError)
	default:
		j.gen.free <- j.buf
		p.publish(ctx, j, lat, loop)
	}
	p.underway.Add(-1)
	select {
	case p.settled <- struct{}{}:
	default: // fill has not seen the last one yet
	}
}

// infer runs and decodes a job into p.run.answer.
func (p *Pipeline) infer(j job) (wire.Latency, error) {
	timing, err := j.gen.Session.Run(j.buf)
	if err != nil {
		return wire.Latency{}, err
	}
	begin := time.Now()
	err = safely(func() error { return j.gen.Decoder.Decode(j.gen.Session, j.buf, &p.run.answer) })
	post := time.Since(begin)
	for stage, took := range [numStages]time.Duration{StageFill: j.pre, StageRun: timing.Engine, StageDecode: post} {
		p.counters.stages[stage].add(took)
	}
	return wire.Latency{Pre: ms(j.pre), Inv: ms(timing.Engine), Post: ms(post)}, err
}

// ms rounds to microseconds, so that results stay short.
func ms(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / 1e6 }

// publish offers a result; one of a source that loses nothing until it is taken.
func (p *Pipeline) publish(ctx context.Context, j job, lat wire.Latency, loop *pulse.Loop) {
	r := p.result(j, lat)
	if p.cfg.Seen != nil {
		p.cfg.Seen(r, j.look)
	}
	var room <-chan struct{} // taken before an offer, so that none is missed
	for {
		err := p.cfg.Publish(r)
		switch {
		case err == nil:
			p.delivered(j)
			return
		case !errors.Is(err, ErrFull):
			p.failed(err)
			p.dropJob(j, DropError)
			return
		case p.live || !p.awaitRoom(ctx, room, loop):
			p.dropJob(j, DropOutbox)
			return
		}
		if p.cfg.Room != nil {
			room = p.cfg.Room()
		}
	}
}

// awaitRoom is false when ctx ends first. Before the first Room there is nothing to wait for.
func (p *Pipeline) awaitRoom(ctx context.Context, room <-chan struct{}, loop *pulse.Loop) bool {
	loop.Beat()
	switch {
	case p.cfg.Room == nil:
		return sleep(ctx, offerAgain)
	case room == nil:
		return ctx.Err() == nil
	}
	for {
		select {
		case <-room:
			return true
		case <-loop.Pulse():
			loop.Beat()
		case <-ctx.Done():
			return false
		}
	}
}

// result is valid until the next one; its id shares p.run.id's memory, because a
// string of its own would be an allocation for each frame.
func (p *Pipeline) result(j job, lat wire.Latency) *wire.Result {
	p.run.id = strconv.AppendUint(p.run.id[:len(p.cfg.IDPrefix)+1], j.n, 10)
	r := &p.run.result
	*r = wire.Result{
		V: wire.Version, ID: unsafe.String(&p.run.id[0], len(p.run.id)),
		TS: j.captured, Pipe: p.cfg.Name, Frame: j.seq, Name: j.name,
		Model: j.gen.Ref, Accel: j.gen.accel, LatMS: lat,
		Kind: p.run.answer.Kind, Items: p.run.items.Of(p.run.answer.Items, j.view),
	}
	if p.cfg.SID != nil {
		r.SID = p.cfg.SID()
	}
	return r
}

func (p *Pipeline) delivered(j job) {
	now := time.Now()
	c := &p.counters
	c.latency.add(now.Sub(j.captured))
	if c.code.Load() != nil {
		c.code.Store(nil)
	}
	if before := p.run.gen; before != j.gen && before != nil && !before.lost.Load() {
		c.swaps.Add(1)
		if gap := int64(now.Sub(p.run.published)); gap > c.swapGap.Load() {
			c.swapGap.Store(gap)
		}
	}
	p.run.gen, p.run.published = j.gen, now
	c.published.Add(1)
	p.done(j, true)
}

func (p *Pipeline) dropJob(j job, why Drop) {
	p.counters.dropped[why].Add(1)
	p.done(j, false)
}

// sessionLost sees to it that the session is opened again, and its frame tried
// again unless it is live or seems to be the reason.
func (p *Pipeline) sessionLost(j job, err error) {
	if j.gen.lost.CompareAndSwap(false, true) {
		p.counters.lost.Add(1)
		p.failed(err)
		select {
		case <-p.lost: // an older one, long replaced
		default:
		}
		p.lost <- j.gen
		if j.frame != nil {
			j.frame.tries++
		}
	}
	if p.live || j.frame.tries == maxTries {
		p.dropJob(j, DropError)
		return
	}
	j.unshade()
	p.retry <- j.frame
}

// failed notes why a frame came to nothing: until the next result the pipeline is
// degraded. Only the first of a row is worth a warning.
func (p *Pipeline) failed(err error) {
	code := string(hal.CodeOf(err))
	if code == "" {
		code = string(hal.CodeInvoke)
	}
	if before := p.counters.code.Swap(&code); before == nil || *before != code {
		p.cfg.Log.Warn().Err(err).Str("code", code).Msg("frame")
	}
}

// safely turns a panic of a filler or decoder, which read what a model says, into
// an error of this frame.
func safely(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &hal.Error{Code: hal.CodeInvoke, Text: fmt.Sprintf("panic: %v\n%s", r, debug.Stack())}
		}
	}()
	return do()
}
