package main

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
)

func (a *app) token() *cobra.Command {
	return group("token", "Let people and programs use the controller", a.tokenAdd(), a.tokenList(), a.tokenRemove())
}

func (a *app) tokenAdd() *cobra.Command {
	var role string
	c := &cobra.Command{
		Use: "add <name>", Short: "Make a token for a person or a program", Args: cobra.ExactArgs(1),
		Long: `Make a token for a person or a program, which logs in with it: covey login. It is
printed once. A viewer looks, an operator changes devices, an admin gives tokens
and lets houses in as well.`,
		Example: `  covey token add ada --role operator
  covey token add grafana > grafana.token`,
	}
	c.Flags().StringVar(&role, "role", "viewer", "viewer, operator or admin")
	completeFlag(c, "role", "viewer", "operator", "admin")
	c.RunE = do(func(ctx context.Context, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		var p v1.Person
		if err := c.call(ctx, "POST", "/v1/people", v1.PersonRequest{Name: args[0], Role: role}, &p); err != nil {
			return err
		}
		if a.json {
			return encode(a.out, p)
		}
		fmt.Fprintln(a.out, p.Token)
		fmt.Fprintf(a.err, "%s is %s; to log in with it: covey login %s --token-file -\n", p.Name, p.Role, c.loginArgs())
		return nil
	})
	return c
}

// loginArgs are what somebody else needs to log in to this controller.
func (c *client) loginArgs() string {
	if c.s.CA == "" {
		return c.s.URL
	}
	return c.s.URL + " --ca-hash " + c.s.CA
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List who has a token", Args: cobra.NoArgs, Example: "  covey token list",
		RunE: do(func(ctx context.Context, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var list v1.People
			if err := c.call(ctx, "GET", "/v1/people", nil, &list); err != nil {
				return err
			}
			if a.json {
				return encode(a.out, list.People)
			}
			var rows [][]string
			for _, p := range list.People {
				rows = append(rows, []string{p.Name, p.Role, a.ago(p.Created)})
			}
			a.table([]string{"NAME", "ROLE", "ADDED"}, rows)
			return nil
		}),
	}
}

func (a *app) tokenRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <name>", Short: "End a token", Args: cobra.ExactArgs(1), Example: "  covey token remove ada",
		RunE: do(func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.call(ctx, "DELETE", "/v1/people/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return a.said(map[string]string{"removed": args[0]}, "%s is removed\n", args[0])
		}),
	}
}
