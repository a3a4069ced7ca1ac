package update_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// run is how a model whose text begins with word runs: "slow", "unsure" and "blind"
// do what they are called.
func run(word string, err error) update.Run {
	r := update.Run{Engine: 10 * time.Millisecond, Score: 0.9, Scored: true, Err: err}
	switch word {
	case "slow":
		r.Engine *= 2
	case "unsure":
		r.Score = 0.3
	case "blind":
		r.Score, r.Scored = 0, false
	}
	return r
}

// Shadow agrees as far as the candidate's first word says: "shadow:70" on 70 of 100
// frames, "shadow:E_CRASH" not at all.
func (b *board) Shadow(ctx context.Context, pipeline string, w update.Warm, s wire.ShadowRun) (wire.Agreement, error) {
	c := w.(*warm)
	b.mu.Lock()
	if b.running[pipeline] == nil || b.running[pipeline] == c || c.closed {
		b.bad = append(b.bad, "a shadow run of what runs, or beside nothing")
	}
	b.mu.Unlock()
	select {
	case <-time.After(time.Duration(s.Frames) * 100 * time.Millisecond):
	case <-ctx.Done():
		return wire.Agreement{}, ctx.Err()
	}
	a := wire.Agreement{Metric: "top1", Frames: s.Frames, Agreed: s.Frames, Mean: 1}
	word, _, _ := strings.Cut(c.text, " ")
	switch word {
	case "shadow:E_CRASH", "shadow:E_AGREEMENT", "shadow:E_ENGINE":
		return wire.Agreement{}, &hal.Error{Code: hal.Code(strings.TrimPrefix(word, "shadow:")), Text: "the shadow says no"}
	case "shadow:half":
		a.Agreed, a.Mean = s.Frames/2, 0.5
	case "shadow:few":
		a.Frames, a.Agreed = 3, 3
	}
	return a, nil
}

// end waits for the end of an execution, and returns its last step.
func (s *session) end(rev uint64, w wire.DesiredRelease) wire.ExecStep {
	s.t.Helper()
	if err := s.desire(rev, map[string]wire.DesiredRelease{pipe: w}); err != nil {
		s.t.Fatal(err)
	}
	if !s.tick(time.Hour, s.settled(w.Execution)) {
		s.t.Fatalf("not settled: %+v", s.pipeline(pipe).Exec)
	}
	return s.last(w.Execution)
}

// last is the last step of an execution.
func (s *session) last(execution string) (last wire.ExecStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		if st.Execution == execution {
			last = st
		}
	}
	return last
}

// A candidate in shadow never runs for anybody; how it agrees decides, where a
// limit is set, and is told in any case.
func TestShadow(t *testing.T) {
	for name, c := range map[string]struct {
		model      string
		limit      int
		state      wire.ExecState
		code       hal.Code
		quarantine bool
		evidence   *wire.Agreement
	}{
		"agrees":            {"good 2", 80, wire.Succeeded, "", false, &wire.Agreement{Metric: "top1", Frames: 20, Agreed: 20, Mean: 1}},
		"half":              {"shadow:half 2", 80, wire.Rejected, hal.CodeAgreement, false, &wire.Agreement{Metric: "top1", Frames: 20, Agreed: 10, Mean: 0.5}},
		"half is enough":    {"shadow:half 2", 50, wire.Succeeded, "", false, &wire.Agreement{Metric: "top1", Frames: 20, Agreed: 10, Mean: 0.5}},
		"nobody asks":       {"shadow:half 2", 0, wire.Succeeded, "", false, &wire.Agreement{Metric: "top1", Frames: 20, Agreed: 10, Mean: 0.5}},
		"few":               {"shadow:few 2", 80, wire.Failed, hal.CodeAgreement, false, &wire.Agreement{Metric: "top1", Frames: 3, Agreed: 3, Mean: 1}},
		"few, nobody asks":  {"shadow:few 2", 0, wire.Succeeded, "", false, &wire.Agreement{Metric: "top1", Frames: 3, Agreed: 3, Mean: 1}},
		"crash":             {"shadow:E_CRASH 2", 80, wire.Rejected, hal.CodeCrash, true, nil},
		"crash, none asks":  {"shadow:E_CRASH 2", 0, wire.Rejected, hal.CodeCrash, true, nil},
		"no engine":         {"shadow:E_ENGINE 2", 0, wire.Failed, hal.CodeEngine, false, nil},
		"other":             {"shadow:E_AGREEMENT 2", 1, wire.Rejected, hal.CodeAgreement, false, &wire.Agreement{Metric: "none"}},
		"other, nobody ask": {"shadow:E_AGREEMENT 2", 0, wire.Succeeded, "", false, &wire.Agreement{Metric: "none"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctrl := newController()
			b := newBoard(t, crashfs.New(), ctrl)
			first, next := ctrl.release("good 1"), ctrl.release(c.model)
			first.Shadow = &wire.ShadowRun{Frames: 20, Agreement: 80}
			next.Shadow = &wire.ShadowRun{Frames: 20, Agreement: c.limit}
			b.lives(func(s *session) {
				// Where nothing runs there is nothing to agree with.
				if e := s.end(1, first); e.State != wire.Succeeded || e.Evidence == nil || e.Evidence.Shadow == nil || *e.Evidence.Shadow != (wire.Agreement{Metric: "none"}) {
					t.Fatalf("the first release: %+v", e)
				}
				e := s.end(2, next)
				if e.State != c.state || (e.Fault == nil) != (c.code == "") || e.Fault != nil && e.Fault.Code != string(c.code) {
					t.Fatalf("got %s %+v, want %s %s", e.State, e.Fault, c.state, c.code)
				}
				if !strings.Contains(states(b.steps, next.Execution), "SELF_TESTING SHADOWING ") {
					t.Errorf("states: %s", states(b.steps, next.Execution))
				}
				if c.state != wire.Succeeded && (s.runs(pipe) != first.Release || strings.Contains(states(b.steps, next.Execution), "SWITCHING")) {
					t.Errorf("%s runs after %s", s.runs(pipe).Short(), states(b.steps, next.Execution))
				}
				if _, q := s.state.State().Quarantined(next.Release, 1); q != c.quarantine {
					t.Errorf("quarantined: %t", q)
				}
				var got *wire.Agreement
				if e.Evidence != nil {
					got = e.Evidence.Shadow
				}
				if (got == nil) != (c.evidence == nil) || got != nil && *got != *c.evidence {
					t.Errorf("evidence %+v, want %+v", got, c.evidence)
				}
				if r := s.loop.Reported().Pipelines[pipe].Evidence; e.Evidence != nil && (r == nil || r.Shadow == nil || *r.Shadow != *c.evidence) {
					t.Errorf("reported %+v", r)
				}
				if err := e.Validate(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A wish that changes ends a shadow run at once, and so does a restart, after which
// it begins anew.
func TestShadowIsInterrupted(t *testing.T) {
	ctrl := newController()
	b := newBoard(t, crashfs.New(), ctrl)
	v1, v2, v3 := ctrl.release("good 1"), ctrl.release("good 2"), ctrl.release("good 3")
	v2.Shadow = &wire.ShadowRun{Frames: 36_000}
	in := func(s *session) func() bool {
		return func() bool { return s.pipeline(pipe).Exec.State == wire.Shadowing }
	}
	b.lives(func(s *session) {
		s.bring(1, v1)
		_ = s.desire(2, map[string]wire.DesiredRelease{pipe: v2})
		if !s.tick(time.Minute, in(s)) {
			t.Fatalf("%+v", s.pipeline(pipe).Exec)
		}
	})
	b.lives(func(s *session) {
		_ = s.desire(2, map[string]wire.DesiredRelease{pipe: v2})
		s.tick(10*time.Second, func() bool { return false })
		if !in(s)() || s.runs(pipe) != v1.Release {
			t.Fatalf("after a restart: %+v, %s runs", s.pipeline(pipe).Exec, s.runs(pipe).Short())
		}
		begin := time.Now()
		s.bring(3, v3)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		if got := states(b.steps, v2.Execution); !strings.HasSuffix(got, "SUPERSEDED") {
			t.Error(got)
		}
	})
}

// A release that does worse than the one before goes back within seconds, with the
// figures; without limits nobody minds.
func TestProbationByEvidence(t *testing.T) {
	limits := &wire.ProbationLimits{Slower: 150, Score: 50}
	for name, c := range map[string]struct {
		model  string
		limits *wire.ProbationLimits
		state  wire.ExecState
		code   hal.Code
	}{
		"as good":          {"good 2", limits, wire.Succeeded, ""},
		"slow":             {"slow 2", limits, wire.RolledBack, hal.CodeSlow},
		"unsure":           {"unsure 2", limits, wire.RolledBack, hal.CodeScore},
		"blind":            {"blind 2", limits, wire.RolledBack, hal.CodeScore},
		"slow, none minds": {"slow 2", nil, wire.Succeeded, ""},
		"too slow":         {"good 2", &wire.ProbationLimits{Latency: 9}, wire.RolledBack, hal.CodeSlow},
	} {
		t.Run(name, func(t *testing.T) {
			ctrl := newController()
			b := newBoard(t, crashfs.New(), ctrl)
			first, next := ctrl.release("good 1"), ctrl.release(c.model)
			next.Probation = c.limits
			b.lives(func(s *session) {
				s.bring(1, first)
				begin := time.Now()
				e := s.end(2, next)
				if e.State != c.state || (e.Fault == nil) != (c.code == "") || e.Fault != nil && e.Fault.Code != string(c.code) {
					t.Fatalf("got %s %+v, want %s %s", e.State, e.Fault, c.state, c.code)
				}
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("it took %s", took)
				}
				v := e.Evidence
				if v == nil || v.Model != digest([]byte(c.model)) || v.Before == nil || v.Before.P50 != 10 || v.Before.Score != 0.9 || v.Trial == nil || v.Trial.Runs < 9 {
					t.Fatalf("evidence %+v", v)
				}
				if c.state == wire.RolledBack {
					if _, q := s.state.State().Quarantined(next.Release, 1); !q || s.runs(pipe) != first.Release {
						t.Errorf("quarantined %t, %s runs", q, s.runs(pipe).Short())
					}
				}
				if err := e.Validate(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What ran before is known after a restart in the middle of a probation.
func TestEvidenceSurvivesARestart(t *testing.T) {
	ctrl := newController()
	b := newBoard(t, crashfs.New(), ctrl)
	first, next := ctrl.release("good 1"), ctrl.release("slow 2")
	next.Probation = &wire.ProbationLimits{Slower: 150}
	b.lives(func(s *session) {
		s.bring(1, first)
		_ = s.desire(2, map[string]wire.DesiredRelease{pipe: next})
		if !s.tick(time.Minute, func() bool { return s.pipeline(pipe).Exec.State == wire.Probation }) {
			t.Fatalf("%+v", s.pipeline(pipe).Exec)
		}
	})
	b.lives(func(s *session) {
		e := s.end(2, next)
		if e.State != wire.RolledBack || e.Fault.Code != string(hal.CodeSlow) || e.Evidence.Before == nil || e.Evidence.Before.P50 != 10 || e.Evidence.Trial.P50 != 20 {
			t.Errorf("got %s %+v, evidence %+v", e.State, e.Fault, e.Evidence)
		}
	})
}
