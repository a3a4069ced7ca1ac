package ladder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
)

// Config of an Engine. Inner, Order and Memory are needed.
type Config struct {
	Inner  hal.Engine
	Order  []hal.Accelerator // where Options say nothing: TFLite, ONNX
	Memory *Memory

	// Supports says why an accelerator cannot run a model's file, from the file
	// alone; nil: any may.
	Supports func(path string, a hal.Accelerator) error
	// Settings are the ways to use an accelerator that are worth a try, the usual
	// one first; none: the engine's defaults alone.
	Settings map[hal.Accelerator][]map[string]string
	Extra    []hal.Device // that the engine cannot find by itself: delegates that the configuration names

	Board, CPU string // names; a choice holds for them alone
	Cores      int    // 0: of this machine
	Begin      int    // threads of a model that was not measured yet; 0: one core is left to whoever makes the next frame
	Log        zerolog.Logger
}

// An Engine opens models on what they run best on. It implements hal.Engine and
// may be used by many goroutines.
type Engine struct {
	config Config
	turn   chan struct{} // 1: one model is measured at a time

	mu      sync.Mutex // guards all below
	devices []hal.Device
	probed  bool
	models  map[string]*model // by key
}

// model is what an Engine knows of one model, as it was asked for.
type model struct {
	choices   []Choice // one an accelerator, the best first; nil: not measured
	lost      []hal.Attempt
	reference time.Duration
	current   bool // choices were found with the devices that are here
	rungs     map[hal.Accelerator]*rung
}

// maxModels is how many models an Engine keeps the failures of.
const maxModels = 256

// New makes an engine.
func New(c Config) *Engine {
	return &Engine{config: c, turn: make(chan struct{}, 1), models: map[string]*model{}}
}

// Name is the inner engine's name.
func (e *Engine) Name() string { return e.config.Inner.Name() }

// Probe asks the inner engine.
func (e *Engine) Probe(ctx context.Context) ([]hal.Device, []hal.Diagnosis) {
	devices, diagnoses := e.config.Inner.Probe(ctx)
	for _, x := range e.config.Extra {
		if !slices.ContainsFunc(devices, func(d hal.Device) bool { return d.Accelerator == x.Accelerator }) {
			devices = append(devices, x)
		}
	}
	if len(devices) > 0 {
		e.mu.Lock()
		e.devices, e.probed = devices, true
		e.mu.Unlock()
	}
	return devices, diagnoses
}

// here is what the last Probe found, or what a first one finds.
func (e *Engine) here(ctx context.Context) ([]hal.Device, error) {
	e.mu.Lock()
	devices, probed := e.devices, e.probed
	e.mu.Unlock()
	if probed {
		return devices, nil
	}
	devices, diagnoses := e.Probe(ctx)
	if len(devices) > 0 {
		return devices, nil
	}
	text := "engine " + e.Name() + " finds nothing to run on"
	for _, d := range diagnoses {
		if !d.OK {
			text = d.Detail + ": " + d.Fix
		}
	}
	return nil, &hal.Error{Code: hal.CodeEngine, Text: clip(text)}
}

// Open opens a model. Where Options ask for an accelerator, on that one. Else on
// what is remembered to be best; what is not remembered, or does not open any
// more, is measured first, which takes some seconds, and refused when a runner dies
// of it on the CPU.
func (e *Engine) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	if explicit(o) {
		return e.config.Inner.Open(ctx, m, o)
	}
	m, err := e.named(ctx, m)
	if err != nil {
		return nil, err
	}
	if known := e.model(m, o); e.holds(ctx, m, o, known) {
		s, err := e.best(ctx, m, o, known.choices, 1)
		if err == nil && len(o.Golden) > 0 { // they may be stricter than what it was chosen by
			if err = proven(s, o.Golden); err != nil {
				err = errors.Join(err, s.Close())
				s = nil
			}
		}
		if err == nil || blamesModel(err) || ctx.Err() != nil {
			return s, err
		}
		e.config.Log.Warn().Err(err).Str("model", m.Name).Stringer("choice", known.choices[0]).
			Msg("what was best does not open, or is not right, any more: the model is measured again")
		e.config.Memory.forget(e.Name(), m.SHA256, e.asked(o))
	}
	s, _, err := e.measure(ctx, m, o, true)
	return s, err
}

// Start opens a model at once: on what is remembered to be best, else on what is
// safe. What does not open gives way to the next. Better then finds what is best.
func (e *Engine) Start(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	if explicit(o) {
		return e.config.Inner.Open(ctx, m, o)
	}
	m, err := e.named(ctx, m)
	if err != nil {
		return nil, err
	}
	choices := e.model(m, o).choices
	if len(choices) == 0 {
		choices = safe(e.order(o), e.begin(o), e.config.Settings)
	}
	if len(choices) == 0 {
		s, _, err := e.measure(ctx, m, o, false)
		return s, err
	}
	return e.best(ctx, m, o, choices, len(choices))
}

// proven runs the golden samples of a release, and forgets them.
func proven(s hal.Session, golden []hal.Sample) error {
	w := walk{samples: golden}
	if _, err := w.answers(s); err != nil {
		return err
	}
	return s.Reset()
}

func explicit(o hal.Options) bool { return o.Accelerator != "" && o.Accelerator != hal.Auto }

// named is the model with its hash: every candidate runs the same bytes, and what
// is remembered is remembered about them.
func (e *Engine) named(ctx context.Context, m hal.Model) (hal.Model, error) {
	if m.SHA256 != "" || m.Path == "" {
		return m, ctx.Err()
	}
	f, err := os.Open(m.Path)
	if err != nil {
		return m, &hal.Error{Code: hal.CodeModelFormat, Text: "model " + m.Name + ": " + err.Error(), Err: err}
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	switch {
	case err != nil:
		return m, &hal.Error{Code: hal.CodeModelFormat, Text: "model " + m.Name + ": " + err.Error(), Err: err}
	case n == 0:
		return m, &hal.Error{Code: hal.CodeModelEmpty, Text: "model file is 0 bytes: " + m.Name}
	}
	m.SHA256 = hex.EncodeToString(h.Sum(nil))
	return m, ctx.Err()
}

func (e *Engine) supports(path string, a hal.Accelerator) error {
	if e.config.Supports == nil {
		return nil
	}
	return e.config.Supports(path, a)
}

func (e *Engine) order(o hal.Options) []hal.Accelerator {
	if len(o.Order) > 0 {
		return o.Order
	}
	return e.config.Order
}

// begin is how many threads a model has before it was measured.
func (e *Engine) begin(o hal.Options) int {
	switch {
	case o.Threads > 0:
		return o.Threads
	case e.config.Begin > 0:
		return min(e.config.Begin, e.cores())
	}
	return most(e.cores() - 1)
}

func (e *Engine) cores() int {
	if e.config.Cores > 0 {
		return e.config.Cores
	}
	return runtime.NumCPU()
}

// asked is what the caller and the configuration want of a choice.
func (e *Engine) asked(o hal.Options) string {
	var names []string
	for _, a := range e.order(o) {
		names = append(names, string(a))
	}
	s := fmt.Sprintf("%s; threads %d; device %q", strings.Join(names, " "), o.Threads, o.Device)
	if o.Sibling != nil {
		s += "; sibling " + o.Sibling.SHA256
	}
	if len(o.Shapes) > 0 {
		s += fmt.Sprint("; shapes ", o.Shapes) // in the order of their names
	}
	if len(e.config.Settings) > 0 {
		s += fmt.Sprint("; settings ", e.config.Settings)
	}
	if len(s) > maxText {
		sum := sha256.Sum256([]byte(s))
		s = hex.EncodeToString(sum[:])
	}
	return s
}

// model is what is known of a model, from this process or from before.
func (e *Engine) model(m hal.Model, o hal.Options) *model {
	e.mu.Lock()
	defer e.mu.Unlock()
	want := e.asked(o)
	key := m.SHA256 + " " + want
	if known := e.models[key]; known != nil {
		return known
	}
	if len(e.models) >= maxModels {
		clear(e.models) // failures of long ago
	}
	known := &model{rungs: map[hal.Accelerator]*rung{}}
	e.models[key] = known
	if r, ok := e.config.Memory.find(e.Name(), m.SHA256, want); ok && r.Board == e.config.Board && r.CPU == e.config.CPU {
		known.choices, known.lost, known.reference = r.Choices, r.Lost, r.Reference
	}
	return known
}

// holds says whether what is known of a model was found with the devices that are
// here now.
func (e *Engine) holds(ctx context.Context, m hal.Model, o hal.Options, known *model) bool {
	devices, err := e.here(ctx)
	if err != nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(known.choices) == 0 {
		return false
	}
	if !known.current {
		r, ok := e.config.Memory.find(e.Name(), m.SHA256, e.asked(o))
		known.current = ok && equal(r.Devices, devices)
	}
	return known.current
}

// equal compares devices in any order.
func equal(a, b []hal.Device) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(d hal.Device) bool { return !slices.Contains(b, d) })
}

// open opens a model in one way.
func (e *Engine) open(ctx context.Context, m hal.Model, o hal.Options, c Choice) (hal.Session, error) {
	o.Accelerator, o.Threads, o.Settings = c.Accelerator, c.Threads, c.Settings
	switch c.Accelerator {
	case hal.EdgeTPU, hal.CUDA, hal.TensorRT:
	default:
		o.Device = "" // there is one of each of the others, and it has no name
	}
	m = fileFor(c.Accelerator, m, o)
	o.Order, o.Sibling, o.Golden = nil, nil, nil
	return e.config.Inner.Open(ctx, m, o)
}

// best opens the first of a ladder's choices that is not benched and opens, looking
// at the first few. The last of a ladder is never benched: something has to run.
func (e *Engine) best(ctx context.Context, m hal.Model, o hal.Options, ladder []Choice, few int) (hal.Session, error) {
	known := e.model(m, o)
	var failed error
	for i, c := range ladder[:few] {
		last := i == len(ladder)-1
		e.mu.Lock()
		benched := known.rung(c.Accelerator).benched()
		measured, with := len(known.choices) > 0, known.options(o, last)
		e.mu.Unlock()
		if benched && !last && few > 1 {
			continue
		}
		s, err := e.open(ctx, m, with, c)
		if err == nil {
			return &session{Session: s, e: e, m: m, o: o, choice: c, known: known, ladder: ladder}, nil
		}
		if blamesModel(err) || ctx.Err() != nil {
			return nil, err
		}
		failed = err
		e.config.Log.Warn().Err(err).Str("model", m.Name).Stringer("choice", c).Msg("model does not open on it")
		if measured && !last { // it did open before
			e.mu.Lock()
			known.rung(c.Accelerator).bench("it does not open: "+err.Error(), time.Now())
			e.mu.Unlock()
		}
	}
	return nil, failed
}

// options are o with a deadline that fits the model, so that a hang costs little;
// on the last rung there is nothing to fall back to, and no hurry. The caller
// holds mu.
func (k *model) options(o hal.Options, last bool) hal.Options {
	if o.Deadline == 0 && k.reference > 0 && !last {
		o.Deadline = deadlineFor(k.reference)
	}
	return o
}

// rung is the state of an accelerator. The caller holds mu.
func (k *model) rung(a hal.Accelerator) *rung {
	r := k.rungs[a]
	if r == nil {
		r = &rung{}
		k.rungs[a] = r
	}
	return r
}

// measure finds out what is best for a model, remembers it, and opens it.
func (e *Engine) measure(ctx context.Context, m hal.Model, o hal.Options, gated bool) (hal.Session, *found, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	devices, err := e.here(ctx)
	if err != nil {
		return nil, nil, err
	}
	f, err := e.walk(ctx, m, o, devices, gated)
	if err != nil {
		return nil, nil, err
	}
	known := e.model(m, o)
	e.mu.Lock()
	known.choices, known.lost, known.reference, known.current = f.choices, f.lost, f.reference, true
	known.rung(f.choices[0].Accelerator).back(time.Now())
	e.mu.Unlock()
	e.config.Memory.put(Record{
		Model: m.SHA256, Name: clip(m.Name), Engine: e.Name(), Asked: e.asked(o), Board: e.config.Board, CPU: e.config.CPU,
		Devices: devices, Choices: f.choices, Lost: f.lost, Reference: f.reference, At: time.Now().UTC().Truncate(time.Second),
	})
	return &session{Session: f.session, e: e, m: m, o: o, choice: f.choices[0], known: known, ladder: f.choices}, f, nil
}

// recheck is how often devices are looked for while all is well.
const recheck = time.Hour

// Better waits until something runs s's model better than s does, and returns it
// open and warm; s is left alone. It measures what was not measured, tries again
// what failed, and looks for new devices from time to time. It returns when ctx
// ends, with its error. s is from Open or Start.
func (e *Engine) Better(ctx context.Context, s hal.Session) (hal.Session, error) {
	now, ok := s.(*session)
	if !ok {
		<-ctx.Done() // there was no choice
		return nil, ctx.Err()
	}
	for measured := false; ; {
		if c, at, ok := now.benched(); ok {
			if !wait(ctx, time.Until(at)) {
				return nil, ctx.Err()
			}
			if better := now.retry(ctx, c); better != nil {
				return better, nil
			}
			continue
		}
		if !measured && !e.holds(ctx, now.m, now.o, now.known) {
			measured = true
			better, err := e.outdo(ctx, now)
			if better != nil || ctx.Err() != nil {
				return better, ctx.Err()
			}
			if err != nil {
				e.config.Log.Warn().Err(err).Str("model", now.m.Name).Msg("what the model runs best on could not be measured")
			}
			continue
		}
		if !wait(ctx, recheck) {
			return nil, ctx.Err()
		}
		e.Probe(ctx)
		e.mu.Lock()
		now.known.current = false // until it is compared with what is here now
		e.mu.Unlock()
		measured = false
	}
}

// outdo measures, and returns what is better than s by more than a tie; nil when s
// is good enough.
func (e *Engine) outdo(ctx context.Context, s *session) (hal.Session, error) {
	best, f, err := e.measure(ctx, s.m, s.o, false)
	if err != nil {
		return nil, err
	}
	for _, t := range f.times {
		if t.choice.same(s.choice) && t.rel <= f.times[0].rel*(1+enoughBetter) {
			return nil, best.Close()
		}
	}
	return best, nil
}

// enoughBetter is what a change of the session under way has to gain.
const enoughBetter = 0.03

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

var _ hal.Engine = (*Engine)(nil)
