package local

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// metrics is Prometheus' text format, written by hand: the library would cost the
// agent more memory than all of this package.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	is := s.cfg.Board.Status()
	var e exposition
	e.board(&is)
	e.pipelines(is.Pipelines)
	e.stages(s.cfg.Board.Stages())
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(e.Bytes())
}

// An exposition is a text under way. All samples of a family come one after the other.
type exposition struct{ bytes.Buffer }

func (e *exposition) family(name, kind, help string) {
	fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample writes one; labels are pairs of name and value.
func (e *exposition) sample(name string, value float64, labels ...string) {
	e.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		e.WriteByte("{,"[min(i, 1)])
		e.WriteString(labels[i] + `="` + escape(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		e.WriteByte('}')
	}
	e.WriteByte(' ')
	e.WriteString(strconv.FormatFloat(value, 'g', -1, 64))
	e.WriteByte('\n')
}

func escape(label string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(label, "\uFFFD"))
}

// one writes a family of one sample.
func (e *exposition) one(name, kind, help string, value float64) {
	e.family(name, kind, help)
	e.sample(name, value)
}

func (e *exposition) board(s *Status) {
	e.family("covey_build_info", "gauge", "The agent and its board; always 1.")
	e.sample("covey_build_info", 1, "version", s.Version, "board", s.Board, "device", s.Device)
	e.one("covey_ready", "gauge", "1 when the board does its work.", flag(s.NotReady == ""))
	e.one("covey_uptime_seconds", "gauge", "Time since the agent began.", s.Uptime)
	if s.Memory > 0 {
		e.one("covey_agent_pss_bytes", "gauge", "Memory of the agent, its share of what it shares with others.", float64(s.Memory))
	}
	if t := s.Gauges.Temperature; t != nil {
		e.one("covey_temperature_celsius", "gauge", "Temperature of the board.", *t)
	}
	if len(s.Links) > 0 {
		e.family("covey_link_up", "gauge", "1 when the link to the broker is up.")
	}
	for _, l := range s.Links {
		e.sample("covey_link_up", flag(l.Up), "link", l.Name)
	}
	e.one("covey_outbox_waiting", "gauge", "Records that wait to be sent.", float64(s.Outbox.Waiting))
	e.one("covey_outbox_lost_total", "counter", "Records that will never be sent.", float64(s.Outbox.Lost))
}

// pipelineFamilies are written of every pipeline.
var pipelineFamilies = []struct {
	name, kind, help string
	samples          func(e *exposition, name string, p *Pipeline)
}{
	{"covey_captured_total", "counter", "Frames taken from the source.", func(e *exposition, name string, p *Pipeline) {
		e.sample(name, float64(p.Captured), "pipeline", p.Name)
	}},
	{"covey_published_total", "counter", "Results taken by the outbox.", func(e *exposition, name string, p *Pipeline) {
		e.sample(name, float64(p.Published), "pipeline", p.Name)
	}},
	{"covey_dropped_total", "counter", "Frames that gave no result, by reason.", func(e *exposition, name string, p *Pipeline) {
		for _, reason := range slices.Sorted(maps.Keys(p.Dropped)) {
			e.sample(name, float64(p.Dropped[reason]), "pipeline", p.Name, "reason", reason)
		}
	}},
	{"covey_results_per_second", "gauge", "Results a second, lately.", func(e *exposition, name string, p *Pipeline) {
		e.sample(name, p.FPS, "pipeline", p.Name)
	}},
	{"covey_pipeline_state", "gauge", "1 for the state that the pipeline is in.", func(e *exposition, name string, p *Pipeline) {
		for _, state := range []State{StateRuns, StateDegraded, StateStarting, StateFailed, StateOff} {
			e.sample(name, flag(p.State == state), "pipeline", p.Name, "state", string(state))
		}
	}},
	{"covey_pipeline_fault", "gauge", "1 for the code of what is wrong.", func(e *exposition, name string, p *Pipeline) {
		if p.Code != "" {
			e.sample(name, 1, "pipeline", p.Name, "code", p.Code)
		}
	}},
	{"covey_model_info", "gauge", "The model and what it runs on; always 1.", func(e *exposition, name string, p *Pipeline) {
		if p.Model != (Model{}) {
			e.sample(name, 1, "pipeline", p.Name, "model", p.Model.Name, "version", p.Model.Version, "accelerator", p.Accelerator)
		}
	}},
	{"covey_runner_pss_bytes", "gauge", "Memory of the process that runs the model.", func(e *exposition, name string, p *Pipeline) {
		if p.Memory > 0 {
			e.sample(name, float64(p.Memory), "pipeline", p.Name)
		}
	}},
}

func (e *exposition) pipelines(all []Pipeline) {
	for _, f := range pipelineFamilies {
		e.family(f.name, f.kind, f.help)
		for i := range all {
			f.samples(e, f.name, &all[i])
		}
	}
}

// bounds of the buckets of stages.
var bounds = []time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

func (e *exposition) stages(all []Stage) {
	const name = "covey_stage_seconds"
	e.family(name, "histogram", "Time of frames by stage of the pipeline.")
	for i := range all {
		st := &all[i]
		counts, total := st.fold()
		for b, n := range counts {
			e.sample(name+"_bucket", float64(n), "pipeline", st.Pipeline, "stage", st.Stage, "le", strconv.FormatFloat(bounds[b].Seconds(), 'g', -1, 64))
		}
		e.sample(name+"_bucket", float64(total), "pipeline", st.Pipeline, "stage", st.Stage, "le", "+Inf")
		e.sample(name+"_sum", st.Sum.Seconds(), "pipeline", st.Pipeline, "stage", st.Stage)
		e.sample(name+"_count", float64(total), "pipeline", st.Pipeline, "stage", st.Stage)
	}
}

// fold counts what took no longer than each of the bounds. A fine bucket that reaches
// across a bound counts above it: what is said to be fast, was.
func (s *Stage) fold() (atMost []uint64, total uint64) {
	atMost = make([]uint64, len(bounds))
	for i, n := range s.Counts {
		total += n
		for b := range bounds {
			if i < len(s.Upper) && s.Upper[i] <= bounds[b] {
				atMost[b] += n
			}
		}
	}
	return atMost, total
}

func flag(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
