package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is the agent itself when a test starts it so.
func TestMain(m *testing.M) {
	if os.Getenv("COVEY_TEST_AGENT") == "" && !(len(os.Args) > 1 && (os.Args[1] == "stage" || os.Args[1] == "check-outbox")) {
		os.Exit(m.Run())
	}
	os.Exit(run())
}

// patience is the longest that a test waits for a word; nothing depends on how long it
// takes.
const patience = time.Minute

// A managed agent is the program with a service manager of the test's own.
type managed struct {
	t      *testing.T
	dir    string
	config string
	socket *net.UnixConn
	cmd    *exec.Cmd
	log    bytes.Buffer // read when it has ended
	heard  []string     // every datagram, with spaces for line ends
}

// manage starts a program with a configuration. watchdog is its time in µs.
func manage(t *testing.T, program, config string, watchdog int, env ...string) *managed {
	t.Helper()
	m := &managed{t: t, dir: t.TempDir()}
	m.config = filepath.Join(m.dir, "agent.yaml")
	m.configure(config)
	socket := filepath.Join(m.dir, "notify")
	var err error
	if m.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.Command(program, "run", "--config", m.config)
	m.cmd.Env = append(os.Environ(), append(env, "NOTIFY_SOCKET="+socket, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog), "COVEY_TEST_AGENT=1")...)
	m.cmd.Stderr = &m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.cmd.Process.Kill()
		m.cmd.Wait()
		m.socket.Close()
		if t.Failed() {
			t.Logf("it said %q\nand logged\n%s", m.heard, &m.log)
		}
	})
	return m
}

func (m *managed) configure(text string) {
	m.t.Helper()
	if err := os.WriteFile(m.config, []byte("device: test\ndata: "+filepath.Join(m.dir, "data")+"\n"+text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// await waits for a datagram with all the texts, and returns it.
func (m *managed) await(texts ...string) string {
	m.t.Helper()
	b := make([]byte, 64<<10)
	if err := m.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	for {
		n, err := m.socket.Read(b)
		if err != nil {
			m.t.Fatalf("waiting for %q: %v", texts, err)
		}
		got := strings.ReplaceAll(string(b[:n]), "\n", " ")
		m.heard = append(m.heard, got)
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(got, text) }) {
			return got
		}
	}
}

func (m *managed) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
}

// self is the test's own program, with the runner beside it where there is one.
func self(t *testing.T) (program string, runner bool) {
	t.Helper()
	dir := t.TempDir()
	program = filepath.Join(dir, "covey-agent")
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, own, program)
	bin, err := filepath.Abs("../../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "covey-runner-tflite")); err != nil {
		return program, false
	}
	if err := os.Mkdir(filepath.Join(dir, "lib"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"covey-runner-tflite", "lib/libtensorflowlite_c.so"} { // the sandbox follows no links
		copyFile(t, filepath.Join(bin, name), filepath.Join(dir, name))
	}
	return program, true
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

const door = "pipelines:\n  door: {source: {type: v4l2, device: /dev/video99}}\n"

// The program is up when its pipelines are, or say why they are not; it reads its
// configuration again, refuses a bad one, goes back from one that does not work, and says
// that it ends.
func TestService(t *testing.T) {
	program, _ := self(t)
	m := manage(t, program, door, 30_000_000)
	m.await("EXTEND_TIMEOUT_USEC=")
	m.await("READY=1", "STATUS=1 pipeline, 0.0 fps; door: E_SOURCE")
	m.await("WATCHDOG=1")

	m.configure("pipelines: {door: {sorce: 1}}\n")
	m.signal(syscall.SIGHUP)
	if got := m.await("RELOADING=1"); !strings.Contains(got, " MONOTONIC_USEC=") || strings.Contains(got, "MONOTONIC_USEC=0") {
		t.Errorf("got %s", got)
	}
	m.await("READY=1", "configuration refused (", `did you mean "source"`, "what ran goes on; 1 pipeline")

	m.configure(door + "  yard: {source: {type: synthetic, fps: 5, live: true}}\n")
	m.signal(syscall.SIGHUP)
	m.await("RELOADING=1")
	m.await("READY=1", "STATUS=2 pipelines, ", "door: E_SOURCE; yard: no model yet")

	// A good configuration that does not work: another agent has the folder.
	taken := manage(t, program, door, 30_000_000)
	taken.await("READY=1")
	m.configure("")
	if err := os.WriteFile(m.config, []byte("device: test\ndata: "+filepath.Join(taken.dir, "data")+"\n"+door), 0o600); err != nil {
		t.Fatal(err)
	}
	m.signal(syscall.SIGHUP)
	m.await("RELOADING=1")
	m.await("READY=1", "configuration refused (", "what ran goes on; 2 pipelines")

	m.signal(syscall.SIGTERM)
	m.await("STOPPING=1")
	if err := m.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if strings.Contains(m.log.String(), "hangs") {
		t.Errorf("something hangs:\n%s", &m.log)
	}
}

// A pipeline with a model is up with its first result, and its rate is shown.
func TestServiceWithAModel(t *testing.T) {
	program, runner := self(t)
	model := os.Getenv("COVEY_MODELS") + "/label_image/mobilenet_quant_v1_224.tflite"
	if _, err := os.Stat(model); err != nil || !runner {
		t.Skip("no model or no runner here: run scripts/setup, then `. scripts/env`")
	}
	m := manage(t, program, "pipelines:\n  door: {source: {type: synthetic, fps: 5, live: true}, model: "+model+"}\n", 30_000_000)
	if got := m.await("READY=1"); !strings.Contains(got, "STATUS=1 pipeline, ") || strings.Contains(got, " 0.0 fps") || strings.Contains(got, "E_") {
		t.Errorf("up with %s", got)
	}
}

// A configuration that cannot be read ends the program, and the manager is told why.
func TestServiceThatCannotStart(t *testing.T) {
	program, _ := self(t)
	m := manage(t, program, "pipelines: {door: {sorce: 1}}\n", 0)
	m.await("STOPPING=1", `did you mean "source"`)
	if err := m.cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
}

// The program that is built to be stalled names the loop that hangs.
func TestStallBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	program := filepath.Join(t.TempDir(), "covey-agent")
	build := exec.Command("go", "build", "-tags", "stall", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stall := filepath.Join(t.TempDir(), "stall")
	m := manage(t, program, door, 3_000_000, "COVEY_STALL="+stall)
	m.await("READY=1")
	m.await("WATCHDOG=1")
	if err := os.WriteFile(stall, []byte("director\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.await("WATCHDOG=trigger", "hangs: ", "director")
	m.signal(syscall.SIGABRT) // as the manager does
	if err := m.cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	if log := m.log.String(); !strings.Contains(log, `"loop":"director"`) || !strings.Contains(log, "main.hold") {
		t.Errorf("the log does not say who hangs, and where:\n%s", log)
	}
}
