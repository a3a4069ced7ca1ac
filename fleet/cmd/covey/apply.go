package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

// A fleetFile says what a fleet should run.
type fleetFile struct {
	Name     string                   `json:"name"`     // tells its rollouts from those of other files
	Groups   map[string]string        `json:"groups"`   // name → query
	Policies map[string]policy.Policy `json:"policies"` // name → how
	Releases []fleetRelease           `json:"releases"`
}

// A fleetRelease says what a pipeline of a group should run.
type fleetRelease struct {
	Group    string `json:"group"` // one of the groups, or a query itself
	Pipeline string `json:"pipeline"`
	Release  string `json:"release"`
	Policy   string `json:"policy"` // one of the policies; default, at-once
}

const (
	maxFleetFile = 256 << 10
	maxReleases  = 200
)

// parseFleetFile reads a file, strictly.
func parseFleetFile(b []byte) (f fleetFile, err error) {
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return f, err
	}
	j, err := json.Marshal(v)
	if err != nil {
		return f, err
	}
	d := json.NewDecoder(bytes.NewReader(j))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return f, f.validate()
}

func (f fleetFile) validate() error {
	if !wire.ValidID(f.Name) {
		return fmt.Errorf("name: %.40q, use [a-z0-9-]{1,32}", f.Name)
	}
	if len(f.Releases) > maxReleases {
		return fmt.Errorf("releases: %d, at most %d", len(f.Releases), maxReleases)
	}
	for name, p := range f.Policies {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("policy %.40s: %w", name, err)
		}
	}
	seen := map[string]int{}
	for i, r := range f.Releases {
		where := fmt.Sprintf("releases[%d]", i)
		switch _, known := f.policy(r); {
		case r.Group == "", r.Release == "", !wire.ValidID(r.Pipeline):
			return fmt.Errorf("%s: it needs group, pipeline and release", where)
		case !known:
			return fmt.Errorf("%s: there is no policy %.40q", where, r.Policy)
		}
		key := f.query(r) + "\x00" + r.Pipeline
		if j, twice := seen[key]; twice {
			return fmt.Errorf("%s: releases[%d] is of the same pipeline and group", where, j)
		}
		seen[key] = i
	}
	return nil
}

func (f fleetFile) query(r fleetRelease) string {
	if q, ok := f.Groups[r.Group]; ok {
		return q
	}
	return r.Group
}

// policy is how a release goes. Whoever comes into the group later gets it, too, unless
// the policy says otherwise: the file says how things should be, not what to do once.
func (f fleetFile) policy(r fleetRelease) (p policy.Policy, known bool) {
	p, known = f.Policies[r.Policy]
	switch {
	case known:
	case r.Policy == "" || r.Policy == "default":
		p, known = policy.Default(), true
	case r.Policy == "at-once":
		p, known = policy.AtOnce(), true
	}
	if p.Membership == "" {
		p.Membership = policy.Dynamic
	}
	return p, known
}

// A deviation is what a line of a file comes to.
type deviation struct {
	Sign     string      `json:"sign"` // + begins, = as it should be, ~ under way, ! waits for a person, - no longer wanted
	Query    string      `json:"query"`
	Pipeline string      `json:"pipeline"`
	Release  *v1.Release `json:"release,omitempty"`
	Rollout  string      `json:"rollout,omitempty"`
	What     string      `json:"what"`

	set   v1.Set
	plan  v1.Plan
	prune bool
}

func (a *app) apply() *cobra.Command {
	var file string
	var dry, prune, wait, yes bool
	c := &cobra.Command{
		Use: "apply", Short: "Make a fleet run what a file says", Args: cobra.NoArgs,
		Long: `Make a fleet run what a file says, by rollouts. Said twice it does nothing the second
time. What differs is shown and asked for first. A release that was aborted or taken back
is not begun again: name another one, or start it by hand.

  name: lyon                        # tells its rollouts from those of other files
  groups:
    lyon: site=lyon
  policies:
    careful:
      phases: [{name: canary, count: 1, soak: 1h}, {name: all, percent: 100}]
      on_error: revert
  releases:
    - {group: lyon, pipeline: cam, release: birds@1.1.0, policy: careful}
    - {group: all, pipeline: door, release: guards@2.0.0}    # the default policy

With --prune the rollouts that this file began before, and that it no longer names, are
aborted where they are not over: who has the release keeps it, nobody else gets it.

Each line begins with what comes of it: + a rollout begins, = it is as it should be,
~ it is under way, ! it waits for a person, - it is no longer in the file.`,
		Example: "  covey apply -f fleet.yaml\n  covey apply -f fleet.yaml --dry-run            # exit code 7 when something would change\n  covey apply -f fleet.yaml --prune --yes --wait  # as CI does",
	}
	c.Flags().StringVarP(&file, "file", "f", "", "the file, YAML or JSON; - is the input")
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done")
	c.Flags().BoolVar(&prune, "prune", false, "abort what the file no longer names")
	c.Flags().BoolVar(&wait, "wait", false, "follow what began to its end")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	_ = c.MarkFlagRequired("file") // the flag is there
	c.RunE = do(func(ctx context.Context, _ []string) error {
		b, err := readInput(file, a.in, maxFleetFile)
		if err != nil {
			return err
		}
		f, err := parseFleetFile(b)
		if err != nil {
			return usage("see covey apply --help", "%s: %s", file, err)
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		list, err := deviations(ctx, c, f)
		if err != nil {
			return err
		}
		if err := a.showDeviations(list); err != nil {
			return err
		}
		todo := slices.DeleteFunc(slices.Clone(list), func(d deviation) bool { return d.Sign != "+" && !(d.prune && prune) })
		switch {
		case dry && len(todo) > 0:
			return &failure{code: exitDiffers, what: plural(len(todo), "thing") + " would be changed"}
		case len(todo) == 0:
			return stuck(list)
		}
		if err := a.confirm(yes, "change "+plural(len(todo), "thing")+"?"); err != nil {
			return err
		}
		if err := a.change(ctx, c, todo, wait); err != nil {
			return err
		}
		return stuck(list)
	})
	return c
}

// deviations holds a file against the fleet. Nothing is changed.
func deviations(ctx context.Context, c *client, f fleetFile) (list []deviation, err error) {
	var have v1.Rollouts
	if err := c.call(ctx, "GET", "/v1/rollouts?limit="+strconv.Itoa(v1.MaxPage), nil, &have); err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, r := range f.Releases {
		how, _ := f.policy(r)
		d := deviation{Query: f.query(r), Pipeline: r.Pipeline}
		d.set = v1.Set{Query: d.Query, Pipeline: r.Pipeline, Release: r.Release, Policy: &how, Apply: f.Name}
		if err := c.call(ctx, "POST", "/v1/plan", d.set, &d.plan); err != nil {
			return nil, err
		}
		d.Release = &d.plan.Release
		d.set.Release, d.set.Devices = string(d.plan.Release.Digest), len(d.plan.Targets) // exactly what was planned
		i := slices.IndexFunc(have.Rollouts, func(h v1.Rollout) bool { return h.Query == d.Query && h.Pipeline == d.Pipeline })
		var newest *v1.Rollout
		if i >= 0 {
			newest = &have.Rollouts[i]
		}
		d.compare(newest, how)
		list = append(list, d)
		wanted[d.Query+"\x00"+d.Pipeline] = true
	}
	for _, h := range have.Rollouts {
		if h.Apply != f.Name || wanted[h.Query+"\x00"+h.Pipeline] || !h.Ended.IsZero() && !h.Tail {
			continue
		}
		switch h.State {
		case wire.RolloutAborted, wire.RolloutRollingBack, wire.RolloutRolledBack:
			continue // somebody has ended it; what still goes on is its ending
		}
		list = append(list, deviation{Sign: "-", Query: h.Query, Pipeline: h.Pipeline, Release: &h.Release, Rollout: h.ID, What: "no longer in the file, and " + string(h.State), prune: true})
	}
	return list, nil
}

// compare says what a line comes to, by the newest rollout of its group and pipeline.
func (d *deviation) compare(newest *v1.Rollout, how policy.Policy) {
	refused := 0
	for _, t := range d.plan.Targets {
		if t.Refusal != nil {
			refused++
		}
	}
	begin := plural(len(d.plan.Targets), "device") + " in " + plural(max(1, len(how.Phases)), "phase")
	if refused > 0 {
		begin += fmt.Sprintf(", %d cannot take it", refused)
	}
	if newest == nil || newest.Release.Digest != d.plan.Release.Digest {
		d.Sign, d.What = "+", begin
		if newest != nil {
			d.What += ", after " + newest.Release.String()
		}
		return
	}
	d.Rollout = newest.ID
	state := strings.TrimSuffix(string(newest.State)+": "+newest.Reason, ": ")
	switch newest.State {
	case wire.RolloutCompleted:
		d.Sign, d.What = "=", "as it should be"
		if n := newest.Devices - newest.Counts[wire.Succeeded] - newest.Counts[wire.AlreadyInstalled]; n > 0 {
			d.What += fmt.Sprintf(", but on %d of %s", n, plural(newest.Devices, "device"))
		}
	case wire.RolloutRunning, wire.RolloutScheduled:
		d.Sign, d.What = "~", state
	default:
		d.Sign, d.What = "!", state
	}
}

func (a *app) showDeviations(list []deviation) error {
	if a.json {
		return encode(a.out, list)
	}
	var rows [][]string
	for _, d := range list {
		for _, w := range d.plan.Warnings {
			fmt.Fprintln(a.err, a.paint(yellow, "warning: "+clean(w)))
		}
		rows = append(rows, []string{d.Sign, d.Pipeline, d.Query, d.Release.String(), d.What})
	}
	if len(rows) > 0 {
		a.table([]string{" ", "PIPELINE", "DEVICES", "RELEASE", "IS"}, rows)
	}
	return nil
}

// change does what differs.
func (a *app) change(ctx context.Context, c *client, todo []deviation, wait bool) error {
	var began []string
	for _, d := range todo {
		if d.prune {
			if err := c.call(ctx, "POST", "/v1/rollouts/"+url.PathEscape(d.Rollout)+"/abort", nil, nil); err != nil {
				return err
			}
			a.tell("rollout %s is aborted\n", d.Rollout)
			continue
		}
		var r v1.RolloutDetail
		if err := c.call(ctx, "POST", "/v1/rollouts", d.set, &r); err != nil {
			return err
		}
		a.tell("rollout %s: %s → %s on %s%s\n", r.ID, r.Pipeline, r.Release, plural(r.Devices, "device"), inPhases(r.Rollout))
		began = append(began, r.ID)
	}
	var first error
	for _, id := range began {
		if !wait {
			break
		}
		if err := a.follow(ctx, c, id); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// tell says what was done; with --json what is printed stays one document.
func (a *app) tell(format string, args ...any) {
	var w io.Writer = a.out
	if a.json {
		w = a.err
	}
	fmt.Fprintf(w, format, args...)
}

// stuck is a failure when something waits for a person.
func stuck(list []deviation) error {
	for _, d := range list {
		if d.Sign == "!" {
			return &failure{code: exitRollout, what: fmt.Sprintf("%s of %s does not go on: rollout %s is %s", d.Pipeline, d.Query, d.Rollout, d.What), fix: "covey rollout show " + d.Rollout}
		}
	}
	return nil
}
