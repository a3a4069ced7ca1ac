package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A station is a pipeline with what it should run now. It opens that again when
// its session is lost.
type station struct {
	file PipelineFile
	pipe *pipeline.Pipeline
	open *opener
	note func(model string, err error) // how a run went; nil: nobody asks

	noFrames atomic.Pointer[wire.Fault] // why there are none; nil while there are
	noModel  atomic.Pointer[wire.Fault] // why the local one does not open; nil when it did

	mutex sync.Mutex
	now   *recipe  // guarded by mutex; nil: nothing should run
	info  hal.Info // guarded by mutex; of the last model that was put to work
}

// works says whether results can be expected.
func (s *station) works() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	st := s.pipe.Stats()
	return s.now != nil && s.fault() == nil && st.Degraded == ""
}

// fault is why no results can be expected; nil while they can.
func (s *station) fault() *wire.Fault {
	if f := s.noModel.Load(); f != nil {
		return f
	}
	return s.noFrames.Load()
}

// pinned is the model that the configuration names, as a slot, and what it runs on.
func (s *station) pinned() (*wire.ReportedSlot, string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.now == nil {
		return nil, ""
	}
	slot := &wire.ReportedSlot{Name: s.now.model.Name, Version: s.now.version, SHA256: wire.Digest(s.info.SHA256)}
	return slot, string(s.info.Accelerator)
}

// startLocal puts the model to work that the configuration names.
func (s *station) startLocal(ctx context.Context) error {
	r, err := localRecipe(s.file)
	if err != nil {
		return err
	}
	l, err := s.open.open(ctx, s.file, r)
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
	now := s.now
	s.mutex.Unlock()
	if now == nil {
		return pipeline.Model{}, &hal.Error{Code: hal.CodePipeline, Text: "no model should run in pipeline " + s.file.Name}
	}
	l, err := s.open.open(ctx, s.file, *now)
	if err != nil {
		return pipeline.Model{}, err
	}
	s.mutex.Lock()
	stale := s.now != now
	s.mutex.Unlock()
	if stale {
		return pipeline.Model{}, errors.Join(errors.New("another model should run now"), l.Close())
	}
	return s.watched(l), nil
}

// watched is the model with every run noted.
func (s *station) watched(l *loaded) pipeline.Model {
	m := l.Model
	if s.note != nil {
		m.Session = &noted{Session: m.Session, sha: m.Session.Info().SHA256, note: s.note}
	}
	return m
}

// run puts a model to work between two frames; the pipeline owns it then.
func (s *station) run(ctx context.Context, l *loaded) error {
	s.mutex.Lock()
	before := s.now
	s.now, s.info = &l.recipe, l.Info()
	s.mutex.Unlock()
	err := s.pipe.Swap(ctx, s.watched(l))
	if err != nil {
		s.mutex.Lock()
		s.now = before
		s.mutex.Unlock()
	}
	return err
}

// noted tells how each run went.
type noted struct {
	hal.Session
	sha  string
	note func(model string, err error)
}

// Run runs the model.
func (n *noted) Run(buf int) (hal.Timing, error) {
	t, err := n.Session.Run(buf)
	n.note(n.sha, err)
	return t, err
}

// stations are an update.Installer.
type stations map[string]*station

// Prepare opens a release beside the one that runs, and tests it when it is new.
func (s stations) Prepare(ctx context.Context, name string, f update.Files) (update.Warm, error) {
	st := s[name]
	r := recipe{model: f.Model(), engine: f.Slot.Engine, version: f.Slot.Version, task: f.Manifest.Task, decode: f.Manifest.Decode}
	r.model.Name = f.Slot.Name
	if l := f.Manifest.Labels; l != nil {
		b, err := f.Read(*l)
		if err != nil {
			return nil, err
		}
		r.labels = b
	}
	l, err := st.open.open(ctx, st.file, r)
	if err != nil {
		return nil, err
	}
	if err := update.SelfTest(l.Session, f, l.first); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Switch puts a release to work.
func (s stations) Switch(ctx context.Context, name string, w update.Warm) error {
	st := s[name]
	var err error
	if w == nil {
		st.mutex.Lock()
		st.now = nil
		st.mutex.Unlock()
		err = st.pipe.Clear(ctx)
	} else {
		err = st.run(ctx, w.(*loaded)) // Prepare made it
	}
	if errors.Is(err, pipeline.ErrEnded) {
		return &hal.Error{Code: hal.CodePipeline, Text: "pipeline " + name + " has come to the end of its source: loop or watch it, or restart the agent", Err: err}
	}
	return err
}
