// Package apitest runs a controller for tests: its real rooms and its real API
// behind TLS, in a temporary folder. Devices speak to it through the registry, as
// the broker would pass their messages on.
package apitest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/internal/api"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
)

// A Fleet is a controller under test.
type Fleet struct {
	URL   string
	CA    string // file, PEM
	Token string // of the admin
	Data  string // folder, with the files that a controller leaves there

	Auth     *auth.Authority
	Registry *registry.Registry
	Rollouts *rollout.Service
	Blobs    *blob.Store
	Sent     *Broker
}

// A Broker keeps what the registry publishes.
type Broker struct {
	mu     sync.Mutex
	kicked []wire.DeviceID
}

// Publish takes a message for nobody.
func (b *Broker) Publish(wire.Message) error { return nil }

// Kick notes whose connections end.
func (b *Broker) Kick(id wire.DeviceID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kicked = append(b.kicked, id)
}

// Kicked are the devices whose connections were ended.
func (b *Broker) Kicked() []wire.DeviceID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]wire.DeviceID(nil), b.kicked...)
}

// New starts a controller that lives as long as the test.
func New(t testing.TB) *Fleet {
	t.Helper()
	f := &Fleet{Data: t.TempDir(), Sent: &Broker{}}
	db, err := store.Open(filepath.Join(f.Data, "fleet.db"))
	check(t, err)
	t.Cleanup(func() { db.Close() })
	f.Auth, err = auth.Open(db, auth.Config{})
	check(t, err)
	f.Blobs, err = blob.Open(filepath.Join(f.Data, "blobs"), blob.OS{})
	check(t, err)
	nop := zerolog.Nop()
	director, err := trust.NewKey()
	check(t, err)
	f.Registry, err = registry.Open(db, f.Auth, f.Sent, registry.Config{Root: "covey", Log: nop, Blobs: f.Blobs, Director: director})
	check(t, err)
	f.Rollouts, err = rollout.Open(db, f.Registry, nop)
	check(t, err)
	f.serve(t, db)
	_, err = f.Auth.Admin(func(token string) error { f.Token = token; return nil })
	check(t, err)
	f.announce(t)
	return f
}

func (f *Fleet) serve(t testing.TB, db *store.Store) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	f.URL = "https://" + l.Addr().String()
	handler, err := api.New(api.Config{
		Version: "1.2.3", URL: f.URL, MQTT: "mqtts://127.0.0.1:8883", Root: "covey",
		Auth: f.Auth, Registry: f.Registry, Rollouts: f.Rollouts, Catalogue: rollout.NewCatalogue(db, f.Blobs), Blobs: f.Blobs,
		KickHome: func(string) {}, Metrics: prometheus.NewRegistry(), Log: zerolog.Nop(),
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler: handler, TLSConfig: f.Auth.ServerTLS(), ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var g errgroup.Group
	g.Go(func() error { return srv.ServeTLS(l, "", "") })
	g.Go(func() error { return f.Rollouts.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		srv.Close()
		if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// announce leaves what a controller leaves in its data folder.
func (f *Fleet) announce(t testing.TB) {
	t.Helper()
	f.CA = filepath.Join(f.Data, "ca.pem")
	token := filepath.Join(f.Data, "admin.token")
	check(t, os.WriteFile(f.CA, f.Auth.CAPEM(), 0o600))
	check(t, os.WriteFile(token, []byte(f.Token+"\n"), 0o600))
	b, err := json.Marshal(map[string]any{"api": f.URL, "ca": f.CA, "token": token})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(f.Data, "endpoints.json"), b, 0o600))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A Device is a board that has joined.
type Device struct {
	ID wire.DeviceID

	f         *Fleet
	t         testing.TB
	pipelines []string
	active    map[string]*wire.ReportedSlot
	sid       uint64
	steps     int
}

// Join lets a device in without its network, says hello and comes online. It has
// the tflite engine and the named pipelines, which run nothing.
func (f *Fleet) Join(t testing.TB, id wire.DeviceID, labels map[string]string, pipelines ...string) *Device {
	t.Helper()
	_, secret, err := f.Auth.AddJoin(0, 0, labels)
	check(t, err)
	_, err = f.Registry.Enrol(secret, CSR(t, string(id)), id)
	check(t, err)
	d := &Device{ID: id, f: f, t: t, pipelines: pipelines, active: map[string]*wire.ReportedSlot{}, sid: 1}
	d.Say("status", wire.Status{V: 1, State: wire.StateOnline, SID: d.sid, MID: "mid-" + string(id), TS: stamp})
	h := wire.Hello{
		V: 1, SID: d.sid, BootID: "boot", Agent: "1.0.0", OS: "linux", Arch: "arm64", Board: "raspberry-pi-5", CPUs: 4, RAM: 4 << 30,
		Accelerators: []wire.HelloDevice{{Engine: "tflite", Accelerator: "cpu", Name: "CPU"}},
		Runtimes:     map[string]string{"tflite": "2.17.1"}, MaxBlock: wire.BlockSize, TS: stamp,
	}
	for _, p := range pipelines {
		h.Pipelines = append(h.Pipelines, wire.HelloPipeline{Name: p, Source: "folder"})
	}
	d.Say("hello", h)
	return d
}

var stamp = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Say passes a message of the device on.
func (d *Device) Say(rest string, v any) {
	d.t.Helper()
	b, err := json.Marshal(v)
	check(d.t, err)
	check(d.t, d.f.Registry.Handle(d.ID, rest, b))
}

// Wish is what is desired of a pipeline, once an execution other than the one
// before is.
func (d *Device) Wish(pipeline, before string) wire.DesiredRelease {
	d.t.Helper()
	w := d.f.Registry.Watch(100)
	defer w.Close()
	deadline := time.After(10 * time.Second)
	for {
		doc, err := d.f.Registry.Desired(d.ID)
		check(d.t, err)
		if got := doc.Pipelines[pipeline]; got.Execution != before {
			return got
		}
		select {
		case <-w.C:
		case <-deadline:
			d.t.Fatalf("%s: nothing new is desired of %s", d.ID, pipeline)
		}
	}
}

// Step publishes a step of an execution.
func (d *Device) Step(pipeline string, w wire.DesiredRelease, state wire.ExecState, fault *wire.Fault) {
	d.t.Helper()
	d.steps++
	d.Say("exec/"+w.Execution, wire.ExecStep{
		V: 1, ID: string(d.ID) + "/" + w.Execution + "/" + string(rune('a'+d.steps%26)), Seq: uint64(d.steps), Execution: w.Execution, Pipeline: pipeline,
		Release: w.Release, N: d.steps, State: state, TS: stamp, Fault: fault,
	})
}

// Report reports how an execution stands. When it succeeded, the release runs.
func (d *Device) Report(pipeline string, w wire.DesiredRelease, state wire.ExecState, fault *wire.Fault) {
	d.t.Helper()
	if state == wire.Succeeded {
		d.active[pipeline] = &wire.ReportedSlot{Release: w.Release, Name: w.Name, Version: w.Version, SHA256: w.Release}
	}
	doc, err := d.f.Registry.Desired(d.ID)
	check(d.t, err)
	rep := wire.Reported{V: 1, Rev: doc.Rev, SID: d.sid, TS: stamp, Pipelines: map[string]wire.ReportedPipeline{}}
	for _, p := range d.pipelines {
		rep.Pipelines[p] = wire.ReportedPipeline{Active: d.active[p], Accelerator: "xnnpack"}
	}
	p := rep.Pipelines[pipeline]
	p.Execution, p.State, p.Fault = w.Execution, state, fault
	rep.Pipelines[pipeline] = p
	if state == wire.RolledBack {
		rep.Quarantine = []wire.Quarantined{{Release: w.Release, Attempt: w.Attempt, Code: fault.Code, At: stamp}}
	}
	d.Say("reported", rep)
}

// tiny is the smallest of models: one tensor, one softmax, no weights.
const tiny = "" +
	"FgAAAFRGTDMOABQABAAIAAwAAAAQAA4AAAADAAAADAAAACkAAADGAAAAAQAAABAAAAAMAA0ABAAAAAUACQAMAAAAGQIAAAAZAAAA" +
	"AQAAABAAAAAMABQABAAIAAwAEAAMAAAAEAAAAEMAAABHAAAASwAAAAEAAAAQAAAADAARAAQACAAJAA0ADAAAAA0AAAADAAAAABAA" +
	"AAACAAAAAQAAAAMAAAABAAAAeAABAAAAAAAAAAEAAAAAAAAAAQAAAA4AAAAKABAABAAIAAwACgAAAAAAAAAIAAAADAAAAAEAAAAA" +
	"AAAAAQAAAAAAAAABAAAACAAAAAQABAAEAAAA"

// Model writes a file that passes for a model as far as a controller looks: a
// tiny one, and something behind it up to size.
func Model(t testing.TB, dir, name string, size int) string {
	t.Helper()
	b := make([]byte, size)
	sum := sha256.Sum256([]byte(name))
	for i := range b {
		b[i] = sum[i%32] ^ byte(i>>8)
	}
	head, err := base64.StdEncoding.DecodeString(tiny)
	check(t, err)
	copy(b, head)
	path := filepath.Join(dir, name)
	check(t, os.WriteFile(path, b, 0o600))
	return path
}

// Hash is the SHA-256 of b in hex.
func Hash(b []byte) wire.Digest {
	sum := sha256.Sum256(b)
	return wire.Digest(hex.EncodeToString(sum[:]))
}
