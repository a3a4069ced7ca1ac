package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/haltest/port"
)

// A controller is covey-fleet in a folder, on ports that stay over restarts.
type controller struct {
	t    *testing.T
	data string
	api  string // host:port
	mqtt string
	*process
}

func newController(t *testing.T) *controller {
	t.Helper()
	c := &controller{t: t, data: filepath.Join(t.TempDir(), "fleet")}
	c.api, c.mqtt = port.Free(t), port.Free(t)
	c.start()
	return c
}

// start starts the program and waits until it answers.
func (c *controller) start() {
	c.t.Helper()
	c.process = start(c.t, "covey-fleet", nil, program(c.t, "covey-fleet"), "serve",
		"--data", c.data, "--listen", c.api, "--mqtt", c.mqtt, "--host", "127.0.0.1")
	until(c.t, 20*time.Second, "controller answers", func() error {
		_, err := run(c.t, nil, program(c.t, "covey"), "--data", c.data, "--json", "device", "list")
		return err
	})
}

// covey runs a command of the operator; its output is JSON.
func (c *controller) covey(args ...string) []byte {
	c.t.Helper()
	out, err := c.tryCovey(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *controller) tryCovey(args ...string) ([]byte, error) {
	c.t.Helper()
	return run(c.t, nil, append([]string{program(c.t, "covey"), "--data", c.data, "--json"}, args...)...)
}

// ask decodes what a command of the operator prints.
func ask[T any](c *controller, args ...string) T {
	c.t.Helper()
	v, err := decode[T](c.covey(args...))
	if err != nil {
		c.t.Fatalf("covey %s: %v", strings.Join(args, " "), err)
	}
	return v
}

// device is what the operator sees of a board.
type device struct {
	ID        wire.DeviceID `json:"id"`
	State     string        `json:"state"`
	Flags     []string      `json:"flags"`
	Pipelines []struct {
		Name    string `json:"name"`
		Release *struct{ Name, Version string }
		State   wire.ExecState
		Fault   *wire.Fault
	} `json:"pipelines"`
	Reported *wire.Reported `json:"reported"`
	Health   *wire.Health   `json:"health"`
	Hello    *wire.Hello    `json:"hello"`
}

func (c *controller) device(id string) (d device) {
	c.t.Helper()
	return ask[device](c, "device", "show", id)
}

// awaitDevice asks for a device until it is as wanted.
func (c *controller) awaitDevice(id string, limit time.Duration, what string, ok func(device) bool) device {
	c.t.Helper()
	var d device
	until(c.t, limit, id+" "+what, func() error {
		out, err := c.tryCovey("device", "show", id)
		if err != nil {
			return err
		}
		if d, err = decode[device](out); err != nil {
			return err
		}
		if !ok(d) {
			b, _ := json.Marshal(d)
			return fmt.Errorf("now %s", b)
		}
		return nil
	})
	return d
}

// awaitReported waits until a device has reported the end of its execution: its step,
// which ends a rollout that failed, may come before.
func (c *controller) awaitReported(id string, r rollout) device {
	c.t.Helper()
	return c.awaitDevice(id, 20*time.Second, "reports its end", func(d device) bool {
		p := d.Reported.Pipelines["cam"]
		return p.Execution == r.Executions[0].ID && p.State.Terminal()
	})
}

// A rollout as the operator sees it.
type rollout struct {
	ID         string            `json:"id"`
	State      wire.RolloutState `json:"state"`
	Executions []struct {
		ID     string
		Device string
		State  wire.ExecState
		Fault  *wire.Fault
	} `json:"executions"`
}

// set asks for a release and waits for the end of its rollout.
func (c *controller) set(query, pipeline, release string, limit time.Duration) rollout {
	c.t.Helper()
	return c.awaitEnd(ask[rollout](c, "set", query, pipeline+"="+release, "--yes").ID, limit)
}

// awaitEnd waits for the end of a rollout.
func (c *controller) awaitEnd(id string, limit time.Duration) (r rollout) {
	c.t.Helper()
	until(c.t, limit, "end of rollout "+id, func() error {
		r = ask[rollout](c, "rollout", "show", id)
		if r.State == wire.RolloutRunning {
			return fmt.Errorf("%+v", r.Executions)
		}
		return nil
	})
	return r
}

// An edge is a board's agent in a folder of its own.
type edge struct {
	t      *testing.T
	c      *controller // nil: joined none
	id     string
	dir    string
	config string
	agent  string // its program
	*process
}

// newEdge writes a configuration; lines stand beside device and data.
func newEdge(t *testing.T, c *controller, id string, lines ...string) *edge {
	t.Helper()
	e := &edge{t: t, c: c, id: id, dir: t.TempDir(), agent: program(t, "covey-agent")}
	e.config = filepath.Join(e.dir, "agent.yaml")
	text := "device: " + id + "\ndata: data\nlog: debug\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(e.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return e
}

// join enrols the board, by a fresh token.
func (e *edge) join() {
	e.t.Helper()
	token := ask[struct{ Token string }](e.c, "device", "token").Token
	if _, err := run(e.t, nil, program(e.t, "covey-agent"), "join", "--config", e.config, token); err != nil {
		e.t.Fatal(err)
	}
}

func (e *edge) start() {
	e.t.Helper()
	e.process = start(e.t, "covey-agent "+e.id, nil, e.agent, "run", "--config", e.config)
}

// pictures makes a folder with n pictures, by turns those that are named, in the
// order of their numbers.
func pictures(t *testing.T, n int, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		from := filepath.Join(models(t), names[i%len(names)])
		to := filepath.Join(dir, fmt.Sprintf("%05d-%s", i, filepath.Base(from)))
		if err := os.Symlink(from, to); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The models and pictures with answers that are known.
const (
	mobilenet       = "label_image/mobilenet_quant_v1_224.tflite"
	mobilenetLabels = "label_image/labels.txt"
	peacock         = "label_image/peacock.png"
	ssd             = "ssd/detect.tflite"
	ssdLabels       = "ssd/labelmap.txt"
	example         = "ssd/example.jpg"
)

// push pushes a model file as a release and returns its reference.
func (c *controller) push(name, version, model, labels string) string {
	c.t.Helper()
	c.pushFile(name, version, filepath.Join(models(c.t), model), labels)
	return name + "@" + version
}

// pushed is a release as the controller tells of it.
type pushed struct {
	Digest wire.Digest
	Name   string
}

// pushFile pushes any model file.
func (c *controller) pushFile(name, version, path, labels string) pushed {
	c.t.Helper()
	args := []string{"release", "push", path, "--name", name, "--version", version}
	if labels != "" {
		args = append(args, "--labels", filepath.Join(models(c.t), labels))
	}
	return ask[pushed](c, args...)
}

// labelsOf are the labels of a result, sorted.
func labelsOf(r *wire.Result) []string {
	var l []string
	for _, it := range r.Items {
		l = append(l, it.Label)
	}
	slices.Sort(l)
	return l
}
