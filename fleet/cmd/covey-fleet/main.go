// Command covey-fleet is the controller: broker, registry, rollouts and REST API
// in one process.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

// exitInUse is how check tells that it could not look from that it saw damage.
const exitInUse = 3

// run returns the exit code: 0, or 1 after an error, which is printed, or exitInUse.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "covey-fleet",
		Short:         "Controller of a fleet of boards that run models",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), checkCommand(), versionCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "covey-fleet:", err)
		if errors.Is(err, fleet.ErrInUse) {
			return exitInUse
		}
		return 1
	}
	return 0
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "covey-fleet", version) },
	}
}
