package pipeline

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/source"
)

// A paused camera is off: its source is closed, whatever it waits for, and it comes
// back.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened, closed atomic.Int32
		s := source.Keep(source.Config{Live: true, Open: func(context.Context) (hal.Source, error) {
			opened.Add(1)
			return &closing{FakeSource: haltest.FakeSource{Every: 100 * time.Millisecond, IsLive: true}, closed: &closed}, nil
		}})
		p := New(Config{Source: s, Publish: (&results{}).publish})
		ctx, cancel := context.WithCancel(t.Context())
		wait := start(t, ctx, p)
		swap(t, p, open(t, engine(10*time.Millisecond), "a"))
		time.Sleep(time.Second)
		for range 3 {
			p.Pause()
			p.Pause()
			synctest.Wait()
			before, shut := p.Stats(), closed.Load()
			time.Sleep(time.Hour)
			if now := p.Stats(); now.Captured != before.Captured || shut != opened.Load() || !p.Paused() {
				t.Errorf("paused: %d frames more, %d of %d sources closed", now.Captured-before.Captured, shut, opened.Load())
			}
			p.Resume()
			p.Resume()
			time.Sleep(time.Second)
			if now := p.Stats(); now.Captured < before.Captured+5 || p.Paused() {
				t.Errorf("resumed: %d frames more", now.Captured-before.Captured)
			}
		}
		p.Pause()
		synctest.Wait()
		cancel() // a paused pipeline ends
		wait()
	})
}

// A closing source tells that it was closed.
type closing struct {
	haltest.FakeSource
	closed *atomic.Int32
}

func (c *closing) Close() error { c.closed.Add(1); return c.FakeSource.Close() }

// Files wait: none is read twice, none is left out.
func TestPauseOfFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &results{}
		p := New(Config{Source: &haltest.FakeSource{Frames: 50, Every: 10 * time.Millisecond}, Publish: out.publish})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, engine(time.Millisecond), "a"))
		time.Sleep(205 * time.Millisecond)
		p.Pause()
		time.Sleep(time.Hour)
		p.Resume()
		wait()
		out.wantAll(t, 50)
	})
}

// What a mask covers nobody sees: not the model, not who looks.
func TestMaskComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looked, seen := 0, 0
		c := Config{Source: &haltest.FakeSource{Frames: 20, Width: 8, Height: 8}, Publish: func(*wire.Result) error { return nil }}
		c.Look = func(f *hal.Frame) *hal.Frame {
			looked++
			if haltest.FakeSeq(f) != 0 {
				t.Errorf("frame %d can be seen", f.Seq)
			}
			return &hal.Frame{Seq: f.Seq}
		}
		c.Seen = func(r *wire.Result, look *hal.Frame) {
			if seen++; look.Seq != r.Frame || r.Items[0].ID != 0 {
				t.Errorf("result of frame %d came with the look of %d, and the model saw %d", r.Frame, look.Seq, r.Items[0].ID)
			}
		}
		p := New(c)
		p.SetMask([][][2]float32{{{0, 0}, {0.5, 0}, {0, 0.5}}})
		wait := start(t, t.Context(), p)
		swap(t, p, open(t, engine(time.Millisecond), "a"))
		wait()
		if looked != 20 || seen != 20 {
			t.Errorf("looked at %d frames, saw %d results", looked, seen)
		}
	})
}
