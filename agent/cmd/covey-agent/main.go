// Command covey-agent runs models on a board and keeps it on the releases that
// its fleet wants.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner"
	"github.com/covey-edge/covey/hal/source/folder"
	"github.com/covey-edge/covey/hal/source/synthetic"
)

// version and built (seconds since 1970) are set by the linker.
var version, built = "dev", ""

const defaultConfig = "/etc/covey/agent.yaml"

func main() { os.Exit(run()) }

// run returns the exit code: 0, or 1 after an error, which is printed.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "covey-agent",
		Short:         "Run models on this board, publish what they see, keep them up to date",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), checkCommand(), doctorCommand(), detectCommand(), joinCommand(), versionCommand(), stageCommand(), outboxCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			fmt.Fprintln(os.Stderr, "covey-agent:", line)
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
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "covey-agent", version) },
	}
}

// stageCommand is what stands between the agent and a runner: see runner.Stage.
func stageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stage", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return runner.Stage(args) },
	}
}

// outboxCommand checks an outbox away from the agent: a damaged one can kill the
// process that reads it.
func outboxCommand() *cobra.Command {
	return &cobra.Command{
		Use: agent.CheckOutboxCommand, Hidden: true, Args: cobra.ExactArgs(1),
		Run: func(_ *cobra.Command, args []string) { os.Exit(agent.CheckOutbox(args[0], os.Stderr)) },
	}
}

// configFlag adds --config.
func configFlag(cmd *cobra.Command, to *string) {
	path := defaultConfig
	if dir := os.Getenv("CONFIGURATION_DIRECTORY"); dir != "" {
		path = filepath.Join(dir, "agent.yaml")
	}
	cmd.Flags().StringVarP(to, "config", "c", path, "configuration file")
}

// killAfter is how long runs may still take once the agent has to end.
const killAfter = 4 * time.Second

// hurry sees to it that an agent that has to end is not kept by its engines.
func hurry(ctx context.Context, engines []hal.Engine) {
	context.AfterFunc(ctx, func() {
		time.Sleep(killAfter)
		for _, e := range engines {
			if k, ok := e.(interface{ Kill() }); ok {
				k.Kill()
			}
		}
	})
}

// engines is the list of all engines there are. Their programs stand beside this one.
func engines(log zerolog.Logger) ([]hal.Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("where am I: %w", err)
	}
	return []hal.Engine{
		runner.New(runner.Config{
			Name:    "tflite",
			Program: filepath.Join(filepath.Dir(self), "covey-runner-tflite"),
			Stage:   []string{self, "stage"},
			Logger:  log,
		}),
	}, nil
}

// source is the list of all sources there are.
func source(s agent.SourceFile) (hal.Source, error) {
	switch s.Type {
	case "folder":
		return folder.Open(folder.Config{Path: s.Path, Loop: s.Loop, Watch: s.Watch, FPS: s.FPS})
	case "synthetic":
		return synthetic.New(synthetic.Config{Width: s.Width, Height: s.Height, FPS: s.FPS, Count: s.Count, Live: s.Live})
	}
	return nil, errors.New("no source of type " + s.Type)
}

// logger writes JSON under systemd and into files, for people on a terminal.
func logger(out *os.File, level string) zerolog.Logger {
	var w io.Writer = out
	if term.IsTerminal(int(out.Fd())) {
		w = zerolog.ConsoleWriter{Out: out, TimeFormat: time.TimeOnly}
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		l = zerolog.InfoLevel // the configuration knows only good ones
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger()
}
