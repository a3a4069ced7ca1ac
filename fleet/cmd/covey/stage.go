package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// errNoEngines is for systems that runners do not exist for.
var errNoEngines = errors.New("models run on Linux alone")

// stage is what stands between this program and a runner: see runner.Stage.
func (a *app) stage() *cobra.Command {
	return &cobra.Command{
		Use: "stage", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return stage(args) },
	}
}
