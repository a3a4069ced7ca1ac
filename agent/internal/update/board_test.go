package update_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const pipe = "door"

func digest(b []byte) wire.Digest {
	sum := sha256.Sum256(b)
	return wire.Digest(hex.EncodeToString(sum[:]))
}

// A controller holds blobs and hands them out: the Fetcher.
type controller struct {
	mu      sync.Mutex
	blobs   map[wire.Digest][]byte
	fail    []error       // of the next fetches; nil: none
	lie     bool          // blocks come with other bytes
	worse   int           // each so manieth block comes with other bytes first; 0: none
	delay   time.Duration // before each block
	blocks  int           // handed out
	fetches int
	asked   func(wire.Digest) // may be nil
}

func newController() *controller { return &controller{blobs: map[wire.Digest][]byte{}} }

func (c *controller) put(b []byte) release.File {
	c.blobs[digest(b)] = b
	f := release.File{SHA256: string(digest(b)), Length: int64(len(b)), Blocks: []byte{}}
	for at := 0; at < len(b); at += wire.BlockSize {
		sum := sha256.Sum256(b[at:min(at+wire.BlockSize, len(b))])
		f.Blocks = append(f.Blocks, sum[:]...)
	}
	return f
}

// release makes a release of a model; how its model behaves is its first word.
func (c *controller) release(model string, edit ...func(*release.Manifest)) wire.DesiredRelease {
	f := c.put([]byte(model))
	f.Name = "m.tflite"
	labels := c.put([]byte("cat\ndog\n"))
	labels.Name = "labels.txt"
	m := &release.Manifest{V: 1, Name: "birds", Version: "1.0.0", Labels: &labels, Variants: []release.Variant{{Engine: "tflite", File: f}}}
	for _, e := range edit {
		e(m)
	}
	canon := m.Canonical()
	c.blobs[digest(canon)] = canon
	return wire.DesiredRelease{Release: digest(canon), Length: int64(len(canon)), Name: m.Name, Version: m.Version,
		Execution: "ex-" + string(digest(canon)[:8]), Attempt: 1, Mode: wire.ModeActivate}
}

func (c *controller) Fetch(ctx context.Context, sha wire.Digest, p update.Partial) error {
	c.mu.Lock()
	c.fetches++
	var err error
	if len(c.fail) > 0 {
		err, c.fail = c.fail[0], c.fail[1:]
	}
	b, ok := c.blobs[sha]
	lie, delay, worse := c.lie, c.delay, c.worse
	c.mu.Unlock()
	if c.asked != nil {
		c.asked(sha)
	}
	if !ok {
		return &hal.Error{Code: hal.CodeFetch, Text: "no such blob for this device"}
	}
	for p.Left() > 0 {
		n, missing := 0, p.Missing()
		for !missing.Has(n) {
			if n++; n > len(b)/wire.BlockSize {
				return errors.New("blocks are missing, and none is asked for")
			}
		}
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		block := bytes.Clone(b[n*wire.BlockSize : min((n+1)*wire.BlockSize, len(b))])
		if lie {
			block[0] ^= 1
		}
		if worse > 0 && n%worse == 0 && len(b) > wire.BlockSize {
			wrong := bytes.Clone(block)
			wrong[0] ^= 1
			if werr := p.WriteBlock(n, wrong); !errors.Is(werr, blob.ErrBlock) {
				return werr
			}
		}
		if werr := p.WriteBlock(n, block); werr != nil {
			return werr
		}
		c.mu.Lock()
		c.blocks++
		c.mu.Unlock()
		if err != nil {
			return err // one block came all the same
		}
	}
	return err
}

// A board is what the journey happens on; its disk outlives restarts.
type board struct {
	t    *testing.T
	fs   *crashfs.FS
	ctrl *controller

	mu      sync.Mutex
	running map[string]*warm // by pipeline, of this process
	bad     []string         // what must never happen
	steps   []wire.ExecStep
	warms   []*warm // all that were opened in this life
	pins    []wire.HelloPipeline

	floor    time.Time
	voucher  update.Voucher
	prepared func() // called when a candidate is ready
	stepped  func(wire.ExecStep)
	switches int
	changes  atomic.Int32 // of Reported
}

// A warm release remembers its model's text, which says how it behaves.
type warm struct {
	files  update.Files
	text   string
	closed bool
	runs   int
}

func (w *warm) Info() hal.Info {
	return hal.Info{Accelerator: hal.CPU, SHA256: string(w.files.Slot.Model)}
}

func (w *warm) Since() time.Time { return time.Time{} }

func (w *warm) Close() error {
	w.closed = true
	return nil
}

func newBoard(t *testing.T, fsys *crashfs.FS, c *controller) *board {
	return &board{t: t, fs: fsys, ctrl: c, pins: []wire.HelloPipeline{{Name: pipe}}}
}

func (b *board) Prepare(ctx context.Context, pipeline string, f update.Files) (update.Warm, error) {
	text, err := f.Read(f.Variant.File)
	if err != nil {
		return nil, err
	}
	if f.Manifest.Labels != nil {
		if _, err := f.Read(*f.Manifest.Labels); err != nil {
			return nil, err
		}
	}
	word, _, _ := strings.Cut(string(text), " ")
	if code, ok := strings.CutPrefix(word, "open:"); ok {
		return nil, &hal.Error{Code: hal.Code(code), Text: "the engine says no"}
	}
	if word == "hangs" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if word == "large" { // no room beside what runs, and then it hangs
		since := time.Now()
		if err := b.Switch(ctx, pipeline, nil); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, &update.Stopped{Since: since, Err: ctx.Err()}
	}
	if word == "flaky" {
		return nil, errors.New("runner could not be started")
	}
	if f.Trial && word == "golden" {
		return nil, release.CompareLabel("cat", "parrot")
	}
	w := &warm{files: f, text: string(text)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.warms = append(b.warms, w)
	if b.prepared != nil && f.Trial {
		defer b.prepared()
	}
	return w, nil
}

func (b *board) Switch(_ context.Context, pipeline string, w update.Warm) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.switches++
	old := b.running[pipeline]
	if w == nil {
		if old != nil {
			old.closed = true
		}
		delete(b.running, pipeline)
		return nil
	}
	next := w.(*warm)
	if next.closed {
		b.bad = append(b.bad, "switched to a closed session")
	}
	if old != nil && old.closed {
		b.bad = append(b.bad, "the old session was closed before the switch")
	}
	b.running[pipeline] = next
	if old != nil {
		old.closed = true
	}
	return nil
}

func (b *board) Step(s wire.ExecStep) error {
	b.mu.Lock()
	b.steps = append(b.steps, s)
	b.mu.Unlock()
	if b.stepped != nil {
		b.stepped(s)
	}
	return nil
}

// infer lets every pipeline run its model once and tells the loop.
func (b *board) infer(l *update.Loop) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, w := range b.running {
		if w.closed {
			b.bad = append(b.bad, "a closed session is in the pipeline "+name)
		}
		if digest([]byte(w.text)) != w.files.Slot.Model {
			b.bad = append(b.bad, "a model with the wrong hash runs")
		}
		word, _, _ := strings.Cut(w.text, " ")
		var err error
		if code, ok := strings.CutPrefix(word, "run:"); ok {
			err = &hal.Error{Code: hal.Code(code), Text: "runner says no"}
		}
		if code, ok := strings.CutPrefix(word, "late:"); ok && w.runs > 15 {
			err = &hal.Error{Code: hal.Code(code), Text: "runner says no"}
		}
		w.runs++
		l.Note(name, w.files.Slot.Release, run(word, err))
	}
}

// A session is one life of the agent, from start to stop or power cut.
type session struct {
	*board
	loop  *update.Loop
	state *slots.Store
	stop  func()
}

// boot starts the agent inside a synctest bubble; nil and the error when the
// disk does not let it.
func (b *board) boot(ctx context.Context) (*session, error) {
	b.running, b.warms = map[string]*warm{}, nil
	state, err := slots.Open("/data/state", b.fs)
	if err != nil {
		return nil, err
	}
	blobs, err := blob.Open("/data/blobs", b.fs)
	if err != nil {
		return nil, err
	}
	log := zerolog.Nop()
	if testing.Verbose() {
		log = zerolog.New(zerolog.NewTestWriter(b.t)).Level(zerolog.WarnLevel)
	}
	l := update.New(update.Config{Device: "pi-1", Pipelines: b.pins, State: state, Blobs: blobs, Fetcher: b.ctrl, Installer: b, Steps: b, Log: log,
		Floor: b.floor, Voucher: b.voucher, Changed: func() { b.changes.Add(1) },
		Board: func() release.Board {
			return release.Board{Arch: "arm64", Devices: []wire.HelloDevice{{Engine: "tflite", Accelerator: "cpu"}}}
		}})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	return &session{b, l, state, func() { cancel(); <-done }}, nil
}

func (s *session) desire(rev uint64, want map[string]wire.DesiredRelease) error {
	return s.loop.Desire(wire.Desired{Signed: wire.DesiredSigned{V: 1, Rev: rev, Device: "pi-1", Pipelines: want}})
}

// tick lets fake time pass, with an inference each tenth of a second, until done
// says so or the time is up.
func (s *session) tick(most time.Duration, done func() bool) bool {
	for begin := time.Now(); time.Since(begin) < most; {
		synctest.Wait()
		if done() {
			return true
		}
		pause := 100 * time.Millisecond
		if time.Since(begin) > 2*time.Minute {
			pause = 20 * time.Second // nothing quick is going on
		}
		time.Sleep(pause)
		s.infer(s.loop)
	}
	return false
}

func (s *session) pipeline(name string) slots.Pipeline { return s.state.State().Pipelines[name] }

// settled says whether an execution is over and what should run runs.
func (s *session) settled(execution string) func() bool {
	return func() bool {
		p := s.pipeline(pipe)
		return p.Exec != nil && p.Exec.Want.Execution == execution && p.Over() && s.runs(pipe) == active(p)
	}
}

func active(p slots.Pipeline) wire.Digest {
	if p.Active == nil {
		return ""
	}
	return p.Active.Release
}

func (s *session) runs(name string) wire.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.running[name]; w != nil {
		return w.files.Slot.Release
	}
	return ""
}

// bring installs a release and fails the test if it does not get there.
func (s *session) bring(rev uint64, w wire.DesiredRelease) {
	s.t.Helper()
	if err := s.desire(rev, map[string]wire.DesiredRelease{pipe: w}); err != nil {
		s.t.Fatal(err)
	}
	if !s.tick(time.Hour, s.settled(w.Execution)) {
		s.t.Fatalf("not settled: %+v", s.pipeline(pipe).Exec)
	}
	if got := s.pipeline(pipe).Exec.State; got != wire.Succeeded {
		s.t.Fatalf("got %s, %+v, want SUCCEEDED", got, s.pipeline(pipe).Exec.Fault)
	}
}

func (b *board) checkBad() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.bad {
		b.t.Error(s)
	}
	for _, w := range b.warms {
		if !w.closed && b.running[pipe] != w && b.running["yard"] != w {
			b.t.Errorf("%.20q was opened and never closed", w.text)
		}
	}
	n := map[string]int{}
	for _, s := range b.steps {
		if s.N < n[s.Execution] && s.State != wire.Downloading {
			b.t.Errorf("step %s: n %d after %d", s.ID, s.N, n[s.Execution])
		}
		n[s.Execution] = max(s.N, n[s.Execution])
	}
}

// lives runs f as one life of the agent on a clock of its own.
func (b *board) lives(f func(s *session)) {
	b.t.Helper()
	synctest.Test(b.t, func(t *testing.T) {
		s, err := b.boot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f(s)
		s.stop()
	})
	b.checkBad()
}

func states(steps []wire.ExecStep, execution string) string {
	var out []string
	for _, s := range steps {
		if s.Execution == execution && s.N%100 == 0 {
			out = append(out, string(s.State))
		}
	}
	return strings.Join(out, " ")
}

func big(word string, blocks int) string {
	return word + " " + strings.Repeat(fmt.Sprintf("%s %d ", word, blocks), (blocks*wire.BlockSize)/(len(word)+4))
}
