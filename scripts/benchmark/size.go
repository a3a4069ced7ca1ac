package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// size builds the agent as it goes onto a board, and lets the pipeline's own
// benchmark count the allocations of a frame.
func (b *bench) size(ctx context.Context) ([]row, error) {
	var rows []row
	out := b.work + "/covey-agent-arm64"
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./agent/cmd/covey-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if text, err := build.CombinedOutput(); err != nil {
		return rows, fmt.Errorf("build the agent for arm64: %v: %s", err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		return rows, err
	}
	rows = append(rows, measured("agent binary, arm64, stripped", "MB", []float64{float64(info.Size()) / 1e6}, atMost(12)))

	text, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkFrame$", "-count", strconv.Itoa(b.rounds),
		"-benchtime", "20000x", "-benchmem", "./agent/internal/pipeline").CombinedOutput()
	if err != nil {
		return rows, fmt.Errorf("benchmark of the pipeline: %v: %s", err, text)
	}
	return append(rows, measured("allocations per frame, pipeline", "allocs", allocations(text), atMost(0))), nil
}

var allocs = regexp.MustCompile(`(?m)\s(\d+) allocs/op$`)

// allocations reads the figures of go test -benchmem.
func allocations(text []byte) (counts []float64) {
	for _, m := range allocs.FindAllSubmatch(text, -1) {
		if n, err := strconv.ParseFloat(string(m[1]), 64); err == nil {
			counts = append(counts, n)
		}
	}
	return counts
}
