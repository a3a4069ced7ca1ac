package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"

	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/ladder"
	"github.com/covey-edge/covey/hal/modelfile"
)

// ChoicesPath is the file below an agent's data folder that remembers what models
// run best on; ladder.Explain reads its bytes.
func ChoicesPath(data string) string { return filepath.Join(data, "accelerators.json") }

// choices is a ladder.Store on the agent's disk.
type choices struct {
	fs   blob.FS
	path string
}

// Load reads the file; without one there is nothing.
func (c choices) Load() ([]byte, error) {
	b, err := blob.ReadFile(c.fs, c.path, ladder.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Save replaces the file.
func (c choices) Save(b []byte) error { return blob.WriteFile(c.fs, c.path, b) }

// ladders puts before each engine what chooses for it.
func (a *agent) ladders() []hal.Engine {
	memory := ladder.Remember(choices{a.FS, ChoicesPath(a.File.Data)}, a.Log)
	cpu := cpuOf(a.Root)
	var list []hal.Engine
	for _, e := range a.Engines {
		order := ladder.TFLite
		if e.Name() == "onnx" {
			order = ladder.ONNX
		}
		c := ladder.Config{Inner: e, Order: order, Memory: memory, Supports: supports, Settings: a.File.settings(cpu),
			Board: a.Board.Name, CPU: cpu.name, Log: a.Log.With().Str("engine", e.Name()).Logger()}
		if e.Name() == "tflite" {
			c.Extra = a.File.delegates()
		}
		list = append(list, ladder.New(c))
	}
	return list
}

// supports asks a model's file whether an accelerator could run it.
func supports(path string, a hal.Accelerator) error {
	m, err := modelfile.Open(path)
	if err != nil {
		return err
	}
	return m.Supports(a)
}

// delegates are the accelerators that the configuration names: an engine cannot
// find them by itself.
func (f *File) delegates() []hal.Device {
	var list []hal.Device
	for _, d := range f.Delegates {
		list = append(list, hal.Device{Accelerator: d.Accelerator(), Name: filepath.Base(d.Library)})
	}
	return list
}

// settings are the ways to use each accelerator that are worth a try: XNNPACK with
// its quantised kernels, without, and with half the precision where the CPU
// computes with that; delegates as the configuration says.
func (f *File) settings(cpu cpu) map[hal.Accelerator][]map[string]string {
	m := map[hal.Accelerator][]map[string]string{hal.XNNPACK: {nil, {"flags": ""}}}
	if cpu.half {
		m[hal.XNNPACK] = append(m[hal.XNNPACK], map[string]string{"flags": "qs8,qu8,fp16"})
	}
	for _, d := range f.Delegates {
		m[d.Accelerator()] = []map[string]string{d.Options}
	}
	for a, settings := range f.Settings {
		m[a] = []map[string]string{settings}
	}
	// An engine that TensorRT builds is kept: the next start takes seconds, not minutes.
	cache := map[string]string{"cache": EnginesPath(f.Data)}
	if len(m[hal.TensorRT]) == 0 {
		m[hal.TensorRT] = []map[string]string{{"trt_fp16_enable": "1"}, {}}
	}
	for i, settings := range m[hal.TensorRT] {
		all := maps.Clone(cache)
		maps.Copy(all, settings)
		m[hal.TensorRT][i] = all
	}
	return m
}

// EnginesPath is the folder below an agent's data folder for what drivers compile
// out of models.
func EnginesPath(data string) string { return filepath.Join(data, "engines") }

// Accelerator is the delegate's name among accelerators.
func (d DelegateFile) Accelerator() hal.Accelerator {
	return hal.Accelerator("external:" + d.Library)
}

// A cpu is what a choice depends on.
type cpu struct {
	name string // as the kernel calls it, or its part number
	half bool   // float16 arithmetic: Cortex-A55, A76 and later
}

// maxCPUInfo is the longest /proc/cpuinfo that is read; a core needs 2 kB at most.
const maxCPUInfo = 256 << 10

// cpuOf reads /proc/cpuinfo below root; nil: nothing is known.
func cpuOf(root fs.FS) cpu {
	var c cpu
	if root == nil {
		return c
	}
	f, err := root.Open("proc/cpuinfo")
	if err != nil {
		return c
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCPUInfo))
	if err != nil {
		return c
	}
	parts := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); ok && parts[key] == "" {
			parts[key] = strings.Map(printable, strings.TrimSpace(value))
		}
	}
	c.name = parts["model name"]
	if c.name == "" && parts["CPU part"] != "" {
		c.name = parts["CPU implementer"] + " " + parts["CPU part"]
	}
	c.name = c.name[:min(len(c.name), 100)]
	for flag := range strings.FieldsSeq(parts["Features"]) {
		c.half = c.half || flag == "asimdhp"
	}
	return c
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

// climb moves a pipeline's model to what it runs better on, whenever the engine
// finds something, until ctx ends.
func (s *station) climb(ctx context.Context, loop *pulse.Loop) {
	defer loop.End()
	for {
		loop.Beat()
		loop.Do("looks for a better accelerator", 0) // it finds one when it finds one; what it opens has limits
		l, using := s.working()
		better, err := s.better(ctx, using, l)
		if ctx.Err() != nil {
			if better != nil {
				better.Close()
			}
			return
		}
		loop.Do("moves to a better accelerator", pipeline.OpenTime)
		if err == nil {
			err = s.exchange(ctx, l, better)
		}
		loop.Do("waits for another model", 0)
		switch {
		case errors.Is(err, pipeline.ErrEnded):
			return
		case err != nil && using.Err() == nil:
			s.open.log.Warn().Err(err).Str("pipeline", s.file.Name).Msg("a better accelerator was found and cannot be used")
			select { // something has to change first
			case <-using.Done():
			case <-ctx.Done():
			}
		}
	}
}

// better waits for something better than l, or until l is not in use any more.
func (s *station) better(ctx, using context.Context, l *loaded) (*loaded, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(using, cancel)()
	if l == nil || l.ladder == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	session, err := l.ladder.Better(ctx, l.Session)
	if err != nil {
		return nil, err
	}
	better, err := s.open.fit(session, s.file, l.recipe)
	if err != nil {
		return nil, errors.Join(err, session.Close())
	}
	better.ladder = l.ladder
	s.open.say(s.file.Name, better, 0)
	return better, nil
}

// exchange puts better in the place of l between two frames, if l is still there.
func (s *station) exchange(ctx context.Context, l, better *loaded) error {
	s.switching.Lock()
	defer s.switching.Unlock()
	if now, using := s.working(); now != l || using.Err() != nil {
		return better.Close()
	}
	if err := s.pipe.Swap(ctx, s.watched(better)); err != nil {
		return errors.Join(err, better.Close())
	}
	s.took(better)
	return nil
}

// degraded is why the model does not run on what it ran best on; "" when it does.
func (s *station) degraded() string {
	if l, _ := s.working(); l != nil {
		return l.Info().Degraded
	}
	return ""
}
