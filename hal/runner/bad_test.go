package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// badProgram is the path of testdata/badrunner, built by TestMain: a race-built
// test binary could not be its own runner, it needs terabytes of address space.
var badProgram string

// TestMain lets the test binary be the stage, an agent that can be killed, and what
// systemd would be and start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		role(os.Args[1], os.Args[2:])
	}
	if dir := os.Getenv("COVEY_RUNNER_PROGRAMS"); dir != "" {
		badProgram = filepath.Join(dir, "covey-runner-bad")
		os.Exit(m.Run())
	}
	if haltest.InVM() {
		badProgram = vmPrograms + "/covey-runner-bad"
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "badrunner")
	if err != nil {
		panic(err)
	}
	badProgram = filepath.Join(dir, "covey-runner-bad")
	for program, from := range map[string]string{badProgram: "./testdata/badrunner", filepath.Join(dir, "covey-runner-escape"): "./testdata/escape"} {
		build := exec.Command("go", "build", "-o", program, from)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", from, err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	endStandIns()
	os.RemoveAll(dir)
	os.Exit(code)
}

// role is what the test binary is besides a test: it does not return from one.
func role(name string, args []string) {
	var err error
	switch name {
	case "stage":
		runtime.LockOSThread() // so that the stage runs in another thread than the first, as it may
		done := make(chan error)
		go func() {
			if len(args) == 2 && args[0] == "--unit" {
				done <- UnitStage(args[1])
			} else {
				done <- Stage(args)
			}
		}()
		err = <-done
	case "agent":
		agent(args[0])
	case "orderly":
		orderly()
	case "systemd":
		err = standInMain(args[0], args[1], args[2])
	case "exec-start":
		err = execStart(args)
	case "runner-ended":
		err = TellEnd(args[0])
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bad is an engine whose runner misbehaves.
func bad(t testing.TB, mode string) *Engine {
	t.Helper()
	return New(badConfig(mode, zerolog.New(zerolog.NewTestWriter(t))))
}

func badConfig(mode string, log zerolog.Logger) Config {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{Name: "bad", Program: badProgram, Stage: []string{self, "stage"}, Units: UnitsOf(badProgram), Env: []string{"MODE=" + mode}, Logger: log}
}

// Stop halts a session's runner where it is, for tests over the real runner.
func Stop(t testing.TB, s hal.Session) {
	t.Helper()
	if err := unix.Kill(s.(*session).runner.child.pid(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func someModel(t testing.TB) hal.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model")
	if err := os.WriteFile(path, []byte("some model"), 0o600); err != nil {
		t.Fatal(err)
	}
	return hal.Model{Name: "some", Path: path}
}

func TestGoodSuite(t *testing.T) { haltest.Engine(t, bad(t, "good"), someModel(t)) }

func TestOpenFails(t *testing.T) {
	for _, c := range []struct {
		mode string
		code hal.Code
		text string
	}{
		{"exit-start", hal.CodeEngine, "cannot open shared object file"},
		{"silent-start", hal.CodeTimeout, "start took too long"},
		{"garbage-start", hal.CodeEngine, "broke the protocol"},
		{"empty-start", hal.CodeEngine, "closed its socket during start"},
		{"crash-open", hal.CodeCrash, "died by SIGSEGV in AllocateTensors"},
		{"hang-open", hal.CodeTimeout, "took too long"},
		{"notes", hal.CodeTimeout, "took too long"},
		{"refuse-open", hal.CodeOp, `operator "Foo"  is not  here`},
		{"made-up-code", hal.CodeEngine, "now"},
		{"huge", hal.CodeCrash, "broke the protocol"},
		{"negative", hal.CodeCrash, "broke the protocol"},
		{"many", hal.CodeCrash, "broke the protocol"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			var o hal.Options
			if c.code == hal.CodeTimeout {
				o.OpenTimeout = 700 * time.Millisecond
			}
			s, err := bad(t, c.mode).Open(t.Context(), someModel(t), o)
			if err == nil {
				s.Close()
				t.Fatal("it opened")
			}
			if got := hal.CodeOf(err); got != c.code || !strings.Contains(err.Error(), c.text) || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("%v, want %s with %q on one line", err, c.code, c.text)
			}
		})
	}
}

func TestRunFails(t *testing.T) {
	for _, c := range []struct {
		mode string
		code hal.Code
		text string
		lost bool
	}{
		{"refuse-run", hal.CodeInvoke, "bad input", false},
		{"mumble-run", hal.CodeInvoke, "no reason", false},
		{"crash-run", hal.CodeCrash, "died by SIGABRT in run", true},
		{"exit-run", hal.CodeCrash, "ended with status 7 in run: goodbye", true},
		{"killed-run", hal.CodeMemory, "died by SIGKILL in run", true},
		{"hang-run", hal.CodeTimeout, "a run took longer than 300ms", true},
		{"memory-run", hal.CodeMemory, "past its memory limit", true},
		{"too-large", hal.CodeCrash, "broke the protocol", true},
		{"wrong-shape", hal.CodeCrash, "broke the protocol", true},
		{"wrong-rank", hal.CodeCrash, "broke the protocol", true},
		{"late-time", hal.CodeCrash, "broke the protocol", true},
		{"stray", hal.CodeCrash, "broke the protocol", true},
		{"cut", hal.CodeCrash, "broke the protocol", true},
		{"mute-run", hal.CodeCrash, "closed its socket during run", true},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			o := hal.Options{MemoryLimit: 256 << 20}
			if c.mode == "hang-run" {
				o.Deadline = 300 * time.Millisecond
			}
			e, m := bad(t, c.mode), someModel(t)
			s, err := e.Open(t.Context(), m, o)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = s.Run(0)
			if got := hal.CodeOf(err); got != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %s with %q", err, c.code, c.text)
			}
			if took := time.Since(start); c.mode == "hang-run" && took > o.Deadline+time.Second {
				t.Errorf("a hanging run took %v, deadline %v", took, o.Deadline)
			}
			if errors.Is(err, hal.ErrLost) != c.lost {
				t.Errorf("%v: lost is %v, want %v", err, !c.lost, c.lost)
			}
			if _, again := s.Run(1); (again.Error() != err.Error()) && c.lost {
				t.Errorf("the second run says %v, the first %v", again, err)
			}
			_ = s.Input(0, 0)[0] // its memory stays until Close
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			// A lost session costs nothing but itself.
			if s, err = e.Open(t.Context(), m, o); err != nil {
				t.Fatalf("open again: %v", err)
			}
			s.Close()
		})
	}
}

func TestOutputShapeIsOfTheRun(t *testing.T) {
	s, err := bad(t, "dynamic").Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Info().Outputs[0].Shape[0]; got != -1 {
		t.Errorf("Info says %d rows, want -1: not known before the run", got)
	}
	for n := 1; n <= 5; n++ {
		if _, err := s.Run(0); err != nil {
			t.Fatal(err)
		}
		if out, want := s.Output(0, 0), n%4; out.Shape[0] != want || len(out.Data) != 2*want {
			t.Errorf("run %d: shape %v, %d bytes, want %d rows", n, out.Shape, len(out.Data), want)
		}
	}
}

func TestStderrIsBounded(t *testing.T) {
	lines := 0
	log := zerolog.New(writer(func(p []byte) {
		if strings.Contains(string(p), "runner stderr") {
			lines++
		}
	}))
	s, err := New(badConfig("flood-stderr", log)).Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if kept := len(s.(*session).runner.said.last()); kept > maxSaid {
		t.Errorf("%d bytes kept, limit %d", kept, maxSaid)
	}
	if lines != maxLines+1 {
		t.Errorf("%d lines logged, want %d and one that says so", lines, maxLines)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestCloseEndsADeafRunner(t *testing.T) {
	s, err := bad(t, "hang-close").Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := watch(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if !ended() {
		t.Error("the runner is still there")
	}
}

// watch says from now on whether the runner of a session has ended. Its number alone
// does not: systemd may not have heard of the end yet.
func watch(t *testing.T, s hal.Session) (ended func() bool) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(runnerOf(s).child.pid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pidfd) })
	return func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return n == 1
	}
}

// An agent that has to end does not wait for runs that take their time.
func TestKill(t *testing.T) {
	e := bad(t, "hang-run")
	s, err := e.Open(t.Context(), someModel(t), hal.Options{Deadline: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ran := make(chan error, 1)
	go func() { _, err := s.Run(0); ran <- err }()
	for s.(*session).runner.doing() != "run" {
		runtime.Gosched()
	}
	e.Kill()
	if err := <-ran; !errors.Is(err, hal.ErrLost) || hal.CodeOf(err) != hal.CodeEngine {
		t.Errorf("run of a killed runner: %v", err)
	}
	if _, err := e.Open(t.Context(), someModel(t), hal.Options{}); err == nil {
		t.Error("another runner was started")
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := bad(t, "hang-open").Open(ctx, someModel(t), hal.Options{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestLimits(t *testing.T) {
	s, err := bad(t, "good").Open(t.Context(), someModel(t), hal.Options{MemoryLimit: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	proc := fmt.Sprintf("/proc/%d/", s.(*session).runner.child.pid())
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Error("the runner may gain privileges")
	}
	limits, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Max data size": "2147483648", "Max address space": "6442450944", "Max core file size": "1", "Max open files": "64", "Max file size": "0"} {
		if !hasLimit(string(limits), name, want) {
			t.Errorf("%s is not %s:\n%s", name, want, limits)
		}
	}
	threads, err := filepath.Glob(proc + "task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		if b, err := os.ReadFile(thread); err == nil && !strings.Contains(string(b), "NoNewPrivs:\t1") {
			t.Errorf("%s: a thread may gain privileges", thread)
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(proc + "fd/" + fd.Name())
		// Go's runtime reads its own CPU quota.
		if strings.HasPrefix(to, "/") && to != "/dev/null" && !strings.HasPrefix(to, "/sys/fs/cgroup/") {
			t.Errorf("descriptor %s of the runner is %s", fd.Name(), to)
		}
	}
}

func hasLimit(limits, name, want string) bool {
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			f := strings.Fields(rest)
			return f[0] == want && f[1] == want
		}
	}
	return false
}

func TestStageRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {`{"memory":1}`}, {"--", "/bin/true"}, {`{"memory":"x"}`, "--", "/bin/true"}, {`{"memory":0}`, "--", "/bin/true"},
		{`{"memory":1,"root":true}`, "--", "/bin/true"}} {
		if err := Stage(args); err == nil {
			t.Errorf("Stage(%q) is nil", args)
		}
	}
}

func TestStartBacksOff(t *testing.T) {
	e := bad(t, "exit-start")
	for range 3 {
		if _, err := e.Open(t.Context(), someModel(t), hal.Options{}); err == nil {
			t.Fatal("it opened")
		}
	}
	// Three failures in a row: 800 ms to wait, longer than the caller does.
	_, err := e.Open(t.Context(), someModel(t), hal.Options{OpenTimeout: 50 * time.Millisecond})
	if hal.CodeOf(err) != hal.CodeEngine || !strings.Contains(err.Error(), "keeps dying") {
		t.Errorf("%v, want a wait", err)
	}
}

func TestBackoff(t *testing.T) {
	now := time.Unix(1000, 0)
	var b backoff
	for i, want := range []time.Duration{200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000} {
		b.add(false, now)
		if got := b.remaining(now); got != want*time.Millisecond {
			t.Errorf("failure %d: wait %v, want %v", i+1, got, want*time.Millisecond)
		}
	}
	if b.add(true, now); b.remaining(now) != 0 {
		t.Error("a runner that starts ends the wait")
	}
}

// agent opens a session, prints the runner's process id and waits to be killed.
func agent(mode string) {
	badProgram = os.Getenv("BAD_PROGRAM")
	path := filepath.Join(os.Getenv("BAD_DIR"), "model")
	if err := os.WriteFile(path, []byte("some model"), 0o600); err != nil {
		panic(err)
	}
	s, err := New(badConfig(mode, zerolog.New(os.Stdout))).Open(context.Background(), hal.Model{Name: "some", Path: path}, hal.Options{Deadline: time.Hour})
	if err != nil {
		panic(err)
	}
	fmt.Println(s.(*session).runner.child.pid())
	_, _ = s.Run(0)
	fmt.Println("ran")
	time.Sleep(time.Hour)
}

// orderly is an agent that works on for a while when it is told to end.
func orderly() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	badProgram = os.Getenv("BAD_PROGRAM")
	path := filepath.Join(os.Getenv("BAD_DIR"), "model")
	if err := os.WriteFile(path, []byte("some model"), 0o600); err != nil {
		panic(err)
	}
	s, err := New(badConfig("good", zerolog.New(os.Stdout))).Open(context.Background(), hal.Model{Name: "some", Path: path}, hal.Options{})
	if err != nil {
		panic(err)
	}
	fmt.Println(s.(*session).runner.child.pid())
	_, err = s.Run(0)
	fmt.Println("ran", err)
	<-stop
	time.Sleep(time.Second) // long enough for a runner that was told to end as well
	_, err = s.Run(0)
	fmt.Println("ran after the signal:", err)
	s.Close()
}

// TestNoOrphan kills an agent with -9, with a runner that waits for requests and
// with one that is deaf.
func TestNoOrphan(t *testing.T) {
	for mode, ready := range map[string]string{"good": "ran", "hang-run": "hanging"} {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "agent", mode)
		cmd.Env = append(os.Environ(), "BAD_PROGRAM="+badProgram, "BAD_DIR="+t.TempDir())
		if bySocket() {
			s, err := newStandIn(filepath.Dir(badProgram))
			if err != nil {
				t.Fatal(err)
			}
			defer s.end()
			cmd.Env = append(cmd.Env, "BAD_SYSTEMD="+s.dir)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() && strings.HasPrefix(lines.Text(), "{") { // the log
		}
		line := lines.Text()
		for !strings.Contains(lines.Text(), ready) {
			if !lines.Scan() {
				t.Fatalf("%s: the agent ended: %v", mode, lines.Err())
			}
		}
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pidfd)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); err != nil || n != 1 {
			t.Errorf("%s: the runner outlived its agent (%d, %v)", mode, n, err)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// BenchmarkHop is a run of an engine that only reads a 224×224 picture.
func BenchmarkHop(b *testing.B) {
	s, err := bad(b, "picture").Open(b.Context(), someModel(b), hal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Run(0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	e, m := bad(b, "good"), someModel(b)
	for b.Loop() {
		s, err := e.Open(b.Context(), m, hal.Options{})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// TestOtherLanguage runs the suite over a runner that was written from PROTOCOL.md.
func TestOtherLanguage(t *testing.T) {
	text, err := os.ReadFile("testdata/invert.py")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "covey-runner-invert")
	if err := os.WriteFile(program, text, 0o700); err != nil {
		t.Fatal(err)
	}
	// What python3 is may be a script that looks for the real one: it could not do
	// that in the sandbox.
	where, err := exec.Command("python3", "-c", "import os, sys; print(os.path.realpath(sys.executable), sys.prefix)").Output()
	if err != nil {
		t.Fatal(err)
	}
	python, prefix, _ := strings.Cut(strings.TrimSpace(string(where)), " ")
	bin := t.TempDir()
	if err := os.Symlink(python, filepath.Join(bin, "python3")); err != nil {
		t.Fatal(err)
	}
	c := badConfig("", zerolog.New(zerolog.NewTestWriter(t)))
	c.Name, c.Program, c.Units, c.Env = "invert", program, UnitsOf(program), []string{"PATH=" + bin, "PYTHONHOME=" + prefix}
	c.Access.Read = []string{prefix + "/lib"}
	e, m := New(c), someModel(t)
	haltest.Engine(t, e, m)
	s, err := e.Open(t.Context(), m, hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	copy(s.Input(1, 0), "\x00\x01\x02\x03\x04\x05\x06\x07")
	if _, err := s.Run(1); err != nil {
		t.Fatal(err)
	}
	if got := string(s.Output(1, 0).Data); got != "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8" {
		t.Errorf("inverted: %q", got)
	}
}
