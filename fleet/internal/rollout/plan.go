package rollout

import (
	"errors"
	"fmt"
	"slices"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
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
	switch {
	case c.Revoked:
		t.Refusal = revoked()
	case c.Hello != nil: // one that was never seen will say itself what it cannot do
		t.Variant, t.Refusal = fit(m, pipeline, *c.Hello)
	}
	return t
}

// fit says which variant of a release a board would run, or why none.
func fit(m release.Manifest, pipeline string, h wire.Hello) (variant string, f *wire.Fault) {
	i := slices.IndexFunc(h.Pipelines, func(p wire.HelloPipeline) bool { return p.Name == pipeline })
	if i < 0 {
		return "", &wire.Fault{Code: CodePipeline, Text: fmt.Sprintf("the device has no pipeline %s", pipeline)}
	}
	if h.Pipelines[i].Pinned {
		return "", &wire.Fault{Code: CodePinned, Text: fmt.Sprintf("the device's own configuration names the model of %s; take it out there", pipeline)}
	}
	v, _, err := release.Pick(&m, release.BoardOf(h))
	var no *hal.Error
	if errors.As(err, &no) {
		return "", &wire.Fault{Code: string(no.Code), Text: no.Text}
	}
	return v.File.Name, nil
}
