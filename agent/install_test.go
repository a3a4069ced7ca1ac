package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/covey-edge/covey/agent/internal/pipeline"
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
