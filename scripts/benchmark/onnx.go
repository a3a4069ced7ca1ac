package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner"
)

// onnxLoops are the programs beside which ONNX Runtime is measured.
type onnxLoops struct {
	program string // in C
	library string // ONNX Runtime, the same file that the runner uses
	python  string // folder of Python's onnxruntime; "": not measured
}

// invokeONNX compares what ONNX Runtime takes inside the runner with a C loop on
// the same library, and a whole run with the loop that people write in Python.
func (b *bench) invokeONNX(ctx context.Context) ([]row, error) {
	var rows []row
	for _, m := range []struct {
		name, path string
		frames     int
		aim        goal
	}{
		{"SqueezeNet (ONNX)", "light_squeezenet.onnx", 60, atMost(1.02)},
		// Of 2 µs: what is seen is the wake-up of the process.
		{"one convolution (ONNX)", "pytorch-converted/test_Conv2d/model.onnx", 4000, noGoal},
	} {
		var ratio, peer, hop, wall []float64
		path := b.models + "/onnx/" + m.path
		threads, frames := strconv.Itoa(b.bare.threads), strconv.Itoa(m.frames)
		for round := range b.rounds {
			b.progress("invoke "+m.name, round)
			c, err := p50(exec.CommandContext(ctx, b.onnx.program, b.onnx.library, path, threads, frames))
			if err != nil {
				return rows, err
			}
			t, err := b.inONNXRunner(ctx, path, m.frames)
			if err != nil {
				return rows, err
			}
			ratio, hop, wall = append(ratio, t.engine/c), append(hop, t.hop), append(wall, t.engine)
			if b.onnx.python == "" {
				continue
			}
			python := exec.CommandContext(ctx, "python3", "scripts/benchmark/bare/onnx_loop.py", path, threads, frames)
			python.Env = append(os.Environ(), "PYTHONPATH="+b.onnx.python)
			p, err := p50(python)
			if err != nil {
				return rows, err
			}
			peer = append(peer, (t.engine+t.hop)/p)
		}
		rows = append(rows,
			measured(m.name+": invoke p50, runner / C API loop", "ratio", ratio, m.aim),
			measured(m.name+": run with its hop p50, Covey / Python loop", "ratio", peer, noGoal),
			measured(m.name+": invoke p50 in the runner", "us", wall, noGoal),
			measured(m.name+": hop p50", "us", hop, noGoal))
	}
	return rows, nil
}

// p50 is what a loop prints of itself, microseconds.
func p50(loop *exec.Cmd) (float64, error) {
	var said strings.Builder
	loop.Stderr = &said
	out, err := loop.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", loop.Path, err, said.String())
	}
	var r struct {
		P50 float64 `json:"invoke_p50_us"`
	}
	if err := json.Unmarshal(out, &r); err != nil || r.P50 <= 0 {
		return 0, fmt.Errorf("%s printed %q: %w", loop.Path, out, err)
	}
	return r.P50, nil
}

// inONNXRunner opens a model in a runner of its own and runs it on 0.5 everywhere.
func (b *bench) inONNXRunner(ctx context.Context, model string, frames int) (timing, error) {
	e := runner.New(runner.Config{
		Name: "onnx", Program: b.bin + "/covey-runner-onnx",
		Stage: []string{b.bin + "/covey-agent", "stage"},
	})
	s, err := e.Open(ctx, hal.Model{Name: "bench", Path: model}, hal.Options{Accelerator: hal.CPU, Threads: b.bare.threads})
	if err != nil {
		return timing{}, err
	}
	defer s.Close()
	for n := range s.Info().Inputs {
		in := s.Input(0, n)
		for i := 0; i < len(in); i += 4 {
			binary.LittleEndian.PutUint32(in[i:], math.Float32bits(0.5))
		}
	}
	return timed(s, frames)
}
