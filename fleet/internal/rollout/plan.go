package rollout

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A Candidate is what is known of one device when a rollout is planned. Hello
// and Reported are nil for a device that was never seen.
type Candidate struct {
	Device   wire.DeviceID
	Online   bool
	Site     string
	Revoked  bool
	Hello    *wire.Hello
	Reported *wire.Reported
	Wish     *wire.DesiredRelease // of the pipeline, as it is desired now
}

// A Target is one line of a plan: what a rollout would do to a device.
type Target struct {
	Device  wire.DeviceID
	Now     *wire.ReportedSlot // what runs; nil when nothing does, or it is not known
	Online  bool
	Site    string
	Variant string      // file of the release that fits; "" when not known
	SHA256  wire.Digest // of that file
	Bytes   int64       // of all files that the device needs; 0 when not known, or nothing is needed
	Phase   int         // index; -1: in none
	Attempt int
	Refusal *wire.Fault // why nothing would be done
}

// Plan says for each candidate what bringing a release to a pipeline would do.
// It is a pure function: a dry run.
func Plan(m release.Manifest, digest wire.Digest, pipeline string, cs []Candidate) []Target {
	ts := make([]Target, len(cs))
	for i, c := range cs {
		ts[i] = plan(m, digest, pipeline, c)
	}
	return ts
}

func plan(m release.Manifest, digest wire.Digest, pipeline string, c Candidate) Target {
	t := Target{Device: c.Device, Online: c.Online, Site: c.Site, Phase: -1, Attempt: attempt(pipeline, digest, c.Wish, c.Reported)}
	if c.Reported != nil {
		t.Now = c.Reported.Pipelines[pipeline].Active
	}
	switch {
	case c.Revoked:
		t.Refusal = revoked()
	case (m.Config != nil) != (pipeline == wire.ConfigPipeline):
		t.Refusal = astray(m, pipeline)
	case c.Hello != nil: // one that was never seen will say itself what it cannot do
		var v release.Variant
		if v, t.Refusal = fit(m, pipeline, *c.Hello); t.Refusal == nil {
			t.Variant, t.SHA256 = v.File.Name, wire.Digest(v.File.SHA256)
			if t.Now == nil || t.Now.Release != digest {
				for _, f := range m.FilesOf(v) {
					t.Bytes += f.Length
				}
			}
		}
	}
	return t
}

// astray is why no device takes a model as its configuration, nor the other way round.
func astray(m release.Manifest, pipeline string) *wire.Fault {
	text := fmt.Sprintf("%s %s is a release of a model: no pipeline %s runs one", m.Name, m.Version, pipeline)
	if m.Config != nil {
		text = fmt.Sprintf("%s %s is a release of configuration, and goes to the pipeline %s", m.Name, m.Version, wire.ConfigPipeline)
	}
	return &wire.Fault{Code: string(hal.CodeTarget), Text: text}
}

// fit says which variant of a release a board would run, or why none. A configuration
// has one file.
func fit(m release.Manifest, pipeline string, h wire.Hello) (v release.Variant, f *wire.Fault) {
	i := slices.IndexFunc(h.Pipelines, func(p wire.HelloPipeline) bool { return p.Name == pipeline })
	if i < 0 {
		return v, &wire.Fault{Code: CodePipeline, Text: fmt.Sprintf("the device has no pipeline %s", pipeline)}
	}
	switch {
	case h.Pipelines[i].Pinned && m.Config != nil:
		return v, &wire.Fault{Code: CodePinned, Text: "the device's own configuration takes none from its fleet (fleet.config)"}
	case h.Pipelines[i].Pinned:
		return v, &wire.Fault{Code: CodePinned, Text: fmt.Sprintf("the device's own configuration names the model of %s; take it out there", pipeline)}
	case m.Config != nil:
		return release.Variant{File: *m.Config}, nil
	}
	v, _, err := release.Pick(&m, release.BoardOf(h))
	var no *hal.Error
	if errors.As(err, &no) {
		return v, &wire.Fault{Code: string(no.Code), Text: no.Text}
	}
	return v, nil
}

// trialSeconds and planRate are what a plan reckons with where the policy does not
// say: how long a device tries a model, and how fast it downloads, bytes a second.
const (
	trialSeconds = 60
	planRate     = 1 << 20
)

// Expected is about how long the phases of a rollout take, when every device is there
// and nothing goes wrong. Windows and people that have to say yes are not in it.
func Expected(p policy.Policy, ts []Target) (all time.Duration) {
	p = p.Filled()
	for i, phase := range p.Phases {
		n, site := 0, map[string]int{}
		var bytes int64
		for _, t := range ts {
			if t.Phase == i && t.Refusal == nil {
				n++
				site[t.Site]++
				bytes = max(bytes, t.Bytes)
			}
		}
		if n == 0 {
			continue
		}
		waves := 1
		if p.Concurrency > 0 {
			waves = (n + p.Concurrency - 1) / p.Concurrency
		}
		for _, k := range site {
			if p.PerSite > 0 {
				waves = max(waves, (k+p.PerSite-1)/p.PerSite)
			}
		}
		all += time.Duration(waves)*once(p.Order, bytes) + time.Duration(phase.Soak)
	}
	return all
}

// once is how long one device takes.
func once(o policy.Order, bytes int64) time.Duration {
	rate := int64(planRate)
	if o.Rate > 0 {
		rate = o.Rate
	}
	d := time.Duration(bytes/rate) * time.Second
	if o.Stages() {
		return d
	}
	try := trialSeconds
	if o.Probation != nil && o.Probation.Seconds > 0 {
		try = o.Probation.Seconds
	}
	if o.Shadow != nil {
		try += o.Shadow.Seconds
	}
	return d + time.Duration(try)*time.Second
}
