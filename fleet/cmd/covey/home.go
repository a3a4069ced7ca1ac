package main

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
)

func (a *app) home() *cobra.Command {
	return group("home", "Let houses (Home Assistant) read results over MQTT", a.homeAdd(), a.homeList(), a.homeRemove())
}

func (a *app) homeAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add <user>", Short: "Make an MQTT user for a house", Args: cobra.ExactArgs(1),
		Long:    "Make an MQTT user for a house on the controller's broker. It may read and write\ncovey/home/# and homeassistant/#, nothing else. The password is shown once.",
		Example: "  covey home add villa",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var h v1.Home
			if err := c.call(ctx, "POST", "/v1/homes", map[string]string{"user": args[0]}, &h); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, h)
			}
			a.pairs("broker", h.MQTT, "user", h.User, "password", h.Password)
			return nil
		}),
	}
}

func (a *app) homeList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the MQTT users of houses", Args: cobra.NoArgs, Example: "  covey home list",
		RunE: do(func(ctx context.Context, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var list v1.Homes
			if err := c.call(ctx, "GET", "/v1/homes", nil, &list); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, list.Homes)
			}
			if len(list.Homes) == 0 {
				fmt.Fprintln(a.err, "no houses; add one with: covey home add <user>")
				return nil
			}
			var rows [][]string
			for _, h := range list.Homes {
				rows = append(rows, []string{h.User, a.ago(h.Created)})
			}
			a.table([]string{"USER", "ADDED"}, rows)
			return nil
		}),
	}
}

func (a *app) homeRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <user>", Short: "End an MQTT user and its connections", Args: cobra.ExactArgs(1), Example: "  covey home remove villa",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.call(ctx, "DELETE", "/v1/homes/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return a.said(map[string]string{"removed": args[0]}, "%s is removed\n", args[0])
		}),
	}
}
