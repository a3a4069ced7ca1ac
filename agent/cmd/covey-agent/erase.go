package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
)

const eraseExample = `  # what it has seen
  sudo systemctl stop covey-agent
  sudo covey-agent erase

  # before the board is given away
  sudo covey-agent erase --all`

func eraseCommand() *cobra.Command {
	var config string
	var all, yes bool
	cmd := &cobra.Command{
		Use:   "erase",
		Short: "Remove what this board has recorded of its surroundings, here and at the house's broker",
		Long: "Removes what this board has recorded: results and events that wait to be sent, and what is usual in its pictures.\n" +
			"Pictures of events are in memory alone, and are gone when the agent stops. What the house's broker retains of the\n" +
			"board is removed there. With --all the board can be given away: its identity, models, settings, configuration and\n" +
			"passwords go, too. The agent has to be stopped. It says what it will remove, and asks.\n\n" +
			"A flash card keeps old blocks until it writes over them: who takes it apart may find some. If that matters,\n" +
			"keep or destroy the card. What others have received (the house's broker and its history, the fleet) is theirs.",
		Example: eraseExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := newErasure(config, all)
			if err != nil {
				return err
			}
			return e.run(newDialog(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout()), yes)
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().BoolVar(&all, "all", false, "also identity, models, settings, configuration, passwords: a board to be given away")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// An erasure is what is to go.
type erasure struct {
	place place
	all   bool
	file  *agent.File // nil: there is no configuration
	data  string
	paths []string // files and folders
}

func newErasure(config string, all bool) (*erasure, error) {
	e := &erasure{place: thisBoard(config), all: all}
	e.data = e.place.data
	var err error
	if e.file, err = agent.ReadFile(e.place.config); err == nil {
		e.data = e.file.Data
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w\nthe configuration says where things are, and has to be readable", err)
	}
	e.paths = found(e.data, "outbox.db*")
	if all {
		e.paths = append(e.paths, found(e.data, "state.json*", "formats*", "accelerators.json*", "identity", "blobs", "engines", "trust*", "models", "*.tflite", "*.onnx")...)
		e.paths = append(e.paths, e.configured()...)
	}
	return e, nil
}

// found are the files in a folder with names like these.
func found(dir string, patterns ...string) []string {
	var all []string
	for _, p := range patterns {
		list, _ := filepath.Glob(filepath.Join(dir, p)) // the patterns are good ones
		all = append(all, list...)
	}
	return all
}

// configured are the configuration, those before it, and the passwords that it names.
func (e *erasure) configured() []string {
	dir := filepath.Dir(e.place.config)
	all := found(dir, filepath.Base(e.place.config), filepath.Base(e.place.config)+".[0-9]*", homeSecret, cameraSecret, pageSecret)
	if e.file == nil {
		return all
	}
	for _, path := range e.file.Secrets() {
		if exists(path) && !slices.Contains(all, path) {
			all = append(all, path)
		}
	}
	return all
}

// run says what goes, asks, and does it.
func (e *erasure) run(d *dialog, yes bool) error {
	letGo, err := agent.Hold(e.data)
	if err != nil {
		return err
	}
	defer letGo()
	device, home := e.device(), e.file != nil && e.file.Home != nil
	d.say("This will be removed, for good:")
	for _, path := range e.paths {
		d.say("  %s", path)
	}
	if !e.all && exists(filepath.Join(e.data, "state.json")) {
		d.say("  what is usual in its pictures, out of %s", filepath.Join(e.data, "state.json"))
	}
	if home {
		d.say("  what the broker %s retains of %s", e.file.Home.Broker, device)
	}
	if !yes {
		if got, err := d.choose("Remove it? yes or no", "no", "yes", "no"); err != nil || got == "no" {
			return errors.Join(err, errStopped)
		}
	}
	var houseErr error
	if home {
		houseErr = e.clearHouse(d, device)
		if houseErr != nil && !yes {
			if got, err := d.choose("Go on here without it? yes or no", "no", "yes", "no"); err != nil || got == "no" {
				return errors.Join(err, errStopped)
			}
		}
	}
	if err := e.remove(); err != nil {
		return err
	}
	d.say("Removed. A flash card keeps old blocks until it writes over them: who takes it apart may find some. The service's log is kept by the system: sudo journalctl --rotate --vacuum-time=1s removes all logs.")
	if e.all {
		for _, path := range found(e.data, "*") {
			d.say("Left, since it is not the agent's: %s", path)
		}
	}
	return houseErr
}

// device is whose topics they are.
func (e *erasure) device() wire.DeviceID {
	if id, err := agent.LoadIdentity(e.data); err == nil && id != nil {
		return id.ID
	}
	f := e.file
	if f == nil {
		f = &agent.File{}
	}
	id, err := f.DeviceName()
	if err != nil {
		return "covey"
	}
	return id
}

// remove removes it.
func (e *erasure) remove() error {
	var errs []error
	if !e.all {
		errs = append(errs, agent.ForgetUsual(e.data))
		errs = append(errs, e.keepOwner())
	}
	for _, path := range e.paths {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("not everything is gone: %w", err)
	}
	return nil
}

// keepOwner gives the state back to whom the folder belongs.
func (e *erasure) keepOwner() error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(e.data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return chownLike(fi, found(e.data, "state.json*"))
}

// clearHouse removes what the house's broker retains of the board.
func (e *erasure) clearHouse(d *dialog, device wire.DeviceID) error {
	fmt.Fprintf(d.out, "What %s retains … ", e.file.Home.Broker)
	ctx, cancel := context.WithTimeout(d.ctx, 30*time.Second)
	defer cancel()
	c, err := homeConfig(e.file.Home, device, zerolog.Nop())
	n := 0
	if err == nil {
		c.Clean = true // what waits there for this board goes, too
		n, err = clearRetained(ctx, c, filtersOf(e.file.Home, device))
	}
	if err != nil {
		fmt.Fprintln(d.out, "no")
		d.say("  It stays there: %s\n  By hand: mosquitto_sub -h %s -v --retained-only -t 'covey/home/%s/#', then mosquitto_pub -r -n -t each of them.", line(err), hostOf(e.file.Home.Broker), device)
		return fmt.Errorf("what the broker retains stays there: %w", err)
	}
	fmt.Fprintf(d.out, "%d removed\n", n)
	return nil
}

// filtersOf are where a board retains things.
func filtersOf(h *agent.HomeFile, device wire.DeviceID) []string {
	prefix := h.Discovery
	if prefix == "" || prefix == "off" {
		prefix = agent.DefaultDiscovery // before it was off
	}
	return []string{houseTopics(device).All(), wire.Discovery(prefix, device)}
}

// clearRetained removes all that is retained under filters, and looks again that nothing
// is. It returns how many there were.
func clearRetained(ctx context.Context, c mqtt.Config, filters []string) (int, error) {
	topics, err := retained(ctx, c, filters)
	if err != nil || len(topics) == 0 {
		return 0, err
	}
	if err := publishAll(ctx, c, topics); err != nil {
		return 0, err
	}
	left, err := retained(ctx, c, filters)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("it keeps %d of %d, such as %s: its rules do not let this user write there", len(left), len(topics), left[0])
	}
	return len(topics) - len(left), err
}

// retained lists the topics with something retained. A word of our own comes behind them.
func retained(ctx context.Context, c mqtt.Config, filters []string) ([]string, error) {
	mark := strings.TrimSuffix(filters[0], "#") + "erase"
	var topics []string
	spec := wire.Spec{}
	for _, f := range filters {
		spec.Subscribe = append(spec.Subscribe, wire.Subscription{Filter: f, QoS: 1})
	}
	err := converse(ctx, c, spec, []wire.Message{{Topic: mark, QoS: 1}}, func(m wire.Message) (done bool) {
		if m.Retain && len(m.Payload) > 0 {
			topics = append(topics, m.Topic)
		}
		return !m.Retain && m.Topic == mark
	})
	slices.Sort(topics)
	return topics, err
}

// publishAll says nothing, retained, to each topic: that removes what is there.
func publishAll(ctx context.Context, c mqtt.Config, topics []string) error {
	for part := range slices.Chunk(topics, mqtt.Window) {
		var messages []wire.Message
		for _, t := range part {
			messages = append(messages, wire.Message{Topic: t, QoS: 1, Retain: true})
		}
		if err := converse(ctx, c, wire.Spec{}, messages, nil); err != nil {
			return err
		}
	}
	return nil
}

var errSilent = errors.New("it does not answer, or its rules do not let this user read there")

// converse connects, publishes messages and ends when all of them are acknowledged and,
// where heard is not nil, it has said that it has heard enough.
func converse(ctx context.Context, c mqtt.Config, spec wire.Spec, messages []wire.Message, heard func(wire.Message) bool) error {
	link, err := mqtt.New(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed, acked, enough := make(chan error, 1), make(chan struct{}, len(messages)), make(chan struct{}, 1)
	spec.Up = func() {
		for _, m := range messages {
			if err := link.Publish(m, func() { acked <- struct{}{} }); err != nil {
				offer(failed, err)
			}
		}
	}
	spec.Down = func(err error) { offer(failed, err) }
	spec.Receive = func(m wire.Message) error {
		if heard != nil && heard(m) {
			offer(enough, struct{}{})
		}
		return nil
	}
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		if err := link.Run(ctx, spec); err != nil {
			offer(failed, err)
		}
	}()
	for left := len(messages); err == nil && (left > 0 || heard != nil); {
		select {
		case <-acked:
			left--
		case <-enough:
			heard = nil
		case err = <-failed:
		case <-ctx.Done():
			err = errSilent
		}
	}
	cancel()
	<-ran
	return err
}
