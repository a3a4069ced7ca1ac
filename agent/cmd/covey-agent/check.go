package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
)

func checkCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Check the configuration: every mistake with its line",
		Example: "  covey-agent check --config agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := agent.ReadFile(config)
			if err != nil {
				return err
			}
			device, err := file.DeviceName()
			if err != nil {
				return err
			}
			if err := checkSources(cmd.Context(), file); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is good: device %s, %d pipelines\n", config, device, len(file.Pipelines))
			return nil
		},
	}
	configFlag(cmd, &config)
	return cmd
}

// checkSources opens every source once that reads files. A camera may be in use by
// the agent that runs.
func checkSources(ctx context.Context, file *agent.File) error {
	var errs []error
	for _, p := range file.Pipelines {
		if p.Source.Live {
			continue
		}
		s, err := new(sources).open(ctx, p.Source)
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("pipeline %s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}
