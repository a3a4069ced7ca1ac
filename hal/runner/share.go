package runner

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// exclusive names the device that a session needs to itself, "" where each may have
// a runner of its own. Two processes cannot hold one Edge TPU, and a second CUDA
// context costs hundreds of megabytes.
func exclusive(o hal.Options) string {
	switch o.Accelerator {
	case hal.EdgeTPU:
		return strings.TrimSpace(anyTPU + " " + o.Device)
	case hal.CUDA, hal.TensorRT:
		return string(hal.CUDA) + " " + cmp.Or(o.Device, "gpu:0") // its first is always this one
	}
	return ""
}

// anyTPU is the device of sessions that name no Edge TPU: their library takes what it
// finds.
const anyTPU = string(hal.EdgeTPU)

// A place is a device with the runner that holds it for all its sessions.
type place struct {
	joining chan struct{} // holds one who may set runner, while that starts
	runner  *process      // the last one; nil: none yet. Set with the engine's mu as well
}

// taken says whether a runner holds the device, or may soon. The engine's mu is held.
func (p *place) taken() bool { return len(p.joining) > 0 || p.runner != nil && !p.runner.over() }

// place is the place of a device. An Edge TPU with a name has none while one without
// is in use, and the other way round: it may be the same.
func (e *Engine) place(device string) (*place, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, other := range e.places {
		if (name == anyTPU) != (device == anyTPU) && strings.HasPrefix(name, anyTPU) && strings.HasPrefix(device, anyTPU) && other.taken() {
			return nil, &hal.Error{Code: hal.CodeAccel, Text: fmt.Sprintf("a model on %s keeps another from %s, which may be the same: name the device of every model that uses one", name, device)}
		}
	}
	if e.places[device] == nil {
		e.places[device] = &place{joining: make(chan struct{}, 1)}
	}
	return e.places[device], nil
}

// crowd is how much more memory a runner may use that several sessions share: its
// limit is set once, when the first of them comes.
const crowd = 2

// join finds a runner for a session: a new one, or on an exclusive device the one
// that holds it.
func (e *Engine) join(ctx context.Context, o hal.Options) (*process, error) {
	device := exclusive(o)
	if device == "" {
		return e.start(ctx, o.Accelerator, o.MemoryLimit)
	}
	at, err := e.place(device)
	if err != nil {
		return nil, err
	}
	select { // one after the other, or two would start two runners
	case at.joining <- struct{}{}:
		defer func() { <-at.joining }()
	case <-ctx.Done():
		return nil, held(device, ctx.Err())
	}
	if p := at.runner; p != nil {
		joined, full := p.admit()
		switch {
		case joined:
			return p, nil
		case full:
			return nil, &hal.Error{Code: hal.CodeAdmission, Text: fmt.Sprintf("%d models are open on %s, which is all that one runner takes", proto.MaxSessions, p.device)}
		}
		select { // it holds the device until it has ended
		case <-p.ended:
		case <-ctx.Done():
			return nil, held(device, ctx.Err())
		}
	}
	p, err := e.start(ctx, o.Accelerator, crowd*o.MemoryLimit)
	if err != nil {
		return nil, err
	}
	p.device = device
	e.mu.Lock()
	defer e.mu.Unlock()
	at.runner = p
	return p, nil
}

// held says that a device could not be had in time.
func held(device string, err error) error {
	return &hal.Error{Code: hal.CodeTimeout, Err: err, Text: fmt.Sprintf("%s is still held by a runner that ends or starts (%v)", device, err)}
}

// admit counts one more session, if there is room for one in the runner. One that
// ends, or was killed and has not ended yet, takes none.
func (p *process) admit() (joined, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users == 0 || p.cause != nil || p.over() {
		return false, false
	}
	if p.users == proto.MaxSessions {
		return false, true
	}
	p.users++
	return true, false
}

// leave ends the runner with its last session.
func (p *process) leave() {
	p.mu.Lock()
	p.users--
	last := p.users == 0
	p.mu.Unlock()
	if last {
		p.close()
	}
}

// fresh is the number of a new session.
func (p *process) fresh() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids++
	return p.ids
}
