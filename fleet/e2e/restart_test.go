package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

// camera is a pipeline of peacocks by a local model, and what else its source is.
func camera(t *testing.T, n int, source string) string {
	return "pipelines:\n  cam:\n" +
		"    source: {type: folder, path: " + pictures(t, n, peacock) + ", " + source + "}\n" +
		"    model: " + filepath.Join(models(t), mobilenet) + "\n" +
		"    labels: " + filepath.Join(models(t), mobilenetLabels) + "\n"
}

// ledger is what the controller keeps of a board's results.
func (c *controller) ledger(t *testing.T, id string) *ledger {
	t.Helper()
	list, lost, err := results(c, id, "cam")
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	for _, r := range list {
		b, _ := json.Marshal(r)
		l.take(t, string(b))
	}
	for _, r := range lost {
		b, _ := json.Marshal(r)
		l.take(t, string(b))
	}
	return l
}

// Each link is optional: with a controller, with a house, with both or with none,
// the same pipeline works, and its 60 frames are 60 results wherever somebody
// listens.
func TestLinksAreOptional(t *testing.T) {
	const frames = 60
	for _, with := range []struct{ fleet, home bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("fleet %t home %t", with.fleet, with.home), func(t *testing.T) {
			t.Parallel()
			var c *controller
			var heard <-chan string
			var lines []string
			if with.fleet {
				c = newController(t)
			}
			if with.home {
				house := linktest.Mosquitto(t)
				heard = listen(t, house, "-t", wire.Home{Root: "covey", ID: "pi-1"}.Result("cam"))
				lines = append(lines, "home: {broker: mqtt://"+house+"}")
			}
			e := newEdge(t, c, "pi-1", append(lines, camera(t, frames, "fps: 20"))...)
			if with.fleet {
				e.join()
				c.covey("device", "results", "pi-1", "cam", "on") // what is here before the wish came is not for the fleet
			}
			e.start()
			e.await(`"message":"pipeline ends"`, 30*time.Second)
			if with.home {
				l := newLedger()
				for len(l.bySeq) < frames {
					next(t, heard, 10*time.Second, "result", func(_, payload string) bool { return l.take(t, payload) != "" })
				}
				l.mustBeWhole(t)
			}
			if with.fleet {
				if d := c.awaitDevice("pi-1", 10*time.Second, "says what runs", func(d device) bool {
					return d.State == "online" && d.Reported != nil && d.Reported.Pipelines["cam"].Active != nil
				}); !d.Reported.Pipelines["cam"].Pinned {
					t.Errorf("pipeline with a local model: %+v, want it pinned", d.Reported.Pipelines["cam"])
				}
				awaitResults(t, c, "pi-1", "cam", 1)
				c.ledger(t, "pi-1").mustBeWhole(t)
			}
			if err := e.stop(10 * time.Second); err != nil {
				t.Error(err)
			}
			if !e.said(fmt.Sprintf(`"captured":%d,"published":%d`, frames, frames)) {
				t.Errorf("the agent's own count is not %d captured and published", frames)
			}
			if left := e.session(); len(left) > 0 {
				t.Errorf("%v still run", left)
			}
		})
	}
}

// kill -9 while the links are down and the outbox fills: seq goes on behind it,
// on both links, and what is missing is the last second at most, and said.
func TestKilledWithOutbox(t *testing.T) {
	t.Parallel()
	const kills = 3
	c, house := newController(t), linktest.Mosquitto(t)
	fleetProxy, homeProxy := linktest.NewProxy(t, c.mqtt), linktest.NewProxy(t, house)
	e := newEdge(t, c, "pi-1", "fleet: {url: mqtts://"+fleetProxy.Addr()+"}", "home: {broker: mqtt://"+homeProxy.Addr()+"}",
		camera(t, 2, "loop: true, fps: 40"))
	e.join()
	heard := listen(t, house, "-t", wire.Home{Root: "covey", ID: "pi-1"}.Result("cam"), "-i", "collector", "-c")
	c.covey("device", "results", "pi-1", "cam", "on")
	e.start()
	home := newLedger()
	hear := func(what string, ok func(r wire.Result) bool) {
		t.Helper()
		next(t, heard, 30*time.Second, what, func(_, payload string) bool {
			if home.take(t, payload) == "" {
				return false
			}
			r, err := decode[wire.Result]([]byte(payload))
			return err == nil && ok(r)
		})
	}
	awaitResults(t, c, "pi-1", "cam", 10)
	var died []time.Time
	for range kills {
		for _, p := range []*linktest.Proxy{fleetProxy, homeProxy} {
			p.Refuse(true)
			p.Reset()
		}
		pause(t, 3*time.Second) // 120 results for the outbox, all but those of the last second on the disk
		e.kill()
		died = append(died, time.Now())
		fleetProxy.Refuse(false)
		homeProxy.Refuse(false)
		e.start()
		hear("result after the kill", func(r wire.Result) bool { return r.TS.After(died[len(died)-1]) })
	}
	// Live goes first; what was held back follows.
	until(t, 30*time.Second, "all that was held back is here", func() error {
		for len(heard) > 0 {
			_, payload, _ := strings.Cut(<-heard, " ")
			home.take(t, payload)
		}
		fleet := c.ledger(t, "pi-1")
		if n := len(home.missing()) + len(fleet.missing()); n > 0 || fleet.newest().Before(died[kills-1]) {
			return fmt.Errorf("missing at home: %v, at the controller: %v; lost: %v, %v", home.missing(), fleet.missing(), home.lost, fleet.lost)
		}
		return nil
	})
	if err := e.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	for where, l := range map[string]*ledger{"home": home, "fleet": c.ledger(t, "pi-1")} {
		l.mustBeWhole(t)
		for _, s := range l.lost {
			if s.Reason != "crash" {
				t.Errorf("%s: lost by %s", where, s.Reason)
			}
		}
		if len(l.lost) > kills {
			t.Errorf("%s: %d spans are lost by %d kills", where, len(l.lost), kills)
		}
		t.Logf("%s: %v; silent before the kills: %v", where, l, l.silence(t, died))
	}
}

// newest is when the last result was captured.
func (l *ledger) newest() (at time.Time) {
	for _, payload := range l.bySeq {
		if r, err := decode[wire.Result]([]byte(payload)); err == nil && r.TS.After(at) {
			at = r.TS
		}
	}
	return at
}

// silence is how long before each kill the last result was captured that came. It
// may be the second in which results are gathered, and one for a busy machine.
func (l *ledger) silence(t *testing.T, died []time.Time) (all []time.Duration) {
	t.Helper()
	for _, at := range died {
		var before time.Time
		for _, payload := range l.bySeq {
			r, err := decode[wire.Result]([]byte(payload))
			if err == nil && r.TS.Before(at) && r.TS.After(before) {
				before = r.TS
			}
		}
		silent := at.Sub(before)
		if silent > 2*time.Second {
			t.Errorf("of the last %v before a kill nothing came, want 2 s at most", silent)
		}
		all = append(all, silent.Round(time.Millisecond))
	}
	return all
}

// A runner that is killed, crashes or hangs takes nothing with it: the agent says
// why, starts another, and a source that loses nothing has lost nothing.
func TestRunnerDies(t *testing.T) {
	t.Parallel()
	const frames = 200
	house := linktest.Mosquitto(t)
	heard := listen(t, house, "-t", wire.Home{Root: "covey", ID: "pi-1"}.Result("cam"))
	// A named accelerator needs no measuring, in runners of its own.
	e := newEdge(t, nil, "pi-1", "home: {broker: mqtt://"+house+"}", camera(t, frames, "fps: 40")+"    deadline: 1s\n    accelerator: xnnpack")
	e.start()
	l := newLedger()
	seen := map[uint64]bool{}
	hear := func(n int) {
		t.Helper()
		next(t, heard, 30*time.Second, fmt.Sprintf("%d frames", n), func(_, payload string) bool {
			l.take(t, payload)
			wantPeacock(t, []byte(payload))
			r, _ := decode[wire.Result]([]byte(payload))
			seen[r.Frame] = true
			return len(seen) >= n
		})
	}
	for i, death := range []struct {
		by   syscall.Signal
		said string
	}{{syscall.SIGSEGV, `"code":"E_CRASH"`}, {syscall.SIGKILL, `"code":"E_MEMORY"`}, {syscall.SIGSTOP, `"code":"E_TIMEOUT"`}, {syscall.SIGABRT, `"code":"E_CRASH"`}} {
		hear(30 * (i + 1))
		before := e.count(death.said)
		if n := e.signalRunners(death.by); n != 1 {
			t.Fatalf("%d runners, want one", n)
		}
		until(t, 10*time.Second, "the agent says "+death.said, func() error {
			if e.count(death.said) == before {
				return fmt.Errorf("said %d times", before)
			}
			return nil
		})
	}
	hear(frames)
	l.mustBeWhole(t)
	if len(l.bySeq) != frames || len(l.lost) > 0 {
		t.Errorf("%v, want %d results", l, frames)
	}
	e.await(fmt.Sprintf(`"captured":%d,"published":%d`, frames, frames), 10*time.Second)
	if err := e.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	if left := e.session(); len(left) > 0 {
		t.Errorf("%v still run", left)
	}
}
