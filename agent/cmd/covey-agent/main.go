// Command covey-agent runs models on a board and keeps it on the releases that
// its fleet wants.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner"
	"github.com/covey-edge/covey/hal/runner/sandbox"
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
	root.AddCommand(setupCommand(), runCommand(), checkCommand(), doctorCommand(), eraseCommand(), supportCommand(), unitCommand(), probeCommand(), detectCommand(), joinCommand(), versionCommand(),
		stageCommand(), endedCommand(), outboxCommand(), formatsCommand(), addonCommand())
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

// stageCommand is what stands between the agent and a runner: see runner.Stage, and
// for covey-runner@.service, with --unit, runner.UnitStage.
func stageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stage", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] != "--unit" {
				return runner.Stage(args)
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("where am I: %w", err)
			}
			return runner.UnitStage(filepath.Dir(self))
		},
	}
}

// endedCommand is what covey-runner@.service starts when a runner has ended.
func endedCommand() *cobra.Command {
	return &cobra.Command{
		Use: "runner-ended", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runner.TellEnd(args[0]) },
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

// formatsCommand says what the packages of agents compare before one takes the place
// of another.
func formatsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "formats", Hidden: true, Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), agent.Formats()) },
	}
}

// configFlag adds --config.
func configFlag(cmd *cobra.Command, to *string) {
	path := defaultConfig
	if dir := os.Getenv("CONFIGURATION_DIRECTORY"); dir != "" {
		path = filepath.Join(dir, "agent.yaml")
	}
	cmd.Flags().StringVarP(to, "config", "c", path, "configuration file")
	if err := cmd.MarkFlagFilename("config", "yaml", "yml"); err != nil {
		panic(err) // the flag is above
	}
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

// programs are the engines of a board: the programs stand beside this one.
var programs = []struct {
	name  string
	nodes []hal.Accelerator // whose device nodes its runners are given
}{
	{"tflite", []hal.Accelerator{hal.EdgeTPU, hal.GPU}},
	{"onnx", []hal.Accelerator{hal.CUDA, hal.TensorRT}},
}

// Where covey-runner.socket listens, and where the agent hears how instances of
// covey-runner@.service ended: the units say the same.
const (
	runnerSocket = "/run/covey/runner"
	serviceDir   = "/run/covey/agent"
)

// units is what starts runners for the service covey-agent, where the board has the
// unit for them; else nil, and the agent starts them. An agent that somebody starts
// by hand takes nothing from the service.
func units(log zerolog.Logger) *runner.Units {
	if !slices.Contains(filepath.SplitList(os.Getenv("RUNTIME_DIRECTORY")), serviceDir) || !exists(runnerSocket) {
		return nil
	}
	u, err := runner.NewUnits(runnerSocket, serviceDir+"/ended", log)
	if err != nil {
		log.Warn().Err(err).Msg("runners are started by the agent, not by systemd")
		return nil
	}
	return u
}

// engines is the list of all engines there are, with what the configuration (may be
// nil) gives their runners. units (may be nil) starts them. Only the first has to be there.
func engines(file *agent.File, units *runner.Units, log zerolog.Logger) ([]hal.Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("where am I: %w", err)
	}
	var all []hal.Engine
	for i, p := range programs {
		if program := beside(self, p.name); i == 0 || program != "" {
			c := configOf(self, p.name, units, log)
			c.Accelerators = p.nodes
			if file != nil {
				c.More = reach(file)
			}
			all = append(all, runner.New(c))
		}
	}
	return all, nil
}

// pictures is the engine that decodes JPEG, nil where its program is not there.
func pictures(units *runner.Units, log zerolog.Logger) (hal.Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("where am I: %w", err)
	}
	if beside(self, "jpeg") == "" {
		return nil, nil
	}
	return runner.New(configOf(self, "jpeg", units, log)), nil
}

// reach is what runners may reach for single accelerators: delegates their library
// and their nodes, TensorRT the folder of what it builds.
func reach(file *agent.File) map[hal.Accelerator]sandbox.Access {
	more := map[hal.Accelerator]sandbox.Access{}
	if engines := agent.EnginesPath(file.Data); exists(engines) {
		more[hal.TensorRT] = sandbox.Access{Write: []string{engines}}
	}
	for _, d := range file.Delegates {
		var a sandbox.Access
		for _, node := range d.Devices {
			if exists(node) { // else the delegate says what it misses
				a.Devices = append(a.Devices, node)
			}
		}
		if filepath.IsAbs(d.Library) && exists(d.Library) {
			a.Read = []string{d.Library}
		}
		more[d.Accelerator()] = a
	}
	return more
}

// beside is the runner program of an engine, "" when there is none.
func beside(self, name string) string {
	path := filepath.Join(filepath.Dir(self), "covey-runner-"+name)
	if !exists(path) {
		return ""
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func configOf(self, name string, units *runner.Units, log zerolog.Logger) runner.Config {
	return runner.Config{
		Name:    name,
		Program: filepath.Join(filepath.Dir(self), "covey-runner-"+name),
		Stage:   []string{self, "stage"},
		Units:   units,
		Logger:  log,
	}
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
	return zerolog.New(w).Level(l).Sample(&zerolog.LevelSampler{
		InfoSampler: sparing(), WarnSampler: sparing(), ErrorSampler: sparing(),
	}).With().Timestamp().Logger()
}

// sparing lets through so many lines of a level a minute, and then one of a hundred: a
// fault that comes with every frame fills no disk and hides no other.
func sparing() zerolog.Sampler {
	return &zerolog.BurstSampler{Burst: 240, Period: time.Minute, NextSampler: &zerolog.BasicSampler{N: 100}}
}
