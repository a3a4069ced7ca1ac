package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/wire"
)

func (a *app) device() *cobra.Command {
	return group("device", "Look at boards, let them in, name them",
		a.deviceList(), a.deviceShow(), a.deviceWatch(), a.deviceToken(), a.deviceRevoke(),
		a.deviceRename(), a.deviceLabel(), a.deviceResults())
}

const queryHelp = `A query says which devices: all, an id, ids joined by commas, @group, or conditions
over labels and what is known of a device, with and, or, not and parentheses:

  site == "lyon" and accel has edgetpu and ram >= 1GiB and not (agent < 1.4.0)
  online and seen < 1h and name ~ "kitchen-*" and site in [lyon, paris]

Put it into quotes, or the shell takes <, >, * and () for itself. covey group --help
has all that can be asked.`

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use: "list [query]", Short: "List devices", Long: "List devices.\n\n" + queryHelp,
		Example:           "  covey device list\n  covey device list 'site == berlin and ram >= 1GiB'\n  covey device list @kitchen\n  covey device list --json | jq -r '.[].id'",
		ValidArgsFunction: a.completeAfter(0),
		RunE: do(func(ctx context.Context, args []string) error {
			query := strings.Join(args, " ")
			list, err := a.devices(ctx, query)
			if err != nil {
				return err
			}
			if a.json {
				return encode(a.out, list)
			}
			switch {
			case len(list) > 0:
				a.showDevices(list)
			case query == "":
				fmt.Fprintln(a.err, "no devices; let one in with: covey device token")
			default:
				fmt.Fprintf(a.err, "no device matches %s\n", clean(query))
			}
			return nil
		}),
	}
}

func (a *app) showDevices(list []v1.Device) {
	var rows [][]string
	for _, d := range list {
		rows = append(rows, []string{string(d.ID), d.Name, d.State, a.ago(d.Seen), d.Board, labels(d.Labels), pipelines(d)})
	}
	a.table([]string{"DEVICE", "NAME", "STATE", "SEEN", "BOARD", "LABELS", "PIPELINES"}, rows)
}

// devices are all devices of a query, page by page.
func (a *app) devices(ctx context.Context, query string) ([]v1.Device, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	list := []v1.Device{}
	for after := ""; ; {
		var page v1.Devices
		q := url.Values{"query": {query}, "after": {after}, "limit": {strconv.Itoa(v1.DefaultPage)}}
		if err := c.call(ctx, "GET", "/v1/devices?"+q.Encode(), nil, &page); err != nil {
			return nil, err
		}
		list = append(list, page.Devices...)
		if after = page.Next; after == "" {
			return list, nil
		}
	}
}

func labels(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

// pipelines is what runs where, in one line.
func pipelines(d v1.Device) string {
	var parts []string
	for _, p := range d.Pipelines {
		s := p.Name
		if p.Release != nil {
			s += "=" + p.Release.String()
		}
		if p.Wanted != nil && (p.Release == nil || p.Wanted.Digest != p.Release.Digest) {
			s += " → " + p.Wanted.String()
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}

func (a *app) deviceShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <device>", Short: "Show all that is known of a device", Args: cobra.ExactArgs(1),
		Example:           "  covey device show pi-porch\n  covey device show pi-porch --json | jq .health.temp",
		ValidArgsFunction: a.completeDevice,
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var d v1.DeviceDetail
			if err := c.call(ctx, "GET", "/v1/devices/"+url.PathEscape(args[0]), nil, &d); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, d)
			}
			a.showDevice(d)
			return nil
		}),
	}
}

func (a *app) showDevice(d v1.DeviceDetail) {
	list := []string{"device", string(d.ID), "name", d.Name, "state", d.State, "seen", a.ago(d.Seen), "labels", labels(d.Labels), "warnings", strings.Join(d.Flags, ", ")}
	if h := d.Hello; h != nil {
		accels := []string{}
		for _, x := range h.Accelerators {
			if !slices.Contains(accels, x.Accelerator) { // two engines have a cpu
				accels = append(accels, x.Accelerator)
			}
		}
		list = append(list, "board", strings.TrimPrefix(fmt.Sprintf("%s, %s, %d cores, %s", h.Board, h.Arch, h.CPUs, size(h.RAM)), ", "),
			"agent", h.Agent, "runtimes", labels(h.Runtimes), "accelerators", strings.Join(accels, ", "))
	}
	if h := d.Health; h != nil {
		list = append(list, "health", health(*h))
	}
	a.pairs(list...)
	if len(d.Pipelines) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	var rows [][]string
	for _, p := range d.Pipelines {
		row := []string{p.Name, "", "", p.State.Word(), p.Accel, strconv.FormatFloat(p.FPS, 'f', 1, 64), "", "off", fault(p.Fault)}
		if p.Release != nil {
			row[1] = p.Release.String()
		}
		if p.Wanted != nil {
			row[2] = p.Wanted.String()
		}
		if p.State == "" {
			row[3] = ""
		}
		if p.Pinned {
			row[2] = "pinned on the device"
		}
		if p.Results {
			row[7] = "on"
		}
		if d.Health != nil && d.Health.Pipes[p.Name].Memory > 0 {
			row[6] = size(d.Health.Pipes[p.Name].Memory)
		}
		if d.Reported != nil && p.Fault == nil { // it works, but worse than it did
			row[8] = d.Reported.Pipelines[p.Name].Degraded
		}
		rows = append(rows, row)
	}
	a.table([]string{"PIPELINE", "RUNS", "WANTED", "LAST CHANGE", "ACCEL", "FPS", "MEMORY", "RESULTS", "REASON"}, rows)
}

func health(h wire.Health) string {
	s := fmt.Sprintf("cpu %.0f %%, memory %.0f %%, disk %.0f %%", h.CPU, h.Mem, h.Disk)
	if h.Temp != nil {
		s += fmt.Sprintf(", %.0f °C", *h.Temp)
	}
	if h.Throttled {
		s += ", throttled"
	}
	return s + fmt.Sprintf(", up %s", (time.Duration(h.Up)*time.Second).String())
}

func (a *app) deviceWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch [query]", Short: "Follow devices as they change",
		Long:              "Print a line for each device, and one whenever something about it changes.\nCtrl-C ends it. With --json: one object a line.\n\n" + queryHelp,
		Example:           "  covey device watch 'site == berlin'",
		ValidArgsFunction: a.completeAfter(0),
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			err = c.stream(ctx, "/v1/watch/devices?query="+url.QueryEscape(strings.Join(args, " ")), func(_ string, data []byte) error {
				var ch v1.DeviceChange
				if err := json.Unmarshal(data, &ch); err != nil {
					return err
				}
				if a.json {
					return encodeLine(a.out, ch.Device)
				}
				d := ch.Device
				fmt.Fprintf(a.out, "%s  %-16s %s  %s %s\n", a.now().Format(time.TimeOnly), d.ID, a.paint(colorOf(d.State), fmt.Sprintf("%-8s", d.State)), clean(pipelines(d)), strings.Join(d.Flags, " "))
				return nil
			})
			if err == nil {
				err = &failure{code: exitUnreachable, what: "the controller ended the stream", fix: "try again when it runs"}
			}
			return err
		}),
	}
}

func (a *app) deviceToken() *cobra.Command {
	var req v1.TokenRequest
	var ttl time.Duration
	var set []string
	c := &cobra.Command{
		Use: "token", Short: "Make a token that a board joins with", Args: cobra.NoArgs,
		Long: `Make a token that a board joins with. It is printed once; whoever has it can let
a board in, once and within ten minutes unless you say otherwise.`,
		Example: `  covey device token                  # then on the board: covey-agent join <token>
  covey device token --uses 200 --ttl 72h --label site=factory
  ssh pi covey-agent join $(covey device token)`,
	}
	c.Flags().IntVar(&req.Uses, "uses", 1, "how many boards may join")
	c.Flags().DurationVar(&ttl, "ttl", 10*time.Minute, "how long it can be used")
	c.Flags().StringArrayVar(&set, "label", nil, "label for the boards that join, key=value; may be repeated")
	c.RunE = do(func(ctx context.Context, _ []string) error {
		req.TTLSeconds, req.Labels = int64(ttl/time.Second), map[string]string{}
		for _, l := range set {
			k, v, ok := strings.Cut(l, "=")
			if !ok || v == "" {
				return usage("write it like site=berlin", "%q is not a label", l)
			}
			req.Labels[k] = v
		}
		if req.Uses < 1 || ttl < time.Second {
			return usage("", "a token is for at least one board and one second")
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		var t v1.Token
		if err := c.call(ctx, "POST", "/v1/tokens", req, &t); err != nil {
			return err
		}
		if a.json {
			return encode(a.out, t)
		}
		fmt.Fprintln(a.out, t.Token)
		fmt.Fprintf(a.err, "good for %s until %s; on the board: covey-agent join <token>\n", plural(t.Uses, "board"), t.Expires.Local().Format("2006-01-02 15:04"))
		return nil
	})
	return c
}

func (a *app) deviceRevoke() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "revoke <device>", Short: "Shut a device out", Args: cobra.ExactArgs(1),
		Long:              "Take back a device's certificate and end its connections. It keeps running what it\nruns. To come back it needs a new token.",
		Example:           "  covey device revoke pi-porch",
		ValidArgsFunction: a.completeDevice,
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = do(func(ctx context.Context, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		path := "/v1/devices/" + url.PathEscape(args[0])
		var d v1.DeviceDetail
		if err := c.call(ctx, "GET", path, nil, &d); err != nil {
			return err
		}
		if err := a.confirm(yes, fmt.Sprintf("shut out %s (%s)?", d.ID, d.State)); err != nil {
			return err
		}
		if err := c.call(ctx, "POST", path+"/revoke", nil, nil); err != nil {
			return err
		}
		return a.said(map[string]string{"revoked": args[0]}, "%s is revoked\n", args[0])
	})
	return c
}

// said prints what was done.
func (a *app) said(v any, format string, args ...any) error {
	if a.json {
		return encode(a.out, v)
	}
	fmt.Fprintf(a.out, format, args...)
	return nil
}

func (a *app) patch(ctx context.Context, id string, p v1.DevicePatch) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	var d v1.Device
	if err := c.call(ctx, "PATCH", "/v1/devices/"+url.PathEscape(id), p, &d); err != nil {
		return err
	}
	called := "has no name"
	if d.Name != "" {
		called = fmt.Sprintf("is called %q", d.Name)
	}
	return a.said(d, "%s %s, labels: %s\n", d.ID, called, labels(d.Labels))
}

func (a *app) deviceRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename <device> <name>", Short: "Give a device a name for people", Args: cobra.ExactArgs(2),
		Long:              "Give a device a name for people; \"\" takes it away. Its id stays.",
		Example:           "  covey device rename pi-7f3a \"Front door\"",
		ValidArgsFunction: a.completeDevice,
		RunE: do(func(ctx context.Context, args []string) error {
			return a.patch(ctx, args[0], v1.DevicePatch{Name: &args[1]})
		}),
	}
}

func (a *app) deviceLabel() *cobra.Command {
	return &cobra.Command{
		Use: "label <device> <key>=<value>|<key>- …", Short: "Set labels of a device, or take them away", Args: cobra.MinimumNArgs(2),
		Example:           "  covey device label pi-7f3a site=berlin floor=2\n  covey device label pi-7f3a floor-",
		ValidArgsFunction: a.completeDevice,
		RunE: do(func(ctx context.Context, args []string) error {
			p := v1.DevicePatch{Labels: map[string]*string{}}
			for _, l := range args[1:] {
				k, v, ok := strings.Cut(l, "=")
				switch {
				case ok && v != "":
					p.Labels[k] = &v
				case !ok && strings.HasSuffix(l, "-"):
					p.Labels[strings.TrimSuffix(l, "-")] = nil
				default:
					return usage("write site=berlin to set one, site- to take it away", "%q is not a label", l)
				}
			}
			return a.patch(ctx, args[0], p)
		}),
	}
}

func (a *app) deviceResults() *cobra.Command {
	var after uint64
	var limit int
	c := &cobra.Command{
		Use: "results <device> <pipeline> [on|off]", Short: "Ask a device for its results, and read them", Args: cobra.RangeArgs(2, 3),
		Long: `Without on or off: print the results that the controller keeps of a pipeline. It
keeps the last 10,000 that came while it asked for them. A pipeline of "*" with on
or off means all.`,
		Example:           "  covey device results pi-porch cam on\n  covey device results pi-porch cam --json\n  covey device results pi-porch '*' off",
		ValidArgsFunction: a.completeDevice,
	}
	c.Flags().Uint64Var(&after, "after", 0, "only those behind this number")
	c.Flags().IntVar(&limit, "limit", 100, "how many at most")
	c.RunE = do(func(ctx context.Context, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		path := "/v1/devices/" + url.PathEscape(args[0]) + "/pipelines/" + url.PathEscape(args[1]) + "/results"
		if len(args) == 3 {
			return a.askResults(ctx, c, path, args)
		}
		var page v1.Results
		if err := c.call(ctx, "GET", fmt.Sprintf("%s?after=%d&limit=%d", path, after, limit), nil, &page); err != nil {
			return err
		}
		if a.json {
			return encode(a.out, page.Results)
		}
		for _, r := range page.Results {
			fmt.Fprintln(a.out, resultLine(r))
		}
		if len(page.Results) == 0 {
			fmt.Fprintf(a.err, "no results are kept; ask for them with: covey device results %s %s on\n", args[0], args[1])
		}
		return nil
	})
	return c
}

func (a *app) askResults(ctx context.Context, c *client, path string, args []string) error {
	if args[2] != "on" && args[2] != "off" {
		return usage("say on or off", "%q is neither on nor off", args[2])
	}
	var d v1.Device
	if err := c.call(ctx, "PUT", path, v1.Ask{On: args[2] == "on"}, &d); err != nil {
		return err
	}
	return a.said(d, "results of %s on %s: %s\n", args[1], d.ID, args[2])
}

// resultLine is a result as a person reads it.
func resultLine(r v1.Result) string {
	if r.Lost != nil {
		l := r.Lost.Lost
		return fmt.Sprintf("%d  lost %d to %d (%s)", r.N, l.From, l.To, clean(l.Reason))
	}
	if r.Result == nil {
		return strconv.FormatUint(r.N, 10)
	}
	res := r.Result
	var items []string
	for _, it := range res.Items[:min(len(res.Items), 5)] {
		items = append(items, fmt.Sprintf("%s %.2f", it.Label, it.Score))
	}
	if len(items) == 0 {
		items = []string{"nothing"}
	}
	name := res.Name
	if name == "" {
		name = fmt.Sprintf("frame %d", res.Frame)
	}
	return clean(fmt.Sprintf("%d  %s → %s, %.1f ms, %s", r.N, name, strings.Join(items, ", "), res.LatMS.Pre+res.LatMS.Inv+res.LatMS.Post, res.Accel))
}

// completeDevice completes the first argument with ids of devices.
func (a *app) completeDevice(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	list, err := a.devices(ctx, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, d := range list {
		ids = append(ids, string(d.ID))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
