package e2e

import (
	"bufio"
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

// listen is mosquitto_sub on topics of a broker; every message is a line "topic
// payload" in the channel.
func listen(t *testing.T, broker string, args ...string) <-chan string {
	t.Helper()
	host, port, _ := net.SplitHostPort(broker)
	cmd := exec.Command("mosquitto_sub", append([]string{"-h", host, "-p", port, "-v", "-q", "1"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: ./scripts/test installs mosquitto-clients", err)
	}
	lines := make(chan string, 10_000) // more than any test sends
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	t.Cleanup(func() { cmd.Process.Kill(); <-done; cmd.Wait() })
	return lines
}

func next(t *testing.T, lines <-chan string, limit time.Duration, what string, ok func(topic, payload string) bool) (string, string) {
	t.Helper()
	end := time.After(limit)
	for {
		select {
		case l := <-lines:
			topic, payload, _ := strings.Cut(l, " ")
			if ok(topic, payload) {
				return topic, payload
			}
		case <-end:
			t.Fatalf("no %s within %v", what, limit)
		}
	}
}

// A person with nothing but a mosquitto gets results from a ten-line config.
func TestHomeAlone(t *testing.T) {
	broker := linktest.Mosquitto(t)
	e := newEdge(t, nil, "porch",
		"home: {broker: mqtt://"+broker+"}",
		"pipelines:",
		"  birds:",
		"    source: {type: folder, path: "+pictures(t, 1, peacock)+", loop: true, fps: 5}",
		"    model: "+filepath.Join(models(t), mobilenet),
		"    labels: "+filepath.Join(models(t), mobilenetLabels),
		"  room:",
		"    source: {type: folder, path: "+pictures(t, 1, example)+", loop: true, fps: 2}",
		"    model: "+filepath.Join(models(t), ssd),
		"    labels: "+filepath.Join(models(t), ssdLabels),
	)
	heard := listen(t, broker, "-t", "covey/home/#")
	e.start()
	home := wire.Home{Root: "covey", ID: "porch"}
	online := map[string]bool{} // in any order: a pipeline may work before the link is up
	next(t, heard, 20*time.Second, "board and birds available", func(topic, payload string) bool {
		online[topic] = payload == "online"
		return online[home.Available()] && online[home.PipelineAvailable("birds")]
	})
	_, bird := next(t, heard, 20*time.Second, "bird", func(topic, _ string) bool { return topic == home.Result("birds") })
	_, room := next(t, heard, 20*time.Second, "room", func(topic, _ string) bool { return topic == home.Result("room") })
	wantPeacock(t, []byte(bird))
	wantExample(t, []byte(room))
	if err := e.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	next(t, heard, 5*time.Second, "offline", func(topic, payload string) bool { return topic == home.Available() && payload == "offline" })
	if !e.said(`"captured"`) {
		t.Error("the agent does not say what became of its frames")
	}
}

func wantPeacock(t *testing.T, b []byte) {
	t.Helper()
	var r wire.Result
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if r.Kind != "classify" || len(r.Items) == 0 || r.Items[0].Label != "peacock" || r.Items[0].Score < 0.9 || r.Accel != "xnnpack" && r.Accel != "cpu" {
		// Which of the CPU's two ways is faster is measured, here beside much else.
		t.Errorf("peacock.png is %+v, want a peacock above 0.9 by the CPU", r)
	}
}

// The example picture shows two children and a laptop; the model sees persons.
func wantExample(t *testing.T, b []byte) {
	t.Helper()
	var r wire.Result
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	persons := 0
	for _, it := range r.Items {
		if it.Label != "person" || it.Box == nil {
			continue
		}
		persons++
		if b := *it.Box; b[0] >= b[2] || b[1] >= b[3] || b[0] < 0 || b[3] > 1 {
			t.Errorf("box %v is none", b)
		}
	}
	if r.Kind != "detect" || persons < 2 {
		t.Errorf("example.jpg is %v (%s), want two persons at least", labelsOf(&r), r.Kind)
	}
}

// detect needs neither broker nor configuration.
func TestDetect(t *testing.T) {
	agent := program(t, "covey-agent")
	at := func(name string) string { return filepath.Join(models(t), name) }
	out, err := run(t, nil, agent, "detect", "--model", at(mobilenet), "--labels", at(mobilenetLabels), "--json", at(peacock))
	if err != nil {
		t.Fatal(err)
	}
	wantPeacock(t, out)
	annotated := filepath.Join(t.TempDir(), "annotated.jpg")
	out, err = run(t, nil, agent, "detect", "--model", at(ssd), "--labels", at(ssdLabels), "--json", "--out", annotated, at(example))
	if err != nil {
		t.Fatal(err)
	}
	wantExample(t, out)
	out, err = run(t, nil, agent, "detect", "--model", at(mobilenet), "--json", annotated)
	if err != nil {
		t.Errorf("the annotated picture is not one: %v\n%s", err, out)
	}
	_, err = run(t, nil, agent, "detect", "--model", at(mobilenetLabels), at(peacock))
	if err == nil || !strings.Contains(err.Error(), "E_MODEL_FORMAT") || strings.Count(err.Error(), "\n") > 2 {
		t.Errorf("a text file as a model: %v, want one line with E_MODEL_FORMAT", err)
	}
	_, err = run(t, nil, agent, "detect", "--model", at(mobilenet), at(mobilenet))
	if err == nil || !strings.Contains(err.Error(), "E_IMAGE") {
		t.Errorf("a model as a picture: %v, want E_IMAGE", err)
	}
}
