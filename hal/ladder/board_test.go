package ladder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A board is an engine with several accelerators, each a fake.
type board struct {
	mu      sync.Mutex
	devices []hal.Device
	way     map[hal.Accelerator]*way
	opened  []string
	named   []string // accelerators that were given the name of a device, with it
	probes  int
	open    int // sessions, now
	most    int // sessions, ever at one time
	room    int // for sessions; 0: for all

	refuse func(c Choice, times int) error // at the so manieth open of it; nil: nothing
}

// A way is how a fake accelerator does.
type way struct {
	latency func(threads int) time.Duration
	open    error
	run     func(n int) error
	compute func(in, out [][]byte)
}

func (b *board) Name() string { return "tflite" }

func (b *board) Probe(context.Context) ([]hal.Device, []hal.Diagnosis) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probes++
	return append([]hal.Device(nil), b.devices...), nil
}

func (b *board) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	b.mu.Lock()
	w := b.way[o.Accelerator]
	b.opened = append(b.opened, Choice{Accelerator: o.Accelerator, Threads: o.Threads, Settings: o.Settings}.String())
	if o.Device != "" {
		b.named = append(b.named, string(o.Accelerator)+" "+o.Device)
	}
	b.mu.Unlock()
	b.mu.Lock()
	full := b.room > 0 && b.open >= b.room
	b.mu.Unlock()
	if full {
		return nil, &hal.Error{Code: hal.CodeAdmission, Text: "no room"}
	}
	if w == nil {
		return nil, &hal.Error{Code: hal.CodeAccel, Text: "no " + string(o.Accelerator)}
	}
	if w.open != nil {
		return nil, w.open
	}
	if b.refuse != nil {
		c, times := Choice{Accelerator: o.Accelerator, Threads: o.Threads}, 0
		for _, before := range b.opened {
			if before == c.String() {
				times++
			}
		}
		if err := b.refuse(c, times); err != nil {
			return nil, err
		}
	}
	in := []hal.TensorInfo{{Name: "in", Type: hal.Uint8, Shape: []int{1, 16}, Quant: hal.Quant{Scale: []float32{0.1}, ZeroPoint: []int32{0}}}}
	out := []hal.TensorInfo{{Name: "out", Type: hal.Uint8, Shape: []int{1, 16}, Quant: in[0].Quant}}
	e := &haltest.FakeEngine{Inputs: in, Outputs: out, Compute: w.compute, Latency: w.latency(max(1, o.Threads)), OnRun: func(n int) error {
		if w.run == nil {
			return nil
		}
		return w.run(n)
	}}
	if e.Compute == nil {
		e.Compute = same
	}
	a := o.Accelerator
	o.Accelerator = hal.CPU
	s, err := e.Open(ctx, m, o)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.open++
	b.most = max(b.most, b.open)
	b.mu.Unlock()
	return &boardSession{Session: s, board: b, a: a}, nil
}

func same(in, out [][]byte) { copy(out[0], in[0]) }

type boardSession struct {
	hal.Session
	board *board
	a     hal.Accelerator
	once  sync.Once
}

func (s *boardSession) Info() hal.Info {
	i := s.Session.Info()
	i.Accelerator = s.a
	return i
}

func (s *boardSession) Close() error {
	s.once.Do(func() { s.board.mu.Lock(); s.board.open--; s.board.mu.Unlock() })
	return s.Session.Close()
}

func (b *board) sessions() int { b.mu.Lock(); defer b.mu.Unlock(); return b.open }

func (b *board) count() int { b.mu.Lock(); defer b.mu.Unlock(); return len(b.opened) }

func fixed(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

// newBoard has xnnpack at 8 ms a thread and the plain CPU at 40.
func newBoard() *board {
	return &board{
		devices: []hal.Device{{Accelerator: hal.XNNPACK, Name: "2 cores", Runtime: "tflite 2"}, {Accelerator: hal.CPU, Name: "2 cores", Runtime: "tflite 2"}},
		way: map[hal.Accelerator]*way{
			hal.XNNPACK: {latency: func(n int) time.Duration { return 16 * time.Millisecond / time.Duration(n) }},
			hal.CPU:     {latency: func(n int) time.Duration { return 60 * time.Millisecond / time.Duration(n) }},
		},
	}
}

// plug adds an accelerator.
func (b *board) plug(a hal.Accelerator, w *way) *board {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.devices = append([]hal.Device{{Accelerator: a, Name: "a stick", Driver: "driver 1"}}, b.devices...)
	b.way[a] = w
	return b
}

// A shelf is a Store in memory.
type shelf struct {
	mu   sync.Mutex
	b    []byte
	fail error
	save int
}

func (s *shelf) Load() ([]byte, error) { s.mu.Lock(); defer s.mu.Unlock(); return s.b, s.fail }

func (s *shelf) Save(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.save++
	if s.fail == nil {
		s.b = b
	}
	return s.fail
}

func engine(b *board, s Store) *Engine {
	return New(Config{Inner: b, Order: TFLite, Memory: Remember(s, zerolog.Nop()), Board: "Pi", CPU: "A72", Cores: 2, Log: zerolog.Nop()})
}

func modelFile(t *testing.T, text string) hal.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.tflite")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return hal.Model{Name: "m", Path: path}
}

func wantChoice(t *testing.T, s hal.Session, a hal.Accelerator, threads int) {
	t.Helper()
	if i := s.Info(); i.Accelerator != a || i.Threads != threads {
		t.Errorf("runs on %s with %d threads, want %s with %d; tried %v", i.Accelerator, i.Threads, a, threads, i.Tried)
	}
}

func tried(s hal.Session, a hal.Accelerator) string {
	for _, t := range s.Info().Tried {
		if t.Accelerator == a {
			return t.Reason
		}
	}
	return ""
}

func lostSession(err error) bool { return errors.Is(err, hal.ErrLost) }
