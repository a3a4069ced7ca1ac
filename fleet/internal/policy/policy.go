// Package policy says how a rollout goes: in which phases, how many devices at a
// time, what has to hold before it goes on, and what happens when it does not. It is
// data; package rollout acts on it. The API and the command line share it.
package policy

import (
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Policy is how one rollout goes. The zero Policy means one phase with all devices
// and no condition. Percents are 0…100 and may have fractions.
type Policy struct {
	Phases []Phase `json:"phases,omitempty" maxItems:"16" doc:"In their order; none: all devices at once"`
	// Gates hold for every phase that has none of its own.
	Gates  *Gates `json:"gates,omitempty"`
	Errors Errors `json:"errors,omitzero"`
	// OnError is what a gate or the errors that fail lead to.
	OnError Action `json:"on_error,omitempty" enum:"pause,abort,revert" doc:"pause (the default); abort: who has it keeps it; revert: who has it goes back"`
	// Offline is how long a device may be away until nobody waits for it. It gets the
	// release when it comes back. 0: it is waited for.
	Offline Duration `json:"offline,omitempty" doc:"After so long without a connection a device is not waited for; it gets the release when it is back"`

	Concurrency int    `json:"concurrency,omitempty" minimum:"0" doc:"How many devices are at it at a time; 0: any number"`
	PerSite     int    `json:"per_site,omitempty" minimum:"0" doc:"The same, of one site"`
	SiteLabel   string `json:"site_label,omitempty" doc:"The label that names a device's site: site"`

	Start      time.Time  `json:"start,omitzero" doc:"Not before"`
	Membership Membership `json:"membership,omitempty" enum:"snapshot,dynamic" doc:"snapshot (the default): the devices of the group as it is now; dynamic: those that come into it later, too"`
	Order      Order      `json:"order,omitzero"`
}

// A Phase is a part of the devices. Exactly one of Count, Percent and Query says
// which: so many more; so many percent of all, with those of the phases before;
// those of a query that are in no phase before.
type Phase struct {
	Name    string   `json:"name" pattern:"^[a-z0-9-]{1,32}$"`
	Count   int      `json:"count,omitempty" minimum:"0" doc:"So many devices more"`
	Percent float64  `json:"percent,omitempty" minimum:"0" maximum:"100" doc:"Up to so many percent of all devices, those of the phases before included"`
	Query   string   `json:"query,omitempty" maxLength:"1024" doc:"The devices of a query"`
	Soak    Duration `json:"soak,omitempty" doc:"How long it is looked at before the next phase"`
	// Approval is the role of who has to say yes before the phase begins.
	Approval string `json:"approval,omitempty" enum:"operator,admin" doc:"Who has to approve before it begins"`
	Gates    *Gates `json:"gates,omitempty" doc:"Instead of the policy's"`
}

// Gates are the conditions to go on after a phase. What is absent is not looked at.
// Success is of all devices of the phase; each of the others is a limit, to which
// Share percent of the devices of every variant must keep.
type Gates struct {
	Success   float64  `json:"success_percent,omitempty" minimum:"0" maximum:"100" doc:"Of the devices must be done"`
	Crashes   *float64 `json:"crashes_percent,omitempty" minimum:"0" maximum:"100" doc:"Of a variant's devices may have a crash or a hang"`
	Fallback  *float64 `json:"fallback_percent,omitempty" minimum:"0" maximum:"100" doc:"Of a variant's devices may have lost their accelerator"`
	Slower    float64  `json:"slower_percent,omitempty" minimum:"0" doc:"A device's p50 in trial may be so many percent of what it was: 150 is half as slow again"`
	LatencyMS float64  `json:"latency_ms,omitempty" minimum:"0" doc:"A device's p50 in trial"`
	Agreement float64  `json:"agreement_percent,omitempty" minimum:"0" maximum:"100" doc:"Of a device's frames in shadow must agree"`
	Score     float64  `json:"score_percent,omitempty" minimum:"0" doc:"A device's mean score must be so many percent of what it was"`
	Drift     float64  `json:"drift_percent,omitempty" minimum:"0" maximum:"100" doc:"How far what a device's model names first may differ from before: 100 is entirely"`
	TempMax   float64  `json:"temp_max,omitempty" minimum:"0" maximum:"200" doc:"°C of a board in trial"`

	Share  float64 `json:"share_percent,omitempty" minimum:"0" maximum:"100" doc:"Of a variant's devices must keep to a limit: 90"`
	Sample int     `json:"sample,omitempty" minimum:"0" doc:"So many devices of a variant must have been measured, or all it has in the phase; 0: a measure that no device gives is no hindrance"`
	// Strict takes the phase for a sample of all boards there could ever be.
	Strict bool `json:"strict,omitempty" doc:"A phase that is too small to be sure by does not pass"`
}

// Errors is how many failures end a phase before its end.
type Errors struct {
	Percent float64 `json:"percent,omitempty" minimum:"0" maximum:"100" doc:"More of the phase's live devices failed; 0: not looked at"`
	Sample  int     `json:"sample,omitempty" minimum:"0" doc:"Not before so many are through, or all: 3"`
}

// An Action is what follows when a rollout must not go on.
type Action string

const (
	Pause  Action = "pause"  // order nothing more, wait for a person
	Abort  Action = "abort"  // end it; who has it keeps it
	Revert Action = "revert" // end it; who has it goes back to what ran before
)

// A Membership says which devices a rollout is of.
type Membership string

const (
	Snapshot Membership = "snapshot" // those of the group when it began
	Dynamic  Membership = "dynamic"  // and those that come into it later
)

// Order is how each device gets there, passed on as it is.
type Order struct {
	Mode      string                `json:"mode,omitempty" enum:"stage,activate" doc:"stage: download and verify, and wait for activate"`
	Consent   bool                  `json:"consent,omitempty" doc:"Somebody at home has to say install"`
	Window    *wire.Window          `json:"window,omitempty" doc:"When a device may try it, in its own time"`
	Rate      int64                 `json:"rate,omitempty" minimum:"0" doc:"Of a download, bytes a second"`
	BytesMax  int64                 `json:"bytes_max,omitempty" minimum:"0" doc:"What a device may download for it"`
	Probation *wire.ProbationLimits `json:"probation,omitempty" doc:"What it must keep to after the switch"`
	Shadow    *wire.ShadowRun       `json:"shadow,omitempty" doc:"How it is held against what runs, before the switch"`
}

// Release is what is wanted of a device: want, and this order about it.
func (o Order) Release(want wire.DesiredRelease) wire.DesiredRelease {
	want.Mode = o.mode()
	want.Consent, want.Window, want.Rate, want.BytesMax = o.Consent, o.Window, o.Rate, o.BytesMax
	want.Probation, want.Shadow = o.Probation, o.Shadow
	return want
}

func (o Order) mode() string {
	if o.Mode == "" {
		return wire.ModeActivate
	}
	return o.Mode
}

// Stages says whether devices stop when the release is staged.
func (o Order) Stages() bool { return o.mode() == wire.ModeStage }

// AtOnce is all devices in one phase, without a condition.
func AtOnce() Policy { return Policy{Phases: []Phase{{Name: "all", Percent: 100}}} }

// Default is what an operator gets who says nothing: a canary, a quarter, the rest,
// each looked at for a while.
func Default() Policy {
	none, few := 0.0, 5.0
	return Policy{
		Phases: []Phase{
			{Name: "canary", Percent: 5, Soak: Duration(10 * time.Minute)},
			{Name: "quarter", Percent: 25, Soak: Duration(10 * time.Minute)},
			{Name: "all", Percent: 100},
		},
		Gates:   &Gates{Success: 90, Crashes: &none, Fallback: &few, Slower: 150},
		Errors:  Errors{Percent: 10},
		OnError: Pause,
		Offline: Duration(24 * time.Hour),
	}
}

// Filled is p with what is absent as it is meant.
func (p Policy) Filled() Policy {
	if len(p.Phases) == 0 {
		p.Phases = AtOnce().Phases
	}
	if p.OnError == "" {
		p.OnError = Pause
	}
	if p.Membership == "" {
		p.Membership = Snapshot
	}
	if p.SiteLabel == "" {
		p.SiteLabel = "site"
	}
	if p.Errors.Sample == 0 {
		p.Errors.Sample = 3
	}
	p.Order.Mode = p.Order.mode()
	return p
}

// GatesOf is what holds for a phase, with what is absent as it is meant.
func (p Policy) GatesOf(i int) Gates {
	var g Gates
	switch own := p.Phases[i].Gates; {
	case own != nil:
		g = *own
	case p.Gates != nil:
		g = *p.Gates
	}
	if g.Share == 0 {
		g.Share = 90
	}
	return g
}

// A Duration is one that people can read and write: 90s, 10m, 24h.
type Duration time.Duration

// MarshalText gives 10m and not 10m0s.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String gives 10m and not 10m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	for _, tail := range []string{"m0s", "h0m"} {
		if len(s) > len(tail) && s[len(s)-len(tail):] == tail {
			s = s[:len(s)-2]
		}
	}
	return s
}

// UnmarshalText reads 90s, 10m, 24h.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}
