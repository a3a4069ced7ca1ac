package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

func (a *app) set() *cobra.Command {
	var b bringing
	c := &cobra.Command{
		Use: "set <device|query> <pipeline>=<release>", Short: "Bring a release to a device, or to many at once", Args: cobra.ExactArgs(2),
		Long: `Bring a release to a pipeline of a device, or of every device of a query, all at once.
More than one device is said and asked for first. The old model keeps running until the
new one has proved itself; if it does not, the device goes back by itself. For many
devices, covey rollout start goes in phases.

` + queryHelp + `

` + releaseHelp,
		Example: `  covey set pi-porch cam=mobilenet@1.1.0 --wait
  covey set 'site == berlin and arch == arm64' cam=mobilenet --dry-run
  covey set all cam=3f2a9c01 --yes`,
		ValidArgsFunction: a.completeBring,
	}
	b.add(c)
	c.Flags().BoolVar(&b.dry, "dry-run", false, "only say what would be done")
	c.RunE = do(func(ctx context.Context, args []string) error { return a.bring(ctx, args, nil, b) })
	return c
}

const releaseHelp = `A release is named name@version, name (the newest), or by the beginning of its
digest.`

// bringing is what starting a rollout has in common with set.
type bringing struct{ yes, wait, dry, draft bool }

func (b *bringing) add(c *cobra.Command) {
	c.Flags().BoolVar(&b.yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&b.wait, "wait", false, "follow the rollout to its end")
}

// bring starts a rollout, or only says what it would do. how may be nil: all at once.
func (a *app) bring(ctx context.Context, args []string, how *policy.Policy, b bringing) error {
	pipeline, rel, ok := strings.Cut(args[1], "=")
	if !ok || pipeline == "" || rel == "" {
		return usage("covey set pi-porch cam=mobilenet@1.1.0", "%q is not <pipeline>=<release>", args[1])
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	req := v1.Set{Query: args[0], Pipeline: pipeline, Release: rel, Policy: how, Draft: b.draft}
	var p v1.Plan
	if err := c.call(ctx, "POST", "/v1/plan", req, &p); err != nil {
		return err
	}
	for _, w := range p.Warnings {
		fmt.Fprintln(a.err, a.paint(yellow, "warning: "+clean(w)))
	}
	if b.dry {
		return a.showPlan(p, how)
	}
	req.Devices = len(p.Targets)
	req.Release = string(p.Release.Digest) // exactly what was planned
	if n := len(p.Targets); n > 1 {
		if err := a.confirm(b.yes, a.question(p)); err != nil {
			return err
		}
	}
	var r v1.RolloutDetail
	if err := c.call(ctx, "POST", "/v1/rollouts", req, &r); err != nil {
		return err
	}
	if b.wait {
		return a.follow(ctx, c, r.ID)
	}
	return a.said(r, "rollout %s: %s → %s on %s%s\n", r.ID, r.Pipeline, r.Release, plural(r.Devices, "device"), inPhases(r.Rollout))
}

// inPhases is how many devices each phase has, where there are some.
func inPhases(r v1.Rollout) string {
	var parts []string
	for _, p := range r.Phases {
		if p.Devices > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", p.Name, p.Devices))
		}
	}
	if len(parts) < 2 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}

// question says what is about to happen to how many devices.
func (a *app) question(p v1.Plan) string {
	no := 0
	for _, t := range p.Targets {
		if t.Refusal != nil {
			no++
		}
	}
	q := fmt.Sprintf("bring %s to %s of %s", p.Release, p.Pipeline, plural(len(p.Targets), "device"))
	if no > 0 {
		q += fmt.Sprintf(" (%d of them cannot take it, see --dry-run)", no)
	}
	return q + "?"
}

// showPlan prints a line for each device, and what comes of all.
func (a *app) showPlan(p v1.Plan, how *policy.Policy) error {
	if a.json {
		return encode(a.out, p)
	}
	phased := how != nil && len(how.Phases) > 1
	head := []string{"DEVICE", "STATE", "NOW", "THEN", "FILE", "ATTEMPT", "REASON"}
	if phased {
		head = []string{"DEVICE", "PHASE", "STATE", "NOW", "THEN", "FILE", "SIZE", "ATTEMPT", "REASON"}
	}
	var rows [][]string
	for _, t := range p.Targets {
		row := []string{string(t.Device), t.State, "", p.Release.String(), t.Variant, strconv.Itoa(t.Attempt), fault(t.Refusal)}
		if t.Now != nil {
			row[2] = t.Now.String()
		}
		if t.Refusal != nil {
			row[3] = "refused"
		} else if t.Phase == "" {
			row[3], row[6] = "left out", "it is in no phase"
		}
		if phased {
			much := ""
			if t.Bytes > 0 {
				much = size(t.Bytes)
			}
			row = slices.Insert(slices.Insert(row, 5, much), 1, t.Phase)
		}
		rows = append(rows, row)
	}
	if phased { // in the order in which they get it
		at := map[string]int{"": len(how.Phases)}
		for i, ph := range how.Phases {
			at[ph.Name] = i
		}
		slices.SortStableFunc(rows, func(x, y []string) int { return at[x[1]] - at[y[1]] })
	}
	a.table(head, rows)
	if phased {
		fmt.Fprintf(a.out, "\n%s\n", a.sum(p, *how))
	}
	return nil
}

// sum is a plan in one line.
func (a *app) sum(p v1.Plan, how policy.Policy) string {
	n, bytes, no, out := map[string]int{}, int64(0), 0, 0
	for _, t := range p.Targets {
		switch {
		case t.Refusal != nil:
			no++
		case t.Phase == "":
			out++
		default:
			n[t.Phase]++
			bytes += t.Bytes
		}
	}
	var parts []string
	for _, ph := range how.Phases {
		part := fmt.Sprintf("%s %d", ph.Name, n[ph.Name])
		if ph.Approval != "" {
			part += " (when an " + ph.Approval + " approves)"
		}
		parts = append(parts, part)
	}
	s := strings.Join(parts, ", then ") + "; about " + about(p.Seconds) + " in all, " + size(bytes)
	if no > 0 {
		s += fmt.Sprintf("; %d cannot take it", no)
	}
	if out > 0 {
		s += fmt.Sprintf("; %d left out", out)
	}
	return s
}

func (a *app) rollout() *cobra.Command {
	c := group("rollout", "Bring a release to many devices: in phases, watched, with a way back", a.rolloutPlan(), a.rolloutStart(), a.rolloutList(), a.rolloutShow(), a.rolloutWatch())
	for _, w := range orders {
		c.AddCommand(a.rolloutOrder(w))
	}
	return c
}

func (a *app) rolloutPlan() *cobra.Command {
	var p policyFlags
	c := &cobra.Command{
		Use: "plan <device|query> <pipeline>=<release>", Short: "Say what a rollout would do, and do nothing", Args: cobra.ExactArgs(2),
		Long:              "Name every device with its phase, what it runs, what it would run, how much it would\ndownload, or why it cannot. Nothing is changed.\n\n" + policyHelp,
		Example:           "  covey rollout plan site=berlin cam=mobilenet\n  covey rollout plan all cam=mobilenet@1.1.0 --policy careful.yaml --json",
		ValidArgsFunction: a.completeBring,
	}
	p.add(c)
	c.RunE = do(func(ctx context.Context, args []string) error {
		how, err := p.policy(a.in)
		if err != nil {
			return err
		}
		return a.bring(ctx, args, &how, bringing{dry: true})
	})
	return c
}

func (a *app) rolloutStart() *cobra.Command {
	var p policyFlags
	var b bringing
	c := &cobra.Command{
		Use: "start <device|query> <pipeline>=<release>", Short: "Bring a release to devices, phase by phase", Args: cobra.ExactArgs(2),
		Long: "Bring a release to a pipeline of every device of a query, phase by phase.\n\n" + policyHelp + "\n\n" + queryHelp + "\n\n" + releaseHelp,
		Example: `  covey rollout start all cam=mobilenet@1.1.0 --wait
  covey rollout start site=berlin cam=mobilenet --phases 2,20%,100% --soak 1h --on-error revert
  covey rollout start all cam=mobilenet --stage --rate 200k       # download now, activate later
  covey rollout start all cam=mobilenet --policy careful.yaml --start 2026-01-31T02:00:00Z`,
		ValidArgsFunction: a.completeBring,
	}
	p.add(c)
	b.add(c)
	c.Flags().BoolVar(&b.draft, "draft", false, "store it only; covey rollout resume begins it")
	c.RunE = do(func(ctx context.Context, args []string) error {
		how, err := p.policy(a.in)
		if err != nil {
			return err
		}
		return a.bring(ctx, args, &how, b)
	})
	return c
}

// An order is what one may do to a rollout.
type order struct{ name, short, long, said, example string }

var orders = []order{
	{"pause", "Order nothing more", "Order nothing more. Devices that are at it go on; covey rollout resume orders again.", "pauses", ""},
	{"resume", "Go on after a pause, or begin a draft", "Go on after a pause, or begin a draft. Failures so far are forgiven, and the gates of a\nphase that failed are asked again; covey rollout approve lets it pass whatever they say.", "goes on", ""},
	{"approve", "Let a phase begin that waits for you, or pass though it failed", "Say yes to what the rollout waits for: a phase that somebody of a role has to approve\nbefore it begins, or one that failed or whose gates wait, which passes by your word. Your\nname is kept with it.", "is approved", ""},
	{"abort", "Stop a rollout", "Stop a rollout. Devices that are done keep the release; the others keep, or go back\nto, what they ran before.", "is aborted", ""},
	{"revert", "Stop a rollout, and take it back", "Stop a rollout, also one that is over, and bring every device that runs the release by\nit back to what it ran before. A device that was asked for something else since, or that\nran nothing of the fleet before, keeps what it runs. covey rollout watch follows it.", "goes back", ""},
	{"retry", "Ask the devices that failed again", "Ask the devices that failed again, with a new attempt each. Those that cannot take the\nrelease at all are left alone.", "tries again", ""},
	{"activate", "Let devices run what was staged", "Let devices run what a rollout with --stage has brought them, phase by phase as before.", "is activated", ""},
}

func (a *app) rolloutOrder(o order) *cobra.Command {
	return &cobra.Command{
		Use: o.name + " <rollout>", ValidArgsFunction: a.completeRollout, Short: o.short, Args: cobra.ExactArgs(1), Long: o.long,
		Example: "  covey rollout " + o.name + " ro-abcdefghijklmnop",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var r v1.Rollout
			if err := c.call(ctx, "POST", "/v1/rollouts/"+url.PathEscape(args[0])+"/"+o.name, nil, &r); err != nil {
				return err
			}
			return a.said(r, "rollout %s %s\n", r.ID, o.said)
		}),
	}
}

func (a *app) rolloutList() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List rollouts, newest first", Args: cobra.NoArgs,
		Example: "  covey rollout list\n  covey rollout list --json | jq '.[] | select(.state==\"RUNNING\")'",
	}
	c.Flags().IntVar(&limit, "limit", 20, "how many at most")
	c.RunE = do(func(ctx context.Context, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		var list v1.Rollouts
		if err := c.call(ctx, "GET", "/v1/rollouts?limit="+strconv.Itoa(limit), nil, &list); err != nil {
			return err
		}
		if a.json {
			return encode(a.out, list.Rollouts)
		}
		if len(list.Rollouts) == 0 {
			fmt.Fprintln(a.err, "no rollouts; start one with: covey set <device> <pipeline>=<release>")
			return nil
		}
		var rows [][]string
		for _, r := range list.Rollouts {
			rows = append(rows, []string{r.ID, r.Query, r.Pipeline, r.Release.String(), string(r.State), progress(r.Counts, r.Back), a.ago(r.Created), r.By})
		}
		a.table([]string{"ROLLOUT", "DEVICES", "PIPELINE", "RELEASE", "STATE", "PROGRESS", "STARTED", "BY"}, rows)
		return nil
	})
	return c
}

func (a *app) rolloutShow() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "show <rollout>", Short: "Show a rollout: phases, gates, devices, and who did what", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRollout,
		Example: "  covey rollout show ro-abcdefghijklmnop\n  covey rollout show ro-abcdefghijklmnop --json | jq .policy",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var r v1.RolloutDetail
			if err := c.call(ctx, "GET", "/v1/rollouts/"+url.PathEscape(args[0]), nil, &r); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, r)
			}
			a.showRollout(r, all)
			return nil
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "all that was ever done to it, and the attempts before the last")
	return c
}

// shownActs is how much of a rollout's history is shown unless all is asked for.
const shownActs = 8

func (a *app) showRollout(r v1.RolloutDetail, all bool) {
	state := string(r.State)
	if r.Cause != "" {
		state += " (" + r.Cause + ")"
	}
	a.pairs("rollout", r.ID, "state", state, "reason", r.Reason, "release", r.Release.String()+" ("+r.Release.Digest.Short()+")", "pipeline", r.Pipeline,
		"devices", r.Query+": "+progress(r.Counts, r.Back), "started", a.ago(r.Created)+" by "+r.By)
	fmt.Fprintln(a.out)
	if len(r.Phases) > 1 {
		a.phases(r.Rollout)
		a.gates(r.Rollout)
		fmt.Fprintln(a.out)
	}
	xs := r.Executions
	if all {
		xs = append(slices.Clone(r.Earlier), xs...)
		slices.SortStableFunc(xs, func(x, y v1.Execution) int { return strings.Compare(string(x.Device), string(y.Device)) })
	}
	var rows [][]string
	for _, x := range xs {
		row := []string{string(x.Device), word(x), string(x.State), strconv.Itoa(x.Attempt), a.ago(x.Updated), outcome(x)}
		if len(r.Phases) > 1 {
			row = slices.Insert(row, 3, x.Phase)
		}
		rows = append(rows, row)
	}
	head := []string{"DEVICE", "IS", "STATE", "ATTEMPT", "SINCE", "REASON"}
	if len(r.Phases) > 1 {
		head = slices.Insert(head, 3, "PHASE")
	}
	a.table(head, rows)
	h, older := r.History, 0
	if !all && len(h) > shownActs {
		older = len(h) - shownActs
		h = h[older:]
	}
	fmt.Fprintln(a.out)
	if older > 0 {
		fmt.Fprintf(a.out, "%d older with --all\n", older)
	}
	for _, e := range h {
		by := e.By
		if by == "" {
			by = "policy"
		}
		fmt.Fprintf(a.out, "%s  %s: %s\n", a.paint(dim, a.ago(e.At)), clean(by), clean(e.What))
	}
}

// word is how an execution stands, for people.
func word(x v1.Execution) string {
	if w := x.State.Word(); x.Back == nil || w == "failed" {
		return w
	} else if w == "done" {
		return "back"
	}
	return "going back"
}

// progress counts devices by the words that people see, of which back are back.
func progress(counts map[wire.ExecState]int, back int) string {
	if back == 0 {
		return words(counts)
	}
	counts = ahead(counts, back)
	s := fmt.Sprintf("%d back", back)
	if w := words(counts); w != "" {
		s += ", " + w
	}
	return s
}

// ahead is counts without the devices that are back, whose executions succeeded at that.
func ahead(counts map[wire.ExecState]int, back int) map[wire.ExecState]int {
	counts = maps.Clone(counts)
	for _, s := range []wire.ExecState{wire.Succeeded, wire.AlreadyInstalled} {
		n := min(back, counts[s])
		counts[s] -= n
		back -= n
	}
	return counts
}

// outcome is why it failed, or what it cost.
func outcome(x v1.Execution) string {
	if x.Kept != "" {
		return "did not go back: " + x.Kept
	}
	if f := fault(x.Fault); f != "" || x.GapMS == 0 {
		return f
	}
	return fmt.Sprintf("nothing ran for %.1f s: no room for two models", float64(x.GapMS)/1000)
}

func (a *app) rolloutWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch <rollout>", Short: "Follow a rollout to its end", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRollout,
		Long:    "Print a line whenever a device or a phase gets on, until the rollout is over or waits\nfor somebody. The exit code is 0 when every device is done, 6 when not. With --json: one\nobject a line.",
		Example: "  covey rollout watch ro-abcdefghijklmnop",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.follow(ctx, c, args[0])
		}),
	}
}

// follow prints a rollout's progress until it is over, or waits for somebody.
func (a *app) follow(ctx context.Context, c *client, id string) error {
	var last v1.Rollout
	err := c.stream(ctx, "/v1/watch/rollouts/"+url.PathEscape(id), func(_ string, data []byte) error {
		var ch v1.RolloutChange
		if err := json.Unmarshal(data, &ch); err != nil {
			return err
		}
		before := last
		last = ch.Rollout
		if a.json {
			if err := encodeLine(a.out, ch); err != nil {
				return err
			}
		} else {
			a.showChange(before, ch)
		}
		if rests(last.State) {
			return errRests
		}
		return nil
	})
	if a.live && !a.json {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	if err != nil && !errors.Is(err, errRests) {
		return err
	}
	if last.Ended.IsZero() && !rests(last.State) {
		return &failure{code: exitUnreachable, what: "the controller ended the stream before the rollout was over", fix: "covey rollout watch " + id}
	}
	if !a.json {
		fmt.Fprintf(a.out, "rollout %s %s: %s\n", id, a.paint(colorOf(string(last.State)), string(last.State)), progress(last.Counts, last.Back))
	}
	return outcomeOf(last)
}

var errRests = errors.New("the rollout waits for somebody")

// rests says whether nothing goes on in this state until somebody does something.
func rests(s wire.RolloutState) bool {
	return s == wire.RolloutPaused || s == wire.RolloutApproval || s == wire.RolloutDraft
}

// outcomeOf is a failure unless every device has what it should have.
func outcomeOf(r v1.Rollout) error {
	id, n := r.ID, r.Counts[wire.Succeeded]+r.Counts[wire.AlreadyInstalled]-r.Back
	if r.Mode == wire.ModeStage {
		n += r.Counts[wire.Staged]
	}
	switch {
	case r.State == wire.RolloutPaused, r.State == wire.RolloutDraft:
		return &failure{code: exitRollout, what: strings.TrimSuffix("the rollout is "+string(r.State)+": "+r.Reason, ": "), fix: "covey rollout show " + id + ", then resume, approve, abort or revert"}
	case n == r.Devices:
		return nil
	case r.State == wire.RolloutRolledBack, r.State == wire.RolloutAborted:
		return &failure{code: exitRollout, what: strings.TrimSuffix("the rollout is "+string(r.State)+": "+r.Reason, ": "), fix: "covey rollout show " + id}
	case r.State == wire.RolloutApproval && r.Mode == wire.ModeStage && r.Phases[len(r.Phases)-1].State == "PASSED":
		return &failure{code: exitRollout, what: fmt.Sprintf("staged on %d of %s", n, plural(r.Devices, "device")), fix: "covey rollout activate " + id}
	case r.State == wire.RolloutApproval:
		return &failure{code: exitRollout, what: "the rollout waits: " + r.Reason, fix: "covey rollout approve " + id}
	}
	return &failure{code: exitRollout, what: fmt.Sprintf("%d of %s did not get %s", r.Devices-n, plural(r.Devices, "device"), r.Release), fix: "covey rollout show " + id}
}

func (a *app) showChange(before v1.Rollout, ch v1.RolloutChange) {
	if a.live {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	for _, x := range ch.Executions {
		word := word(x)
		line := fmt.Sprintf("%-16s %s %s", x.Device, a.paint(colorOf(word), fmt.Sprintf("%-11s", word)), x.State)
		if x.State == wire.Downloading && x.Total > 0 {
			line += fmt.Sprintf(" %d %%", x.Done*100/x.Total)
		}
		if f := outcome(x); f != "" {
			line += "  " + clean(f)
		}
		fmt.Fprintln(a.out, line)
	}
	a.showPhases(before, ch.Rollout)
	if a.live {
		fmt.Fprint(a.err, progress(ch.Rollout.Counts, ch.Rollout.Back))
	}
}

// showPhases prints the phases that stand otherwise than before, where there are some.
// For whom a running one waits changes all the time, and the devices say it themselves.
func (a *app) showPhases(before, now v1.Rollout) {
	if len(now.Phases) < 2 {
		return
	}
	for i, p := range now.Phases {
		if p.State == "PENDING" || i < len(before.Phases) && before.Phases[i].State == p.State {
			continue
		}
		line := fmt.Sprintf("phase %-10s %s", p.Name, a.paint(colorOf(p.State), p.State))
		if p.Reason != "" && p.State != "RUNNING" {
			line += "  " + clean(p.Reason)
		}
		fmt.Fprintln(a.out, line)
	}
}
