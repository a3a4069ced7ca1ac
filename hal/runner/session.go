package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// A session is one model in a runner of its own.
type session struct {
	runner   *process
	id       uint32
	deadline time.Duration
	opened   proto.Opened
	layout   proto.Map
	info     hal.Info
	memory   []byte
	buffers  []buffer

	mu     sync.Mutex // held during a request: runs are one after the other
	watch  *time.Timer
	packet [proto.HeaderSize + proto.RunSize]byte
	lost   error // why there is no runner any more
	closed bool
}

type buffer struct {
	in, out [][]byte
	ran     proto.Ran // of the last run
}

// open loads the model, and gives the runner memory for its tensors.
func (s *session) open(ctx context.Context, file *os.File, o proto.Open, buffers int) error {
	h := proto.Header{Kind: proto.KindOpen, Session: s.id}
	if err := s.runner.call(ctx, "open", h, o, int(file.Fd()), &s.opened); err != nil {
		return err
	}
	if err := s.opened.Check(); err != nil {
		return s.runner.broken(err)
	}
	layout, err := proto.Layout(&s.opened, buffers)
	if err != nil {
		return &hal.Error{Code: hal.CodeTensor, Text: err.Error()}
	}
	shared, memory, err := sharedMemory(layout.Size)
	if err != nil {
		return err
	}
	defer shared.Close()
	h.Kind = proto.KindMap
	if err := s.runner.call(ctx, "map", h, layout, int(shared.Fd()), nil); err != nil {
		return errors.Join(err, unix.Munmap(memory))
	}
	s.layout, s.memory = layout, memory
	s.divide()
	s.describe()
	s.watch = time.AfterFunc(s.deadline, s.late)
	s.watch.Stop()
	return nil
}

// divide cuts the memory into buffers.
func (s *session) divide() {
	for _, b := range s.layout.Buffers {
		var cut buffer
		for _, span := range b.In {
			cut.in = append(cut.in, span.Of(s.memory))
		}
		for _, span := range b.Out {
			cut.out = append(cut.out, span.Of(s.memory))
		}
		cut.ran.Outputs = make([]proto.Result, len(b.Out))
		s.buffers = append(s.buffers, cut)
	}
}

func (s *session) describe() {
	o := &s.opened
	s.info = hal.Info{
		Accelerator: hal.Accelerator(proto.OneLine(string(o.Accelerator))), Runtime: s.runner.welcome.Runtime, Threads: o.Threads,
		Delegated: o.Delegated, Ops: o.Ops, Buffers: len(s.buffers), Deadline: s.deadline,
	}
	for _, a := range o.Tried {
		s.info.Tried = append(s.info.Tried, hal.Attempt{Accelerator: hal.Accelerator(proto.OneLine(string(a.Accelerator))), Reason: proto.OneLine(a.Reason)})
	}
	s.info.Inputs, s.info.Outputs = tensors(o.Inputs), tensors(o.Outputs)
}

func tensors(from []proto.Tensor) []hal.TensorInfo {
	var to []hal.TensorInfo
	for _, t := range from {
		t.Name = proto.OneLine(t.Name)
		to = append(to, t.TensorInfo)
	}
	return to
}

// late kills a runner that is past the deadline of a run.
func (s *session) late() {
	s.runner.kill(&hal.Error{Code: hal.CodeTimeout, Text: fmt.Sprintf("runner %s was killed: a run took longer than %v", s.runner.name, s.deadline)})
}

// Info describes the session.
func (s *session) Info() hal.Info { return s.info }

// Input is the memory of input i of a buffer.
func (s *session) Input(buf, i int) []byte { return s.buffers[buf].in[i] }

// Output is output i of the last Run of a buffer.
func (s *session) Output(buf, i int) hal.Tensor {
	b := &s.buffers[buf]
	r := &b.ran.Outputs[i]
	return hal.Tensor{Info: &s.info.Outputs[i], Shape: r.Dims[:r.Rank:r.Rank], Data: b.out[i][:r.Bytes:r.Bytes]}
}

// Run runs the model on a buffer. It allocates nothing when it succeeds.
func (s *session) Run(buf int) (hal.Timing, error) {
	start := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return hal.Timing{}, err
	}
	b := &s.buffers[buf]
	h := proto.Header{Kind: proto.KindRun, Session: s.id, Request: s.runner.next()}
	h.Put(s.packet[:], proto.RunSize)
	proto.PutRun(s.packet[proto.HeaderSize:], buf)
	s.runner.enter("run")
	s.watch.Reset(s.deadline)
	defer s.watch.Stop()
	if err := s.runner.send(s.packet[:], nil); err != nil {
		return hal.Timing{}, s.fail(s.runner.died())
	}
	_, body, err := s.runner.receive(h)
	if err != nil {
		return hal.Timing{}, s.fail(s.runner.lost(err))
	}
	if err := b.ran.Parse(body, &s.opened, s.layout.Buffers[buf].Out); err != nil {
		return hal.Timing{}, s.fail(s.runner.broken(err))
	}
	t := hal.Timing{Engine: time.Duration(b.ran.EngineNS)}
	t.Hop = max(0, time.Since(start)-t.Engine)
	return t, nil
}

// Reset forgets the state between runs.
func (s *session) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.deadline)
	defer cancel()
	return s.fail(s.runner.call(ctx, "reset", proto.Header{Kind: proto.KindReset, Session: s.id}, nil, -1, nil))
}

func (s *session) usable() error {
	if s.closed {
		return &hal.Error{Code: hal.CodeEngine, Text: "the session is closed", Err: hal.ErrLost}
	}
	return s.lost
}

// fail remembers an error after which there is no runner.
func (s *session) fail(err error) error {
	if errors.Is(err, hal.ErrLost) {
		s.lost = err
	}
	return err
}

// Close ends the runner and frees the memory: slices of Input and Output must not
// be used any more. A Run that is under way is waited for.
func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.watch.Stop()
	s.runner.close()
	return unix.Munmap(s.memory)
}
