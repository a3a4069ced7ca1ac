package ladder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

func open(t *testing.T, e *Engine, m hal.Model, o hal.Options) hal.Session {
	t.Helper()
	s, err := e.Open(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// The fastest that agrees wins, and every other one says why it did not.
func TestFastestThatAgreesWins(t *testing.T) {
	ms := time.Millisecond
	plus := func(n byte) func(in, out [][]byte) {
		return func(in, out [][]byte) {
			for i, v := range in[0] {
				out[0][i] = v + n
			}
		}
	}
	for name, c := range map[string]struct {
		edge   *way
		want   hal.Accelerator
		reason string // of the edgetpu
	}{
		"fast":          {&way{latency: fixed(2 * ms)}, hal.EdgeTPU, ""},
		"slow":          {&way{latency: fixed(30 * ms)}, hal.XNNPACK, "3.75 times as long as xnnpack, 2 threads"},
		"refuses":       {&way{open: &hal.Error{Code: hal.CodeAccel, Text: "takes none of 3 operators"}}, hal.XNNPACK, "E_ACCEL: takes none of 3 operators"},
		"crashes":       {&way{latency: fixed(ms), run: func(n int) error { return haltest.Crash() }}, hal.XNNPACK, "E_CRASH"},
		"crashes later": {&way{latency: fixed(ms), run: func(n int) error { return when(n == 7, haltest.Crash()) }}, hal.XNNPACK, "E_CRASH"},
		"hangs":         {&way{latency: fixed(ms), run: func(n int) error { return when(n == 2, haltest.Hang()) }}, hal.XNNPACK, "E_TIMEOUT"},
		"fails":         {&way{latency: fixed(ms), run: func(n int) error { return &hal.Error{Code: hal.CodeInvoke, Text: "no"} }}, hal.XNNPACK, "E_INVOKE: no"},
		"rounds":        {&way{latency: fixed(ms), compute: plus(9)}, hal.EdgeTPU, ""},
		"is wrong":      {&way{latency: fixed(ms), compute: plus(90)}, hal.XNNPACK, "E_DISAGREE: on zeros: output 0 (out): element 0 is 90, the CPU gives 0"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoard().plug(hal.EdgeTPU, c.edge)
				m := modelFile(t, "model")
				s := open(t, engine(b, nil), m, hal.Options{})
				threads := 1
				if c.want == hal.XNNPACK {
					threads = 2
				}
				wantChoice(t, s, c.want, threads)
				if got := tried(s, hal.EdgeTPU); !strings.Contains(got, c.reason) || (c.reason == "") != (got == "") {
					t.Errorf("edgetpu lost by %q, want %q", got, c.reason)
				}
				if got := tried(s, hal.CPU); !strings.Contains(got, "times as long") {
					t.Errorf("the plain cpu lost by %q", got)
				}
				if b.most > 2 {
					t.Errorf("%d sessions were open at one time", b.most)
				}
				if n := b.sessions(); n != 1 {
					t.Errorf("%d sessions are open behind the measuring", n)
				}
			})
		})
	}
}

func when(yes bool, err error) error {
	if yes {
		return err
	}
	return nil
}

// Auto is at most 3 % behind an exhaustive search, whatever the times are; of two
// that are as fast the one with fewer threads is taken.
func TestNeverFarFromTheBest(t *testing.T) {
	for seed := range 60 {
		synctest.Test(t, func(t *testing.T) {
			times := map[string]time.Duration{}
			b := newBoard()
			for a, w := range b.way {
				w.latency = func(threads int) time.Duration {
					d := time.Duration(5000+(seed*7919+threads*104729+len(a)*15485863)%4000) * time.Microsecond
					if seed%3 == 0 { // near each other
						d = 10*time.Millisecond + d/50
					}
					times[fmt.Sprint(a, threads)] = d
					return d
				}
			}
			e := New(Config{Inner: b, Order: TFLite, Memory: Remember(nil, zerolog.Nop()), Cores: 4})
			s := open(t, e, modelFile(t, "model"), hal.Options{})
			best := time.Hour
			for _, d := range times {
				best = min(best, d)
			}
			i := s.Info()
			got := times[fmt.Sprint(i.Accelerator, i.Threads)]
			if float64(got) > 1.03*float64(best) {
				t.Errorf("seed %d: %s with %d threads takes %v, the best %v", seed, i.Accelerator, i.Threads, got, best)
			}
			if seed%3 == 0 {
				for n, d := range times {
					if float64(d) <= float64(best)*1.005 && n[len(n)-1] < byte('0'+i.Threads) {
						t.Errorf("seed %d: %d threads, though %s is as fast (%v, %v)", seed, i.Threads, n, d, got)
					}
				}
			}
		})
	}
}

// What was chosen is remembered until something about it changes.
func TestRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &shelf{}
		m := modelFile(t, "model")
		begin := newBoard()
		open(t, engine(begin, store), m, hal.Options{}).Close()
		if n := begin.count(); n < 3 {
			t.Fatalf("only %d were opened: nothing was measured", n)
		}
		for name, c := range map[string]struct {
			change   func(*board, *Config, *hal.Options)
			model    string
			measured bool
		}{
			"nothing": {func(*board, *Config, *hal.Options) {}, "model", false},
			"model":   {func(*board, *Config, *hal.Options) {}, "another", true},
			"runtime": {func(b *board, _ *Config, _ *hal.Options) { b.devices[0].Runtime = "tflite 3" }, "model", true},
			"driver":  {func(b *board, _ *Config, _ *hal.Options) { b.devices[1].Driver = "2" }, "model", true},
			"device":  {func(b *board, _ *Config, _ *hal.Options) { b.plug(hal.GPU, &way{latency: fixed(time.Second)}) }, "model", true},
			"board":   {func(_ *board, c *Config, _ *hal.Options) { c.Board = "Pi 5" }, "model", true},
			"cpu":     {func(_ *board, c *Config, _ *hal.Options) { c.CPU = "A76" }, "model", true},
			"order":   {func(_ *board, _ *Config, o *hal.Options) { o.Order = []hal.Accelerator{hal.CPU} }, "model", true},
			"threads": {func(_ *board, _ *Config, o *hal.Options) { o.Threads = 1 }, "model", true},
			"settings": {func(_ *board, c *Config, _ *hal.Options) {
				c.Settings = map[hal.Accelerator][]map[string]string{hal.XNNPACK: {{"flags": "qs8"}}}
			}, "model", true},
			"does not open": {func(b *board, _ *Config, _ *hal.Options) {
				b.way[hal.XNNPACK].open = &hal.Error{Code: hal.CodeAccel, Text: "gone"}
			}, "model", true},
		} {
			b := newBoard()
			saved, _ := store.Load()
			config := Config{Inner: b, Order: TFLite, Memory: Remember(&shelf{b: saved}, zerolog.Nop()), Board: "Pi", CPU: "A72", Cores: 2}
			var o hal.Options
			c.change(b, &config, &o)
			m := m
			if c.model != "model" {
				m = modelFile(t, c.model)
			}
			s := open(t, New(config), m, o)
			if measured := b.count() > 1; measured != c.measured {
				t.Errorf("%s: opened %v, measured %v, want %v", name, b.opened, measured, c.measured)
			}
			if !c.measured && tried(s, hal.CPU) == "" {
				t.Errorf("%s: why the cpu lost is forgotten", name)
			}
			if r := s.Info().Degraded; r != "" {
				t.Errorf("%s: degraded: %s", name, r)
			}
			s.Close()
		}
	})
}

// A board gives results at once, and gets better beside them.
func TestStartThenBetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(2 * time.Millisecond)}), &shelf{}
		e, m := engine(b, store), modelFile(t, "model")
		s, err := e.Start(t.Context(), m, hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wantChoice(t, s, hal.XNNPACK, 1)
		if b.count() != 1 || b.probes != 0 {
			t.Errorf("opened %v and probed %d times before the first result", b.opened, b.probes)
		}
		better, err := e.Better(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		defer better.Close()
		wantChoice(t, better, hal.EdgeTPU, 1)
		if b.most > 3 {
			t.Errorf("%d sessions at one time: the one that works and two", b.most)
		}
		// It stays the best: Better looks for new devices, and for nothing else.
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		before := b.count()
		if s, err := e.Better(ctx, better); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("better than the best: %v, %v", s, err)
		}
		if b.count() != before {
			t.Errorf("opened %v while all was well", b.opened[before:])
		}
		// The next start is one open.
		next := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(2 * time.Millisecond)})
		again, err := engine(next, store).Start(t.Context(), m, hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		wantChoice(t, again, hal.EdgeTPU, 1)
		if next.count() != 1 {
			t.Errorf("a start with what is remembered opened %v", next.opened)
		}
	})
}

// What is good enough is not exchanged, and a device that comes later is found.
func TestBetterFindsWhatIsPluggedIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.way[hal.XNNPACK].latency = fixed(8 * time.Millisecond) // one thread is enough
		e := engine(b, nil)
		s, err := e.Start(t.Context(), modelFile(t, "model"), hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		begin := time.Now()
		time.AfterFunc(90*time.Minute, func() { b.plug(hal.EdgeTPU, &way{latency: fixed(time.Millisecond)}) })
		better, err := e.Better(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		defer better.Close()
		wantChoice(t, better, hal.EdgeTPU, 1)
		if took := time.Since(begin); took < 90*time.Minute || took > 3*time.Hour {
			t.Errorf("found after %v", took)
		}
	})
}

// Failures bench an accelerator: the next session is one rung lower and says why.
// The better one comes back, and goes for longer each time it fails.
func TestFallbackAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := false
		edge := &way{latency: fixed(2 * time.Millisecond), run: func(int) error { return when(broken, haltest.Hang()) }}
		b := newBoard().plug(hal.EdgeTPU, edge)
		e, m := engine(b, &shelf{}), modelFile(t, "model")
		s := open(t, e, m, hal.Options{})
		wantChoice(t, s, hal.EdgeTPU, 1)
		if d := s.Info().Deadline; d != 2*time.Second {
			t.Errorf("deadline %v: a hang must not cost more than two seconds", d)
		}
		broken = true
		hangs := 0
		for s.Info().Accelerator == hal.EdgeTPU {
			if _, err := s.Run(0); !lostSession(err) {
				t.Fatal(err)
			}
			hangs++
			s.Close()
			var err error
			if s, err = e.Start(t.Context(), m, hal.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		if hangs != 2 {
			t.Errorf("fell back after %d hangs, want 2", hangs)
		}
		wantChoice(t, s, hal.XNNPACK, 2)
		if d := s.Info().Degraded; !strings.Contains(d, "edgetpu: 2 sessions were lost, the last by E_TIMEOUT") || !strings.Contains(d, "tried again at") {
			t.Errorf("degraded: %q", d)
		}
		// It is tried after 1, 2, 4 … 60 minutes, and the session is untouched.
		var pauses []time.Duration
		last := time.Now()
		edge.run = func(int) error {
			pauses = append(pauses, time.Since(last).Round(time.Minute))
			last = time.Now()
			return when(len(pauses) < 9, haltest.Hang())
		}
		better, err := e.Better(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		wantChoice(t, better, hal.EdgeTPU, 1)
		if got := fmt.Sprint(pauses[:9]); got != "[1m0s 2m0s 4m0s 8m0s 16m0s 32m0s 1h0m0s 1h0m0s 1h0m0s]" {
			t.Errorf("tried again after %s", got)
		}
		if _, err := s.Run(0); err != nil || better.Info().Degraded != "" {
			t.Errorf("the session below: %v; the better one is degraded: %q", err, better.Info().Degraded)
		}
		s.Close()
		// It breaks at once: the pause does not begin anew.
		edge.run = func(int) error { return haltest.Crash() }
		for range 3 {
			better.Run(0)
			better.Close()
			if better, err = e.Start(t.Context(), m, hal.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		wantChoice(t, better, hal.XNNPACK, 2)
		if r := e.model(must(e.named(t.Context(), m)), hal.Options{}).rungs[hal.EdgeTPU]; r.pause != lastPause {
			t.Errorf("pause %v after it broke at once", r.pause)
		}
		better.Close()
		if n := b.sessions(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

func must(m hal.Model, err error) hal.Model {
	if err != nil {
		panic(err)
	}
	return m
}

// Runs that fail while the session lives bench it too; the session then says that
// it is lost. One that fails now and then does not.
func TestFailingRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := func(n int) bool { return false }
		edge := &way{latency: fixed(time.Millisecond), run: func(n int) error {
			return when(bad(n), &hal.Error{Code: hal.CodeInvoke, Text: "no"})
		}}
		e, m := engine(newBoard().plug(hal.EdgeTPU, edge), nil), modelFile(t, "model")
		s := open(t, e, m, hal.Options{})
		bad = func(n int) bool { return n%3 != 0 }
		for range 30 {
			if _, err := s.Run(0); lostSession(err) {
				t.Fatal("lost, though every third run was good")
			}
		}
		bad = func(int) bool { return true }
		for n := 1; ; n++ {
			if _, err := s.Run(0); lostSession(err) {
				if hal.CodeOf(err) != hal.CodeInvoke {
					t.Errorf("code of %v", err)
				}
				break
			}
			if n == 4 {
				t.Fatal("four failures, and the session goes on")
			}
		}
		s.Close()
		next, err := e.Start(t.Context(), m, hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		wantChoice(t, next, hal.XNNPACK, 2)
		if d := next.Info().Degraded; !strings.Contains(d, "E_INVOKE: no") {
			t.Errorf("degraded: %q", d)
		}
	})
}

// The last rung is never given up: there is nothing below it.
func TestLastRungStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		e, m := engine(b, nil), modelFile(t, "model")
		for _, w := range b.way {
			w.run = func(int) error { return haltest.Crash() }
		}
		for range 20 {
			s, err := e.Start(t.Context(), m, hal.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Run(0); hal.CodeOf(err) != hal.CodeCrash {
				t.Fatal(err)
			}
			s.Close()
		}
		s, err := e.Start(t.Context(), m, hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wantChoice(t, s, hal.CPU, 1)
		if s.Info().Degraded == "" {
			t.Error("not degraded, though xnnpack is benched")
		}
	})
}

// A remembered accelerator that is not there at the start is no reason to wait.
func TestStartWithoutTheStick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, m := &shelf{}, modelFile(t, "model")
		stick := &way{latency: fixed(time.Millisecond)}
		open(t, engine(newBoard().plug(hal.EdgeTPU, stick), store), m, hal.Options{}).Close()
		b := newBoard()
		e := engine(b, store)
		s, err := e.Start(t.Context(), m, hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wantChoice(t, s, hal.XNNPACK, 2)
		if d := s.Info().Degraded; !strings.Contains(d, "edgetpu: it does not open: E_ACCEL") {
			t.Errorf("degraded: %q", d)
		}
		time.AfterFunc(30*time.Second, func() { b.plug(hal.EdgeTPU, stick) })
		begin := time.Now()
		better, err := e.Better(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		defer better.Close()
		wantChoice(t, better, hal.EdgeTPU, 1)
		if d := time.Since(begin); d > 2*time.Minute {
			t.Errorf("back after %v", d)
		}
	})
}

// Whom the configuration names is opened, and nothing else.
func TestExplicit(t *testing.T) {
	b := newBoard()
	e, m := engine(b, nil), modelFile(t, "model")
	for _, start := range []func(context.Context, hal.Model, hal.Options) (hal.Session, error){e.Open, e.Start} {
		s, err := start(t.Context(), m, hal.Options{Accelerator: hal.CPU})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := e.Better(ctx, s); !errors.Is(err, context.Canceled) {
			t.Errorf("better than what was asked for: %v", err)
		}
		if _, err := start(t.Context(), m, hal.Options{Accelerator: hal.GPU}); hal.CodeOf(err) != hal.CodeAccel {
			t.Errorf("got %v", err)
		}
	}
	if len(b.opened) != 4 {
		t.Errorf("opened %v", b.opened)
	}
}

// The name of a device is for those that have one, and part of what a choice is for.
func TestDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(time.Millisecond)})
		e, m := engine(b, nil), modelFile(t, "model")
		for _, device := range []string{"usb:1", "usb:0"} {
			wantChoice(t, open(t, e, m, hal.Options{Device: device}), hal.EdgeTPU, 1)
		}
		if want := []string{"edgetpu usb:1", "edgetpu usb:0"}; !slices.Equal(b.named, want) {
			t.Errorf("named %v, want %v", b.named, want)
		}
		if n := len(b.opened); n != 2*5 { // the Edge TPU, the CPU and XNNPACK with one thread and two
			t.Errorf("%d candidates were opened: %v", n, b.opened)
		}
	})
}

// A file for an Edge TPU is held against its sibling, and falls back to it.
func TestSibling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, plain := modelFile(t, "edge"), modelFile(t, "plain")
		b := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(time.Millisecond)})
		e := engine(b, nil)
		s := open(t, e, edge, hal.Options{Sibling: &plain})
		wantChoice(t, s, hal.EdgeTPU, 1)
		if got := fake(s).Model.Path; got != edge.Path {
			t.Errorf("runs %s", got)
		}
		b.way[hal.EdgeTPU].run = func(int) error { return haltest.Crash() }
		for range 3 {
			s.Run(0)
			s.Close()
			var err error
			if s, err = e.Start(t.Context(), edge, hal.Options{Sibling: &plain}); err != nil {
				t.Fatal(err)
			}
		}
		defer s.Close()
		wantChoice(t, s, hal.XNNPACK, 2)
		if got := fake(s).Model.Path; got != plain.Path {
			t.Errorf("falls back to %s, want the sibling", got)
		}
	})
}

func fake(s hal.Session) *haltest.FakeSession {
	return s.(*session).Session.(*boardSession).Session.(*haltest.FakeSession)
}

// Golden samples are asked first of all, of every candidate.
func TestGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		right := hal.Sample{Inputs: [][]byte{[]byte("0123456789abcdef")}, Outputs: [][]byte{[]byte("0123456789abcdef")}}
		s := open(t, engine(newBoard(), nil), modelFile(t, "model"), hal.Options{Golden: []hal.Sample{right}})
		wantChoice(t, s, hal.XNNPACK, 2)
		// What was chosen by inputs that were made up has to answer them, too.
		b := newBoard()
		b.way[hal.XNNPACK].compute = func(in, out [][]byte) {
			for i, v := range in[0] {
				out[0][i] = v + 2
			}
		}
		e, m := engine(b, nil), modelFile(t, "model")
		wantChoice(t, open(t, e, m, hal.Options{}), hal.XNNPACK, 2)
		exact := right
		exact.Tolerance = 0.1
		wantChoice(t, open(t, e, m, hal.Options{Golden: []hal.Sample{exact}}), hal.CPU, 2)
		if b.sessions() != 2 {
			t.Errorf("%d sessions are open, want 2", b.sessions())
		}
		wrong := right
		wrong.Outputs = [][]byte{[]byte("zzzzzzzzzzzzzzzz")}
		for name, c := range map[string]struct {
			sample hal.Sample
			want   hal.Code
		}{
			"wrong":    {wrong, hal.CodeGolden},
			"too long": {hal.Sample{Inputs: [][]byte{make([]byte, 17)}}, hal.CodeShape},
			"too many": {hal.Sample{Inputs: [][]byte{make([]byte, 16), nil}}, hal.CodeShape},
		} {
			b := newBoard()
			_, err := engine(b, nil).Open(t.Context(), modelFile(t, "model"), hal.Options{Golden: []hal.Sample{c.sample}})
			if hal.CodeOf(err) != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
			if b.sessions() != 0 {
				t.Errorf("%s: %d sessions are left", name, b.sessions())
			}
		}
	})
}

// Measuring takes no more than its time, even where every run takes a second.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		for a, w := range b.way {
			w.latency = fixed(time.Second + time.Duration(len(a))*time.Millisecond)
		}
		for i := range 20 {
			b.plug(hal.Accelerator(fmt.Sprintf("external:lib%d.so", i)), &way{latency: fixed(1100 * time.Millisecond)})
		}
		begin := time.Now()
		s := open(t, engine(b, nil), modelFile(t, "model"), hal.Options{})
		if took := time.Since(begin); took > budget+20*time.Second {
			t.Errorf("measured for %v", took)
		}
		if !strings.Contains(fmt.Sprint(s.Info().Tried), "not tried: measuring had taken 20s") {
			t.Errorf("tried %v", s.Info().Tried)
		}
	})
}

// A release that kills a runner on the CPU is refused, though another rung could
// run it; one that kills a driver, or is no release, runs on another rung.
func TestDeathOnTheCPUCondemns(t *testing.T) {
	ms := time.Millisecond
	hungry := func() error { return &hal.Error{Code: hal.CodeMemory, Text: "ate 2 GiB", Err: hal.ErrLost} }
	for name, c := range map[string]struct {
		on    hal.Accelerator
		death func() error
		when  int // run
		want  hal.Code
	}{
		"xnnpack crashes":       {hal.XNNPACK, haltest.Crash, 1, hal.CodeCrash},
		"xnnpack crashes later": {hal.XNNPACK, haltest.Crash, 7, hal.CodeCrash},
		"xnnpack hangs":         {hal.XNNPACK, haltest.Hang, 2, hal.CodeTimeout},
		"xnnpack eats":          {hal.XNNPACK, hungry, 1, hal.CodeMemory},
		"xnnpack lacks tensors": {hal.XNNPACK, func() error { return &hal.Error{Code: hal.CodeTensor, Text: "no memory"} }, 1, hal.CodeTensor},
		"xnnpack fails":         {hal.XNNPACK, func() error { return &hal.Error{Code: hal.CodeInvoke, Text: "no"} }, 1, ""},
		"cpu crashes":           {hal.CPU, haltest.Crash, 1, hal.CodeCrash},
		"cpu crashes later":     {hal.CPU, haltest.Crash, 9, hal.CodeCrash}, // while others are held against it
		"xnnpack is slow later": {hal.XNNPACK, haltest.Hang, 7, ""},         // it has given all its answers
		"cpu hangs":             {hal.CPU, haltest.Hang, 1, hal.CodeTimeout},
		"cpu is slow later":     {hal.CPU, haltest.Hang, 9, ""},
		"driver crashes":        {hal.EdgeTPU, haltest.Crash, 3, ""},
		"driver hangs":          {hal.EdgeTPU, haltest.Hang, 1, ""},
		"driver eats":           {hal.EdgeTPU, hungry, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoard()
				if c.on == hal.EdgeTPU {
					b.plug(hal.EdgeTPU, &way{latency: fixed(ms)})
				}
				b.way[c.on].run = func(n int) error { return when(n == c.when, c.death()) }
				s, err := engine(b, nil).Open(t.Context(), modelFile(t, "model"), hal.Options{})
				if s != nil {
					s.Close()
				}
				if hal.CodeOf(err) != c.want {
					t.Errorf("a release: %v, want %q", err, c.want)
				}
				if n := b.sessions(); n != 0 {
					t.Errorf("%d sessions are left", n)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // what runs already is not refused
		b := newBoard()
		b.way[hal.XNNPACK].run = func(n int) error { return when(n == 30, haltest.Crash()) }
		e := engine(b, nil)
		s, err := e.Start(t.Context(), modelFile(t, "model"), hal.Options{Order: []hal.Accelerator{hal.XNNPACK, hal.CPU}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		b.way[hal.XNNPACK].run = func(int) error { return haltest.Crash() }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		better, err := e.Better(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		defer better.Close()
		wantChoice(t, better, hal.CPU, 2)
	})
}

// A hang at work costs little, on the CPU as well. Who would condemn a model for one
// waits for it as long as a run may take at all.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, engine(newBoard(), nil), modelFile(t, "model"), hal.Options{})
		wantChoice(t, s, hal.XNNPACK, 2)
		if d := s.Info().Deadline; d != leastDeadline {
			t.Errorf("runs may take %v, want %v", d, leastDeadline)
		}
		b := newBoard()
		hung := 0
		b.way[hal.XNNPACK].run = func(n int) error {
			if hung < 1 {
				hung++
				return haltest.Hang()
			}
			return nil
		}
		s = open(t, engine(b, nil), modelFile(t, "model"), hal.Options{})
		if s.Info().Accelerator != hal.XNNPACK {
			t.Errorf("runs on %s behind one slow run", s.Info().Accelerator)
		}
		s = open(t, engine(newBoard(), nil), modelFile(t, "model"), hal.Options{Deadline: time.Second})
		if d := s.Info().Deadline; d != time.Second {
			t.Errorf("runs may take %v, want the second that was asked for", d)
		}
	})
}

// A winner that does not open again gives way to the next, and nobody is refused for
// what a driver died of.
func TestWinnerIsGone(t *testing.T) {
	for _, code := range []hal.Code{hal.CodeAccel, hal.CodeTimeout} {
		synctest.Test(t, func(t *testing.T) {
			b := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(time.Millisecond), run: func(int) error { return haltest.Crash() }})
			b.way[hal.XNNPACK].latency = fixed(8 * time.Millisecond) // so that one thread wins, which is closed by then
			b.refuse = func(c Choice, times int) error {
				if c.Accelerator == hal.XNNPACK && c.Threads == 1 && times > 1 {
					return &hal.Error{Code: code, Text: "gone"}
				}
				return nil
			}
			s := open(t, engine(b, nil), modelFile(t, "model"), hal.Options{})
			wantChoice(t, s, hal.XNNPACK, 2)
			if b.sessions() != 1 {
				t.Errorf("%d sessions are open", b.sessions())
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // no room is what the caller can do something about
		b := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(time.Millisecond), run: func(int) error { return haltest.Crash() }})
		b.way[hal.XNNPACK].latency = fixed(8 * time.Millisecond)
		b.refuse = func(c Choice, times int) error {
			if c.Accelerator == hal.XNNPACK && c.Threads == 1 && times > 1 {
				return &hal.Error{Code: hal.CodeAdmission, Text: "no room"}
			}
			return nil
		}
		if _, err := engine(b, nil).Open(t.Context(), modelFile(t, "model"), hal.Options{}); hal.CodeOf(err) != hal.CodeAdmission {
			t.Errorf("%v, want %s", err, hal.CodeAdmission)
		}
		if b.sessions() != 0 {
			t.Errorf("%d sessions are left", b.sessions())
		}
	})
}

// Where there is no room for two, candidates are timed one after the other, and the
// best wins all the same.
func TestNoRoomForTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, edge := range []time.Duration{2 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond} {
			b := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(edge)})
			b.room = 1
			s := open(t, engine(b, nil), modelFile(t, "model"), hal.Options{})
			if edge < 8*time.Millisecond {
				wantChoice(t, s, hal.EdgeTPU, 1)
			} else {
				wantChoice(t, s, hal.XNNPACK, 2)
			}
			if strings.Contains(fmt.Sprint(s.Info().Tried), string(hal.CodeAdmission)) || b.most != 1 || b.sessions() != 1 {
				t.Errorf("edge %v: tried %v, %d sessions at one time, %d left", edge, s.Info().Tried, b.most, b.sessions())
			}
		}
		b := newBoard()
		b.room, b.open = 1, 1 // somebody else's
		if _, err := engine(b, nil).Open(t.Context(), modelFile(t, "model"), hal.Options{}); hal.CodeOf(err) != hal.CodeAdmission {
			t.Errorf("without any room: %v", err)
		}
	})
}

// What is wrong with the file is said at once, not tried on everything.
func TestModelsAtFault(t *testing.T) {
	b := newBoard()
	e := engine(b, nil)
	if _, err := e.Open(t.Context(), modelFile(t, ""), hal.Options{}); hal.CodeOf(err) != hal.CodeModelEmpty {
		t.Errorf("empty: %v", err)
	}
	if _, err := e.Start(t.Context(), hal.Model{Name: "m", Path: "/nonexistent"}, hal.Options{}); hal.CodeOf(err) != hal.CodeModelFormat {
		t.Errorf("gone: %v", err)
	}
	m := modelFile(t, "model")
	m.SHA256 = strings.Repeat("0", 64)
	for _, start := range []func(context.Context, hal.Model, hal.Options) (hal.Session, error){e.Open, e.Start} {
		before := b.count()
		if _, err := start(t.Context(), m, hal.Options{}); hal.CodeOf(err) != hal.CodeHashAtRest || b.count() != before+1 {
			t.Errorf("rotten: %v after %d opens", err, b.count()-before)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		for _, w := range b.way {
			w.run = func(int) error { return haltest.Crash() }
		}
		before := b.count()
		if _, err := e.Open(t.Context(), modelFile(t, "model"), hal.Options{}); hal.CodeOf(err) != hal.CodeCrash || b.count() != before+1 {
			t.Errorf("crashes on the plain CPU: %v after %d opens", err, b.count()-before)
		}
		if b.sessions() != 0 {
			t.Errorf("%d sessions are left", b.sessions())
		}
		for _, w := range b.way {
			w.open = &hal.Error{Code: hal.CodeOp, Text: "operator is not known"}
		}
		b.way = map[hal.Accelerator]*way{hal.CPU: b.way[hal.CPU]}
		b.devices = b.devices[1:]
		if _, err := e.Open(t.Context(), modelFile(t, "another"), hal.Options{}); hal.CodeOf(err) != hal.CodeAccel && hal.CodeOf(err) != hal.CodeOp {
			t.Errorf("an unknown operator: %v", err)
		}
		alone := &board{devices: b.devices, way: b.way}
		if _, err := engine(alone, nil).Open(t.Context(), modelFile(t, "another"), hal.Options{}); hal.CodeOf(err) != hal.CodeOp {
			t.Errorf("an unknown operator where there is a CPU alone: %v", err)
		}
	})
}

// One that is ended in the middle leaves nothing behind.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for after := range 40 {
			b := newBoard().plug(hal.EdgeTPU, &way{latency: fixed(time.Millisecond)})
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(after)*30*time.Millisecond)
			s, err := engine(b, nil).Open(ctx, modelFile(t, "model"), hal.Options{})
			if err == nil {
				s.Close()
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %d: %v", after, err)
			}
			cancel()
			if b.sessions() != 0 {
				t.Fatalf("after %d: %d sessions are left", after, b.sessions())
			}
		}
	})
}

// A hundred models that crash, hang, or fail on their best accelerator: each is
// served by the next rung within five seconds.
func TestHundredBadModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n := range 100 {
			bad := false
			fails := []func() error{haltest.Crash, haltest.Hang,
				func() error {
					return &hal.Error{Code: hal.CodeMemory, Text: "ate 2 GiB", Err: hal.ErrLost}
				},
				func() error { return &hal.Error{Code: hal.CodeInvoke, Text: "no"} }}[n%4]
			edge := &way{latency: fixed(time.Millisecond), run: func(int) error {
				if !bad {
					return nil
				}
				err := fails()
				if hal.CodeOf(err) == hal.CodeTimeout {
					time.Sleep(2 * time.Second) // its deadline
				}
				return err
			}}
			e, m := engine(newBoard().plug(hal.EdgeTPU, edge), nil), modelFile(t, fmt.Sprint("model ", n))
			s := open(t, e, m, hal.Options{})
			bad = true
			begin, pause := time.Now(), 200*time.Millisecond // as a pipeline reopens
			for {
				_, err := s.Run(0)
				if err == nil {
					break
				}
				if !lostSession(err) {
					continue
				}
				s.Close()
				time.Sleep(pause)
				pause *= 2
				if s, err = e.Start(t.Context(), m, hal.Options{}); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(begin); took > 5*time.Second || s.Info().Degraded == "" {
				t.Errorf("model %d: served again after %v on %s, degraded %q", n, took, s.Info().Accelerator, s.Info().Degraded)
			}
			s.Close()
		}
	})
}

func TestSessionsAllocateNothing(t *testing.T) {
	b := newBoard()
	for _, w := range b.way {
		w.latency = fixed(0)
	}
	s := open(t, engine(b, nil), modelFile(t, "model"), hal.Options{})
	if n := testing.AllocsPerRun(100, func() { s.Run(0) }); n > 0 {
		t.Errorf("%v allocations a run", n)
	}
}

// The engine suite passes through the ladder as well.
func TestSuite(t *testing.T) {
	fake := tflite{&haltest.FakeEngine{Compute: func(in, out [][]byte) { copy(out[0], in[0]) }}}
	path := modelFile(t, "model").Path
	e := New(Config{Inner: fake, Order: TFLite, Memory: Remember(nil, zerolog.Nop())})
	haltest.Engine(t, e, hal.Model{Name: "m", Path: path})
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

type tflite struct{ *haltest.FakeEngine }
