package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A model that could not be taken away still runs, and is opened again when its
// session is lost.
func TestClearIsInterrupted(t *testing.T) {
	l := &loaded{}
	st := &station{pipe: pipeline.New(pipeline.Config{Source: &haltest.FakeSource{}}), now: &l.recipe}
	st.took(l)
	_, using := st.working()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := st.clear(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("cleared: %v", err)
	}
	if now, _ := st.working(); st.now != &l.recipe || now != l || using.Err() != nil {
		t.Errorf("the model is forgotten though it runs: %v, %v", st.now, now)
	}
}

// tight is the fake engine on a board that has room for a few sessions.
type tight struct {
	tflite
	room chan struct{}
}

func (e tight) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	select {
	case e.room <- struct{}{}:
	default:
		return nil, &hal.Error{Code: hal.CodeAdmission, Text: "no room"}
	}
	s, err := e.tflite.Open(ctx, m, o)
	if err != nil {
		<-e.room
		return nil, err
	}
	return &inRoom{Session: s, leave: sync.OnceFunc(func() { <-e.room })}, nil
}

type inRoom struct {
	hal.Session
	leave func()
}

func (s *inRoom) Close() error {
	defer s.leave()
	return s.Session.Close()
}

// Where there is room for one model a pipeline, a release takes the place of what
// runs, and says for how long nothing did; what is no good gives the place back.
func TestColdSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t)
		w.run(ctx)
		e := tight{newEngine(), make(chan struct{}, 2)}
		e.OpenLatency = time.Second
		e.OnOpen = func(_ hal.Model, _ hal.Options, file []byte) error {
			if strings.HasSuffix(string(file), "bad") {
				return &hal.Error{Code: hal.CodeOp, Text: "operator is not known"}
			}
			return nil
		}
		var log logLines
		stop := w.board(ctx, e, zerolog.New(&log))
		var runs wire.Digest
		for rev, c := range []struct {
			model string
			state wire.ExecState
			cold  bool
		}{{"v1", wire.Succeeded, false}, {"v2", wire.Succeeded, true}, {"bad", wire.Rejected, true}, {"v3", wire.Succeeded, true}} {
			r := w.release("birds", fmt.Sprintf("%d.0.0", rev), aPicture(c.model))
			w.desire(uint64(rev+1), r)
			s := w.await(r.Execution)
			if s.State != c.state || (s.GapMS >= 1000) != c.cold || s.GapMS > 10_000 {
				t.Fatalf("%s: %+v", c.model, s)
			}
			if c.state == wire.Succeeded {
				runs = r.Release
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			p := w.reported().Pipelines["fleet"]
			if p.Active == nil || p.Active.Release != runs {
				t.Errorf("%s: reported %+v", c.model, p)
			}
			w.mu.Lock()
			before := len(w.results[w.home.Result("fleet")])
			w.mu.Unlock()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			w.mu.Lock()
			if n := len(w.results[w.home.Result("fleet")]) - before; n < 50 {
				t.Errorf("%s: %d results in 5 s behind it", c.model, n)
			}
			w.mu.Unlock()
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		log.balance(t)
		for _, s := range e.Sessions() {
			if !s.Closed() {
				t.Error("a session is open after the end")
			}
		}
	})
}
