package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

// policyFlags are how a rollout goes, as it is said on a command line.
type policyFlags struct {
	file        string
	atOnce      bool
	phases      string
	soak        time.Duration
	approval    string
	onError     string
	offline     time.Duration
	concurrency int
	perSite     int
	start       string
	dynamic     bool
	stage       bool
	consent     bool
	window      string
	windowFor   time.Duration
	rate        string
	bytesMax    string
	shadow      int

	cmd *cobra.Command
}

const policyHelp = `Without a word about how, it goes to 5 % of the devices first, then to 25 %, then to
all. Each phase is looked at for ten minutes. It pauses when more than a tenth of a
phase's devices fail, when a model crashes, takes half as long again as the one before,
or loses its accelerator. A device that is away for a day is not waited for.

A policy says it otherwise, in YAML or JSON:

  phases:
    - {name: canary, count: 2, soak: 1h}
    - {name: lyon, query: site=lyon, soak: 30m, approval: admin}
    - {name: all, percent: 100}
  gates: {success_percent: 95, crashes_percent: 0, slower_percent: 130, fallback_percent: 5}
  errors: {percent: 5, sample: 5}
  on_error: revert          # or pause, abort
  offline: 24h
  per_site: 3               # devices of a site at a time
  order:
    window: {cron: "0 2 * * *", minutes: 180}
    rate: 500000            # bytes a second
    shadow: {frames: 500}

Flags change what the policy says.`

func (p *policyFlags) add(c *cobra.Command) {
	p.cmd = c
	f := c.Flags()
	f.StringVar(&p.file, "policy", "", "file that says how, YAML or JSON; - is the input")
	f.BoolVar(&p.atOnce, "all-at-once", false, "to all devices in one phase, without a condition")
	f.StringVar(&p.phases, "phases", "", "such as 1,10%,100%: so many devices, then up to so many percent of all")
	f.DurationVar(&p.soak, "soak", 0, "how long each phase but the last is looked at")
	f.StringVar(&p.approval, "approval", "", "role that has to approve before the last phase: operator, admin")
	f.StringVar(&p.onError, "on-error", "", "pause, abort (who has it keeps it) or revert (who has it goes back)")
	f.DurationVar(&p.offline, "offline", 0, "how long a device may be away until it is not waited for")
	f.IntVar(&p.concurrency, "concurrency", 0, "how many devices are at it at a time")
	f.IntVar(&p.perSite, "per-site", 0, "the same, of one site (the label site)")
	f.StringVar(&p.start, "start", "", "not before: 2026-01-31T02:00:00Z, or 8h for in eight hours")
	f.BoolVar(&p.dynamic, "dynamic", false, "also to devices that come into the group later")
	f.BoolVar(&p.stage, "stage", false, "only download and verify; covey rollout activate does the rest")
	f.BoolVar(&p.consent, "consent", false, "somebody at home has to say install")
	f.StringVar(&p.window, "window", "", "when a device may try it, in its own time: a cron line such as \"0 2 * * *\"")
	f.DurationVar(&p.windowFor, "window-for", 3*time.Hour, "how long the window is open")
	f.StringVar(&p.rate, "rate", "", "of a download, bytes a second: 500k, 2M")
	f.StringVar(&p.bytesMax, "bytes-max", "", "what a device may download for it: 20M")
	f.IntVar(&p.shadow, "shadow", 0, "frames on which it is held against what runs, before the switch")
	c.MarkFlagsMutuallyExclusive("policy", "all-at-once", "phases")
	completeFlag(c, "on-error", string(policy.Pause), string(policy.Abort), string(policy.Revert))
	completeFlag(c, "approval", "operator", "admin")
}

// policy is what file and flags say together.
func (p *policyFlags) policy(in io.Reader) (out policy.Policy, err error) {
	switch {
	case p.file != "":
		if out, err = readPolicy(p.file, in); err != nil {
			return out, err
		}
	case p.atOnce:
		out = policy.AtOnce()
	default:
		out = policy.Default()
	}
	set := p.cmd.Flags().Changed
	if set("phases") {
		if out.Phases, err = parsePhases(p.phases, out.Phases[0].Soak); err != nil {
			return out, err
		}
	}
	for i := range out.Phases {
		if set("soak") && i < len(out.Phases)-1 {
			out.Phases[i].Soak = policy.Duration(p.soak)
		}
	}
	if n := len(out.Phases); set("approval") && n > 0 {
		out.Phases[n-1].Approval = p.approval
	}
	if set("on-error") {
		out.OnError = policy.Action(p.onError)
	}
	if set("offline") {
		out.Offline = policy.Duration(p.offline)
	}
	if set("concurrency") {
		out.Concurrency = p.concurrency
	}
	if set("per-site") {
		out.PerSite = p.perSite
	}
	if p.dynamic {
		out.Membership = policy.Dynamic
	}
	if set("start") {
		if out.Start, err = parseStart(p.start); err != nil {
			return out, err
		}
	}
	if err := p.order(&out.Order); err != nil {
		return out, err
	}
	if err := out.Validate(); err != nil {
		return out, usage("see covey rollout start --help", "%s", err)
	}
	return out, nil
}

// order is how each device gets there.
func (p *policyFlags) order(o *policy.Order) (err error) {
	set := p.cmd.Flags().Changed
	if p.stage {
		o.Mode = wire.ModeStage
	}
	o.Consent = o.Consent || p.consent
	if set("window") {
		o.Window = &wire.Window{Cron: p.window, Minutes: int(p.windowFor.Minutes())}
	}
	if set("rate") {
		if o.Rate, err = parseSize(p.rate); err != nil {
			return err
		}
	}
	if set("bytes-max") {
		if o.BytesMax, err = parseSize(p.bytesMax); err != nil {
			return err
		}
	}
	if set("shadow") {
		o.Shadow = &wire.ShadowRun{Frames: p.shadow}
	}
	return nil
}

// readPolicy reads a file of YAML, of which JSON is a part.
func readPolicy(name string, in io.Reader) (p policy.Policy, err error) {
	b, err := readInput(name, in, policy.MaxJSON)
	if err != nil {
		return p, err
	}
	if p, err = policyOf(b); err != nil {
		return p, usage("see covey rollout start --help", "%s: %s", name, err)
	}
	return p, nil
}

func policyOf(b []byte) (p policy.Policy, err error) {
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return p, err
	}
	j, err := json.Marshal(v)
	if err != nil {
		return p, err
	}
	return policy.Parse(j)
}

// readInput reads a file, or the input where it is called -, of at most limit bytes.
func readInput(name string, in io.Reader, limit int64) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usage("", "%s", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = usage("", "%s is longer than %d bytes", name, limit)
	}
	return b, err
}

// parsePhases reads 1,10%,100%. A phase may have a name: canary=1.
func parsePhases(s string, soak policy.Duration) (list []policy.Phase, err error) {
	parts := strings.Split(s, ",")
	for i, part := range parts {
		name, much, named := strings.Cut(strings.TrimSpace(part), "=")
		if !named {
			much, name = name, "phase-"+strconv.Itoa(i+1)
			switch i {
			case len(parts) - 1:
				name = "all"
			case 0:
				name = "canary"
			}
		}
		p := policy.Phase{Name: name}
		if percent, ok := strings.CutSuffix(much, "%"); ok {
			p.Percent, err = strconv.ParseFloat(percent, 64)
		} else {
			p.Count, err = strconv.Atoi(much)
		}
		if err != nil {
			return nil, usage("--phases 1,10%,100%", "--phases: %q is neither a number of devices nor percent", part)
		}
		if i < len(parts)-1 {
			p.Soak = soak
		}
		list = append(list, p)
	}
	return list, nil
}

// parseStart reads a moment, or how long it is until then.
func parseStart(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(d).UTC().Truncate(time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, usage("--start 2026-01-31T02:00:00Z, or --start 8h", "--start: %q is no moment", s)
	}
	return t, nil
}

// parseSize reads 500, 500k, 20M, 1G.
func parseSize(s string) (int64, error) {
	unit := int64(1)
	for suffix, u := range map[string]int64{"k": 1000, "M": 1000_000, "G": 1000_000_000} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = n, u
		}
	}
	n, err := strconv.ParseInt(s, 10, 40)
	if err != nil || n < 0 {
		return 0, usage("such as 500k or 20M", "%q is no number of bytes", s)
	}
	return n * unit, nil
}

// about is a duration roughly, for a plan.
func about(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	switch {
	case d < time.Minute:
		return "a minute"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
