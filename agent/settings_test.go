package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

const boardsOwn = `
device: pi-1
pipelines:
  cam:
    source: {type: mjpeg, url: "http://192.168.1.20/stream"}
    threshold: 0.5
`

// The board's own word counts, and what a fleet may say is bounded.
func TestFleetConfig(t *testing.T) {
	f, err := ParseFile("agent.yaml", "/etc/covey", []byte(boardsOwn))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.with("yard 1.0.0", []byte(`
health_seconds: 30
pipelines:
  cam:
    source: {type: rtsp, url: "rtsp://10.0.0.1/x"}
    threshold: 0.9
    top: 3
  door:
    source: {type: v4l2, device: "usb:1"}
`))
	if err != nil {
		t.Fatal(err)
	}
	cam, door := got.Pipelines[0], got.Pipelines[1]
	if got.HealthSeconds != 30 || got.Device != "pi-1" || len(got.Pipelines) != 2 {
		t.Errorf("%+v", got)
	}
	if cam.Source.Type != "mjpeg" || cam.Source.URL != "http://192.168.1.20/stream" || cam.Threshold != 0.5 || cam.Top != 3 {
		t.Errorf("cam %+v", cam)
	}
	if door.Name != "door" || door.Source.Device != "usb:1" {
		t.Errorf("door %+v", door)
	}
	for _, text := range []string{
		`{type: alsa, rate: 16000, device: "hw:CARD=Device,DEV=0"}`, `{type: alsa, rate: 16000}`,
		`{type: serial, baud: 9600, format: csv, channels: [a], device: /dev/ttyUSB0}`, `{type: serial, format: csv, channels: [a], device: /dev/serial/by-id/usb-x-port0}`,
		`{type: v4l2, device: /dev/video0}`, `{type: gpio, device: pinctrl-bcm2711, channels: [GPIO4]}`, `{type: iio, device: bme280}`,
	} {
		if _, err := f.with("yard", []byte("accelerators: [\"external:*\", cpu]\npipelines: {x: {source: "+text+"}}")); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if len(f.Pipelines) != 1 || f.HealthSeconds != 0 || f.Pipelines[0].Top != 0 {
		t.Errorf("the board's own file has changed: %+v", f)
	}
	for text, want := range map[string]string{
		"":                                  "nothing is configured",
		"data: /tmp":                        `"data" is not a key of a fleet's configuration`,
		"fleet: {enabled: false}":           `"fleet" is not a key`,
		"home: {broker: \"mqtt://evil\"}":   `"home" is not a key`,
		"delegates: [{library: /tmp/x.so}]": `"delegates" is not a key`,
		"pipelines: {cam: {model: /tmp/x.tflite}}":                                                          `"model" is not a key`,
		"pipelines: {cam: {labels: /etc/shadow}}":                                                           `"labels" is not a key`,
		"pipelines: {config: {top: 1}}":                                                                     "no pipeline can be called config",
		"pipelines: {x: {source: {type: exec, command: [sh, -c, id], format: mjpeg}}}":                      "the board's own configuration alone",
		"pipelines: {x: {source: {type: folder, path: /etc}}}":                                              "the board's own configuration alone",
		"pipelines: {x: {source: {type: mjpeg, url: \"http://a/b\", user: a, password_file: /etc/shadow}}}": "names a file of the board",
		"pipelines: {x: {source: {type: mjpeg, url: \"https://a/b\", ca: /etc/shadow}}}":                    "names a file of the board",
		// ALSA's plugins start programs and write files.
		`pipelines: {x: {source: {type: alsa, rate: 16000, device: "file:'|touch /tmp/x',raw"}}}`:                          "may be more than a device",
		`pipelines: {x: {source: {type: alsa, rate: 16000, device: "tee:null,/tmp/x,raw"}}}`:                               "may be more than a device",
		`pipelines: {x: {source: {type: alsa, rate: 16000, device: "hw:CARD='|id'"}}}`:                                     "may be more than a device",
		`pipelines: {x: {source: {type: alsa, rate: 16000, device: "{type file file x}"}}}`:                                "may be more than a device",
		"pipelines: {x: {source: {type: serial, baud: 9600, format: csv, channels: [a], device: /dev/watchdog}}}":          "may be more than a device",
		"pipelines: {x: {source: {type: serial, baud: 9600, format: csv, channels: [a], device: /dev/ttyS0/../watchdog}}}": "may be more than a device",
		"pipelines: {x: {source: {type: v4l2, device: /dev/watchdog}}}":                                                    "may be more than a device",
		"pipelines: {x: {source: {type: gpio, device: /etc/shadow, channels: [a]}}}":                                       "may be more than a device",
		"pipelines: {cam: {accelerator: \"external:/tmp/x.so\"}}":                                                          "none of the board's delegates",
		"pipelines: {cam: {accelerators: [cpu, \"external:x.so\"]}}":                                                       "none of the board's delegates",
		"accelerators: [\"external:/tmp/x.so\"]":                                                                           "none of the board's delegates",
		"pipelines: {x: {threshold: 7}}":                                                                                   "yard:1:",
		"pipelines: {x: {top: 3}}":                                                                                         "pipeline x needs a source",
		"a: b: c":                                                                                                          "yard:1:",
		"--- \na: 1\n---\nb: 2":                                                                                            "yard:",
		strings.Repeat("#", maxConfig+1):                                                                                   "longer than",
	} {
		if _, err := f.with("yard", []byte(text)); hal.CodeOf(err) != hal.CodeConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %s", text, err, want)
		}
	}
	if _, err := (&File{}).with("yard", []byte("health_seconds: 9")); hal.CodeOf(err) != hal.CodeConfig {
		t.Errorf("a file that nobody wrote: %v", err)
	}
}

func FuzzFleetConfig(f *testing.F) {
	own, err := ParseFile("agent.yaml", "/etc/covey", []byte(boardsOwn))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("pipelines: {cam: {top: 3}, door: {source: {type: v4l2, device: a}}}")
	f.Add("pipelines: {x: {source: {type: exec}}}")
	f.Add("pipelines: &a {x: *a}")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := own.with("yard", []byte(text))
		if err != nil {
			if hal.CodeOf(err) != hal.CodeConfig {
				t.Errorf("%v has no code", err)
			}
			return
		}
		if got.Device != "pi-1" || got.Data != own.Data || got.Home != nil || got.Fleet != own.Fleet || got.Delegates != nil {
			t.Errorf("%q changed what it may not: %+v", text, got)
		}
		for _, p := range got.Pipelines {
			if p.Model != "" || p.Labels != "" || p.Source.Command != nil || p.Source.Path != "" || p.Source.PasswordFile != "" || p.Source.CA != "" {
				t.Errorf("%q names a file: %+v", text, p)
			}
			if p.Name == "cam" && (p.Threshold != 0.5 || p.Source.URL != own.Pipelines[0].Source.URL) {
				t.Errorf("%q is above the board's own word: %+v", text, p)
			}
		}
	})
}

// configuration makes a release of configuration.
func (w *world) configuration(version, text string) wire.DesiredRelease {
	w.t.Helper()
	sum := sha256.Sum256([]byte(text))
	sha := hex.EncodeToString(sum[:])
	m := &release.Manifest{V: 1, Name: "yard", Version: version, Config: &release.File{Name: "config.yaml", SHA256: sha, Length: int64(len(text)), Blocks: sum[:]}}
	w.blobs[wire.Digest(sha)] = []byte(text)
	w.blobs[m.Digest()] = m.Canonical()
	return wire.DesiredRelease{Release: m.Digest(), Length: int64(len(m.Canonical())), Name: "yard", Version: version,
		Execution: wire.NewID("ex"), Attempt: 1, Mode: wire.ModeActivate}
}

// A fleet configures a board: what is good stays, over restarts too; what takes the
// frames away, or cannot be read, goes, and what ran before is back.
func TestFleetConfigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t)
		w.run(ctx)
		file, err := ParseFile("agent.yaml", t.TempDir(), fmt.Appendf(nil, "data: %s\npipelines:\n  fleet:\n    source: {type: synthetic, fps: 20}\n", filepath.Join(t.TempDir(), "data")))
		if err != nil {
			t.Fatal(err)
		}
		var starts atomic.Int32
		var mu sync.Mutex // guards rates
		var rates []int   // of sources, as they were opened
		life := func() (stop func()) {
			ctx, cancel := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() {
				for {
					starts.Add(1)
					err := Run(ctx, Config{
						File: file, Device: "pi-1", Version: "test", FS: blob.OS{}, Engines: []hal.Engine{newEngine()},
						Source: func(_ context.Context, s SourceFile) (hal.Source, error) {
							if s.Type == "mjpeg" {
								return nil, &hal.Error{Code: hal.CodeSource, Text: "no such camera"}
							}
							mu.Lock()
							rates = append(rates, int(s.FPS))
							mu.Unlock()
							return &haltest.FakeSource{Every: time.Duration(float64(time.Second) / s.FPS)}, nil
						},
						Fleet: &FleetLink{Link: w.broker.Link("pi-1", false), Bulk: func() wire.Link { return w.broker.Link("pi-1~x", true) },
							Root: "covey", MachineID: "m1"},
						Board: firmware.Board{Name: "test board", RAM: 1 << 30, CPUs: 2}, Log: zerolog.Nop(),
					})
					if !errors.Is(err, ErrReconfigured) {
						ended <- err
						return
					}
				}
			}()
			return func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		}
		stop := life()
		rev := uint64(0)
		model := w.release("birds", "1.0.0", aPicture("v1"))
		order := func(r wire.DesiredRelease) wire.ExecStep {
			rev++
			w.desireAll(rev, map[string]wire.DesiredRelease{"fleet": model, wire.ConfigPipeline: r})
			return w.await(r.Execution)
		}
		wantActive := func(version string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			r := w.reported()
			p := r.Pipelines[wire.ConfigPipeline]
			if p.Active == nil || p.Active.Version != version || p.Candidate != nil {
				t.Errorf("reported %+v, want %s", p, version)
			}
		}

		good := w.configuration("1.0.0", "pipelines: {fleet: {top: 2}, yard: {source: {type: synthetic, live: true, fps: 10}}}")
		if s := order(good); s.State != wire.Succeeded {
			t.Fatalf("good: %+v", s)
		}
		wantActive("1.0.0")
		if starts.Load() != 2 || len(w.reported().Pipelines) != 3 {
			t.Errorf("%d starts, reported %+v", starts.Load(), w.reported().Pipelines)
		}
		if r := w.reported(); r.Pipelines["fleet"].Active == nil {
			t.Errorf("the model of pipeline fleet is gone: %+v", r)
		}

		// It takes the frames of a pipeline away.
		blind := w.configuration("2.0.0", "pipelines: {yard: {source: {type: mjpeg, url: \"http://10.0.0.9/none\"}}}")
		if s := order(blind); s.State != wire.RolledBack || s.Fault == nil || s.Fault.Code != string(hal.CodeSource) {
			t.Errorf("blind: %+v", s)
		}
		wantActive("1.0.0")
		if starts.Load() != 4 {
			t.Errorf("%d starts, want 4: there and back", starts.Load())
		}
		// Nobody wants it any more while it is on trial.
		unwanted := w.configuration("2.1.0", "pipelines: {yard: {source: {type: synthetic, live: true, fps: 9}}}")
		rev++
		w.desireAll(rev, map[string]wire.DesiredRelease{"fleet": model, wire.ConfigPipeline: unwanted})
		w.awaitState(unwanted.Execution, wire.Probation)
		rev++
		w.desireAll(rev, map[string]wire.DesiredRelease{"fleet": model})
		if s := w.await(unwanted.Execution); s.State != wire.Canceled || s.Fault != nil {
			t.Errorf("unwanted: %+v", s)
		}
		wantActive("1.0.0")
		if starts.Load() != 6 {
			t.Errorf("%d starts, want 6: there and back", starts.Load())
		}
		if r := w.reported(); len(r.Quarantine) != 1 { // the blind one
			t.Errorf("quarantine %+v", r.Quarantine)
		}
		// What cannot be read, or may not be said.
		for version, text := range map[string]string{"3.0.0": "pipelines: {yard: {top: many}}", "3.0.1": "pipelines: {yard: {source: {type: exec, command: [id], format: mjpeg}}}"} {
			if s := order(w.configuration(version, text)); s.State != wire.Rejected || s.Fault == nil || s.Fault.Code != string(hal.CodeConfig) {
				t.Errorf("%s: %+v", version, s)
			}
		}
		// A model is no configuration, and the other way round.
		if s := order(w.release("birds", "4.0.0", aPicture("v4"))); s.State != wire.Rejected || s.Fault.Code != string(hal.CodeTarget) {
			t.Errorf("a model: %+v", s)
		}
		wantActive("1.0.0")
		if starts.Load() != 6 {
			t.Errorf("%d starts, want 6", starts.Load())
		}
		stop()
		stop = life()
		wantActive("1.0.0")
		if last := rates[len(rates)-2:]; last[0]+last[1] != 30 {
			t.Errorf("after a restart the sources are %v", last)
		}
		stop()
		cancel()
	})
}
