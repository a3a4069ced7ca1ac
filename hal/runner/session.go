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

// A session is one model in a runner, which it may share.
type session struct {
	runner   *process
	id       uint32
	deadline time.Duration
	share    *share
	freed    func(memory int64) // told when it is closed, and what its own runner took then; 0: not known
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

// open loads the model, and gives the runner memory for its tensors. After an error
// the runner has nothing of it left.
func (s *session) open(ctx context.Context, file *os.File, o proto.Open, buffers int, step func(string)) error {
	if err := s.turn(ctx); err != nil {
		return err
	}
	defer s.runner.turns.give(s.share, 0) // a model that opens slowly does not run less for it
	h := proto.Header{Kind: proto.KindOpen, Session: s.id}
	if err := s.runner.call(ctx, "open", h, o, int(file.Fd()), &s.opened, step); err != nil {
		return err
	}
	if err := s.opened.Check(); err != nil {
		return s.runner.broken(s.id, err)
	}
	if err := s.allot(ctx, buffers); err != nil {
		return errors.Join(err, s.end())
	}
	s.describe()
	s.info.Memory = s.Memory()
	s.watch = time.AfterFunc(s.deadline, s.late)
	s.watch.Stop()
	return nil
}

// turn waits for a turn, as long as ctx allows.
func (s *session) turn(ctx context.Context) error {
	if err := s.runner.turns.take(ctx, s.share); err != nil {
		return &hal.Error{Code: hal.CodeTimeout, Err: err, Text: fmt.Sprintf("runner %s was busy with other models on %s (%v)", s.runner.name, s.runner.device, err)}
	}
	return nil
}

// allot makes the memory of the tensors and gives it to the runner.
func (s *session) allot(ctx context.Context, buffers int) error {
	layout, err := proto.Layout(&s.opened, buffers)
	if err != nil {
		return &hal.Error{Code: hal.CodeTensor, Text: err.Error()}
	}
	shared, memory, err := sharedMemory(layout.Size)
	if err != nil {
		return err
	}
	defer shared.Close()
	h := proto.Header{Kind: proto.KindMap, Session: s.id}
	if err := s.runner.call(ctx, "map", h, layout, int(shared.Fd()), nil, nil); err != nil {
		return errors.Join(err, unix.Munmap(memory))
	}
	s.layout, s.memory = layout, memory
	s.divide()
	return nil
}

// end closes the session in a runner that others go on using. It has a turn.
func (s *session) end() error {
	if s.runner.device == "" || s.runner.over() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.deadline)
	defer cancel()
	return s.runner.call(ctx, "close", proto.Header{Kind: proto.KindClose, Session: s.id}, nil, -1, nil, nil)
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
		Device: proto.OneLine(o.Device), Driver: proto.OneLine(o.Driver),
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
	if err := s.runner.turns.take(context.Background(), s.share); err != nil {
		return hal.Timing{}, err
	}
	begin := time.Now()
	t, err := s.exchange(&s.buffers[buf], buf)
	now := time.Now()
	s.runner.turns.give(s.share, now.Sub(begin)) // not what the runner says that it took
	if err != nil {
		return hal.Timing{}, s.fail(err)
	}
	t.Engine = min(t.Engine, now.Sub(begin))
	t.Hop = now.Sub(start) - t.Engine
	return t, nil
}

// exchange asks for a run and reads the answer, in its turn.
func (s *session) exchange(b *buffer, buf int) (hal.Timing, error) {
	h := proto.Header{Kind: proto.KindRun, Session: s.id, Request: s.runner.next()}
	h.Put(s.packet[:], proto.RunSize)
	proto.PutRun(s.packet[proto.HeaderSize:], buf)
	s.runner.enter("run")
	s.watch.Reset(s.deadline)
	if err := s.runner.send(s.packet[:], nil); err != nil {
		s.watch.Stop()
		return hal.Timing{}, s.runner.wasDead(s.id)
	}
	_, body, err := s.runner.receive(h)
	if !s.watch.Stop() {
		return hal.Timing{}, s.runner.died(s.id) // in this turn: the next is not to blame
	}
	if err != nil {
		return hal.Timing{}, s.runner.lost(s.id, err)
	}
	if err := b.ran.Parse(body, &s.opened, s.layout.Buffers[buf].Out); err != nil {
		return hal.Timing{}, s.runner.broken(s.id, err)
	}
	return hal.Timing{Engine: time.Duration(b.ran.EngineNS)}, nil
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
	if err := s.turn(ctx); err != nil {
		return err
	}
	defer s.runner.turns.give(s.share, 0)
	return s.fail(s.runner.call(ctx, "reset", proto.Header{Kind: proto.KindReset, Session: s.id}, nil, -1, nil, nil))
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

// Memory is what the runner takes now (bytes), 0 when that is not known.
// Sessions that share a runner each say the whole.
func (s *session) Memory() int64 {
	if s.runner.over() {
		return 0 // its number may be another's by now
	}
	return s.runner.child.memory()
}

// Close ends the session, with the last one its runner, and frees the memory: slices of Input and Output must not
// be used any more. A Run that is under way is waited for.
func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.watch.Stop()
	var err error
	var memory int64
	if s.runner.device == "" {
		memory = s.Memory()
	} else if s.lost == nil {
		_ = s.runner.turns.take(context.Background(), s.share) // it cannot fail
		if err = s.end(); errors.Is(err, hal.ErrLost) {
			err = nil // gone is closed
		}
		s.runner.turns.give(s.share, 0)
	}
	s.runner.leave()
	s.freed(memory)
	return errors.Join(err, unix.Munmap(s.memory))
}
