package runner

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// runnerOf is a session's runner.
func runnerOf(s hal.Session) *process { return s.(*session).runner }

// TestAnswerTooLate: an answer that came at the last moment is none, for the runner
// that gave it is killed.
func TestAnswerTooLate(t *testing.T) {
	e := bad(t, "good")
	model, err := e.models.get(t.Context(), someModel(t))
	if err != nil {
		t.Fatal(err)
	}
	defer e.models.drop(model)
	p, err := e.start(t.Context(), hal.CPU, defaultMemory)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	ctx, cancel := context.WithCancel(t.Context())
	noted := func(string) {
		for n := 0; n == 0; { // until the answer is there
			if n, err = unix.IoctlGetInt(p.fd, unix.TIOCINQ); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		<-p.ended
	}
	var opened proto.Opened
	err = p.call(ctx, "open", proto.Header{Kind: proto.KindOpen, Session: 1}, proto.Open{Size: model.size, Accelerator: hal.CPU}, int(model.file.Fd()), &opened, noted)
	if hal.CodeOf(err) != hal.CodeTimeout || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it took too long", err)
	}
}

// TestStuck: a runner that a driver holds in the kernel cannot be ended, and keeps
// nobody waiting.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		cmd := exec.Command("sleep", "1000") // which ends; but nobody says so to p
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		p := &process{name: "bad", child: &spawned{cmd: cmd}, fd: pair[0], said: &stderr{}, ended: make(chan struct{}), known: make(chan struct{}),
			in: make([]byte, proto.MaxPacket), users: 1, phase: "run"}
		p.kill(&hal.Error{Code: hal.CodeTimeout, Text: "too slow"})
		if n, err := p.read(); n != 0 || err != nil {
			t.Errorf("reading from it: %d, %v; want the end", n, err)
		}
		if err := p.died(1); !errors.Is(err, hal.ErrLost) || !strings.Contains(err.Error(), "cannot be ended: a driver holds it in run") {
			t.Error(err)
		}
		if joined, _ := p.admit(); joined {
			t.Error("another session came to it")
		}
		p.close()
		p.close()
		p.kill(nil) // the number of its socket may be another file's by now
	})
}

// TestSlowDeath: a runner that a driver takes long to let go of, once it has crashed,
// has died of that, and not of our impatience.
func TestSlowDeath(t *testing.T) {
	for signal, says := range map[string]string{"SEGV": "died by SIGSEGV in run", "KILL": "closed its socket during run"} {
		synctest.Test(t, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pair[1])
			s := &spawned{cmd: exec.Command("sh", "-c", "kill -"+signal+" $$")}
			_ = s.cmd.Run()
			p := &process{name: "bad", child: s, fd: pair[0], said: &stderr{}, ended: make(chan struct{}), known: make(chan struct{}), how: s.end(), users: 1, phase: "run"}
			time.AfterFunc(2*graceful, func() { close(p.ended) })
			time.AfterFunc(3*graceful, func() { close(p.known) }) // as systemd's instances
			if err := p.died(1); hal.CodeOf(err) != hal.CodeCrash || !errors.Is(err, hal.ErrLost) || !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want that it %s", err, says)
			}
			p.close()
		})
	}
}

// TestDeadBetweenRuns: a runner that dies while nobody waits for it is nobody's fault.
func TestDeadBetweenRuns(t *testing.T) {
	e := bad(t, "shared")
	one, two := openOn(t, e, hal.EdgeTPU), openOn(t, e, hal.EdgeTPU)
	if _, err := one.Run(0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(runnerOf(one).child.pid(), unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	<-runnerOf(one).ended
	for _, s := range []hal.Session{two, one} {
		if _, err := s.Run(0); hal.CodeOf(err) != hal.CodeCrash || !errors.Is(err, hal.ErrLost) || !strings.Contains(err.Error(), "between runs") {
			t.Error(err)
		}
	}
}

// TestDeviceIsFreeFirst: a device has to be let go of by one runner before the next
// is started for it.
func TestDeviceIsFreeFirst(t *testing.T) {
	e := bad(t, "shared hang-close")
	old := openOn(t, e, hal.EdgeTPU)
	p := runnerOf(old)
	closed := make(chan error)
	go func() { closed <- old.Close() }()
	for gone := false; !gone; runtime.Gosched() {
		p.mu.Lock()
		gone = p.users == 0
		p.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.Open(ctx, someModel(t), hal.Options{Accelerator: hal.EdgeTPU}); hal.CodeOf(err) != hal.CodeTimeout {
		t.Errorf("while it is held: %v, want %s", err, hal.CodeTimeout)
	}
	if s := openOn(t, e, hal.EdgeTPU); !p.over() || runnerOf(s) == p {
		t.Error("two runners have one device")
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// TestJoinHeedsItsContext: whoever waits for another's runner to start does so no
// longer than asked.
func TestJoinHeedsItsContext(t *testing.T) {
	e := bad(t, "shared")
	at, err := e.place(anyTPU)
	if err != nil {
		t.Fatal(err)
	}
	at.joining <- struct{}{}
	_, err = e.Open(t.Context(), someModel(t), hal.Options{Accelerator: hal.EdgeTPU, OpenTimeout: 10 * time.Millisecond})
	if hal.CodeOf(err) != hal.CodeTimeout {
		t.Error(err)
	}
	if e.open != 0 || e.granted != 0 {
		t.Errorf("%d sessions and %d bytes are counted", e.open, e.granted)
	}
}

// TestDevicesApart: what hangs on one Edge TPU does not keep anybody from another.
func TestDevicesApart(t *testing.T) {
	e := bad(t, "shared")
	at, err := e.place(anyTPU + " usb:0")
	if err != nil {
		t.Fatal(err)
	}
	at.joining <- struct{}{} // one who waits for a driver
	s, err := e.Open(t.Context(), someModel(t), hal.Options{Accelerator: hal.EdgeTPU, Device: "usb:1"})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// TestOpenWaitsForItsTurn and gives up, without harm to who has it.
func TestOpenWaitsForItsTurn(t *testing.T) {
	e := bad(t, "shared")
	s := openOn(t, e, hal.EdgeTPU)
	busy := newShare(1, time.Hour)
	if err := runnerOf(s).turns.take(t.Context(), busy); err != nil {
		t.Fatal(err)
	}
	_, err := e.Open(t.Context(), someModel(t), hal.Options{Accelerator: hal.EdgeTPU, OpenTimeout: 10 * time.Millisecond})
	if hal.CodeOf(err) != hal.CodeTimeout || !strings.Contains(err.Error(), "busy with other models on edgetpu") {
		t.Error(err)
	}
	runnerOf(s).turns.give(busy, 0)
	if _, err := s.Run(0); err != nil {
		t.Errorf("the session that was there: %v", err)
	}
}

// TestFull: a runner takes so many sessions, and a second one cannot have the device.
func TestFull(t *testing.T) {
	e := bad(t, "shared")
	for range proto.MaxSessions {
		openOn(t, e, hal.EdgeTPU)
	}
	if _, err := e.Open(t.Context(), someModel(t), hal.Options{Accelerator: hal.EdgeTPU}); hal.CodeOf(err) != hal.CodeAdmission {
		t.Errorf("one more: %v, want %s", err, hal.CodeAdmission)
	}
}

// TestDyingIsNotJoined: a session that comes to a runner just when another model ends
// it gets the next one.
func TestDyingIsNotJoined(t *testing.T) {
	e := bad(t, "shared")
	old := openOn(t, e, hal.EdgeTPU)
	p := runnerOf(old)
	busy := newShare(1, time.Hour)
	if err := p.turns.take(t.Context(), busy); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	go func() {
		s, err := e.Open(t.Context(), someModel(t), hal.Options{Accelerator: hal.EdgeTPU})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	for waits := false; !waits; runtime.Gosched() {
		p.turns.mu.Lock()
		waits = len(p.turns.waiting) == 1
		p.turns.mu.Unlock()
	}
	if err := unix.Kill(p.child.pid(), unix.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	if err := p.died(old.(*session).id); hal.CodeOf(err) != hal.CodeCrash { // in a run of old's
		t.Fatal(err)
	}
	p.turns.give(busy, 0)
	if err := <-opened; err != nil {
		t.Errorf("the one that came: %v", err)
	}
}

// TestAdmissionOfTwoAtOnce: what is being opened counts.
func TestAdmissionOfTwoAtOnce(t *testing.T) {
	e := bad(t, "hang-open")
	e.free = func() int64 { return reserve + runnerMemory + 1<<20 } // for one
	ctx, cancel := context.WithCancel(t.Context())
	there, first := make(chan struct{}, 1), make(chan error)
	go func() {
		_, err := e.Open(ctx, someModel(t), hal.Options{Step: func(string) { there <- struct{}{} }})
		first <- err
	}()
	<-there
	if _, err := e.Open(t.Context(), someModel(t), hal.Options{OpenTimeout: time.Second}); hal.CodeOf(err) != hal.CodeAdmission {
		t.Errorf("the second: %v, want %s", err, hal.CodeAdmission)
	}
	cancel()
	if err := <-first; hal.CodeOf(err) != hal.CodeTimeout {
		t.Error(err)
	}
	if e.open != 0 || e.granted != 0 {
		t.Errorf("%d sessions and %d bytes are still counted", e.open, e.granted)
	}
}

// TestWeighedAtItsEnd: a model that has run takes more than one that was just opened.
func TestWeighedAtItsEnd(t *testing.T) {
	e := bad(t, "grow")
	s, err := e.Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := e.weighed[s.Info().SHA256]; got < 32<<20 {
		t.Errorf("remembered: %d bytes, %d when it was opened", got, s.Info().Memory)
	}
	for i := range 2 * maxWeighed {
		e.weigh(&sealed{sum: string(rune(i))}, 1)
	}
	if len(e.weighed) > maxWeighed {
		t.Errorf("%d models are remembered", len(e.weighed))
	}
}

// TestEngineTimeIsWithinTheRun: a runner may say what it likes.
func TestEngineTimeIsWithinTheRun(t *testing.T) {
	s, err := bad(t, "boast").Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if timing, err := s.Run(0); err != nil || timing.Engine > time.Minute || timing.Hop < 0 || s.(*session).share.used > time.Minute {
		t.Errorf("%+v, %v, %v used", timing, err, s.(*session).share.used)
	}
}

// TestPipeIsNoModel, and is not waited for.
func TestPipeIsNoModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal(t.Context(), hal.Model{Name: "pipe", Path: path}); hal.CodeOf(err) != hal.CodeModelFormat || !strings.Contains(err.Error(), "is not a file") {
		t.Error(err)
	}
}
