package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// Config of an Engine.
type Config struct {
	Name    string // of the engine: "tflite"
	Program string // absolute path of the runner program
	// Stage is the command that limits itself and then becomes the program: flags
	// of Stage, "--" and Program are appended. Empty: the program is started as it
	// is, without limits.
	Stage  []string
	Env    []string // the runner's whole environment, "K=V"; it needs none
	Logger zerolog.Logger

	MemoryLimit int64 // bytes that a runner may allocate where Options say nothing; 0 means 1 GiB
}

// Defaults of Options and Config.
const (
	defaultBuffers  = 2
	defaultDeadline = 10 * time.Second
	defaultOpen     = 60 * time.Second
	defaultMemory   = 1 << 30
)

// An Engine runs models in runner programs, one process a session. It implements
// hal.Engine and may be used by many goroutines.
type Engine struct {
	config Config

	mu     sync.Mutex // guards all below
	starts backoff    // of runners that died before they said hello
	alive  map[*process]bool
	killed bool
}

// New makes an engine. It starts nothing.
func New(c Config) *Engine {
	if c.MemoryLimit <= 0 {
		c.MemoryLimit = defaultMemory
	}
	return &Engine{config: c, alive: map[*process]bool{}}
}

// Kill ends all runners at once, and the runs in them; no other is started. It is
// for a program that has to end now. Sessions are closed as ever.
func (e *Engine) Kill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.killed = true
	for p := range e.alive {
		p.kill(e.stopped())
	}
}

func (e *Engine) stopped() *hal.Error {
	return &hal.Error{Code: hal.CodeEngine, Text: "runner " + e.config.Name + " was killed: the agent has to end"}
}

// keep remembers a process for Kill, and forgets those that ended.
func (e *Engine) keep(p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.alive, func(p *process, _ bool) bool { return p.over() })
	e.alive[p] = true
	if e.killed {
		p.kill(e.stopped())
	}
}

// Name is the engine's name.
func (e *Engine) Name() string { return e.config.Name }

// Probe starts a runner and asks it which devices it has.
func (e *Engine) Probe(ctx context.Context) ([]hal.Device, []hal.Diagnosis) {
	subject := "runner " + e.config.Name
	p, err := e.start(ctx, e.config.MemoryLimit)
	if err != nil {
		return nil, []hal.Diagnosis{{Subject: subject, Detail: err.Error(),
			Fix: "install " + e.config.Program + " and its library again (scripts/setup)"}}
	}
	defer p.close()
	var found proto.Found
	if err := p.call(ctx, "probe", proto.Header{Kind: proto.KindProbe}, nil, -1, &found); err != nil {
		return nil, []hal.Diagnosis{{Subject: subject, Detail: err.Error(), Fix: "see the agent's log for what the runner said"}}
	}
	ok := hal.Diagnosis{Subject: subject, OK: true, Detail: p.welcome.Runtime}
	return devices(found.Devices), append([]hal.Diagnosis{ok}, diagnoses(found.Diagnoses)...)
}

// devices and diagnoses make what a runner found fit to be shown.
func devices(found []hal.Device) []hal.Device {
	found = found[:min(len(found), proto.MaxTensors)]
	for i, d := range found {
		found[i] = hal.Device{Accelerator: hal.Accelerator(proto.OneLine(string(d.Accelerator))), Name: proto.OneLine(d.Name), Runtime: proto.OneLine(d.Runtime)}
	}
	return found
}

func diagnoses(found []hal.Diagnosis) []hal.Diagnosis {
	found = found[:min(len(found), proto.MaxTensors)]
	for i, d := range found {
		found[i] = hal.Diagnosis{Subject: proto.OneLine(d.Subject), OK: d.OK, Detail: proto.OneLine(d.Detail), Fix: proto.OneLine(d.Fix)}
	}
	return found
}

// Open starts a runner and loads the model in it. A runner that died earlier is
// of no consequence: every Open starts a new one. Only where runners keep dying
// before they say hello, Open first waits, twice as long each time.
func (e *Engine) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	o = withDefaults(o, e.config)
	ctx, cancel := context.WithTimeout(ctx, o.OpenTimeout)
	defer cancel()
	file, size, sum, err := sealedModel(ctx, m)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p, err := e.start(ctx, o.MemoryLimit)
	if err != nil {
		return nil, err
	}
	s := &session{runner: p, id: 1, deadline: o.Deadline}
	if err := s.open(ctx, file, proto.Open{Name: m.Name, Size: size, Accelerator: o.Accelerator, Threads: o.Threads}, o.Buffers); err != nil {
		p.close()
		return nil, fmt.Errorf("open model %s: %w", m.Name, err)
	}
	s.info.SHA256 = sum
	return s, nil
}

func withDefaults(o hal.Options, c Config) hal.Options {
	if o.Accelerator == "" {
		o.Accelerator = hal.Auto
	}
	if o.Buffers <= 0 {
		o.Buffers = defaultBuffers
	}
	if o.Deadline <= 0 {
		o.Deadline = defaultDeadline
	}
	if o.OpenTimeout <= 0 {
		o.OpenTimeout = defaultOpen
	}
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = c.MemoryLimit
	}
	return o
}

// start starts a runner and greets it.
func (e *Engine) start(ctx context.Context, memory int64) (*process, error) {
	e.mu.Lock()
	delay := e.starts.remaining(time.Now())
	e.mu.Unlock()
	if err := sleep(ctx, delay); err != nil {
		return nil, &hal.Error{Code: hal.CodeEngine, Text: "runner " + e.config.Name + " keeps dying at its start; see the log for what it said", Err: err}
	}
	p, err := startProcess(e.config, memory)
	if err == nil {
		e.keep(p)
		if err = p.hello(ctx); err != nil {
			p.close()
		}
	}
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.mu.Lock()
		e.starts.add(err == nil, time.Now())
		e.mu.Unlock()
	}
	if err != nil {
		return nil, fmt.Errorf("start runner %s: %w", e.config.Name, err)
	}
	return p, nil
}

// A backoff doubles a delay with each failure in a row.
type backoff struct {
	failures int
	until    time.Time
}

const maxBackoff = 30 * time.Second

func (b *backoff) add(ok bool, now time.Time) {
	if ok {
		*b = backoff{}
		return
	}
	b.failures++
	b.until = now.Add(min(maxBackoff, 100*time.Millisecond<<min(b.failures, 16)))
}

func (b *backoff) remaining(now time.Time) time.Duration { return max(0, b.until.Sub(now)) }

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
