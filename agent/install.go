package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-edge/covey/agent/internal/health"
	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
)

// A station is a pipeline with what it should run now. It opens that again when
// its session is lost.
type station struct {
	file PipelineFile
	pipe *pipeline.Pipeline
	open *opener
	note func(release wire.Digest, r update.Run) // how a run went; nil: nobody asks

	scene    *scene
	drift    *health.Drift
	again    chan struct{}              // 1: it is to be restarted
	aspect   atomic.Uint64              // bits: width by height of its pictures; 0: not known
	wishes   atomic.Pointer[slots.Home] // what people at home have set; nil: nothing
	noFrames atomic.Pointer[wire.Fault] // why there are none; nil while there are
	noModel  atomic.Pointer[wire.Fault] // why the local one does not open; nil when it did

	switching sync.Mutex // one model is put to work at a time

	mutex  sync.Mutex
	now    *recipe            // guarded by mutex; nil: nothing should run
	loaded *loaded            // guarded by mutex; that was put to work last
	using  context.Context    // guarded by mutex; ends when loaded is not in use any more
	drop   context.CancelFunc // guarded by mutex; ends using
}

// working is the model at work, nil when there is none, and a context that ends
// when another takes its place.
func (s *station) working() (*loaded, context.Context) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.using == nil {
		s.using, s.drop = context.WithCancel(context.Background())
	}
	return s.loaded, s.using
}

// took notes which model is at work now.
func (s *station) took(l *loaded) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.use(l)
}

// use is took; the caller holds mutex.
func (s *station) use(l *loaded) {
	if s.drop != nil {
		s.drop()
	}
	s.loaded = l
	s.using, s.drop = context.WithCancel(context.Background())
}

// works says whether results can be expected.
func (s *station) works() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	st := s.pipe.Stats()
	return s.now != nil && s.fault() == nil && st.Degraded == "" && !s.home().Off
}

// fault is why no results can be expected; nil while they can.
func (s *station) fault() *wire.Fault {
	if f := s.noModel.Load(); f != nil {
		return f
	}
	return s.noFrames.Load()
}

// pinned is the model that the configuration names, as a slot.
func (s *station) pinned() *wire.ReportedSlot {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.now == nil || s.loaded == nil {
		return nil
	}
	return &wire.ReportedSlot{Name: s.now.model.Name, Version: s.now.version, SHA256: wire.Digest(s.loaded.Info().SHA256)}
}

// startLocal puts the model to work that the configuration names.
func (s *station) startLocal(ctx context.Context) error {
	r, err := localRecipe(s.file)
	if err != nil {
		return err
	}
	l, err := s.open.open(ctx, s.config(), r, true)
	if err != nil {
		return err
	}
	if err := s.run(ctx, l); err != nil {
		return errors.Join(err, l.Close())
	}
	s.noModel.Store(nil)
	return nil
}

// reopen is pipeline.Config.Reopen.
func (s *station) reopen(ctx context.Context) (pipeline.Model, error) {
	s.mutex.Lock()
	now, before := s.now, s.loaded
	s.mutex.Unlock()
	if now == nil {
		return pipeline.Model{}, &hal.Error{Code: hal.CodePipeline, Text: "no model should run in pipeline " + s.file.Name}
	}
	l, err := s.open.open(ctx, s.config(), *now, true)
	if err != nil {
		return pipeline.Model{}, err
	}
	s.mutex.Lock()
	stale := s.now != now || s.loaded != before
	if !stale { // at once: behind another's took, this one would be noted and not at work
		s.use(l)
	}
	s.mutex.Unlock()
	if stale {
		return pipeline.Model{}, errors.Join(errors.New("another model should run now"), l.Close())
	}
	return s.watched(l), nil
}

// watched is the model with every run noted, and its end.
func (s *station) watched(l *loaded) pipeline.Model {
	m := l.Model
	n := &noted{Session: m.Session, decoder: m.Decoder, release: l.recipe.release, note: s.note, closed: l.closed}
	m.Session, m.Decoder = n, n
	return m
}

// run puts a model to work between two frames; the pipeline owns it then.
func (s *station) run(ctx context.Context, l *loaded) error {
	s.switching.Lock()
	defer s.switching.Unlock()
	s.mutex.Lock()
	before := s.now
	s.now = &l.recipe
	s.mutex.Unlock()
	if err := s.pipe.Swap(ctx, s.watched(l)); err != nil {
		s.mutex.Lock()
		s.now = before
		s.mutex.Unlock()
		return err
	}
	s.took(l)
	return nil
}

// clear takes the model away. With an error it still runs.
func (s *station) clear(ctx context.Context) error {
	s.switching.Lock()
	defer s.switching.Unlock()
	s.mutex.Lock()
	before := s.now
	s.now = nil
	s.mutex.Unlock()
	if err := s.pipe.Clear(ctx); err != nil {
		s.mutex.Lock()
		s.now = before
		s.mutex.Unlock()
		return err
	}
	s.took(nil)
	return nil
}

// noted tells how each run went, its answer included, and when the session was closed.
type noted struct {
	hal.Session
	decoder task.Decoder
	release wire.Digest
	note    func(release wire.Digest, r update.Run) // nil: nobody asks
	took    time.Duration                           // of the run that is decoded next
	closed  chan struct{}
	once    sync.Once // closes closed
}

// Run runs the model.
func (n *noted) Run(buf int) (hal.Timing, error) {
	t, err := n.Session.Run(buf)
	n.took = t.Engine
	if err != nil {
		n.tell(update.Run{Engine: t.Engine, Err: err})
	}
	return t, err
}

// Decode reads the answer. One that cannot be read is a run that failed.
func (n *noted) Decode(o task.Outputs, buf int, r *task.Result) error {
	run := update.Run{Engine: n.took, Err: errPanic}
	defer func() { n.tell(run) }()
	err := n.decoder.Decode(o, buf, r)
	if run.Err = err; err == nil && len(r.Items) > 0 {
		run.Score, run.Scored, run.Label = r.Items[0].Score, true, labelOf(&r.Items[0])
	}
	return err
}

// labelOf is a number for a label, or for a class that has none (FNV-1a).
func labelOf(i *task.Item) uint32 {
	if i.Label == "" {
		return uint32(i.ID)
	}
	h := uint32(2166136261)
	for k := range len(i.Label) {
		h = (h ^ uint32(i.Label[k])) * 16777619
	}
	return h
}

// errPanic is how a run ends whose answer its decoder cannot bear.
var errPanic = &hal.Error{Code: hal.CodeInvoke, Text: "the decoder panics at what the model gives: the log has where"}

func (n *noted) tell(r update.Run) {
	if n.note != nil {
		n.note(n.release, r)
	}
}

// Close closes the session.
func (n *noted) Close() error {
	defer n.once.Do(func() { close(n.closed) })
	return n.Session.Close()
}

// stations are an update.Installer.
type stations map[string]*station

// Prepare opens a release beside the one that runs, or where there is no room for
// both in its place, and tests it when it is new.
func (s stations) Prepare(ctx context.Context, name string, f update.Files) (update.Warm, error) {
	r, err := releaseRecipe(f)
	if err != nil {
		return nil, err
	}
	st := s[name]
	l, err := st.test(ctx, r, f)
	if hal.CodeOf(err) == hal.CodeAdmission {
		l, err = st.testAlone(ctx, r, f, err)
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// releaseRecipe is for a release: with golden samples while it is on trial.
func releaseRecipe(f update.Files) (recipe, error) {
	r := recipe{release: f.Slot.Release, model: f.Model(), engine: f.Slot.Engine, version: f.Slot.Version, task: f.Manifest.Task, decode: f.Manifest.Decode}
	r.model.Name, r.sibling = f.Slot.Name, f.Sibling()
	if l := f.Manifest.Labels; l != nil {
		b, err := f.Read(*l)
		if err != nil {
			return r, err
		}
		r.labels = b
	}
	if f.Trial {
		var err error
		if r.golden, err = f.Samples(); err != nil {
			return r, err
		}
	}
	return r, nil
}

// test opens a release and runs it.
func (s *station) test(ctx context.Context, r recipe, f update.Files) (*loaded, error) {
	l, err := s.open.open(ctx, s.config(), r, !f.Trial)
	if err != nil {
		return nil, err
	}
	l.recipe.golden = nil // proven; it need not stay in memory
	if err := update.SelfTest(l.Session, f, l.first); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// testAlone is test where there is no room beside what runs, and why: that is
// closed first. From then on nothing runs, which the model, or the error, says.
func (s *station) testAlone(ctx context.Context, r recipe, f update.Files, why error) (*loaded, error) {
	before, _ := s.working()
	if before == nil {
		return nil, why // the room is taken by others
	}
	since := time.Now()
	if err := s.clear(ctx); err != nil {
		return nil, errors.Join(err, why)
	}
	s.open.log.Warn().Str("pipeline", s.file.Name).Str("model", r.model.Name).Err(why).Msg("cold swap: what runs is closed first")
	select {
	case <-before.closed:
	case <-ctx.Done():
		return nil, &update.Stopped{Since: since, Err: ctx.Err()}
	}
	l, err := s.test(ctx, r, f)
	if err != nil {
		return nil, &update.Stopped{Since: since, Err: err}
	}
	l.since = since
	return l, nil
}

// Switch puts a release to work.
func (s stations) Switch(ctx context.Context, name string, w update.Warm) error {
	st := s[name]
	var err error
	if w == nil {
		err = st.clear(ctx)
	} else {
		err = st.run(ctx, w.(*loaded)) // Prepare made it
	}
	if errors.Is(err, pipeline.ErrEnded) {
		return ended(name, err)
	}
	return err
}

// ended is for an operator whose pipeline has no more frames.
func ended(name string, err error) error {
	return &hal.Error{Code: hal.CodePipeline, Text: "pipeline " + name + " has come to the end of its source: loop or watch it, or restart the agent", Err: err}
}
