// Command covey is what operators and model makers type. It speaks to the
// controller's REST API and keeps nothing but where that is and a token.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now}
	a.ask = term.IsTerminal(int(os.Stdin.Fd()))
	a.live = term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb"
	a.color = term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
	a.secret = func() ([]byte, error) { return term.ReadPassword(int(os.Stdin.Fd())) }
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// An app is one call of the program and all it touches outside.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	now      func() time.Time
	secret   func() ([]byte, error) // reads a line without showing it
	ask      bool                   // a person can answer on in
	live     bool                   // err is a terminal: progress may be drawn there
	color    bool                   // out takes colours

	json bool
	data string
}

const exitCodes = `Exit codes:
  0  done
  1  failed
  2  the command line or the request is wrong
  3  there is no such device, release or rollout
  4  refused: not logged in, not allowed, or no device can take it
  5  the controller cannot be reached
  6  a rollout ended or waits, and not every device is done
  7  covey release diff --exit-code: somebody may rely on what changes;
     covey apply --dry-run: something would be changed`

// run runs a command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	a.json = slices.Contains(args, "--json") // for what is wrong in front of it, too
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	f := failureOf(err)
	if ctx.Err() != nil && f.code != exitUsage {
		f = &failure{code: exitFailed, what: "interrupted"}
	}
	a.report(f)
	return f.code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "covey",
		Short: "Run models on a fleet of boards",
		Long: `covey tells a controller which model every board should run.

  covey login https://fleet.example:8443 --ca-hash 3f2a… --token-file admin.token
  covey device token                       # then on a board: covey-agent join <token>
  covey release push mobilenet.tflite --version 1.1.0
  covey set 'site == berlin' cam=mobilenet@1.1.0 --wait

` + exitCodes,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON for scripts")
	root.PersistentFlags().StringVar(&a.data, "data", "", "data folder of a controller on this machine, instead of a login")
	for _, part := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"boards", "Boards:", []*cobra.Command{a.device(), a.group()}},
		{"releases", "Releases:", []*cobra.Command{a.release(), a.trust()}},
		{"rollouts", "Bring releases to boards:", []*cobra.Command{a.set(), a.rollout(), a.apply()}},
		{"people", "People, programs and houses:", []*cobra.Command{a.login(), a.logout(), a.token(), a.home()}},
	} {
		root.AddGroup(&cobra.Group{ID: part.id, Title: part.title})
		for _, c := range part.commands {
			c.GroupID = part.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.stage())
	return root
}

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitUnreachable = 5
	exitRollout     = 6
	exitDiffers     = 7
)

// A failure is an error as a person sees it: what happened and why, and what to
// do about it.
type failure struct {
	code  int
	what  string
	fix   string
	cause any // shown as it is with --json; may be nil
}

func (f *failure) Error() string { return f.what }

func usage(fix, format string, args ...any) *failure {
	return &failure{code: exitUsage, what: fmt.Sprintf(format, args...), fix: fix}
}

// failureOf is err as a failure. What no command made itself is what cobra says
// about the command line.
func failureOf(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return usage("see covey --help", "%s", err)
}

func (a *app) report(f *failure) {
	if a.json {
		v := f.cause
		if v == nil {
			v = map[string]any{"detail": f.what, "fix": f.fix}
		}
		_ = encode(a.err, v)
		return
	}
	fmt.Fprintln(a.err, "covey:", clean(f.what))
	if p, ok := f.cause.(v1.Problem); ok {
		for _, e := range p.Errors {
			for line := range strings.Lines(e.Mark) { // where in what was typed
				fmt.Fprintln(a.err, "  "+clean(strings.TrimSuffix(line, "\n")))
			}
		}
	}
	if f.fix != "" {
		fmt.Fprintln(a.err, "  fix:", clean(f.fix))
	}
}

// do makes a cobra function of one whose errors are failures already or become
// plain ones.
func do(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := fn(cmd.Context(), args)
		var f *failure
		if err == nil || errors.As(err, &f) {
			return err
		}
		return &failure{code: exitFailed, what: err.Error()}
	}
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(subs...)
	return c
}
