package update_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
)

// A plot is what happens to a board until the power goes.
type plot struct {
	name   string
	before []string // models that were installed one after the other
	litter int      // blobs that nothing needs, on a disk that has no room beside them
	model  string   // that is wanted now
	staged bool     // first to stage, then with consent and a window
	end    wire.ExecState
}

var plots = []plot{
	{name: "install", model: big("good-1", 2), end: wire.Succeeded},
	{name: "commit", before: []string{"good 1"}, model: big("good-2", 2), end: wire.Succeeded},
	{name: "rollback", before: []string{"good 1"}, model: "run:E_CRASH x", end: wire.RolledBack},
	{name: "rejected", before: []string{"good 1"}, model: "open:E_OP x", end: wire.Rejected},
	{name: "collect", before: []string{"good 1", "good 2"}, litter: 6, model: big("good-3", 2), end: wire.Succeeded},
	{name: "orders", before: []string{"good 1"}, model: big("good-2", 2), staged: true, end: wire.Succeeded},
}

// fate is what a power cut does not touch: the controller with its retained document,
// the house, and what both were told.
type fate struct {
	rev       uint64
	want      wire.DesiredRelease
	consented bool // the house's word was taken
	said      int  // the highest N of the execution
	ends      map[wire.ExecState]int
}

func (f fate) copy() fate {
	ends := map[wire.ExecState]int{}
	for st, n := range f.ends {
		ends[st] = n
	}
	f.ends = ends
	return f
}

// A scene is a disk on which a plot begins.
type scene struct {
	plot
	ctrl  *controller
	disk  *crashfs.FS
	begin fate
	known map[wire.Digest]bool // releases that may be active
}

func (p plot) set(t *testing.T) *scene {
	s := &scene{plot: p, ctrl: newController(), known: map[wire.Digest]bool{}}
	b := newBoard(t, crashfs.New(), s.ctrl)
	for i, model := range p.before {
		w := s.ctrl.release(model)
		s.known[w.Release] = true
		b.lives(func(l *session) { l.bring(uint64(i+1), w) })
	}
	s.begin = fate{rev: uint64(len(p.before) + 1), want: s.ctrl.release(p.model)}
	s.known[s.begin.want.Release] = p.end == wire.Succeeded
	if p.staged {
		s.begin.want.Mode = wire.ModeStage
		s.begin.want.BytesMax = 10 * wire.BlockSize
	}
	for i := range p.litter {
		litter := []byte(big("litter", 1+i))
		if err := blob.WriteFile(b.fs, "/data/blobs/"+string(digest(litter)), litter); err != nil {
			t.Fatal(err)
		}
	}
	s.disk = b.fs.Crash(1)
	return s
}

// live is one life of the agent, until what is wanted has its end, the power goes, or
// two hours have passed. It says whether there was an end, and what went wrong.
func (s *scene) live(t *testing.T, disk *crashfs.FS, f fate) (over bool, _ fate, bad string) {
	if s.litter > 0 {
		disk.SetFree(8<<20 + 2*wire.BlockSize) // and what the litter takes
	}
	b := newBoard(t, disk, s.ctrl)
	f = f.copy()
	synctest.Test(t, func(t *testing.T) {
		l, err := b.boot(t.Context())
		if err != nil {
			bad = err.Error()
			return
		}
		defer l.stop()
		desire := func() { _ = l.desire(f.rev, map[string]wire.DesiredRelease{pipe: f.want}) }
		desire()
		l.tick(2*time.Hour, func() bool {
			if _, err := disk.Free("/"); err != nil {
				return true
			}
			e := l.pipeline(pipe).Exec
			switch {
			case e == nil || e.Want.Execution != f.want.Execution:
			case e.State == wire.Staged && f.want.Mode == wire.ModeStage:
				f.want.Mode, f.want.Consent = wire.ModeActivate, true
				f.want.Window = &wire.Window{Cron: "1-59/2 * * * *", Minutes: 1}
				f.rev++
				desire()
			case e.State == wire.WaitingConsent && !f.consented:
				f.consented = l.loop.Install(pipe, "") == nil
			}
			over = l.settled(f.want.Execution)()
			return over
		})
		if p := l.pipeline(pipe); over && p.Exec.State != s.end {
			bad = fmt.Sprintf("ended %s %+v, want %s", p.Exec.State, p.Exec.Fault, s.end)
		}
	})
	for _, st := range b.steps {
		if st.Execution != f.want.Execution {
			continue
		}
		f.said = max(f.said, st.N)
		if st.State.Terminal() {
			f.ends[st.State] = st.N
		}
	}
	if len(b.bad) > 0 {
		bad = b.bad[0]
	}
	return over, f, bad
}

// sound looks at a disk after a cut: the state is readable, what is active is one of
// known, and every slot's files are there and right. It returns what is wrong.
func sound(f *crashfs.FS, known ...wire.Digest) string {
	st, err := slots.Open("/data/state", f)
	if err != nil {
		return err.Error()
	}
	if st.Note() != nil {
		return st.Note().Error()
	}
	blobs, err := blob.Open("/data/blobs", f)
	if err != nil {
		return err.Error()
	}
	p := st.State().Pipelines[pipe]
	ok := p.Active == nil && len(known) == 0
	for _, k := range known {
		ok = ok || k == active(p)
	}
	if !ok {
		return fmt.Sprintf("active is %+v", p.Active)
	}
	for _, slot := range []*slots.Slot{p.Active, p.Previous, p.Candidate} {
		if slot == nil {
			continue
		}
		for _, sha := range slot.Files() {
			if err := blobs.Verify(context.Background(), sha); err != nil {
				return err.Error()
			}
		}
	}
	return ""
}

// judge looks at what a cut left: it is sound, and knows at least what was said.
func (s *scene) judge(disk *crashfs.FS, f fate) string {
	var known []wire.Digest
	for k, may := range s.known {
		if may {
			known = append(known, k)
		}
	}
	if len(s.before) == 0 {
		known = append(known, "") // nothing yet
	}
	if why := sound(disk, known...); why != "" {
		return why
	}
	st, err := slots.Open("/data/state", disk)
	if err != nil {
		return err.Error()
	}
	p := st.State().Pipelines[pipe]
	switch {
	case f.said > 0 && (p.Exec == nil || p.Exec.Want.Execution != f.want.Execution):
		return fmt.Sprintf("the execution is lost: on the disk is %+v", p.Exec)
	case f.said > 0 && f.said >= (p.Exec.N+1)*100:
		return fmt.Sprintf("%d was said, on the disk is %d", f.said, p.Exec.N*100)
	case f.consented && p.Consented != f.want.Release:
		return "the house's word is lost"
	}
	return ""
}

// ended is what must be when all is over.
func (s *scene) ended(disk *crashfs.FS, f fate, over bool) string {
	if why := s.judge(disk, f); why != "" {
		return why
	}
	if !over {
		return "it does not end"
	}
	if len(f.ends) != 1 || f.ends[s.end] == 0 {
		return fmt.Sprintf("ended as %v", f.ends)
	}
	return ""
}

// A tally counts what was looked at.
type tally struct {
	states   int // disks after a cut: of every operation, every survivor of it
	distinct int // of these, disks unlike all before, from which the agent was started again
	bad      []string
}

// cuts goes through a plot with a cut in every operation of the disk, and survivors
// of each; from each the agent starts again, every third time to be cut once more on
// the way.
func (s *scene) cuts(t *testing.T, careless func(*crashfs.FS), survivors uint64, got *tally) {
	seen := map[string]bool{}
	// after is what becomes of a disk; cut, where not 0, is where the power goes again.
	var after func(where string, disk *crashfs.FS, f fate, cut int)
	after = func(where string, disk *crashfs.FS, f fate, cut int) {
		got.states++
		key := fmt.Sprintf("%x %d %s %t %d %v %d", disk.Sum(), f.rev, f.want.Mode, f.consented, f.said, f.ends, cut)
		if seen[key] {
			return
		}
		seen[key] = true
		got.distinct++
		complain := func(why string) { got.bad = append(got.bad, fmt.Sprintf("%s: %s", where, why)) }
		if why := s.judge(disk.Crash(1), f); why != "" {
			complain(why)
			return
		}
		careless(disk)
		if cut > 0 {
			disk.CutAt(cut)
		}
		over, f, bad := s.live(t, disk, f)
		if cut > 0 && !over {
			after(fmt.Sprintf("%s, again at %d", where, cut), disk.Crash(uint64(cut)), f, 0)
			return
		}
		if why := s.ended(disk.Crash(1), f, over); why != "" || bad != "" {
			complain(fmt.Sprintf("after the restart: %s %s", why, bad))
		}
	}
	for cut := 1; cut < 2000; cut++ {
		first := s.disk.Crash(1) // a copy
		careless(first)
		first.CutAt(cut)
		over, f, _ := s.live(t, first, s.begin)
		for i := range survivors {
			seed, again := i*1009+uint64(cut), 0
			switch {
			case i == 0:
				seed = 0 // nothing
			case i == 2:
				seed = 1 // everything
			case i%3 == 1:
				again = 1 + int(seed*7)%90
			}
			after(fmt.Sprintf("%s: cut %d, survivor %d", s.name, cut, seed), first.Crash(seed), f, again)
		}
		if over {
			return
		}
	}
	t.Fatal("it never ends")
}

// A cut in every operation of install, commit, rollback, collection and of an order
// that goes from stage over consent and a window to its end: whatever survives of
// what was not synced, the agent finds its state, runs what it should, and ends the
// execution once. COVEY_CUTS is the number of survivors of each cut.
func TestPowerCutAtEveryOperation(t *testing.T) {
	survivors := uint64(2)
	if s := os.Getenv("COVEY_CUTS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		survivors = n
	}
	var all tally
	for _, p := range plots {
		var got tally
		p.set(t).cuts(t, func(*crashfs.FS) {}, survivors, &got)
		t.Logf("%s: %d states, %d of them distinct, %d bad", p.name, got.states, got.distinct, len(got.bad))
		all.states, all.distinct, all.bad = all.states+got.states, all.distinct+got.distinct, append(all.bad, got.bad...)
	}
	t.Logf("%d states, %d of them distinct, %d bad", all.states, all.distinct, len(all.bad))
	for _, bad := range all.bad[:min(20, len(all.bad))] {
		t.Error(bad)
	}
	for name, careless := range map[string]func(*crashfs.FS){
		"files": func(f *crashfs.FS) { f.NoSync = true }, "folders": func(f *crashfs.FS) { f.NoSyncDir = true },
	} {
		var got tally
		plots[1].set(t).cuts(t, careless, 2, &got)
		t.Logf("unsynced %s: %d states, %d bad", name, got.states, len(got.bad))
		if len(got.bad) == 0 {
			t.Errorf("unsynced %s were not noticed", name)
		}
	}
}
