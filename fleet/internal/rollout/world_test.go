package rollout

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

// A board is a device as simple as can be: it goes through the states of an execution,
// one a tick, and says so. What it says is in messages until they arrive.
type board struct {
	online bool
	seen   int // tick when it last was
	fate   wire.ExecState
	runs   wire.Digest // what is active
	had    wire.Digest // before the switch
	wish   wire.DesiredRelease
	rev    uint64
	state  wire.ExecState // of the execution under way
	n      int
	silent bool // its newest report has not arrived
	liar   bool // it says that it is done, and runs what it ran
}

// path is the states of an execution that goes well.
var path = []wire.ExecState{wire.Queued, wire.Downloading, wire.Verifying, wire.Staged, wire.SelfTesting, wire.Switching, wire.Probation, wire.Succeeded}

// step is one tick of a board that has a connection: it reads the document and goes on.
func (b *board) step(rev uint64, wish wire.DesiredRelease) (s *wire.ExecStep) {
	if rev != b.rev {
		b.rev, b.silent = rev, true
		fresh := wish.Execution != b.wish.Execution
		b.wish = wish
		if fresh && wish.Execution != "" {
			b.state, b.n, b.had = wire.Queued, 0, b.runs
			if b.runs == wish.Release {
				b.state = wire.AlreadyInstalled
			}
		}
	}
	if b.wish.Execution == "" || b.state.Terminal() || b.state == "" {
		return nil
	}
	if b.state == wire.Staged && b.wish.Mode == wire.ModeStage {
		return nil
	}
	i := slices.Index(path, b.state)
	b.state, b.n, b.silent = path[i+1], b.n+1, true
	good := b.fate == wire.Succeeded || b.wish.Release == digestOne
	switch {
	case !good && b.fate != wire.RolledBack && b.state == wire.SelfTesting:
		b.state = b.fate // before the switch
	case b.state == wire.Switching:
		b.runs = b.wish.Release
	case !good && b.state == wire.Succeeded:
		b.state, b.runs = wire.RolledBack, b.had
	case b.liar && b.state == wire.Succeeded && b.wish.Release != digestOne:
		b.runs = b.had
	}
	s = &wire.ExecStep{V: 1, Execution: b.wish.Execution, Release: b.wish.Release, N: b.n, State: b.state}
	if b.state.Word() == "failed" {
		s.Fault = &wire.Fault{Code: "E_GOLDEN"}
	}
	return s
}

func (b *board) report() wire.Reported {
	p := wire.ReportedPipeline{Execution: b.wish.Execution, State: b.state}
	if b.runs != "" {
		p.Active = &wire.ReportedSlot{Release: b.runs, SHA256: b.runs}
	}
	return reported(b.rev, p)
}

// A parcel is a step on its way.
type parcel struct {
	to   int
	step wire.ExecStep
}

// A world is a rollout, its devices, and what is on its way between them.
type world struct {
	t      *testing.T
	rnd    *rand.Rand
	seed   uint64
	tick   int
	r      Rollout
	xs     []Execution
	boards []board
	docs   []wire.DesiredRelease // what is desired, by device
	revs   []uint64
	post   []parcel
	ids    int

	ended   map[string]wire.ExecState // executions that are over
	ordered map[int]bool              // devices that were asked for the release
	retried bool                      // phases that had passed may have begun anew
}

const tick = 10 * time.Second

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), ended: map[string]wire.ExecState{}, ordered: map[int]bool{}}
	n := 1 + w.rnd.IntN(40)
	bad := []float64{0, 0, 0.1, 0.5, 1}[w.rnd.IntN(5)]
	ts := make([]Target, n)
	for i := range n {
		b := board{online: w.rnd.Float64() < 0.9, fate: wire.Succeeded, runs: digestOne}
		if w.rnd.Float64() < bad {
			b.fate = []wire.ExecState{wire.Failed, wire.RolledBack, wire.Rejected, wire.TimedOut}[w.rnd.IntN(4)]
		}
		if w.rnd.IntN(10) == 0 {
			b.runs = ""
		}
		b.liar = w.rnd.IntN(30) == 0
		doc := wire.DesiredRelease{}
		if b.runs != "" {
			doc = wire.DesiredRelease{Release: digestOne, Length: 1, Name: "m", Version: "1.0.0", Execution: fmt.Sprintf("old-%d", i), Attempt: 1, Mode: wire.ModeActivate}
			b.wish, b.state, b.rev = doc, wire.Succeeded, 1
		}
		w.boards, w.docs, w.revs = append(w.boards, b), append(w.docs, doc), append(w.revs, b.rev)
		ts[i] = Target{Device: wire.DeviceID(fmt.Sprintf("pi-%02d", i)), Online: b.online, Site: string(rune('a' + i%3)), Attempt: 1}
		if w.rnd.IntN(15) == 0 {
			ts[i].Refusal = &wire.Fault{Code: CodePinned}
		}
	}
	w.r = underWay()
	w.r.Policy = w.policy().Filled()
	w.r.Phases = pending(w.r.Policy)
	if err := Assign(w.r.Policy, digestTwo, ts, nil); err != nil {
		t.Fatal(err)
	}
	for i, x := range ts {
		y := Execution{ID: w.id(), Device: x.Device, Phase: x.Phase, Attempt: 1, State: wire.Queued}
		if ts[i].Refusal != nil {
			y.State, y.Fault = wire.Rejected, x.Refusal
		}
		w.xs = append(w.xs, y)
	}
	return w
}

func (w *world) id() string { w.ids++; return fmt.Sprintf("ex-%d", w.ids) }

// policy is one of many.
func (w *world) policy() policy.Policy {
	p := policy.Default()
	if w.rnd.IntN(4) == 0 {
		p.Phases = policy.AtOnce().Phases
	}
	p.OnError = []policy.Action{policy.Pause, policy.Abort, policy.Revert}[w.rnd.IntN(3)]
	if w.rnd.IntN(2) == 0 {
		p.Concurrency = 1 + w.rnd.IntN(6)
	}
	if w.rnd.IntN(3) == 0 {
		p.PerSite = 1 + w.rnd.IntN(3)
	}
	if w.rnd.IntN(4) == 0 {
		p.Order.Mode = wire.ModeStage
	}
	if w.rnd.IntN(3) == 0 {
		p.Phases[len(p.Phases)-1].Approval = "operator"
	}
	p.Offline = policy.Duration([]time.Duration{0, time.Minute, time.Hour}[w.rnd.IntN(3)])
	for i := range p.Phases {
		p.Phases[i].Soak = policy.Duration(w.rnd.IntN(60)) * policy.Duration(time.Second)
	}
	if w.rnd.IntN(3) == 0 {
		p.Start = noon.Add(time.Minute)
	}
	return p
}

func (w *world) facts() Facts {
	f := Facts{Now: noon.Add(time.Duration(w.tick) * tick)}
	for i, b := range w.boards {
		f.Devices = append(f.Devices, Fact{Online: b.online, Seen: noon.Add(time.Duration(b.seen) * tick), Site: string(rune('a' + i%3))})
	}
	return f
}

func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, tick %d: %s\nrollout %s, phases %+v", w.seed, w.tick, fmt.Sprintf(format, args...), w.r.State, w.r.Phases)
}

// decide asks Next until it has nothing more to say, and does what it says.
func (w *world) decide() {
	for turn := 0; ; turn++ {
		if turn > 200 {
			w.fatal("it decides for ever")
		}
		f := w.facts()
		r, xs := w.r, slices.Clone(w.xs)
		r.Phases = slices.Clone(r.Phases)
		d, again := Next(w.r, w.xs, f), Next(w.r, w.xs, f)
		if !reflect.DeepEqual(d, again) {
			w.fatal("two decisions by the same facts: %+v, %+v", d, again)
		}
		if !reflect.DeepEqual(r.Phases, w.r.Phases) || !reflect.DeepEqual(xs, w.xs) {
			w.fatal("a decision changed what it was made by")
		}
		w.judge(d)
		next := w.r.decided(d, w.xs, f.Now)
		if len(d.Moves) == 0 && reflect.DeepEqual(next, w.r) {
			return
		}
		w.r = next
		for i, m := range d.Moves {
			if i > 0 && w.rnd.IntN(20) == 0 {
				break // the rest is decided again
			}
			w.perform(m)
		}
	}
}

// judge holds a decision against what must always be true.
func (w *world) judge(d Decision) {
	under := 0
	for i, x := range w.xs {
		if x.Rev > 0 && x.Mode == w.r.Policy.Order.Mode && !x.State.Terminal() && !(x.State == wire.Staged && w.r.Policy.Order.Stages()) && w.boards[i].online && x.To == nil {
			under++
		}
	}
	orders := 0
	for _, m := range d.Moves {
		x := w.xs[m.Execution]
		if m.Kind != Order || x.To != nil {
			continue
		}
		orders++
		switch w.r.State {
		case wire.RolloutPaused, wire.RolloutDraft, wire.RolloutAborted, wire.RolloutRollingBack, wire.RolloutRolledBack:
			w.fatal("%s, and %s is ordered", w.r.State, x.Device)
		}
		if d.State == wire.RolloutPaused {
			w.fatal("it pauses, and orders %s", x.Device)
		}
		for p := range x.Phase {
			if d.Phases[p].State != PhasePassed {
				w.fatal("%s of phase %d is ordered before phase %d passed: %s", x.Device, x.Phase, p, d.Phases[p].State)
			}
		}
	}
	if c := w.r.Policy.Concurrency; c > 0 && orders > 0 && under+orders > c {
		w.fatal("%d devices are at it and %d are ordered, at most %d", under, orders, c)
	}
	for i := 1; i < len(d.Phases); i++ {
		if !w.retried && d.Phases[i].State != PhasePending && d.Phases[i-1].State != PhasePassed {
			w.fatal("phase %d is %s, the one before %s", i, d.Phases[i].State, d.Phases[i-1].State)
		}
	}
}

// perform makes a move as Service does.
func (w *world) perform(m Move) {
	i := m.Execution
	x := w.xs[i]
	put := func(doc wire.DesiredRelease) { w.docs[i] = doc; w.revs[i]++ }
	switch m.Kind {
	case Order:
		if w.docs[i].Execution != x.ID && x.To == nil {
			rep := w.boards[i].report()
			if b := before(map[string]wire.DesiredRelease{"cam": w.docs[i]}, "cam", &rep); b != nil && b.Execution != "" {
				x.Before = b
			}
		}
		put(wish(w.r, x))
		x.Rev, x.Mode = w.revs[i], w.docs[i].Mode
		w.ordered[i] = true
	case Drop:
		x.State = wire.Canceled
	case Undo:
		doc := wire.DesiredRelease{}
		if x.Before != nil {
			doc = *x.Before
		}
		put(doc)
		x.State = wire.Canceled
	case Back:
		if x.Before == nil || x.Before.Release == digestTwo {
			x.Kept = "nothing"
			break
		}
		y := Execution{ID: w.id(), Device: x.Device, Phase: x.Phase, Attempt: 1, State: wire.Queued,
			To: &Release{Digest: x.Before.Release, Length: 1, Name: "m", Version: "1.0.0"}}
		put(wish(w.r, y))
		y.Rev, y.Mode = w.revs[i], w.docs[i].Mode
		x = y
	}
	w.set(i, x)
}

// set changes an execution, and sees that none that is over changes.
func (w *world) set(i int, x Execution) {
	old := w.xs[i]
	if was, over := w.ended[x.ID]; over && x.State != was {
		w.fatal("%s of %s ended as %s, and now as %s", x.ID, x.Device, was, x.State)
	}
	if x.State.Terminal() {
		w.ended[x.ID] = x.State
	}
	if x.ID == old.ID && x.N < old.N {
		w.fatal("%s goes back from step %d to %d", x.Device, old.N, x.N)
	}
	if x.State == wire.Succeeded && old.State != wire.Succeeded && w.boards[i].runs != goal(w.r, x).Digest {
		w.fatal("%s succeeded and runs %s", x.Device, w.boards[i].runs.Short())
	}
	w.xs[i] = x
}

// live lets time pass by a tick: devices come and go and do a step, messages arrive,
// some late, some twice, some never.
func (w *world) live(steady bool) {
	w.tick++
	for i := range w.boards {
		b := &w.boards[i]
		if steady {
			b.online = true
		} else if w.rnd.IntN(15) == 0 {
			b.online = !b.online
		}
		if !b.online {
			continue
		}
		b.seen = w.tick
		if !steady && w.rnd.IntN(4) == 0 {
			continue
		}
		if s := b.step(w.revs[i], w.docs[i]); s != nil && w.rnd.IntN(5) > 0 {
			w.post = append(w.post, parcel{i, *s})
		}
	}
	w.rnd.Shuffle(len(w.post), func(i, j int) { w.post[i], w.post[j] = w.post[j], w.post[i] })
	var left []parcel
	for _, p := range w.post {
		if !steady && w.rnd.IntN(3) == 0 {
			left = append(left, p)
			continue
		}
		w.set(p.to, Step(w.r, w.xs[p.to], p.step))
		if w.rnd.IntN(10) == 0 {
			left = append(left, p) // and once more, later
		}
	}
	w.post = left
	for i := range w.boards { // the report is retained: it may be late, but the newest comes
		if b := &w.boards[i]; b.silent && b.online && (steady || w.rnd.IntN(3) > 0) {
			b.silent = false
			w.set(i, Reported(w.r, w.xs[i], b.report()))
		}
	}
	w.decide()
}

// people do what comes into their minds.
func (w *world) people() {
	may := func(string) bool { return true }
	now := noon.Add(time.Duration(w.tick) * tick)
	fresh := func(r Rollout, x Execution) (Execution, error) {
		return Execution{ID: w.id(), Device: x.Device, Phase: x.Phase, Attempt: x.Attempt + 1, To: x.To, Before: x.Before, State: wire.Queued}, nil
	}
	retry := retrying(func(Rollout) (map[wire.DeviceID]bool, error) { return nil, nil }, fresh)
	what := []change{pausing("ada"), resuming(), approving("ada", now, may), activating(), aborting("ada"), reverting("ada"), retry}
	k := []int{0, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 6}[w.rnd.IntN(12)]
	w.retried = w.retried || k == 6
	w.do(what[k])
}

func (w *world) do(c change) {
	r := w.r
	r.Phases = slices.Clone(r.Phases)
	_, instead, err := c(&r, w.xs)
	if err != nil {
		return
	}
	for _, x := range instead {
		i := slices.IndexFunc(w.xs, func(o Execution) bool { return o.Device == x.Device })
		if !w.xs[i].State.Terminal() {
			w.fatal("%s is asked again while it is at it", x.Device)
		}
		w.xs[i] = x
	}
	if !over(r.State) {
		r.Ended = time.Time{}
	}
	w.r = r
	w.decide()
}

// runs is how many worlds there are: more at night.
func runs(t *testing.T, short int) int {
	if n, err := strconv.Atoi(os.Getenv("COVEY_ROLLOUTS")); err == nil {
		return n
	}
	return short
}

func TestAThousandWorlds(t *testing.T) {
	ends := map[wire.RolloutState]int{}
	for seed := range uint64(runs(t, 80)) {
		w := newWorld(t, seed)
		w.decide()
		for range 150 {
			w.live(false)
			if w.rnd.IntN(40) == 0 {
				w.people()
			}
		}
		// In the end everybody is there, and whoever has to say something says it.
		for round := range 40 {
			for range 30 {
				w.live(true)
			}
			if over(w.r.State) && !w.r.Tail {
				break
			}
			now := noon.Add(time.Duration(w.tick) * tick)
			yes := func(string) bool { return true }
			w.do(approving("ada", now, yes))
			w.do(activating())
			w.do(resuming())
			if round > 30 {
				w.do(aborting("ada"))
			}
		}
		w.ending()
		ends[w.r.State]++
	}
	t.Log(ends)
	for _, s := range []wire.RolloutState{wire.RolloutCompleted, wire.RolloutAborted, wire.RolloutRolledBack} {
		if ends[s] == 0 {
			t.Errorf("no world ends as %s: the test looks at nothing", s)
		}
	}
}

// ending is what must be true when nothing more happens.
func (w *world) ending() {
	if !over(w.r.State) || w.r.Ended.IsZero() {
		w.fatal("it never ends: %s", w.r.Reason)
	}
	for i, x := range w.xs {
		b := w.boards[i]
		switch {
		case !x.State.Terminal():
			w.fatal("%s is %s for ever", x.Device, x.State)
		case x.State == wire.Succeeded && b.runs != goal(w.r, x).Digest:
			w.fatal("%s succeeded and runs %s", x.Device, b.runs.Short())
		case x.State == wire.Canceled && x.Before != nil && b.runs != x.Before.Release:
			w.fatal("%s was canceled and runs %s", x.Device, b.runs.Short())
		case w.r.State == wire.RolloutRolledBack && b.runs == digestTwo && x.Kept == "" && x.State != wire.AlreadyInstalled && x.State != wire.Canceled && x.To == nil:
			w.fatal("reverted, and %s runs it: %+v", x.Device, x)
		}
	}
}

// A release that fails everywhere reaches the canary, and nobody else.
func TestACanaryThatFails(t *testing.T) {
	for seed := range uint64(runs(t, 40)) {
		w := newWorld(t, seed)
		for w.r.Policy.Order.Stages() || len(w.r.Policy.Phases) == 1 {
			seed += 100_000
			w = newWorld(t, seed)
		}
		for i := range w.boards {
			w.boards[i].fate = wire.RolledBack
		}
		w.decide()
		for range 200 {
			w.live(false)
		}
		for range 50 {
			w.live(true)
		}
		for i := range w.xs {
			if w.ordered[i] && w.xs[i].Phase != 0 {
				w.fatal("%s of phase %d was asked for it", w.xs[i].Device, w.xs[i].Phase)
			}
		}
		if len(w.ordered) > 0 && w.r.State != wire.RolloutPaused && w.r.State != wire.RolloutAborted && w.r.State != wire.RolloutRolledBack {
			w.fatal("nobody stopped it: %s", w.r.Reason)
		}
	}
}

// What is aborted before a device switches changes nothing on it.
func TestAnAbortBeforeTheSwitchChangesNothing(t *testing.T) {
	tried := 0
	for seed := range uint64(runs(t, 80)) {
		w := newWorld(t, seed)
		w.decide()
		for range w.rnd.IntN(30) {
			w.live(false)
		}
		if over(w.r.State) || w.r.State == wire.RolloutRollingBack {
			continue
		}
		ran := make([]wire.Digest, len(w.boards))
		quiet := make([]bool, len(w.boards))
		for i, b := range w.boards {
			ran[i] = b.runs
			at := slices.Index(path, b.state)
			quiet[i] = b.wish.Release != digestTwo || at >= 0 && at < slices.Index(path, wire.Switching)
		}
		// Devices hear of it before they go on.
		w.do(aborting("ada"))
		for range 60 {
			w.live(true)
		}
		for i, b := range w.boards {
			if quiet[i] {
				tried++
				if b.runs != ran[i] {
					w.fatal("%s ran %s at the abort, and now %s: %+v", w.xs[i].Device, ran[i].Short(), b.runs.Short(), w.xs[i])
				}
			}
		}
	}
	if tried < 100 {
		t.Errorf("only %d devices had not switched", tried)
	}
}
