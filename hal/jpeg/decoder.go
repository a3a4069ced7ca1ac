// Package jpeg decodes pictures in a runner, where libjpeg-turbo is both quick and
// shut in. It is the agent's end, in plain Go, and what both ends have to know of
// each other. Whatever the runner does not do (other kinds of files, rare kinds of
// JPEG, broken ones, all while it is gone) is done by vision.DecodePicture, so that
// every picture is decoded or refused as without it, only quicker.
package jpeg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/vision"
)

// Of a runner that decodes.
const (
	deadline = 5 * time.Second  // of a picture
	opening  = 20 * time.Second // of a session
	minPause = time.Second      // before it is opened again
	maxPause = time.Minute
)

// A State says who decodes.
type State struct {
	Runner   bool   // the runner; false: the agent itself, more slowly
	Runtime  string // of the runner: "libturbojpeg 2"
	Why      error  // there is none, while Runner is false; nil before the first answer
	Restarts uint64 // sessions that were lost
}

// A Decoder decodes the pictures of one source. Decode and Close are for one
// goroutine, State for any.
type Decoder struct {
	engine hal.Engine
	limits Limits
	stop   context.CancelFunc // ends an open that is under way
	ctx    context.Context
	opens  sync.WaitGroup

	session hal.Session // nil while there is none
	pause   time.Duration
	next    time.Time        // when to open again
	opened  chan hal.Session // gets one value for each open; nil for a failed one
	busy    bool             // an open is under way

	mu    sync.Mutex
	state State
}

// New makes a decoder over an engine that runs covey-runner-jpeg. It does not wait:
// until the runner is there, the agent decodes.
func New(engine hal.Engine, l Limits) *Decoder {
	d := &Decoder{engine: engine, limits: l, opened: make(chan hal.Session, 1)}
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.open()
	return d
}

// State says who decodes now.
func (d *Decoder) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

func (d *Decoder) change(change func(s *State)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.state)
}

// Close ends the runner.
func (d *Decoder) Close() error {
	d.stop()
	d.opens.Wait()
	if d.busy {
		d.session, d.busy = <-d.opened, false
	}
	if d.session == nil {
		return nil
	}
	err := d.session.Close()
	d.session = nil
	return err
}

// Decode is vision.DecodePicture, in the runner where it can be. A JPEG may come
// smaller than it is, but not below f.Want.
func (d *Decoder) Decode(picture []byte, f *hal.Frame) error {
	info, ok := vision.InspectJPEG(picture)
	if ok && len(picture) <= d.limits.Bytes && info.Width*info.Height <= d.limits.Pixels && d.ready() {
		w, h := f.Want.Width, f.Want.Height
		if info.Turned() {
			w, h = h, w
		}
		err := d.run(Request{Bytes: len(picture), Eighths: vision.Scale(info.Width, info.Height, w, h)}, picture, f)
		if err == nil {
			vision.Orient(f, info.Orientation)
			return nil
		}
		if errors.Is(err, hal.ErrLost) {
			d.lose(err)
		}
	}
	return vision.DecodePicture(picture, f)
}

// run decodes in the runner.
func (d *Decoder) run(r Request, picture []byte, f *hal.Frame) error {
	copy(d.session.Input(0, 0), picture)
	r.Put(d.session.Input(0, 1))
	if _, err := d.session.Run(0); err != nil {
		return err
	}
	d.pause = 0
	// The runner may have been taken over by a picture: what it says is proven before
	// it is used, in memory that it cannot change any more.
	var said [PictureSize]byte
	if n := copy(said[:], d.session.Output(0, 1).Data); n != PictureSize {
		return lost(fmt.Errorf("it described a picture in %d bytes", n))
	}
	p, err := ParsePicture(said[:])
	if err != nil {
		return lost(err)
	}
	planes := d.session.Output(0, 0).Data
	if len(planes) != p.Size() {
		return lost(fmt.Errorf("%d bytes for %+v", len(planes), p))
	}
	p.show(f, planes)
	return nil
}

func lost(err error) error {
	return &hal.Error{Code: hal.CodeEngine, Text: "runner jpeg gave up its place: " + err.Error(), Err: hal.ErrLost}
}

// ready says whether there is a session, and sees to it that there will be one.
func (d *Decoder) ready() bool {
	if d.busy {
		select {
		case d.session = <-d.opened:
			d.busy = false
		default:
		}
	}
	if d.session == nil && !d.busy && !time.Now().Before(d.next) {
		d.open()
	}
	return d.session != nil
}

// lose gives up a session whose runner is gone or cannot be trusted.
func (d *Decoder) lose(err error) {
	_ = d.session.Close() // it is gone
	d.session = nil
	d.wait()
	d.change(func(s *State) { *s = State{Runtime: s.Runtime, Why: err, Restarts: s.Restarts + 1} })
}

// wait doubles the time before the next open.
func (d *Decoder) wait() {
	d.pause = min(max(minPause, 2*d.pause), maxPause)
	d.next = time.Now().Add(d.pause)
}

// open begins to open a session. The time of the one after it is set already, for
// when this fails.
func (d *Decoder) open() {
	d.busy = true
	d.wait()
	d.opens.Go(func() {
		s, err := d.start()
		d.change(func(state *State) {
			if state.Why = err; err == nil {
				state.Runner, state.Runtime = true, s.Info().Runtime
			}
		})
		d.opened <- s
	})
}

func (d *Decoder) start() (hal.Session, error) {
	path, err := d.limits.write()
	if path != "" {
		defer os.Remove(path)
	}
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeDiskIO, Text: fmt.Sprintf("no file for the runner that decodes pictures: %v", err), Err: err}
	}
	s, err := d.engine.Open(d.ctx, hal.Model{Name: "jpeg", Path: path}, hal.Options{
		Accelerator: hal.CPU, Threads: 1, Buffers: 1, Deadline: deadline, OpenTimeout: opening, MemoryLimit: d.limits.memory(),
	})
	if err != nil {
		return nil, err
	}
	if err := d.check(s.Info()); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// check refuses an engine that is another.
func (d *Decoder) check(i hal.Info) error {
	in := d.limits.Inputs()
	if len(i.Inputs) != 2 || len(i.Outputs) != 2 || i.Inputs[0].Type != hal.Uint8 || i.Inputs[0].Elements() != in[0].Elements() ||
		i.Inputs[1].Type != hal.Int32 || i.Inputs[1].Elements() != in[1].Elements() ||
		i.Outputs[0].Type != hal.Uint8 || i.Outputs[1].Type != hal.Int32 {
		return &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("runner %s does not decode pictures: install covey-runner-jpeg of this release", d.engine.Name())}
	}
	return nil
}
