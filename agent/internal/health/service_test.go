package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pulse"
)

// A word leaves as one datagram, also to a name in the abstract namespace.
func TestSend(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@covey-notify-%d", os.Getpid())} {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := (Notifier{Socket: name}).Send("READY=1", "STATUS=fine"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := conn.Read(b)
		if err != nil || string(b[:n]) != "READY=1\nSTATUS=fine" {
			t.Errorf("%s: got %q, %v", name, b[:n], err)
		}
	}
	if err := (Notifier{Socket: "/nobody/here"}).Send("READY=1"); err == nil {
		t.Error("nobody listens, and no error")
	}
	if err := (Notifier{}).Send("READY=1"); err != nil {
		t.Error(err)
	}
}

func TestManager(t *testing.T) {
	for _, c := range []struct {
		socket, pid, usec string
		want              time.Duration
	}{
		{"/run/notify", "", "30000000", 30 * time.Second},
		{"/run/notify", "7", "30000000", 30 * time.Second},
		{"/run/notify", "8", "30000000", 0}, // another process's
		{"", "", "30000000", 0},             // nobody to speak to
		{"/run/notify", "", "", 0}, {"/run/notify", "", "0", 0}, {"/run/notify", "", "-5", 0}, {"/run/notify", "", "1e6", 0},
		{"/run/notify", "", "99999999999999999999", 0}, {"/run/notify", "", "9223372036854775807", 0},
	} {
		env := map[string]string{"NOTIFY_SOCKET": c.socket, "WATCHDOG_PID": c.pid, "WATCHDOG_USEC": c.usec}
		if n, d := Manager(func(k string) string { return env[k] }, 7); n.Socket != c.socket || d != c.want {
			t.Errorf("%+v: got %q, %v", c, n.Socket, d)
		}
	}
}

func TestStatusIsOneShortLine(t *testing.T) {
	if s := status("a\nREADY=1\x7f"); s != "STATUS=a READY=1 " {
		t.Errorf("got %q", s)
	}
	if s := status(strings.Repeat("ä", maxStatus)); len(s) > maxStatus+20 || !strings.HasSuffix(s, "ä…") {
		t.Errorf("got %d bytes, %q", len(s), s[len(s)-8:])
	}
}

// heard is what a manager heard.
type heard struct {
	mu   sync.Mutex
	list []string
	at   []time.Time
	err  error
}

func (h *heard) send(assignments ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list, h.at = append(h.list, strings.Join(assignments, " ")), append(h.at, time.Now())
	return h.err
}

// of is what begins so.
func (h *heard) of(begin string) (list []string, at []time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, l := range h.list {
		if strings.HasPrefix(l, begin) {
			list, at = append(list, l), append(at, h.at[i])
		}
	}
	return list, at
}

// lines are what a service logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(b) }
func (l *lines) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// served runs a service in a bubble.
func served(t *testing.T, watchdog time.Duration, do func(t *testing.T, s *Service, h *heard, log *lines)) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		h := &heard{}
		s := &Service{Send: h.send, Watchdog: watchdog, Loops: &pulse.Board{Promise: PromiseFor(watchdog)}, Log: zerolog.New(&log)}
		s.Start()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx) }()
		do(t, s, h, &log)
		cancel()
		<-done
	})
}

// A service is up when all is settled, and at the latest after a minute: then it says
// what does not work. Until then the manager is told to wait.
func TestReady(t *testing.T) {
	served(t, 30*time.Second, func(t *testing.T, s *Service, h *heard, _ *lines) {
		time.Sleep(10 * time.Second)
		s.Stand(false, "1 pipeline, 0.0 fps")
		if l, _ := h.of("READY"); l != nil {
			t.Errorf("not settled, and %v", l)
		}
		s.Stand(true, "1 pipeline, 5.0 fps")
		if l, _ := h.of("READY"); len(l) != 1 || l[0] != "READY=1 STATUS=1 pipeline, 5.0 fps" {
			t.Errorf("settled: %v", l)
		}
		time.Sleep(time.Minute)
		if l, _ := h.of("READY"); len(l) != 1 {
			t.Errorf("a minute later: %v", l)
		}
	})
	served(t, 30*time.Second, func(t *testing.T, s *Service, h *heard, _ *lines) {
		begin := time.Now()
		s.Stand(false, "porch: opening")
		time.Sleep(2 * time.Minute)
		l, at := h.of("READY")
		if len(l) != 1 || !strings.Contains(l[0], "porch") || at[0].Sub(begin) < ReadyTime || at[0].Sub(begin) > ReadyTime+5*time.Second {
			t.Errorf("never settled: %v after %v", l, at[0].Sub(begin))
		}
		lines, _ := h.of("STATUS")
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "EXTEND_TIMEOUT_USEC=30000000") }) {
			t.Errorf("nothing told the manager to wait: %v", lines)
		}
	})
}

// A line is said when it is another one, and not more often than every five seconds.
func TestStatusIsRare(t *testing.T) {
	served(t, 0, func(t *testing.T, s *Service, h *heard, _ *lines) {
		for n := range 600 {
			s.Stand(true, fmt.Sprintf("line %d", n))
			time.Sleep(100 * time.Millisecond)
		}
		if l, _ := h.of("STATUS"); len(l) < 5 || len(l) > 14 {
			t.Errorf("%d lines in a minute", len(l))
		}
		if l, _ := h.of("WATCHDOG"); l != nil {
			t.Errorf("without a watchdog: %v", l)
		}
	})
}

func TestReload(t *testing.T) {
	served(t, 0, func(t *testing.T, s *Service, h *heard, _ *lines) {
		s.Stand(true, "fine")
		s.Reload()
		s.Refuse(errors.New("agent.yaml:3 \"fsp\" unknown\nagent.yaml:4 too"))
		all, _ := h.of("")
		if last := all[len(all)-2:]; !strings.HasPrefix(last[0], "RELOADING=1 MONOTONIC_USEC=") || last[1] != `READY=1 STATUS=configuration refused (agent.yaml:3 "fsp" unknown), what ran goes on; fine` {
			t.Errorf("refused: %v", last)
		}
		s.Reload()
		s.Start()
		s.Stand(true, "as fine")
		all, _ = h.of("")
		if last := all[len(all)-1]; last != "READY=1 STATUS=as fine" {
			t.Errorf("taken: %v", last)
		}
		s.Stop(nil)
		all, _ = h.of("")
		s.Stand(false, "not any more")
		if more, _ := h.of(""); len(more) != len(all) || all[len(all)-1] != "STOPPING=1 STATUS=ends" {
			t.Errorf("stopped: %v", more[len(all)-1:])
		}
	})
}

// The watchdog is fed while all loops keep their promise. One that does not is named, its
// stack is shown, and only then the manager is told to act, within the watchdog's time.
func TestWatchdog(t *testing.T) {
	served(t, 30*time.Second, func(t *testing.T, s *Service, h *heard, log *lines) {
		good, bad := s.Loops.Loop("good"), s.Loops.Loop("bad")
		defer good.End()
		defer bad.End()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go good.Sleep(ctx.Done(), time.Hour)
		begin := time.Now()
		for range 60 {
			bad.Beat()
			time.Sleep(10 * time.Second)
		}
		fed, _ := h.of("WATCHDOG=1")
		if len(fed) < 110 || strings.Contains(log.String(), "hangs") {
			t.Errorf("fed %d times in %v: %s", len(fed), time.Since(begin), log)
		}
		bad.Do("writes", time.Second)
		hung := time.Now()
		time.Sleep(30 * time.Second)
		_, at := h.of("WATCHDOG=1")
		if last := at[len(at)-1].Sub(hung); last > 6*time.Second {
			t.Errorf("still fed after %v", last)
		}
		triggered, at := h.of("WATCHDOG=trigger")
		if len(triggered) == 0 || at[0].Sub(hung) > 15*time.Second || !strings.Contains(triggered[0], "STATUS=hangs: bad") {
			t.Errorf("triggered %v", triggered)
		}
		text := log.String()
		if strings.Count(text, `"loop":"bad"`) != 1 || !strings.Contains(text, `"doing":"writes"`) || strings.Contains(text, `"loop":"good"`) {
			t.Errorf("the log says %s", text)
		}
		if !strings.Contains(text, "pulse.(*Loop).Sleep") || strings.Count(text, "goroutine 1 [") > 1 {
			t.Errorf("the stacks are not in the log, or twice: %s", text)
		}
		bad.Beat()
		time.Sleep(6 * time.Second)
		if again, _ := h.of("WATCHDOG=1"); len(again) == len(at) || !strings.Contains(log.String(), "go on again") {
			t.Error("it goes on, and is not fed")
		}
	})
}

// A manager that does not listen is said once.
func TestUnheard(t *testing.T) {
	served(t, 30*time.Second, func(t *testing.T, s *Service, h *heard, log *lines) {
		h.mu.Lock()
		h.err = errors.New("gone")
		h.mu.Unlock()
		time.Sleep(time.Minute)
		if n := strings.Count(log.String(), "does not hear"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}
