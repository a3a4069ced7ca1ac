package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/wire"
)

func (a *app) set() *cobra.Command {
	var yes, wait, dry bool
	c := &cobra.Command{
		Use: "set <device|query> <pipeline>=<release>", Short: "Bring a release to a device, or to many", Args: cobra.ExactArgs(2),
		Long: `Bring a release to a pipeline of a device, or of every device of a query. More than
one device is said and asked for first. The old model keeps running until the new
one has proved itself; if it does not, the device goes back by itself.

` + queryHelp + `

A release is named name@version, name (the newest), or by the beginning of its
digest.`,
		Example: `  covey set pi-porch cam=mobilenet@1.1.0 --wait
  covey set 'site == berlin and arch == arm64' cam=mobilenet --dry-run
  covey set all cam=3f2a9c01 --yes`,
		ValidArgsFunction: a.completeDevice,
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&wait, "wait", false, "follow the rollout to its end")
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done")
	c.RunE = do(func(ctx context.Context, args []string) error {
		pipeline, rel, ok := strings.Cut(args[1], "=")
		if !ok || pipeline == "" || rel == "" {
			return usage("covey set pi-porch cam=mobilenet@1.1.0", "%q is not <pipeline>=<release>", args[1])
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		req := v1.Set{Query: args[0], Pipeline: pipeline, Release: rel}
		var p v1.Plan
		if err := c.call(ctx, "POST", "/v1/plan", req, &p); err != nil {
			return err
		}
		for _, w := range p.Warnings {
			fmt.Fprintln(a.err, a.paint(yellow, "warning: "+clean(w)))
		}
		if dry {
			return a.showPlan(p)
		}
		req.Devices = len(p.Targets)
		req.Release = string(p.Release.Digest) // exactly what was planned
		if n := len(p.Targets); n > 1 {
			if err := a.confirm(yes, a.question(p)); err != nil {
				return err
			}
		}
		var r v1.RolloutDetail
		if err := c.call(ctx, "POST", "/v1/rollouts", req, &r); err != nil {
			return err
		}
		if wait {
			return a.follow(ctx, c, r.ID)
		}
		return a.said(r, "rollout %s: %s → %s on %s\n", r.ID, r.Pipeline, r.Release, plural(r.Devices, "device"))
	})
	return c
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

func (a *app) showPlan(p v1.Plan) error {
	if a.json {
		return encode(a.out, p)
	}
	var rows [][]string
	for _, t := range p.Targets {
		row := []string{string(t.Device), t.State, "", p.Release.String(), t.Variant, strconv.Itoa(t.Attempt), fault(t.Refusal)}
		if t.Now != nil {
			row[2] = t.Now.String()
		}
		if t.Refusal != nil {
			row[3] = "refused"
		}
		rows = append(rows, row)
	}
	a.table([]string{"DEVICE", "STATE", "NOW", "THEN", "FILE", "ATTEMPT", "REASON"}, rows)
	return nil
}

func (a *app) rollout() *cobra.Command {
	return group("rollout", "Look at what was set, follow it, stop it", a.rolloutList(), a.rolloutShow(), a.rolloutWatch(), a.rolloutAbort())
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
			rows = append(rows, []string{r.ID, r.Query, r.Pipeline, r.Release.String(), string(r.State), words(r.Counts), a.ago(r.Created), r.By})
		}
		a.table([]string{"ROLLOUT", "DEVICES", "PIPELINE", "RELEASE", "STATE", "PROGRESS", "STARTED", "BY"}, rows)
		return nil
	})
	return c
}

func (a *app) rolloutShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <rollout>", Short: "Show a rollout, device by device", Args: cobra.ExactArgs(1),
		Example: "  covey rollout show ro-abcdefghijklmnop",
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
			a.pairs("rollout", r.ID, "state", string(r.State), "release", r.Release.String()+" ("+r.Release.Digest.Short()+")", "pipeline", r.Pipeline,
				"devices", r.Query+": "+words(r.Counts), "started", a.ago(r.Created)+" by "+r.By)
			fmt.Fprintln(a.out)
			var rows [][]string
			for _, x := range r.Executions {
				rows = append(rows, []string{string(x.Device), x.State.Word(), string(x.State), strconv.Itoa(x.Attempt), a.ago(x.Updated), outcome(x)})
			}
			a.table([]string{"DEVICE", "IS", "STATE", "ATTEMPT", "SINCE", "REASON"}, rows)
			return nil
		}),
	}
}

// outcome is why it failed, or what it cost.
func outcome(x v1.Execution) string {
	if f := fault(x.Fault); f != "" || x.GapMS == 0 {
		return f
	}
	return fmt.Sprintf("nothing ran for %.1f s: no room for two models", float64(x.GapMS)/1000)
}

func (a *app) rolloutWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch <rollout>", Short: "Follow a rollout to its end", Args: cobra.ExactArgs(1),
		Long:    "Print a line whenever a device gets on, until the rollout is over. The exit code is\n0 when every device is done, 6 when not. With --json: one object a line.",
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

// follow prints a rollout's progress until it is over.
func (a *app) follow(ctx context.Context, c *client, id string) error {
	var last v1.Rollout
	err := c.stream(ctx, "/v1/watch/rollouts/"+url.PathEscape(id), func(_ string, data []byte) error {
		var ch v1.RolloutChange
		if err := json.Unmarshal(data, &ch); err != nil {
			return err
		}
		last = ch.Rollout
		if a.json {
			return encodeLine(a.out, ch)
		}
		a.showChange(ch)
		return nil
	})
	if a.live && !a.json {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	if last.Ended.IsZero() {
		return &failure{code: exitUnreachable, what: "the controller ended the stream before the rollout was over", fix: "covey rollout watch " + id}
	}
	if !a.json {
		fmt.Fprintf(a.out, "rollout %s %s: %s\n", id, a.paint(colorOf(string(last.State)), string(last.State)), words(last.Counts))
	}
	if done := last.Counts[wire.Succeeded] + last.Counts[wire.AlreadyInstalled]; done < last.Devices {
		return &failure{code: exitRollout, what: fmt.Sprintf("%d of %s did not get %s", last.Devices-done, plural(last.Devices, "device"), last.Release), fix: "covey rollout show " + id}
	}
	return nil
}

func (a *app) showChange(ch v1.RolloutChange) {
	if a.live {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	for _, x := range ch.Executions {
		word := x.State.Word()
		line := fmt.Sprintf("%-16s %s %s", x.Device, a.paint(colorOf(word), fmt.Sprintf("%-11s", word)), x.State)
		if x.State == wire.Downloading && x.Total > 0 {
			line += fmt.Sprintf(" %d %%", x.Done*100/x.Total)
		}
		if f := outcome(x); f != "" {
			line += "  " + clean(f)
		}
		fmt.Fprintln(a.out, line)
	}
	if a.live {
		fmt.Fprint(a.err, words(ch.Rollout.Counts))
	}
}

func (a *app) rolloutAbort() *cobra.Command {
	return &cobra.Command{
		Use: "abort <rollout>", Short: "Stop a rollout", Args: cobra.ExactArgs(1),
		Long:    "Stop a rollout. Devices that are done keep the release; the others keep, or go back\nto, what they ran before.",
		Example: "  covey rollout abort ro-abcdefghijklmnop",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var r v1.Rollout
			if err := c.call(ctx, "POST", "/v1/rollouts/"+url.PathEscape(args[0])+"/abort", nil, &r); err != nil {
				return err
			}
			return a.said(r, "rollout %s is aborted\n", r.ID)
		}),
	}
}
