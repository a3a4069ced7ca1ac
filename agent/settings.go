package agent

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// ErrReconfigured is how Run ends when the board is to go on with another
// configuration of its fleet: the same Config, run again, reads it.
var ErrReconfigured = errors.New("the fleet's configuration has changed: start again")

// settings is an update.Installer for a fleet's configuration: for all that the
// board's own file leaves open. An agent reads its configuration when it starts, so
// another one is put to work by starting again, and the state says which it is to be.
type settings struct {
	local   *File
	release wire.Digest // whose configuration runs; "": the file's alone
	restart func()      // ends the agent; Run returns ErrReconfigured
	// changed are the pipelines that are otherwise than before, while a release is on
	// trial: they say how it does.
	changed map[string]bool
}

// configure reads what the fleet has configured and makes a.File of it. A release on
// trial is counted before it can do any harm; on a disk that does not take the count it
// is not tried.
func (a *agent) configure(state *slots.Store, blobs *blob.Store) {
	a.settings = &settings{local: a.File}
	p := state.State().Pipelines[wire.ConfigPipeline]
	if a.Fleet == nil || a.File.closed() {
		return
	}
	slot := p.Active
	if update.Tried(p) {
		err := state.Update(func(s slots.State) slots.State {
			p = s.Pipelines[wire.ConfigPipeline].Booted()
			return s.With(wire.ConfigPipeline, p)
		})
		if err != nil {
			a.Log.Error().Err(err).Msg("the fleet's configuration on trial is not used: its start cannot be counted")
		} else {
			slot = update.AtStart(p)
		}
	}
	file, err := a.fleetFile(blobs, slot)
	if err != nil { // the loop finds it out again, and reports it
		a.Log.Error().Err(err).Msg("the fleet's configuration is not used")
		return
	}
	if slot != nil {
		a.settings.release = slot.Release
	}
	if slot == p.Candidate && slot != nil {
		before, err := a.fleetFile(blobs, p.Active)
		if err != nil {
			before = a.File
		}
		a.settings.changed = differ(before.Pipelines, file.Pipelines)
	}
	a.File = file
}

// fleetFile is the board's file with what a release adds to it. nil adds nothing.
func (a *agent) fleetFile(blobs *blob.Store, slot *slots.Slot) (*File, error) {
	if slot == nil {
		return a.File, nil
	}
	text, err := blobs.Read(slot.Model, release.MaxConfig)
	if err != nil {
		return nil, err
	}
	return a.File.with(slot.Name+" "+slot.Version, text)
}

// differ are the names of pipelines of one list that are not the same in the other.
func differ(before, now []PipelineFile) map[string]bool {
	byName := func(list []PipelineFile) map[string]PipelineFile {
		m := map[string]PipelineFile{}
		for _, p := range list {
			m[p.Name] = p
		}
		return m
	}
	old, names := byName(before), map[string]bool{}
	for name, p := range byName(now) {
		if !reflect.DeepEqual(old[name], p) {
			names[name] = true
		}
	}
	return names
}

// A configuration is an update.Warm.
type configuration struct{ release wire.Digest }

// Info says nothing: no model runs in a configuration.
func (configuration) Info() hal.Info { return hal.Info{} }

// Since is never: what runs goes on.
func (configuration) Since() time.Time { return time.Time{} }

// Close does nothing.
func (configuration) Close() error { return nil }

// Prepare reads a release of configuration together with the board's own file.
func (s *settings) Prepare(_ context.Context, _ string, f update.Files) (update.Warm, error) {
	text, err := f.Read(*f.Manifest.Config)
	if err != nil {
		return nil, err
	}
	if _, err := s.local.with(f.Slot.Name+" "+f.Slot.Version, text); err != nil {
		return nil, err
	}
	return configuration{f.Slot.Release}, nil
}

// Switch starts the agent again where another configuration is to run.
func (s *settings) Switch(ctx context.Context, _ string, w update.Warm) error {
	var next wire.Digest
	if w != nil {
		next = w.(configuration).release // Prepare made it
	}
	if next == s.release {
		return nil
	}
	s.restart()
	<-ctx.Done()
	return ctx.Err()
}

// Shadow cannot be: a board has one configuration.
func (s *settings) Shadow(context.Context, string, update.Warm, wire.ShadowRun) (wire.Agreement, error) {
	return wire.Agreement{}, &hal.Error{Code: hal.CodeAgreement, Text: "a configuration cannot run in the shadow of another: order it without a shadow run"}
}

// An installer knows which installer is whose.
type installer struct {
	stations
	settings *settings
}

func (i installer) of(pipeline string) update.Installer {
	if pipeline == wire.ConfigPipeline {
		return i.settings
	}
	return i.stations
}

func (i installer) Prepare(ctx context.Context, pipeline string, f update.Files) (update.Warm, error) {
	return i.of(pipeline).Prepare(ctx, pipeline, f)
}

func (i installer) Switch(ctx context.Context, pipeline string, w update.Warm) error {
	return i.of(pipeline).Switch(ctx, pipeline, w)
}

func (i installer) Shadow(ctx context.Context, pipeline string, w update.Warm, s wire.ShadowRun) (wire.Agreement, error) {
	return i.of(pipeline).Shadow(ctx, pipeline, w, s)
}

// judge counts a run for the configuration on trial, where it is of a pipeline that the
// configuration has changed. While another of those gives no frames, none is good.
func (a *agent) judge(pipeline string, err error) {
	s := a.settings
	if !s.changed[pipeline] || err == nil && a.blind() != nil {
		return
	}
	a.loop.Note(wire.ConfigPipeline, s.release, update.Run{Err: err})
}

// judgeSources counts a failure for the configuration on trial while a pipeline that it
// has changed gives no frames. It is called every second.
func (a *agent) judgeSources() {
	if f := a.blind(); f != nil {
		a.loop.Note(wire.ConfigPipeline, a.settings.release, update.Run{Err: &hal.Error{Code: hal.Code(f.Code), Text: f.Text}})
	}
}

// blind is why a pipeline that the configuration on trial has changed gives no frames;
// nil while all do.
func (a *agent) blind() *wire.Fault {
	for name := range a.settings.changed {
		if s := a.stations[name]; s != nil {
			if f := s.noFrames.Load(); f != nil {
				return f
			}
		}
	}
	return nil
}
