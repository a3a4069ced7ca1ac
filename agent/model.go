package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/ladder"
	"github.com/covey-edge/covey/hal/modelfile"
	"github.com/covey-edge/covey/hal/task"
)

const maxLabelFile = 4 << 20 // bytes

// A recipe is what there is to know to open a model for a pipeline: a file of a
// release, or one that the local configuration names.
type recipe struct {
	release wire.Digest // "": the configuration's own model
	model   hal.Model
	engine  string // name; "" is told by the file
	version string // of the release; "local" without one
	labels  []byte // text of a label file; nil: the model's own
	task    string // "" is auto
	decode  release.Decode
	sibling *hal.Model   // for other accelerators, where the model is compiled for one
	golden  []hal.Sample // that it has to answer before it is put to work
}

// localRecipe is for a model named by the configuration: local trust, no hash is
// asked for.
func localRecipe(p PipelineFile) (recipe, error) {
	name := strings.TrimSuffix(filepath.Base(p.Model), filepath.Ext(p.Model))
	r := recipe{model: hal.Model{Name: name, Path: p.Model}, version: "local"}
	if p.Labels == "" {
		return r, nil
	}
	var err error
	r.labels, err = readLabels(p.Labels)
	if err != nil {
		return r, &hal.Error{Code: hal.CodeLabels, Text: fmt.Sprintf("labels of pipeline %s: %v", p.Name, err), Err: err}
	}
	return r, nil
}

func readLabels(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLabelFile+1))
	if err == nil && len(b) > maxLabelFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxLabelFile)
	}
	return b, err
}

// loaded is an open model with all that a pipeline needs of it. It is what
// an update holds before it switches.
type loaded struct {
	pipeline.Model
	recipe recipe
	file   *modelfile.Model
	labels []string       // that the decoder answers with; nil: none
	reason string         // why this decoder
	least  float32        // the release's own threshold; 0: its decoder has none
	ladder *ladder.Engine // that chose what it runs on; nil: the configuration did
	closed chan struct{}  // closed when the pipeline that took it has closed it
	since  time.Time      // when what ran was closed to make room; zero: it was not
}

// Since is when what ran was closed to make room for it.
func (l *loaded) Since() time.Time { return l.since }

// memory is what its runner takes now, bytes; 0 where that is not known.
func (l *loaded) memory() int64 {
	if m, ok := l.Session.(interface{ Memory() int64 }); ok {
		return m.Memory()
	}
	return 0
}

// Info describes the session.
func (l *loaded) Info() hal.Info { return l.Session.Info() }

// Close frees a model that no pipeline took.
func (l *loaded) Close() error { return l.Session.Close() }

// first is the label that comes first for what buffer 0 gave.
func (l *loaded) first() (string, error) {
	var r task.Result
	if err := l.Decoder.Decode(l.Session, 0, &r); err != nil || len(r.Items) == 0 {
		return "", err
	}
	return r.Items[0].Label, nil
}

// An opener opens models on this board's engines.
type opener struct {
	engines []hal.Engine
	order   []hal.Accelerator                     // of accelerators; empty: the engine's own
	options map[hal.Accelerator]map[string]string // of delegates, from the configuration
	log     zerolog.Logger
}

// open opens a model beside whatever runs. It is not warm: where another one runs
// meanwhile, update.SelfTest runs it before it is put to work; where none does, the
// first frame is the first run. What the pipeline's configuration says wins over
// what the release says. What it runs best on is measured first where that is not
// known, or with atOnce later: see station.climb.
func (o *opener) open(ctx context.Context, p PipelineFile, r recipe, atOnce bool) (*loaded, error) {
	file, err := modelfile.Open(r.model.Path)
	if err != nil {
		return nil, err
	}
	options := hal.Options{Accelerator: p.Accelerator, Threads: p.Threads, Deadline: p.Deadline, MemoryLimit: p.Memory, Weight: p.Weight, Shapes: p.Shapes,
		Device: p.AcceleratorDevice, Order: o.order, Sibling: r.sibling, Golden: r.golden}
	if file.Format == modelfile.FormatTFLite && r.sibling == nil && file.Supports(hal.EdgeTPU) == nil {
		options.Accelerator = hal.EdgeTPU // nothing else can run it
	}
	options.Settings = o.options[options.Accelerator]
	if err := file.Check(modelfile.Limits{EdgeTPU: options.Accelerator == hal.EdgeTPU || r.sibling != nil}); err != nil {
		return nil, err
	}
	engine, err := o.engine(r.engine, file.Format)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	chooser, _ := engine.(*ladder.Engine)
	opening := engine.Open
	if chooser != nil && atOnce {
		opening = chooser.Start
	}
	session, err := opening(ctx, r.model, options)
	if err != nil {
		return nil, err
	}
	l, err := o.fit(session, p, r)
	if err != nil {
		return nil, errors.Join(err, session.Close())
	}
	l.ladder = chooser
	o.say(p.Name, l, time.Since(begin))
	return l, nil
}

// engine is the one of that name, or, without a name, the one for that file format.
func (o *opener) engine(name, format string) (hal.Engine, error) {
	if name == "" {
		name = format
	}
	for _, e := range o.engines {
		if e.Name() == name {
			return e, nil
		}
	}
	return nil, &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("this board has no engine %q: install covey-runner-%s beside covey-agent", name, name)}
}

// fit reads the file that a session runs, and makes the way into the model and out
// of it.
func (o *opener) fit(s hal.Session, p PipelineFile, r recipe) (*loaded, error) {
	runs := r.model
	if r.sibling != nil && s.Info().SHA256 == r.sibling.SHA256 {
		runs = *r.sibling
	}
	file, err := modelfile.Open(runs.Path)
	if err != nil {
		return nil, err
	}
	return fit(s, file, p, r)
}

func fit(s hal.Session, file *modelfile.Model, p PipelineFile, r recipe) (*loaded, error) {
	info := s.Info()
	if len(info.Inputs) != 1 {
		return nil, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("model has %d inputs, a frame fills one: use a model with one input", len(info.Inputs))}
	}
	mean, std := r.decode.Mean, r.decode.Std
	if mean == nil && std == nil {
		mean, std = file.Normalization()
	}
	filler, err := newFiller(info.Inputs[0], p, mean, std)
	if err != nil {
		return nil, err
	}
	text := r.labels
	if text == nil {
		text = file.LabelFile()
	}
	labels, err := task.ParseLabels(text)
	if err != nil {
		return nil, err
	}
	o := task.Options{Kind: cmp.Or(r.decode.Decoder, r.task), Threshold: r.decode.Threshold, Top: r.decode.Top}
	if p.Top != 0 {
		o.Top = p.Top
	}
	choice, err := task.Choose(file, info, labels, o)
	if err != nil {
		return nil, err
	}
	var least float32
	if t, ok := choice.Decoder.(task.Tunable); ok {
		if least = t.Threshold(); p.Threshold != 0 {
			t.SetThreshold(p.Threshold)
		}
	}
	ref := wire.ModelRef{Name: r.model.Name, Ver: r.version, SHA: wire.Digest(info.SHA256).Short()}
	return &loaded{Model: pipeline.Model{Session: s, Filler: filler, Decoder: choice.Decoder, Ref: ref}, recipe: r, file: file, labels: labels, reason: choice.Reason(), least: least,
		closed: make(chan struct{})}, nil
}

func (o *opener) say(name string, l *loaded, took time.Duration) {
	info := l.Info()
	e := o.log.Info().Str("pipeline", name).Str("model", l.recipe.model.Name).Str("version", l.recipe.version).
		Str("sha", l.Ref.SHA).Str("accelerator", string(info.Accelerator)).Str("runtime", info.Runtime).
		Int("threads", info.Threads).Str("decoder", l.reason).Dur("took", took)
	if info.Degraded != "" {
		e = e.Str("degraded", info.Degraded)
	}
	e.Msg("model open")
	for _, t := range info.Tried {
		o.log.Info().Str("pipeline", name).Str("model", l.recipe.model.Name).Str("accelerator", string(t.Accelerator)).
			Int("threads", t.Threads).Any("settings", t.Settings).Dur("p50", t.Took).Str("reason", t.Reason).Msg("not chosen")
	}
}
