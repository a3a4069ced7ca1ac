package main

import (
	"context"
	"fmt"
	"image"
	"image/jpeg"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/image/draw"
)

// peers are loops of others on the same pictures.
type peers struct {
	sample string // go-tflite's own example; "": not measured
	python string // folder of Python's ai-edge-litert; "": not measured
}

// camera compares the frame rate of the agent as it is installed, on the JPEGs of a
// camera, with a serial C loop of one thread and of two on the same libraries, and
// with the loops that people write. What the model runs best on the agent finds out
// by itself before the first round, and remembers.
func (b *bench) camera(ctx context.Context) ([]row, error) {
	broker, err := startMosquitto(ctx, b.work)
	if err != nil {
		return nil, err
	}
	defer broker.stop()
	data := filepath.Join(b.work, "camera")
	var rows []row
	for _, size := range []struct {
		name          string
		width, height int
		aim, sample   goal
	}{
		{"720p", 1280, 720, atLeast(1.15), atLeast(7)},
		{"1080p", 1920, 1080, atLeast(1.4), moreBetter},
	} {
		folder := filepath.Join(b.work, size.name)
		picture := filepath.Join(folder, "picture.jpg")
		if err := os.MkdirAll(data, 0o700); err != nil {
			return rows, err
		}
		if err := writeJPEG(picture, filepath.Join(b.models, "ssd/example.jpg"), size.width, size.height); err != nil {
			return rows, err
		}
		setup := agentSetup{pipeline: "source: {type: folder, path: " + folder + ", loop: true}", data: data, settle: true}
		loops := []struct {
			name  string
			aim   goal
			frame func() (bareResult, error)
			ratio []float64
		}{
			{name: "serial C loop", aim: size.aim, frame: func() (bareResult, error) {
				return b.bare.run(ctx, b.mobilenet(), counted, photograph(picture))
			}},
			{name: "serial C loop of 2 threads", aim: moreBetter, frame: func() (bareResult, error) {
				return bare{b.bare.program, 2}.run(ctx, b.mobilenet(), counted, photograph(picture))
			}},
			{name: "go-tflite's sample loop", aim: size.sample, frame: func() (bareResult, error) {
				return b.peers.sampleLoop(ctx, b.mobilenet(), picture)
			}},
			{name: "Python's ai-edge-litert loop", aim: moreBetter, frame: func() (bareResult, error) {
				return b.peers.pythonLoop(ctx, b.mobilenet(), picture)
			}},
		}
		var fps []float64
		for round := range b.rounds {
			b.progress("camera "+size.name, round)
			a, err := b.agentFrames(ctx, broker, setup)
			if err != nil {
				return rows, err
			}
			fps = append(fps, a.fps)
			for i := range loops {
				r, err := loops[i].frame()
				if err != nil {
					return rows, err
				}
				if r.FPS == 0 {
					continue
				}
				if r.Best != a.best {
					return rows, fmt.Errorf("the agent sees class %d where the %s sees %d: they do not do the same", a.best, loops[i].name, r.Best)
				}
				loops[i].ratio = append(loops[i].ratio, a.fps/r.FPS)
			}
		}
		for _, l := range loops {
			rows = append(rows, measured(size.name+" JPEGs: frame rate, agent / "+l.name, "ratio", l.ratio, l.aim))
		}
		rows = append(rows, measured(size.name+" JPEGs: frame rate of the agent", "frames", fps, moreBetter))
	}
	return rows, nil
}

// slow is the frames of a round of a slow loop.
const slow = counted / 5

// sampleLoop is go-tflite's own example.
func (p peers) sampleLoop(ctx context.Context, model, picture string) (bareResult, error) {
	if p.sample == "" {
		return bareResult{}, nil
	}
	return loop(exec.CommandContext(ctx, p.sample, model, strconv.Itoa(slow), picture))
}

func (p peers) pythonLoop(ctx context.Context, model, picture string) (bareResult, error) {
	if p.python == "" {
		return bareResult{}, nil
	}
	cmd := exec.CommandContext(ctx, "python3", "scripts/benchmark/bare/litert_loop.py", model, strconv.Itoa(slow), picture)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+p.python)
	return loop(cmd)
}

// writeJPEG makes a camera's picture, 4:2:0, out of a photograph.
func writeJPEG(to, from string, width, height int) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	photo, err := jpeg.Decode(f)
	if err != nil {
		return err
	}
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.CatmullRom.Scale(m, m.Bounds(), photo, photo.Bounds(), draw.Src, nil)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if err := jpeg.Encode(out, m, &jpeg.Options{Quality: 85}); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
