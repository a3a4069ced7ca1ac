package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// tryTime is the longest that one test takes.
const tryTime = time.Minute

// source is the camera as the agent opens it, its password where it is now.
func (s *setup) source(c camera, folder string) (agent.SourceFile, error) {
	if c.password.text != "" {
		path := filepath.Join(folder, cameraSecret)
		if err := os.WriteFile(path, []byte(c.password.text), 0o600); err != nil {
			return agent.SourceFile{}, err
		}
	} else {
		folder = filepath.Dir(s.place.config)
	}
	f, err := agent.ParseFile("camera", folder, []byte("pipelines: {camera: {source: "+c.yaml()+"}}"))
	if err != nil {
		return agent.SourceFile{}, err
	}
	return f.Pipelines[0].Source, nil
}

// tryCamera gets a picture of the camera.
func (s *setup) tryCamera() *trouble {
	fmt.Fprint(s.out, "  A picture of it … ")
	s.frame = nil
	folder, err := os.MkdirTemp("", "covey-setup-")
	if err != nil {
		return &trouble{"no place for a temporary file", err.Error(), "df -h " + os.TempDir()}
	}
	defer os.RemoveAll(folder)
	ctx, cancel := s.timed()
	defer cancel()
	source, err := s.source(s.a.camera, folder)
	if err != nil {
		return &trouble{"The camera cannot be configured so", err.Error(), "answer otherwise"}
	}
	source.Watch = false // what comes later does not count
	frame, err := firstFrame(ctx, source)
	if err != nil {
		fmt.Fprintln(s.out, "no")
		if s.inUse(source) {
			s.say("  The agent that runs uses it: it is not tried.")
			return nil
		}
		return &trouble{"The camera gives no picture", err.Error(), cameraFix(source)}
	}
	s.frame = frame
	fmt.Fprintf(s.out, "ok: %d × %d\n", frame.Width, frame.Height)
	return nil
}

// firstFrame opens a source, takes one frame, and closes it.
func firstFrame(ctx context.Context, from agent.SourceFile) (*hal.Frame, error) {
	source, err := new(sources).open(ctx, from)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	f := &hal.Frame{}
	for {
		err = source.Next(ctx, f)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, hal.ErrBadFrame) && ctx.Err() == nil:
			continue
		case errors.Is(err, io.EOF):
			return nil, errors.New("it has no picture")
		}
		return nil, err
	}
}

// inUse says whether the agent that runs on this board reads the source.
func (s *setup) inUse(from agent.SourceFile) bool {
	if s.before == nil || len(s.before.Pipelines) == 0 || cameraOf(s.before.Pipelines[0].Source) != cameraOf(from) {
		return false
	}
	letGo, err := agent.Hold(s.before.Data)
	if err == nil {
		letGo()
	}
	return hal.CodeOf(err) == hal.CodeStateLocked
}

// cameraFix is what is looked at first.
func cameraFix(s agent.SourceFile) string {
	switch s.Type {
	case "v4l2":
		return "covey-agent probe   # is it there? fuser " + s.Device + " says what else uses it"
	case "csi":
		return "sudo apt install rpicam-apps-lite && rpicam-hello --list-cameras   # or check its cable"
	case "folder":
		return "put a picture (jpeg, png) into " + s.Path
	case "rtsp":
		return "sudo apt install ffmpeg   # and see that URL, user and password are the camera's"
	}
	return "see that URL, user and password are the camera's, and that it answers a browser"
}

// tryModel runs the model once, in its runner, on what the camera saw.
func (s *setup) tryModel() *trouble {
	if s.a.model == "" {
		return nil
	}
	if s.model != nil {
		s.model.Close() // it was opened without labels
		s.model = nil
	}
	fmt.Fprint(s.out, "  A run of the model … ")
	ctx, cancel := s.timed()
	defer cancel()
	d, err := agent.NewDetector(ctx, s.engines, agent.PipelineFile{Name: "camera", Model: s.a.model, Labels: s.a.labels, Accelerator: hal.Auto}, zerolog.Nop())
	if err == nil {
		s.model = d
		err = s.look(ctx)
	}
	if err != nil {
		fmt.Fprintln(s.out, "no")
		return &trouble{"The model does not run", err.Error(), "covey-agent doctor   # what this board can run; or take another model"}
	}
	return nil
}

func (s *setup) look(ctx context.Context) error {
	name, frame := "the camera's picture", s.frame
	if frame == nil {
		name = "a test pattern"
		var err error
		if frame, err = firstFrame(ctx, agent.SourceFile{Type: "synthetic", Width: 640, Height: 480}); err != nil {
			return err
		}
	}
	r, err := s.model.See(name, frame)
	if err != nil {
		return err
	}
	if len(r.Items) > 3 {
		r.Items = r.Items[:3]
	}
	fmt.Fprintln(s.out, "ok:")
	s.say("    %s", sentence(r))
	return nil
}

// brokers are where one is looked for.
var brokers = []string{"homeassistant.local", "localhost"}

// findBroker is the address of a broker that answers, "" where none does.
func (s *setup) findBroker() string {
	fmt.Fprint(s.out, "  Looking for one … ")
	for _, host := range brokers {
		ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
		address, err := lookup(ctx, host)
		if err == nil {
			var c net.Conn
			if c, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(address, "1883")); err == nil {
				c.Close()
			}
		}
		cancel()
		if err == nil {
			fmt.Fprintln(s.out, "found", host)
			if host == "localhost" {
				address = host
			}
			return "mqtt://" + net.JoinHostPort(address, "1883")
		}
	}
	fmt.Fprintln(s.out, "none answers at", strings.Join(brokers, ", "))
	return ""
}

// lookup is an address of a host. The agent asks name servers, which know no names in
// .local; getent asks as the system does, and knows them where it does.
func lookup(ctx context.Context, host string) (string, error) {
	all, err := net.DefaultResolver.LookupHost(ctx, host)
	if err == nil {
		return all[0], nil
	}
	out, failed := exec.CommandContext(ctx, "getent", "ahostsv4", host).Output()
	address, _, _ := strings.Cut(string(out), " ")
	if failed != nil || net.ParseIP(address) == nil {
		return "", err
	}
	return address, nil
}

// tryBroker connects, says something, and hears it.
func (s *setup) tryBroker() *trouble {
	if s.a.broker.url == "" {
		return nil
	}
	fmt.Fprint(s.out, "  A message to it and back … ")
	ctx, cancel := context.WithTimeout(s.ctx, connecting)
	defer cancel()
	s.reachable(ctx)
	password, err := s.brokerSecret()
	if err == nil {
		err = echo(ctx, mqtt.Config{URL: s.a.broker.url, ClientID: "covey-" + string(s.device()) + "-setup", Clean: true,
			Username: s.a.broker.user, Password: password, Logger: zerolog.Nop()}, s.device())
	}
	if err != nil {
		fmt.Fprintln(s.out, "no")
		return &trouble{"The broker does not do it", line(err), brokerFix(err, s.a.broker)}
	}
	fmt.Fprintln(s.out, "ok")
	return nil
}

// reachable puts an address in the place of a name that the agent could not look up.
func (s *setup) reachable(ctx context.Context) {
	u, err := url.Parse(s.a.broker.url)
	if err != nil || u.Scheme != "mqtt" || net.ParseIP(u.Hostname()) != nil {
		return // a certificate is for a name
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, u.Hostname()); err == nil {
		return
	}
	if address, err := lookup(ctx, u.Hostname()); err == nil {
		s.a.broker = s.a.broker.withHost(address)
		s.say("\n  %s is %s now, and the agent will look for it there: give it a fixed\n  address in your router.", u.Hostname(), address)
	}
}

// device is the board's name.
func (s *setup) device() wire.DeviceID {
	id, err := (&agent.File{Device: wire.DeviceID(s.a.device)}).DeviceName()
	if err != nil {
		return "covey" // name has asked for one
	}
	return id
}

// brokerSecret is the password for the broker: what was answered, or what is kept.
func (s *setup) brokerSecret() (string, error) {
	switch p := s.a.broker.password; {
	case p.text != "":
		return p.text, nil
	case p.file != "" && s.before != nil && s.before.Home != nil:
		return s.before.Home.Password()
	}
	return "", nil
}

// echo connects to a broker, publishes a word below the board's own topics and waits for
// it to come back. Nothing is left there.
func echo(ctx context.Context, c mqtt.Config, device wire.DeviceID) error {
	var b [8]byte
	rand.Read(b[:]) // never fails
	topic, word := houseTopics(device).Base()+"setup", hex.EncodeToString(b[:])
	err := converse(ctx, c, wire.Spec{Subscribe: []wire.Subscription{{Filter: topic, QoS: 1}}}, []wire.Message{{Topic: topic, Payload: []byte(word), QoS: 1}},
		func(m wire.Message) bool { return string(m.Payload) == word })
	if errors.Is(err, errSilent) {
		err = fmt.Errorf("what is published to %s does not come back: its rules do not let this user", topic)
	}
	return err
}

// brokerFix is what mends what a broker answered.
func brokerFix(err error, b broker) string {
	text := strings.ToLower(err.Error())
	switch {
	case strings.Contains(text, "not authorized"), strings.Contains(text, "bad user name"), strings.Contains(text, "not authorised"):
		if b.user == "" {
			return "give a user that the broker knows: mqtt://user@… (Home Assistant: Settings, People, add a user for covey)"
		}
		return "give the password that the broker has for " + b.user + " (Home Assistant: that of the user in Settings, People)"
	case strings.Contains(text, "no such host"), strings.Contains(text, "lookup"):
		return "give its address instead of its name, as in mqtt://192.168.1.10"
	case strings.Contains(text, "does not come back"), strings.Contains(text, "subscribe"):
		return "let this user read and write covey/home/# (mosquitto: topic readwrite covey/home/#)"
	case strings.Contains(text, "certificate"):
		return "add ca: FILE below home: in the configuration, later: continue as it is"
	}
	return "see that it runs there: mosquitto_sub -h " + hostOf(b.url) + " -t '#' -C 1"
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Hostname()
}
