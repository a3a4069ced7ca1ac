package registry_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/pack"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
)

// A broker that remembers what was published, in place of one that sends it.
type recorder struct {
	mu     sync.Mutex
	kept   map[string][]byte // retained
	out    chan wire.Message
	kicked []wire.DeviceID
}

func (b *recorder) Publish(m wire.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.Retain {
		b.kept[m.Topic] = m.Payload
		return nil
	}
	b.out <- m
	return nil
}

func (b *recorder) Kick(id wire.DeviceID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kicked = append(b.kicked, id)
}

func (b *recorder) retained(id wire.DeviceID) (d wire.Desired) {
	b.mu.Lock()
	defer b.mu.Unlock()
	json.Unmarshal(b.kept["covey/1/d/"+string(id)+"/dn/desired"], &d)
	return d
}

type rig struct {
	*registry.Registry
	director trust.Signer // nil: none
	path     string
	db       *store.Store
	auth     *auth.Authority
	blobs    *blob.Store
	br       *recorder
	log      bytes.Buffer
}

func start(t *testing.T) *rig {
	t.Helper()
	r := &rig{path: t.TempDir()}
	r.open(t)
	t.Cleanup(func() { r.db.Close() })
	return r
}

// open opens everything, as a controller that starts does.
func (r *rig) open(t *testing.T) {
	t.Helper()
	var err error
	if r.db, err = store.Open(filepath.Join(r.path, "x.db")); err != nil {
		t.Fatal(err)
	}
	if r.auth, err = auth.Open(r.db, auth.Config{}); err != nil {
		t.Fatal(err)
	}
	if r.blobs, err = blob.Open(filepath.Join(r.path, "blobs"), blob.OS{}); err != nil {
		t.Fatal(err)
	}
	r.br = &recorder{kept: map[string][]byte{}, out: make(chan wire.Message, 1000)}
	r.Registry, err = registry.Open(r.db, r.auth, r.br, registry.Config{Root: "covey", Blobs: r.blobs, Director: r.director, Log: zerolog.New(&r.log)})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) join(t *testing.T, id wire.DeviceID) {
	t.Helper()
	_, secret, err := r.auth.AddJoin(0, 0, map[string]string{"site": "north"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Enrol(secret, csr(t), id); err != nil {
		t.Fatal(err)
	}
}

func csr(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (r *rig) send(t *testing.T, id wire.DeviceID, rest string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Handle(id, rest, b); err != nil {
		t.Fatal(err)
	}
}

func result(seq uint64) wire.Result {
	return wire.Result{V: 1, ID: fmt.Sprintf("pi/r/%d", seq), Seq: seq, Pipe: "cam", Frame: seq, Accel: "cpu", Kind: "classify", Items: []wire.Item{}}
}

func TestDeviceLife(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	r.send(t, "pi", "status", wire.Status{V: 1, State: wire.StateOnline, SID: 3, MID: "m"})
	r.send(t, "pi", "hello", wire.Hello{V: 1, SID: 3, Board: "pi5", Arch: "arm64", BootID: "b", Agent: "1", OS: "linux", CPUs: 4, RAM: 1 << 30, MaxBlock: wire.BlockSize})
	r.send(t, "pi", "health", wire.Health{V: 1, CPU: 7})
	r.send(t, "pi", "reported", wire.Reported{V: 1, Rev: 0, SID: 3})
	if err := r.Rename("pi", "Porch"); err != nil {
		t.Fatal(err)
	}
	if err := r.SetLabels("pi", map[string]string{"ring": "canary", "site": ""}); err != nil {
		t.Fatal(err)
	}
	check := func(state string) {
		t.Helper()
		d, ok := r.Device("pi")
		if !ok || d.State != state || d.Name != "Porch" || d.Labels["ring"] != "canary" || d.Labels["site"] != "" || d.Hello == nil || d.Hello.Board != "pi5" || d.Reported == nil {
			t.Errorf("device %+v, want it %s", d, state)
		}
	}
	check(wire.StateOnline)
	q, err := r.Query("board=pi5,ring=canary,online=true")
	if err != nil || len(r.Select(q)) != 1 {
		t.Errorf("query: %v", err)
	}
	r.db.Close()
	r.open(t)
	check(wire.StateOffline) // until it says so again

	if err := r.Revoke("pi"); err != nil {
		t.Fatal(err)
	}
	if len(r.br.kicked) != 1 || len(r.Select(group.All())) != 0 {
		t.Errorf("kicked %v, %d devices", r.br.kicked, len(r.Select(group.All())))
	}
	if _, err := r.ChangeDesired("pi", func(*wire.DesiredSigned) error { return nil }); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("desired of a revoked device: %v", err)
	}
	r.join(t, "pi")
	if len(r.Select(group.All())) != 1 {
		t.Error("did not come back")
	}
	for name, err := range map[string]error{
		"rename": r.Rename("nobody", "x"), "label": r.SetLabels("nobody", nil), "revoke": r.Revoke("nobody"),
	} {
		if !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []map[string]string{{"board": "x"}, {"A": "x"}, {"a": "x,y"}, {"a": "x\n"}} {
		if err := r.SetLabels("pi", bad); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("labels %v: %v", bad, err)
		}
	}
}

// Joining again and another change of the device are one after the other: a record
// read before must not bring the revocation back.
func TestJoinAgainAmongChanges(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	for i := range 50 {
		if err := r.Revoke("pi"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := r.Rename("pi", fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		r.join(t, "pi")
		wg.Wait()
		if d, _ := r.Device("pi"); !d.Revoked.IsZero() || d.Name != fmt.Sprint(i) {
			t.Fatalf("round %d: %+v", i, d)
		}
	}
}

// TestResults: everything once, in the order it came, across a restart.
func TestResults(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	w := r.Watch(100)
	defer w.Close()
	for seq := range uint64(20) {
		r.send(t, "pi", "result/cam", result(seq+1))
		if seq%3 == 0 {
			r.send(t, "pi", "result/cam", result(seq+1)) // its PUBACK got lost
		}
	}
	r.db.Close()
	r.open(t)
	r.send(t, "pi", "result/cam", result(20))
	r.send(t, "pi", "result/cam", wire.Lost{V: 1, ID: "pi/r/25", Seq: 25, Lost: wire.LostSpan{Class: "result", From: 21, To: 25, Reason: "bytes"}})
	list, err := r.Answers("pi", "cam", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 21 || !list[20].Lost || list[20].Seq != 25 {
		t.Fatalf("%d answers, the last %+v", len(list), list[len(list)-1])
	}
	for i, a := range list[:20] {
		var res wire.Result
		if err := json.Unmarshal(a.Payload, &res); err != nil || res.Seq != uint64(i+1) || a.N != res.Seq {
			t.Errorf("answer %d: %+v, %v", i, a, err)
		}
	}
	if page, _ := r.Answers("pi", "cam", 5, 3); len(page) != 3 || page[0].N != 6 {
		t.Errorf("page %+v", page)
	}
	if n, _ := r.AnswerCount("pi", "cam"); n != 21 {
		t.Errorf("count %d", n)
	}
	// The same again, only late this time, is the same.
	late := result(7)
	late.Late = true
	r.send(t, "pi", "result/cam", late)
	if n, _ := r.AnswerCount("pi", "cam"); n != 21 || strings.Contains(r.log.String(), "other content") {
		t.Errorf("%d answers after one came late again\n%s", n, r.log.String())
	}
	// The same id with other content is not stored, and said.
	other := result(7)
	other.Accel = "gpu"
	r.send(t, "pi", "result/cam", other)
	if a, _ := r.Answers("pi", "cam", 6, 1); strings.Contains(string(a[0].Payload), "gpu") || !strings.Contains(r.log.String(), "other content") {
		t.Errorf("a result was replaced: %s\n%s", a[0].Payload, r.log.String())
	}
}

func TestRingIsBounded(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	const n = 10_050
	var wg sync.WaitGroup
	next := make(chan uint64)
	for range 100 { // as many devices would, so that commits are shared
		wg.Go(func() {
			for seq := range next {
				r.send(t, "pi", "result/cam", result(seq))
			}
		})
	}
	for seq := range uint64(n) {
		next <- seq + 1
	}
	close(next)
	wg.Wait()
	list, err := r.Answers("pi", "cam", 0, n)
	if err != nil || len(list) != 10_000 || list[0].N != 51 {
		t.Errorf("%d answers from %d, %v", len(list), list[0].N, err)
	}
	for i := range 30 {
		res := result(1)
		res.Pipe = fmt.Sprintf("cam%d", i)
		r.send(t, "pi", "result/"+res.Pipe, res)
	}
	if a, _ := r.Answers("pi", "cam14", 0, 1); len(a) != 1 {
		t.Error("a few pipelines were refused")
	}
	if a, _ := r.Answers("pi", "cam15", 0, 1); len(a) != 0 {
		t.Error("pipelines without end are kept")
	}
}

// TestNonsense: whatever comes is acknowledged, so that it does not come for ever,
// logged once, and changes nothing.
func TestNonsense(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	before, _ := r.Device("pi")
	for range 3 {
		for _, rest := range []string{"status", "hello", "health", "reported", "exec/ex-1", "result/cam", "block/get", "event/cam", "", "x/y"} {
			for _, payload := range []string{"", "{", "null", `{"v":2}`, `[]`, `{"v":1,"state":"dancing","ts":"noon"}`, strings.Repeat("x", 100<<10)} {
				if err := r.Handle("pi", rest, []byte(payload)); err != nil {
					t.Errorf("%s %.20q: %v", rest, payload, err)
				}
			}
		}
	}
	if after, _ := r.Device("pi"); after.State != before.State || after.Hello != nil || after.Health != nil || after.Reported != nil {
		t.Errorf("changed to %+v", after)
	}
	if n := strings.Count(r.log.String(), "message dropped"); n == 0 || n > 70 {
		t.Errorf("logged %d times", n)
	}
	if err := r.Handle("nobody", "status", []byte(`{"v":1,"state":"online","sid":1,"mid":"m"}`)); err != nil {
		t.Errorf("of a device that is not known: %v", err)
	}
}

func TestDesired(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	set := func(execution string) error {
		_, err := r.ChangeDesired("pi", func(d *wire.DesiredSigned) error {
			d.Pipelines["cam"] = wire.DesiredRelease{Release: wire.Digest(strings.Repeat("a", 64)), Length: 1, Name: "m", Version: "1.0.0", Execution: execution, Mode: wire.ModeActivate}
			return nil
		})
		return err
	}
	if err := set("ex-1"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 50 { // whatever order they publish in, the newest stays
		wg.Go(func() {
			if err := set(fmt.Sprintf("ex-%d", i+2)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	stored, err := r.Desired("pi")
	if err != nil || stored.Rev != 51 || r.br.retained("pi").Signed.Rev != 51 {
		t.Errorf("stored rev %d, published %d, %v", stored.Rev, r.br.retained("pi").Signed.Rev, err)
	}
	if _, err := r.ChangeDesired("pi", func(*wire.DesiredSigned) error { return errors.New("no") }); err == nil {
		t.Error("a refused change was made")
	}
	if _, err := r.ChangeDesired("pi", func(d *wire.DesiredSigned) error {
		d.Config.Results = []string{strings.Repeat("x", wire.MaxDesired)}
		return nil
	}); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("a document too long: %v", err)
	}
	if _, err := r.ChangeDesired("pi", func(d *wire.DesiredSigned) error {
		w := d.Pipelines["cam"]
		w.Window = &wire.Window{Cron: "0 2 30 2 *", Minutes: 60}
		d.Pipelines["cam"] = w
		return nil
	}); !errors.Is(err, registry.ErrInvalid) || !strings.Contains(err.Error(), "no year has such a day") {
		t.Errorf("a window that never opens: %v", err)
	}
	r.db.Close()
	r.open(t)
	if err := r.PublishAll(); err != nil || r.br.retained("pi").Signed.Rev != 51 {
		t.Errorf("after a restart: rev %d, %v", r.br.retained("pi").Signed.Rev, err)
	}

	// Steps of executions that were asked for are kept, once each; others not.
	step := func(execution string, n int, s wire.ExecState) wire.ExecStep {
		return wire.ExecStep{V: 1, ID: fmt.Sprintf("pi/%s/%d", execution, n), Execution: execution, Pipeline: "cam", Release: wire.Digest(strings.Repeat("a", 64)), N: n, State: s}
	}
	w := r.Watch(10)
	defer w.Close()
	r.send(t, "pi", "exec/ex-1", step("ex-1", 2, wire.Succeeded))
	r.send(t, "pi", "exec/ex-1", step("ex-1", 1, wire.Downloading))
	r.send(t, "pi", "exec/ex-1", step("ex-1", 1, wire.Downloading))
	r.send(t, "pi", "exec/ex-99", step("ex-99", 1, wire.Downloading))
	r.send(t, "pi", "exec/ex-2", step("ex-1", 3, wire.Failed))
	steps, err := r.Steps("pi", "ex-1")
	if err != nil || len(steps) != 2 || steps[0].N != 1 || steps[1].N != 2 {
		t.Errorf("steps %+v, %v", steps, err)
	}
	if steps, _ := r.Steps("pi", "ex-99"); len(steps) != 0 {
		t.Error("a step of an execution that nobody asked for was kept")
	}
	for _, n := range []int{2, 1} {
		if e := <-w.C; e.Kind != registry.EventExec || e.Step.N != n {
			t.Errorf("event %+v, want step %d", e, n)
		}
	}
	if len(w.C) != 0 {
		t.Errorf("%d events more", len(w.C))
	}
	// An execution that waits night after night counts far; what is kept is bounded, and
	// its end is kept all the same.
	if err := set("ex-far"); err != nil {
		t.Fatal(err)
	}
	for n := range 1100 {
		r.send(t, "pi", "exec/ex-far", step("ex-far", 100*(n+1), wire.WaitingWindow))
	}
	r.send(t, "pi", "exec/ex-far", step("ex-far", 200_000, wire.Succeeded))
	r.send(t, "pi", "exec/ex-far", step("ex-far", 2_000_000, wire.Failed))
	if steps, err := r.Steps("pi", "ex-far"); err != nil || len(steps) != 1001 || steps[1000].State != wire.Succeeded {
		t.Errorf("%d steps are kept, %v", len(steps), err)
	}

	if err := r.Revoke("pi"); err != nil {
		t.Fatal(err)
	}
	if r.br.retained("pi").Signed.Rev != 0 {
		t.Error("the desired document of a revoked device is still out")
	}
	r.join(t, "pi")
	if err := set("ex-100"); err != nil {
		t.Fatal(err)
	}
	if d, _ := r.Desired("pi"); d.Rev != 53 {
		t.Errorf("rev %d after joining again: an agent would ignore it", d.Rev)
	}
}

func (r *rig) blob(t *testing.T, b []byte) wire.Digest {
	t.Helper()
	sum := sha256.Sum256(b)
	sha := wire.Digest(hex.EncodeToString(sum[:]))
	if err := r.blobs.Put(t.Context(), sha, int64(len(b)), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return sha
}

// A device knows revisions that the controller has lost, since its database was
// restored from a backup: the next one goes on from there, or it would be refused.
func TestRevisionsGoOnAfterARestore(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	report := func(rev uint64) {
		t.Helper()
		b, err := json.Marshal(wire.Reported{V: 1, Rev: rev, SID: 1, TS: time.Now(), Pipelines: map[string]wire.ReportedPipeline{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Handle("pi", "reported", b); err != nil {
			t.Fatal(err)
		}
	}
	ask := func() uint64 {
		t.Helper()
		d, err := r.ChangeDesired("pi", func(d *wire.DesiredSigned) error { d.Config.Results = []string{"*"}; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return d.Rev
	}
	if got := ask(); got != 1 {
		t.Errorf("first revision %d", got)
	}
	report(41)
	if got := ask(); got != 42 {
		t.Errorf("revision %d after one that the device has, 41", got)
	}
	report(math.MaxUint64) // nonsense: revisions cannot go on from there
	if got := ask(); got != 43 {
		t.Errorf("revision %d after nonsense, want 43", got)
	}
}

func TestBlocks(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	r.join(t, "other")
	random := make([]byte, 2*wire.BlockSize+100)
	rand.Read(random)
	copy(random[wire.BlockSize:], bytes.Repeat([]byte("compress me "), 6000)[:wire.BlockSize])
	sha := r.blob(t, random)
	m := release.Manifest{V: 1, Name: "m", Version: "1.0.0", Variants: []release.Variant{{Engine: "tflite", File: release.File{Name: "m.tflite", SHA256: string(sha), Length: int64(len(random))}}}}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	digest := r.blob(t, text)
	_, err = r.ChangeDesired("pi", func(d *wire.DesiredSigned) error {
		d.Pipelines["cam"] = wire.DesiredRelease{Release: digest, Length: int64(len(text)), Name: "m", Version: "1.0.0", Execution: "ex-1", Mode: wire.ModeActivate}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	defer func() { cancel(); <-done }()

	unzip, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unzip.Close()
	next := func(id wire.DeviceID, sha wire.Digest) (n int, flag byte, data []byte) {
		t.Helper()
		select {
		case m := <-r.br.out:
			if _, err := fmt.Sscanf(m.Topic, "covey/1/d/"+string(id)+"/dn/block/"+sha.Short()+"/%d", &n); err != nil || m.QoS != 0 {
				t.Fatalf("topic %q, qos %d: %v", m.Topic, m.QoS, err)
			}
			flag, data = m.Payload[0], m.Payload[1:]
			if flag == wire.BlockZstd {
				if data, err = unzip.DecodeAll(data, nil); err != nil {
					t.Fatal(err)
				}
			}
			return n, flag, data
		case <-time.After(20 * time.Second):
			t.Fatal("no block")
		}
		return
	}
	r.send(t, "pi", "block/get", wire.BlockGet{V: 1, SHA: sha, Bits: []byte{0b111}, Max: 8})
	for want, flag := range []byte{wire.BlockRaw, wire.BlockZstd, wire.BlockRaw} {
		n, f, data := next("pi", sha)
		end := min((want+1)*wire.BlockSize, len(random))
		if n != want || f != flag || !bytes.Equal(data, random[want*wire.BlockSize:end]) {
			t.Errorf("block %d, flag %d, %d bytes, want %d, flag %d", n, f, len(data), want, flag)
		}
	}
	r.send(t, "pi", "block/get", wire.BlockGet{V: 1, SHA: sha, From: 1, Bits: []byte{0b11}, Max: 1})
	if n, _, _ := next("pi", sha); n != 1 {
		t.Errorf("block %d, want 1", n)
	}
	r.send(t, "pi", "block/get", wire.BlockGet{V: 1, SHA: digest, Bits: []byte{1}, Max: 1})
	if _, _, data := next("pi", digest); !bytes.Equal(data, text) {
		t.Errorf("manifest %q", data)
	}
	for name, get := range map[string]wire.BlockGet{
		"behind the end": {V: 1, SHA: sha, From: 3, Bits: []byte{1}, Max: 1},
		"another blob":   {V: 1, SHA: r.blob(t, []byte("secret of another fleet")), Bits: []byte{1}, Max: 1},
	} {
		r.send(t, "pi", "block/get", get)
		if _, flag, why := next("pi", get.SHA); flag != wire.BlockGone || len(why) == 0 {
			t.Errorf("%s: flag %d %q", name, flag, why)
		}
	}
	r.send(t, "other", "block/get", wire.BlockGet{V: 1, SHA: sha, Bits: []byte{1}, Max: 1})
	if _, flag, _ := next("other", sha); flag != wire.BlockGone {
		t.Error("a device got a file that it was not asked to have")
	}
}

// Blocks come as differences from what a device was asked to have before, and never
// from what it was not: they would tell what is in it.
func TestBlocksAsDifferences(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	old := make([]byte, 2*wire.BlockSize)
	rand.Read(old)
	next := bytes.Clone(old)
	for i := range next {
		next[i] += old[len(old)-1-i] % 2
	}
	want := func(execution string, file []byte) (sha wire.Digest) {
		sha = r.blob(t, file)
		m := release.Manifest{V: 1, Name: "m", Version: "1.0.0", Variants: []release.Variant{{Engine: "tflite", File: release.File{Name: "m.tflite", SHA256: string(sha), Length: int64(len(file))}}}}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.ChangeDesired("pi", func(d *wire.DesiredSigned) error {
			d.Pipelines["cam"] = wire.DesiredRelease{Release: r.blob(t, text), Length: int64(len(text)), Name: "m", Version: "1.0.0", Execution: execution, Mode: wire.ModeActivate}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return sha
	}
	had := want("ex-1", old)
	sha := want("ex-2", next)
	secret := r.blob(t, next[1:])
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	unpack, err := pack.NewUnpacker()
	if err != nil {
		t.Fatal(err)
	}
	defer unpack.Close()
	for name, c := range map[string]struct {
		base wire.Digest
		flag byte
	}{"had it": {had, wire.BlockDiffFSE}, "has none": {"", wire.BlockRaw}, "never had it": {secret, wire.BlockRaw}, "nobody has it": {wire.Digest(strings.Repeat("0", 64)), wire.BlockRaw}} {
		r.send(t, "pi", "block/get", wire.BlockGet{V: 1, SHA: sha, Bits: []byte{0b11}, Max: 8, Base: c.base})
		for n := range 2 {
			select {
			case m := <-r.br.out:
				got, err := unpack.Unpack(m.Payload, bytes.NewReader(old))
				if err != nil || m.Payload[0] != c.flag || !bytes.Equal(got, next[n*wire.BlockSize:(n+1)*wire.BlockSize]) {
					t.Errorf("%s: block %d with flag %d, %d bytes, %v; want flag %d", name, n, m.Payload[0], len(m.Payload), err, c.flag)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("no block")
			}
		}
	}
}
