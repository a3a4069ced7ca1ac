package wire

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what a message may list.
const (
	MaxPipelines = 64
	MaxBlocks    = 16384 // of one file: 1 GiB of BlockSize
	MaxLabels    = 32    // of a device
	MaxLabel     = 64    // bytes of a label's value
	maxText      = 256   // bytes of a text for people
	maxFault     = 1024  // bytes of a Fault's text
	maxTried     = 16    // accelerators of a pipeline
	maxRefused   = 16    // variants of a release
)

// A checker keeps the first thing that is wrong with a message.
type checker struct{ err error }

func (c *checker) that(ok bool, format string, args ...any) {
	if c.err == nil && !ok {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *checker) version(v int)    { c.that(v == Version, "v: %d is not %d", v, Version) }
func (c *checker) id(key, s string) { c.that(ValidID(s), "%s: %q is not an id", key, clip(s)) }
func (c *checker) optID(key, s string) {
	c.that(s == "" || ValidID(s), "%s: %q is not an id", key, clip(s))
}
func (c *checker) digest(key string, d Digest) {
	c.that(ValidDigest(string(d)), "%s: %q is not a sha256", key, clip(string(d)))
}
func (c *checker) short(key, s string, limit int) {
	c.that(len(s) <= limit, "%s: %d bytes, limit %d", key, len(s), limit)
}
func (c *checker) text(key, s string, limit int) {
	c.short(key, s, limit)
	for _, r := range s {
		if unicode.IsControl(r) {
			c.that(false, "%s: control character %U", key, r)
			return
		}
	}
}
func (c *checker) someText(key, s string, limit int) {
	c.that(s != "", "%s: missing", key)
	c.text(key, s, limit)
}
func (c *checker) count(key string, n, limit int) {
	c.that(n <= limit, "%s: %d entries, limit %d", key, n, limit)
}
func (c *checker) within(key string, v, lo, hi float64) {
	c.that(v >= lo && v <= hi, "%s: %v is not within %v…%v", key, v, lo, hi)
}
func (c *checker) fault(key string, f *Fault) {
	if f == nil {
		return
	}
	c.someText(key+".code", f.Code, 64)
	c.text(key+".text", f.Text, maxFault)
}

// keys of a map in order, so that the same message always gives the same error.
func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Validate says what is wrong with the message, nil when nothing is.
func (s *Status) Validate() error {
	var c checker
	c.version(s.V)
	c.that(s.State == StateOnline || s.State == StateStopped || s.State == StateOffline, "state: %q is not one of online, stopped, offline", clip(s.State))
	c.text("mid", s.MID, 64)
	return c.err
}

// Validate says what is wrong with the message, nil when nothing is.
func (h *Hello) Validate() error {
	var c checker
	c.version(h.V)
	c.text("boot_id", h.BootID, 64)
	c.text("agent", h.Agent, maxText)
	c.text("os", h.OS, maxText)
	c.text("arch", h.Arch, maxText)
	c.text("board", h.Board, maxText)
	c.text("profile", h.Profile, 64)
	c.text("disk", h.Disk, 64)
	c.that(h.CPUs >= 0 && h.CPUs <= 1<<16, "cpus: %d", h.CPUs)
	c.that(h.RAM >= 0, "ram: %d", h.RAM)
	c.that(h.MaxBlock >= 0 && h.MaxBlock <= MaxPacket, "max_block: %d", h.MaxBlock)
	c.count("accelerators", len(h.Accelerators), 64)
	for _, a := range h.Accelerators {
		c.text("accelerators.engine", a.Engine, 64)
		c.text("accelerators.accelerator", a.Accelerator, maxText)
		c.text("accelerators.id", a.ID, 64)
		c.text("accelerators.name", a.Name, maxText)
		c.text("accelerators.driver", a.Driver, maxText)
	}
	c.count("runtimes", len(h.Runtimes), 16)
	for _, k := range keys(h.Runtimes) {
		c.text("runtimes", k, 64)
		c.text("runtimes."+clip(k), h.Runtimes[k], maxText)
	}
	c.count("pipelines", len(h.Pipelines), MaxPipelines)
	for _, p := range h.Pipelines {
		c.id("pipelines.name", p.Name)
		c.text("pipelines.source", p.Source, maxText)
	}
	c.labels(h.Labels)
	return c.err
}

// CheckLabels says what is wrong with labels of a device, nil when nothing is: at
// most MaxLabels, a key is an id, a value is 1 to MaxLabel printable bytes without
// a comma or spaces around it.
func CheckLabels(labels map[string]string) error {
	var c checker
	c.labels(labels)
	return c.err
}

func (c *checker) labels(labels map[string]string) {
	c.count("labels", len(labels), MaxLabels)
	for _, k := range keys(labels) {
		v := labels[k]
		c.id("labels", k)
		c.someText("labels."+clip(k), v, MaxLabel)
		c.that(utf8.ValidString(v) && strings.IndexFunc(v, func(r rune) bool { return r == ',' || !unicode.IsPrint(r) }) < 0 && strings.TrimSpace(v) == v,
			"labels.%s: %q has a comma, space around it, or what cannot be printed", clip(k), v)
	}
}

// Validate says what is wrong with the message, nil when nothing is.
func (h *Health) Validate() error {
	var c checker
	c.version(h.V)
	c.that(h.Up >= 0, "up: %d", h.Up)
	c.within("cpu", h.CPU, 0, 100)
	c.within("mem", h.Mem, 0, 100)
	c.that(h.RSS >= 0, "rss: %d", h.RSS)
	if h.Temp != nil {
		c.within("temp", *h.Temp, -60, 200)
	}
	c.within("disk", h.Disk, 0, 100)
	c.that(h.Outbox >= 0, "outbox: %d", h.Outbox)
	c.count("flags", len(h.Flags), 16)
	for _, f := range h.Flags {
		c.someText("flags", f, 64)
	}
	c.that(h.Wrote >= 0, "wr: %d", h.Wrote)
	c.whole("wear", h.Wear, 0, 100)
	c.whole("eol", h.EOL, 0, 3)
	c.count("pipes", len(h.Pipes), MaxPipelines)
	for _, name := range keys(h.Pipes) {
		p := h.Pipes[name]
		c.id("pipes", name)
		c.within("pipes."+name+".fps", p.FPS, 0, 1e6)
		c.within("pipes."+name+".p50", p.P50, 0, 1e12)
		c.within("pipes."+name+".p99", p.P99, 0, 1e12)
		c.text("pipes."+name+".deg", p.Degraded, 64)
		c.that(p.Memory >= 0, "pipes.%s.mem: %d", name, p.Memory)
		if d := p.Drift; d != nil {
			c.within("pipes."+name+".drift.light", d.Light, 0, 1)
			c.within("pipes."+name+".drift.scores", d.Scores, 0, 1)
			c.within("pipes."+name+".drift.labels", d.Labels, 0, 1)
		}
		c.count("pipes."+name+".drop", len(p.Dropped), 16)
		for _, k := range keys(p.Dropped) {
			c.id("pipes."+name+".drop", k)
		}
	}
	return c.err
}

// Validate says what is wrong with the message, nil when nothing is. A mode that
// a device does not know is its own business to refuse, for that pipeline alone.
func (d *Desired) Validate() error {
	var c checker
	s := &d.Signed
	c.version(s.V)
	c.id("device", string(s.Device))
	c.count("signatures", len(d.Signatures), 16)
	c.count("pipelines", len(s.Pipelines), MaxPipelines)
	for _, name := range keys(s.Pipelines) {
		c.id("pipelines", name)
		c.release("pipelines."+clip(name), s.Pipelines[name])
	}
	c.that(s.Config.HealthSeconds >= 0 && s.Config.HealthSeconds <= 86400, "config.health_seconds: %d is not within 0…86400", s.Config.HealthSeconds)
	if t := s.Trust; t != nil {
		c.digest("trust.sha256", t.SHA256)
		c.that(t.Length >= 1 && t.Length <= 1<<20, "trust.length: %d is not within 1…%d", t.Length, 1<<20)
	}
	c.pipelines("config.results", s.Config.Results)
	c.pipelines("config.events", s.Config.Events)
	return c.err
}

// pipelines is a list of them, "*" for all.
func (c *checker) pipelines(key string, list []string) {
	c.count(key, len(list), MaxPipelines)
	for _, p := range list {
		c.that(p == "*" || ValidID(p), "%s: %q is not a pipeline", key, clip(p))
	}
}

func (c *checker) release(key string, r DesiredRelease) {
	c.digest(key+".release", r.Release)
	c.that(r.Length >= 1 && r.Length <= 1<<20, "%s.length: %d is not within 1…%d", key, r.Length, 1<<20)
	c.id(key+".name", r.Name)
	c.someText(key+".version", r.Version, 64)
	c.id(key+".execution", r.Execution)
	c.that(r.Attempt >= 0, "%s.attempt: %d", key, r.Attempt)
	c.id(key+".mode", r.Mode)
	c.that(r.Rate >= 0, "%s.rate: %d", key, r.Rate)
	c.that(r.BytesMax >= 0, "%s.bytes_max: %d", key, r.BytesMax)
	if w := r.Window; w != nil {
		c.someText(key+".window.cron", w.Cron, 100)
		c.whole(key+".window.minutes", w.Minutes, 1, 7*24*60)
	}
	if p := r.Probation; p != nil {
		c.whole(key+".probation.seconds", p.Seconds, 0, 86400)
		c.whole(key+".probation.results", p.Results, 0, 100_000)
		c.whole(key+".probation.errors_percent", p.Errors, 0, 100)
		c.whole(key+".probation.latency_ms", p.Latency, 0, 1e6)
		c.whole(key+".probation.slower_percent", p.Slower, 0, 1e5)
		c.whole(key+".probation.score_percent", p.Score, 0, 1e5)
		c.that(p.Memory >= 0, "%s.probation.memory: %d", key, p.Memory)
		c.whole(key+".probation.temp_max", p.TempMax, 0, 200)
	}
	if s := r.Shadow; s != nil {
		c.whole(key+".shadow.frames", s.Frames, 1, 100_000)
		c.whole(key+".shadow.seconds", s.Seconds, 0, 86400)
		c.whole(key+".shadow.every", s.Every, 0, 1e6)
		c.whole(key+".shadow.agreement_percent", s.Agreement, 0, 100)
	}
}

func (c *checker) whole(key string, v, lo, hi int) {
	c.that(v >= lo && v <= hi, "%s: %d is not within %d…%d", key, v, lo, hi)
}

func (c *checker) evidence(key string, e *Evidence) {
	if e == nil {
		return
	}
	c.digest(key+".model", e.Model)
	c.text(key+".accel", e.Accel, maxText)
	c.measure(key+".trial", e.Trial)
	c.measure(key+".before", e.Before)
	if a := e.Shadow; a != nil {
		c.id(key+".shadow.metric", a.Metric)
		c.whole(key+".shadow.frames", a.Frames, 0, 1e6)
		c.whole(key+".shadow.agreed", a.Agreed, 0, a.Frames)
		c.within(key+".shadow.mean", a.Mean, 0, 1e9)
		c.within(key+".shadow.delta", a.Delta, 0, 1e9)
	}
	if e.Temp != nil {
		c.within(key+".temp", *e.Temp, -60, 200)
	}
	if e.Drift != nil {
		c.within(key+".drift", *e.Drift, 0, 1)
	}
}

func (c *checker) measure(key string, m *Measure) {
	if m == nil {
		return
	}
	c.whole(key+".runs", m.Runs, 0, 1e9)
	c.whole(key+".errors", m.Errors, 0, m.Runs)
	c.within(key+".p50", m.P50, 0, 1e9)
	c.within(key+".p99", m.P99, 0, 1e9)
	c.within(key+".score", m.Score, -1e9, 1e9)
	c.that(m.Memory >= 0, "%s.mem: %d", key, m.Memory)
}

// Validate says what is wrong with the message, nil when nothing is.
func (r *Reported) Validate() error {
	var c checker
	c.version(r.V)
	c.count("pipelines", len(r.Pipelines), MaxPipelines)
	for _, name := range keys(r.Pipelines) {
		c.id("pipelines", name)
		p, key := r.Pipelines[name], "pipelines."+clip(name)
		c.slot(key+".active", p.Active)
		c.slot(key+".previous", p.Previous)
		c.slot(key+".candidate", p.Candidate)
		c.text(key+".accelerator", p.Accelerator, maxText)
		c.optID(key+".execution", p.Execution)
		c.that(p.State == "" || p.State.Valid(), "%s.state: %q is not a state", key, clip(string(p.State)))
		c.fault(key+".fault", p.Fault)
		c.text(key+".degraded", p.Degraded, maxFault)
		c.count(key+".tried", len(p.Tried), maxTried)
		for _, a := range p.Tried {
			c.someText(key+".tried.accelerator", a.Accelerator, maxText)
			c.text(key+".tried.reason", a.Reason, maxText)
			c.within(key+".tried.ms", a.Ms, 0, 1e9)
		}
		c.count(key+".refused", len(p.Refused), maxRefused)
		for i := range p.Refused {
			c.fault(key+".refused", &p.Refused[i])
		}
		c.evidence(key+".evidence", p.Evidence)
	}
	c.count("quarantine", len(r.Quarantine), 64)
	for _, q := range r.Quarantine {
		c.digest("quarantine.release", q.Release)
		c.that(q.Attempt >= 0, "quarantine.attempt: %d", q.Attempt)
		c.text("quarantine.code", q.Code, 64)
	}
	c.fault("error", r.Error)
	return c.err
}

// A slot of a local model has no release, only the file's hash.
func (c *checker) slot(key string, s *ReportedSlot) {
	if s == nil {
		return
	}
	c.that(s.Release == "" || ValidDigest(string(s.Release)), "%s.release: %q is not a sha256", key, clip(string(s.Release)))
	c.that(s.SHA256 == "" || ValidDigest(string(s.SHA256)), "%s.sha256: %q is not a sha256", key, clip(string(s.SHA256)))
	c.text(key+".name", s.Name, maxText)
	c.text(key+".version", s.Version, 64)
}

// Validate says what is wrong with the message, nil when nothing is.
func (e *ExecStep) Validate() error {
	var c checker
	c.version(e.V)
	c.someText("id", e.ID, maxText)
	c.id("execution", e.Execution)
	c.id("pipeline", e.Pipeline)
	c.digest("release", e.Release)
	c.that(e.N >= 0, "n: %d", e.N)
	c.that(e.State.Valid(), "state: %q is not a state", clip(string(e.State)))
	c.that(e.Done >= 0 && e.Total >= 0, "done: %d of %d", e.Done, e.Total)
	c.that(e.GapMS >= 0, "gap_ms: %d", e.GapMS)
	c.fault("fault", e.Fault)
	c.evidence("evidence", e.Evidence)
	return c.err
}

// Validate says what is wrong with the message, nil when nothing is.
func (r *Result) Validate() error {
	var c checker
	c.version(r.V)
	c.someText("id", r.ID, maxText)
	c.id("pipe", r.Pipe)
	c.short("name", r.Name, 4096) // a file's name may hold anything
	c.text("model.name", r.Model.Name, maxText)
	c.text("model.ver", r.Model.Ver, 64)
	c.text("model.sha", r.Model.SHA, 64)
	c.text("accel", r.Accel, maxText)
	c.id("kind", r.Kind)
	c.within("lat_ms.pre", r.LatMS.Pre, 0, 1e9)
	c.within("lat_ms.inv", r.LatMS.Inv, 0, 1e9)
	c.within("lat_ms.post", r.LatMS.Post, 0, 1e9)
	for i := range r.Items { // their number is bounded by MaxResult
		it := &r.Items[i]
		c.short("items.label", it.Label, 1024)
		c.within("items.area", float64(it.Area), 0, 1)
		c.count("items.points", len(it.Points), 1024)
		if m := it.Mask; m != nil {
			c.whole("items.mask.size", m.Size[0], 1, 1<<16)
			c.whole("items.mask.size", m.Size[1], 1, 1<<16)
		}
	}
	return c.err
}

// Validate says what is wrong with the message, nil when nothing is.
func (l *Lost) Validate() error {
	var c checker
	c.version(l.V)
	c.someText("id", l.ID, maxText)
	c.id("lost.class", l.Lost.Class)
	c.that(l.Lost.From >= 1 && l.Lost.From <= l.Lost.To, "lost: from %d to %d", l.Lost.From, l.Lost.To)
	c.that(l.Seq == l.Lost.To, "seq: %d is not lost.to, %d", l.Seq, l.Lost.To)
	c.id("lost.reason", l.Lost.Reason)
	return c.err
}

// Validate says what is wrong with the message, nil when nothing is.
func (g *BlockGet) Validate() error {
	var c checker
	c.version(g.V)
	c.digest("sha", g.SHA)
	c.that(g.From >= 0 && g.From < MaxBlocks, "from: %d is not within 0…%d", g.From, MaxBlocks-1)
	c.that(len(g.Bits) >= 1 && len(g.Bits) <= MaxBlocks/8, "bits: %d bytes, limit %d", len(g.Bits), MaxBlocks/8)
	c.that(g.Max >= 1 && g.Max <= MaxBlocks, "max: %d is not within 1…%d", g.Max, MaxBlocks)
	if g.Base != "" {
		c.digest("base", g.Base)
	}
	return c.err
}
