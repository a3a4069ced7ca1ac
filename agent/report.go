package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// probeTime is the longest that an engine may take to say what it can run on.
const probeTime = 20 * time.Second

// probe asks the engines what is here, and says hello with it. Frames need not
// wait for that.
func (a *agent) probe(ctx context.Context, loop *pulse.Loop) {
	defer loop.End()
	loop.Beat()
	loop.Do("asks the engines what is here", 2*probeTime)
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	defer func() { a.uplink.SetHello(a.hello()); close(a.probed) }() // in this order: the links wait
	a.runtimes = map[string]string{}
	for _, e := range a.Engines {
		devices, diagnoses := e.Probe(ctx)
		for _, d := range devices {
			a.devices = append(a.devices, wire.HelloDevice{Engine: e.Name(), Accelerator: string(d.Accelerator), ID: d.ID, Name: d.Name, Driver: d.Driver})
			if d.Runtime != "" {
				a.runtimes[e.Name()] = d.Runtime
			}
		}
		for _, d := range diagnoses {
			if !d.OK {
				a.Log.Warn().Str("subject", d.Subject).Str("detail", d.Detail).Str("fix", d.Fix).Msg("engine")
			}
		}
	}
}

// board is what decides which variant of a release fits. It waits for the engines.
func (a *agent) board() release.Board {
	<-a.probed
	return release.Board{Arch: runtime.GOARCH, RAM: a.Board.RAM, Devices: a.devices, Runtimes: a.runtimes}
}

func (a *agent) hello() wire.Hello {
	h := wire.Hello{
		BootID: a.bootID(), Agent: a.Version, OS: runtime.GOOS, Arch: runtime.GOARCH, Board: a.Board.Name,
		CPUs: a.Board.CPUs, RAM: a.Board.RAM, Accelerators: a.devices, Runtimes: maps.Clone(a.runtimes),
		Pipelines: a.helloPipelines(), MaxBlock: wire.BlockSize, Labels: a.File.Labels,
	}
	if a.Fleet != nil {
		h.CertExpires = a.Fleet.CertExpires
	}
	return h
}

func (a *agent) helloPipelines() []wire.HelloPipeline {
	list := []wire.HelloPipeline{}
	for _, p := range a.File.Pipelines {
		list = append(list, wire.HelloPipeline{Name: p.Name, Source: p.Source.Type, Pinned: p.Model != ""})
	}
	if a.Fleet != nil {
		list = append(list, wire.HelloPipeline{Name: wire.ConfigPipeline, Pinned: a.settings.local.closed()})
	}
	return list
}

func (a *agent) bootID() string {
	if a.Root == nil {
		return ""
	}
	b, err := fs.ReadFile(a.Root, "proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// report keeps the reported document as it stands.
func (a *agent) report(ctx context.Context, loop *pulse.Loop) {
	defer loop.Leave(ctx)
	for {
		loop.Beat()
		select {
		case <-a.changed:
		case <-loop.Pulse():
			continue
		case <-ctx.Done():
			return
		}
		r := a.loop.Reported()
		if f := a.fault.Load(); f != nil {
			r.Error = f
		}
		for name, s := range a.stations {
			p := r.Pipelines[name]
			if s.file.Model != "" {
				p.Pinned = true
				p.Active = s.pinned()
			}
			if l, _ := s.working(); l != nil {
				i := l.Info()
				p.Accelerator, p.Degraded, p.Tried = string(i.Accelerator), i.Degraded, lost(i)
			}
			if f := s.fault(); f != nil && (p.Pinned || p.Fault == nil) {
				p.Fault = f
			}
			r.Pipelines[name] = p
		}
		a.uplink.SetReported(bounded(r))
	}
}

// maxReported is what a reported document should fit, bytes.
const maxReported = 8 << 10

// maxLost is how many accelerators are reported as lost for a pipeline, and
// lostReason the bytes of each one's reason.
const (
	maxLost    = 6
	lostReason = 160
)

// lost is why the other accelerators are not in use: one line each, the last that
// was said of it.
func lost(i hal.Info) []wire.ReportedAttempt {
	var list []wire.ReportedAttempt
	for _, t := range i.Tried {
		if t.Accelerator == i.Accelerator {
			continue // with other threads or settings
		}
		a := wire.ReportedAttempt{Accelerator: string(t.Accelerator), Reason: t.Reason, Ms: millis(t.Took)}
		if len(a.Reason) > lostReason {
			a.Reason = strings.ToValidUTF8(a.Reason[:lostReason-3], "") + "…"
		}
		at := slices.IndexFunc(list, func(o wire.ReportedAttempt) bool { return o.Accelerator == a.Accelerator })
		switch {
		case at >= 0:
			list[at] = a
		case len(list) < maxLost:
			list = append(list, a)
		}
	}
	return list
}

// bounded is r without the reasons of lost accelerators, and then without evidence,
// pipeline by pipeline, until it fits: the board's own file and doctor have all of
// the first, the steps of executions the second.
func bounded(r wire.Reported) wire.Reported {
	for _, drop := range []func(*wire.ReportedPipeline){
		func(p *wire.ReportedPipeline) { p.Tried = nil },
		func(p *wire.ReportedPipeline) { p.Evidence = nil },
	} {
		for _, name := range slices.Backward(slices.Sorted(maps.Keys(r.Pipelines))) {
			if b, err := json.Marshal(r); err != nil || len(b) <= maxReported {
				return r
			}
			p := r.Pipelines[name]
			drop(&p)
			r.Pipelines[name] = p
		}
	}
	return r
}

// watchTime is how soon the house hears that a pipeline works or does not.
const watchTime = time.Second

// watch says which pipelines work, and why others do not.
func (a *agent) watch(ctx context.Context, loop *pulse.Loop) {
	defer loop.Leave(ctx)
	stand := newStanding(a)
	works, faults, runs := map[string]bool{}, map[string]wire.Fault{}, map[string][2]string{}
	for ; loop.Sleep(ctx.Done(), watchTime); stand.say() {
		a.judgeSources()
		for name, s := range a.stations {
			var f wire.Fault
			if now := s.fault(); now != nil {
				f = *now
			}
			if faults[name] != f {
				faults[name] = f
				poke(a.changed)
			}
			if l, _ := s.working(); l != nil {
				i := l.Info()
				if on := [2]string{string(i.Accelerator), i.Degraded}; runs[name] != on {
					runs[name] = on
					poke(a.changed)
				}
			}
			a.uplink.SetModel(name, a.homeModel(name, s))
			now := s.works()
			if before, known := works[name]; !known || before != now {
				works[name] = now
				a.uplink.SetAvailable(name, now)
			}
		}
	}
}

// homeModel is what the house sees of a pipeline's model.
func (a *agent) homeModel(name string, s *station) wire.HomeModel {
	m := a.loop.Model(name)
	if s.file.Model == "" {
		return m
	}
	m = wire.HomeModel{Installed: "none", Summary: "named by the board's own configuration"}
	if p := s.pinned(); p != nil {
		m.Title, m.Installed = p.Name, cmp.Or(p.Version, "local")
	}
	m.Latest = m.Installed
	return m
}

// CheckOutboxCommand names the subcommand that calls CheckOutbox.
const CheckOutboxCommand = "check-outbox"

// CheckOutbox looks through an outbox and returns the exit code for a process of
// its own: a damaged database can kill the one that reads it.
func CheckOutbox(path string, w io.Writer) int { return uplink.CheckMain(path, w) }
