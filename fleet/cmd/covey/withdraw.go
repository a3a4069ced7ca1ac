package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/trust"
)

// releaseWithdraw is covey release withdraw.
func (a *app) releaseWithdraw() *cobra.Command {
	var f signerFlags
	var dir string
	c := &cobra.Command{
		Use: "withdraw <name@version>", Short: "Take back your leave for a release to run", Args: cobra.ExactArgs(1),
		Long: `Take back your leave for a release to run, its pilot's too. It counts when enough have
signed it (covey trust sign) and it was pushed (covey trust push). No board installs the
release from then on, whoever orders it; a board that runs it goes on. So it is the way
to keep boards from going back to releases that are known to be bad.`,
		Example: "  covey release withdraw birds@1.0.0 --key ada.key",
	}
	f.add(c)
	repositoryFlag(c, &dir)
	c.RunE = do(func(ctx context.Context, args []string) error {
		name, version, ok := strings.Cut(args[0], "@")
		if !ok {
			return usage("write it like birds@1.0.0", "%q names no version", args[0])
		}
		r, err := trust.Load(dir)
		if err != nil {
			return err
		}
		whole, pilot := r.Withdraw(trust.TargetName(name, version), a.now()), r.Withdraw(trust.PilotName(name, version), a.now())
		if whole != nil && pilot != nil {
			return &failure{code: exitRefused, what: whole.Error(), fix: "if somebody has withdrawn it, sign that: covey trust sign"}
		}
		done, err := a.sign(ctx, r, f)
		if err != nil {
			return err
		}
		return a.saved(r, dir, done)
	})
	return c
}
