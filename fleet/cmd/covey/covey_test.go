package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/internal/api/apitest"
	"github.com/covey-edge/covey/fleet/wire"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts")

// A screen collects what is printed, from more than one goroutine.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A script is a file of lines: "$ covey …" runs the program and is followed by
// what it prints; "> …" lets the world do something; "# …" is a remark.
type script struct {
	t      *testing.T
	f      *apitest.Fleet
	dir    string
	boards map[string]*apitest.Device
	wishes map[string]string // device/pipeline → the execution seen last
	env    map[string]string
	stdin  string
	last   string // rollout
	later  func(*screen)
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{t: t, f: apitest.New(t), dir: t.TempDir(), boards: map[string]*apitest.Device{}, wishes: map[string]string{}}
			s.env = map[string]string{"XDG_CONFIG_HOME": filepath.Join(s.dir, "config")}
			got := s.play(string(b))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(b) {
				t.Errorf("%s: run with -update and look at the difference; got:\n%s", path, got)
			}
		})
	}
}

// play runs a script and returns it with what was really printed.
func (s *script) play(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "$ covey "):
			fmt.Fprintf(&out, "%s\n%s", line, s.covey(strings.TrimPrefix(line, "$ covey ")))
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&out, line)
			s.act(strings.Fields(line[2:]))
		case strings.HasPrefix(line, "#"), line == "":
			fmt.Fprintln(&out, line)
		}
	}
	return out.String()
}

// quoted splits a line into words; "two words" is one.
var quoted = regexp.MustCompile(`"[^"]*"|\S+`)

func (s *script) covey(line string) string {
	line = strings.NewReplacer("URL", s.f.URL, "CAHASH", s.f.Auth.CAHash(), "DATA", s.f.Data, "DIR", s.dir, "ROLLOUT", s.last).Replace(line)
	args := quoted.FindAllString(line, -1)
	for i := range args {
		args[i] = strings.Trim(args[i], `"`)
	}
	out := &screen{}
	a := &app{
		in: strings.NewReader(s.stdin), out: out, err: out, now: time.Now,
		env: func(k string) string { return s.env[k] }, ask: s.stdin != "",
		secret: func() ([]byte, error) { return nil, errors.New("no terminal") },
	}
	s.stdin = ""
	var wg sync.WaitGroup
	if later := s.later; later != nil {
		s.later = nil
		wg.Go(func() { later(out) })
	}
	code := a.run(s.t.Context(), args)
	wg.Wait()
	text := out.String()
	if id := regexp.MustCompile(`ro-[a-z2-7]{16}`).FindString(text); id != "" {
		s.last = id
	}
	if code != 0 {
		text += fmt.Sprintf("[exit %d]\n", code)
	}
	// An empty line of output is told from one of the script.
	return strings.ReplaceAll(s.normal(text), "\n\n", "\n|\n")
}

// normal takes out what differs from run to run.
func (s *script) normal(text string) string {
	text = strings.NewReplacer(s.f.URL, "URL", s.f.Auth.CAHash(), "CAHASH", s.f.Data, "DATA", s.dir, "DIR").Replace(text)
	for _, r := range []struct{ re, with string }{
		{`ro-[a-z2-7]{16}`, "ro-xxxxxxxxxxxxxxxx"},
		{`ex-[a-z2-7]{16}`, "ex-xxxxxxxxxxxxxxxx"},
		{`jt-[a-z2-7]{16}`, "jt-xxxxxxxxxxxxxxxx"},
		{`covey-join-[\w-]+`, "covey-join-xxxx"},
		{`\b[a-z2-7]{32}\b`, "PASSWORD"},
		{`until \d{4}-\d\d-\d\d \d\d:\d\d`, "until SOON"},
		{`\d{4}-\d\d-\d\dT[\d:.]+Z`, "TIME"},
		{`"seen": "[^"]*"`, `"seen": "TIME"`},
		{`(?m)^root [0-9a-f]{64}$`, "root FINGERPRINT"},
		{`trust root [0-9a-f]{16}`, "trust root FINGERPRINT"},
		{`made key [0-9a-f]{8}`, "made key xxxxxxxx"},
		{`127\.0\.0\.1:\d+: connect`, "ADDRESS: connect"},
	} {
		text = regexp.MustCompile(r.re).ReplaceAllString(text, r.with)
	}
	return text
}

// act lets boards and people do things.
func (s *script) act(words []string) {
	s.t.Helper()
	switch verb, args := words[0], words[1:]; verb {
	case "join": // id pipeline,… label=value…
		labels := map[string]string{}
		for _, l := range args[2:] {
			k, v, _ := strings.Cut(l, "=")
			labels[k] = v
		}
		s.boards[args[0]] = s.f.Join(s.t, wire.DeviceID(args[0]), labels, strings.Split(args[1], ",")...)
	case "model": // file size
		n, err := strconv.Atoi(args[1])
		if err != nil {
			s.t.Fatal(err)
		}
		apitest.Model(s.t, s.dir, args[0], n)
	case "key": // name: the key of that name, the same every time
		seed := sha256.Sum256([]byte(args[0]))
		k := ed25519.NewKeyFromSeed(seed[:])
		text := fmt.Sprintf(`{"v":1,"public":"%x","seed":"%x"}`, k.Public(), seed)
		if err := os.WriteFile(filepath.Join(s.dir, args[0]+".key"), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	case "mode": // file mode
		mode, err := strconv.ParseUint(args[1], 8, 32)
		if err == nil {
			err = os.Chmod(filepath.Join(s.dir, args[0]), os.FileMode(mode))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	case "file": // name line…; ~ is a space
		if err := os.WriteFile(filepath.Join(s.dir, args[0]), []byte(strings.ReplaceAll(strings.Join(args[1:], "\n"), "~", " ")+"\n"), 0o600); err != nil {
			s.t.Fatal(err)
		}
	case "token": // file
		if err := os.WriteFile(filepath.Join(s.dir, args[0]), []byte(s.f.Token+"\n"), 0o600); err != nil {
			s.t.Fatal(err)
		}
	case "stdin":
		s.stdin = strings.Join(args, " ") + "\n"
	case "report": // id pipeline state [code text]
		s.report(args)
	case "onward": // id pipeline state: of what was staged, once it is activated
		d, w := s.boards[args[0]], wire.DesiredRelease{}
		changes := s.f.Registry.Watch(100)
		defer changes.Close()
		for w.Mode != wire.ModeActivate {
			doc, err := s.f.Registry.Desired(d.ID)
			if err != nil {
				s.t.Fatal(err)
			}
			if w = doc.Pipelines[args[1]]; w.Mode != wire.ModeActivate {
				<-changes.C
			}
		}
		d.Report(args[1], w, wire.ExecState(args[2]), nil)
		s.heard(w.Execution, wire.ExecState(args[2]))
	case "until": // state: of the last rollout
		s.until(wire.RolloutState(args[0]))
	case "settled": // n: so many rollouts are COMPLETED
		s.settled(args[0])
	case "health": // id pipeline bytes
		n, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		s.boards[args[0]].Say("health", wire.Health{V: 1, CPU: 12, Mem: 34, Disk: 56, Up: 60, TS: time.Unix(0, 0).UTC(),
			Pipes: map[string]wire.PipelineHealth{args[1]: {FPS: 5, Memory: n, Degraded: wire.DegradedFallback}}})
	case "degraded": // id pipeline reason…
		s.boards[args[0]].Say("reported", wire.Reported{V: 1, SID: 1, TS: time.Unix(0, 0).UTC(), Pipelines: map[string]wire.ReportedPipeline{
			args[1]: {Accelerator: "xnnpack", Degraded: strings.Join(args[2:], " ")}}})
	case "cold": // id pipeline milliseconds: its swap
		w := s.boards[args[0]].Wish(args[1], s.wishes[args[0]+"/"+args[1]])
		gap, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		s.boards[args[0]].Say("exec/"+w.Execution, wire.ExecStep{V: 1, ID: args[0] + "/" + w.Execution + "/600", Seq: 1, Execution: w.Execution,
			Pipeline: args[1], Release: w.Release, N: 600, State: wire.Probation, TS: time.Unix(0, 0).UTC(), GapMS: gap})
		s.heard(w.Execution, wire.Probation)
	case "when": // the next command has printed word: report …
		s.later = func(out *screen) {
			for end := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), args[0]); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					s.t.Errorf("%s was never printed in:\n%s", args[0], out)
					return
				}
			}
			for _, board := range strings.Split(args[1], ",") {
				s.report(append([]string{board}, args[2:]...))
			}
		}
	case "result": // id pipeline label
		s.boards[args[0]].Say("result/"+args[1], wire.Result{
			V: 1, ID: "r-" + args[2], Seq: 1, Pipe: args[1], Frame: 1, Name: args[2] + ".png", Kind: "classify", Accel: "xnnpack",
			TS: time.Unix(0, 0).UTC(), Model: wire.ModelRef{Name: "m", Ver: "1.0.0", SHA: strings.Repeat("0", 16)},
			LatMS: wire.Latency{Pre: 1, Inv: 13, Post: .8}, Items: []wire.Item{{Label: args[2], Score: .99}},
		})
	default:
		s.t.Fatalf("the world cannot %s", verb)
	}
}

func (s *script) report(args []string) {
	d, pipeline, state := s.boards[args[0]], args[1], wire.ExecState(args[2])
	key := args[0] + "/" + pipeline
	w := d.Wish(pipeline, s.wishes[key])
	s.wishes[key] = w.Execution
	var f *wire.Fault
	if len(args) > 3 {
		f = &wire.Fault{Code: args[3], Text: strings.Join(args[4:], " ")}
	}
	d.Report(pipeline, w, state, f)
	s.heard(w.Execution, state)
}

// heard waits until the rollouts know how an execution stands.
func (s *script) heard(execution string, state wire.ExecState) {
	s.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		changed := s.f.Rollouts.Changed()
		list, err := s.f.Rollouts.List()
		for _, r := range list {
			_, xs, e := s.f.Rollouts.Get(r.ID)
			err = errors.Join(err, e)
			for _, x := range xs {
				if x.ID == execution && x.State == state {
					return
				}
			}
		}
		if err != nil {
			s.t.Fatal(err)
		}
		select {
		case <-changed:
		case <-limit:
			s.t.Fatalf("execution %s is never %s", execution, state)
		}
	}
}

// until waits until the last rollout is in a state.
func (s *script) until(state wire.RolloutState) {
	s.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		changed := s.f.Rollouts.Changed()
		r, _, err := s.f.Rollouts.Get(s.last)
		if err != nil {
			s.t.Fatal(err)
		}
		if r.State == state {
			return
		}
		select {
		case <-changed:
		case <-limit:
			s.t.Fatalf("rollout %s is never %s, but %s", s.last, state, r.State)
		}
	}
}

// settled waits until so many rollouts are completed.
func (s *script) settled(want string) {
	s.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		changed := s.f.Rollouts.Changed()
		list, err := s.f.Rollouts.List()
		if err != nil {
			s.t.Fatal(err)
		}
		n := 0
		for _, r := range list {
			if r.State == wire.RolloutCompleted {
				n++
			}
		}
		if strconv.Itoa(n) == want {
			return
		}
		select {
		case <-changed:
		case <-limit:
			s.t.Fatalf("%d rollouts are completed, not %s", n, want)
		}
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	a := &app{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden { // for programs
			return
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Runnable() && !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if c.Short == "" {
			t.Errorf("%s says nothing of itself", c.CommandPath())
		}
	}
	walk(a.root())
}

func TestLoginIsPrivate(t *testing.T) {
	f := apitest.New(t)
	dir := t.TempDir()
	a := &app{in: strings.NewReader(f.Token), out: &screen{}, err: &screen{}, now: time.Now,
		env: func(k string) string { return map[string]string{"HOME": dir}[k] }}
	if code := a.run(t.Context(), []string{"login", f.URL, "--ca", f.CA}); code != 0 {
		t.Fatalf("login: exit %d: %s", code, a.err)
	}
	fi, err := os.Stat(filepath.Join(dir, ".config", "covey", "login.json"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("login file: %v %v", fi, err)
	}
}

func TestProgressAndColoursAreForTerminals(t *testing.T) {
	f := apitest.New(t)
	f.Join(t, "pi-1", nil, "cam")
	model := apitest.Model(t, t.TempDir(), "m.tflite", 3*wire.BlockSize)
	for _, live := range []bool{true, false} {
		out := &screen{}
		a := &app{out: out, err: out, now: time.Now, env: func(string) string { return "" }, live: live, color: live}
		a.run(t.Context(), []string{"--data", f.Data, "release", "push", model, "--version", "1.0.0"})
		a.run(t.Context(), []string{"--data", f.Data, "device", "list"})
		if got := strings.Contains(out.String(), "\x1b["); got != live {
			t.Errorf("terminal %v: escapes %v in %q", live, got, out)
		}
	}
}

func TestInterruptedWatchEnds(t *testing.T) {
	f := apitest.New(t)
	f.Join(t, "pi-1", nil, "cam")
	ctx, cancel := context.WithCancel(t.Context())
	out := &screen{}
	a := &app{out: writerFunc(func(p []byte) (int, error) { cancel(); return out.Write(p) }), err: out, now: time.Now, env: func(string) string { return "" }}
	if code := a.run(ctx, []string{"--data", f.Data, "device", "watch"}); code != exitFailed || !strings.Contains(out.String(), "pi-1") {
		t.Errorf("exit %d: %s", code, out)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
