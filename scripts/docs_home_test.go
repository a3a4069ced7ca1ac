package scripts

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runAtHome runs a block beside a real mosquitto at which a board called kitchen has said
// what it says. Each command has to work and, where it listens, to hear something.
func runAtHome(t *testing.T, b block) {
	home := newHome(t)
	for line := range strings.Lines(b.text) {
		command, _, _ := strings.Cut(line, " #")
		if strings.TrimSpace(command) == "" {
			continue
		}
		out, err := home.run(command)
		if listens := strings.HasPrefix(command, "mosquitto_sub"); err != nil && !timeout(err) || listens && len(out) == 0 {
			t.Errorf("%s:%d: %s: %v, heard %q", b.file, b.line, command, err, out)
		}
		if topic, word, ok := written(command); ok {
			home.until(command, func() bool { return strings.Contains(home.heard(), topic+" "+word) })
		}
	}
}

// timeout says whether mosquitto_sub has only listened for as long as it was told to.
func timeout(err error) bool {
	exit, ok := err.(*exec.ExitError)
	return ok && exit.ExitCode() == 27
}

// written is what a command writes.
func written(command string) (topic, word string, ok bool) {
	words := strings.Fields(command)
	if words[0] != "mosquitto_pub" || len(words) != 5 {
		return "", "", false
	}
	return words[2], words[4], true
}

// A home is a broker, and a folder in which the clients of mosquitto read its port.
type home struct {
	t   *testing.T
	dir string
	log string // what was written to settings
}

func newHome(t *testing.T) *home {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	h := &home{t: t, dir: t.TempDir()}
	h.log = filepath.Join(h.dir, "heard")
	h.write("mosquitto.conf", "listener "+port+" 127.0.0.1\nallow_anonymous true\nuser root\n")
	h.write("mosquitto_sub", "-p "+port+"\n")
	h.write("mosquitto_pub", "-p "+port+"\n")
	h.start("/usr/sbin/mosquitto", "-c", filepath.Join(h.dir, "mosquitto.conf"))
	h.until("the broker", func() bool {
		_, err := h.run("mosquitto_pub -t x -m x")
		return err == nil
	})
	const base = "covey/home/kitchen/"
	for topic, text := range map[string]string{
		"available": "online", "porch/available": "online", "porch/all/person": "1", "porch/door/person": "1", "porch/image": "jpeg", "porch/enabled": "ON", "porch/threshold": "0.5",
		"capabilities": golden(t, "home-capabilities.kitchen"), "diagnostics": golden(t, "home-diagnostics.warm"), "porch/last": golden(t, "home-last.person"),
	} {
		h.write("payload", text)
		if out, err := h.run("mosquitto_pub -r -t " + base + topic + " -f payload"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	events := h.start("mosquitto_pub", "-l", "-t", base+"porch/event")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			fmt.Fprintf(events, `{"v":1,"id":"e%d","type":"start","label":"person","zone":"door"}`+"\n", n)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	h.start("sh", "-c", "exec mosquitto_sub -v -t 'covey/home/+/+/+/set' -t ready >heard")
	h.until("somebody who listens", func() bool {
		h.run("mosquitto_pub -t ready -m ready")
		return h.heard() != ""
	})
	return h
}

func golden(t *testing.T, name string) string {
	b, err := os.ReadFile("../fleet/wire/testdata/golden/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (h *home) write(name, text string) {
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// heard is what was written to settings by now.
func (h *home) heard() string {
	b, _ := os.ReadFile(h.log)
	return string(b)
}

func (h *home) until(what string, cond func() bool) {
	h.t.Helper()
	for range 500 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Fatalf("not here after five seconds: %s", what)
}

func (h *home) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = h.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "XDG_CONFIG_HOME=" + h.dir}
	return cmd
}

func (h *home) run(command string) ([]byte, error) {
	return h.command("bash", "-euo", "pipefail", "-c", command+"\nif [ -e last.jpg ]; then cat last.jpg; fi").Output()
}

// start runs a program to the end of the test. What is written goes to its input.
func (h *home) start(name string, args ...string) io.Writer {
	cmd := h.command(name, args...)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { cmd.Process.Kill(); in.Close(); cmd.Wait() })
	return in
}
