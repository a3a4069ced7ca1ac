package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner"
	"github.com/covey-edge/covey/hal/source/folder"
)

// A lab is the real agent with real runners and real models, and a controller of the
// test's own, which orders what an operator's rollout would.
type lab struct {
	t      *testing.T
	broker *mem.Broker
	dev    wire.Device
	home   wire.Home
	rev    uint64

	mu      sync.Mutex
	blobs   map[wire.Digest][]byte
	steps   []wire.ExecStep
	results []heardResult
}

type heardResult struct {
	wire.Result
	at time.Time // it was heard
}

// newLab starts a board whose pipeline cam sees the peacock, fps times a second.
func newLab(t *testing.T, fps float64) *lab {
	t.Helper()
	w := &lab{t: t, broker: mem.NewBroker(), blobs: map[wire.Digest][]byte{},
		dev: wire.Device{Root: "covey", ID: "pi-1"}, home: wire.Home{Root: "covey", ID: "pi-1"}}
	programs := filepath.Dir(doomedAgent(t))
	log := zerolog.Nop()
	if testing.Verbose() {
		log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	up := make(chan struct{}, 1)
	wg.Go(func() {
		w.broker.Link("controller", true).Run(ctx, wire.Spec{
			Subscribe: []wire.Subscription{{Filter: w.dev.UpAll(), QoS: 1}, {Filter: w.home.All(), QoS: 1}},
			Up:        func() { up <- struct{}{} }, Receive: w.receive,
		})
	})
	<-up
	path := pictures(t, 2, peacock)
	file := &agent.File{Data: t.TempDir(), Pipelines: []agent.PipelineFile{{Name: "cam", Memory: 600 << 20,
		Source: agent.SourceFile{Type: "folder", Path: path, Loop: true, FPS: fps}}}}
	wg.Go(func() {
		err := agent.Run(ctx, agent.Config{
			File: file, Device: "pi-1", Version: "test", FS: blob.OS{}, Log: log, Root: os.DirFS("/"),
			Engines: []hal.Engine{runner.New(runner.Config{Name: "tflite", Program: filepath.Join(programs, "covey-runner-tflite"),
				Stage: []string{filepath.Join(programs, "covey-agent"), "stage"}, Logger: log})},
			Source: func(_ context.Context, s agent.SourceFile) (hal.Source, error) {
				return folder.Open(folder.Config{Path: s.Path, Loop: s.Loop, FPS: s.FPS})
			},
			Fleet: &agent.FleetLink{Link: w.broker.Link("pi-1", false), Bulk: func() wire.Link { return w.broker.Link("pi-1~x", true) },
				Root: "covey", MachineID: "m1"},
			Home: w.broker.Link("covey-pi-1", false), Board: firmware.Board{Name: "lab", RAM: 4 << 30, CPUs: 2},
			CheckOutbox: []string{filepath.Join(programs, "covey-agent"), agent.CheckOutboxCommand},
		})
		if err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *lab) receive(m wire.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case strings.HasPrefix(m.Topic, w.dev.Exec("")):
		s, err := wire.Parse[wire.ExecStep](m.Payload, wire.MaxExec)
		if err != nil {
			w.t.Error(err)
			return nil
		}
		w.steps = append(w.steps, *s)
	case m.Topic == w.home.Result("cam"):
		if r, err := wire.Parse[wire.Result](m.Payload, wire.MaxResult); err == nil {
			w.results = append(w.results, heardResult{*r, time.Now()})
		}
	case m.Topic == w.dev.BlockGet():
		g, err := wire.Parse[wire.BlockGet](m.Payload, wire.MaxPacket)
		if err != nil {
			w.t.Error(err)
			return nil
		}
		data := w.blobs[g.SHA]
		for n, sent := g.From, 0; n < blob.Blocks(int64(len(data))) && sent < g.Max; n++ {
			if blob.Bitmap(g.Bits).Has(n - g.From) {
				block := data[n*wire.BlockSize : min(len(data), (n+1)*wire.BlockSize)]
				w.broker.Publish(wire.Message{Topic: w.dev.Block(g.SHA, n), Payload: append([]byte{wire.BlockRaw}, block...)})
				sent++
			}
		}
	}
	return nil
}

// try orders a release of a model file and its labels, and waits for the end.
func (w *lab) try(version string, model, labels []byte, edit func(*wire.DesiredRelease)) wire.ExecStep {
	w.t.Helper()
	dir := w.t.TempDir()
	write(w.t, filepath.Join(dir, modelName), model)
	write(w.t, filepath.Join(dir, "labels.txt"), labels)
	m, files, err := release.Build(dir, release.Defaults{Name: "birds", Version: version})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	for sha, from := range files {
		if w.blobs[sha], err = os.ReadFile(from); err != nil {
			w.t.Fatal(err)
		}
	}
	w.blobs[m.Digest()] = m.Canonical()
	w.mu.Unlock()
	order := wire.DesiredRelease{Release: m.Digest(), Length: int64(len(m.Canonical())), Name: "birds", Version: version,
		Execution: wire.NewID("ex"), Attempt: 1, Mode: wire.ModeActivate}
	if edit != nil {
		edit(&order)
	}
	w.rev++
	b, err := json.Marshal(wire.Desired{Signatures: []json.RawMessage{}, Signed: wire.DesiredSigned{
		V: wire.Version, Rev: w.rev, Device: "pi-1", Pipelines: map[string]wire.DesiredRelease{"cam": order}}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.broker.Publish(wire.Message{Topic: w.dev.Desired(), Payload: b, Retain: true, QoS: 1})
	var end wire.ExecStep
	until(w.t, 4*time.Minute, "end of "+version, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range w.steps {
			if s.Execution == order.Execution && s.State.Terminal() {
				end = s
				return nil
			}
		}
		return fmt.Errorf("no end in %d steps", len(w.steps))
	})
	return end
}

// heard are the results of a version, or with "" of all, between two moments.
func (w *lab) heard(version string, from, to time.Time) []heardResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []heardResult
	for _, r := range w.results {
		if (version == "" || r.Model.Ver == version) && r.at.After(from) && r.at.Before(to) {
			list = append(list, r)
		}
	}
	return list
}

// hear waits for so many results of a version from now on.
func (w *lab) hear(version string, n int) (list []heardResult) {
	w.t.Helper()
	from := time.Now()
	until(w.t, time.Minute, "results of "+version, func() error {
		if list = w.heard(version, from, time.Now()); len(list) < n {
			return fmt.Errorf("%d of %d", len(list), n)
		}
		return nil
	})
	return list
}

// step is when an execution came to a state.
func (w *lab) step(execution string, st wire.ExecState) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.steps {
		if s.Execution == execution && s.State == st {
			return s.TS
		}
	}
	w.t.Fatalf("%s was never %s", execution, st)
	return time.Time{}
}

// times are p50 and p99 of what results took from the capture of their frame on.
func times(list []heardResult) (p50, p99 time.Duration) {
	var d []time.Duration
	for _, r := range list {
		d = append(d, r.at.Sub(r.TS))
	}
	if len(d) == 0 {
		return 0, 0
	}
	slices.Sort(d)
	return d[len(d)/2], d[len(d)*99/100]
}

// Real models that are bad in four ways are taken back by what was measured of them,
// in seconds; what is wrong with labels alone a shadow run finds, which costs what
// runs next to nothing.
func TestTrials(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on a busy machine")
	}
	model, err := os.ReadFile(filepath.Join(models(t), mobilenet))
	if err != nil {
		t.Fatal(err)
	}
	labels, err := os.ReadFile(filepath.Join(models(t), mobilenetLabels))
	if err != nil {
		t.Fatal(err)
	}
	w := newLab(t, 10)
	if e := w.try("1.0.0", model, labels, nil); e.State != wire.Succeeded {
		t.Fatalf("%+v", e)
	}
	w.hear("1.0.0", 25)          // results to be held against
	wrong := slices.Clone(model) // and sure of it
	for i := 2_000_000; i < 2_400_000; i++ {
		wrong[i] ^= 0x5a
	}
	doomed := func(name string) []byte { return append(slices.Clip(model), "doom:"+name+" "...) }
	limits := func(o *wire.DesiredRelease) {
		o.Probation = &wire.ProbationLimits{Results: 100, Seconds: 30, Slower: 200, Score: 60}
	}
	for _, c := range []struct {
		version string
		model   []byte
		code    string
	}{
		{"2.0.0-crash", doomed("crash-run-late"), "E_CRASH"},
		{"2.0.0-slow", doomed("slow-run"), "E_SLOW"},
		{"2.0.0-unsure", doomed("unsure-run"), "E_SCORE"},
	} {
		e := w.try(c.version, c.model, labels, limits)
		if e.State != wire.RolledBack || e.Fault == nil || e.Fault.Code != c.code {
			t.Errorf("%s: %s %+v, want %s", c.version, e.State, e.Fault, c.code)
			continue
		}
		if e.Evidence == nil || e.Evidence.Before == nil || e.Evidence.Trial == nil || e.Evidence.Before.Memory == 0 {
			t.Errorf("%s: evidence %+v", c.version, e.Evidence)
			continue
		}
		begin := w.step(e.Execution, wire.Probation)
		last := w.heard(c.version, time.Time{}, time.Now())
		t.Logf("%s: back %v after the switch, %s; trial %+v, before %+v", c.version, e.TS.Sub(begin), e.Fault.Text, *e.Evidence.Trial, *e.Evidence.Before)
		if c.code == "E_CRASH" && len(last) > 0 {
			// The frame behind the last good one is the first that failed.
			failed := last[len(last)-1].TS.Add(100 * time.Millisecond)
			t.Logf("%s: back %v after the first frame that failed", c.version, e.TS.Sub(failed))
			if took := e.TS.Sub(failed); took > 2*time.Second {
				t.Errorf("back after %v", took)
			}
		}
		if took := e.TS.Sub(begin); took > 10*time.Second {
			t.Errorf("%s: back after %v", c.version, took)
		}
		w.hear("1.0.0", 25)
	}
	rotated := strings.Split(strings.TrimSpace(string(labels)), "\n")
	rotated = append(rotated[1:], rotated[0])
	shadow := func(frames int) func(*wire.DesiredRelease) {
		return func(o *wire.DesiredRelease) { o.Shadow = &wire.ShadowRun{Frames: frames, Agreement: 80, Seconds: 120} }
	}
	for _, c := range []struct {
		version       string
		model, labels []byte
	}{
		{"2.0.0-labels", append(slices.Clip(model), "labels"...), []byte(strings.Join(rotated, "\n"))},
		{"2.0.0-wrong", wrong, labels},
	} {
		e := w.try(c.version, c.model, c.labels, shadow(20))
		if e.State != wire.Rejected || e.Fault.Code != "E_AGREEMENT" || e.Evidence.Shadow.Frames != 20 || e.Evidence.Shadow.Agreed != 0 {
			t.Errorf("%s: %s %+v, %+v", c.version, e.State, e.Fault, e.Evidence)
		} else if n := len(w.heard(c.version, time.Time{}, time.Now())); n > 0 {
			t.Errorf("%s: %d results of a model in shadow", c.version, n)
		} else {
			t.Logf("%s: %s after %v; %+v", c.version, e.Fault.Text, e.TS.Sub(w.step(e.Execution, wire.Shadowing)), *e.Evidence.Shadow)
		}
	}
	calm := w.hear("1.0.0", 100)
	e := w.try("2.0.0", append(slices.Clip(model), "twin"...), labels, shadow(60))
	if e.State != wire.Succeeded || e.Evidence.Shadow.Agreed != e.Evidence.Shadow.Frames || e.Evidence.Shadow.Delta > 0.02 {
		t.Fatalf("the twin: %s %+v, %+v", e.State, e.Fault, e.Evidence.Shadow)
	}
	from, to := w.step(e.Execution, wire.Shadowing), w.step(e.Execution, wire.Switching)
	beside := w.heard("1.0.0", from, to)
	a50, a99 := times(calm)
	b50, b99 := times(beside)
	t.Logf("frame to result: alone p50 %v p99 %v (%d), with a shadow beside p50 %v p99 %v (%d in %v)", a50, a99, len(calm), b50, b99, len(beside), to.Sub(from))
}
