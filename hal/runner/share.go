package runner

import (
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
		return string(hal.EdgeTPU) + " " + o.Device
	case hal.CUDA, hal.TensorRT:
		return string(hal.CUDA) + " " + o.Device
	}
	return ""
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
	select { // one after the other, or two would start two runners
	case e.joining <- struct{}{}:
		defer func() { <-e.joining }()
	case <-ctx.Done():
		return nil, held(device, ctx.Err())
	}
	if p := e.shared[device]; p != nil {
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
	p.device = strings.TrimSpace(device)
	e.shared[device] = p
	return p, nil
}

// held says that a device could not be had in time.
func held(device string, err error) error {
	return &hal.Error{Code: hal.CodeTimeout, Err: err, Text: fmt.Sprintf("%s is still held by a runner that ends or starts (%v)", strings.TrimSpace(device), err)}
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
