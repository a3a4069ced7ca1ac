package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

// Config of an Engine.
type Config struct {
	Name    string // of the engine: "tflite"
	Program string // absolute path of the runner program
	// Stage is the command that confines itself and then becomes the program: the
	// arguments of Stage are appended. Empty: the program is started as it is, in
	// no sandbox and without limits.
	Stage []string
	// Units starts the runner as an instance of systemd's unit. The unit finds the
	// program by Name. nil: the agent starts it.
	Units  *Units
	Env    []string // the runner's whole environment, "K=V"; it needs none
	Logger zerolog.Logger

	Access sandbox.Access // what the runner may reach besides what all may
	// More is what it may reach besides for one accelerator, "external:/usr/lib/libvx_delegate.so".
	More         map[hal.Accelerator]sandbox.Access
	Accelerators []hal.Accelerator // whose device nodes it is given, as they are when it starts

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
	ready  sync.Once       // for what follows
	groups *sandbox.Groups // nil: runners get no cgroups
	models models
	free   func() int64 // memory that can be had, bytes

	mu      sync.Mutex        // guards all below
	places  map[string]*place // by the device
	open    int               // sessions, with those that are being opened
	granted int64             // memory that these will take, bytes
	weighed map[string]int64  // memory of a model's runner as it was once, bytes, by the model's sum
	starts  backoff           // of runners that died before they said hello
	alive   map[*process]bool
	killed  bool
}

// New makes an engine. It starts nothing.
func New(c Config) *Engine {
	if c.MemoryLimit <= 0 {
		c.MemoryLimit = defaultMemory
	}
	return &Engine{
		config: c, alive: map[*process]bool{}, places: map[string]*place{}, weighed: map[string]int64{},
		free: func() int64 { return available(os.DirFS("/")) },
	}
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
	p, err := e.start(ctx, hal.Auto, e.config.MemoryLimit)
	if err != nil {
		return nil, []hal.Diagnosis{{Subject: subject, Detail: err.Error(),
			Fix: "install " + e.config.Program + " and its library again (scripts/setup)"}}
	}
	defer p.close()
	var found proto.Found
	if err := p.call(ctx, "probe", proto.Header{Kind: proto.KindProbe}, nil, -1, &found, nil); err != nil {
		return nil, []hal.Diagnosis{{Subject: subject, Detail: err.Error(), Fix: "see the agent's log for what the runner said"}}
	}
	ok := hal.Diagnosis{Subject: subject, OK: true, Detail: p.welcome.Runtime}
	return devices(found.Devices), append([]hal.Diagnosis{ok}, diagnoses(found.Diagnoses)...)
}

// devices and diagnoses make what a runner found fit to be shown.
func devices(found []hal.Device) []hal.Device {
	found = found[:min(len(found), proto.MaxTensors)]
	for i, d := range found {
		found[i] = hal.Device{Accelerator: hal.Accelerator(proto.OneLine(string(d.Accelerator))), ID: proto.OneLine(d.ID),
			Name: proto.OneLine(d.Name), Runtime: proto.OneLine(d.Runtime), Driver: proto.OneLine(d.Driver)}
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

// Open loads a model in a runner of its own, or on an exclusive device in the one
// that holds it. A runner that died earlier is of no consequence. Only where runners
// keep dying before they say hello, Open first waits, twice as long each time.
func (e *Engine) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	o = withDefaults(o, e.config)
	ctx, cancel := context.WithTimeout(ctx, o.OpenTimeout)
	defer cancel()
	model, err := e.models.get(ctx, m)
	if err != nil {
		return nil, err
	}
	s, err := e.load(ctx, m.Name, model, o)
	if errors.Is(err, errOther) && ctx.Err() == nil { // it came to a runner that was about to die
		s, err = e.load(ctx, m.Name, model, o)
	}
	if err != nil {
		e.models.drop(model)
		return nil, err
	}
	s.info.SHA256, s.info.Settings = model.sum, o.Settings
	if s.runner.device == "" {
		e.weigh(model, s.info.Memory)
	}
	s.freed = func(memory int64) {
		e.weigh(model, memory)
		e.models.drop(model)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.open--
	}
	return s, nil
}

// load finds a runner for the model and opens it there.
func (e *Engine) load(ctx context.Context, name string, model *sealed, o hal.Options) (_ *session, err error) {
	granted, err := e.admit(model, name)
	if err != nil {
		return nil, err
	}
	defer func() { granted(err == nil) }()
	p, err := e.join(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &session{runner: p, id: p.fresh(), deadline: o.Deadline, share: newShare(o.Weight, o.Deadline)}
	if err := s.open(ctx, model.file, proto.Open{Name: name, Size: model.size, Accelerator: o.Accelerator, Threads: o.Threads,
		Device: o.Device, Settings: settings(o)}, o.Buffers, o.Step); err != nil {
		p.leave()
		return nil, fmt.Errorf("open model %s: %w", name, err)
	}
	return s, nil
}

// settings are those of the accelerator, and the shapes as a runner is told them:
// "shape.<input>" is "1x3x224x224".
func settings(o hal.Options) map[string]string {
	if len(o.Shapes) == 0 {
		return o.Settings
	}
	all := maps.Clone(o.Settings)
	if all == nil {
		all = map[string]string{}
	}
	for name, shape := range o.Shapes {
		all["shape."+name] = strings.Trim(strings.ReplaceAll(fmt.Sprint(shape), " ", "x"), "[]")
	}
	return all
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

// prepare looks for what the sandboxes of all runners share.
func (e *Engine) prepare() {
	if len(e.config.Stage) == 0 {
		return
	}
	e.groups, _ = sandbox.Delegated() // without, the limits of each process hold; Examine says why
	if sandbox.Shield() {
		e.config.Logger.Warn().Str("runner", e.config.Name).Msg("this kernel has no landlock: runners may read what the agent may read; see covey-agent doctor")
	}
}

// start starts a runner for an accelerator, and greets it. It has one user.
func (e *Engine) start(ctx context.Context, a hal.Accelerator, memory int64) (*process, error) {
	e.mu.Lock()
	delay := e.starts.remaining(time.Now())
	e.mu.Unlock()
	if err := sleep(ctx, delay); err != nil {
		return nil, &hal.Error{Code: hal.CodeEngine, Text: "runner " + e.config.Name + " keeps dying at its start; see the log for what it said", Err: err}
	}
	e.ready.Do(e.prepare)
	p, err := startProcess(ctx, e.config, e.groups, a, memory)
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
