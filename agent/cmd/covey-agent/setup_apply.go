package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/wire"
)

// houseTopics are the topics of a board at the house's broker.
func houseTopics(device wire.DeviceID) wire.Home { return wire.Home{Root: "covey", ID: device} }

// secrets are the passwords that are to be written, by the names of their files.
func (a *answers) secrets() [][2]string {
	var list [][2]string
	for _, s := range []secret{a.camera.password, a.broker.password, a.page} {
		if s.text != "" {
			list = append(list, [2]string{s.file, s.text})
		}
	}
	return list
}

// plan says what will be done, a line each.
func (s *setup) plan() []string {
	var plan []string
	if s.a.token != nil {
		plan = append(plan, "join the fleet of "+s.a.token.URL)
	}
	switch old, err := os.ReadFile(s.place.config); {
	case err == nil && string(old) == s.a.yaml():
		plan = append(plan, s.place.config+" is like that already")
	case err == nil:
		plan = append(plan, "write "+s.place.config+"; what is there now is kept beside it")
	default:
		plan = append(plan, "write "+s.place.config)
	}
	for _, secret := range s.a.secrets() {
		plan = append(plan, "write a password to "+filepath.Join(filepath.Dir(s.place.config), secret[0])+", for the service alone")
	}
	if s.place.systemd == "" {
		return append(plan, "say how to start it: there is no service for this configuration here")
	}
	return append(plan, "write what the service needs for these devices to "+s.place.dropIn, "start the service, now and with the board")
}

// apply does it. What is done stays when something fails, and running it again goes on
// from there.
func (s *setup) apply(ctx context.Context) error {
	s.say("")
	text := s.a.yaml()
	file, err := agent.ParseFile(s.place.config, filepath.Dir(s.place.config), []byte(text))
	if err != nil {
		return err
	}
	if err := s.enrol(ctx, file); err != nil {
		return err
	}
	for _, secret := range s.a.secrets() {
		if err := s.place.secret(secret[0], secret[1]); err != nil {
			return err
		}
	}
	kept, err := s.place.configuration(text)
	if err != nil {
		return err
	}
	s.say("  %s … written", s.place.config)
	if kept != "" {
		s.say("  what was there is %s", kept)
	}
	if file, err = agent.ReadFile(s.place.config); err != nil {
		return fmt.Errorf("what was written cannot be read: %w", err)
	}
	if err := s.start(ctx, file); err != nil {
		return err
	}
	s.next(file)
	return nil
}

// enrol joins the fleet.
func (s *setup) enrol(ctx context.Context, file *agent.File) error {
	if s.a.token == nil {
		return nil
	}
	fmt.Fprintf(s.out, "  Joining %s … ", s.a.token.URL)
	id, err := agent.Join(ctx, file, *s.a.token)
	if err != nil {
		fmt.Fprintln(s.out, "no")
		return fmt.Errorf("%w; nothing else was changed: ask the operator for another token (covey device token), and run setup again", err)
	}
	identity := agent.IdentityPath(file.Data)
	fmt.Fprintln(s.out, "ok, as", id)
	return s.place.give(file.Data, filepath.Dir(identity), identity)
}

// start gives the service what it needs, and starts it; or says how.
func (s *setup) start(ctx context.Context, file *agent.File) error {
	if s.place.systemd == "" {
		s.say("\nThere is no service for this configuration here. This runs it:\n\n  covey-agent run --config %s", s.place.config)
		return nil
	}
	var text strings.Builder
	if err := printNeeds(&text, s.place.config, file, nil); err != nil {
		return err
	}
	if err := s.place.write(s.place.dropIn, text.String(), 0o644, owner{}); err != nil {
		return err
	}
	s.say("  %s … written", s.place.dropIn)
	fmt.Fprint(s.out, "  Starting the service, which takes up to a minute … ")
	for _, args := range [][]string{{"daemon-reload"}, {"enable", service}, {"restart", service}} {
		if _, err := s.place.systemctl(ctx, args...); err != nil {
			fmt.Fprintln(s.out, "no")
			return fmt.Errorf("%w\nfix: journalctl -u %s -n 30   # it says why", err, service)
		}
	}
	fmt.Fprintln(s.out, "ok")
	status, err := s.place.systemctl(ctx, "show", "--property=StatusText", "--value", service)
	if err == nil && status != "" {
		s.say("  It says: %s", status)
	}
	return nil
}

// next says what to look at.
func (s *setup) next(file *agent.File) {
	s.say("\nDone. What to look at next:")
	if s.a.made {
		s.say("  The page's password, shown this once:  %s", s.a.page.text)
	}
	if file.Local != nil {
		host, err := os.Hostname()
		if err != nil {
			host = "<this board>"
		}
		s.say("  What it sees, on its page:  http://%s.local:8099 (or by its address)", host)
	}
	if h := file.Home; h != nil {
		user := ""
		if h.User != "" {
			user = " -u " + h.User + " -P …"
		}
		s.say("  Home Assistant lists it by itself, under Settings, Devices, MQTT. By hand:\n    mosquitto_sub -h %s%s -v -t 'covey/home/%s/#'", hostOf(h.Broker), user, s.device())
	}
	if s.place.systemd != "" {
		s.say("  How it is:  systemctl status covey-agent\n  Its log:    journalctl -u covey-agent -f")
	}
	s.say("  What this board lacks:  covey-agent doctor --config %s\n  Another answer:  covey-agent setup, once more", s.place.config)
}
