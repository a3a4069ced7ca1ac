package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
)

// completeBring completes <device|query> <pipeline>=<release>.
func (a *app) completeBring(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.completeAfter(0)(cmd, args, begun)
	case 1:
	default:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	pipeline, _, named := strings.Cut(begun, "=")
	if named {
		words, how := a.completeRelease(cmd, nil, "")
		for i := range words {
			words[i] = pipeline + "=" + words[i]
		}
		return words, how
	}
	devices, err := a.devices(ctx, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for _, d := range devices {
		for _, p := range d.Pipelines {
			words = append(words, p.Name+"=")
		}
	}
	slices.Sort(words)
	return slices.Compact(words), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeRelease completes the first argument with releases.
func (a *app) completeRelease(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var list v1.Releases
	return a.complete(cmd, args, "/v1/releases", &list, func() (words []string) {
		for _, r := range list.Releases {
			words = append(words, r.String())
		}
		return words
	})
}

// completeRollout completes the first argument with rollouts.
func (a *app) completeRollout(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var list v1.Rollouts
	return a.complete(cmd, args, "/v1/rollouts?limit=20", &list, func() (words []string) {
		for _, r := range list.Rollouts {
			words = append(words, r.ID+"\t"+clean(r.Release.String()+" on "+r.Pipeline+" of "+r.Query+": "+string(r.State)))
		}
		return words
	})
}

// complete completes the first argument with what the controller answers.
func (a *app) complete(cmd *cobra.Command, args []string, path string, answer any, words func() []string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	c, err := a.client()
	if err == nil {
		err = c.call(ctx, "GET", path, nil, answer)
	}
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return words(), cobra.ShellCompDirectiveNoFileComp
}

// completeFlag completes the value of a flag with one of a few words.
func completeFlag(c *cobra.Command, flag string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // it fails for an unknown flag alone
}
