package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/ladder"
)

// card is the fake engine with a GPU besides its CPU, which is faster and can break.
type card struct {
	tflite
	fast   *haltest.FakeEngine
	broken atomic.Bool
}

func newCard() *card {
	e := newEngine()
	c := &card{tflite: e, fast: newEngine().FakeEngine}
	c.fast.Latency = time.Millisecond
	c.fast.OnRun = func(int) error {
		if c.broken.Load() {
			return haltest.Crash()
		}
		return nil
	}
	return c
}

func (c *card) Probe(ctx context.Context) ([]hal.Device, []hal.Diagnosis) {
	devices, diagnoses := c.tflite.Probe(ctx)
	return append(devices, hal.Device{Accelerator: hal.GPU, ID: "card:0", Name: "a card", Driver: "card 1"}), diagnoses
}

func (c *card) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	if o.Accelerator != hal.GPU {
		return c.tflite.Open(ctx, m, o)
	}
	o.Accelerator = hal.CPU
	s, err := c.fast.Open(ctx, m, o)
	if err != nil {
		return nil, err
	}
	return &onCard{s}, nil
}

type onCard struct{ hal.Session }

func (s *onCard) Info() hal.Info {
	i := s.Session.Info()
	i.Accelerator = hal.GPU
	return i
}

// A board gives results on its CPU at once, moves to the better accelerator when it
// was measured, falls back when that breaks, says so, and comes back; the pipelines
// work all the time.
func TestAccelerators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t)
		w.run(ctx)
		e := newCard()
		var log logLines
		stop := w.board(ctx, e, zerolog.New(&log))
		good := w.release("birds", "1.0.0", aPicture("v1"))
		w.desire(1, good)
		if s := w.await(good.Execution); s.State != wire.Succeeded {
			t.Fatalf("release: %+v", s)
		}
		pipelines := []string{"pinned", "fleet"}
		want := func(when, accelerator, degraded string, after time.Duration) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			r := w.reported()
			for _, name := range pipelines {
				p := r.Pipelines[name]
				if p.Accelerator != accelerator || !strings.Contains(p.Degraded, degraded) || degraded == "" && p.Degraded != "" {
					t.Errorf("%s: %s runs on %q, degraded %q; want %q, %q", when, name, p.Accelerator, p.Degraded, accelerator, degraded)
				}
				if m, _ := w.broker.Retained(w.home.PipelineAvailable(name)); string(m.Payload) != "online" {
					t.Errorf("%s: %s is %q", when, name, m.Payload)
				}
				if p.Fault != nil {
					t.Errorf("%s: %s has the fault %+v", when, name, p.Fault)
				}
			}
		}
		want("measured", "gpu", "", 30*time.Second)
		if p := w.reported().Pipelines["pinned"]; len(p.Tried) != 1 || p.Tried[0].Accelerator != "cpu" || !strings.Contains(p.Tried[0].Reason, "times as long as gpu") {
			t.Errorf("the losers that are reported: %+v", p.Tried)
		}
		w.mu.Lock()
		before := len(w.results[w.home.Result("pinned")])
		w.mu.Unlock()
		e.broken.Store(true)
		want("broken", "cpu", "gpu: 3 sessions were lost, the last by E_CRASH", 5*time.Second)
		want("still broken", "cpu", "gpu: E_CRASH", 3*time.Minute)
		e.broken.Store(false)
		want("mended", "gpu", "", 10*time.Minute)
		if err := stop(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := len(w.results[w.home.Result("pinned")]) - before; n < 10*60*12 {
			t.Errorf("%d results while the accelerator was broken and mended", n)
		}
		log.balance(t)
		for _, s := range append(e.Sessions(), e.fast.Sessions()...) {
			if !s.Closed() {
				t.Error("a session is open after the end")
			}
		}
		cancel()
	})
}

// Choices survive on the disk, and a file that is not there is none.
func TestChoices(t *testing.T) {
	fs := crashfs.New()
	if err := fs.MkdirAll("/data"); err != nil {
		t.Fatal(err)
	}
	c := choices{fs, ChoicesPath("/data")}
	if b, err := c.Load(); b != nil || err != nil {
		t.Errorf("of nothing: %q, %v", b, err)
	}
	if err := c.Save([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Load(); string(b) != "x" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := (choices{blob.OS{}, t.TempDir()}).Load(); err == nil {
		t.Error("a folder was read")
	}
}

func TestCPU(t *testing.T) {
	for text, want := range map[string]cpu{
		"processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu\n\nprocessor\t: 1\nmodel name\t: other\n":                               {"Intel(R) Xeon(R)", false},
		"processor\t: 0\nFeatures\t: fp asimd fphp asimdhp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nprocessor: 1\nCPU part: 0xd05\n":      {"0x41 0xd0b", true},
		"processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\nModel: Raspberry Pi 4 Model B\n": {"0x41 0xd08", false},
		"nonsense\x00": {},
		"model name: " + strings.Repeat("x\x01", 500): {strings.Repeat("x", 100), false},
	} {
		if got := cpuOf(fstest.MapFS{"proc/cpuinfo": &fstest.MapFile{Data: []byte(text)}}); got != want {
			t.Errorf("%.60q: %+v, want %+v", text, got, want)
		}
	}
	if got := cpuOf(nil); got != (cpu{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

// However many accelerators lost on however many pipelines, the report is short.
func TestReportedIsBounded(t *testing.T) {
	i := hal.Info{Accelerator: hal.XNNPACK}
	for n := range 40 {
		i.Tried = append(i.Tried, hal.Attempt{Accelerator: hal.Accelerator(fmt.Sprint("external:lib", n)), Reason: strings.Repeat("é", 100), Took: time.Second},
			hal.Attempt{Accelerator: hal.XNNPACK, Threads: n, Reason: "slower"})
	}
	list := lost(i)
	if len(list) != maxLost || len(list[0].Reason) > lostReason || list[0].Ms != 1000 {
		t.Errorf("%d attempts, the first %+v", len(list), list[0])
	}
	r := wire.Reported{V: wire.Version, Pipelines: map[string]wire.ReportedPipeline{}}
	for n := range 12 {
		r.Pipelines[fmt.Sprint("p", n)] = wire.ReportedPipeline{Accelerator: "xnnpack", Tried: list}
	}
	full := 0
	for _, p := range bounded(r).Pipelines {
		if len(p.Tried) > 0 {
			full++
		}
	}
	if full == 0 || full == 12 {
		t.Errorf("%d of 12 pipelines say why others lost", full)
	}
	if got := bounded(wire.Reported{V: wire.Version, Pipelines: map[string]wire.ReportedPipeline{"p": {Tried: list}}}); len(got.Pipelines["p"].Tried) != maxLost {
		t.Error("what fits was cut")
	}
	// Evidence goes when the reasons are not enough, and no earlier.
	e := &wire.Evidence{Model: wire.Digest(strings.Repeat("a", 64)), Accel: "xnnpack", Trial: &wire.Measure{Runs: 600}, Before: &wire.Measure{Runs: 600}}
	for n := range 60 {
		r.Pipelines[fmt.Sprint("p", n)] = wire.ReportedPipeline{Accelerator: "xnnpack", Tried: list, Evidence: e}
	}
	b, err := json.Marshal(bounded(r))
	if err != nil || len(b) > maxReported || !strings.Contains(string(b), "evidence") || strings.Contains(string(b), "tried") {
		t.Errorf("%d bytes, %v: %.200s", len(b), err, b)
	}
}

func TestAcceleratorConfig(t *testing.T) {
	f, err := ParseFile("agent.yaml", "/etc/covey", []byte(`
accelerators: [edgetpu, "external:*", xnnpack]
delegates:
  - library: /usr/lib/libvx_delegate.so
    options: {cache: /tmp/x, device: 0, fast: true}
    devices: [/dev/galcore]
  - library: libteflon.so
pipelines:
  cam:
    source: {type: synthetic}
    accelerators: [cpu]
    model: m.tflite
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.Accelerators, f.Pipelines[0].Accelerators, f.Delegates); got !=
		"[edgetpu external:* xnnpack] [cpu] [{/usr/lib/libvx_delegate.so map[cache:/tmp/x device:0 fast:true] [/dev/galcore]} {libteflon.so map[] []}]" {
		t.Errorf("got %s", got)
	}
	if d := f.delegates(); len(d) != 2 || d[0].Accelerator != "external:/usr/lib/libvx_delegate.so" {
		t.Errorf("devices %+v", d)
	}
	s := f.settings(cpu{half: true})
	if len(s[hal.XNNPACK]) != 3 || s["external:/usr/lib/libvx_delegate.so"][0]["cache"] != "/tmp/x" || s[ladder.External] != nil {
		t.Errorf("settings %+v", s)
	}
	for _, bad := range []string{
		"accelerators: cpu", "accelerators: []", "accelerators: [auto]", "accelerators: [cpu, cpu]", "accelerators: [tpu]", "accelerators: [[cpu]]",
		"delegates: {library: x}", "delegates: [{options: {a: b}}]", "delegates: [{library: ../x.so}]", "delegates: [{library: x}, {library: x}]",
		"delegates: [{library: x, devices: [/etc/shadow]}]", "delegates: [{library: x, devices: [/dev/../etc/shadow]}]", "delegates: [{library: x, options: {a: [b]}}]",
		"delegates: [{library: x, options: {a: " + strings.Repeat("b", maxOption+1) + "}}]", "delegates: [{library: x, colour: red}]",
	} {
		if _, err := ParseFile("agent.yaml", "/", []byte(bad+"\n")); hal.CodeOf(err) != hal.CodeConfig || !strings.Contains(err.Error(), "agent.yaml:1:") {
			t.Errorf("%.60s: %v", bad, err)
		}
	}
}
