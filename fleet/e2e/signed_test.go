package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

// A board that was told who signs when it joined installs what enough of them have
// signed, and nothing else, whatever the controller asks for. What runs goes on.
func TestSigned(t *testing.T) {
	t.Parallel()
	house := linktest.Mosquitto(t)
	c := newController(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	trust := func(args ...string) { c.covey(append(args, "--trust", at("trust"))...) }
	board := func(id string) *edge {
		e := newEdge(t, c, id, "home: {broker: mqtt://"+house+"}", "pipelines:", "  cam:",
			"    source: {type: folder, path: "+pictures(t, 2, peacock)+", loop: true, fps: 10}", "    accelerator: xnnpack")
		e.join()
		e.start()
		c.awaitDevice(id, 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })
		return e
	}
	board("early") // before anybody signed

	for _, name := range []string{"ada.key", "ben.key"} {
		c.covey("trust", "key", "new", at(name), "--no-passphrase")
	}
	named := func() {
		if err := os.WriteFile(at("director.pub"), []byte(ask[struct{ Public string }](c, "trust", "director").Public), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	named()
	trust("trust", "init", "--releases", at("ada.key")+","+at("ben.key"), "--threshold", "2", "--director", at("director.pub"))
	trust("trust", "sign", "--key", at("ada.key"))
	if _, err := c.tryCovey("trust", "push", "--trust", at("trust")); err == nil {
		t.Error("half a root was sent")
	}
	trust("trust", "sign", "--key", at("ben.key"))
	trust("trust", "push")
	e := board("pi-1")
	heard := listen(t, house, "-t", wire.Home{Root: "covey", ID: "pi-1"}.Result("cam"))

	ref := c.push("birds", "1.0.0", mobilenet, mobilenetLabels)
	wantEnd(t, c.set("pi-1", "cam", ref, time.Minute), wire.Rejected, "E_SIGNATURE")
	if r := c.set("early", "cam", ref, time.Minute); r.Executions[0].State != wire.Succeeded {
		t.Errorf("a board that was told of nobody: %+v", r.Executions[0])
	}

	folder := t.TempDir()
	from(mobilenet, func(b []byte) []byte { return b })(t, folder)
	sign := func(key, version string) {
		trust("release", "sign", folder, "--name", "birds", "--version", version, "--key", at(key))
	}
	sign("ada.key", "1.0.1")
	wantEnd(t, c.set("pi-1", "cam", ref, time.Minute), wire.Rejected, "E_SIGNATURE")
	sign("ben.key", "1.0.1")
	trust("trust", "push")
	c.covey("release", "push", folder, "--name", "birds", "--version", "1.0.1")
	if r := c.set("pi-1", "cam", "birds@1.0.1", time.Minute); r.Executions[0].State != wire.Succeeded {
		t.Fatalf("signed by both: %+v", r.Executions[0])
	}
	next(t, heard, 20*time.Second, "result of birds 1.0.1", func(_, payload string) bool { return strings.Contains(payload, `"ver":"1.0.1"`) })

	// What they signed survives a restart, and another file of that name does not get in.
	e.kill()
	e.start()
	c.awaitDevice("pi-1", 20*time.Second, "online again", func(d device) bool { return d.State == "online" })
	wantEnd(t, c.set("pi-1", "cam", ref, time.Minute), wire.Rejected, "E_SIGNATURE")
	other := filepath.Join(t.TempDir(), "other.tflite")
	from(mobilenet, func(b []byte) []byte { return append(b, "other"...) })(t, filepath.Dir(other))
	c.covey("release", "push", filepath.Join(filepath.Dir(other), modelName), "--name", "birds", "--version", "1.0.2")
	sign("ada.key", "1.0.2") // the folder's, not what was pushed by that name
	sign("ben.key", "1.0.2")
	trust("trust", "push")
	wantEnd(t, c.set("pi-1", "cam", "birds@1.0.2", time.Minute), wire.Rejected, "E_SIGNATURE")
	d := c.device("pi-1")
	if p := d.Reported.Pipelines["cam"]; p.Active == nil || p.Active.Version != "1.0.1" {
		t.Errorf("active is %+v, want birds 1.0.1", p.Active)
	}

	// Who has the controller's database, and not its key, orders nothing. People give
	// the new key its power.
	c.kill()
	if err := os.Remove(filepath.Join(c.data, "director.key")); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.awaitDevice("pi-1", 20*time.Second, "online at the robbed controller", func(d device) bool { return d.State == "online" })
	r := ask[rollout](c, "set", "pi-1", "cam=birds@1.0.2", "--yes")
	c.awaitDevice("pi-1", 20*time.Second, "disobeying", func(d device) bool {
		return d.Reported != nil && d.Reported.Error != nil && d.Reported.Error.Code == "E_SIGNATURE"
	})
	named()
	trust("trust", "root", "rotate", "--director", at("director.pub"))
	trust("trust", "sign", "--key", at("ada.key"))
	trust("trust", "sign", "--key", at("ben.key"))
	trust("trust", "push")
	wantEnd(t, c.awaitEnd(r.ID, time.Minute), wire.Rejected, "E_SIGNATURE") // as before: another release was signed by that name
}
