// Package pipeline is the path of a frame: one source, one loaded model, and
// where results go. Capture and fill of frame n+1 overlap the run of frame n;
// models are exchanged between two frames, and a lost one is opened again, without
// a frame less. It touches nothing but what it is given.
//
//	capture ─ mailbox or queue ─▶ fill ─ filled buffers ─▶ run, decode, publish
//	   ▲                            │ ▲                        │
//	   └────────── frames ──────────┘ └── buffers, retries ────┘
package pipeline

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

// ErrFull is returned by Config.Publish when there is no room for a result.
var ErrFull = errors.New("outbox is full")

// maxWarnings a minute about frames are logged; the counters tell the rest.
const maxWarnings = 10

// ErrEnded is returned by Swap when the pipeline has ended.
var ErrEnded = errors.New("pipeline has ended")

// A Filler makes a model's input of a frame. It is used by one goroutine at a time.
type Filler interface {
	// Fill writes the whole of dst, the memory of input 0 of a buffer, and says how
	// the model's coordinates lead back to the frame.
	Fill(dst []byte, f *hal.Frame) (vision.View, error)
}

// A Wanter is a Filler that says what it takes of frames. Others get them as they are.
type Wanter interface {
	Want() hal.Want
}

// A Model is a session with how to feed and how to read it. Where it takes the
// place of another it should be warm: its first run is slower than the others.
type Model struct {
	Session hal.Session
	Filler  Filler
	Decoder task.Decoder
	Ref     wire.ModelRef
}

// Config of a Pipeline. Source, Publish and IDPrefix are needed.
type Config struct {
	Name   string
	Source hal.Source // Run closes it
	// Publish hands a result over without waiting. ErrFull means no room: a live
	// source's result is dropped, another's is offered again until there is some.
	// The result, its texts included, is valid only until Publish returns.
	Publish func(*wire.Result) error
	// Room is closed when a full outbox may have room again; it is asked before the
	// offer that then fails. Nil: offers are repeated from time to time.
	Room func() <-chan struct{}
	// Reopen opens the model that should run now, after its session was lost; it
	// is asked again with backoff until it succeeds. Nil: wait for Swap.
	Reopen func(ctx context.Context) (Model, error)
	// SID is the connection counter that results carry; nil means 0.
	SID func() uint64
	// IDPrefix begins the id of every result; a number that no other frame of
	// this Pipeline has follows. It must differ from one start of the agent to the
	// next.
	IDPrefix string
	// Serial takes one frame after the other, without any overlap.
	Serial bool
	Pulse  *pulse.Board // where its loops say that they go on; nil: nobody asks
	Log    zerolog.Logger
}

// A Pipeline takes frames from its source through its model. Make it with New.
type Pipeline struct {
	cfg  Config
	live bool
	keep bool // frames until their end, not only until they are filled into a buffer

	free    chan *frame      // frames nobody uses
	box     chan *frame      // captured frames: a mailbox when live, a queue otherwise
	work    chan job         // filled buffers, on their way to run
	retry   chan *frame      // frames whose session was lost under them
	next    chan *handover   // models to be used from the next frame on
	lost    chan *generation // the last one whose session went
	settled chan struct{}    // tells fill that run is done with a job
	ended   chan struct{}

	want     atomic.Pointer[hal.Want] // of the model in use, for what is captured from now on
	also     atomic.Pointer[hal.Want] // of a shadow's; nil: there is none
	shadow   atomic.Pointer[shadow]   // nil: none
	underway atomic.Int64             // jobs between fill and their end
	retiring sync.WaitGroup           // generations on their way to Close

	counters  counters
	run       runState    // of the goroutine that runs
	capturing *pulse.Loop // of the goroutine that captures
}

// A frame and what its pipeline knows of it.
type frame struct {
	hal.Frame
	n     uint64 // among all that the pipeline captured
	tries int    // runs that lost their session
}

// A job is a filled buffer.
type job struct {
	gen      *generation
	buf      int
	n, seq   uint64
	captured time.Time
	name     string
	view     vision.View
	pre      time.Duration
	frame    *frame  // nil when frames are not kept
	shadow   *shadow // that waits for this frame; nil: none
	spare    *frame  // takes the place of a kept one that the shadow takes
}

// A generation is a Model in use, from one handover to the next.
type generation struct {
	Model
	accel    string
	free     chan int      // buffers nobody uses
	lost     atomic.Bool   // its session is gone
	replaced chan struct{} // closed when another came
	since    time.Time
	delay    time.Duration // waited before it was opened, if in place of a lost one
	limit    time.Duration // no run takes longer
}

// A handover asks fill to use a generation from the next frame on.
type handover struct {
	gen      *generation // nil: none
	replaces *generation // only if this one is in use; nil: whatever is
	taken    chan bool   // answered once
}

// New makes a pipeline that has no model yet: give it one with Swap. Until then
// frames of a live source are dropped as busy, others wait.
func New(cfg Config) *Pipeline {
	p := &Pipeline{
		cfg: cfg, live: cfg.Source.Live(),
		box:     make(chan *frame, 1),
		work:    make(chan job, 8), // two models' buffers and more: fill need not wait for run
		next:    make(chan *handover),
		lost:    make(chan *generation, 1),
		settled: make(chan struct{}, 1),
		ended:   make(chan struct{}),
	}
	// A folder in a loop shows the same bad picture a hundred times a second.
	p.cfg.Log = cfg.Log.Sample(&zerolog.BurstSampler{Burst: maxWarnings, Period: time.Minute})
	p.keep = !p.live || cfg.Serial
	frames := 3 // captured into, waiting, filled from
	switch {
	case cfg.Serial:
		frames = 1
	case p.keep:
		frames = 4 // two filled or run, one waiting, one captured into
	}
	p.want.Store(&hal.Want{})
	p.free, p.retry = make(chan *frame, frames), make(chan *frame, frames)
	for range frames {
		p.free <- &frame{}
	}
	p.run.id = append(append(make([]byte, 0, len(cfg.IDPrefix)+21), cfg.IDPrefix...), '-')
	return p
}

// Run takes frames until the source or ctx ends, then closes source and model. It
// is called once. The error is the source's, nil when it came to its end.
func (p *Pipeline) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var captured error
	var capturing, filling, running, reopening sync.WaitGroup
	capturing.Go(func() { captured = p.capture(ctx); close(p.box) })
	running.Go(func() { p.runAll(ctx) })
	reopening.Go(func() { p.reopenLost(ctx) })
	filling.Go(func() { p.fill(ctx) })

	filling.Wait() // until the source's end, or ctx's
	close(p.ended)
	close(p.work)
	running.Wait()
	cancel()
	capturing.Wait()
	reopening.Wait()
	p.dropRest()
	p.retiring.Wait()
	return errors.Join(captured, p.cfg.Source.Close())
}

// loop is the pulse of one of the pipeline's goroutines.
func (p *Pipeline) loop(name string) *pulse.Loop { return p.cfg.Pulse.Loop(p.cfg.Name + " " + name) }

// Busy says for the source how long it may be at what it begins, 0 for ever: see
// pulse.Loop.Rest. To be called within Next.
func (p *Pipeline) Busy(d time.Duration) { p.capturing.Rest(d) }

// dropRest counts the frames that were under way when ctx ended.
func (p *Pipeline) dropRest() {
	for f := range p.box {
		p.drop(f, DropBusy)
	}
	for len(p.retry) > 0 {
		p.drop(<-p.retry, DropBusy)
	}
}

// Swap makes m the model from the next frame on; no frame is lost. When it
// returns nil, the pipeline owns m's session, and closes the one before after its
// last frame. On an error m's session is still the caller's.
func (p *Pipeline) Swap(ctx context.Context, m Model) error {
	return p.hand(ctx, &handover{gen: newGeneration(m)})
}

// Clear takes the model away from the next frame on: the pipeline is as New made
// it. The model's session is closed after its last frame.
func (p *Pipeline) Clear(ctx context.Context) error { return p.hand(ctx, &handover{}) }

var errReplaced = errors.New("another model came first")

func (p *Pipeline) hand(ctx context.Context, h *handover) error {
	h.taken = make(chan bool, 1)
	select {
	case p.next <- h:
		switch {
		case <-h.taken:
			return nil
		case h.replaces == nil:
			return ErrEnded
		}
		return errReplaced
	case <-p.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

const (
	deadline = 10 * time.Second // of a session that says none
	turns    = 4                // deadlines until a run is over that has to wait for others
)

func newGeneration(m Model) *generation {
	info := m.Session.Info()
	g := &generation{
		Model: m, accel: string(info.Accelerator), since: time.Now(), limit: turns*cmp.Or(info.Deadline, deadline) + pulse.Promise,
		free: make(chan int, info.Buffers), replaced: make(chan struct{}),
	}
	for i := range info.Buffers {
		g.free <- i
	}
	return g
}

// retire waits until all buffers are back, and closes the session.
func (g *generation) retire() {
	for range cap(g.free) {
		<-g.free
	}
	g.Session.Close()
}

// drop ends a frame's way without a result.
func (p *Pipeline) drop(f *frame, why Drop) {
	p.counters.dropped[why].Add(1)
	p.release(f)
}

// release gives a frame back, to be captured into. There is room for all.
func (p *Pipeline) release(f *frame) {
	if f != nil {
		p.free <- f
	}
}
