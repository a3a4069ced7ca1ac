package e2e

import (
	"archive/zip"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// padded is MobileNet with a file behind it that stands for more weights; a part of
// them is moved by one.
func padded(t *testing.T, part float64) string {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 3))
	pad := make([]byte, 2<<20)
	for i := range pad {
		pad[i] = byte(128 + r.NormFloat64()*20)
	}
	for i := range pad {
		if r.Float64() < part {
			pad[i]++
		}
	}
	model, err := os.ReadFile(filepath.Join(models(t), mobilenet))
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.NewBuffer(model)
	z := zip.NewWriter(b)
	z.SetOffset(int64(len(model)))
	w, err := z.CreateHeader(&zip.FileHeader{Name: "padding", Method: zip.Store})
	if err == nil {
		_, err = w.Write(pad)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "m.tflite")
	write(t, path, b.Bytes())
	return path
}

// sentOverMQTT is what boards got of releases over MQTT, bytes.
func (c *controller) sentOverMQTT(t *testing.T) (n float64) {
	t.Helper()
	_, text := c.rest(t, "GET", "/metrics", nil)
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "covey_block_bytes_total "); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the controller does not count blocks")
	return
}

// The first model comes whole, the next as what differs; over HTTPS nothing comes over
// MQTT.
func TestTransfer(t *testing.T) {
	c := newController(t)
	board := func(id string, lines ...string) {
		e := newEdge(t, c, id, append(lines, "pipelines:", "  cam:", "    source: {type: folder, path: "+pictures(t, 2, peacock, example)+", loop: true, fps: 20}")...)
		e.join()
		e.start()
		c.awaitDevice(id, 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })
	}
	set := func(id, version string) float64 {
		t.Helper()
		before := c.sentOverMQTT(t)
		if r := c.set(id, "cam", "m@"+version, time.Minute); r.State != wire.RolloutCompleted || r.Executions[0].State != wire.Succeeded {
			t.Fatalf("%s on %s: %+v", version, id, r)
		}
		return c.sentOverMQTT(t) - before
	}
	for version, part := range map[string]float64{"1.0.0": 0, "2.0.0": 0.05} {
		c.pushFile("m", version, padded(t, part), mobilenetLabels)
	}
	board("pi-1")
	if n := set("pi-1", "1.0.0"); n < 3e6 {
		t.Errorf("%.0f bytes for the first model of 6 MB", n)
	}
	if n := set("pi-1", "2.0.0"); n > 250e3 {
		t.Errorf("%.0f bytes for a model of which 2 MB have moved a little", n)
	}
	board("pi-2", "fleet: {transfer: https}")
	if n := set("pi-2", "1.0.0") + set("pi-2", "2.0.0"); n > 0 {
		t.Errorf("%.0f bytes came over MQTT", n)
	}
}
