package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	query "github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/wire"
)

func (a *app) group() *cobra.Command {
	c := group("group", "Give names to groups of devices", a.groupSet(), a.groupList(), a.groupShow(), a.groupDelete())
	c.Long = "Give names to groups of devices. In a query a name is @kitchen.\n\n" + queryHelp + "\n\nAll that can be asked:\n\n" + fieldHelp()
	c.Example = `  covey group set kitchen 'site == "lyon" and name ~ "kitchen-*"'
  covey group set canary --devices pi-porch,pi-yard
  covey group set small 'ram < 1GiB' --dynamic
  covey device list '@kitchen and not @canary and online'
  covey group show kitchen`
	return c
}

// fieldHelp is a line for each field of a query.
func fieldHelp() string {
	var b strings.Builder
	for _, f := range query.Fields() {
		fmt.Fprintf(&b, "  %-31s %s\n", f.Example, f.Says)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (a *app) groupSet() *cobra.Command {
	var devices []string
	var dynamic bool
	c := &cobra.Command{
		Use: "set <name> <query>|--devices <id>,…", Short: "Make a group of a query or a list, or change it", Args: cobra.MinimumNArgs(1),
		Long: `Make a group of a query or a list, or change it. A query is asked anew each time the
group is used. A rollout asks it once, when it starts; to a group that was made with
--dynamic it goes on: devices that come into the group later get the release, too.

` + queryHelp,
		Example: `  covey group set kitchen 'site == "lyon" and name ~ "kitchen-*"'
  covey group set canary --devices pi-porch,pi-yard
  covey group set small 'ram < 1GiB' --dynamic`,
		ValidArgsFunction: a.completeAfter(1),
	}
	c.Flags().StringSliceVar(&devices, "devices", nil, "a list of ids instead of a query")
	c.Flags().BoolVar(&dynamic, "dynamic", false, "rollouts go on to devices that come into the group later")
	c.RunE = do(func(ctx context.Context, args []string) error {
		req := v1.GroupRequest{Query: strings.Join(args[1:], " ")}
		for _, id := range devices {
			req.Devices = append(req.Devices, wire.DeviceID(id))
		}
		if dynamic {
			req.Membership = string(query.Dynamic)
		}
		if (req.Query == "") == (req.Devices == nil) {
			return usage("covey group set kitchen 'site == lyon', or --devices pi-porch,pi-yard", "a group is either a query or a list of devices")
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		var g v1.GroupDetail
		if err := c.call(ctx, "PUT", "/v1/groups/"+url.PathEscape(args[0]), req, &g); err != nil {
			return err
		}
		return a.said(g, "group %s (%s): %s; %s now\n", g.Name, g.Membership, who(g.Group), plural(g.Size, "device"))
	})
	return c
}

// who is in a group, in one line.
func who(g v1.Group) string {
	if g.Query != "" {
		return g.Query
	}
	var ids []string
	for _, id := range g.Devices[:min(len(g.Devices), 8)] {
		ids = append(ids, string(id))
	}
	if n := len(g.Devices) - len(ids); n > 0 {
		ids = append(ids, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(ids, ", ")
}

func (a *app) groupList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List named groups", Args: cobra.NoArgs,
		Example: "  covey group list\n  covey group list --json | jq -r '.[].name'",
		RunE: do(func(ctx context.Context, _ []string) error {
			list, err := a.groups(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return encode(a.out, list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.err, "no groups; make one with: covey group set <name> <query>")
				return nil
			}
			var rows [][]string
			for _, g := range list {
				rows = append(rows, []string{g.Name, g.Membership, who(g), a.ago(g.Changed), g.By})
			}
			a.table([]string{"GROUP", "MEMBERSHIP", "DEVICES", "SET", "BY"}, rows)
			return nil
		}),
	}
}

func (a *app) groups(ctx context.Context) ([]v1.Group, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	var list v1.Groups
	return list.Groups, c.call(ctx, "GET", "/v1/groups", nil, &list)
}

func (a *app) groupShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <name>", Short: "Show a group and the devices in it now", Args: cobra.ExactArgs(1),
		Example:           "  covey group show kitchen",
		ValidArgsFunction: a.completeGroup,
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var g v1.GroupDetail
			if err := c.call(ctx, "GET", "/v1/groups/"+url.PathEscape(args[0]), nil, &g); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, g)
			}
			list, err := a.devices(ctx, "@"+g.Name)
			if err != nil {
				return err
			}
			a.pairs("group", g.Name, "membership", g.Membership, "devices", who(g.Group), "now", plural(len(list), "device"), "set", a.ago(g.Changed)+" by "+g.By)
			if len(list) > 0 {
				fmt.Fprintln(a.out)
				a.showDevices(list)
			}
			return nil
		}),
	}
}

func (a *app) groupDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete <name>", Short: "Forget a group", Args: cobra.ExactArgs(1),
		Long:              "Forget a group. Its devices stay as they are.",
		Example:           "  covey group delete kitchen",
		ValidArgsFunction: a.completeGroup,
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.call(ctx, "DELETE", "/v1/groups/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return a.said(map[string]string{"deleted": args[0]}, "group %s is deleted\n", args[0])
		}),
	}
}

// completeGroup completes the first argument with names of groups.
func (a *app) completeGroup(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	list, err := a.groups(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, g := range list {
		names = append(names, g.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeAfter completes the words of a query that begins behind n arguments: with
// fields, and with what the controller has, as far as it can be reached: groups,
// labels, ids.
func (a *app) completeAfter(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) < n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		words := []string{"all", "not\tturns a condition round"}
		for _, f := range query.Fields() {
			words = append(words, f.Name+"\t"+f.Says)
		}
		groups, _ := a.groups(ctx) // without an answer there are still the fields
		for _, g := range groups {
			words = append(words, "@"+g.Name+"\t"+clean(who(g)))
		}
		devices, _ := a.devices(ctx, "")
		keys := map[string]bool{}
		for _, d := range devices {
			words = append(words, string(d.ID))
			for k := range d.Labels {
				if !keys[k] && !query.Taken(k) {
					words = append(words, k+"\tlabel")
				}
				keys[k] = true
			}
		}
		// The shell hands over a query in quotes as one word: what is in front stays.
		at := strings.LastIndexAny(begun, " (") + 1
		var out []string
		for _, w := range words {
			if strings.HasPrefix(w, begun[at:]) {
				out = append(out, begun[:at]+w)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}
