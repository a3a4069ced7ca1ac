package linktest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal/haltest/port"
)

// Mosquitto starts a mosquitto of its own on a free port, with large queues and
// without persistence, and returns its host:port. More lines of its configuration
// may be given. The test's end stops it. Without the program the test fails:
// a broker is what these tests are about.
func Mosquitto(t testing.TB, conf ...string) string {
	t.Helper()
	b := NewBroker(t, append([]string{"persistence false"}, conf...)...)
	return b.Addr
}

// A Broker is a mosquitto that can be killed and started again.
type Broker struct {
	Addr string // host:port
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
}

// NewBroker starts one. It keeps what is queued and retained on disk, after every change.
func NewBroker(t testing.TB, conf ...string) *Broker {
	t.Helper()
	b := &Broker{Addr: port.Free(t), t: t, dir: t.TempDir()}
	_, number, _ := net.SplitHostPort(b.Addr)
	lines := append([]string{
		"listener " + number + " 127.0.0.1",
		"allow_anonymous true",
		"max_queued_messages 1000000",
		"max_inflight_messages 100",
		"autosave_on_changes true",
		"autosave_interval 1",
		"user root", // means: stay who you are, when started by root
	}, conf...)
	if !slices.Contains(conf, "persistence false") {
		lines = append(lines, "persistence true", "persistence_location "+b.dir+"/")
	}
	if err := os.WriteFile(b.file("conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Start()
	t.Cleanup(b.Kill)
	return b
}

func (b *Broker) file(kind string) string { return filepath.Join(b.dir, "mosquitto."+kind) }

// Start starts it, after Kill again with what it kept.
func (b *Broker) Start() {
	b.t.Helper()
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program = "/usr/sbin/mosquitto"
	}
	log, err := os.OpenFile(b.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	b.cmd = exec.Command(program, "-c", b.file("conf"))
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatalf("mosquitto: %v (install the mosquitto package)", err)
	}
	if err := waitDial(b.Addr); err != nil {
		text, _ := os.ReadFile(log.Name())
		b.t.Fatalf("mosquitto does not listen: %v\n%s", err, text)
	}
}

// Kill ends it at once, without a word.
func (b *Broker) Kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

func waitDial(addr string) error {
	var err error
	for range 500 {
		var c net.Conn
		if c, err = net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("after 5 s: %w", err)
}
