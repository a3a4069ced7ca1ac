package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

// What a model maker makes of a bare model and a picture of a peacock is installed: the
// board's self-test finds the answers that were written down elsewhere. The same with
// another answer is refused, and one for a newer runtime is not even fetched.
func TestMadeRelease(t *testing.T) {
	t.Parallel()
	house := linktest.Mosquitto(t)
	c := newController(t)
	e := newEdge(t, c, "pi-1", "home: {broker: mqtt://"+house+"}", "pipelines:", "  cam:",
		"    source: {type: folder, path: "+pictures(t, 2, peacock)+", loop: true, fps: 10}")
	e.join()
	e.start()
	c.awaitDevice("pi-1", 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })

	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	picture, err := os.ReadFile(filepath.Join(models(t), peacock))
	if err == nil {
		err = os.MkdirAll(at("pictures/peacock"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, at("pictures/peacock/one.png"), picture)
	c.covey("release", "init", filepath.Join(models(t), mobilenet), "--labels", filepath.Join(models(t), mobilenetLabels),
		"--samples", at("pictures"), "--name", "birds", "--out", at("birds"))
	c.covey("release", "build", at("birds"), "--out", at("final"))
	source, final := ask[pushed](c, "release", "push", at("birds")), ask[pushed](c, "release", "push", at("final"))
	if source != final {
		t.Errorf("the source is pushed as %+v, its final form as %+v", source, final)
	}
	if r := c.set("pi-1", "cam", "birds@1.0.0", time.Minute); r.Executions[0].State != wire.Succeeded {
		t.Fatalf("made release: %+v", r)
	}
	edit := func(version, old, new string) string {
		b, err := os.ReadFile(at("birds/release.json"))
		if err != nil || !bytes.Contains(b, []byte(old)) {
			t.Fatalf("%q is not in %s: %v", old, b, err)
		}
		to := at("birds-" + version)
		if err := os.CopyFS(to, os.DirFS(at("birds"))); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, "release.json"), bytes.Replace(bytes.Replace(b, []byte(old), []byte(new), 1), []byte("1.0.0"), []byte(version), 1))
		c.covey("release", "push", to)
		return "birds@" + version
	}
	wantEnd(t, c.set("pi-1", "cam", edit("1.0.1", `"peacock"`, `"hen"`), time.Minute), wire.Rejected, "E_GOLDEN")
	_, err = c.tryCovey("set", "pi-1", "cam="+edit("1.0.2", `"engine": "tflite"`, `"engine": "tflite", "min_runtime": "99.1"`), "--yes")
	wantRefusal(t, err, "E_RUNTIME")
}
