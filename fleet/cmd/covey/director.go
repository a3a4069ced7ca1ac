package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
)

func (a *app) trustDirector() *cobra.Command {
	c := &cobra.Command{
		Use: "director", Short: "Show the key with which the controller signs its orders", Args: cobra.NoArgs,
		Long: `Show the public half of the key with which the controller signs what it wants of each
board. A root that names it makes boards obey this controller alone: who has taken the
broker, the database or the network can then order nothing. Its private half never
leaves the controller, in director.key of its data folder: keep a backup.`,
		Example: `  covey trust director > director.pub
  covey trust init --releases ada.pub,ben.pub --threshold 2 --director director.pub
  covey trust root rotate --director director.pub    # for a root that exists`,
	}
	c.RunE = do(func(ctx context.Context, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		var d v1.Director
		if err := c.call(ctx, "GET", "/v1/trust/director", nil, &d); err != nil {
			return err
		}
		switch d.Obeyed {
		case "nobody":
			fmt.Fprintln(a.err, "boards obey anybody who can write to their broker: name this key by --director of covey trust init, or of covey trust root rotate, sign, push")
		case "other":
			fmt.Fprintln(a.err, "boards obey another controller: name this key by covey trust root rotate --director, sign, push")
		}
		return a.said(d, "%s\n", d.Public)
	})
	return c
}
