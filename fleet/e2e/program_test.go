package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is the path of one of our programs.
func program(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("COVEY_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run ./scripts/setup first", err)
	}
	return path
}

// models is the folder of the models and pictures that ./scripts/setup fetched.
func models(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("COVEY_MODELS")
	if dir == "" {
		t.Fatal("COVEY_MODELS is not set: run `. scripts/env` first (./scripts/test does)")
	}
	return dir
}

// A process is one running program. Its output is kept and searched.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended

	mu      sync.Mutex // guards what follows
	lines   []string
	changed chan struct{} // closed and renewed at each line
}

// start starts a program. It is killed, with all it started, when the test ends.
func start(t *testing.T, name string, env []string, argv ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	// A session of its own tells what it started from everything else: see session.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	w.Close()
	var reading sync.WaitGroup
	reading.Go(func() { p.read(r) })
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.tail(80))
		}
	})
	return p
}

func (p *process) read(r *os.File) {
	defer r.Close()
	for s := bufio.NewScanner(r); s.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, s.Text())
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-n):], "\n")
}

// said says whether a line with all the texts was printed so far.
func (p *process) said(texts ...string) bool { return p.count(texts...) > 0 }

// count is how many lines with all the texts were printed so far.
func (p *process) count(texts ...string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(l, text) }) {
			n++
		}
	}
	return n
}

// await waits for a line with text.
func (p *process) await(text string, limit time.Duration) {
	p.t.Helper()
	end := time.After(limit)
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if p.said(text) {
			return
		}
		select {
		case <-changed:
		case <-p.done:
			if p.said(text) {
				return
			}
			p.t.Fatalf("%s ended without saying %q", p.name, text)
		case <-end:
			p.t.Fatalf("%s did not say %q within %v", p.name, text, limit)
		}
	}
}

// kill is kill -9 of the process alone; what it started must notice by itself.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop asks it to end and reports how it did.
func (p *process) stop(limit time.Duration) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(limit):
		p.kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.name, limit)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with %s", p.name, p.cmd.ProcessState)
	}
	return nil
}

// session is the processes that it started and that still run: pid → command.
func (p *process) session() map[int]string {
	all := map[int]string{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, _ := os.ReadFile(path) // empty: it ended meanwhile
		// pid (command) state parent group session …
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(f) < 4 || f[0] == "Z" || f[3] != strconv.Itoa(p.cmd.Process.Pid) || pid == p.cmd.Process.Pid {
			continue
		}
		b, _ = os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		all[pid] = strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ")
	}
	return all
}

// signalRunners sends a signal to every runner that it started, and returns how
// many there were.
func (p *process) signalRunners(s syscall.Signal) (n int) {
	for pid, command := range p.session() {
		if strings.HasSuffix(command, "covey-runner-tflite") {
			syscall.Kill(pid, s)
			n++
		}
	}
	return n
}

// run runs a command to its end and returns its standard output.
func run(t *testing.T, env []string, argv ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes(), err
}

// until asks again and again, every 50 ms, until ok says yes: for what another
// program does that cannot tell us.
func until(t *testing.T, limit time.Duration, what string, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
	}
}

func decode[T any](b []byte) (T, error) {
	var v T
	if len(b) == 0 {
		return v, errors.New("no output")
	}
	err := json.Unmarshal(b, &v)
	return v, err
}
