package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/ladder"
	"github.com/covey-edge/covey/hal/runner"
)

// Ways to run a model on this machine: what the agent chooses among, and what the
// search tries.
var (
	flags    = map[hal.Accelerator][]map[string]string{hal.XNNPACK: {nil, {"flags": ""}}, hal.CPU: {nil}}
	atOnce   = []int{1, 2}            // threads
	aTurn    = 250 * time.Millisecond // of one way in a round
	calm     = 80 * time.Millisecond  // before it: threads of the one before may still spin
	mostAuto = 3                      // choices of a model: each takes seconds
)

// A way is one way to run a model, and what it took.
type way struct {
	accelerator hal.Accelerator
	threads     int
	settings    map[string]string
	session     hal.Session
	took        []float64 // p50 of each round, microseconds
}

// auto compares what the ladder chooses with the best of a search through all ways,
// each for itself and in turns.
func (b *bench) auto(ctx context.Context) ([]row, error) {
	inner := runner.New(runner.Config{
		Name: "tflite", Program: b.bin + "/covey-runner-tflite", Stage: []string{b.bin + "/covey-agent", "stage"},
	})
	var rows []row
	for _, m := range []struct{ name, path string }{
		{"MobileNet v1", b.mobilenet()},
		{"SSD", b.models + "/ssd/detect.tflite"},
		{"DeepLab v3", b.models + "/segment/deeplabv3_257_mv_gpu.tflite"},
		{"tiny model", b.tiny()},
	} {
		ratio, err := b.autoOf(ctx, inner, m.name, m.path)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", m.name, err)
		}
		rows = append(rows, measured(m.name+": best way by search / what auto chose, time", "ratio", ratio, atLeast(0.97)))
	}
	return rows, nil
}

func (b *bench) autoOf(ctx context.Context, inner hal.Engine, name, path string) (ratio []float64, err error) {
	var chosen []hal.Info
	for n := range min(b.rounds, mostAuto) {
		b.progress("auto "+name, n)
		memory := ladder.Remember(nil, zerolog.Nop()) // each has to find out anew
		e := ladder.New(ladder.Config{Inner: inner, Order: ladder.TFLite, Memory: memory, Settings: flags})
		s, err := e.Open(ctx, hal.Model{Name: name, Path: path}, hal.Options{})
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, s.Info())
		if err := s.Close(); err != nil {
			return nil, err
		}
	}
	ways, err := openWays(ctx, inner, name, path)
	defer func() {
		for _, w := range ways {
			err = errors.Join(err, w.session.Close())
		}
	}()
	if err != nil {
		return nil, err
	}
	for round := range b.rounds {
		b.progress("search "+name, round)
		for _, w := range ways {
			if err := w.turn(); err != nil {
				return nil, err
			}
		}
	}
	best := slices.MinFunc(ways, func(a, b *way) int { return int(a.median() - b.median()) }).median()
	for _, i := range chosen {
		at := slices.IndexFunc(ways, func(w *way) bool {
			return w.accelerator == i.Accelerator && w.threads == i.Threads && maps.Equal(w.settings, i.Settings)
		})
		if at < 0 {
			return nil, fmt.Errorf("auto chose %s with %d threads, which the search does not know", i.Accelerator, i.Threads)
		}
		ratio = append(ratio, best/ways[at].median())
	}
	return ratio, nil
}

// openWays opens a model in every way that takes it. What it returns has to be
// closed, with an error too.
func openWays(ctx context.Context, inner hal.Engine, name, path string) ([]*way, error) {
	var ways []*way
	for accelerator, list := range flags {
		for _, settings := range list {
			for _, threads := range atOnce {
				s, err := inner.Open(ctx, hal.Model{Name: name, Path: path}, hal.Options{Accelerator: accelerator, Threads: threads, Settings: settings})
				if hal.CodeOf(err) == hal.CodeAccel {
					continue // it takes no operator of the model
				}
				if err != nil {
					return ways, err
				}
				ways = append(ways, &way{accelerator: accelerator, threads: threads, settings: settings, session: s})
			}
		}
	}
	if len(ways) == 0 {
		return nil, errors.New("nothing runs it")
	}
	return ways, nil
}

// turn runs a way for a while.
func (w *way) turn() error {
	time.Sleep(calm)
	if _, err := w.session.Run(0); err != nil {
		return err
	}
	var took []float64
	for begin := time.Now(); time.Since(begin) < aTurn || len(took) < 5; {
		t, err := w.session.Run(0)
		if err != nil {
			return err
		}
		took = append(took, us(t.Engine+t.Hop))
	}
	slices.Sort(took)
	w.took = append(w.took, percentile(took, 50))
	return nil
}

// median is over its rounds.
func (w *way) median() float64 { return percentile(slices.Sorted(slices.Values(w.took)), 50) }
