package haltest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/covey-edge/covey/hal"
)

// A FakeEngine opens FakeSessions. Its fields are set before its first use; the
// zero value opens models with one float32 input and output of one element.
type FakeEngine struct {
	Inputs, Outputs []hal.TensorInfo // shapes without unknown dimensions

	Latency     time.Duration // of one Run
	OpenLatency time.Duration

	// Compute fills out from in, one slice a tensor; nil leaves the outputs as
	// they are.
	Compute func(in, out [][]byte)
	// OnOpen may refuse a model; nil opens all. It gets the file's bytes, or nil
	// when Model.Path is empty.
	OnOpen func(m hal.Model, o hal.Options, file []byte) error
	// OnRun is asked before the n-th Run of a session, n from 1. An error fails
	// the run; one that wraps hal.ErrLost (Crash makes one) also ends the session.
	OnRun func(n int) error

	mu       sync.Mutex
	sessions []*FakeSession
}

// Crash is the error of a run whose runner died by a signal.
func Crash() error {
	return &hal.Error{Code: hal.CodeCrash, Text: "runner died by SIGSEGV in run", Err: hal.ErrLost}
}

// Hang is the error of a run that was killed at its deadline.
func Hang() error {
	return &hal.Error{Code: hal.CodeTimeout, Text: "run took longer than its deadline; runner killed", Err: hal.ErrLost}
}

// Name is "fake".
func (e *FakeEngine) Name() string { return "fake" }

// Probe finds one CPU.
func (e *FakeEngine) Probe(context.Context) ([]hal.Device, []hal.Diagnosis) {
	return []hal.Device{{Accelerator: hal.CPU, Name: "fake cpu", Runtime: "fake 1"}},
		[]hal.Diagnosis{{Subject: "runner fake", OK: true, Detail: "always here"}}
}

// Sessions are all sessions ever opened, in order.
func (e *FakeEngine) Sessions() []*FakeSession {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*FakeSession(nil), e.sessions...)
}

// Open reads and checks the model's file, when it has a path, and opens it.
func (e *FakeEngine) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	var file []byte
	if m.Path != "" {
		b, err := os.ReadFile(m.Path)
		if err != nil {
			return nil, &hal.Error{Code: hal.CodeModelFormat, Text: "read model " + m.Name, Err: err}
		}
		if file = b; len(file) == 0 {
			return nil, &hal.Error{Code: hal.CodeModelEmpty, Text: "model file is 0 bytes: " + m.Name}
		}
	}
	if n := int64(len(file)); m.Size > n && file != nil {
		return nil, &hal.Error{Code: hal.CodeModelShort, Text: fmt.Sprintf("model %s: got %d of %d bytes", m.Name, n, m.Size)}
	} else if m.Size > 0 && m.Size < n {
		return nil, &hal.Error{Code: hal.CodeLength, Text: fmt.Sprintf("model %s is longer than %d bytes", m.Name, m.Size)}
	}
	if a := o.Accelerator; a != "" && a != hal.Auto && a != hal.CPU {
		return nil, &hal.Error{Code: hal.CodeAccel, Text: "the fake engine has only a cpu, not " + string(a)}
	}
	sum := sha256.Sum256(file)
	digest := hex.EncodeToString(sum[:])
	if m.SHA256 != "" && file != nil && digest != m.SHA256 {
		return nil, &hal.Error{Code: hal.CodeHashAtRest, Text: fmt.Sprintf("model %s: want %.8s got %.8s", m.Name, m.SHA256, digest)}
	}
	if err := wait(ctx, e.OpenLatency); err != nil {
		return nil, err
	}
	if e.OnOpen != nil {
		if err := e.OnOpen(m, o, file); err != nil {
			return nil, err
		}
	}
	s := newFakeSession(e, m, o, digest)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sessions = append(e.sessions, s)
	return s, nil
}

// A FakeSession is an open model of a FakeEngine.
type FakeSession struct {
	Model hal.Model // as given to Open

	engine *FakeEngine
	info   hal.Info
	bufs   []fakeBuffer

	mu     sync.Mutex
	runs   int
	resets int
	closed bool
	lost   error
}

type fakeBuffer struct{ in, out [][]byte }

func newFakeSession(e *FakeEngine, m hal.Model, o hal.Options, digest string) *FakeSession {
	one := []hal.TensorInfo{{Name: "x", Type: hal.Float32, Shape: []int{1}}}
	s := &FakeSession{Model: m, engine: e, info: hal.Info{
		Inputs: orElse(e.Inputs, one), Outputs: orElse(e.Outputs, one),
		Accelerator: hal.CPU, Runtime: "fake 1", Threads: max(1, o.Threads), Ops: 1,
		Buffers: o.Buffers, Deadline: o.Deadline, SHA256: digest,
	}}
	if s.info.Buffers <= 0 {
		s.info.Buffers = 2
	}
	if s.info.Deadline <= 0 {
		s.info.Deadline = 10 * time.Second
	}
	for range s.info.Buffers {
		s.bufs = append(s.bufs, fakeBuffer{in: memory(s.info.Inputs), out: memory(s.info.Outputs)})
	}
	return s
}

func orElse(a, b []hal.TensorInfo) []hal.TensorInfo {
	if len(a) > 0 {
		return a
	}
	return b
}

func memory(tensors []hal.TensorInfo) [][]byte {
	var m [][]byte
	for _, t := range tensors {
		m = append(m, make([]byte, t.Elements()*t.Type.Size()))
	}
	return m
}

// Info describes the session.
func (s *FakeSession) Info() hal.Info { return s.info }

// Input is the memory of input i of a buffer.
func (s *FakeSession) Input(buf, i int) []byte { return s.bufs[buf].in[i] }

// Output is output i of the last Run of a buffer.
func (s *FakeSession) Output(buf, i int) hal.Tensor {
	info := &s.info.Outputs[i]
	return hal.Tensor{Info: info, Shape: info.Shape, Data: s.bufs[buf].out[i]}
}

// Run waits for the engine's Latency and computes.
func (s *FakeSession) Run(buf int) (hal.Timing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.gone(); err != nil {
		return hal.Timing{}, err
	}
	s.runs++
	if s.engine.OnRun != nil {
		if err := s.engine.OnRun(s.runs); err != nil {
			if errors.Is(err, hal.ErrLost) {
				s.lost = err
			}
			return hal.Timing{}, err
		}
	}
	if s.engine.Latency > 0 {
		time.Sleep(s.engine.Latency)
	}
	if s.engine.Compute != nil {
		s.engine.Compute(s.bufs[buf].in, s.bufs[buf].out)
	}
	return hal.Timing{Engine: s.engine.Latency}, nil
}

// Reset counts.
func (s *FakeSession) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.gone(); err != nil {
		return err
	}
	s.resets++
	return nil
}

func (s *FakeSession) gone() error {
	if s.closed {
		return &hal.Error{Code: hal.CodeEngine, Text: "the session is closed", Err: hal.ErrLost}
	}
	return s.lost
}

// Close ends the session.
func (s *FakeSession) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Runs is the number of times that Run was called.
func (s *FakeSession) Runs() int { s.mu.Lock(); defer s.mu.Unlock(); return s.runs }

// Resets is the number of times that Reset was called.
func (s *FakeSession) Resets() int { s.mu.Lock(); defer s.mu.Unlock(); return s.resets }

// Closed says whether Close was called.
func (s *FakeSession) Closed() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.closed }

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
