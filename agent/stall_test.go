package agent

import (
	"context"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/health"
	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const watchdogTime = 30 * time.Second

// A watched agent is one in a bubble, with the service that feeds its watchdog.
type watched struct {
	board *pulse.Board
	log   logLines
	mu    sync.Mutex
	fed   time.Time // last
	bites time.Time // first time that the manager was told to act; zero: never
	up    string    // with which words it was up
	said  []string  // lines for people
}

func (w *watched) send(assignments ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range assignments {
		text, line := strings.CutPrefix(a, "STATUS=")
		switch {
		case a == "WATCHDOG=1":
			w.fed = time.Now()
		case a == "WATCHDOG=trigger" && w.bites.IsZero():
			w.bites = time.Now()
		case a == "READY=1":
			w.up = assignments[1]
		case line:
			w.said = append(w.said, text)
		}
	}
	return nil
}

// late are the loops that the log names.
func (w *watched) late() (names []string) {
	for _, line := range w.log.all() {
		var v struct{ Message, Loop string }
		if json.Unmarshal([]byte(line), &v) == nil && v.Message == "loop hangs" {
			names = append(names, v.Loop)
		}
	}
	return names
}

// watch runs a world with an agent and its watchdog. The watchdog looks at loops, the
// agent's board unless it is a bad one.
func watch(t *testing.T, w *world, change func(*Config), loops *pulse.Board, do func(*watched, func() error)) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v := &watched{board: &pulse.Board{Promise: health.PromiseFor(watchdogTime)}}
	if loops == nil {
		loops = v.board
	}
	s := &health.Service{Send: v.send, Watchdog: watchdogTime, Loops: loops, Log: zerolog.New(&v.log)}
	w.root = fstest.MapFS{}
	w.change = func(c *Config) {
		for i := range c.File.Pipelines {
			c.File.Pipelines[i].Source.FPS = 1
		}
		c.Pulse = v.board
		c.Standing = func(st Standing) { s.Stand(st.Settled, st.Text) }
		if change != nil {
			change(c)
		}
	}
	w.run(ctx)
	s.Start()
	serving, hush := context.WithCancel(t.Context())
	defer hush()
	go s.Run(serving)
	stop := w.board(ctx, newEngine(), zerolog.Nop())
	do(v, stop)
}

// loops is every loop of an agent with two links, and whether it is to be stalled from
// its beginning, because it is not long at work or has no other beat.
var loops = map[string]bool{
	"pinned capture": false, "pinned fill": false, "pinned run": false, "pinned reopen": false, "pinned climb": true, "pinned model": true, "pinned update": false,
	"fleet capture": false, "fleet fill": false, "fleet run": false, "fleet reopen": false, "fleet climb": true, "fleet update": false,
	"config update": false, "probe": true, "director": false, "report": false, "watch": false, "health": false, "outbox": false,
	"fleet link": false, "fleet link inbox": false, "home link": false, "home link inbox": false,
}

// stalled stalls one loop and says which were named, and how long after the stall the
// manager was told to act; 0: it was not.
func stalled(t *testing.T, loop string, atOnce bool, loops *pulse.Board) (named []string, after time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var mu sync.Mutex
		armed, at := atOnce, time.Time{}
		w := newWorld(t)
		change := func(c *Config) {
			c.Pulse.OnBeat = func(name string) {
				mu.Lock()
				hit := name == loop && armed
				if hit && at.IsZero() {
					at = time.Now()
				}
				mu.Unlock()
				if hit {
					<-release
				}
			}
		}
		watch(t, w, change, loops, func(v *watched, stop func() error) {
			time.Sleep(30 * time.Second)
			mu.Lock()
			armed = true
			mu.Unlock()
			// Somebody has to speak before who listens can hang.
			w.broker.Publish(wire.Message{Topic: w.home.Install("pinned"), Payload: []byte("install"), QoS: 1})
			w.desire(1, w.release("birds", "1.0.0", picture("v1")))
			time.Sleep(2 * watchdogTime)
			synctest.Wait()
			mu.Lock()
			begun := at
			armed = false
			mu.Unlock()
			if begun.IsZero() {
				t.Errorf("%s was not stalled: there are %v", loop, v.board.Names())
			}
			if v.mu.Lock(); !v.bites.IsZero() {
				after = v.bites.Sub(begun)
			}
			v.mu.Unlock()
			named = v.late()
			close(release)
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	})
	return named, after
}

// A loop that hangs, whichever, is named, it alone, and the watchdog bites within its time.
func TestStalls(t *testing.T) {
	for loop, atOnce := range loops {
		t.Run(loop, func(t *testing.T) {
			t.Parallel()
			named, after := stalled(t, loop, atOnce, nil)
			if !slices.Equal(named, []string{loop}) || after == 0 || after > watchdogTime {
				t.Errorf("named %v; the manager was told to act after %v", named, after)
			}
		})
	}
}

// A watchdog that is fed by a ticker, and looks at no loop, is caught by the same test.
func TestStallsAreMissedByATicker(t *testing.T) {
	if named, after := stalled(t, "pinned run", false, &pulse.Board{}); named != nil || after != 0 {
		t.Errorf("named %v after %v: the test finds what is not there", named, after)
	}
}

// A loop that goes is named as one that hangs.
func TestGone(t *testing.T) {
	for _, loop := range []string{"director", "report", "watch", "health", "outbox", "fleet link", "home link", "fleet update", "pinned reopen"} {
		t.Run(loop, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				change := func(c *Config) {
					begin := time.Now()
					c.Pulse.OnBeat = func(name string) {
						if name == loop && time.Since(begin) > 30*time.Second && time.Since(begin) < time.Minute {
							runtime.Goexit()
						}
					}
				}
				watch(t, w, change, nil, func(v *watched, stop func() error) {
					time.Sleep(time.Minute)
					synctest.Wait()
					if named := v.late(); !slices.Equal(named, []string{loop}) {
						t.Errorf("named %v", named)
					}
					v.mu.Lock()
					if v.bites.IsZero() {
						t.Error("the manager was not told")
					}
					v.mu.Unlock()
					if err := stop(); err != nil {
						t.Error(err)
					}
				})
			})
		})
	}
}

// Every loop is in the table above: who adds one adds a line.
func TestEveryLoopIsStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		seen := map[string]bool{}
		var mu sync.Mutex
		change := func(c *Config) {
			c.Pulse.OnBeat = func(name string) { mu.Lock(); seen[name] = true; mu.Unlock() }
		}
		watch(t, w, change, nil, func(v *watched, stop func() error) {
			time.Sleep(time.Minute)
			w.desire(1, w.release("birds", "1.0.0", picture("v1")))
			w.broker.Publish(wire.Message{Topic: w.home.Install("pinned"), Payload: []byte("install"), QoS: 1})
			time.Sleep(time.Minute)
			mu.Lock()
			for _, name := range v.board.Names() {
				seen[name] = true
			}
			mu.Unlock()
			if err := stop(); err != nil {
				t.Error(err)
			}
			if names := v.board.Names(); names != nil {
				t.Errorf("%v are on the board after the end", names)
			}
		})
		for name := range seen {
			if _, ok := loops[name]; !ok {
				t.Errorf("nobody stalls %s", name)
			}
		}
		for name := range loops {
			if !seen[name] {
				t.Errorf("there is no %s", name)
			}
		}
	})
}

// What takes long by right is no reason to start again: it is degraded, says so, and the
// watchdog is fed.
func TestWaitsAreNoStalls(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		world  func(*world)
		says   string // in the line with which it was up, and in the last
	}{
		"camera unplugged": {change: func(c *Config) {
			c.Source = func(context.Context, SourceFile) (hal.Source, error) {
				return nil, &hal.Error{Code: hal.CodeSource, Text: "no camera"}
			}
		}, says: "pinned: E_SOURCE"},
		"broker away": {world: func(w *world) { w.broker.Down(true) }, says: "fleet down, home down"},
		"no blocks": {world: func(w *world) {
			r := w.release("birds", "1.0.0", picture("v1"))
			clear(w.blobs)
			w.desire(1, r)
		}, says: "fleet: E_TIMEOUT"},
		"long download": {world: func(w *world) {
			r := w.release("birds", "1.0.0", picture(strings.Repeat("v1", 100*wire.BlockSize)))
			r.Rate = wire.BlockSize / 100
			w.desire(1, r)
		}, says: "fleet: no model yet"},
		"silent sensor": {change: func(c *Config) {
			c.Source = func(context.Context, SourceFile) (hal.Source, error) { return silent{}, nil }
		}, says: "pinned: no frames yet"},
		"model does not open": {change: func(c *Config) {
			c.Engines[0].(tflite).OnOpen = func(hal.Model, hal.Options, []byte) error { return &hal.Error{Code: hal.CodeOp, Text: "unknown"} }
		}, says: "pinned: E_OP"},
		"slow model": {change: func(c *Config) { c.Engines[0].(tflite).Latency = 30 * time.Second }, says: "fleet up, home up; fleet: no model yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				change := func(f *Config) {
					for i := range f.File.Pipelines {
						f.File.Pipelines[i].Source = SourceFile{Type: "mqtt", FPS: 0.1, Live: true} // which may be silent
					}
					if c.change != nil {
						c.change(f)
					}
				}
				watch(t, w, change, nil, func(v *watched, stop func() error) {
					if c.world != nil {
						c.world(w)
					}
					time.Sleep(15 * time.Minute)
					synctest.Wait()
					v.mu.Lock()
					defer v.mu.Unlock()
					if named := v.late(); named != nil || !v.bites.IsZero() || time.Since(v.fed) > watchdogTime/3 {
						t.Errorf("named %v, fed %v ago", named, time.Since(v.fed))
					}
					if last := v.said[len(v.said)-1]; !strings.Contains(v.up, c.says) && c.world == nil || !strings.Contains(last, c.says) {
						t.Errorf("was up with %q, and says %q in the end", v.up, last)
					}
					v.mu.Unlock()
					err := stop()
					v.mu.Lock()
					if err != nil {
						t.Error(err)
					}
				})
			})
		})
	}
}

// A camera whose driver does not come back is told after a minute, and what else runs goes
// on; when it lasts, all is started again, which is the last that can be tried.
func TestHungSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := make(chan struct{})
		change := func(c *Config) {
			c.File.Pipelines[0].Source = SourceFile{Type: "v4l2", Live: true}
			open := c.Source
			c.Source = func(ctx context.Context, s SourceFile) (hal.Source, error) {
				if s.Type == "v4l2" {
					return hung(release), nil
				}
				return open(ctx, s)
			}
		}
		watch(t, w, change, nil, func(v *watched, stop func() error) {
			time.Sleep(2 * time.Minute)
			v.mu.Lock()
			if last := v.said[len(v.said)-1]; !strings.Contains(last, "pinned: "+string(hal.CodeSourceStalled)) || !v.bites.IsZero() {
				t.Errorf("after two minutes it says %q", last)
			}
			v.mu.Unlock()
			time.Sleep(4 * time.Minute)
			v.mu.Lock()
			if v.bites.IsZero() {
				t.Error("after six minutes the manager was not told")
			}
			v.mu.Unlock()
			if named := v.late(); !slices.Equal(named, []string{"pinned capture"}) {
				t.Errorf("named %v", named)
			}
			close(release)
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	})
}

// hung does not come back, not even when it is told to.
type hung chan struct{}

func (h hung) Next(context.Context, *hal.Frame) error {
	<-h
	return &hal.Error{Code: hal.CodeSourceLost, Text: "gone"}
}
func (hung) Live() bool   { return true }
func (hung) Close() error { return nil }

// silent never gives a frame.
type silent struct{}

func (silent) Next(ctx context.Context, _ *hal.Frame) error { <-ctx.Done(); return ctx.Err() }
func (silent) Live() bool                                   { return true }
func (silent) Close() error                                 { return nil }
