package main

import "github.com/spf13/cobra"

// stage is what stands between this program and a runner: see runner.Stage.
func (a *app) stage() *cobra.Command {
	return &cobra.Command{
		Use: "stage", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return stage(args) },
	}
}
