package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source/synthetic"
)

const (
	width, height = 640, 480 // of the synthetic pictures
	counted       = 150      // frames of a round that count
	warm          = 20       // frames before them
	core          = "0"      // that both sides run on in serial mode
)

// frames compares the frame rate of the real agent, with its outbox and a broker
// behind it, with that of the C loop. Once on one core, where nothing can overlap
// (serial); once as it comes.
func (b *bench) frames(ctx context.Context) ([]row, error) {
	raw, err := b.rawPicture(ctx)
	if err != nil {
		return nil, err
	}
	broker, err := startMosquitto(ctx, b.work)
	if err != nil {
		return nil, err
	}
	defer broker.stop()

	modes := []struct {
		name   string
		prefix []string
		aim    goal
		ratio  []float64
	}{
		{"frame rate on one core (serial), agent / C", []string{"taskset", "-c", core}, atLeast(0.95), nil},
		{"frame rate as it comes, agent / C", nil, moreBetter, nil},
	}
	var rss, cRSS []float64
	for round := range b.rounds {
		b.progress("frames", round)
		for i := range modes {
			m := &modes[i]
			c, err := b.bare.run(ctx, b.mobilenet(), counted, raw, m.prefix...)
			if err != nil {
				return nil, err
			}
			a, err := b.agentFrames(ctx, broker, agentSetup{pipeline: b.synthetic(), prefix: m.prefix})
			if err != nil {
				return nil, err
			}
			if a.best != c.Best {
				return nil, fmt.Errorf("the agent sees class %d where the C loop sees %d: they do not do the same", a.best, c.Best)
			}
			m.ratio = append(m.ratio, a.fps/c.FPS)
			if m.prefix == nil {
				rss, cRSS = append(rss, a.rss), append(cRSS, float64(c.RSS)*1024/1e6)
			}
		}
	}
	var rows []row
	for _, m := range modes {
		rows = append(rows, measured(m.name, "ratio", m.ratio, m.aim))
	}
	return append(rows,
		measured("agent RSS without runner", "MB", rss, atMost(25)),
		measured("C loop RSS", "MB", cRSS, noGoal)), nil
}

// rawPicture writes the first picture of the synthetic source as the C loop reads it.
func (b *bench) rawPicture(ctx context.Context) (feed, error) {
	s, err := synthetic.New(synthetic.Config{Width: width, Height: height})
	if err != nil {
		return nil, err
	}
	var f hal.Frame
	if err := s.Next(ctx, &f); err != nil {
		return nil, err
	}
	var raw []byte
	for i, p := range f.Planes {
		w, h := width, height
		if i > 0 {
			w, h = (width+1)/2, (height+1)/2
		}
		for y := range h {
			raw = append(raw, p[y*f.Strides[i]:][:w]...)
		}
	}
	path := b.work + "/picture.yuv"
	return picture(path, width, height), os.WriteFile(path, raw, 0o600)
}

// agentRun is what one run of the real agent showed.
type agentRun struct {
	fps, rss float64 // frames a second, MB
	best     int     // class of the first frame
}

// An agentSetup is how the agent runs for a round.
type agentSetup struct {
	pipeline string   // keys of the configuration besides the model, within {}
	data     string   // folder of its state; "": an empty one
	settle   bool     // count from when it knows what the model runs best on
	prefix   []string // of its command, such as taskset
}

// synthetic is a pipeline that draws its pictures, as many as a round has frames. It
// names its accelerator: what is compared is the way of a frame, not the search for
// what is best, which would share the core with it.
func (b *bench) synthetic() string {
	return fmt.Sprintf("threads: %d, accelerator: xnnpack, source: {type: synthetic, width: %d, height: %d, count: %d}", b.bare.threads, width, height, warm+counted)
}

// agentFrames runs the agent until it has published all frames of a round.
func (b *bench) agentFrames(ctx context.Context, broker *mosquitto, setup agentSetup) (agentRun, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	folder := setup.data
	if folder == "" {
		var err error
		if folder, err = os.MkdirTemp(b.work, "agent-"); err != nil {
			return agentRun{}, err
		}
	}
	results, unsubscribe, err := broker.results("covey/home/bench/p/result", warm+counted)
	if err != nil {
		return agentRun{}, err
	}
	defer unsubscribe()
	config := "device: bench\ndata: " + folder + "\nfleet: {enabled: false}\nhome: {broker: \"mqtt://" + broker.address + "\"}\n" +
		"pipelines: {p: {model: " + b.mobilenet() + ", labels: " + b.labels() + ", threshold: 0.001, " + setup.pipeline + "}}\n"
	path := folder + "/agent.yaml"
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return agentRun{}, err
	}
	agent, err := startProgram(ctx, append(setup.prefix[:len(setup.prefix):len(setup.prefix)], b.bin+"/covey-agent", "run", "--config", path)...)
	if err != nil {
		return agentRun{}, err
	}
	defer agent.stop()

	settled := !setup.settle
	var first, from, to result
	var rss float64
	for i := 0; i < warm+counted; {
		select {
		case r := <-results:
			if !settled {
				_, err := os.Stat(folder + "/accelerators.json")
				settled = err == nil
				continue
			}
			switch i {
			case 0:
				first = r
			case warm:
				from = r
			case warm + counted - 1:
				to = r
				rss = agent.rss()
			}
			i++
		case <-agent.ended:
			if i == 0 || len(results) == 0 {
				return agentRun{}, fmt.Errorf("the agent ended after %d of %d results: %s", i, warm+counted, agent.said())
			}
		case <-ctx.Done():
			return agentRun{}, fmt.Errorf("%d of %d results came: %w: %s", i, warm+counted, ctx.Err(), agent.said())
		}
	}
	if len(first.Items) == 0 {
		return agentRun{}, fmt.Errorf("the first result has no items")
	}
	return agentRun{fps: float64(counted-1) / to.TS.Sub(from.TS).Seconds(), rss: rss, best: first.Items[0].ID}, nil
}

func (b *bench) labels() string { return b.models + "/label_image/labels.txt" }
