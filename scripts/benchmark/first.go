package main

import (
	"bufio"
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"time"
)

// first compares how long it takes from starting a program to its first result.
// The agent reads the picture from a PNG, where the C loop has it raw.
func (b *bench) first(ctx context.Context) ([]row, error) {
	raw, err := b.rawPicture(ctx)
	if err != nil {
		return nil, err
	}
	path := b.work + "/picture.png"
	if err := writePNG(raw[0], path); err != nil {
		return nil, err
	}
	var ratio, wall []float64
	for round := range b.rounds {
		b.progress("first", round)
		c, err := b.bare.run(ctx, b.mobilenet(), 1, raw)
		if err != nil {
			return nil, err
		}
		took, err := b.detect(ctx, path)
		if err != nil {
			return nil, err
		}
		ratio, wall = append(ratio, took.Seconds()/c.First.Seconds()), append(wall, float64(took)/1e6)
	}
	return []row{
		measured("time to first result, agent / C", "ratio", ratio, noGoal),
		measured("time to first result, agent", "ms", wall, noGoal),
	}, nil
}

// detect is the time until covey-agent detect prints its first line.
func (b *bench) detect(ctx context.Context, picture string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, b.bin+"/covey-agent", "detect", "--json", "--model", b.mobilenet(), "--labels", b.labels(), picture)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	took := time.Since(start)
	_, _ = lines.WriteTo(os.Stderr) // until its end
	if waited := cmd.Wait(); err != nil || waited != nil {
		return 0, fmt.Errorf("covey-agent detect said %q: %v %v", line, err, waited)
	}
	return took, nil
}

// writePNG turns the raw picture into a file that the agent reads.
func writePNG(raw, path string) error {
	b, err := os.ReadFile(raw)
	if err != nil {
		return err
	}
	m := image.NewYCbCr(image.Rect(0, 0, width, height), image.YCbCrSubsampleRatio420)
	n := copy(m.Y, b)
	n += copy(m.Cb, b[n:])
	copy(m.Cr, b[n:])
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := png.Encode(f, m); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
