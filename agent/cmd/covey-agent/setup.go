package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/hal"
)

const setupExample = `  # it asks
  sudo covey-agent setup

  # nothing is asked: a camera on USB, and the house's broker with its user's password in a file
  sudo covey-agent setup --yes --camera /dev/video0 --model /var/lib/covey/birds.tflite --look-for robin,wren \
    --broker mqtt://covey@192.168.1.10 --broker-password-file broker.txt --pictures page --password-file page.txt

  # a network camera, and a model that the fleet brings; what would be done
  covey-agent setup --dry-run --yes --camera rtsp://192.168.1.20/stream1 --broker none --join covey-join-eyJ1cmwi…`

// setupFlags are answers that are given beforehand.
type setupFlags struct {
	config                               string
	camera, model, labels, lookFor       string
	broker, brokerPassword               string
	join, pictures, pagePassword, device string
	yes, dryRun                          bool
}

func setupCommand() *cobra.Command {
	var f setupFlags
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Set this board up: asks for camera, model, broker and who may look, tries each, writes and starts it all",
		Long: "Asks six things: the camera, what to look for in its pictures, the house's broker, the fleet's controller,\n" +
			"whether pictures may be shown, and the password of the board's page. Each has a flag, and is not asked then. What is\n" +
			"answered is tried at once: a picture of the camera, a run of the model, a message to the broker and back. Nothing is\n" +
			"changed before you have seen what will be. Then it writes the configuration (one that is there is kept beside it),\n" +
			"passwords into files of their own, what the service needs for these devices, and starts the service.\n\n" +
			"Run it again to change an answer: it offers what is configured. Users of the board can see flags while it runs:\n" +
			"passwords are therefore named by files.",
		Example: setupExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := newSetup(cmd, f, thisBoard(f.config))
			if err != nil {
				return err
			}
			defer s.close()
			return s.run()
		},
	}
	configFlag(cmd, &f.config)
	flags := cmd.Flags()
	flags.StringVar(&f.camera, "camera", "", "as probe lists it (v4l2:usb-…, csi:0), /dev/video0, a URL, a folder of pictures, or test")
	flags.StringVar(&f.model, "model", "", "model file; none: the fleet brings one")
	flags.StringVar(&f.labels, "labels", "", "file with a label a line (default: the model's own)")
	flags.StringVar(&f.lookFor, "look-for", "all", "labels that count, as in person,cat; all")
	flags.StringVar(&f.broker, "broker", "none", "of the house, as in mqtt://user@192.168.1.10; none")
	flags.StringVar(&f.brokerPassword, "broker-password-file", "", "file with the password for the broker")
	flags.StringVar(&f.join, "join", "none", "token of the fleet's operator; none, or - to read it from standard input")
	flags.StringVar(&f.pictures, "pictures", "nowhere", "may be shown: nowhere, on the board's own page, or to the house's broker as well (nowhere, page, house)")
	flags.StringVar(&f.pagePassword, "password-file", "", "file with the password for the page (default: one is made up, and shown)")
	flags.StringVar(&f.device, "device", "", "the board's name in topics (default: made of the host's name)")
	flags.BoolVarP(&f.yes, "yes", "y", false, "ask nothing: what has no flag has its default, and what fails ends it")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the configuration and what would be done; nothing is tried or changed")
	if err := cmd.RegisterFlagCompletionFunc("pictures", cobra.FixedCompletions([]cobra.Completion{"nowhere", "page", "house"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is above
	}
	return cmd
}

// A setup is one conversation, and what comes of it.
type setup struct {
	*dialog
	setupFlags
	place   place
	given   map[string]bool // flags that still count as the answer
	before  *agent.File     // what is configured; nil: nothing is
	joined  *agent.Identity // nil: this board joined no fleet
	a       answers
	frame   *hal.Frame      // what the camera saw; nil: it was not tried
	model   *agent.Detector // that is being looked through; nil: none
	choices []hal.Input     // cameras, as they were listed
	models  []string        // likewise
	engines []hal.Engine
}

func newSetup(cmd *cobra.Command, f setupFlags, p place) (*setup, error) {
	s := &setup{dialog: newDialog(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout()), setupFlags: f, place: p, given: map[string]bool{}}
	for _, name := range []string{"camera", "model", "labels", "look-for", "broker", "broker-password-file", "join", "pictures", "password-file", "device"} {
		s.given[name] = cmd.Flags().Changed(name)
	}
	if !f.dryRun {
		if err := p.writable(); err != nil {
			return nil, err
		}
	}
	var err error
	if s.before, err = agent.ReadFile(p.config); err != nil && !errors.Is(err, os.ErrNotExist) {
		if s.before = nil; f.yes {
			return nil, fmt.Errorf("what is configured cannot be read: %w", err)
		}
		s.say("What is configured now cannot be read:\n  %v\nIt will be kept beside the new configuration.\n", err)
	}
	data := p.data
	if s.before != nil {
		data = s.before.Data
	}
	s.a = answers{data: data, defaultData: data == p.data}
	if s.joined, err = agent.LoadIdentity(data); err != nil && !errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	s.engines, err = engines(nil, nil, zerolog.Nop())
	hurry(s.ctx, s.engines)
	return s, err
}

func (s *setup) close() {
	if s.model != nil {
		s.model.Close() // nothing is lost by it
	}
}

// run asks, shows, and does it.
func (s *setup) run() error {
	if err := s.name(); err != nil {
		return err
	}
	if !s.yes {
		s.say("Six questions, each with what it offers in brackets: Enter takes it. Ctrl-C ends this, and nothing is changed.")
	}
	steps := []func() error{s.askCamera, s.askModel, s.askBroker, s.askController, s.askPictures, s.askPassword}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	for {
		if err := s.a.consistent(s.joined != nil); err != nil {
			if s.yes {
				return err
			}
			s.say("\nThis does not go together: %v", err)
		}
		text := s.a.yaml()
		if _, err := agent.ParseFile(s.place.config, filepath.Dir(s.place.config), []byte(text)); err != nil {
			return fmt.Errorf("the answers make no configuration: %w", err)
		}
		s.say("\nThe configuration, %s:\n", s.place.config)
		fmt.Fprintln(s.out, "  "+strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  "))
		s.say("\nWhat %s done:", map[bool]string{true: "would be", false: "will be"}[s.dryRun])
		for _, line := range s.plan() {
			s.say("  - %s", line)
		}
		if s.dryRun {
			return nil
		}
		again, err := s.agreed()
		if err != nil {
			return err
		}
		if again < 0 {
			return s.apply(s.ctx)
		}
		clear(s.given)
		if err := steps[again](); err != nil {
			return err
		}
	}
}

// agreed asks for the word to begin: -1, or which question is to be asked again.
func (s *setup) agreed() (again int, err error) {
	for {
		consistent := s.a.consistent(s.joined != nil)
		if s.yes {
			return -1, consistent
		}
		s.say("")
		got, err := s.ask("Do it? yes, no, or the number of a question to answer again", "")
		switch {
		case err != nil:
			return 0, err
		case got == "yes" || got == "y":
			if consistent == nil {
				return -1, nil
			}
			s.say("  Not as it is: %v", consistent)
		case got == "no" || got == "n":
			return 0, errStopped
		case len(got) == 1 && got >= "1" && got <= "6":
			return int(got[0] - '1'), nil
		default:
			s.say("  Answer with yes, no, or a number from 1 to 6.")
		}
	}
}

// A question is one of six.
type question struct {
	flag      string // its name
	value     string // the flag's
	prompt    string
	otherwise string             // what Enter takes
	take      func(string) error // reads an answer; what is wrong with it is said, and it is asked again
	try       func() *trouble    // tries what was taken; nil: there is nothing to try
}

// A trouble is a test that failed: what, why, and the line that mends it.
type trouble struct{ what, why, fix string }

func (t *trouble) Error() string { return t.what + ": " + t.why + "\nfix: " + t.fix }

// settle gets the answer to a question, and tries it.
func (s *setup) settle(q question) error {
	for {
		text, asked, err := q.value, false, error(nil)
		switch {
		case s.given[q.flag]:
		case s.yes:
			text = q.otherwise
		default:
			asked = true
			if text, err = s.ask(q.prompt, q.otherwise); err != nil {
				return err
			}
		}
		if err := q.take(text); err != nil {
			if errors.Is(err, errStopped) {
				return err
			}
			if !asked {
				return fmt.Errorf("--%s: %w", q.flag, err)
			}
			s.say("  %v", err)
			continue
		}
		if q.try == nil || s.dryRun {
			return nil
		}
		again, err := s.attempt(q)
		if err != nil || !again {
			return err
		}
		s.given[q.flag] = false
	}
}

// attempt tries an answer until it works, or the person goes on without, or back to
// another answer.
func (s *setup) attempt(q question) (again bool, err error) {
	for {
		t := q.try()
		if s.ctx.Err() != nil {
			return false, errStopped
		}
		if t == nil {
			return false, nil
		}
		if s.yes {
			return false, t
		}
		s.say("  That did not work. %s:\n    %s\n  What mends it: %s", t.what, line(errors.New(t.why)), t.fix)
		switch got, err := s.choose("try again, go back to the question, or continue as it is", "try", "try", "back", "continue"); {
		case err != nil:
			return false, err
		case got == "back":
			return true, nil
		case got == "continue":
			return false, nil
		}
	}
}

// timed is how long a test may take.
func (s *setup) timed() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx, tryTime)
}

// title begins a question.
func (s *setup) title(n int, text string) {
	s.say("\n%d of 6: %s", n, text)
}
