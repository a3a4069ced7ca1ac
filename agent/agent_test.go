package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// tflite is a fake engine under the name of the real one.
type tflite struct{ *haltest.FakeEngine }

func (tflite) Name() string { return "tflite" }

func newEngine() tflite {
	return tflite{&haltest.FakeEngine{
		Inputs:  []hal.TensorInfo{{Name: "picture", Type: hal.Uint8, Shape: []int{1, 8, 8, 3}}},
		Outputs: []hal.TensorInfo{{Name: "scores", Type: hal.Float32, Shape: []int{1, 4}}},
		Latency: 5 * time.Millisecond,
	}}
}

// picture is a model file that fits the fake engine; tail makes files differ.
func picture(tail string) []byte {
	b := haltest.TFLite(haltest.Op{Code: haltest.OpReshape}, 1,
		haltest.Tensor("picture", 3, 1, 8, 8, 3), haltest.Tensor("scores", haltest.Float32Type, 1, 4))
	return append(b, tail...)
}

// A world is a controller of the test's own around a real agent, on links in
// memory and the bubble's clock.
type world struct {
	t      *testing.T
	broker *mem.Broker
	ctl    *mem.Link
	blobs  map[wire.Digest][]byte
	fleet  wire.Device
	home   wire.Home
	root   fs.FS         // of the board; nil: none
	change func(*Config) // of the agent; nil: as board makes it

	mu      sync.Mutex
	steps   []wire.ExecStep
	results map[string][]wire.Result // by topic
	most    int                      // blocks that were asked for at once
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, broker: mem.NewBroker(), blobs: map[wire.Digest][]byte{}, results: map[string][]wire.Result{},
		fleet: wire.Device{Root: "covey", ID: "pi-1"}, home: wire.Home{Root: "covey", ID: "pi-1"}}
	w.ctl = w.broker.Link("controller", true)
	return w
}

func (w *world) run(ctx context.Context) {
	up := make(chan struct{}, 1)
	go w.ctl.Run(ctx, wire.Spec{
		Subscribe: []wire.Subscription{{Filter: w.fleet.UpAll(), QoS: 1}, {Filter: w.home.All(), QoS: 1}},
		Up:        func() { up <- struct{}{} },
		Receive:   w.receive,
	})
	<-up
}

func (w *world) receive(m wire.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case strings.HasPrefix(m.Topic, w.fleet.Exec("")):
		s, err := wire.Parse[wire.ExecStep](m.Payload, wire.MaxExec)
		if err != nil {
			w.t.Error(err)
			return nil
		}
		w.steps = append(w.steps, *s)
	case m.Topic == w.fleet.BlockGet():
		w.serve(m.Payload)
	case strings.HasSuffix(m.Topic, "/result"), strings.HasPrefix(m.Topic, w.fleet.Result("")):
		r, err := wire.Parse[wire.Result](m.Payload, wire.MaxResult)
		if err != nil {
			w.t.Errorf("%v: %s", err, m.Payload)
			return nil
		}
		w.results[m.Topic] = append(w.results[m.Topic], *r)
	}
	return nil
}

func (w *world) serve(ask []byte) {
	g, err := wire.Parse[wire.BlockGet](ask, wire.MaxPacket)
	if err != nil {
		w.t.Error(err)
		return
	}
	w.most = max(w.most, blob.Bitmap(g.Bits).Count())
	data := w.blobs[g.SHA]
	for n, sent := g.From, 0; n < blob.Blocks(int64(len(data))) && sent < g.Max; n++ {
		if !blob.Bitmap(g.Bits).Has(n - g.From) {
			continue
		}
		end := min(len(data), (n+1)*wire.BlockSize)
		payload := append([]byte{wire.BlockRaw}, data[n*wire.BlockSize:end]...)
		w.broker.Publish(wire.Message{Topic: w.fleet.Block(g.SHA, n), Payload: payload})
		sent++
	}
}

// release makes a release of one model file.
func (w *world) release(name, version string, model []byte, golden ...release.Golden) wire.DesiredRelease {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name+".tflite")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		w.t.Fatal(err)
	}
	m, files, err := release.Build(path, release.Defaults{Name: name, Version: version})
	if err != nil {
		w.t.Fatal(err)
	}
	for sha, from := range files {
		if w.blobs[sha], err = os.ReadFile(from); err != nil {
			w.t.Fatal(err)
		}
	}
	m.Golden = golden
	w.blobs[m.Digest()] = m.Canonical()
	return wire.DesiredRelease{Release: m.Digest(), Length: int64(len(m.Canonical())), Name: name, Version: version,
		Execution: wire.NewID("ex"), Attempt: 1, Mode: wire.ModeActivate}
}

// desire publishes what the fleet wants of pipeline fleet.
func (w *world) desire(rev uint64, r wire.DesiredRelease) {
	w.desireAll(rev, map[string]wire.DesiredRelease{"fleet": r})
}

func (w *world) desireAll(rev uint64, all map[string]wire.DesiredRelease) {
	b, err := json.Marshal(wire.Desired{Signatures: []json.RawMessage{}, Signed: wire.DesiredSigned{
		V: wire.Version, Rev: rev, Device: "pi-1", Pipelines: all,
		Config: wire.DesiredConfig{Results: []string{"*"}},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.broker.Publish(wire.Message{Topic: w.fleet.Desired(), Payload: b, Retain: true, QoS: 1})
}

// await lets the bubble's time pass until an execution ended.
func (w *world) await(execution string) wire.ExecStep {
	w.t.Helper()
	for range 600 {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		w.mu.Lock()
		for _, s := range w.steps {
			if s.Execution == execution && s.State.Terminal() {
				w.mu.Unlock()
				return s
			}
		}
		w.mu.Unlock()
	}
	w.t.Fatalf("execution %s has no end: %+v", execution, w.steps)
	return wire.ExecStep{}
}

func (w *world) reported() wire.Reported {
	w.t.Helper()
	m, ok := w.broker.Retained(w.fleet.Reported())
	if !ok {
		w.t.Fatal("nothing was reported")
	}
	r, err := wire.Parse[wire.Reported](m.Payload, wire.MaxReported)
	if err != nil {
		w.t.Fatal(err)
	}
	return *r
}

// board starts a real agent in this world and returns what ends it.
func (w *world) board(ctx context.Context, e hal.Engine, log zerolog.Logger) (stop func() error) {
	local := filepath.Join(w.t.TempDir(), "local.tflite")
	if err := os.WriteFile(local, picture("local"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		c := Config{
			File: &File{Data: w.t.TempDir(), Labels: map[string]string{"site": "lyon"}, Pipelines: []PipelineFile{
				{Name: "pinned", Source: SourceFile{Type: "fake", FPS: 10}, Model: local},
				{Name: "fleet", Source: SourceFile{Type: "fake", FPS: 20}},
			}},
			Device: "pi-1", Version: "test", FS: blob.OS{}, Engines: []hal.Engine{e},
			Source: func(_ context.Context, s SourceFile) (hal.Source, error) {
				return &haltest.FakeSource{Every: time.Duration(float64(time.Second) / s.FPS)}, nil
			},
			Fleet: &FleetLink{Link: w.broker.Link("pi-1", false), Bulk: func() wire.Link { return w.broker.Link("pi-1~x", true) },
				Root: "covey", MachineID: "m1"},
			Home:  w.broker.Link("covey-pi-1", false),
			Board: firmware.Board{Name: "test board", RAM: 1 << 30, CPUs: 2}, Root: w.root, Log: log,
		}
		if w.change != nil {
			w.change(&c)
		}
		ended <- Run(ctx, c)
	}()
	return func() error {
		cancel()
		return <-ended
	}
}

// A board that runs a pinned model takes in a release of its fleet, refuses a bad
// one and is none the worse for it, and counts every frame. All in virtual time.
func TestAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t)
		w.run(ctx)
		engine := newEngine()
		engine.OnOpen = func(_ hal.Model, _ hal.Options, file []byte) error {
			if strings.HasSuffix(string(file), "bad") {
				return &hal.Error{Code: hal.CodeOp, Text: "operator is not known"}
			}
			return nil
		}
		var log logLines
		stop := w.board(ctx, engine, zerolog.New(&log))

		good := w.release("birds", "1.0.0", picture(strings.Repeat("v1", 100_000)))
		w.desire(1, good)
		if s := w.await(good.Execution); s.State != wire.Succeeded {
			t.Fatalf("good release: %+v", s)
		}
		bad := w.release("birds", "2.0.0", picture("bad"))
		w.desire(2, bad)
		if s := w.await(bad.Execution); s.State != wire.Rejected || s.Fault == nil || s.Fault.Code != string(hal.CodeOp) {
			t.Fatalf("bad release: %+v", s)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		r := w.reported()
		if p := r.Pipelines["fleet"]; p.Active == nil || p.Active.Release != good.Release || len(r.Quarantine) != 1 || r.Rev != 2 {
			t.Errorf("reported: %+v", r)
		}
		if p := r.Pipelines["pinned"]; !p.Pinned || p.Active == nil || p.Active.Name != "local" || p.Accelerator != "cpu" {
			t.Errorf("reported of the pinned pipeline: %+v", p)
		}
		m, _ := w.broker.Retained(w.fleet.Hello())
		if h, err := wire.Parse[wire.Hello](m.Payload, wire.MaxHello); err != nil || h.Labels["site"] != "lyon" {
			t.Errorf("hello: %s, %v", m.Payload, err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		wantStream(t, "home", w.results[w.home.Result("pinned")], w.results[w.home.Result("fleet")])
		wantStream(t, "fleet", w.results[w.fleet.Result("pinned")], w.results[w.fleet.Result("fleet")])
		log.balance(t)
		if m, _ := w.broker.Retained(w.home.Available()); string(m.Payload) != "offline" {
			t.Errorf("available says %q after a clean stop", m.Payload)
		}
		for _, s := range engine.Sessions() {
			if !s.Closed() {
				t.Error("a session is open after the end")
			}
		}
		cancel()
	})
}

// A release that asks for consent waits, and the house sees that; it says install, and
// the release runs.
func TestInstallFromHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t)
		w.run(ctx)
		stop := w.board(ctx, newEngine(), zerolog.Nop())
		first := w.release("birds", "1.0.0", picture("v1"))
		w.desire(1, first)
		w.await(first.Execution)
		next := w.release("birds", "1.1.0", picture("v2"))
		next.Consent = true
		w.desire(2, next)
		time.Sleep(30 * time.Second)
		model := func(pipeline string) wire.HomeModel {
			m, _ := w.broker.Retained(w.home.Model(pipeline))
			got, err := wire.Parse[wire.HomeModel](m.Payload, wire.MaxHomeModel)
			if err != nil {
				t.Fatalf("%s: %v", m.Payload, err)
			}
			return *got
		}
		want := "1.1.0 (" + string(next.Release[:8]) + ")"
		if m := model("fleet"); m.Installed != "1.0.0" || m.Latest != want || m.InProgress {
			t.Errorf("the house sees %+v", m)
		}
		if m := model("pinned"); m.Title != "local" || m.Installed != m.Latest || m.Installed == "none" {
			t.Errorf("the house sees of the pinned one %+v", m)
		}
		w.broker.Publish(wire.Message{Topic: w.home.Set("fleet", wire.SettingInstall), Payload: []byte("install"), QoS: 1})
		if s := w.await(next.Execution); s.State != wire.Succeeded {
			t.Fatalf("got %+v", s)
		}
		time.Sleep(2 * time.Second)
		if m := model("fleet"); m.Installed != "1.1.0" || m.Latest != "1.1.0" || m.InProgress {
			t.Errorf("the house sees %+v", m)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		cancel()
	})
}

// A download at a rate keeps to it over the real link, and never asks for more than a
// second's worth.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t)
		w.run(ctx)
		stop := w.board(ctx, newEngine(), zerolog.Nop())
		r := w.release("birds", "1.0.0", picture(strings.Repeat("v1", 20*wire.BlockSize)))
		r.Rate = 4 * wire.BlockSize
		w.desire(1, r)
		if s := w.await(r.Execution); s.State != wire.Succeeded {
			t.Fatalf("got %+v", s)
		}
		at := map[wire.ExecState]time.Time{}
		for _, s := range w.steps {
			if s.Done == 0 {
				at[s.State] = s.TS
			}
		}
		// 41 blocks, the first four at once, four a second then.
		if took := at[wire.Verifying].Sub(at[wire.Downloading]); took < 8*time.Second || took > 11*time.Second {
			t.Errorf("took %s", took)
		}
		if w.most > 4 || w.most == 0 {
			t.Errorf("asked for %d blocks at once", w.most)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		cancel()
	})
}

// wantStream wants every seq of a link from 1 on, over both pipelines. What waited
// for the link comes behind what is new.
func wantStream(t *testing.T, link string, pipelines ...[]wire.Result) {
	t.Helper()
	seen := map[uint64]bool{}
	for i, list := range pipelines {
		if len(list) < 20 {
			t.Errorf("%s link: %d results of pipeline %d", link, len(list), i)
		}
		for _, r := range list {
			seen[r.Seq] = true
		}
	}
	for seq := range uint64(len(seen)) {
		if !seen[seq+1] {
			t.Errorf("%s link: seq %d of %d is missing", link, seq+1, len(seen))
		}
	}
}

// logLines are what an agent logged.
type logLines struct {
	mu   sync.Mutex
	list []string
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, string(b))
	return len(b), nil
}

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// balance wants captured = published + dropped in the last words of each pipeline.
func (l *logLines) balance(t *testing.T) {
	t.Helper()
	seen := 0
	for _, line := range l.list {
		var v map[string]any
		if json.Unmarshal([]byte(line), &v) != nil || v["message"] != "pipeline ends" {
			continue
		}
		seen++
		sum := 0.0
		for _, k := range []string{"published", "stale", "still", "busy", "outbox", "error"} {
			n, _ := v[k].(float64)
			sum += n
		}
		if v["captured"] != sum || sum == 0 {
			t.Errorf("captured %v, published and dropped %v: %s", v["captured"], sum, line)
		}
	}
	if seen != 2 {
		t.Errorf("%d pipelines said what became of their frames, want 2\n%s", seen, fmt.Sprint(l.list))
	}
}

// Why a local model does not open is reported, though its source gives frames.
func TestModelFaultIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t)
		w.run(ctx)
		engine := newEngine()
		engine.OnOpen = func(hal.Model, hal.Options, []byte) error {
			return &hal.Error{Code: hal.CodeOp, Text: "operator\x7f is not known"}
		}
		stop := w.board(ctx, engine, zerolog.Nop())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if p := w.reported().Pipelines["pinned"]; p.Fault == nil || p.Fault.Code != string(hal.CodeOp) {
			t.Errorf("reported %+v", p)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// No release can be put to work where no frame will come; the operator is told so.
func TestSwitchAfterTheEnd(t *testing.T) {
	p := pipeline.New(pipeline.Config{Source: &haltest.FakeSource{}, Publish: func(*wire.Result) error { return nil }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	err := stations{"once": &station{pipe: p}}.Switch(t.Context(), "once", nil)
	if hal.CodeOf(err) != hal.CodePipeline {
		t.Errorf("got %v", err)
	}
}

// A source that breaks is opened again, and why there are no frames is told until
// there are.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		var trouble atomic.Pointer[wire.Fault]
		s := keep(func(context.Context, SourceFile) (hal.Source, error) {
			opened++
			if opened == 2 {
				return nil, fmt.Errorf("not mounted")
			}
			return &breaking{after: 3}, nil
		}, SourceFile{}, &trouble, nil, zerolog.Nop())
		var f hal.Frame
		for want := uint64(1); want <= 7; want++ {
			if err := s.Next(t.Context(), &f); err != nil || f.Seq != want {
				t.Fatalf("frame %d: seq %d, %v", want, f.Seq, err)
			}
			if trouble.Load() != nil {
				t.Errorf("frame %d came, and there is still trouble", want)
			}
		}
		if opened != 4 {
			t.Errorf("opened %d times, want 4", opened)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		for err := error(nil); err == nil; {
			err = s.Next(ctx, &f)
		}
		if fault := trouble.Load(); fault == nil || fault.Text != "unplugged" || fault.Code != string(hal.CodeUnknown) {
			t.Errorf("no frames, and the trouble is %v", fault)
		}
	})
}

// breaking breaks after some frames.
type breaking struct{ after int }

func (b *breaking) Next(_ context.Context, f *hal.Frame) error {
	if b.after == 0 {
		return fmt.Errorf("unplugged")
	}
	b.after--
	return nil
}
func (*breaking) Live() bool   { return false }
func (*breaking) Close() error { return nil }
