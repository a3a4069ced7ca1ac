package slots

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

func sha(c string) wire.Digest { return wire.Digest(strings.Repeat(c, 64)) }

func slot(c string) *Slot {
	return &Slot{Release: sha(c), Attempt: 1, Length: 9, Name: "birds", Version: "1.0.0", Model: sha("0"), Engine: "tflite", Blobs: []wire.Digest{sha("9")}}
}

func sample(rev uint64) State {
	p := Pipeline{Active: slot("a"), Previous: slot("b"), Candidate: slot("c")}
	p.Exec = &Execution{Want: wire.DesiredRelease{Release: sha("c"), Execution: "ex-1"}, State: wire.Staged, N: 4}
	return State{Rev: rev}.With("door", p).WithQuarantine(wire.Quarantined{Release: sha("d"), Attempt: 2, Code: "E_CRASH", At: time.Unix(1e9, 0).UTC()})
}

func mustOpen(t *testing.T, f *crashfs.FS) *Store {
	t.Helper()
	s, err := Open("/data", f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func set(t *testing.T, s *Store, st State) {
	t.Helper()
	if err := s.Update(func(State) State { return st }); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	f := crashfs.New()
	s := mustOpen(t, f)
	if got := s.State(); len(got.Pipelines) != 0 || s.Note() != nil {
		t.Fatalf("first start: %+v, %v", got, s.Note())
	}
	set(t, s, sample(1))
	set(t, s, sample(2))
	got := mustOpen(t, f.Crash(0))
	if !reflect.DeepEqual(got.State(), sample(2)) || got.Note() != nil {
		t.Errorf("got %+v, %v", got.State(), got.Note())
	}
}

// Transitions leave the state they began with as it was.
func TestTransitionsCopy(t *testing.T) {
	before, keep := sample(1), sample(1)
	p := before.Pipelines["door"]
	for _, after := range []Pipeline{p.Committed(), p.Moved(wire.Failed, nil), p.Booted(), p.Demoted(), p.Took(wire.DesiredRelease{}, wire.Queued, nil)} {
		_ = before.With("door", after).WithQuarantine(wire.Quarantined{Release: sha("e")}).Cleared(sha("d"))
	}
	if !reflect.DeepEqual(before, keep) {
		t.Errorf("changed to %+v", before)
	}
	c := p.Committed()
	if c.Active.Release != sha("c") || c.Previous.Release != sha("a") || c.Candidate != nil || c.Exec.State != wire.Succeeded || c.Exec.N != 5 {
		t.Errorf("committed: %+v", c)
	}
	if d := p.Demoted(); d.Active.Release != sha("b") || d.Previous != nil {
		t.Errorf("demoted: %+v", d)
	}
}

func TestQuarantine(t *testing.T) {
	s := sample(1)
	for attempt, want := range map[int]bool{1: true, 2: true, 3: false} {
		if _, got := s.Quarantined(sha("d"), attempt); got != want {
			t.Errorf("attempt %d: %t", attempt, got)
		}
	}
	if _, got := s.Cleared(sha("d")).Quarantined(sha("d"), 1); got {
		t.Error("not cleared")
	}
	for i := range 3 * maxQuarantine {
		s = s.WithQuarantine(wire.Quarantined{Release: wire.Digest(fmt.Sprint(i)), Attempt: 1})
	}
	if _, got := s.Quarantined(wire.Digest(fmt.Sprint(3*maxQuarantine-1)), 1); len(s.Quarantine) != maxQuarantine || !got {
		t.Errorf("%d in quarantine, the last %t", len(s.Quarantine), got)
	}
}

// Whatever rots in state.json, an older state or an empty one is used, it is
// said, and no wrong value is ever believed.
func TestRottenState(t *testing.T) {
	fresh := func() (*crashfs.FS, int) {
		f := crashfs.New()
		s := mustOpen(t, f)
		set(t, s, sample(1))
		set(t, s, sample(2))
		fi, err := f.Stat("/data/state.json")
		if err != nil {
			t.Fatal(err)
		}
		return f, int(fi.Size())
	}
	f, size := fresh()
	flips, silent := 0, 0
	for bit := 0; bit < size*8; bit += 5 {
		c := f.Crash(1)
		c.Flip("/data/state.json", bit)
		s := mustOpen(t, c)
		flips++
		switch {
		case reflect.DeepEqual(s.State(), sample(1)) && hal.CodeOf(s.Note()) == hal.CodeStateCorrupt:
		case reflect.DeepEqual(s.State(), sample(2)) && s.Note() == nil: // white space or a key's case
			silent++
		default:
			t.Fatalf("bit %d: %+v, %v", bit, s.State(), s.Note())
		}
	}
	t.Logf("%d flips: %d harmless, the rest noticed", flips, silent)
	for cut := range size {
		c := f.Crash(1)
		b, err := blob.ReadFile(c, "/data/state.json", maxFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := blob.WriteFile(c, "/data/state.json", b[:cut]); err != nil {
			t.Fatal(err)
		}
		if s := mustOpen(t, c); !reflect.DeepEqual(s.State(), sample(1)) || s.Note() == nil {
			t.Fatalf("cut to %d: %+v, %v", cut, s.State(), s.Note())
		}
	}
}

func TestBothRotten(t *testing.T) {
	f := crashfs.New()
	s := mustOpen(t, f)
	set(t, s, sample(1))
	set(t, s, sample(2))
	f.Flip("/data/state.json", 300)
	f.Flip("/data/state.json.old", 300)
	s = mustOpen(t, f)
	if len(s.State().Pipelines) != 0 || hal.CodeOf(s.Note()) != hal.CodeStateCorrupt {
		t.Fatalf("got %+v, %v", s.State(), s.Note())
	}
	if _, err := f.Stat("/data/state.json.corrupt-1"); err != nil {
		t.Error("not set aside")
	}
	set(t, s, sample(3))
	if s = mustOpen(t, f); s.State().Rev != 3 || s.Note() != nil {
		t.Errorf("going on: %+v, %v", s.State(), s.Note())
	}
}

func TestNewerState(t *testing.T) {
	f := crashfs.New()
	s := mustOpen(t, f)
	set(t, s, sample(1))
	set(t, s, sample(2))
	e := envelope{Format: Format + 1, State: []byte(`{"all":"new"}`)}
	text := fmt.Sprintf(`{"format":%d,"crc":%d,"state":%s}`, e.Format, e.sum(), e.State)
	if err := blob.WriteFile(f, "/data/state.json", []byte(text)); err != nil {
		t.Fatal(err)
	}
	_, err := Open("/data", f)
	if hal.CodeOf(err) != hal.CodeStateNewer {
		t.Fatalf("got %v", err)
	}
	if b, err := blob.ReadFile(f, "/data/state.json", maxFile); err != nil || string(b) != text {
		t.Error("the newer file was touched")
	}
}

// A cut in any operation of a save leaves the state before or the one after, and
// what was acknowledged stays.
func TestSaveSurvivesCuts(t *testing.T) {
	broken := func(careless func(*crashfs.FS)) (n, states int) {
		for cut := 1; ; cut++ {
			f := crashfs.New()
			careless(f)
			f.CutAt(cut)
			acked := uint64(0)
			s, err := Open("/data", f)
			for rev := uint64(1); rev <= 4 && err == nil; rev++ {
				if err = s.Update(func(State) State { return sample(rev) }); err == nil {
					acked = rev
				}
			}
			for seed := range uint64(10) {
				states++
				after, oerr := Open("/data", f.Crash(seed))
				if oerr != nil || after.Note() != nil || after.State().Rev < acked || after.State().Rev > acked+1 {
					n++
				}
			}
			if err == nil {
				return n, states
			}
		}
	}
	n, states := broken(func(*crashfs.FS) {})
	if n != 0 {
		t.Errorf("%d of %d states broken", n, states)
	}
	for name, careless := range map[string]func(*crashfs.FS){
		"files": func(f *crashfs.FS) { f.NoSync = true }, "folders": func(f *crashfs.FS) { f.NoSyncDir = true },
	} {
		if bad, _ := broken(careless); bad == 0 {
			t.Errorf("unsynced %s were not noticed", name)
		}
	}
	t.Logf("%d states looked at", states)
}

func TestFailedSaveChangesNothing(t *testing.T) {
	f := crashfs.New()
	s := mustOpen(t, f)
	set(t, s, sample(1))
	for n := 1; n <= 6; n++ {
		f.FailAt(n, errors.New("no"))
		if err := s.Update(func(State) State { return sample(2) }); err == nil {
			continue
		}
		if s.State().Rev != 1 {
			t.Fatalf("operation %d: rev %d", n, s.State().Rev)
		}
	}
	set(t, s, sample(3))
	if got := mustOpen(t, f).State().Rev; got != 3 {
		t.Errorf("rev %d", got)
	}
}

func TestPins(t *testing.T) {
	f := crashfs.New()
	s := mustOpen(t, f)
	set(t, s, sample(1))
	p := sample(1).Pipelines["door"]
	set(t, s, State{}.With("door", p.Demoted().Moved(wire.Failed, nil)))
	pins := s.Pins()
	for _, c := range []string{"a", "b", "c", "0", "9"} { // the state before still needs a and c
		if !pins[sha(c)] {
			t.Errorf("%s is not pinned", c)
		}
	}
	set(t, s, s.State())
	if pins = s.Pins(); pins[sha("a")] || pins[sha("c")] || !pins[sha("b")] {
		t.Errorf("pins: %v", pins)
	}
}

func FuzzState(f *testing.F) {
	b, err := encode(sample(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1,"crc":0,"state":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys := crashfs.New()
		if err := errors.Join(fsys.MkdirAll("/data"), blob.WriteFile(fsys, "/data/state.json", b)); err != nil {
			t.Fatal(err)
		}
		s, err := Open("/data", fsys)
		if err != nil {
			if hal.CodeOf(err) != hal.CodeStateNewer {
				t.Fatal(err)
			}
			return
		}
		if err := s.Update(func(st State) State { return st.With("x", Pipeline{}) }); err != nil {
			t.Fatal(err)
		}
	})
}
