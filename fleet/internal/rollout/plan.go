package rollout

import (
	"fmt"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

// A Candidate is what is known of one device when a rollout is planned. Hello
// and Reported are nil for a device that was never seen.
type Candidate struct {
	Device   wire.DeviceID
	Revoked  bool
	Hello    *wire.Hello
	Reported *wire.Reported
	Wish     *wire.DesiredRelease // of the pipeline, as it is desired now
}

// A Target is one line of a plan: what a rollout would do to a device.
type Target struct {
	Device  wire.DeviceID
	Now     *wire.ReportedSlot // what runs; nil when nothing does, or it is not known
	Variant string             // file of the release that fits; "" when not known
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
	t := Target{Device: c.Device, Attempt: attempt(pipeline, digest, c.Wish, c.Reported)}
	if c.Reported != nil {
		t.Now = c.Reported.Pipelines[pipeline].Active
	}
	if c.Hello != nil {
		if v := fit(m.Variants, *c.Hello); v != nil {
			t.Variant = v.File.Name
		}
	}
	t.Refusal = refusal(m, pipeline, c, t.Variant)
	return t
}

func refusal(m release.Manifest, pipeline string, c Candidate, variant string) *wire.Fault {
	if c.Revoked {
		return &wire.Fault{Code: CodeRevoked, Text: "the device is revoked; it must join again"}
	}
	if c.Hello == nil {
		return nil // never seen: it will say itself what it cannot do
	}
	pinned, ok := hasPipeline(pipeline, c)
	if !ok {
		return &wire.Fault{Code: CodePipeline, Text: fmt.Sprintf("the device has no pipeline %s", pipeline)}
	}
	if pinned {
		return &wire.Fault{Code: CodePinned, Text: fmt.Sprintf("the device's own configuration names the model of %s; take it out there", pipeline)}
	}
	if variant == "" {
		return &wire.Fault{Code: CodeVariant, Text: fmt.Sprintf("no file of %s@%s runs on %s with %d MiB of memory and the engines there", m.Name, m.Version, c.Hello.Arch, c.Hello.RAM>>20)}
	}
	return nil
}

func hasPipeline(pipeline string, c Candidate) (pinned, ok bool) {
	for _, p := range c.Hello.Pipelines {
		if p.Name == pipeline {
			return p.Pinned, true
		}
	}
	return false, false
}

// fit is the first variant that a board can run, nil when there is none.
func fit(vs []release.Variant, h wire.Hello) *release.Variant {
	for i, v := range vs {
		if (v.Arch == "" || v.Arch == h.Arch) && (h.RAM == 0 || v.MinRAM <= h.RAM) && runs(v, h) {
			return &vs[i]
		}
	}
	return nil
}

func runs(v release.Variant, h wire.Hello) bool {
	if _, ok := h.Runtimes[v.Engine]; ok && v.Accelerator == "" {
		return true
	}
	for _, a := range h.Accelerators {
		if a.Engine == v.Engine && (v.Accelerator == "" || v.Accelerator == a.Accelerator) {
			return true
		}
	}
	return false
}
