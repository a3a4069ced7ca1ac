package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A bare is the C program beside which everything is measured.
type bare struct {
	program string
	threads int
}

// What a bare loop is fed with, its arguments behind the number of frames.
type feed []string

var (
	pattern feed            // a fixed one, written once
	woken   = feed{"woken"} // the same, and another process wakes the loop for each frame
)

// picture is raw YUV 4:2:0 in a file, scaled into the tensor for each frame.
func picture(path string, width, height int) feed {
	return feed{path, strconv.Itoa(width), strconv.Itoa(height)}
}

// photograph is a JPEG that is decoded and scaled for each frame.
func photograph(path string) feed { return feed{path} }

// bareResult is what one run of a loop showed; others than the C program print less.
type bareResult struct {
	First    time.Duration `json:"-"` // from exec to the first result
	P50      float64       `json:"invoke_p50_us"`
	P99      float64       `json:"invoke_p99_us"`
	Wake     float64       `json:"wake_p50_us"` // of the process that wakes the loop, there and back
	FPS      float64       `json:"fps"`
	RSS      int64         `json:"rss_kb"`
	Best     int           `json:"best"`
	Complete bool          `json:"-"`
}

// run runs the C program for some frames, behind a prefix of its command such as
// taskset.
func (b bare) run(ctx context.Context, model string, frames int, f feed, prefix ...string) (bareResult, error) {
	words := append(slices.Clone(prefix), b.program, model, strconv.Itoa(b.threads), strconv.Itoa(frames))
	return loop(exec.CommandContext(ctx, words[0], append(words[1:], f...)...))
}

// loop runs a loop to its end, ours in C or a peer's, and reads what it prints.
func loop(cmd *exec.Cmd) (bareResult, error) {
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return bareResult{}, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return bareResult{}, err
	}
	var r bareResult
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "first ") {
			r.First = time.Since(start)
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			break
		}
		r.Complete = true
	}
	if err := cmd.Wait(); err != nil || !r.Complete || r.First == 0 {
		return r, fmt.Errorf("%s: no result: %v: %s", strings.Join(cmd.Args, " "), err, said.String())
	}
	return r, nil
}
