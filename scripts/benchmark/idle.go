package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	idleWarm = 10 * time.Second // until what a start needs is given back
	idleTime = 20 * time.Second // that is measured in a round
	tick     = 10 * time.Millisecond
)

// greengrass is what AWS publishes of its agent in C, MB: "less than 5 MB of RAM" in the
// developer guide of AWS IoT Greengrass V2, component "Greengrass nucleus lite", and in
// its blog of that title. It runs no model, and what it starts is not counted.
const greengrass = 5

// idle measures an agent that waits: a pipeline whose folder has no picture, a page, and
// a link to a broker. What it is without its runner, which holds model and runtime.
func (b *bench) idle(ctx context.Context) ([]row, error) {
	m, err := startMosquitto(ctx, b.work)
	if err != nil {
		return nil, err
	}
	defer m.stop()
	empty := filepath.Join(b.work, "empty")
	if err := os.MkdirAll(empty, 0o700); err != nil {
		return nil, err
	}
	here, err := b.waiting(ctx, m, "birds: {source: {type: folder, path: "+empty+", watch: true}, model: "+b.mobilenet()+", accelerator: xnnpack}", b.rounds, b.bin+"/covey-agent")
	if err != nil {
		return nil, err
	}
	rows := []row{
		measured("agent that waits: memory of its own (PSS)", "MB", here.pss, atMost(15)),
		measured("agent that waits: CPU", "% of a core", here.cpu, atMost(1)),
		measured("Greengrass nucleus lite, as published: less than", "MB", []float64{greengrass}, noGoal),
	}
	name := "agent of arm64 under qemu, no pipeline: memory, the emulator's with it (RSS)"
	there, err := b.waitingARM64(ctx, m)
	if err != nil {
		return append(rows, row{Name: name, Verdict: "not measured: " + err.Error()}), nil
	}
	return append(rows, measured(name, "MB", there.rss, noGoal)), nil
}

// A rest is what an agent takes that has nothing to do, by rounds.
type rest struct{ pss, rss, cpu []float64 }

func (b *bench) waiting(ctx context.Context, m *mosquitto, pipeline string, rounds int, program ...string) (r rest, err error) {
	page, err := freeAddress()
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp(b.work, "idle")
	if err != nil {
		return r, err
	}
	config := filepath.Join(dir, "agent.yaml")
	text := "device: idle\ndata: data\nhome: {broker: mqtt://" + m.address + "}\nlocal: {enabled: true, listen: " + page + "}\npipelines: {" + pipeline + "}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return r, err
	}
	p, err := startProgram(ctx, append(program, "run", "--config", config)...)
	if err != nil {
		return r, err
	}
	defer p.stop()
	if err := waitFor(ctx, time.Minute, "the agent", p, func() bool { return strings.Contains(p.all(), "link up") }); err != nil {
		return r, err
	}
	for wait := idleWarm; len(r.pss) < rounds; wait = idleTime {
		before := p.cpu()
		select {
		case <-time.After(wait):
		case <-p.ended:
			return r, errors.New("the agent has ended: " + p.said())
		case <-ctx.Done():
			return r, ctx.Err()
		}
		if wait == idleTime {
			r.pss, r.rss = append(r.pss, p.pss()), append(r.rss, p.rss())
			r.cpu = append(r.cpu, 100*float64(p.cpu()-before)/float64(idleTime))
		}
	}
	return r, nil
}

// waitingARM64 is the program for boards under emulation, which cannot start a runner.
func (b *bench) waitingARM64(ctx context.Context, m *mosquitto) (rest, error) {
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		return rest{}, err
	}
	out := filepath.Join(b.work, "covey-agent-arm64")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./agent/cmd/covey-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if text, err := build.CombinedOutput(); err != nil {
		return rest{}, fmt.Errorf("build the agent for arm64: %v: %s", err, text)
	}
	return b.waiting(ctx, m, "", 1, qemu, out)
}

// pss is the part of memory that is the program's own, MB; 0 once it has ended.
func (p *program) pss() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) >= 2 && f[0] == "Pss:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}

// cpu is the time that the program itself has had so far, in steps of 10 ms.
func (p *program) cpu() time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	_, after, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * tick
}
