package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner"
)

// invoke compares what the engine takes inside the runner with what it takes in
// the C program, on a fixed input, and shows the hop beside it.
func (b *bench) invoke(ctx context.Context) ([]row, error) {
	var rows []row
	for _, m := range []struct {
		name, path string
		frames     int
	}{{"MobileNet v1", b.mobilenet(), 60}, {"tiny model", b.tiny(), 4000}} {
		var ratio, ratioWoken, hop, hopWoken, wall []float64
		for round := range b.rounds {
			b.progress("invoke "+m.name, round)
			c, err := b.bare.run(ctx, m.path, m.frames, pattern)
			if err != nil {
				return rows, err
			}
			t, err := b.inRunner(ctx, m.path, m.frames)
			if err != nil {
				return rows, err
			}
			w, err := b.bare.run(ctx, m.path, m.frames, woken)
			if err != nil {
				return rows, err
			}
			ratio = append(ratio, t.engine/c.P50)
			ratioWoken = append(ratioWoken, t.engine/w.P50)
			hop = append(hop, t.hop)
			hopWoken = append(hopWoken, t.hop/w.Wake)
			wall = append(wall, t.engine)
		}
		rows = append(rows,
			measured(m.name+": invoke p50, runner / C", "ratio", ratio, atMost(1.01)),
			measured(m.name+": invoke p50, runner / C woken for each frame", "ratio", ratioWoken, noGoal),
			measured(m.name+": invoke p50 in the runner", "us", wall, noGoal),
			measured(m.name+": hop p50", "us", hop, atMost(40)),
			measured(m.name+": hop p50 / a byte to another C process and back", "ratio", hopWoken, noGoal))
	}
	return rows, nil
}

// timing of a run, p50, microseconds.
type timing struct{ engine, hop float64 }

// inRunner opens a model in a runner of its own and runs it on a fixed pattern.
func (b *bench) inRunner(ctx context.Context, model string, frames int) (timing, error) {
	e := runner.New(runner.Config{
		Name: "tflite", Program: b.bin + "/covey-runner-tflite",
		Stage: []string{b.bin + "/covey-agent", "stage"},
	})
	s, err := e.Open(ctx, hal.Model{Name: "bench", Path: model}, hal.Options{Threads: b.bare.threads})
	if err != nil {
		return timing{}, err
	}
	defer s.Close()
	in := s.Input(0, 0)
	for i := range in {
		in[i] = byte(i * 31)
	}
	return timed(s, frames)
}

// timed runs a session so many times on what is in its input. The first run is not
// counted: it pays for what is made once, as in the C programs.
func timed(s hal.Session, frames int) (timing, error) {
	engine, hop := make([]float64, 0, frames), make([]float64, 0, frames)
	for i := -1; i < frames; i++ {
		t, err := s.Run(0)
		if err != nil {
			return timing{}, fmt.Errorf("run %d: %w", i, err)
		}
		if i >= 0 {
			engine, hop = append(engine, us(t.Engine)), append(hop, us(t.Hop))
		}
	}
	slices.Sort(engine)
	slices.Sort(hop)
	return timing{percentile(engine, 50), percentile(hop, 50)}, nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
