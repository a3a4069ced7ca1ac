package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

// A badRelease must not win: what becomes of it, and why.
type badRelease struct {
	name       string
	make       func(t *testing.T, dir string)  // its folder, beside the labels
	spoil      func(t *testing.T, blob string) // what happens to its model at the controller
	refused    string                          // the code with which covey refuses to push it; it is pushed around covey then
	state      wire.ExecState                  // in the end
	code       string                          // and the reason; of several, any
	quarantine bool
}

const modelName = "m.tflite"

// from makes a model out of a good one.
func from(model string, change func(b []byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		b, err := os.ReadFile(filepath.Join(models(t), model))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, modelName), change(b))
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// operator gives the custom operator of the SSD another name.
func operator(name string) func([]byte) []byte {
	const old = "TFLite_Detection_PostProcess"
	return func(b []byte) []byte {
		// Tensors are called so, too; the operator's name is the last.
		at := bytes.LastIndex(b, []byte(old))
		binary.LittleEndian.PutUint32(b[at-4:], uint32(len(name)))
		copy(b[at:at+len(old)], name+strings.Repeat("\x00", len(old)-len(name)))
		return b
	}
}

var badReleases = []badRelease{
	{name: "truncated", make: from(mobilenet, func(b []byte) []byte { return b[:2_500_000] }),
		refused: "E_MODEL_SHORT", state: wire.Rejected, code: "E_MODEL_SHORT", quarantine: true},
	{name: "web-page", make: from(mobilenet, func([]byte) []byte { return []byte("<!DOCTYPE html>\n<html>404 Not Found</html>\n") }),
		refused: "E_MODEL_FORMAT", state: wire.Rejected, code: "E_MODEL_FORMAT", quarantine: true},
	{name: "flipped-bit", make: from(mobilenet, func(b []byte) []byte { return append(b, "flipped-bit"...) }),
		spoil: func(t *testing.T, blob string) {
			b, err := os.ReadFile(blob)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)-1] ^= 1 // all but the last block the board has, of birds
			write(t, blob, b)
		}, state: wire.Failed, code: "E_HASH"},
	{name: "cut-off-blob", make: from(mobilenet, func(b []byte) []byte { return append(b, "cut-off-blob"...) }),
		spoil: func(t *testing.T, blob string) {
			if err := os.Truncate(blob, 0); err != nil {
				t.Fatal(err)
			}
		}, state: wire.Failed, code: "E_FETCH"},
	{name: "unknown-op", make: from(ssd, operator("Nobody_Knows_What_This_Does")), state: wire.Rejected, code: "E_OP", quarantine: true},
	// Found by trying: with this byte TFLite 2.17.1 reads where nothing is. With one
	// thread XNNPACK dies of it, with two its outputs are not there, and the plain
	// CPU sees nothing in any picture.
	{name: "crash", make: from(ssd, func(b []byte) []byte { b[4182356] = 127; return b }), state: wire.Rejected, code: "E_CRASH E_TENSOR", quarantine: true},
	{name: "golden", make: func(t *testing.T, dir string) {
		from(mobilenet, func(b []byte) []byte { return b })(t, dir)
		write(t, filepath.Join(dir, "zeros.bin"), make([]byte, 224*224*3))
		write(t, filepath.Join(dir, "release.json"), []byte(`{"v":1,"name":"golden","version":"1.0.0","task":"",
			"variants":[{"engine":"tflite","file":{"name":"m.tflite"}}],"labels":{"name":"labels.txt"},
			"golden":[{"inputs":[{"name":"zeros.bin"}],"label":"peacock"}]}`))
	}, state: wire.Rejected, code: "E_GOLDEN", quarantine: true},
}

// Releases that must not win end in the right state with the right reason, and
// the model that ran before answers for every frame.
func TestBadReleases(t *testing.T) {
	c := newController(t)
	e, heard := badBoard(t, c)
	refusesEmpty(t, c)
	refusesEdgeTPUAlone(t, c)
	for _, b := range badReleases {
		t.Run(b.name, func(t *testing.T) { b.try(t, c) })
	}
	// Asked for again by a person it is tried again, and fails again.
	r := c.set("pi-1", "cam", "unknown-op@1.0.0", time.Minute)
	wantEnd(t, r, wire.Rejected, "E_OP")
	d := c.awaitDevice("pi-1", 10*time.Second, "reported attempt 2", func(d device) bool {
		return slices.ContainsFunc(d.Reported.Quarantine, func(q wire.Quarantined) bool { return q.Code == "E_OP" && q.Attempt == 2 })
	})
	if p := d.Reported.Pipelines["cam"]; p.Active == nil || p.Active.Name != "birds" {
		t.Errorf("active is %+v, want birds", p.Active)
	}
	wantSteady(t, heard)
	mends(t, c)
	if err := e.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
}

// A copy that broke on the controller's disk is mended by pushing it again.
func mends(t *testing.T, c *controller) {
	dir := t.TempDir()
	from(mobilenet, func(b []byte) []byte { return append(b, "flipped-bit"...) })(t, dir)
	c.pushFile("flipped-bit", "1.0.1", filepath.Join(dir, modelName), mobilenetLabels)
	if r := c.set("pi-1", "cam", "flipped-bit@1.0.1", time.Minute); r.Executions[0].State != wire.Succeeded {
		t.Errorf("mended release: %+v", r.Executions[0])
	}
}

// badBoard is a board that runs birds@1.0.0, and what is heard of it at home.
func badBoard(t *testing.T, c *controller, lines ...string) (*edge, <-chan string) {
	t.Helper()
	return badBoardOf(t, c, program(t, "covey-agent"), lines...)
}

// badBoardOf is badBoard with an agent's program and the runners beside it.
func badBoardOf(t *testing.T, c *controller, agent string, lines ...string) (*edge, <-chan string) {
	t.Helper()
	house := linktest.Mosquitto(t)
	e := newEdge(t, c, "pi-1", append(lines,
		"home: {broker: mqtt://"+house+"}",
		"pipelines:",
		"  cam:",
		"    source: {type: folder, path: "+pictures(t, 2, peacock)+", loop: true, fps: 10}",
		"    memory: 600MB")...)
	e.agent = agent
	e.join()
	heard := listen(t, house, "-t", wire.Home{Root: "covey", ID: "pi-1"}.Result("cam"))
	e.start()
	c.awaitDevice("pi-1", 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })
	if r := c.set("pi-1", "cam", c.push("birds", "1.0.0", mobilenet, mobilenetLabels), time.Minute); r.Executions[0].State != wire.Succeeded {
		t.Fatalf("birds: %+v", r)
	}
	return e, heard
}

func (b badRelease) try(t *testing.T, c *controller) {
	dir := t.TempDir()
	b.make(t, dir)
	labels, err := os.ReadFile(filepath.Join(models(t), mobilenetLabels))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "labels.txt"), labels)
	args := []string{"release", "push", dir, "--name", b.name, "--version", "1.0.0"}
	if b.refused == "" {
		c.covey(args...)
	} else {
		_, err := c.tryCovey(args...)
		wantRefusal(t, err, b.refused)
		c.pushAround(t, dir, b.name)
	}
	if b.spoil != nil {
		model, err := os.ReadFile(filepath.Join(dir, modelName))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(model)
		b.spoil(t, filepath.Join(c.data, "blobs", hex.EncodeToString(sum[:])))
	}
	r := c.set("pi-1", "cam", b.name+"@1.0.0", time.Minute)
	wantEnd(t, r, b.state, b.code)
	digest := ask[pushed](c, "release", "show", b.name+"@1.0.0").Digest
	d := c.awaitReported("pi-1", r)
	in := slices.ContainsFunc(d.Reported.Quarantine, func(q wire.Quarantined) bool { return q.Release == digest && isOne(q.Code, b.code) && q.Attempt == 1 })
	if in != b.quarantine {
		t.Errorf("quarantine is %+v: release %s in it %t, want %t", d.Reported.Quarantine, digest.Short(), in, b.quarantine)
	}
	if p := d.Reported.Pipelines["cam"]; p.Active == nil || p.Active.Name != "birds" || p.Candidate != nil {
		t.Errorf("active %+v, candidate %+v, want birds and none", p.Active, p.Candidate)
	}
}

// isOne says whether a code is one of those that are allowed.
func isOne(code, allowed string) bool { return slices.Contains(strings.Fields(allowed), code) }

func wantEnd(t *testing.T, r rollout, state wire.ExecState, code string) {
	t.Helper()
	x := r.Executions[0]
	if x.State != state || x.Fault == nil || !isOne(x.Fault.Code, code) {
		t.Errorf("ended %s, %+v, want %s, %s", x.State, x.Fault, state, code)
		return
	}
	if strings.Contains(x.Fault.Text, "\n") || x.Fault.Text == "" {
		t.Errorf("%s: %q is not one line", x.Fault.Code, x.Fault.Text)
	}
	t.Logf("%s %s: %s", x.State, x.Fault.Code, x.Fault.Text)
}

func wantRefusal(t *testing.T, err error, code string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), code) {
		t.Errorf("covey release push: %v, want %s", err, code)
	}
}

// An empty model is refused by covey, and by the controller when covey is not asked.
func refusesEmpty(t *testing.T, c *controller) {
	path := filepath.Join(t.TempDir(), "empty.tflite")
	write(t, path, nil)
	_, err := c.tryCovey("release", "push", path)
	wantRefusal(t, err, "E_MODEL_EMPTY")
	sum := sha256.Sum256(nil)
	status, body := c.rest(t, "POST", "/v1/releases", []byte(`{"v":1,"name":"empty","version":"1.0.0","task":"","variants":[{"engine":"tflite",`+
		`"file":{"name":"empty.tflite","sha256":"`+hex.EncodeToString(sum[:])+`","length":0,"blocks":""}}]}`))
	if status/100 != 4 || !strings.Contains(body, "E_MODEL_EMPTY") {
		t.Errorf("empty model over REST: %d %s, want E_MODEL_EMPTY", status, body)
	}
}

// A model that is compiled for an Edge TPU needs the one it was compiled from.
func refusesEdgeTPUAlone(t *testing.T, c *controller) {
	dir := t.TempDir()
	from(ssd, operator("edgetpu-custom-op"))(t, dir)
	_, err := c.tryCovey("release", "push", dir)
	wantRefusal(t, err, "E_MANIFEST")
}

// pushAround pushes over REST what covey would not.
func (c *controller) pushAround(t *testing.T, dir, name string) {
	t.Helper()
	m, files, err := release.Build(dir, release.Defaults{Name: name, Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files() {
		b, err := os.ReadFile(files[wire.Digest(f.SHA256)])
		if err != nil {
			t.Fatal(err)
		}
		if status, body := c.rest(t, "PUT", fmt.Sprintf("/v1/blobs/%s?length=%d&from=0", f.SHA256, f.Length), append(slices.Clone(f.Blocks), b...)); status/100 != 2 {
			t.Fatalf("put blob: %d %s", status, body)
		}
	}
	if status, body := c.rest(t, "POST", "/v1/releases", m.Canonical()); status/100 != 2 {
		t.Fatalf("post release: %d %s", status, body)
	}
}

// rest is a request of the administrator.
func (c *controller) rest(t *testing.T, method, path string, body []byte) (status int, answer string) {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(c.data, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var at struct{ API, CA, Token string }
	if err := json.Unmarshal(read("endpoints.json"), &at); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(filepath.Base(at.CA)))
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections() // only now: a server that is told to close reads no body that it does not need
	req, err := http.NewRequestWithContext(t.Context(), method, at.API+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(read(filepath.Base(at.Token)))))
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// wantSteady wants results of birds alone, without a gap in seq or in time.
func wantSteady(t *testing.T, heard <-chan string) {
	t.Helper()
	const longest = 2 * time.Second // at 10 a second, on a machine with much else to do
	var list []wire.Result
	l := newLedger()
	for len(heard) > 0 {
		_, payload, _ := strings.Cut(<-heard, " ")
		l.take(t, payload)
		r, err := decode[wire.Result]([]byte(payload))
		if err != nil || r.Model.Name != "birds" || len(r.Items) == 0 || r.Items[0].Label != "peacock" {
			t.Errorf("%v: %s is no peacock of birds", err, payload)
		}
		list = append(list, r)
	}
	l.mustBeWhole(t)
	gap := longestGap(list)
	if len(list) < 50 || len(l.lost) > 0 || gap > longest {
		t.Errorf("%v, longest gap %v, want 50 results at least, none lost, a gap of at most %v", l, gap, longest)
	}
	t.Logf("%v; longest gap between two frames %v", l, gap)
}

// A model whose runner crashes on probation is taken back, without the controller,
// and stays in quarantine: a wish of before does not bring it back, nor a byte of
// it. A person who asks again does.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	c := newController(t)
	proxy := linktest.NewProxy(t, c.mqtt)
	e, heard := badBoard(t, c, "fleet: {url: mqtts://"+proxy.Addr()+"}")
	wobbly := c.push("wobbly", "1.0.0", ssd, ssdLabels)
	var all []string
	hear := func(_, payload string) bool {
		all = append(all, payload)
		return strings.Contains(payload, `"name":"wobbly"`)
	}
	c.covey("set", "pi-1", "cam="+wobbly, "--yes")
	next(t, heard, 30*time.Second, "result on probation", hear)
	proxy.Refuse(true)
	proxy.Reset()
	e.signalRunners(syscall.SIGSEGV)
	e.await(`"state":"ROLLED_BACK"`, 20*time.Second)
	if !e.said(`"state":"ROLLED_BACK"`, `"code":"E_CRASH","fault":"runner tflite died by SIGSEGV`) {
		t.Error("taken back, and not because of the crash")
	}

	// The controller knows nothing of that: it asks for something else, and again.
	c.covey("set", "pi-1", "cam=birds@1.0.0", "--yes")
	downloads := e.count(`"state":"DOWNLOADING"`)
	id := ask[rollout](c, "set", "pi-1", "cam="+wobbly, "--yes").ID
	proxy.Refuse(false)
	wantEnd(t, c.awaitEnd(id, time.Minute), wire.Rejected, "E_QUARANTINED")
	if n := e.count(`"state":"DOWNLOADING"`); n != downloads {
		t.Errorf("%d downloads of what is in quarantine", n-downloads)
	}
	for len(heard) > 0 {
		topic, payload, _ := strings.Cut(<-heard, " ")
		hear(topic, payload)
	}
	if err := wobbles(all); err != nil {
		t.Error(err)
	}
	if r := c.set("pi-1", "cam", wobbly, time.Minute); r.Executions[0].State != wire.Succeeded {
		t.Errorf("asked for again: %+v", r.Executions[0])
	}
	c.awaitDevice("pi-1", 10*time.Second, "has nothing in quarantine", func(d device) bool {
		return len(d.Reported.Quarantine) == 0 && d.Reported.Pipelines["cam"].Active.Name == "wobbly"
	})
}

// wobbles says whether what was heard is without a gap, the crash in it too: the
// frame whose runner died was run again by the model that ran before.
func wobbles(all []string) error {
	var before wire.Result
	crossed := 0
	for _, payload := range all {
		r, err := decode[wire.Result]([]byte(payload))
		if err != nil {
			return err
		}
		if before.Seq != 0 && (r.Seq != before.Seq+1 || r.Frame != before.Frame+1) {
			return fmt.Errorf("seq %d of frame %d after seq %d of frame %d", r.Seq, r.Frame, before.Seq, before.Frame)
		}
		if before.Seq != 0 && r.Model.Name != before.Model.Name {
			crossed++
		}
		before = r
	}
	if crossed != 2 {
		return fmt.Errorf("the model changed %d times, want there and back", crossed)
	}
	return nil
}
