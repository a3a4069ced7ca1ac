package health

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pulse"
)

// ReadyTime is how long a service may take to say that it is up. What does not work by
// then is degraded, and said to be.
const ReadyTime = 60 * time.Second

const (
	checks    = 6                // in the watchdog's time, see Service.Run
	checkTime = 5 * time.Second  // without one
	extension = 30 * time.Second // that a start may take from now on, while it gets on
	maxStacks = 256 << 10        // bytes of all goroutines' stacks
	saidTime  = 5 * time.Second  // between two lines for people, unless one is news
)

// A Service tells the service manager how this program is, and feeds its watchdog for as
// long as every loop on the board keeps its promise. Start, Stand, Refuse and Stop may be
// called from any goroutine.
type Service struct {
	Send     func(assignments ...string) error
	Watchdog time.Duration // $WATCHDOG_USEC; 0: loops that are late are logged, no more
	Loops    *pulse.Board
	Log      zerolog.Logger

	mu       sync.Mutex
	starting time.Time // since when; zero: it is up
	settled  bool      // nothing is left to wait for
	text     string    // for people
	note     string    // goes before text until the next start; "": nothing
	sent     string    // the last line
	sentAt   time.Time
	stopping bool

	late     map[string]bool // loops that were said to be
	hungry   int             // checks in a row that were not passed
	recorded bool            // the stacks are in the log
	unheard  bool            // the manager does not listen, and that was said
}

// PromiseFor is how long a loop may be at one thing for a watchdog with this time: a
// loop that hangs has then been named, and the watchdog told, before the watchdog would
// bite by itself.
func PromiseFor(watchdog time.Duration) time.Duration {
	if watchdog <= 0 {
		return pulse.Promise
	}
	return watchdog / 2
}

// Run speaks until ctx ends. Six times in the watchdog's time it looks at the loops: at
// half of that time one that hangs is late, a sixth later at the most it is named in the
// log, with the stacks of all goroutines, and another sixth later the manager is told to
// end this program.
func (s *Service) Run(ctx context.Context) {
	every := checkTime
	if s.Watchdog > 0 {
		every = s.Watchdog / checks
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		s.mu.Lock()
		s.check()
		s.say()
		s.mu.Unlock()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// check feeds the watchdog, or says who is late. mu is held.
func (s *Service) check() {
	late := s.Loops.Late()
	if len(late) == 0 {
		if len(s.late) > 0 {
			s.Log.Info().Msg("all loops go on again")
		}
		s.late, s.hungry = nil, 0
		if s.Watchdog > 0 {
			s.send("WATCHDOG=1")
		}
		return
	}
	s.hungry++
	before := s.late
	s.late = map[string]bool{}
	for _, l := range late {
		s.late[l.Loop] = true
		if !before[l.Loop] {
			s.Log.Error().Str("loop", l.Loop).Str("doing", cmp.Or(l.Doing, "nothing that may take so long")).Dur("silent", l.For).Msg("loop hangs")
		}
	}
	if !s.recorded {
		s.recorded = true
		s.stacks()
	}
	if s.Watchdog > 0 && s.hungry > 1 && !s.stopping { // who ends has another limit
		s.send("WATCHDOG=trigger", status("hangs: "+strings.Join(names(late), ", ")))
	}
}

func names(late []pulse.Late) []string {
	var names []string
	for _, l := range late {
		names = append(names, l.Loop)
	}
	return names
}

// stacks writes what every goroutine is at into the log, a goroutine a line.
func (s *Service) stacks() {
	b := make([]byte, maxStacks)
	b = b[:runtime.Stack(b, true)]
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		s.Log.Error().Str("stack", stack).Msg("goroutine")
	}
}

// Start says that it starts, from now on: at the beginning, and again for another
// configuration. Nothing stands until the next Stand.
func (s *Service) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting, s.settled, s.text, s.note = time.Now(), false, "starts", ""
	s.say()
}

// Stand says how it stands: settled once there is nothing left to wait for, be it
// because of something that is degraded, which text then says.
func (s *Service) Stand(settled bool, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled, s.text = settled, text
	s.say()
}

// Reload says that the configuration is read again; Start or Refuse follows.
func (s *Service) Reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonic()/1000), status("reads its configuration"))
	s.sent = ""
}

// Refuse says that another configuration was not taken, and why; what ran goes on.
func (s *Service) Refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line, _, _ := strings.Cut(err.Error(), "\n")
	s.note = "configuration refused (" + line + "), what ran goes on"
	if s.starting.IsZero() {
		s.send("READY=1", s.line())
	} else {
		s.say() // ready when it is
	}
}

// Up says whether it has started.
func (s *Service) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starting.IsZero()
}

// Stop says that it ends; err is why, nil when it was asked to.
func (s *Service) Stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	text := "ends"
	if err != nil {
		text, _, _ = strings.Cut(err.Error(), "\n")
	}
	s.send("STOPPING=1", status(text))
}

// say says what has changed. mu is held.
func (s *Service) say() {
	if s.stopping {
		return
	}
	line := s.line()
	if s.starting.IsZero() {
		if line != s.sent && time.Since(s.sentAt) >= saidTime {
			s.send(line)
		}
		return
	}
	if !s.settled && time.Since(s.starting) < ReadyTime {
		s.send(line, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
		return
	}
	s.starting = time.Time{}
	s.send("READY=1", line)
	s.Log.Info().Bool("settled", s.settled).Str("status", s.text).Msg("service is up")
}

func (s *Service) line() string {
	if s.note != "" {
		return status(s.note + "; " + s.text)
	}
	return status(s.text)
}

// send sends to the manager. One that does not listen is said once.
func (s *Service) send(assignments ...string) {
	for _, a := range assignments {
		if strings.HasPrefix(a, "STATUS=") {
			s.sent, s.sentAt = a, time.Now()
		}
	}
	if s.Send == nil {
		return
	}
	if err := s.Send(assignments...); err != nil && !s.unheard {
		s.unheard = true
		s.Log.Error().Err(err).Msg("the service manager does not hear this")
	}
}
