package uplink

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/rs/zerolog"
)

func newBox(t testing.TB, path string, limits [classes]caps) *outbox {
	t.Helper()
	f, err := openFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := openOutbox(f, device, limits, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

var both = [sides]bool{true, true}

func depth(o *outbox) (s Stats) {
	o.stats(&s, both)
	return s
}

func add(t testing.TB, o *outbox, c class, key, text string) {
	t.Helper()
	for range 2 {
		err := o.append(c, key, both, false, false, func(b []byte) []byte { return append(b, `{"x":"`+text+`"}`...) })
		if err == nil {
			return
		}
		if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		if err := o.commit(false); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("no room after a commit")
}

// drain takes everything that is ready for a side, acknowledging it, and returns
// the payloads.
func drain(o *outbox, s side) (payloads []string) {
	var f flight
	for {
		switch o.next(s, &f) {
		case ready:
			payloads = append(payloads, string(o.dress(nil, &f, false)))
			o.acked(s, &f)
		case readDisk:
			o.readBack(f.c, s)
		case nothing:
			return payloads
		case later:
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func TestOutboxSeqIsPerLinkAndClass(t *testing.T) {
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), limits)
	add(t, o, classResult, "a", "1")
	o.append(classResult, "a", [sides]bool{homeSide: true}, false, false, func(b []byte) []byte { return append(b, `{"x":"2"}`...) })
	add(t, o, classResult, "a", "3")
	add(t, o, classExec, "e", "4")
	if err := o.commit(false); err != nil {
		t.Fatal(err)
	}
	fleet, home := drain(o, fleetSide), drain(o, homeSide)
	want := `{"seq":1,"x":"4"} {"seq":1,"x":"1"} {"seq":2,"x":"3"}`
	if got := strings.Join(fleet, " "); got != want {
		t.Errorf("fleet: %s, want %s", got, want)
	}
	want = `{"seq":1,"x":"4"} {"seq":1,"x":"1"} {"seq":2,"x":"2"} {"seq":3,"x":"3"}`
	if got := strings.Join(home, " "); got != want {
		t.Errorf("home: %s, want %s", got, want)
	}
}

// What is acknowledged in time is never written.
func TestOutboxWritesOnlyWhatWaits(t *testing.T) {
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), limits)
	for range 30 {
		add(t, o, classResult, "a", "x")
		drain(o, fleetSide)
		drain(o, homeSide)
	}
	if wait := o.due(time.Now()); wait <= 0 {
		t.Error("a commit is due with nothing to write")
	}
	add(t, o, classResult, "a", "waits")
	now := time.Now()
	if wait := o.due(now); wait <= 0 || wait > groupTime {
		t.Errorf("with links that were here just now the next commit is due in %v", wait)
	}
	o.down = [sides]time.Time{now.Add(-shortOutage), now.Add(-shortOutage)}
	if wait := o.due(now); wait <= groupTime || wait > offlineTime {
		t.Errorf("without a link the next commit is due in %v", wait)
	}
	o.linkUp(homeSide)
	if wait := o.due(now); wait <= 0 || wait > groupTime {
		t.Errorf("the next commit is due in %v", wait)
	}
	if wait := o.due(now.Add(groupTime)); wait > 0 {
		t.Errorf("after %v the commit is due in %v", groupTime, wait)
	}
	for range groupSize {
		add(t, o, classResult, "a", "many")
	}
	if wait := o.due(time.Now()); wait > 0 {
		t.Error("a full group is not due")
	}
}

func TestOutboxOffersWithoutAllocation(t *testing.T) {
	b := mem.NewBroker()
	u := open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: b.Link("pi-1", false)}})
	r := result(1)
	var f flight
	var payload []byte
	cycle := func() {
		if err := u.Offer("porch", r); err != nil {
			t.Fatal(err)
		}
		if u.box.next(homeSide, &f) != ready {
			t.Fatal("nothing to send")
		}
		payload = u.box.dress(payload[:0], &f, false)
		u.box.acked(homeSide, &f)
	}
	for range 2 * ringSlots { // each slot has its buffer now
		cycle()
		u.box.commit(false)
	}
	if n := testing.AllocsPerRun(20, cycle); n > 0 {
		t.Errorf("%v allocations for one result", n)
	}
	running(t, u)
}

// Caps drop the oldest, and what was dropped is said, in one piece.
func TestOutboxCaps(t *testing.T) {
	small := limits
	small[classResult].bytes = 20_000
	path := filepath.Join(t.TempDir(), "o.db")
	o := newBox(t, path, small)
	const n = 3000
	for i := range n {
		add(t, o, classResult, "a", strings.Repeat("x", 20))
		if i%groupSize == 0 {
			if err := o.commit(false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := o.commit(false); err != nil {
		t.Fatal(err)
	}
	var got []wire.Message
	for _, p := range drain(o, homeSide) {
		got = append(got, wire.Message{Topic: "x/result", Payload: []byte(p)})
	}
	a := arrived(t, got)
	if gaps := a.missing(n); len(gaps) > 0 {
		t.Errorf("%d seq neither came nor were said to be lost", len(gaps))
	}
	if len(a.lost) == 0 || len(a.lost) > 3 || a.lost[0].Reason != "bytes" || a.lost[0].From != 1 {
		t.Errorf("lost spans: %+v", a.lost)
	}
	if len(a.bySeq) < ringSlots {
		t.Errorf("only %d survived", len(a.bySeq))
	}
	for _, p := range got {
		if bytes.Contains(p.Payload, []byte("lost")) {
			if _, err := wire.Parse[wire.Lost](p.Payload, 1000); err != nil {
				t.Errorf("%s: %v", p.Payload, err)
			}
		}
	}
}

// A process that dies without a word: numbers it may have used are not used again.
func TestOutboxCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "o.db")
	o := newBox(t, path, limits)
	for range 10 {
		add(t, o, classResult, "a", "before")
	}
	add(t, o, classExec, "e", "step")
	if err := o.commit(false); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		add(t, o, classResult, "a", "unwritten")
	}
	o.file.db.Close()

	o = newBox(t, path, limits)
	add(t, o, classResult, "a", "after")
	var got []wire.Message
	for _, p := range drain(o, homeSide) {
		topic := "x/result"
		if strings.Contains(p, "step") {
			topic = "x/exec"
		}
		got = append(got, wire.Message{Topic: topic, Payload: []byte(p)})
	}
	text := ""
	for _, m := range got {
		text += string(m.Payload) + "\n"
	}
	if n := strings.Count(text, "before"); n != 10 {
		t.Errorf("%d of 10 written records came back", n)
	}
	if strings.Count(text, "step") != 1 || strings.Contains(text, `"class":"exec"`) {
		t.Errorf("the step of an execution: %s", text)
	}
	a := arrived(t, got)
	if len(a.lost) != 1 || a.lost[0].Reason != "crash" || a.lost[0].From != 11 || a.lost[0].To < 15 {
		t.Errorf("lost: %+v", a.lost)
	}
	if gaps := a.missing(a.highest()); len(gaps) > 0 || a.highest() != a.lost[0].To+1 {
		t.Errorf("gaps %v, highest %d", gaps, a.highest())
	}
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
	// A clean stop loses nothing.
	o = newBox(t, path, limits)
	defer o.close()
	if rest := drain(o, fleetSide); strings.Count(strings.Join(rest, ""), `"lost":`) != 1 {
		t.Errorf("after a clean stop: %v", rest)
	}
}

// A disk that refuses is reported and waited for; what was offered is sent from
// memory.
// Whatever was written when, and for which reason, over several lives that each end with a
// crash: of the numbers that were used each was acknowledged, is still here, or is said to
// be lost.
func TestOutboxCrashesAnywhere(t *testing.T) {
	for seed := range uint64(100) {
		crashes(t, seed)
	}
}

func crashes(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 5))
	path := filepath.Join(t.TempDir(), "o.db")
	var done [sides]map[uint64]bool // acknowledged
	for s := range sides {
		done[s] = map[uint64]bool{}
	}
	var o *outbox
	for range 1 + random.IntN(4) {
		o = newBox(t, path, limits)
		var flying [sides][]*flight
		for range 5 + random.IntN(60) {
			s := side(random.IntN(int(sides)))
			switch random.IntN(9) {
			default:
				add(t, o, classResult, "cam", "result")
			case 0:
				add(t, o, classExec, "ex", "step")
			case 1, 2:
				f := &flight{}
				switch o.next(s, f) {
				case ready:
					flying[s] = append(flying[s], f)
				case readDisk:
					o.readBack(f.c, s)
				}
			case 3:
				if n := len(flying[s]); n > 0 {
					f := flying[s][random.IntN(n)]
					flying[s] = slices.DeleteFunc(flying[s], func(o *flight) bool { return o == f })
					o.acked(s, f)
					note(t, done[s], string(o.dress(nil, f, false)), f.c)
				}
			case 4:
				if err := o.commitDue(); err != nil {
					t.Fatal(err)
				}
			case 5:
				o.linkUp(s)
			case 6:
				o.linkDown(s)
			}
		}
		if err := o.file.close(); err != nil { // nothing more is written
			t.Fatal(err)
		}
	}
	var used [sides]uint64
	for s := range sides {
		used[s] = o.logs[classResult].streams[s].last
	}
	o = newBox(t, path, limits)
	defer o.file.close()
	for s := range sides {
		for _, payload := range drain(o, s) {
			if strings.Contains(payload, "result") {
				note(t, done[s], payload, classResult)
			}
		}
		for seq := uint64(1); seq <= used[s]; seq++ {
			if !done[s][seq] {
				t.Fatalf("seed %d: %d of %d on the %v link is missing, and nobody says so", seed, seq, used[s], s)
			}
		}
	}
}

// note notes what has arrived of results.
func note(t *testing.T, done map[uint64]bool, payload string, c class) {
	t.Helper()
	v := struct {
		Seq  uint64
		Lost *wire.LostSpan
	}{}
	if err := json.Unmarshal([]byte(payload), &v); err != nil {
		t.Fatal(err)
	}
	if c != classResult {
		return
	}
	from, to := v.Seq, v.Seq
	if v.Lost != nil {
		from, to = v.Lost.From, v.Lost.To
	}
	for seq := from; seq <= to; seq++ {
		done[seq] = true
	}
}

func TestOutboxDiskFull(t *testing.T) {
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), limits)
	o.file.db.MaxSize = 1 // bbolt says no to what would grow the file
	var failed error
	for range ringSlots {
		err := o.append(classResult, "a", both, false, false, func(b []byte) []byte {
			return append(append(append(b, `{"x":"`...), bytes.Repeat([]byte("y"), 2000)...), `"}`...)
		})
		if err != nil {
			break
		}
		if failed = o.commit(false); failed != nil {
			break
		}
	}
	if failed == nil {
		t.Fatal("the disk never refused")
	}
	if depth(o).Disk == nil {
		t.Error("nothing says that the disk refuses")
	}
	if err := o.append(classExec, "e", both, true, true, func(b []byte) []byte { return append(b, `{"x":"s"}`...) }); err != nil {
		t.Errorf("a step is not taken: %v", err)
	}
	sent := drain(o, homeSide)
	if len(sent) < 2 || !strings.Contains(sent[0], `"s"`) {
		t.Errorf("%d sent from memory", len(sent))
	}
	o.file.db.MaxSize = 0
	if err := o.commit(false); err != nil {
		t.Errorf("after there is room again: %v", err)
	}
	if s := depth(o); s.Disk != nil {
		t.Errorf("still broken: %v", s.Disk)
	}
	o.close()
}

// Damage anywhere in the file after an unclean stop: set aside, rebuilt, said.
func TestDamagedFile(t *testing.T) {
	damage := map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"empty":     func([]byte) []byte { return nil },
		"zeroed":    func(b []byte) []byte { clear(b[4096 : len(b)-4096]); return b },
		"bit in a value": func(b []byte) []byte {
			i := bytes.Index(b, []byte("precious"))
			b[i] ^= 1
			return b
		},
	}
	for name, break_ := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "outbox.db")
			o := newBox(t, path, limits)
			for range 50 {
				add(t, o, classResult, "a", "precious")
			}
			if err := o.commit(false); err != nil {
				t.Fatal(err)
			}
			o.file.db.Close() // no clean stop
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// Every copy of it: pages that are not in use keep theirs.
			broken := break_(b)
			for name == "bit in a value" && bytes.Contains(broken, []byte("precious")) {
				broken = break_(broken)
			}
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			nobody := mem.NewBroker()
			nobody.Down(true)
			u := open(t, Config{Dir: dir, Home: &HomeConfig{Link: nobody.Link("pi-1", false)}})
			defer running(t, u)()
			if _, err := os.Stat(path + ".corrupt-1"); err != nil {
				t.Errorf("the damaged file was not kept: %v", err)
			}
			if s := u.Stats(); len(s.Flags) != 1 || s.Flags[0] != "outbox_rebuilt" {
				t.Errorf("flags: %v", s.Flags)
			}
			if err := u.Offer("porch", result(1)); err != nil {
				t.Errorf("offer: %v", err)
			}
			// No seq is used twice, and those of before are said to be lost.
			sent := drain(u.box, homeSide)
			a := arrived(t, []wire.Message{{Topic: "/result", Payload: []byte(sent[len(sent)-1])}})
			if a.highest() == 0 {
				a = arrived(t, []wire.Message{{Topic: "/result", Payload: []byte(sent[0])}})
			}
			if a.highest() < 1_600_000_000_000 || !strings.Contains(strings.Join(sent, ""), `"reason":"damaged"`) {
				t.Errorf("after the damage: %v", sent)
			}
		})
	}
}

func TestSoundFileIsKeptAfterUncleanStop(t *testing.T) {
	dir := t.TempDir()
	o := newBox(t, filepath.Join(dir, "outbox.db"), limits)
	add(t, o, classResult, "a", "precious")
	if err := o.commit(false); err != nil {
		t.Fatal(err)
	}
	o.file.db.Close()
	u := open(t, Config{Dir: dir})
	defer running(t, u)()
	if s := u.Stats(); s.DiskBytes == 0 || len(s.Flags) > 0 {
		t.Errorf("%+v", s)
	}
}

func TestTwoAgents(t *testing.T) {
	dir := t.TempDir()
	u := open(t, Config{Dir: dir})
	defer running(t, u)()
	for _, check := range [][]string{nil, checkCommand()} {
		_, err := New(Config{Device: device, Dir: dir, Check: check, Log: zerolog.Nop()})
		if hal.CodeOf(err) != hal.CodeStateLocked {
			t.Errorf("second agent on one outbox: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "outbox.db.corrupt-1")); err == nil {
		t.Error("the outbox was taken away from the agent that uses it")
	}
}

// A check that could not be made says nothing about the file.
func TestCheckThatDoesNotRun(t *testing.T) {
	dir := t.TempDir()
	u := open(t, Config{Dir: dir})
	if err := u.box.file.db.Close(); err != nil { // not a clean stop
		t.Fatal(err)
	}
	for _, check := range [][]string{{filepath.Join(dir, "gone")}, {"/bin/sh", "-c", "kill -TERM $$"}} {
		f, err := openFile(filepath.Join(dir, "outbox.db"), check)
		if err != nil {
			t.Fatal(err)
		}
		if f.aside != "" {
			t.Errorf("%v: a sound outbox was set aside", check)
		}
		f.db.Close()
	}
}

// A board without a battery writes in 1970; its records are not old when the
// clock is set.
func TestClockIsSet(t *testing.T) {
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), limits)
	for i := range 2 * ringSlots { // the second half pushes the first out of memory
		add(t, o, classResult, "a", "x")
		if l := &o.logs[classResult]; i < ringSlots {
			l.ring[(l.head-1)%ringSlots].at = time.Unix(30, 0)
		}
	}
	o.commit(false)
	if s := depth(o); s.Lost != 0 {
		t.Errorf("%d records were lost to a jump of the clock", s.Lost)
	}
	o.close()
}

func TestOutboxAgesOut(t *testing.T) {
	short := limits
	short[classResult].age = time.Millisecond
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), short)
	for range ringSlots {
		add(t, o, classResult, "a", "old")
	}
	o.commit(false)
	time.Sleep(5 * time.Millisecond)
	for range ringSlots { // pushes the old ones out of memory
		add(t, o, classResult, "a", "new")
	}
	o.commit(false)
	text := strings.Join(drain(o, homeSide), "\n")
	if !strings.Contains(text, `"reason":"age"`) {
		t.Errorf("nothing was said to be too old")
	}
	o.close()
}

func FuzzRecords(f *testing.F) {
	f.Add(encodeBody(body{at: time.Unix(1, 0), key: "a", json: []byte(`{}`)}))
	f.Add(encodeEntry(entry{seq: 7}))
	f.Add(encodeEntry(entry{lost: &span{from: 1, to: 2, reason: "age", key: "a"}}))
	f.Add(encodeCounter(counter{1, 2}))
	f.Fuzz(func(t *testing.T, v []byte) {
		if len(v) >= 4 { // let it past the checksum
			v = seal(bytes.Clone(v))
		}
		if b, err := decodeBody(v); err == nil && len(b.json) < 2 {
			t.Errorf("body %x has no object", v)
		}
		if e, err := decodeEntry(v); err == nil && e.lost == nil && !bytes.Equal(encodeEntry(e), v) {
			t.Errorf("entry %x does not come back", v)
		}
		decodeCounter(v)
	})
}

func TestClosedFile(t *testing.T) {
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), limits)
	o.file.db.Close()
	err := o.commit(false)
	if err != nil {
		t.Errorf("nothing to write, and yet: %v", err)
	}
	add(t, o, classExec, "e", "x")
	if err := o.commit(false); err == nil {
		t.Errorf("a closed file: %v", err)
	}
}

func BenchmarkOffer(b *testing.B) {
	u := open(b, Config{Dir: b.TempDir(), Home: &HomeConfig{Link: mem.NewBroker().Link("pi-1", false)}})
	r := result(1)
	var f flight
	b.ReportAllocs()
	for b.Loop() {
		for u.Offer("porch", r) != nil {
			u.box.commit(false)
		}
		u.box.next(homeSide, &f)
		u.box.acked(homeSide, &f)
	}
}

// A step of an execution is not sent before it is on disk: its seq could be used
// again after a crash.
func TestOutboxWritesStepsBeforeItSendsThem(t *testing.T) {
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), limits)
	defer o.close()
	add(t, o, classExec, "e", "step")
	add(t, o, classResult, "a", "result")
	if sent := drain(o, fleetSide); len(sent) != 1 || !strings.Contains(sent[0], "result") {
		t.Errorf("before the commit: %v", sent)
	}
	if err := o.commit(false); err != nil {
		t.Fatal(err)
	}
	if sent := drain(o, fleetSide); len(sent) != 1 || !strings.Contains(sent[0], "step") {
		t.Errorf("after the commit: %v", sent)
	}
}

// A link that stands but is slower than the source gets everything once.
func TestOutboxSlowLink(t *testing.T) {
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), limits)
	defer o.close()
	const n = 5 * ringSlots / 2
	var sent []string
	for i := range n {
		add(t, o, classResult, "a", "x")
		if i%ringSlots == 3 {
			sent = append(sent, drain(o, homeSide)...)
		}
	}
	sent = append(sent, drain(o, homeSide)...)
	var got []wire.Message
	for _, p := range sent {
		got = append(got, wire.Message{Topic: "/result", Payload: []byte(p)})
	}
	if a := arrived(t, got); len(a.missing(n)) > 0 || a.dups > 0 {
		t.Errorf("%d missing, %d twice", len(a.missing(n)), a.dups)
	}
	if fleet := drain(o, fleetSide); len(fleet) != n {
		t.Errorf("the link that never took anything gets %d of %d", len(fleet), n)
	}
}

// What must not be dropped is not: its source has to wait.
func TestOutboxKeepsWhatIsLossless(t *testing.T) {
	small := limits
	small[classResult].bytes = 5000
	o := newBox(t, filepath.Join(t.TempDir(), "o.db"), small)
	defer o.close()
	taken := 0
	for range 5 * ringSlots {
		err := o.append(classResult, "a", both, true, false, func(b []byte) []byte { return append(b, `{"x":"some text"}`...) })
		if errors.Is(err, ErrFull) {
			if err := o.commit(false); err != nil {
				t.Fatal(err)
			}
			continue
		}
		taken++
	}
	if err := o.append(classResult, "a", both, true, false, func(b []byte) []byte { return append(b, `{"x":"more"}`...) }); !errors.Is(err, ErrFull) {
		t.Errorf("a full outbox says %v", err)
	}
	for range 2 * ringSlots { // others may come, and drop each other
		add(t, o, classResult, "b", "live")
	}
	if err := o.commit(false); err != nil {
		t.Fatal(err)
	}
	sent := strings.Join(drain(o, homeSide), "")
	if n := strings.Count(sent, "some text"); n != taken {
		t.Errorf("%d taken, %d sent", taken, n)
	}
	if !strings.Contains(sent, `"reason":"bytes"`) {
		t.Error("nothing was dropped")
	}
}
