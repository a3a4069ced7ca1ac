package rollout

import (
	"fmt"

	"github.com/covey-edge/covey/fleet/wire"
)

// Codes of faults that the controller finds by itself; the device's own are in
// package hal.
const (
	CodePipeline = "E_PIPELINE" // the device has no such pipeline
	CodePinned   = "E_PINNED"   // the device's own configuration names the model
	CodeRevoked  = "E_REVOKED"  // the device may no longer connect
	CodeDigest   = "E_DIGEST"   // the device says done, and runs something else
	CodeDesired  = "E_DESIRED"  // the device did not accept its desired document
	CodeBefore   = "E_BEFORE"   // there is nothing to go back to
)

// Step is x after a device's execution step. Steps are hints: they come late,
// twice and out of order, and none of them makes a success; Reported does.
func Step(r Rollout, x Execution, s wire.ExecStep) Execution {
	if s.Execution != x.ID || s.N <= x.N || s.Release != goal(r, x).Digest || x.State.Terminal() || !s.State.Valid() {
		return x
	}
	x.N, x.Done, x.Total, x.GapMS = s.N, s.Done, s.Total, max(x.GapMS, s.GapMS)
	x = x.with(s.Evidence)
	if s.State == wire.Succeeded || s.State == wire.AlreadyInstalled {
		return x
	}
	x.State, x.Fault = s.State, s.Fault
	return x
}

// Reported is x after what a device reported, which is the truth. An execution
// succeeded when the device says so and runs the desired digest. What is over stays
// over: an execution ends once, and what was canceled is no longer asked for.
func Reported(r Rollout, x Execution, rep wire.Reported) Execution {
	p, ok := rep.Pipelines[r.Pipeline]
	if ok && p.Execution == x.ID {
		return reportedSelf(r, x, p)
	}
	if x.Rev == 0 || rep.Rev < x.Rev || x.State.Terminal() {
		return x
	}
	switch {
	// A pipeline that is not there is no reason: an older wish may name it, and the
	// device does what it is asked for on the others.
	case rep.Error != nil && rep.Error.Code != CodePipeline:
		return reject(x, CodeDesired, rep.Error.Code+": "+rep.Error.Text)
	case !ok:
		return reject(x, CodePipeline, fmt.Sprintf("the device has no pipeline %s", r.Pipeline))
	case p.Pinned:
		return reject(x, CodePinned, fmt.Sprintf("the device's own configuration names the model of %s", r.Pipeline))
	}
	return x
}

// Revoked is x after its device was revoked: it will never hear of it.
func Revoked(x Execution) Execution {
	if x.State.Terminal() {
		return x
	}
	x.State, x.Fault = wire.Canceled, revoked()
	return x
}

func revoked() *wire.Fault {
	return &wire.Fault{Code: CodeRevoked, Text: "the device is revoked; it must join again"}
}

func reportedSelf(r Rollout, x Execution, p wire.ReportedPipeline) Execution {
	if !p.State.Valid() || x.State.Terminal() {
		return x
	}
	x.State, x.Fault = p.State, p.Fault
	x = x.with(p.Evidence)
	if p.State != wire.Succeeded && p.State != wire.AlreadyInstalled {
		return x
	}
	if p.Active != nil && p.Active.SHA256 != "" {
		x.Variant = p.Active.SHA256
	}
	if p.Active == nil || p.Active.Release != goal(r, x).Digest {
		runs := "nothing"
		if p.Active != nil {
			runs = p.Active.Name + "@" + p.Active.Version + " (" + p.Active.Release.Short() + ")"
		}
		x.State = wire.Failed
		x.Fault = &wire.Fault{Code: CodeDigest, Text: fmt.Sprintf("the device says %s, but runs %s", p.State, runs)}
	}
	return x
}

// with is x with what was measured.
func (x Execution) with(e *wire.Evidence) Execution {
	if e != nil {
		x.Evidence, x.Variant = e, e.Model
	}
	return x
}

func reject(x Execution, code, text string) Execution {
	x.State, x.Fault = wire.Rejected, &wire.Fault{Code: code, Text: text}
	return x
}

// attempt is the number under which a device is asked for a release: one more
// than the attempt that failed or was quarantined there, else as before, else 1.
func attempt(pipeline string, digest wire.Digest, wish *wire.DesiredRelease, rep *wire.Reported) int {
	n := 1
	if wish != nil && wish.Release == digest {
		n = max(n, wish.Attempt)
	}
	if rep == nil {
		return n
	}
	if p := rep.Pipelines[pipeline]; wish != nil && wish.Release == digest && p.Execution == wish.Execution && p.State.Terminal() && p.State.Word() == "failed" {
		n = max(n, wish.Attempt+1)
	}
	for _, q := range rep.Quarantine {
		if q.Release == digest {
			n = max(n, q.Attempt+1)
		}
	}
	return n
}

// wish is the entry of the desired document that asks for an execution. A device
// goes back at once: no window, no consent, no limits hold it up.
func wish(r Rollout, x Execution) wire.DesiredRelease {
	g := goal(r, x)
	w := wire.DesiredRelease{
		Release: g.Digest, Length: g.Length, Name: g.Name, Version: g.Version,
		Execution: x.ID, Attempt: x.Attempt, Mode: wire.ModeActivate,
	}
	if x.To == nil {
		w = r.Policy.Order.Release(w)
	}
	return w
}

// before is the present wish for a pipeline if the device has fulfilled it; nil
// otherwise, since going back to what never ran helps nobody.
func before(wishes map[string]wire.DesiredRelease, pipeline string, rep *wire.Reported) *wire.DesiredRelease {
	old, ok := wishes[pipeline]
	if !ok || rep == nil {
		return nil
	}
	if a := rep.Pipelines[pipeline].Active; a == nil || a.Release != old.Release {
		return nil
	}
	return &old
}
