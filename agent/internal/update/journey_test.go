package update_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

func TestHappyJourney(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2 := c.release(big("good-1", 3)), c.release(big("good-2", 20))
	b.lives(func(s *session) {
		s.bring(1, v1)
		blocks := c.blocks
		c.delay = time.Second // how far a quick one is nobody needs to know
		s.bring(2, v2)
		if got := c.blocks - blocks; got > 25 {
			t.Errorf("%d blocks fetched for 20 of the model, the manifest and nothing else", got)
		}
		tenths := 0
		for _, st := range b.steps {
			if st.Total > 0 && st.State == wire.Downloading && st.N == 200+int(st.Done*100/st.Total) && st.Done < st.Total {
				tenths++
			}
		}
		if tenths < 9 || tenths > 20 {
			t.Errorf("%d steps say how far the downloads are", tenths)
		}
		p := s.pipeline(pipe)
		if p.Previous == nil || p.Previous.Release != v1.Release || p.Candidate != nil {
			t.Errorf("slots after the update: %+v", p)
		}
		want := "QUEUED DOWNLOADING VERIFYING STAGED SELF_TESTING SWITCHING PROBATION SUCCEEDED"
		if got := states(b.steps, v2.Execution); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		r := s.loop.Reported()
		rp := r.Pipelines[pipe]
		if r.Rev != 2 || rp.Active.Release != v2.Release || rp.State != wire.Succeeded || rp.Accelerator != "cpu" || rp.Fault != nil {
			t.Errorf("reported: %+v", rp)
		}
		// The same release in a new rollout, and the same document again.
		again := v2
		again.Execution = "ex-again"
		n := len(b.steps)
		if err := errors.Join(s.desire(2, map[string]wire.DesiredRelease{pipe: v2}), s.desire(3, map[string]wire.DesiredRelease{pipe: again})); err != nil {
			t.Fatal(err)
		}
		s.tick(time.Minute, s.settled("ex-again"))
		if got := s.pipeline(pipe).Exec.State; got != wire.AlreadyInstalled || len(b.steps) != n+1 {
			t.Errorf("got %s and %d steps", got, len(b.steps)-n)
		}
		if back := states(b.steps, v1.Execution); !strings.HasSuffix(back, "SUCCEEDED") {
			t.Errorf("first: %s", back)
		}
	})
	// A restart brings it back without a word from the fleet.
	b.lives(func(s *session) {
		if !s.tick(time.Minute, func() bool { return s.runs(pipe) == v2.Release }) {
			t.Error("not running after a restart")
		}
	})
}

// Every bad release ends in the right state with the right code, and what ran
// before goes on.
func TestBadReleases(t *testing.T) {
	for name, c := range map[string]struct {
		model      string
		edit       func(*release.Manifest)
		controller func(*controller, wire.DesiredRelease)
		state      wire.ExecState
		code       hal.Code
		quarantine bool
	}{
		"0 bytes":         {"", nil, nil, wire.Rejected, hal.CodeModelEmpty, false},
		"unknown op":      {"open:E_OP x", nil, nil, wire.Rejected, hal.CodeOp, true},
		"not a model":     {"open:E_MODEL_FORMAT x", nil, nil, wire.Rejected, hal.CodeModelFormat, true},
		"truncated model": {"open:E_MODEL_SHORT x", nil, nil, wire.Rejected, hal.CodeModelShort, true},
		"crash at load":   {"open:E_CRASH x", nil, nil, wire.Rejected, hal.CodeCrash, true},
		"too much memory": {"open:E_MEMORY x", nil, nil, wire.Rejected, hal.CodeMemory, true},
		"no accelerator":  {"open:E_ACCEL x", nil, nil, wire.Rejected, hal.CodeAccel, false},
		"hang at load":    {"hangs x", nil, nil, wire.Rejected, hal.CodeTimeout, true},
		"hang, cold swap": {"large x", nil, nil, wire.Rejected, hal.CodeTimeout, true},
		"golden":          {"golden x", nil, nil, wire.Rejected, hal.CodeGolden, true},
		"no runner":       {"flaky x", nil, nil, wire.Failed, hal.CodeUnknown, false},
		"gpu": {"good x", func(m *release.Manifest) { m.Variants[0].Accelerator = "gpu" }, nil,
			wire.Rejected, hal.CodeAccel, false},
		"edgetpu without sibling": {"good x", func(m *release.Manifest) { m.Variants[0].Accelerator = "edgetpu" }, nil,
			wire.Rejected, hal.CodeManifest, false},
		"other engine": {"good x", func(m *release.Manifest) { m.Variants[0].Engine = "onnx" }, nil,
			wire.Rejected, hal.CodeEngine, false},
		"illegal path": {"good x", func(m *release.Manifest) { m.Variants[0].File.Name = "../x" }, nil,
			wire.Rejected, hal.CodePath, false},
		"blocks do not fit the file": {"good x", func(m *release.Manifest) { m.Variants[0].File.Blocks = m.Variants[0].File.Blocks[1:] }, nil,
			wire.Rejected, hal.CodeManifest, false},
		"file gone": {"good x", nil, func(c *controller, _ wire.DesiredRelease) { delete(c.blobs, digest([]byte("good x"))) },
			wire.Failed, hal.CodeFetch, false},
		"manifest gone": {"good x", nil, func(c *controller, w wire.DesiredRelease) { delete(c.blobs, w.Release) },
			wire.Failed, hal.CodeFetch, false},
		"manifest is not JSON": {"good x", nil, nil, wire.Rejected, hal.CodeJSON, false},
		"manifest with another hash": {"good x", nil, func(c *controller, w wire.DesiredRelease) {
			b := append([]byte(nil), c.blobs[w.Release]...)
			b[10] ^= 1
			c.blobs[w.Release] = b
		}, wire.Failed, hal.CodeHash, false},
		"whole hash wrong": {"good x", func(m *release.Manifest) {
			m.Variants[0].File.SHA256 = string(digest([]byte("good y")))
		}, func(c *controller, _ wire.DesiredRelease) { c.blobs[digest([]byte("good y"))] = []byte("good x") },
			wire.Failed, hal.CodeHash, false},
		"crash in probation":  {"run:E_CRASH x", nil, nil, wire.RolledBack, hal.CodeCrash, true},
		"hang in probation":   {"run:E_TIMEOUT x", nil, nil, wire.RolledBack, hal.CodeTimeout, true},
		"invoke in probation": {"run:E_INVOKE x", nil, nil, wire.RolledBack, hal.CodeInvoke, true},
	} {
		t.Run(name, func(t *testing.T) {
			ctrl := newController()
			b := newBoard(t, crashfs.New(), ctrl)
			good := ctrl.release("good 1")
			edit := func(m *release.Manifest) {}
			if c.edit != nil {
				edit = c.edit
			}
			bad := ctrl.release(c.model, edit)
			if name == "manifest is not JSON" {
				text := []byte("<html>404</html>")
				bad.Release, bad.Length = digest(text), int64(len(text))
				ctrl.blobs[bad.Release] = text
			}
			if c.controller != nil {
				c.controller(ctrl, bad)
			}
			b.lives(func(s *session) {
				s.bring(1, good)
				if err := s.desire(2, map[string]wire.DesiredRelease{pipe: bad}); err != nil {
					t.Fatal(err)
				}
				if !s.tick(2*time.Hour, s.settled(bad.Execution)) {
					t.Fatalf("not settled: %+v", s.pipeline(pipe).Exec)
				}
				e := s.pipeline(pipe).Exec
				if e.State != c.state || e.Fault == nil || e.Fault.Code != string(c.code) {
					t.Fatalf("got %s %+v, want %s %s", e.State, e.Fault, c.state, c.code)
				}
				if strings.Contains(e.Fault.Text, "\n") || e.Fault.Text == "" {
					t.Errorf("not one line: %q", e.Fault.Text)
				}
				if s.runs(pipe) != good.Release || s.pipeline(pipe).Candidate != nil {
					t.Errorf("the good one does not run: %+v", s.pipeline(pipe))
				}
				if _, q := s.state.State().Quarantined(bad.Release, bad.Attempt); q != c.quarantine {
					t.Errorf("quarantined: %t, want %t", q, c.quarantine)
				}
				if c.quarantine {
					offeredAgain(t, s, bad)
				}
			})
		})
	}
}

// offeredAgain: in the same attempt refused, with a higher one tried again.
func offeredAgain(t *testing.T, s *session, bad wire.DesiredRelease) {
	t.Helper()
	fetches := s.ctrl.fetches
	again := bad
	again.Execution = "ex-2"
	_ = s.desire(3, map[string]wire.DesiredRelease{pipe: again})
	s.tick(time.Minute, s.settled("ex-2"))
	if e := s.pipeline(pipe).Exec; e.State != wire.Rejected || e.Fault.Code != string(hal.CodeQuarantined) || s.ctrl.fetches != fetches {
		t.Errorf("offered again: got %s %+v after %d fetches", e.State, e.Fault, s.ctrl.fetches-fetches)
	}
	again.Execution, again.Attempt = "ex-3", bad.Attempt+1
	_ = s.desire(4, map[string]wire.DesiredRelease{pipe: again})
	s.tick(2*time.Hour, s.settled("ex-3"))
	if e := s.pipeline(pipe).Exec; e.State == wire.Rejected && e.Fault.Code == string(hal.CodeQuarantined) {
		t.Error("a higher attempt was refused")
	}
}

func TestBadBlocksAndLinks(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2, v3 := c.release(big("good-1", 2)), c.release(big("good-2", 40)), c.release(big("good-3", 2))
	b.lives(func(s *session) {
		s.bring(1, v1)
		// Thirty cuts, one block between each: slow, but it gets on.
		before := c.blocks
		for range 30 {
			c.fail = append(c.fail, errors.New("connection reset"))
		}
		s.bring(2, v2)
		if got := c.blocks - before; got > 43 {
			t.Errorf("%d blocks handed out for 41: some came twice", got)
		}
		// Blocks with the wrong bytes are not taken, and end it in the end.
		c.lie = true
		_ = s.desire(3, map[string]wire.DesiredRelease{pipe: v3})
		s.tick(time.Hour, s.settled(v3.Execution))
		if e := s.pipeline(pipe).Exec; e.State != wire.Failed {
			t.Errorf("got %s %+v", e.State, e.Fault)
		}
		c.lie = false
	})
}

func TestDiskFull(t *testing.T) {
	c := newController()
	f := crashfs.New()
	b := newBoard(t, f, c)
	v1, v2 := c.release("good 1"), c.release(big("good-2", 40))
	b.lives(func(s *session) {
		s.bring(1, v1)
		f.SetFree(9 << 20)
		_ = s.desire(2, map[string]wire.DesiredRelease{pipe: v2})
		s.tick(20*time.Second, s.settled(v2.Execution))
		if s.pipeline(pipe).Over() || s.runs(pipe) != v1.Release {
			t.Fatalf("%+v", s.pipeline(pipe).Exec)
		}
		f.SetFree(100 << 20)
		begin := time.Now()
		if !s.tick(2*time.Minute, s.settled(v2.Execution)) || s.pipeline(pipe).Exec.State != wire.Succeeded {
			t.Fatalf("does not heal: %+v", s.pipeline(pipe).Exec)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("healed after %s", took)
		}
		f.SetFree(1 << 20) // enough for the state, not for a model
		v3 := c.release(big("good-3", 2))
		_ = s.desire(3, map[string]wire.DesiredRelease{pipe: v3})
		s.tick(time.Hour, s.settled(v3.Execution))
		if e := s.pipeline(pipe).Exec; e.State != wire.Failed || e.Fault.Code != string(hal.CodeDiskFull) {
			t.Errorf("got %s %+v", e.State, e.Fault)
		}
	})
}

// Something newer wins in every state, at once.
func TestSuperseded(t *testing.T) {
	for _, at := range []wire.ExecState{wire.Downloading, wire.SelfTesting, wire.Probation} {
		t.Run(string(at), func(t *testing.T) {
			c := newController()
			b := newBoard(t, crashfs.New(), c)
			v1 := c.release("good 1")
			v2, v3 := c.release(big("good-2", 30)), c.release("good 3")
			b.lives(func(s *session) {
				s.bring(1, v1)
				switch at {
				case wire.Downloading:
					c.delay = time.Hour
				case wire.SelfTesting:
					v2 = c.release("hangs x")
				}
				_ = s.desire(2, map[string]wire.DesiredRelease{pipe: v2})
				if !s.tick(time.Minute, func() bool { e := s.pipeline(pipe).Exec; return e.State == at }) {
					t.Fatalf("does not reach %s: %+v", at, s.pipeline(pipe).Exec)
				}
				c.mu.Lock()
				c.delay = 0
				c.mu.Unlock()
				begin := time.Now()
				s.bring(3, v3)
				if took := time.Since(begin); took > 10*time.Second {
					t.Errorf("took %s", took)
				}
				if got := states(b.steps, v2.Execution); !strings.HasSuffix(got, "SUPERSEDED") {
					t.Errorf("the old execution: %s", got)
				}
				if p := s.pipeline(pipe); p.Previous.Release != v1.Release {
					t.Errorf("previous is %+v", p.Previous)
				}
				// Wanting nothing any more ends what is under way.
				c.mu.Lock()
				c.delay = time.Hour
				c.mu.Unlock()
				v4 := c.release(big("good-4", 3))
				_ = s.desire(4, map[string]wire.DesiredRelease{pipe: v4})
				s.tick(time.Second, func() bool { return false })
				_ = s.desire(5, nil)
				s.tick(time.Minute, s.settled(v4.Execution))
				if e := s.pipeline(pipe).Exec; e.State != wire.Canceled || s.runs(pipe) != v3.Release {
					t.Errorf("got %+v", e)
				}
			})
		})
	}
}

func TestTimedOut(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1 := c.release("good 1")
	c.delay = 100 * time.Hour
	b.lives(func(s *session) {
		_ = s.desire(1, map[string]wire.DesiredRelease{pipe: v1})
		s.tick(25*time.Hour, s.settled(v1.Execution))
		if e := s.pipeline(pipe).Exec; e.State != wire.TimedOut {
			t.Errorf("got %+v", e)
		}
	})
}

// The first release of all has nothing to go back to.
func TestFirstReleaseFails(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1 := c.release("run:E_CRASH x")
	b.lives(func(s *session) {
		_ = s.desire(1, map[string]wire.DesiredRelease{pipe: v1})
		s.tick(time.Hour, s.settled(v1.Execution))
		if e := s.pipeline(pipe).Exec; e.State != wire.RolledBack || s.runs(pipe) != "" {
			t.Errorf("got %+v, running %s", e, s.runs(pipe))
		}
	})
}

// Only the candidate's own runs count in its probation.
func TestProbationCountsItsOwn(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2 := c.release("good 1"), c.release("good 2")
	b.lives(func(s *session) {
		s.bring(1, v1)
		_ = s.desire(2, map[string]wire.DesiredRelease{pipe: v2})
		s.tick(time.Minute, func() bool { return s.pipeline(pipe).Exec.State == wire.Probation })
		crash := &hal.Error{Code: hal.CodeCrash, Text: "the old one, on its way out"}
		s.loop.Note(pipe, v1.Release, update.Run{Err: crash})
		s.loop.Note("attic", "", update.Run{Err: crash})
		for range 30 {
			s.loop.Note(pipe, v1.Release, update.Run{})
		}
		s.tick(time.Second, func() bool { return false })
		if e := s.pipeline(pipe).Exec; e.State != wire.Probation {
			t.Errorf("got %s after results of another model", e.State)
		}
		if n := testing.AllocsPerRun(100, func() { s.loop.Note(pipe, v1.Release, update.Run{}) }); n != 0 {
			t.Errorf("%v allocations a note", n)
		}
		s.tick(time.Minute, s.settled(v2.Execution))
		if e := s.pipeline(pipe).Exec; e.State != wire.Succeeded {
			t.Errorf("got %s %+v", e.State, e.Fault)
		}
	})
}

// A full disk is made room on first.
func TestDiskFullCollects(t *testing.T) {
	c := newController()
	f := crashfs.New()
	b := newBoard(t, f, c)
	v1, v2 := c.release("good 1"), c.release(big("good-2", 30))
	b.lives(func(s *session) {
		s.bring(1, v1)
		stale := []byte(big("stale", 40))
		if err := blob.WriteFile(f, "/data/blobs/"+string(digest(stale)), stale); err != nil {
			t.Fatal(err)
		}
		f.SetFree(9 << 20)
		s.bring(2, v2)
	})
}

// Bits that rot in what runs are seen at the next start: what ran before runs,
// and where nothing ran before the file is fetched again.
func TestRot(t *testing.T) {
	c := newController()
	f := crashfs.New()
	b := newBoard(t, f, c)
	v1, v2 := c.release("good 1"), c.release("good 2")
	b.lives(func(s *session) { s.bring(1, v1) })
	f.Flip("/data/blobs/"+string(digest([]byte("good 1"))), 3)
	b.lives(func(s *session) {
		if !s.tick(10*time.Minute, func() bool { return s.runs(pipe) == v1.Release }) {
			t.Error("not fetched again")
		}
		s.bring(2, v2)
	})
	f.Flip("/data/blobs/"+string(digest([]byte("good 2"))), 3)
	b.lives(func(s *session) {
		_ = s.desire(2, map[string]wire.DesiredRelease{pipe: v2})
		if !s.tick(time.Minute, func() bool { return s.runs(pipe) == v1.Release }) {
			t.Error("the previous one does not run")
		}
		q, ok := s.state.State().Quarantined(v2.Release, 1)
		if !ok || q.Code != string(hal.CodeHashAtRest) {
			t.Errorf("quarantine: %+v", s.state.State().Quarantine)
		}
		v2.Execution, v2.Attempt = "ex-again", 2
		s.bring(3, v2)
		if len(s.state.State().Quarantine) != 0 {
			t.Error("still in quarantine after it passed")
		}
		// What rotted in a slot that does not run is seen when it is wanted again.
		f.Flip("/data/blobs/"+string(digest([]byte("good 1"))), 3)
		v1.Execution = "ex-back"
		s.bring(4, v1)
	})
}

// The document comes once: a disk that refuses it at that moment must not cost it.
func TestDesireWithoutDisk(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2 := c.release("good 1"), c.release("good 2")
	b.lives(func(s *session) {
		s.bring(1, v1)
		b.fs.FailAt(1, syscall.ENOSPC)
		if err := s.desire(2, map[string]wire.DesiredRelease{pipe: v2}); err != nil {
			t.Fatal(err)
		}
		if e := s.loop.Reported().Error; e == nil || e.Code != string(hal.CodeDiskFull) {
			t.Errorf("reported %+v", e)
		}
		if !s.tick(5*time.Minute, s.settled(v2.Execution)) || s.runs(pipe) != v2.Release || s.state.State().Rev != 2 {
			t.Errorf("got %+v", s.state.State())
		}
	})
}

func TestDesireRefuses(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	b.pins = []wire.HelloPipeline{{Name: pipe}, {Name: "pinned", Pinned: true}}
	v1 := c.release("good 1")
	b.lives(func(s *session) {
		s.bring(5, v1)
		good := wire.DesiredSigned{V: 1, Rev: 6, Device: "pi-1", Pipelines: map[string]wire.DesiredRelease{pipe: v1}}
		for name, x := range map[string]struct {
			edit func(*wire.DesiredSigned)
			want hal.Code
		}{
			"version": {func(d *wire.DesiredSigned) { d.V = 2 }, hal.CodeJSON},
			"device":  {func(d *wire.DesiredSigned) { d.Device = "pi-2" }, hal.CodeTarget},
			"old":     {func(d *wire.DesiredSigned) { d.Rev = 4 }, hal.CodeRollback},
			"expired": {func(d *wire.DesiredSigned) { d.Expires = time.Now().Add(-time.Hour) }, hal.CodeExpired},
			"digest": {func(d *wire.DesiredSigned) {
				d.Pipelines[pipe] = wire.DesiredRelease{Release: "../x", Execution: "ex", Length: 1}
			}, hal.CodeJSON},
			"execution": {func(d *wire.DesiredSigned) { w := v1; w.Execution = "a/b"; d.Pipelines[pipe] = w }, hal.CodeJSON},
			"length":    {func(d *wire.DesiredSigned) { w := v1; w.Length = 1 << 40; d.Pipelines[pipe] = w }, hal.CodeLength},
		} {
			d := good
			d.Pipelines = map[string]wire.DesiredRelease{pipe: v1}
			x.edit(&d)
			err := s.loop.Desire(wire.Desired{Signed: d})
			if hal.CodeOf(err) != x.want || s.loop.Reported().Error == nil || s.loop.Reported().Rev != 5 {
				t.Errorf("%s: got %v, reported %+v", name, err, s.loop.Reported())
			}
		}
		// Pipelines that are pinned or not there.
		w := v1
		w.Execution = "ex-p"
		if err := s.desire(7, map[string]wire.DesiredRelease{pipe: v1, "pinned": w, "attic": v1}); err != nil {
			t.Fatal(err)
		}
		s.tick(time.Second, func() bool { return false })
		r := s.loop.Reported()
		if r.Error == nil || r.Error.Code != string(hal.CodePipeline) || r.Pipelines["pinned"].State != wire.Rejected || s.runs("pinned") != "" {
			t.Errorf("reported: %+v", r)
		}
		mode := v1
		mode.Execution, mode.Mode = "ex-m", "shadow"
		_ = s.desire(8, map[string]wire.DesiredRelease{pipe: mode})
		s.tick(time.Second, func() bool { return false })
		if r := s.loop.Reported(); r.Error != nil || r.Pipelines[pipe].State != wire.Rejected {
			t.Errorf("reported: %+v", r)
		}
	})
}

// Two pipelines go their own ways: a slow download does not keep a bad model in
// the other from being taken off.
func TestTwoPipelines(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	b.pins = []wire.HelloPipeline{{Name: pipe}, {Name: "yard"}}
	good, bad, slow := c.release("good 1"), c.release("run:E_INVOKE x"), c.release(big("good-2", 3))
	b.lives(func(s *session) {
		yard := good
		yard.Execution = "ex-yard"
		_ = s.desire(1, map[string]wire.DesiredRelease{pipe: good, "yard": yard})
		ok := s.tick(time.Minute, func() bool { return s.runs(pipe) == good.Release && s.runs("yard") == good.Release })
		if !ok {
			t.Fatal("one release for both does not get there")
		}
		s.bring(2, good) // and yard wants nothing: it goes on
		_ = s.desire(3, map[string]wire.DesiredRelease{pipe: good, "yard": bad})
		s.tick(time.Minute, func() bool { return s.pipeline("yard").Exec.State == wire.Probation })
		c.mu.Lock()
		c.delay = time.Hour
		c.mu.Unlock()
		_ = s.desire(4, map[string]wire.DesiredRelease{pipe: slow, "yard": bad})
		s.tick(time.Minute, func() bool { return s.runs("yard") == good.Release && s.pipeline("yard").Over() })
		if e := s.pipeline("yard").Exec; e.State != wire.RolledBack || s.pipeline(pipe).Exec.State != wire.Downloading {
			t.Errorf("yard %+v, door %+v", e, s.pipeline(pipe).Exec)
		}
	})
}

// What no slot needs any more is removed; what one needs never is.
func TestCollect(t *testing.T) {
	c := newController()
	f := crashfs.New()
	b := newBoard(t, f, c)
	var all []wire.DesiredRelease
	for _, m := range []string{"good 1", "good 2", "open:E_OP 3", "good 4", "good 5", "run:E_CRASH 6", "good 7"} {
		all = append(all, c.release(m))
	}
	b.lives(func(s *session) {
		for i, w := range all {
			_ = s.desire(uint64(i+1), map[string]wire.DesiredRelease{pipe: w})
			s.tick(time.Hour, s.settled(w.Execution))
		}
		entries, err := f.ReadDir("/data/blobs")
		if err != nil {
			t.Fatal(err)
		}
		// Two slots, the one of the state before, labels.
		if len(entries) > 7 {
			t.Errorf("%d blobs kept", len(entries))
		}
		p := s.pipeline(pipe)
		for _, slot := range []*slots.Slot{p.Active, p.Previous} {
			for _, sha := range slot.Files() {
				if _, err := f.Stat("/data/blobs/" + string(sha)); err != nil {
					t.Errorf("%s %s: %v", slot.Name, slot.Version, err)
				}
			}
		}
	})
}

// A pipeline that has to go back waits for no other's release: that one may take a
// driver twenty minutes to open.
func TestTheWayBackWaitsForNobody(t *testing.T) {
	ctrl := newController()
	b := newBoard(t, crashfs.New(), ctrl)
	b.pins = []wire.HelloPipeline{{Name: pipe}, {Name: "yard"}}
	good, bad, slow := ctrl.release("good 1"), ctrl.release("late:E_CRASH x"), ctrl.release("hangs x")
	b.lives(func(s *session) {
		s.bring(1, good)
		state := func(name string) wire.ExecState {
			if e := s.pipeline(name).Exec; e != nil {
				return e.State
			}
			return ""
		}
		reach := func(rev uint64, want map[string]wire.DesiredRelease, name string, st wire.ExecState) {
			t.Helper()
			if err := s.desire(rev, want); err != nil {
				t.Fatal(err)
			}
			if !s.tick(time.Minute, func() bool { return state(name) == st }) {
				t.Fatalf("%s is %s, want %s", name, state(name), st)
			}
		}
		reach(2, map[string]wire.DesiredRelease{pipe: bad}, pipe, wire.Probation)
		reach(3, map[string]wire.DesiredRelease{pipe: bad, "yard": slow}, "yard", wire.SelfTesting)
		if state(pipe) != wire.Probation {
			t.Fatalf("%s is %s: the test is too slow", pipe, state(pipe))
		}
		if !s.tick(time.Minute, s.settled(bad.Execution)) || state(pipe) != wire.RolledBack || s.runs(pipe) != good.Release {
			t.Errorf("%s is %s and runs %s", pipe, state(pipe), s.runs(pipe).Short())
		}
		if state("yard") != wire.SelfTesting {
			t.Errorf("yard is %s", state("yard"))
		}
	})
}
