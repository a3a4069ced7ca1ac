package agent

import (
	"context"
	"encoding/binary"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/task"
)

// classes is a model file that classifies; tail says how it behaves in a zoo.
func classes(tail string) []byte {
	const softmax = 25
	b := haltest.TFLite(haltest.Op{Code: softmax}, 1,
		haltest.Tensor("picture", 3, 1, 8, 8, 3), haltest.Tensor("scores", haltest.Float32Type, 1, 4))
	return append(b, tail...)
}

// A zoo is the fake engine with models that behave by the end of their file.
type zoo struct {
	tflite
	awake atomic.Bool // the models that crash do
	beat  atomic.Int64
}

func (z *zoo) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	file, err := os.ReadFile(m.Path)
	if err != nil {
		return nil, err
	}
	s, err := z.tflite.Open(ctx, m, o)
	if err != nil {
		return nil, err
	}
	_, kind, _ := strings.Cut(string(file[len(file)-min(len(file), 40):]), "kind:")
	return &beast{s, z, kind}, nil
}

type beast struct {
	hal.Session
	zoo  *zoo
	kind string
}

// Run is sure of class 1, unless its kind is another.
func (b *beast) Run(buf int) (hal.Timing, error) {
	t, err := b.Session.Run(buf)
	if err != nil {
		return t, err
	}
	scores := [4]float32{0.05, 0.9, 0.04, 0.01}
	switch b.kind {
	case "crash", "hang":
		if b.zoo.awake.Load() {
			b.zoo.beat.CompareAndSwap(0, time.Now().UnixNano())
			if b.kind == "hang" {
				return t, haltest.Hang()
			}
			return t, haltest.Crash()
		}
	case "slow":
		time.Sleep(t.Engine)
		t.Engine *= 2
	case "unsure":
		scores = [4]float32{0.25, 0.3, 0.25, 0.2}
	case "wrong":
		scores = [4]float32{0.9, 0.05, 0.04, 0.01}
	}
	out := b.Session.Output(buf, 0).Data
	for i, s := range scores {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(s))
	}
	return t, nil
}

// Memory is large for a model that is called so.
func (b *beast) Memory() int64 {
	if b.kind == "fat" {
		return 300 << 20
	}
	return 50 << 20
}

// A stove is a board's file system with one sensor.
type stove struct{ milli atomic.Int64 }

func (s *stove) Open(name string) (fs.File, error) {
	text := strconv.AppendInt(nil, s.milli.Load(), 10)
	return fstest.MapFS{"sys/class/thermal/thermal_zone0/temp": {Data: text}, "proc/stat": {Data: []byte("cpu 1 1 1 1\n")}}.Open(name)
}

// awaitState waits for a state of an execution, and returns its step.
func (w *world) awaitState(execution string, st wire.ExecState) wire.ExecStep {
	w.t.Helper()
	for range 6000 {
		w.mu.Lock()
		for _, s := range w.steps {
			if s.Execution == execution && s.State == st {
				w.mu.Unlock()
				return s
			}
		}
		w.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
	}
	w.t.Fatalf("execution %s does not come to %s: %+v", execution, st, w.steps)
	return wire.ExecStep{}
}

// Every way to be bad at work takes a release back, for its own reason and with the
// figures: what is deadly within a second of the first frame, what takes a sample
// within a second of having it.
func TestProbation(t *testing.T) {
	limits := wire.ProbationLimits{Results: 200, Seconds: 60, Slower: 150, Score: 50, Memory: 200 << 20, TempMax: 80}
	for _, c := range []struct {
		kind string
		code hal.Code // "": none
		most time.Duration
	}{
		{"crash", hal.CodeCrash, time.Second}, {"hang", hal.CodeTimeout, time.Second},
		{"slow", hal.CodeSlow, 3 * time.Second}, {"unsure", hal.CodeScore, 3 * time.Second},
		{"fat", hal.CodeMemory, 1100 * time.Millisecond}, {"hot", hal.CodeHot, 2 * time.Second}, {"good", "", 0},
	} {
		t.Run(c.kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := newWorld(t)
				var oven stove
				oven.milli.Store(55_000)
				w.root = &oven
				w.run(ctx)
				z := &zoo{tflite: newEngine()}
				stop := w.board(ctx, z, zerolog.Nop())
				good := w.release("birds", "1.0.0", classes("kind:good"))
				w.desire(1, good)
				if s := w.await(good.Execution); s.State != wire.Succeeded {
					t.Fatalf("good release: %+v", s)
				}
				time.Sleep(5 * time.Second) // frames to be held against
				next := w.release("birds", "2.0.0", classes("2 kind:"+c.kind))
				next.Probation = &limits
				w.desire(2, next)
				begin := w.awaitState(next.Execution, wire.Probation).TS
				switch c.kind {
				case "crash", "hang":
					time.Sleep(2 * time.Second)
					z.awake.Store(true)
				case "hot":
					oven.milli.Store(85_000)
				}
				s := w.await(next.Execution)
				if c.code == "" {
					if s.State != wire.Succeeded || s.Fault != nil {
						t.Errorf("got %+v", s)
					}
				} else if s.State != wire.RolledBack || s.Fault == nil || s.Fault.Code != string(c.code) {
					t.Errorf("got %s %+v, want %s", s.State, s.Fault, c.code)
				}
				if at := z.beat.Load(); at != 0 {
					begin = time.Unix(0, at)
				}
				if took := s.TS.Sub(begin); c.most > 0 && took > c.most {
					t.Errorf("%s: back after %s", c.kind, took)
				} else {
					t.Logf("%s: back after %s: %+v", c.kind, took, s.Fault)
				}
				e := s.Evidence
				if e == nil || e.Before == nil || e.Before.P50 != 5 || math.Abs(e.Before.Score-0.9) > 1e-6 || e.Before.Memory != 50<<20 ||
					e.Trial == nil || e.Temp == nil || *e.Temp < 55 || e.Accel != "cpu" {
					t.Errorf("evidence %+v", e)
				}
				time.Sleep(3 * time.Second)
				synctest.Wait()
				p := w.reported().Pipelines["fleet"]
				if want := map[bool]wire.Digest{true: next.Release, false: good.Release}[c.code == ""]; p.Active == nil || p.Active.Release != want || p.Evidence == nil {
					t.Errorf("reported %+v", p)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A candidate in shadow answers the pipeline's frames for nobody; how far it agrees
// decides, and what runs gives its results all the time.
func TestShadow(t *testing.T) {
	for _, c := range []struct {
		kind  string
		edit  func(*zoo)
		state wire.ExecState
		code  hal.Code
		want  wire.Agreement
	}{
		{"good", nil, wire.Succeeded, "", wire.Agreement{Metric: "top1", Frames: 50, Agreed: 50, Mean: 1}},
		{"unsure", nil, wire.Succeeded, "", wire.Agreement{Metric: "top1", Frames: 50, Agreed: 50, Mean: 1, Delta: 0.6}},
		{"wrong", nil, wire.Rejected, hal.CodeAgreement, wire.Agreement{Metric: "top1", Frames: 50}},
		{"crash", nil, wire.Rejected, hal.CodeCrash, wire.Agreement{}},
		{"picture", nil, wire.Rejected, hal.CodeAgreement, wire.Agreement{Metric: "none"}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := newWorld(t)
				w.run(ctx)
				z := &zoo{tflite: newEngine()}
				stop := w.board(ctx, z, zerolog.Nop())
				good := w.release("birds", "1.0.0", classes("kind:good"))
				w.desire(1, good)
				if s := w.await(good.Execution); s.State != wire.Succeeded {
					t.Fatalf("good release: %+v", s)
				}
				file := classes("2 kind:" + c.kind)
				if c.kind == "picture" {
					file = aPicture("another task")
				}
				next := w.release("birds", "2.0.0", file)
				next.Shadow = &wire.ShadowRun{Frames: 50, Agreement: 90}
				w.desire(2, next)
				w.awaitState(next.Execution, wire.Shadowing)
				time.Sleep(500 * time.Millisecond)
				z.awake.Store(true)
				s := w.await(next.Execution)
				if s.State != c.state || (s.Fault == nil) != (c.code == "") || s.Fault != nil && s.Fault.Code != string(c.code) {
					t.Errorf("got %s %+v, want %s %s", s.State, s.Fault, c.state, c.code)
				}
				if c.want.Metric == "" {
					if s.Evidence != nil {
						t.Errorf("evidence %+v", s.Evidence)
					}
				} else if s.Evidence == nil || s.Evidence.Shadow == nil || *s.Evidence.Shadow != c.want {
					t.Errorf("evidence %+v, want %+v", s.Evidence, c.want)
				}
				quiet := len(w.reported().Quarantine) == 0
				if quiet != (c.code != hal.CodeCrash) {
					t.Errorf("quarantine %+v", w.reported().Quarantine)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				switched := time.Time{}
				for _, st := range w.steps {
					if st.Execution == next.Execution && st.State == wire.Switching {
						switched = st.TS
					}
				}
				for _, r := range w.results[w.home.Result("fleet")] {
					if r.Model.Ver == "2.0.0" && (switched.IsZero() || r.TS.Before(switched.Add(-time.Second))) {
						t.Fatalf("a result of the candidate: %+v", r)
					}
				}
				wantStream(t, "home", w.results[w.home.Result("pinned")], w.results[w.home.Result("fleet")])
			})
		})
	}
}

// A decoder that panics is a run that failed, and telling of one costs nothing.
func TestNoted(t *testing.T) {
	var got []update.Run
	n := &noted{decoder: decoder(func(r *task.Result) error {
		r.Items = append(r.Items[:0], task.Item{Score: 0.5})
		return nil
	}), release: "r", note: func(_ wire.Digest, r update.Run) { got = append(got[:0], r) }}
	var r task.Result
	if err := n.Decode(nil, 0, &r); err != nil || got[0] != (update.Run{Score: 0.5, Scored: true}) {
		t.Errorf("%v, %+v", err, got)
	}
	if a := testing.AllocsPerRun(100, func() { _ = n.Decode(nil, 0, &r) }); a != 0 {
		t.Errorf("%v allocations a run", a)
	}
	n.decoder = decoder(func(*task.Result) error { panic("index out of range") })
	func() {
		defer func() { _ = recover() }()
		_ = n.Decode(nil, 0, &r)
	}()
	if hal.CodeOf(got[0].Err) != hal.CodeInvoke {
		t.Errorf("told %+v", got)
	}
}

type decoder func(*task.Result) error

func (d decoder) Decode(_ task.Outputs, _ int, r *task.Result) error { return d(r) }

func TestComparable(t *testing.T) {
	with := func(labels ...string) *loaded { return &loaded{labels: labels} }
	for name, c := range map[string]struct {
		a, b *loaded
		ok   bool
	}{
		"nothing runs":       {nil, with("cat"), false},
		"the same":           {with("cat", "dog"), with("dog", "cat"), true},
		"none":               {with(), with(), true},
		"one has background": {with("background", "cat"), with("cat"), true},
		"another":            {with("cat"), with("bird"), false},
		"one more":           {with("cat"), with("cat", "bird"), false},
		"one has none":       {with("cat"), with(), false},
	} {
		if err := comparable(c.a, c.b); (err == nil) != c.ok || err != nil && hal.CodeOf(err) != hal.CodeAgreement {
			t.Errorf("%s: %v", name, err)
		}
	}
}
