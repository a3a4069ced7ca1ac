package update_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// order is a wish for w in a certain way.
func (s *session) order(rev uint64, w wire.DesiredRelease, edit func(*wire.DesiredRelease)) {
	s.t.Helper()
	if edit != nil {
		edit(&w)
	}
	if err := s.desire(rev, map[string]wire.DesiredRelease{pipe: w}); err != nil {
		s.t.Fatal(err)
	}
}

// reach waits for a state.
func (s *session) reach(st wire.ExecState, most time.Duration) {
	s.t.Helper()
	if !s.tick(most, func() bool { e := s.pipeline(pipe).Exec; return e != nil && e.State == st }) {
		s.t.Fatalf("got %+v, want %s", s.pipeline(pipe).Exec, st)
	}
}

// when is the time at which an execution came into a state, for the last time.
func (b *board) when(w wire.DesiredRelease, st wire.ExecState) (at time.Time) {
	b.t.Helper()
	for _, s := range b.steps {
		if s.Execution == w.Execution && s.State == st && s.N%100 == 0 {
			at = s.TS
		}
	}
	if at.IsZero() {
		b.t.Errorf("never was %s", st)
	}
	return at
}

// rest lets time pass, in which the state must stay.
func (s *session) rest(st wire.ExecState, d time.Duration) {
	s.t.Helper()
	s.tick(d, func() bool { return false })
	if e := s.pipeline(pipe).Exec; e.State != st {
		s.t.Fatalf("after %s: %s %+v, want %s", d, e.State, e.Fault, st)
	}
}

func stage(w *wire.DesiredRelease)    { w.Mode = wire.ModeStage }
func consents(w *wire.DesiredRelease) { w.Consent = true }

// Staged means here, verified, and nothing more, for weeks and over restarts; then
// the same execution goes on without a byte.
func TestStageThenActivate(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2, v3 := c.release("good 1"), c.release(big("good-2", 3)), c.release("good 3")
	b.lives(func(s *session) {
		s.bring(1, v1)
		s.order(2, v2, stage)
		s.reach(wire.Staged, time.Minute)
		s.rest(wire.Staged, 40*24*time.Hour)
		if s.runs(pipe) != v1.Release || s.pipeline(pipe).Active.Release != v1.Release {
			t.Error("staging changed what runs")
		}
	})
	fetches := c.fetches
	b.lives(func(s *session) {
		s.rest(wire.Staged, time.Hour)
		s.bring(3, v2)
	})
	if c.fetches != fetches {
		t.Errorf("%d fetches to activate what was staged", c.fetches-fetches)
	}
	want := "QUEUED DOWNLOADING VERIFYING STAGED STAGED SELF_TESTING SWITCHING PROBATION SUCCEEDED" // STAGED again at the restart
	if got := states(b.steps, v2.Execution); got != want {
		t.Errorf("got %s", got)
	}
	// Called off, nothing has happened, and nothing stays.
	b.lives(func(s *session) {
		s.order(4, v3, stage)
		s.reach(wire.Staged, time.Minute)
		_ = s.desire(5, nil)
		s.reach(wire.Canceled, time.Minute)
		if s.runs(pipe) != v2.Release || s.pipeline(pipe).Previous.Release != v1.Release {
			t.Errorf("called off, and %+v", s.pipeline(pipe))
		}
		s.tick(time.Second, func() bool { return false })
		v4 := c.release("good 4")
		s.bring(6, v4) // two states later nothing needs it
		if _, err := b.fs.Stat("/data/blobs/" + string(v3.Release)); err == nil {
			t.Error("what was called off is still here")
		}
	})
}

// An order that is taken back to staging before the switch is.
func TestBackToStage(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2 := c.release("good 1"), c.release("hangs x")
	b.lives(func(s *session) {
		s.bring(1, v1)
		s.order(2, v2, nil)
		s.reach(wire.SelfTesting, time.Minute)
		s.order(3, v2, stage)
		s.reach(wire.Staged, 5*time.Second)
		s.rest(wire.Staged, 30*time.Hour)
		if s.runs(pipe) != v1.Release {
			t.Errorf("%s runs", s.runs(pipe).Short())
		}
	})
}

func TestConsent(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2, v3 := c.release("good 1"), c.release("good 2"), c.release("good 3")
	b.lives(func(s *session) {
		s.bring(1, v1)
		if err := s.loop.Install(pipe, ""); hal.CodeOf(err) != hal.CodeConsent {
			t.Errorf("nothing waits, and install says %v", err)
		}
		s.order(2, v2, func(w *wire.DesiredRelease) { stage(w); consents(w) })
		s.reach(wire.Staged, time.Minute)
		if err := s.loop.Install(pipe, ""); hal.CodeOf(err) != hal.CodeConsent {
			t.Errorf("staged, and install says %v", err)
		}
		s.order(3, v2, consents)
		s.reach(wire.WaitingConsent, time.Minute)
		s.rest(wire.WaitingConsent, 48*time.Hour)
		m := s.loop.Model(pipe)
		if m.Installed != "1.0.0" || m.Latest != "1.0.0 ("+string(v2.Release[:8])+")" || m.InProgress || m.Percent != nil || !strings.Contains(m.Summary, "install") {
			t.Errorf("the house sees %+v", m)
		}
		for version, code := range map[string]hal.Code{"0.9.9": hal.CodeConsent, strings.Repeat("x", 9999): hal.CodeConsent} {
			if err := s.loop.Install(pipe, version); hal.CodeOf(err) != code || len(err.Error()) > 300 {
				t.Errorf("install %.9s: %v", version, err)
			}
		}
		if err := s.loop.Install("attic", ""); hal.CodeOf(err) != hal.CodePipeline {
			t.Error(err)
		}
		// Something newer asks anew, whatever was said before.
		if err := s.loop.Install(pipe, "1.0.0"); err != nil {
			t.Fatal(err)
		}
		s.order(4, v3, consents)
		s.reach(wire.WaitingConsent, time.Minute)
	})
	b.lives(func(s *session) {
		s.order(4, v3, consents)
		s.reach(wire.WaitingConsent, time.Minute)
		if s.runs(pipe) == v3.Release {
			t.Error("it runs without a word")
		}
		s.order(5, v3, func(w *wire.DesiredRelease) { consents(w); w.Window = in(time.Now(), 3*time.Hour, 30) })
		if err := s.loop.Install(pipe, "1.0.0 ("+string(v3.Release[:8])+")"); err != nil {
			t.Fatal(err)
		}
		s.reach(wire.WaitingWindow, time.Minute)
	})
	b.lives(func(s *session) { // it does not ask again
		s.reach(wire.Succeeded, 4*time.Hour)
		if m := s.loop.Model(pipe); m.Installed != "1.0.0" || m.Latest != "1.0.0" || m.Title != "birds" {
			t.Errorf("the house sees %+v", m)
		}
	})
}

// in is a window that opens after d, for minutes, in the board's own time.
func in(now time.Time, d time.Duration, minutes int) *wire.Window {
	at := now.Add(d).Local()
	return &wire.Window{Cron: fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour()), Minutes: minutes}
}

func TestWindow(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2, v3 := c.release("good 1"), c.release(big("good-2", 3)), c.release(big("good-3", 40))
	b.lives(func(s *session) {
		s.bring(1, v1)
		begin := time.Now()
		s.order(2, v2, func(w *wire.DesiredRelease) { w.Window = in(begin, 30*time.Hour, 10) }) // tomorrow's is today's, too
		s.reach(wire.WaitingWindow, time.Minute)
		if got := time.Since(begin); got > time.Minute {
			t.Errorf("the download waited %s", got)
		}
		s.reach(wire.Succeeded, 7*time.Hour)
		if got := b.when(v2, wire.SelfTesting).Sub(begin); got < 6*time.Hour-time.Minute || got > 6*time.Hour+time.Minute {
			t.Errorf("tried after %s", got)
		}

		// A download that waits for its window stops when that closes, and goes on in
		// the next one with what it has.
		c.mu.Lock()
		c.delay = time.Minute
		c.mu.Unlock()
		begin = time.Now()
		s.order(3, v3, func(w *wire.DesiredRelease) { w.Window = in(begin, time.Hour, 15); w.Window.Download = true })
		s.reach(wire.WaitingWindow, time.Minute)
		s.reach(wire.Downloading, 2*time.Hour)
		s.reach(wire.WaitingWindow, time.Hour)
		if got := b.when(v3, wire.WaitingWindow).Sub(begin); got < 74*time.Minute || got > 75*time.Minute {
			t.Errorf("the download stopped after %s", got)
		}
		s.reach(wire.Succeeded, 80*time.Hour)
		if got := time.Since(begin); got < 49*time.Hour || got > 52*time.Hour {
			t.Errorf("40 blocks, 15 minutes a night and a minute each: done after %s", got)
		}
		if c.blocks > 60 {
			t.Errorf("%d blocks for 45", c.blocks)
		}
	})
}

// A board that begins in the past waits, says why once, and goes on when the time
// comes.
func TestClockThatIsNotRight(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2 := c.release("good 1"), c.release("good 2")
	b.lives(func(s *session) {
		s.bring(1, v1)
		s.order(2, v2, func(w *wire.DesiredRelease) { w.Window = &wire.Window{Cron: "* * * * *", Minutes: 1} })
		s.reach(wire.Succeeded, time.Minute)
	})
	b.floor = time.Date(2000, 1, 1, 3, 0, 0, 0, time.UTC) // the bubble's clock begins three hours before
	v3 := c.release("good 3")
	b.lives(func(s *session) {
		s.order(3, v3, func(w *wire.DesiredRelease) { w.Window = &wire.Window{Cron: "* * * * *", Minutes: 1} })
		s.reach(wire.WaitingWindow, time.Minute)
		s.tick(time.Second, func() bool { return false })
		if f := s.loop.Reported().Pipelines[pipe].Fault; f == nil || f.Code != string(hal.CodeClock) {
			t.Errorf("reported: %+v", f)
		}
		changes := b.changes.Load()
		s.rest(wire.WaitingWindow, 2*time.Hour)
		if got := b.changes.Load() - changes; got > 1 {
			t.Errorf("said %d times", got)
		}
		s.reach(wire.Succeeded, 2*time.Hour)
		if f := s.loop.Reported().Pipelines[pipe].Fault; f != nil {
			t.Errorf("still reported: %+v", f)
		}
	})
}

func TestRateAndBudget(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1 := c.release("good 1")
	b.lives(func(s *session) {
		s.bring(1, v1)
		// 40 blocks at two a second.
		v2 := c.release(big("good-2", 40))
		begin := time.Now()
		s.order(2, v2, func(w *wire.DesiredRelease) { w.Rate = 2 * wire.BlockSize })
		s.reach(wire.Succeeded, time.Minute)
		if got := b.when(v2, wire.Verifying).Sub(begin); got < 18*time.Second || got > 23*time.Second {
			t.Errorf("took %s", got)
		}
		// The rate may change on the way.
		v3 := c.release(big("good-3", 40))
		begin = time.Now()
		s.order(3, v3, func(w *wire.DesiredRelease) { w.Rate = 1 })
		s.reach(wire.Downloading, time.Minute)
		s.tick(2*time.Second, func() bool { return false })
		s.order(4, v3, nil)
		s.reach(wire.Succeeded, time.Minute)
		if got := time.Since(begin); got > 30*time.Second {
			t.Errorf("took %s", got)
		}
		// What cannot be afforded is not begun, and costs the manifest.
		v4 := c.release(big("good-4", 40))
		blocks := c.blocks
		s.order(5, v4, func(w *wire.DesiredRelease) { w.BytesMax = 20 * wire.BlockSize })
		s.reach(wire.Failed, time.Minute)
		if f := s.pipeline(pipe).Exec.Fault; f.Code != string(hal.CodeBudget) || c.blocks-blocks > 1 {
			t.Errorf("got %+v after %d blocks", f, c.blocks-blocks)
		}
	})
}

// Blocks that come wrong cost what they weigh, over restarts, too.
func TestBudgetIsKept(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v1, v2 := c.release("good 1"), c.release(big("good-2", 40))
	limit := func(w *wire.DesiredRelease) { w.BytesMax = 50 * wire.BlockSize }
	b.lives(func(s *session) { s.bring(1, v1) })
	for life := range 8 {
		c.mu.Lock()
		c.delay, c.worse = time.Second, 2 // each second block is a wrong one first
		c.mu.Unlock()
		b.lives(func(s *session) {
			s.order(2, v2, limit)
			s.tick(9*time.Second, s.settled(v2.Execution))
		})
		_ = life
	}
	b.lives(func(s *session) {
		s.order(2, v2, limit)
		s.reach(wire.Failed, time.Minute)
		if f := s.pipeline(pipe).Exec.Fault; f.Code != string(hal.CodeBudget) {
			t.Errorf("got %+v", f)
		}
		if s.runs(pipe) != v1.Release {
			t.Error("something else runs")
		}
	})
}

// A voucher whose mind may change.
type voucher struct {
	no    atomic.Pointer[hal.Error]
	asked func()
}

func (v *voucher) Learn([]byte, time.Time) error { return nil }

func (v *voucher) Vouch(string, string, wire.Digest, int64, time.Time) error {
	if v.asked != nil {
		v.asked()
	}
	if err := v.no.Load(); err != nil {
		return err
	}
	return nil
}

// What was signed when it was staged is asked about again: before it is tried, and
// before the switch.
func TestVouchedForAgain(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v := &voucher{}
	b.voucher = v
	v1, v2, v3 := c.release("good 1"), c.release("good 2"), c.release("good 3")
	expired := &hal.Error{Code: hal.CodeExpired, Text: "signatures have expired"}
	b.lives(func(s *session) {
		s.bring(1, v1)
		s.order(2, v2, stage)
		s.reach(wire.Staged, time.Minute)
		v.no.Store(expired)
		s.order(3, v2, nil)
		s.reach(wire.Rejected, time.Minute)
		if f := s.pipeline(pipe).Exec.Fault; f.Code != string(hal.CodeExpired) || s.runs(pipe) != v1.Release {
			t.Errorf("got %+v, %s runs", f, s.runs(pipe).Short())
		}
		if got := states(b.steps, v2.Execution); strings.Contains(got, "SWITCHING") {
			t.Errorf("noticed late: %s", got)
		}
		if _, ok := s.state.State().Quarantined(v2.Release, 1); ok {
			t.Error("in quarantine for what is not its fault")
		}
		v.no.Store(nil)
		b.prepared = func() { v.no.Store(expired) } // between the test and the switch
		s.order(4, v3, nil)
		s.reach(wire.Rejected, time.Minute)
		if s.runs(pipe) != v1.Release {
			t.Errorf("%s runs", s.runs(pipe).Short())
		}
		b.prepared = nil
	})
}

// A wish that changes in the very moment before the switch is heard.
func TestCalledOffAtTheSwitch(t *testing.T) {
	c := newController()
	b := newBoard(t, crashfs.New(), c)
	v := &voucher{}
	b.voucher = v
	v1, v2 := c.release("good 1"), c.release("good 2")
	b.lives(func(s *session) {
		s.bring(1, v1)
		switches := b.switches
		v.asked = func() { // the last that is asked before the switch, and nobody asks Next again
			if s.pipeline(pipe).Exec.State != wire.Switching {
				return
			}
			if err := s.desire(3, nil); err != nil {
				t.Error(err)
			}
		}
		s.order(2, v2, nil)
		s.reach(wire.Canceled, time.Minute)
		if b.switches != switches || s.runs(pipe) != v1.Release {
			t.Errorf("%d switches, %s runs", b.switches-switches, s.runs(pipe).Short())
		}
	})
}

// Documents that are lost, doubled and out of their order change nothing in the end: the
// newest is where it comes to, and every execution that began has one end.
func TestDocumentsInAnyOrder(t *testing.T) {
	c := newController()
	var all []wire.DesiredRelease
	for _, model := range []string{"good 1", "good 2", big("good-3", 2), "run:E_CRASH x", "open:E_OP x"} {
		all = append(all, c.release(model))
	}
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 3))
		docs := make([]wire.DesiredRelease, 1+rng.IntN(8))
		for i := range docs {
			docs[i] = all[rng.IntN(len(all))]
			docs[i].Execution, docs[i].Attempt = fmt.Sprintf("ex-%d", i), 1+rng.IntN(3)
			if i > 0 && rng.IntN(3) == 0 { // the one before, in another way
				docs[i] = docs[i-1]
				docs[i].Mode, docs[i].Rate = []string{wire.ModeStage, wire.ModeActivate}[rng.IntN(2)], int64(rng.IntN(2)*1e6)
			}
		}
		last := docs[len(docs)-1]
		last.Mode = wire.ModeActivate
		docs[len(docs)-1] = last
		b := newBoard(t, crashfs.New(), c)
		b.lives(func(s *session) {
			for range 3 * len(docs) {
				i := rng.IntN(len(docs))
				_ = s.desire(uint64(i+1), map[string]wire.DesiredRelease{pipe: docs[i]}) // older ones are refused
				s.tick(time.Duration(rng.IntN(1500))*time.Millisecond, func() bool { return false })
			}
			s.order(uint64(len(docs)), last, nil)
			if !s.tick(time.Hour, s.settled(last.Execution)) {
				t.Fatalf("seed %d: %+v", seed, s.pipeline(pipe).Exec)
			}
		})
		ends := map[string]map[int]bool{}
		for _, st := range b.steps {
			if ends[st.Execution] == nil {
				ends[st.Execution] = map[int]bool{}
			}
			if st.State.Terminal() {
				ends[st.Execution][st.N] = true
			}
		}
		for execution, n := range ends {
			if len(n) != 1 {
				t.Errorf("seed %d: %s has %d ends", seed, execution, len(n))
			}
		}
	}
}

// Called off, or something newer wanted, the very moment any state before the end of
// the switch is on the disk: nothing that runs has changed.
func TestCalledOffInEveryState(t *testing.T) {
	for _, st := range []wire.ExecState{wire.Queued, wire.Downloading, wire.Verifying, wire.Staged, wire.WaitingConsent, wire.WaitingWindow, wire.SelfTesting, wire.Switching} {
		for name, end := range map[string]wire.ExecState{"nothing": wire.Canceled, "newer": wire.Superseded} {
			c := newController()
			b := newBoard(t, crashfs.New(), c)
			v1, v2, v3 := c.release("good 1"), c.release(big("good-2", 2)), c.release("good 3")
			b.lives(func(s *session) {
				s.bring(1, v1)
				switches := b.switches
				b.stepped = func(step wire.ExecStep) {
					switch {
					case step.Execution != v2.Execution:
					case step.State == st && name == "nothing":
						_ = s.desire(3, nil)
					case step.State == st:
						s.order(3, v3, stage)
					case step.State == wire.WaitingConsent:
						if err := s.loop.Install(pipe, ""); err != nil {
							t.Error(err)
						}
					}
				}
				s.order(2, v2, func(w *wire.DesiredRelease) { consents(w); w.Window = in(time.Now(), 10*time.Minute, 5) })
				s.tick(time.Hour, func() bool { return b.ended(v2) != "" })
				b.stepped = nil
				p := s.pipeline(pipe)
				if b.ended(v2) != end || b.switches != switches || s.runs(pipe) != v1.Release || p.Active.Release != v1.Release || p.Previous != nil {
					t.Errorf("%s in %s: ended %s, %d switches, %+v", name, st, b.ended(v2), b.switches-switches, p)
				}
			})
		}
	}
}

// ended is how an execution ended, "" when it did not.
func (b *board) ended(w wire.DesiredRelease) wire.ExecState {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.steps {
		if s.Execution == w.Execution && s.State.Terminal() {
			return s.State
		}
	}
	return ""
}

// A disk that cannot take the whole is not begun to be filled, and says the figures.
func TestNoRoomIsKnownBefore(t *testing.T) {
	c := newController()
	f := crashfs.New()
	b := newBoard(t, f, c)
	v1, v2 := c.release("good 1"), c.release(big("good-2", 40))
	b.lives(func(s *session) {
		s.bring(1, v1)
		f.SetFree(9 << 20)
		blocks := c.blocks
		s.order(2, v2, nil)
		s.reach(wire.Failed, time.Hour)
		e := s.pipeline(pipe).Exec
		if e.Fault.Code != string(hal.CodeDiskFull) || !strings.Contains(e.Fault.Text, "need 2") || c.blocks-blocks > 1 {
			t.Errorf("got %+v after %d blocks", e.Fault, c.blocks-blocks)
		}
	})
}

var _ update.Voucher = (*voucher)(nil)

// What a document that nobody has signed says is signed comes here before it is known
// to be nothing. However often that happens, it fills no disk.
func TestFetchBlobFillsNoDisk(t *testing.T) {
	f := crashfs.New()
	f.SetFree(1 << 30)
	c := newController()
	b := newBoard(t, f, c)
	b.lives(func(s *session) {
		good := c.release(big("good", 3))
		s.bring(1, good)
		free, _ := f.Free("/")
		for i := range 50 {
			junk := bytes.Repeat([]byte{byte(i)}, 1<<20)
			c.put(junk)
			if _, err := s.loop.FetchBlob(context.Background(), digest(junk), int64(len(junk))); err != nil {
				t.Fatal(err)
			}
		}
		if now, _ := f.Free("/"); now < free-2<<20 {
			t.Errorf("%d bytes are gone", free-now)
		}
		s.bring(2, c.release(big("good 2", 3)))
		if s.pipeline(pipe).Previous.Release != good.Release {
			t.Errorf("the way back is %+v", s.pipeline(pipe).Previous)
		}
	})
}

// A disk that others have filled is cleared of what nobody needs, and then takes what
// people have signed.
func TestFetchBlobClearsTheDisk(t *testing.T) {
	f := crashfs.New()
	f.SetFree(1 << 30)
	c := newController()
	b := newBoard(t, f, c)
	b.lives(func(s *session) {
		litter := bytes.Repeat([]byte{1}, 1<<20)
		c.put(litter)
		if _, err := s.loop.FetchBlob(context.Background(), digest(litter), int64(len(litter))); err != nil {
			t.Fatal(err)
		}
		f.SetFree(8<<20 + 1<<19)
		bundle := bytes.Repeat([]byte{2}, 1<<20)
		c.put(bundle)
		_, err := s.loop.FetchBlob(context.Background(), digest(bundle), int64(len(bundle)))
		if hal.CodeOf(err) == hal.CodeDiskFull { // and the next try
			_, err = s.loop.FetchBlob(context.Background(), digest(bundle), int64(len(bundle)))
		}
		if err != nil {
			t.Error(err)
		}
	})
}
