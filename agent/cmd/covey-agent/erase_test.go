package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
)

// A lived is a board on which an agent has run in a house.
type lived struct {
	house
	link mqtt.Config
}

// livedIn runs an agent until the house has heard of it, and ends it.
func livedIn(t *testing.T) *lived {
	t.Helper()
	program, _ := self(t)
	l := &lived{house: house{t: t, dir: t.TempDir(), program: program, broker: linktest.Mosquitto(t)}}
	l.link = mqtt.Config{URL: "mqtt://" + l.broker, ClientID: "test", Clean: true, Logger: zerolog.Nop()}
	if err := os.Mkdir(l.path("etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.put("etc/home.password", "hunter2\n")
	l.put("etc/agent.yaml", "device: porch\nhome: {broker: 'mqtt://"+l.broker+"', user: u, password_file: home.password}\npipelines: {door: {source: {type: synthetic, fps: 1, live: true}}}\n")
	l.live(func() {})
	s, err := slots.Open(l.path("data"), blob.OS{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(st slots.State) slots.State {
		return st.WithUsual("door", slots.Usual{Model: "grandmother"}).WithHome("door", slots.Home{Off: true})
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

// live runs an agent and does something while it is online and Home Assistant knows of it.
func (l *lived) live(do func()) {
	l.t.Helper()
	cmd := l.command("run")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	available, discovery := houseTopics("porch").Available(), wire.Discovery("homeassistant", "porch")
	last := map[string]string{}
	err := converse(l.t.Context(), l.link, wire.Spec{Subscribe: []wire.Subscription{{Filter: available, QoS: 1}, {Filter: discovery, QoS: 1}}}, nil,
		func(m wire.Message) bool {
			last[m.Topic] = string(m.Payload)
			return last[available] == "online" && last[discovery] != ""
		})
	if err == nil {
		do()
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if ended := cmd.Wait(); err != nil || ended != nil {
		l.t.Fatalf("%v, %v\n%s", err, ended, &log)
	}
}

func (l *lived) retained() []string {
	l.t.Helper()
	topics, err := retained(l.t.Context(), l.link, []string{"covey/home/porch/#", "homeassistant/#", "kitchen/#"})
	if err != nil {
		l.t.Fatal(err)
	}
	return topics
}

// data is all that the data folder holds.
func (l *lived) data() string {
	var all strings.Builder
	if out, err := exec.Command("grep", "-r", "-a", "", l.path("data")).Output(); err == nil {
		all.Write(out)
	}
	return all.String()
}

// What the board has recorded goes, here and at the house's broker; what it is stays, and
// what is another's, too.
func TestErase(t *testing.T) {
	t.Parallel()
	l := livedIn(t)
	if err := publish(t, l.link, "kitchen/lamp", "on"); err != nil {
		t.Fatal(err)
	}
	if n := len(l.retained()); n < 4 {
		t.Fatalf("the house retains only %q", l.retained())
	}
	l.live(func() {
		if out, err := l.run("", "erase", "--yes"); err == nil || !strings.Contains(out, "E_STATE_LOCKED") || !strings.Contains(out, "systemctl stop covey-agent") {
			t.Errorf("while the agent runs: %v: %s", err, out)
		}
	})
	if out, err := l.run("no\n", "erase"); err == nil || !strings.Contains(out, "nothing was changed") || !exists(l.path("data/outbox.db")) {
		t.Errorf("no: %v: %s", err, out)
	}
	if !strings.Contains(l.data(), "grandmother") {
		t.Fatal("nothing is usual here")
	}
	out, err := l.run("yes\n", "erase")
	if err != nil || !strings.Contains(out, "outbox.db") || !strings.Contains(out, "flash card keeps old blocks") {
		t.Errorf("%v: %s", err, out)
	}
	if got := strings.Join(l.retained(), " "); got != "kitchen/lamp" {
		t.Errorf("the house still retains %s", got)
	}
	if exists(l.path("data/outbox.db")) || strings.Contains(l.data(), "grandmother") {
		t.Errorf("still there: %s", l.data())
	}
	if s, err := slots.Open(l.path("data"), blob.OS{}); err != nil || !s.State().Home["door"].Off || !exists(l.path("etc/agent.yaml")) {
		t.Errorf("%v: what people have set is gone, too", err)
	}
	l.live(func() {}) // it begins anew
}

// A board to be given away keeps nothing but what is not the agent's.
func TestEraseAll(t *testing.T) {
	t.Parallel()
	l := livedIn(t)
	for _, name := range []string{"data/identity", "data/models"} {
		if err := os.Mkdir(l.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l.put("data/models/m.tflite", "model")
	l.put("data/notes.txt", "mine")
	l.put("etc/agent.yaml.1", "old")
	out, err := l.run("", "erase", "--all", "--yes")
	if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), "Left, since it is not the agent's: "+l.path("data/notes.txt")) {
		t.Errorf("%v: %s", err, out)
	}
	if all, err := filepath.Glob(l.path("data/*")); err != nil || len(all) != 1 || l.files() != "" {
		t.Errorf("left: %q, %s", all, l.files())
	}
	if got := l.retained(); len(got) != 0 {
		t.Errorf("the house still retains %q", got)
	}
	if out, err := l.run("", "erase", "--all", "--yes"); err != nil {
		t.Errorf("where nothing is: %v: %s", err, out)
	}
}

// A broker that is away or forbids it is said, with what stays there; the board is erased.
func TestEraseWithoutTheHouse(t *testing.T) {
	t.Parallel()
	l := livedIn(t)
	l.put("etc/agent.yaml", "device: porch\nhome: {broker: 'mqtt://127.0.0.1:9'}\n")
	if out, err := l.run("yes\nno\n", "erase"); err == nil || !strings.Contains(out, "It stays there") || !exists(l.path("data/outbox.db")) {
		t.Errorf("no: %v: %s", err, out)
	}
	if out, err := l.run("", "erase", "--yes"); err == nil || !strings.Contains(out, "what the broker retains stays there") || exists(l.path("data/outbox.db")) {
		t.Errorf("%v: %s", err, out)
	}

	l.put("acl", "topic read covey/#\ntopic readwrite covey/home/porch/erase\nuser agent\ntopic readwrite #\n")
	c := mqtt.Config{URL: "mqtt://" + linktest.Mosquitto(t, "acl_file "+l.path("acl")), ClientID: "test", Clean: true, Username: "agent", Logger: zerolog.Nop()}
	if err := publish(t, c, "covey/home/porch/available", "offline"); err != nil {
		t.Fatal(err)
	}
	c.Username = ""
	if n, err := clearRetained(t.Context(), c, []string{"covey/home/porch/#"}); n != 0 || err == nil || !strings.Contains(err.Error(), "keeps 1 of 1, such as covey/home/porch/available") {
		t.Errorf("where it may not write: %d, %v", n, err)
	}
	c.Username = "agent"
	if n, err := clearRetained(t.Context(), c, []string{"covey/home/porch/#"}); n != 1 || err != nil {
		t.Errorf("where it may: %d, %v", n, err)
	}
}

// publish retains something at a broker.
func publish(t *testing.T, c mqtt.Config, topic, text string) error {
	t.Helper()
	return converse(t.Context(), c, wire.Spec{}, []wire.Message{{Topic: topic, Payload: []byte(text), QoS: 1, Retain: true}}, nil)
}
