package ladder

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/covey-edge/covey/hal"
)

// A session counts its failures against the accelerator that it runs on.
type session struct {
	hal.Session
	e      *Engine
	m      hal.Model
	o      hal.Options
	choice Choice
	known  *model
	ladder []Choice // that choice is one of

	row  atomic.Int32 // failed runs, one after the other
	gone atomic.Bool  // its loss was counted
}

// Info describes the session; Degraded as of now.
func (s *session) Info() hal.Info {
	i := s.Session.Info()
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	i.Tried = append(i.Tried, s.known.lost...)
	for _, c := range s.above() {
		if r := s.known.rungs[c.Accelerator]; r != nil && r.benched() {
			i.Degraded = r.degraded(c.Accelerator)
			break
		}
	}
	return i
}

// Memory is what the inner session's runner takes now, bytes; 0 where it does not say.
func (s *session) Memory() int64 {
	if m, ok := s.Session.(interface{ Memory() int64 }); ok {
		return m.Memory()
	}
	return 0
}

// above are the rungs that are better than the session's.
func (s *session) above() []Choice {
	for i, c := range s.ladder {
		if c.same(s.choice) {
			return s.ladder[:i]
		}
	}
	return nil
}

// last says whether there is no rung below.
func (s *session) last() bool { return len(s.above()) >= len(s.ladder)-1 }

// Run runs the model. When its accelerator has failed too often, the error wraps
// ErrLost, though the inner session may still be there.
func (s *session) Run(buf int) (hal.Timing, error) {
	t, err := s.Session.Run(buf)
	if err == nil {
		if s.row.Load() != 0 {
			s.row.Store(0)
		}
		return t, nil
	}
	return t, s.failed(err)
}

// failed counts a failure.
func (s *session) failed(err error) error {
	if hal.CodeOf(err) == hal.CodeEngine { // closed, or the agent ends: nobody's fault
		return err
	}
	lost := errors.Is(err, hal.ErrLost)
	row := int(s.row.Add(1))
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	r := s.known.rung(s.choice.Accelerator)
	switch {
	case s.last() || r.benched():
		return err
	case lost && !s.gone.Swap(true):
		r.lose(err, time.Now())
	case !lost && row >= enough:
		r.bench(fmt.Sprintf("%d runs failed one after the other, the last by %v", row, err), time.Now())
		err = errors.Join(err, hal.ErrLost)
	}
	if r.benched() {
		s.e.config.Log.Warn().Str("model", s.m.Name).Str("accelerator", string(s.choice.Accelerator)).Str("reason", r.reason).
			Time("again", r.until).Msg("the model falls back to another accelerator")
	}
	return err
}

// benched is the choice above this session's that is tried again first, and when.
func (s *session) benched() (c Choice, at time.Time, ok bool) {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for _, above := range s.above() {
		if r := s.known.rungs[above.Accelerator]; r != nil && r.benched() && (!ok || r.until.Before(at)) {
			c, at, ok = above, r.until, true
		}
	}
	return c, at, ok
}

// retry opens a benched choice and warms it up; nil when it fails again.
func (s *session) retry(ctx context.Context, c Choice) hal.Session {
	s.e.mu.Lock()
	o := s.known.options(s.o, false)
	s.e.mu.Unlock()
	better, err := s.e.open(ctx, s.m, o, c)
	if err == nil {
		if err = warm(better); err != nil {
			better.Close()
		}
	}
	if ctx.Err() != nil {
		if err == nil {
			better.Close()
		}
		return nil
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	r := s.known.rung(c.Accelerator)
	log := s.e.config.Log.Info().Str("model", s.m.Name).Stringer("choice", c)
	if err != nil {
		r.bench(err.Error(), time.Now())
		log.Err(err).Time("again", r.until).Msg("the better accelerator still fails")
		return nil
	}
	r.back(time.Now())
	log.Msg("the better accelerator works again")
	return &session{Session: better, e: s.e, m: s.m, o: s.o, choice: c, known: s.known, ladder: s.ladder}
}

// warm runs zeros, and forgets them.
func warm(s hal.Session) error {
	for i := range s.Info().Inputs {
		clear(s.Input(0, i))
	}
	for range 2 {
		if _, err := s.Run(0); err != nil {
			return err
		}
	}
	return s.Reset()
}
