package linktest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program = "/usr/sbin/mosquitto"
	}
	addr := port.Free(t)
	_, number, _ := net.SplitHostPort(addr)
	lines := append([]string{
		"listener " + number + " 127.0.0.1",
		"allow_anonymous true",
		"max_queued_messages 1000000",
		"max_inflight_messages 100",
		"persistence false",
		"user root", // means: stay who you are, when started by root
	}, conf...)
	dir := t.TempDir()
	path := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "mosquitto.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "-c", path)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("mosquitto: %v (install the mosquitto package)", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if err := waitDial(addr); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("mosquitto does not listen: %v\n%s", err, text)
	}
	return addr
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
