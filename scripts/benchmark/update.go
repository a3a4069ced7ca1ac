package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	fps        = 50          // of the pipeline that is updated
	padding    = 24 << 20    // bytes behind a model, new ones each time, that nothing can compress
	afterwards = time.Second // of results that are looked at behind a swap
)

// update changes the model of a running board through a real controller, as an
// operator does, and looks at what its subscribers notice. The same number of
// bytes goes through the same broker as fast as it can in the same round.
func (b *bench) update(ctx context.Context) ([]row, error) {
	f, err := b.startFleet(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	var gaps, lost, goodput, share []float64
	for round := range b.rounds {
		b.progress("update", round)
		size, err := f.push(ctx, round+2, padding)
		if err != nil {
			return nil, err
		}
		raw, err := f.home.blast(ctx, size)
		if err != nil {
			return nil, err
		}
		seen, err := f.swap(ctx, round+2)
		if err != nil {
			return nil, err
		}
		took, err := f.downloadTime()
		if err != nil {
			return nil, err
		}
		gap, gone := swapGap(seen)
		gaps, lost = append(gaps, gap), append(lost, float64(gone))
		rate := float64(size) / 1e6 / took.Seconds()
		goodput, share = append(goodput, rate), append(share, rate/raw)
	}
	return []row{
		measured("hot swap: gap between results / frame period, 50 fps", "ratio", gaps, noGoal),
		measured("hot swap: frames lost", "frames", lost, atMost(0)),
		measured("block transfer: verified, fsynced", "MB/s", goodput, moreBetter),
		measured("block transfer / raw MQTT blast, same broker", "ratio", share, atLeast(0.8)),
	}, nil
}

// A fleet is a controller with one joined board, both real programs.
type fleet struct {
	b             *bench
	work, data    string  // folders
	link          *shaper // between the board and the broker; nil: none
	server, agent *program
	mosquitto     *mosquitto
	home          login
	results       <-chan result
	unsubscribe   func()
}

func (f *fleet) stop() {
	f.unsubscribe()
	if f.link != nil {
		f.link.Close()
	}
	for _, p := range []*program{f.agent, f.server, f.mosquitto.program} {
		if p != nil {
			p.stop()
		}
	}
}

// startFleet starts one. between may make a link between the board and the broker, which
// it is given the address of; nil: there is none.
func (b *bench) startFleet(ctx context.Context, between func(broker string) (*shaper, error)) (f *fleet, err error) {
	work, err := os.MkdirTemp(b.work, "fleet")
	if err != nil {
		return nil, err
	}
	f = &fleet{b: b, work: work, data: work + "/data", unsubscribe: func() {}}
	if f.mosquitto, err = startMosquitto(ctx, work); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	f.server, err = startProgram(ctx, b.bin+"/covey-fleet", "serve", "--data", f.data, "--host", "127.0.0.1", "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var ends struct{ MQTT, CA string }
	err = waitFor(ctx, 20*time.Second, "covey-fleet", f.server, func() bool {
		text, err := os.ReadFile(f.data + "/endpoints.json")
		return err == nil && json.Unmarshal(text, &ends) == nil
	})
	if err != nil {
		return nil, err
	}
	var user struct{ User, Password string }
	out, err := f.covey(ctx, "home", "add", "bench", "--json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &user); err != nil {
		return nil, err
	}
	f.home = login{broker: strings.Replace(ends.MQTT, "mqtts://", "tls://", 1), ca: ends.CA, user: user.User, password: user.Password}
	if between != nil {
		if f.link, err = between(hostOf(f.home.broker)); err != nil {
			return nil, err
		}
	}
	if _, err := f.push(ctx, 1, 1<<20); err != nil {
		return nil, err
	}
	if err := f.startAgent(ctx); err != nil {
		return nil, err
	}
	_, err = f.swap(ctx, 1)
	return f, err
}

func (f *fleet) startAgent(ctx context.Context) error {
	b := f.b
	token, err := f.covey(ctx, "device", "token")
	if err != nil {
		return err
	}
	config := f.work + "/agent.yaml"
	text := "device: bench\ndata: " + f.work + "/board\nhome: {broker: \"mqtt://" + f.mosquitto.address + "\"}\n" +
		"pipelines:\n  p:\n    threads: 1\n    source: {type: synthetic, width: 640, height: 480, fps: " + strconv.Itoa(fps) + "}\n"
	if f.link != nil {
		text += "fleet: {url: \"" + f.link.mqtts() + "\"}\n"
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	join := exec.CommandContext(ctx, b.bin+"/covey-agent", "join", "--config", config, "-")
	join.Stdin = bytes.NewReader(token)
	if out, err := join.CombinedOutput(); err != nil {
		return fmt.Errorf("join: %v: %s", err, out)
	}
	if f.results, f.unsubscribe, err = f.mosquitto.results("covey/home/bench/p/result", 1<<14); err != nil {
		return err
	}
	f.agent, err = startProgram(ctx, b.bin+"/covey-agent", "run", "--config", config)
	return err
}

// covey runs the operator's command line.
func (f *fleet) covey(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, f.b.bin+"/covey", append([]string{"--data", f.data}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("covey %s: %v: %s", strings.Join(args, " "), err, said.Bytes())
	}
	return out, err
}

func version(n int) string { return strconv.Itoa(n) + ".0.0" }

// push pushes version n: MobileNet with its labels, and a file packed behind the
// model that differs each time. It returns what of it no board has.
func (f *fleet) push(ctx context.Context, n, padding int) (int, error) {
	model, err := os.ReadFile(f.b.mobilenet())
	if err != nil {
		return 0, err
	}
	file := bytes.NewBuffer(model)
	z := zip.NewWriter(file)
	z.SetOffset(int64(len(model)))
	w, err := z.CreateHeader(&zip.FileHeader{Name: "padding", Method: zip.Store})
	if err != nil {
		return 0, err
	}
	pad := make([]byte, padding)
	if _, err := rand.Read(pad); err != nil {
		return 0, err
	}
	if _, err := w.Write(pad); err != nil {
		return 0, err
	}
	if err := z.Close(); err != nil {
		return 0, err
	}
	path := f.work + "/pushed.tflite"
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		return 0, err
	}
	_, err = f.covey(ctx, "release", "push", path, "--name", "bench", "--version", version(n), "--labels", f.b.labels())
	return padding, err
}

// swap asks for version n, waits until the board has it for good, and returns the
// results that came meanwhile and shortly after.
func (f *fleet) swap(ctx context.Context, n int) ([]result, error) {
	for len(f.results) > 0 {
		<-f.results
	}
	if _, err := f.covey(ctx, "set", "bench", "p=bench@"+version(n), "--yes", "--wait"); err != nil {
		return nil, fmt.Errorf("%w\nagent: %s", err, f.agent.said())
	}
	var seen []result
	for end := time.After(afterwards); ; {
		select {
		case r := <-f.results:
			seen = append(seen, r)
		case <-end:
			return seen, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// swapGap is the longest pause between the last result of one model and the
// first of the next, in frame periods, and how many seq are missing.
func swapGap(seen []result) (gap float64, lost int) {
	var pauses []float64
	for i := 1; i < len(seen); i++ {
		pause := seen[i].came.Sub(seen[i-1].came).Seconds()
		pauses = append(pauses, pause)
		if seen[i].Model.Ver != seen[i-1].Model.Ver {
			gap = max(gap, pause)
		}
		if step := int(seen[i].Seq) - int(seen[i-1].Seq); step > 1 {
			lost += step - 1
		}
	}
	slices.Sort(pauses)
	return gap / percentile(pauses, 50), lost
}

// downloadTime is how long the agent took for its last download.
func (f *fleet) downloadTime() (time.Duration, error) {
	from, to, err := f.download()
	return to.Sub(from), err
}

// download is when the agent's last download began and ended, from its log.
func (f *fleet) download() (from, to time.Time, err error) {
	for line := range strings.Lines(f.agent.all()) {
		var l struct {
			Message, State string
			Time           time.Time
		}
		if json.Unmarshal([]byte(line), &l) != nil || l.Message != "update" {
			continue
		}
		switch l.State {
		case "DOWNLOADING":
			from, to = l.Time, time.Time{}
		case "VERIFYING":
			to = l.Time
		}
	}
	if from.IsZero() || !to.After(from) {
		err = fmt.Errorf("the agent's log does not say when it downloaded: %s", f.agent.said())
	}
	return from, to, err
}

// idle lets the board do nothing but its work for a while, and returns its results.
func (f *fleet) idle(ctx context.Context, d time.Duration) (seen []result, err error) {
	for len(f.results) > 0 {
		<-f.results
	}
	for end := time.After(d); ; {
		select {
		case r := <-f.results:
			seen = append(seen, r)
		case <-end:
			return seen, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// latencies are from the capture of frames between two moments to their arrival, ms,
// sorted.
func latencies(seen []result, from, to time.Time) (list []float64) {
	for _, r := range seen {
		if r.TS.After(from) && r.TS.Before(to) {
			list = append(list, r.came.Sub(r.TS).Seconds()*1e3)
		}
	}
	slices.Sort(list)
	return list
}
