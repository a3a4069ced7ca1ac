package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

// copier carries a frame's number through a model of one float32: bytes 0 to 2 of
// the input are the first pixel, and the model copies input to output.
type copier struct {
	fillErr   func(seq uint64) error
	decodeErr func(seq uint64) error
}

func (c *copier) Fill(dst []byte, f *hal.Frame) (vision.View, error) {
	if c.fillErr != nil {
		if err := c.fillErr(f.Seq); err != nil {
			return vision.View{}, err
		}
	}
	dst[3] = 0
	copy(dst, f.Planes[0][:3])
	return vision.View{}, nil
}

func (c *copier) Decode(o task.Outputs, buf int, r *task.Result) error {
	d := o.Output(buf, 0).Data
	seq := uint64(d[0]) | uint64(d[1])<<8 | uint64(d[2])<<16
	if c.decodeErr != nil {
		if err := c.decodeErr(seq); err != nil {
			return err
		}
	}
	r.Kind = task.Raw
	r.Items = append(r.Items[:0], task.Item{Label: "n", ID: int(seq), Score: 1, Box: [4]float32{0, 0, 1, 1}, HasBox: true})
	return nil
}

func engine(latency time.Duration) *haltest.FakeEngine {
	return &haltest.FakeEngine{Latency: latency, Compute: func(in, out [][]byte) { copy(out[0], in[0]) }}
}

func open(t testing.TB, e *haltest.FakeEngine, name string) Model {
	t.Helper()
	s, err := e.Open(context.Background(), hal.Model{Name: name}, hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &copier{}
	return Model{Session: s, Filler: c, Decoder: c, Ref: wire.ModelRef{Name: name}}
}

// results is an outbox that remembers what it was given.
type results struct {
	ids, models []string
	frames      []uint64
	at          []time.Time
	full        func(offer int) bool
	offers      int
}

func (r *results) publish(w *wire.Result) error {
	r.offers++
	if r.full != nil && r.full(r.offers) {
		return ErrFull
	}
	if uint64(w.Items[0].ID) != w.Frame {
		return fmt.Errorf("frame %d has the answer of %d", w.Frame, w.Items[0].ID)
	}
	r.ids = append(r.ids, strings.Clone(w.ID))
	r.models = append(r.models, w.Model.Name)
	r.frames = append(r.frames, w.Frame)
	r.at = append(r.at, time.Now())
	return nil
}

func (r *results) wantAll(t *testing.T, n int) {
	t.Helper()
	if len(r.frames) != n {
		t.Fatalf("%d results, want %d", len(r.frames), n)
	}
	for i, f := range r.frames {
		if f != uint64(i+1) {
			t.Fatalf("result %d is of frame %d", i, f)
		}
	}
	if ids := slices.Compact(slices.Sorted(slices.Values(r.ids))); len(ids) != n {
		t.Errorf("%d ids of %d results", len(ids), n)
	}
}

// start runs p and returns what waits for its end.
func start(t *testing.T, ctx context.Context, p *Pipeline) (wait func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		t.Helper()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s := p.Stats()
		if s.UnderWay() != 0 {
			t.Errorf("frames got lost: %+v", s)
		}
		if len(p.free) != cap(p.free) {
			t.Errorf("%d of %d frames came back", len(p.free), cap(p.free))
		}
	}
}

func swap(t *testing.T, p *Pipeline, m Model) {
	t.Helper()
	if err := p.Swap(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func TestFilesLoseNothing(t *testing.T) {
	for _, serial := range []bool{false, true} {
		t.Run(fmt.Sprintf("serial=%v", serial), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out, e := &results{}, engine(10*time.Millisecond)
				p := New(Config{Name: "cam", Source: &haltest.FakeSource{Frames: 100}, Publish: out.publish, IDPrefix: "dev-1-cam", Serial: serial})
				wait := start(t, t.Context(), p)
				time.Sleep(time.Hour) // without a model frames wait
				if s := p.Stats(); s.Published != 0 || s.UnderWay() == 0 {
					t.Errorf("without a model: %+v", s)
				}
				swap(t, p, open(t, e, "a"))
				wait()
				out.wantAll(t, 100)
				if out.ids[0] != "dev-1-cam-1" {
					t.Errorf("id %q", out.ids[0])
				}
				if !e.Sessions()[0].Closed() {
					t.Error("session is still open")
				}
				if err := p.Swap(t.Context(), Model{Session: e.Sessions()[0]}); !errors.Is(err, ErrEnded) {
					t.Errorf("swap after the end: %v", err)
				}
			})
		})
	}
}

func TestFillOverlapsRun(t *testing.T) {
	elapsed := func(serial bool) (d time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			p := New(Config{Source: &haltest.FakeSource{Frames: 100, Every: 10 * time.Millisecond}, Publish: (&results{}).publish, Serial: serial})
			wait := start(t, t.Context(), p)
			swap(t, p, open(t, engine(10*time.Millisecond), "a"))
			wait()
			d = time.Since(begin)
		})
		return d
	}
	if d := elapsed(false); d > 1020*time.Millisecond {
		t.Errorf("100 frames of 10 ms to capture and 10 ms to run took %v", d)
	}
	if d := elapsed(true); d < 2*time.Second {
		t.Errorf("serial took %v", d)
	}
}

func TestLiveTakesTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &results{}
		p := New(Config{Source: &haltest.FakeSource{Frames: 1000, Every: 10 * time.Millisecond, IsLive: true}, Publish: out.publish})
		wait := start(t, t.Context(), p)
		time.Sleep(1005 * time.Millisecond)
		if s := p.Stats(); s.Dropped[DropBusy] != 100 || s.Captured != 100 {
			t.Errorf("without a model: %+v", s.Dropped)
		}
		swap(t, p, open(t, engine(35*time.Millisecond), "a"))
		wait()
		s := p.Stats()
		if s.Captured != 1000 || s.Dropped[DropStale] < 600 || s.Published < 250 {
			t.Errorf("got %d published, dropped %v", s.Published, s.Dropped)
		}
		// A result is of a frame no older than one that was filled while two runs went by.
		if p99 := s.Latency.Quantile(0.99); p99 > 90*time.Millisecond {
			t.Errorf("p99 %v", p99)
		}
	})
}

func TestFullOutbox(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprintf("live=%v", live), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := &results{full: func(offer int) bool { return offer > 10 && offer <= 20 }}
				p := New(Config{Source: &haltest.FakeSource{Frames: 50, Every: 20 * time.Millisecond, IsLive: live}, Publish: out.publish})
				wait := start(t, t.Context(), p)
				swap(t, p, open(t, engine(time.Millisecond), "a"))
				wait()
				s := p.Stats()
				if live && (s.Dropped[DropOutbox] != 10 || s.Published != 40) {
					t.Errorf("got %d published, dropped %v", s.Published, s.Dropped)
				}
				if !live {
					out.wantAll(t, 50)
				}
			})
		})
	}
}

func TestFullOutboxSaysWhenItHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, room := &results{}, make(chan struct{})
		full := true
		out.full = func(int) bool { return full && len(out.frames) == 3 }
		p := New(Config{Source: &haltest.FakeSource{Frames: 10}, Publish: out.publish, Room: func() <-chan struct{} { return room }})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, engine(0), "a"))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if out.offers != 5 { // 3 taken, 1 to learn that it is full, 1 to be sure
			t.Errorf("%d offers", out.offers)
		}
		full = false
		close(room)
		wait()
		out.wantAll(t, 10)
	})
}

func TestClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, e := &results{}, engine(time.Millisecond)
		p := New(Config{Source: &haltest.FakeSource{Frames: 100, Every: 10 * time.Millisecond}, Publish: out.publish})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, e, "a"))
		time.Sleep(505 * time.Millisecond)
		if err := p.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(out.frames); n != 50 || !e.Sessions()[0].Closed() {
			t.Errorf("%d results, session closed: %v", n, e.Sessions()[0].Closed())
		}
		swap(t, p, open(t, e, "a"))
		wait()
		out.wantAll(t, 100)
	})
}

func TestSwapBetweenTwoFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, e := &results{}, engine(15*time.Millisecond)
		p := New(Config{Source: &haltest.FakeSource{Frames: 1000, Every: 20 * time.Millisecond}, Publish: out.publish})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, e, "0"))
		for i := 1; i <= 9; i++ {
			time.Sleep(2*time.Second + 3*time.Millisecond)
			swap(t, p, open(t, e, strconv.Itoa(i)))
		}
		wait()
		out.wantAll(t, 1000)
		if !slices.IsSorted(out.models) || out.models[999] != "9" {
			t.Error("models came back")
		}
		for i, s := range e.Sessions() {
			if !s.Closed() || s.Runs() < 90 {
				t.Errorf("session %d: closed %v after %d runs", i, s.Closed(), s.Runs())
			}
		}
		if s := p.Stats(); s.Swaps != 9 || s.SwapGap > 20*time.Millisecond || s.SwapGap == 0 {
			t.Errorf("%d swaps, longest gap %v", s.Swaps, s.SwapGap)
		}
	})
}

func TestSwapWhileTheSourceIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine(0)
		p := New(Config{Source: &haltest.FakeSource{Frames: 1, Every: time.Hour}, Publish: (&results{}).publish})
		wait := start(t, t.Context(), p)
		begin := time.Now()
		swap(t, p, open(t, e, "a"))
		swap(t, p, open(t, e, "b"))
		synctest.Wait()
		if !e.Sessions()[0].Closed() || time.Since(begin) != 0 {
			t.Error("the swap waited for a frame")
		}
		wait()
	})
}

func TestLostSession(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprintf("live=%v", live), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out, e := &results{}, engine(5*time.Millisecond)
				e.OnRun = func(n int) error {
					if n == 30 { // of every session
						return haltest.Crash()
					}
					return nil
				}
				p := New(Config{Source: &haltest.FakeSource{Frames: 100, Every: 10 * time.Millisecond, IsLive: live}, Publish: out.publish,
					Reopen: func(ctx context.Context) (Model, error) { return open(t, e, "a"), nil }})
				wait := start(t, t.Context(), p)
				swap(t, p, open(t, e, "a"))
				time.Sleep(301 * time.Millisecond)
				if got := p.Stats().Degraded; got != "E_CRASH" {
					t.Errorf("degraded %q", got)
				}
				wait()
				s := p.Stats()
				if live {
					if s.Dropped[DropError] != s.Lost || s.Lost == 0 || s.Dropped[DropBusy] == 0 {
						t.Errorf("dropped %v", s.Dropped)
					}
				} else {
					out.wantAll(t, 100)
					if s.Lost != 3 || s.Degraded != "" {
						t.Errorf("%d sessions lost, degraded %q", s.Lost, s.Degraded)
					}
				}
				for i, s := range e.Sessions() {
					if !s.Closed() {
						t.Errorf("session %d is still open", i)
					}
				}
			})
		})
	}
}

func TestReopenBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, e := &results{}, engine(0)
		e.OnRun = func(int) error { return haltest.Crash() }
		var tries []time.Time
		p := New(Config{Source: &haltest.FakeSource{Frames: 5}, Publish: out.publish, Reopen: func(context.Context) (Model, error) {
			tries = append(tries, time.Now())
			if len(tries) < 20 {
				return Model{}, &hal.Error{Code: hal.CodeMemory, Text: "no room"}
			}
			return open(t, engine(0), "b"), nil
		}})
		begin := time.Now()
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, e, "a"))
		time.Sleep(time.Minute)
		if got := p.Stats().Degraded; got != "E_MEMORY" {
			t.Errorf("degraded %q", got)
		}
		wait()
		out.wantAll(t, 5)
		if first := tries[0].Sub(begin); first < 100*time.Millisecond || first > 200*time.Millisecond {
			t.Errorf("first try after %v", first)
		}
		if last := tries[19].Sub(tries[18]); last < 15*time.Second || last > 30*time.Second {
			t.Errorf("last try after %v more", last)
		}
	})
}

func TestFrameThatCrashesEveryRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &results{}
		e := engine(time.Millisecond)
		crashes := 0
		e.OnRun = func(int) error {
			if len(out.frames) == 7 && crashes < maxTries { // frame 8 kills whoever runs it
				crashes++
				return haltest.Crash()
			}
			return nil
		}
		p := New(Config{Source: &haltest.FakeSource{Frames: 20}, Publish: out.publish,
			Reopen: func(context.Context) (Model, error) { return open(t, e, "a"), nil }})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, e, "a"))
		wait()
		if s := p.Stats(); s.Published != 19 || s.Dropped[DropError] != 1 || slices.Contains(out.frames, 8) || s.Lost != maxTries {
			t.Errorf("published %v, dropped %v, %d lost", out.frames, s.Dropped, s.Lost)
		}
		if !slices.IsSorted(out.frames) {
			t.Errorf("out of order: %v", out.frames)
		}
	})
}

func TestSwapReplacesALostModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, bad, e, late := &results{}, engine(0), engine(time.Millisecond), engine(0)
		bad.OnRun = func(int) error { return haltest.Hang() }
		p := New(Config{Source: &haltest.FakeSource{Frames: 50, Every: time.Second}, Publish: out.publish,
			Reopen: func(ctx context.Context) (Model, error) {
				time.Sleep(20 * time.Second) // meanwhile another model is swapped in
				return open(t, late, "late"), nil
			}})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, bad, "bad"))
		time.Sleep(10 * time.Second)
		swap(t, p, open(t, e, "good"))
		wait()
		out.wantAll(t, 50)
		if slices.Contains(out.models, "late") || !late.Sessions()[0].Closed() {
			t.Error("a model that came too late was taken")
		}
	})
}

func TestNoReopenOfAModelThatWasReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, bad := &results{}, engine(0)
		bad.OnRun = func(int) error { return haltest.Crash() }
		p := New(Config{Source: &haltest.FakeSource{Frames: 5, Every: time.Second}, Publish: out.publish,
			Reopen: func(ctx context.Context) (Model, error) {
				t.Error("reopened")
				return Model{}, hal.ErrLost
			}})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, bad, "bad"))
		time.Sleep(time.Second + time.Millisecond)
		swap(t, p, open(t, engine(0), "good"))
		wait()
		out.wantAll(t, 5)
	})
}

func TestSessionLostAtTheLastFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, e := &results{}, engine(time.Millisecond)
		e.OnRun = func(n int) error {
			if n == 3 {
				time.Sleep(time.Millisecond) // fill has seen the source's end by then
				return haltest.Crash()
			}
			return nil
		}
		p := New(Config{Source: &haltest.FakeSource{Frames: 3}, Publish: out.publish,
			Reopen: func(context.Context) (Model, error) { return open(t, e, "a"), nil }})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, e, "a"))
		wait()
		out.wantAll(t, 3)
	})
}

func TestPutBackKeepsOrder(t *testing.T) {
	w := &filler{Pipeline: &Pipeline{}}
	for _, n := range []uint64{3, 1, 4, 2} {
		w.putBack(&frame{n: n})
	}
	for i, f := range w.again {
		if f.n != uint64(i+1) {
			t.Errorf("frame %d at %d", f.n, i)
		}
	}
}

func TestDelayAfter(t *testing.T) {
	tests := []struct{ before, age, want time.Duration }{
		{0, 0, firstDelay},
		{firstDelay, time.Second, 2 * firstDelay},
		{lastDelay, time.Second, lastDelay},
		{lastDelay, goodAge, firstDelay},
	}
	for _, tt := range tests {
		if got := delayAfter(tt.before, tt.age); got != tt.want {
			t.Errorf("after %v, at the age of %v: got %v, want %v", tt.before, tt.age, got, tt.want)
		}
	}
}

// A session may be lost while frames are spread over run, queue and capture: all
// come again, in order unless another model is swapped in at that very moment.
func TestEveryFrameComesAgain(t *testing.T) {
	for i := range 300 {
		synctest.Test(t, func(t *testing.T) {
			out, e := &results{}, engine(time.Millisecond)
			crashed := make(chan struct{}, 100)
			e.OnRun = func(n int) error {
				if n == 4+i%3 { // later than what comes again, or a frame might meet three crashes
					crashed <- struct{}{}
					return haltest.Crash()
				}
				return nil
			}
			p := New(Config{Source: &haltest.FakeSource{Frames: 40, Every: time.Duration(i%2) * time.Millisecond}, Publish: out.publish})
			ctx, cancel := context.WithCancel(t.Context())
			var swapping sync.WaitGroup
			swapping.Go(func() {
				for {
					m := open(t, e, "a")
					if p.Swap(ctx, m) != nil {
						m.Session.Close()
						return
					}
					select {
					case <-crashed:
						if i%4 < 2 {
							time.Sleep(100 * time.Millisecond)
						}
					case <-ctx.Done():
						return
					}
				}
			})
			start(t, t.Context(), p)()
			cancel()
			swapping.Wait()
			if i%4 >= 2 {
				slices.Sort(out.frames)
			}
			out.wantAll(t, 40)
		})
	}
}

func TestErrorsOfOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, e := &results{}, engine(time.Millisecond)
		m := open(t, e, "a")
		m.Filler = &copier{fillErr: func(seq uint64) error {
			if seq%10 == 3 {
				return &hal.Error{Code: hal.CodeShape, Text: "no"}
			}
			return nil
		}}
		m.Decoder = &copier{decodeErr: func(seq uint64) error {
			if seq%10 == 5 {
				panic("index out of range")
			}
			return nil
		}}
		src := &haltest.FakeSource{Frames: 100, Bad: func(n int) bool { return n >= 50 && n < 80 }}
		var log strings.Builder
		p := New(Config{Source: src, Publish: out.publish, Log: zerolog.New(zerolog.SyncWriter(&log))})
		begin := time.Now()
		wait := start(t, t.Context(), p)
		swap(t, p, m)
		wait()
		if d := time.Since(begin); d < 2*time.Second {
			t.Errorf("30 bad frames in a row took %v: capture spins", d)
		}
		if n := strings.Count(log.String(), "\n"); n != maxWarnings {
			t.Errorf("%d warnings within a minute, want %d\n%s", n, maxWarnings, &log)
		}
		if s := p.Stats(); s.Captured != 130 || s.Published != 80 || s.Dropped[DropError] != 50 {
			t.Errorf("%d captured, %d published, dropped %v", s.Captured, s.Published, s.Dropped)
		}
	})
}

type brokenSource struct{ haltest.FakeSource }

func (s *brokenSource) Next(ctx context.Context, f *hal.Frame) error {
	if err := s.FakeSource.Next(ctx, f); err != io.EOF {
		return err
	}
	return errors.New("unplugged")
}

func TestSourceThatBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Name: "cam", Source: &brokenSource{haltest.FakeSource{Frames: 3}}, Publish: (&results{}).publish})
		done := make(chan error, 1)
		go func() { done <- p.Run(t.Context()) }()
		swap(t, p, open(t, engine(0), "a"))
		if err := <-done; err == nil || err.Error() != "source of pipeline cam: unplugged" {
			t.Errorf("got %v", err)
		}
		if s := p.Stats(); s.Published != 3 {
			t.Errorf("%d published", s.Published)
		}
	})
}

// boxed answers with a box in the model's coordinates.
type boxed struct{}

func (b *boxed) Decode(_ task.Outputs, _ int, r *task.Result) error {
	r.Kind, r.Items = task.Detect, append(r.Items[:0], task.Item{Label: "a", Box: [4]float32{0.5, 0.5, 0.5, 0.75}, HasBox: true}, task.Item{Label: "b"})
	return nil
}

func TestBoxesAreOfTheFrame(t *testing.T) {
	input := hal.TensorInfo{Type: hal.Uint8, Shape: []int{1, 8, 8, 3}}
	e := &haltest.FakeEngine{Inputs: []hal.TensorInfo{input}}
	f, err := vision.NewFiller(input, vision.Options{Fit: vision.Letterbox})
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, e, "a")
	m.Filler, m.Decoder = f, &boxed{}
	var got []wire.Item
	p := New(Config{Source: &haltest.FakeSource{Frames: 1, Width: 16, Height: 8}, Publish: func(r *wire.Result) error {
		got = []wire.Item{r.Items[0], r.Items[1]}
		if string(wire.AppendResultBody(nil, r)) == "" || r.Kind != "detect" || r.Accel != "cpu" {
			t.Errorf("got %+v", r)
		}
		return nil
	}})
	wait := start(t, t.Context(), p)
	swap(t, p, m)
	wait()
	// The frame fills the middle half of the model's height.
	if want := [4]float32{0.5, 0.5, 0.5, 1}; got[0].Box == nil || *got[0].Box != want || got[1].Box != nil {
		t.Errorf("got %+v, box %v", got, got[0].Box)
	}
}

func TestStatsHealth(t *testing.T) {
	begin := time.Now()
	var l latencies
	stats := func(at time.Duration, published uint64) *Stats {
		s := &Stats{At: begin.Add(at), Captured: published + 5, Published: published}
		s.Dropped[DropStale], s.Dropped[DropError] = 4, 1
		l.read(&s.Latency)
		return s
	}
	for range 1000 {
		l.add(time.Second)
	}
	first := stats(0, 1000)
	for i := range 100 {
		l.add(time.Duration(i+1) * time.Millisecond)
	}
	h := stats(10*time.Second, 1100).Health(first)
	if h.FPS != 10 || h.P50 < 50 || h.P50 > 57 || h.P99 < 99 || h.P99 > 112 || h.Dropped["stale"] != 4 || h.Dropped["error"] != 1 || len(h.Dropped) != 2 {
		t.Errorf("got %+v", h)
	}
	if h := first.Health(&Stats{}); h.FPS != 0 || h.P50 < 1000 {
		t.Errorf("without one before: %+v", h)
	}
}

func TestHistogramBuckets(t *testing.T) {
	last := -1
	for d := time.Duration(1); d < time.Hour; d += d/50 + 1 {
		i := bucket(d)
		if i < last || i >= numBuckets {
			t.Fatalf("%v is in bucket %d, after %d", d, i, last)
		}
		if up := upper(i); i < numBuckets-1 && (d > up || i > 0 && float64(up) > 1.126*float64(d)) {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, i, up)
		}
		last = i
	}
}

func TestStopAtAnyMoment(t *testing.T) {
	for _, live := range []bool{false, true} {
		for ms := range 60 {
			synctest.Test(t, func(t *testing.T) {
				e := engine(7 * time.Millisecond)
				e.OnRun = func(n int) error {
					if n == 3 {
						return haltest.Crash()
					}
					return nil
				}
				out := &results{full: func(n int) bool { return n > 3 }}
				p := New(Config{Source: &haltest.FakeSource{Every: 3 * time.Millisecond, IsLive: live}, Publish: out.publish,
					Reopen: func(context.Context) (Model, error) { return open(t, e, "a"), nil }})
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(ms)*7*time.Millisecond)
				defer cancel()
				wait := start(t, ctx, p)
				m := open(t, e, "a")
				if p.Swap(ctx, m) != nil {
					m.Session.Close()
				}
				wait() // the books balance, no goroutine is left
				for i, s := range e.Sessions() {
					if !s.Closed() {
						t.Errorf("session %d is still open", i)
					}
				}
			})
		}
	}
}

func TestNoAllocationsPerFrame(t *testing.T) {
	for _, serial := range []bool{false, true} {
		step := make(chan struct{})
		src := &steppedSource{FakeSource: haltest.FakeSource{Width: 64, Height: 64}, step: step}
		published := make(chan struct{})
		body := make([]byte, 0, 4096)
		p := New(Config{Name: "cam", Source: src, IDPrefix: "dev-abc-cam", Serial: serial, Pulse: &pulse.Board{}, Publish: func(r *wire.Result) error {
			body = wire.AppendResultBody(body[:0], r)
			published <- struct{}{}
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		wait := start(t, ctx, p)
		swap(t, p, open(t, engine(0), "a"))
		if n := testing.AllocsPerRun(1000, func() { step <- struct{}{}; <-published }); n != 0 {
			t.Errorf("serial=%v: %v allocations for a frame", serial, n)
		}
		cancel()
		wait()
	}
}

// A steppedSource gives a frame each time that it is told to.
type steppedSource struct {
	haltest.FakeSource
	step <-chan struct{}
}

func (s *steppedSource) Next(ctx context.Context, f *hal.Frame) error {
	select {
	case <-s.step:
		return s.FakeSource.Next(ctx, f)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func BenchmarkFrame(b *testing.B) {
	for _, serial := range []bool{false, true} {
		b.Run(fmt.Sprintf("serial=%v", serial), func(b *testing.B) {
			b.ReportAllocs()
			body := make([]byte, 0, 4096)
			p := New(Config{Name: "cam", Source: &haltest.FakeSource{Frames: b.N}, IDPrefix: "dev-abc-cam", Serial: serial, Publish: func(r *wire.Result) error {
				body = wire.AppendResultBody(body[:0], r)
				return nil
			}})
			done := make(chan error, 1)
			go func() { done <- p.Run(b.Context()) }()
			if err := p.Swap(b.Context(), open(b, engine(0), "a")); err != nil {
				b.Fatal(err)
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// wanting is a filler that wants frames of a size.
type wanting struct {
	copier
	width, height int
}

func (w *wanting) Want() hal.Want { return hal.Want{Width: w.width, Height: w.height} }

// asked is a source that remembers what it was asked for.
type asked struct {
	hal.Source
	sizes chan [2]int
}

func (a *asked) Next(ctx context.Context, f *hal.Frame) error {
	a.sizes <- [2]int{f.Want.Width, f.Want.Height}
	return a.Source.Next(ctx, f)
}

// TestWant: the source is told what the model in use needs, from the frame after
// the swap on.
func TestWant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine(time.Millisecond)
		source := &asked{Source: &haltest.FakeSource{Every: 10 * time.Millisecond, IsLive: true}, sizes: make(chan [2]int, 1000)}
		p := New(Config{Source: source, Publish: (&results{}).publish, Log: zerolog.Nop()})
		ctx, cancel := context.WithCancel(t.Context())
		wait := start(t, ctx, p)
		for _, want := range [][2]int{{}, {336, 336}, {}, {960, 540}} {
			m := open(t, e, "m")
			if want != [2]int{} {
				m.Filler = &wanting{width: want[0], height: want[1]}
			}
			swap(t, p, m)
			time.Sleep(50 * time.Millisecond)
			synctest.Wait()
			for len(source.sizes) > 1 {
				<-source.sizes
			}
			if got := <-source.sizes; got != want {
				t.Errorf("the source was asked for %v, want %v", got, want)
			}
		}
		cancel()
		wait()
	})
}
