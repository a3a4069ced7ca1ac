package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

// happy is every state of an update that goes well, in their order.
var happy = []wire.ExecState{wire.Queued, wire.Downloading, wire.Verifying, wire.Staged, wire.SelfTesting,
	wire.Switching, wire.Probation, wire.Succeeded}

// kill -9 of the agent in every state of an update, before the state is on the
// disk, right after, and a little later; and in the middle of a block. Always the
// next start brings the update to its end, and nothing is left of the dead one.
func TestKilledInEveryState(t *testing.T) {
	if testing.Short() {
		happy := []wire.ExecState{wire.Downloading, wire.Switching, wire.Probation}
		t.Run("after", func(t *testing.T) { killed(t, happy, "after", 20) })
		return
	}
	t.Run("before", func(t *testing.T) { t.Parallel(); killed(t, happy, "before", 1) })
	t.Run("after", func(t *testing.T) { t.Parallel(); killed(t, happy, "after", 30) })
	t.Run("later", func(t *testing.T) { t.Parallel(); killed(t, happy, "later", 66) })
	t.Run("a disk that loses the state", func(t *testing.T) { t.Parallel(); lostState(t) })
}

// killed kills one board in each of the states, and at a block of a download.
func killed(t *testing.T, states []wire.ExecState, when string, block int) {
	m := newMortal(t)
	for i, st := range states {
		r := m.release(fmt.Sprintf("1.0.%d", i+1))
		// Longer than most effects of a state take to begin, shorter than many take.
		d := doom{Release: r.Digest, State: st, When: when, Delay: time.Duration(1+7*i) * time.Millisecond}
		m.kill(r, d)
		m.mustEnd(r, string(st))
	}
	r := m.release("2.0.0")
	m.kill(r, doom{Release: r.Digest, Model: r.sha, Blocks: block})
	if fi, err := os.Stat(m.blob(r.sha) + ".part"); err != nil || fi.Size() == 0 {
		t.Errorf("killed in block %d: no part of the model is here: %v", block, err)
	}
	m.mustEnd(r, fmt.Sprintf("block %d", block))
	m.ledger.mustBeWhole(t)
	t.Logf("%d kills; %v", len(states)+1, m.ledger)
}

// The known bad one: an agent whose states do not reach the disk says more than it
// would know after a power cut, and that is noticed.
func lostState(t *testing.T) {
	m := newMortal(t)
	r := m.release("1.0.1")
	dead := m.die(doom{Release: r.Digest, Lose: wire.Verifying, State: wire.Succeeded, When: "later", Delay: time.Second})
	if err := m.honest(r); err == nil {
		t.Errorf("%s: the state was lost from %s on, and nobody noticed", dead.name, wire.Verifying)
	}
	m.mustEnd(r, "lost state") // and even so it ends well
	if err := os.Truncate(m.blob(r.sha), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := m.right(r); err == nil {
		t.Error("the model was cut off on the disk, and nobody noticed")
	}
}

// A mortal is a board that dies again and again.
type mortal struct {
	*edge
	heard  <-chan string
	ledger *ledger
	models string // folder of the releases' models
}

// newMortal is a board that runs its first release.
func newMortal(t *testing.T) *mortal {
	t.Helper()
	house := linktest.Mosquitto(t)
	c := newController(t)
	m := &mortal{ledger: newLedger(), models: t.TempDir()}
	m.edge = newEdge(t, c, "pi-1",
		"home: {broker: mqtt://"+house+"}",
		"pipelines:",
		"  cam:",
		"    source: {type: folder, path: "+pictures(t, 2, peacock)+", loop: true, fps: 40}",
		"    accelerator: xnnpack", // measuring each of so many releases would take minutes
	)
	m.join()
	m.heard = listen(t, house, "-t", wire.Home{Root: "covey", ID: "pi-1"}.Result("cam"), "-i", "collector", "-c")
	m.start()
	c.awaitDevice("pi-1", 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })
	r := m.release("1.0.0")
	if done := c.awaitEnd(r.rollout, time.Minute); done.Executions[0].State != wire.Succeeded {
		t.Fatalf("first release: %+v", done)
	}
	m.hear(r.sha)
	if err := m.stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	return m
}

// A wish is a release that was pushed and asked for.
type wish struct {
	pushed
	sha     wire.Digest // of the model
	rollout string
}

// release pushes a release unlike all others and asks for it.
func (m *mortal) release(version string) wish {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(models(m.t), mobilenet))
	if err != nil {
		m.t.Fatal(err)
	}
	b = append(b, "behind the model: "+version...)
	path := filepath.Join(m.models, version+".tflite")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		m.t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	w := wish{sha: wire.Digest(hex.EncodeToString(sum[:])), pushed: m.c.pushFile("birds", version, path, mobilenetLabels)}
	w.rollout = ask[rollout](m.c, "set", "pi-1", "cam=birds@"+version, "--yes").ID
	return w
}

func (m *mortal) blob(sha wire.Digest) string {
	return filepath.Join(m.dir, "data", "blobs", string(sha))
}

// die runs the agent until its doom.
func (m *mortal) die(d doom) *process {
	m.t.Helper()
	dead := m.startDoomed(d)
	select {
	case <-dead.done:
	case <-time.After(time.Minute):
		m.t.Fatalf("%s %s: the agent does not die", d.When, d.State)
	}
	if ws := dead.cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
		m.t.Fatalf("%s %s: the agent ended with %s\n%s", d.When, d.State, dead.cmd.ProcessState, dead.tail(20))
	}
	until(m.t, 5*time.Second, "runners of the dead agent end", func() error {
		if left := dead.session(); len(left) > 0 {
			return fmt.Errorf("%v still run", left)
		}
		return nil
	})
	return dead
}

// kill is die with a look at what is on the disk.
func (m *mortal) kill(r wish, d doom) {
	m.t.Helper()
	m.die(d)
	release, state, err := onDisk(filepath.Join(m.dir, "data", stateFile))
	if d.When != "later" && d.Blocks == 0 {
		there := release == r.Digest && state == d.State
		if want := d.When == "after"; there != want {
			m.t.Errorf("killed %s %s: on the disk is %s of %s (%v)", d.When, d.State, state, release.Short(), err)
		}
	}
	if err := m.honest(r); err != nil {
		m.t.Errorf("killed %s %s: %v", d.When, d.State, err)
	}
}

// honest says whether the controller heard of a state that is not on the disk: a
// power cut would have made that a lie.
func (m *mortal) honest(r wish) error {
	m.t.Helper()
	_, err := m.stands(r)
	return err
}

// mustEnd starts the real program: the update ends well, and the new model works.
func (m *mortal) mustEnd(r wish, what string) {
	m.t.Helper()
	m.start()
	m.finish(r, what)
}

// finish is mustEnd of an agent that runs.
func (m *mortal) finish(r wish, what string) {
	m.t.Helper()
	m.await("agent starts", 20*time.Second) // before that a SIGTERM is the shell's way to end it
	done := m.c.awaitEnd(r.rollout, time.Minute)
	if done.State != wire.RolloutCompleted || done.Executions[0].State != wire.Succeeded {
		m.t.Errorf("killed at %s: rollout ended %s, %+v", what, done.State, done.Executions[0])
	}
	// An agent that has lost its state may have said before that it was done.
	until(m.t, time.Minute, "the release of "+what+" is active", func() error { return m.right(r) })
	m.hear(r.sha)
	if err := m.stop(10 * time.Second); err != nil {
		m.t.Errorf("killed at %s: %v", what, err)
	}
	if left := m.session(); len(left) > 0 {
		m.t.Errorf("killed at %s: %v still run", what, left)
	}
}

// right says whether the board runs the release, by its own word and on its disk.
func (m *mortal) right(r wish) error {
	m.t.Helper()
	p := m.c.device("pi-1").Reported.Pipelines["cam"]
	if p.Active == nil || p.Active.Release != r.Digest || p.Active.SHA256 != r.sha {
		return fmt.Errorf("active is %+v, want %s of model %s", p.Active, r.Digest.Short(), r.sha.Short())
	}
	b, err := os.ReadFile(m.blob(r.sha))
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != string(r.sha) {
		return fmt.Errorf("the model on the disk hashes to %x", sum)
	}
	return nil
}

// hear listens until a result of the model comes.
func (m *mortal) hear(sha wire.Digest) {
	m.t.Helper()
	next(m.t, m.heard, 20*time.Second, "result of "+sha.Short(), func(_, payload string) bool {
		return m.ledger.take(m.t, payload) == sha.Short()
	})
}

// A ledger holds all that was heard of one pipeline on one link.
type ledger struct {
	bySeq map[uint64]string // results
	lost  []wire.LostSpan
	again int // came twice
	top   uint64
}

func newLedger() *ledger { return &ledger{bySeq: map[uint64]string{}} }

func (l *ledger) String() string {
	lost, untrue := 0, 0
	for _, s := range l.lost {
		for seq := s.From; seq <= s.To; seq++ {
			if lost++; l.bySeq[seq] != "" {
				untrue++ // it went out in the moment of the crash
			}
		}
	}
	return fmt.Sprintf("%d results, %d messages twice, %d numbers in %d spans of what is lost, %d of which came all the same",
		len(l.bySeq), l.again, lost, len(l.lost), untrue)
}

// take takes a message in and returns the model that it is of, "" for a lost one.
// A number that comes again must bring the same, but for how late it is.
func (l *ledger) take(t *testing.T, payload string) (model string) {
	t.Helper()
	if strings.Contains(payload, `"lost":`) {
		v, err := decode[wire.Lost]([]byte(payload))
		if err != nil || v.Lost.From == 0 || v.Lost.To < v.Lost.From {
			t.Errorf("%s: %v", payload, err)
		}
		if slices.Contains(l.lost, v.Lost) {
			l.again++
			return ""
		}
		l.lost, l.top = append(l.lost, v.Lost), max(l.top, v.Lost.To)
		return ""
	}
	r, err := decode[wire.Result]([]byte(payload))
	if err != nil || r.Seq == 0 {
		t.Errorf("%s: %v", payload, err)
	}
	r.Late = false // is of this sending
	b, _ := json.Marshal(r)
	if before, ok := l.bySeq[r.Seq]; ok {
		l.again++
		if before != string(b) {
			t.Errorf("seq %d twice:\n%s\n%s", r.Seq, before, b)
		}
	}
	l.bySeq[r.Seq], l.top = string(b), max(l.top, r.Seq)
	return r.Model.SHA
}

// missing are the numbers up to the last that neither came nor are said to be lost.
func (l *ledger) missing() (all []uint64) {
	for seq := uint64(1); seq <= l.top; seq++ {
		said := slices.ContainsFunc(l.lost, func(s wire.LostSpan) bool { return s.From <= seq && seq <= s.To })
		if _, here := l.bySeq[seq]; !here && !said {
			all = append(all, seq)
		}
	}
	return all
}

func (l *ledger) mustBeWhole(t *testing.T) {
	t.Helper()
	if missing := l.missing(); len(missing) > 0 {
		t.Errorf("missing, and nobody said so: %d", missing)
	}
}
