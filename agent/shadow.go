package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/agent/internal/agreement"
	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
)

// vitals are how the model at work in a pipeline does.
func (s stations) vitals(name string) update.Vitals {
	st := s[name]
	if st == nil { // a configuration
		return update.Vitals{}
	}
	l, _ := st.working()
	if l == nil {
		return update.Vitals{}
	}
	i := l.Info()
	return update.Vitals{Accelerator: i.Accelerator, Degraded: i.Degraded, Memory: l.memory()}
}

// Shadow lets an open release answer frames beside the one that runs. Where frames
// differ they are counted, and never kept.
func (s stations) Shadow(ctx context.Context, name string, w update.Warm, run wire.ShadowRun) (wire.Agreement, error) {
	st, other := s[name], w.(*loaded) // Prepare made it
	now, _ := st.working()
	if err := comparable(now, other); err != nil {
		return wire.Agreement{}, err
	}
	timed, cancel := context.WithTimeout(ctx, time.Duration(run.Seconds)*time.Second)
	defer cancel()
	var tally agreement.Tally
	err := st.pipe.Shadow(timed, other.Model, run.Every, func(a, b *task.Result) (bool, error) {
		err := tally.Add(a, b)
		return tally.Frames() < run.Frames, err
	})
	switch {
	case ctx.Err() != nil:
		return wire.Agreement{}, ctx.Err()
	case errors.Is(err, pipeline.ErrEnded):
		return wire.Agreement{}, ended(name, err)
	case err != nil && timed.Err() == nil:
		return wire.Agreement{}, err
	}
	return tally.Sum(), other.Session.Reset() // what it saw so far is not what it will see
}

// comparable says why answers of two models cannot be held against each other: that
// they name other things, or see other parts of what a sensor says.
func comparable(now, other *loaded) error {
	cannot := func(why string) error {
		return &hal.Error{Code: hal.CodeAgreement, Text: why + ": they cannot be compared, order it without a shadow run"}
	}
	switch {
	case now == nil:
		return cannot("nothing runs that the release could be held against")
	case !slices.Equal(known(now.labels), known(other.labels)):
		return cannot(fmt.Sprintf("what runs has %d labels and the release %d, and they are not the same", len(known(now.labels)), len(known(other.labels))))
	case samplesOf(now) != samplesOf(other):
		return cannot(fmt.Sprintf("what runs takes windows of %d samples and the release of %d", samplesOf(now), samplesOf(other)))
	}
	return nil
}

// known are the labels of things, in order of the alphabet; that a model counts a
// class for the background makes no other model of it.
func known(labels []string) []string {
	list := slices.Clone(labels)
	slices.Sort(list)
	list = slices.Compact(list)
	return slices.DeleteFunc(list, func(l string) bool { return l == "" || l == "background" || l == "???" })
}

func samplesOf(l *loaded) int {
	if w, ok := l.Filler.(pipeline.Wanter); ok {
		return w.Want().Samples
	}
	return 0
}
