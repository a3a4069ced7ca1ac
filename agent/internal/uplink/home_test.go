package uplink

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// The house says install on its topic, is answered on another where that is wrong, and
// sees the model on a third. What was said before the board came is nobody's word.
func TestInstallFromHome(t *testing.T) {
	b := mem.NewBroker()
	sub := listen(t, b, "person", "covey/home/#")
	sub.Send(wire.Message{Topic: "covey/home/pi-1/porch/install/set", Payload: []byte("install"), QoS: 1, Retain: true})
	sub.UntilGot(1)
	words := make(chan string, 10)
	u := open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: b.Link("pi-1", false), OnSet: func(pipeline, setting, version string) error {
		if setting != wire.SettingInstall {
			t.Errorf("%s of %s is set", setting, pipeline)
		}
		words <- pipeline + " " + version
		if version == "0.9" {
			return &hal.Error{Code: hal.CodeConsent, Text: "what waits is 1.1"}
		}
		return nil
	}}})
	percent := 40
	m := wire.HomeModel{Installed: "1.0", Latest: "1.1", Title: "birds", InProgress: true, Percent: &percent}
	u.SetModel("porch", m)
	u.SetModel("attic", m) // no such pipeline
	running(t, u)
	sub.Until("model", func() bool { return len(sub.Messages("/model")) == 1 })
	for range 5 { // the same again is not said again
		u.SetModel("porch", m)
	}
	m.Percent = nil
	u.SetModel("porch", m)
	sub.Until("model again", func() bool { return len(sub.Messages("/model")) == 2 })
	r, _ := b.Retained("covey/home/pi-1/porch/model")
	if got, err := wire.Parse[wire.HomeModel](r.Payload, wire.MaxHomeModel); err != nil || *got != m {
		t.Errorf("got %s, %v", r.Payload, err)
	}

	say := func(topic, payload string) {
		sub.Send(wire.Message{Topic: "covey/home/pi-1/" + topic, Payload: []byte(payload), QoS: 1})
	}
	say("attic/install/set", "install")
	say("porch/other/set", "install")
	answers := 0
	for _, bad := range []string{"", "INSTALL", "install ", "install  1.1", "yes", "install\n", "install 1.1\x00", "install " + strings.Repeat("1", maxSet), "install 0.9"} {
		say("porch/install/set", bad)
		answers++
		sub.Until(fmt.Sprintf("an answer to %q", bad), func() bool { return len(sub.Messages("/error")) >= answers })
	}
	say("porch/install/set", "install")
	say("porch/install/set", "install 1.1")
	for _, want := range []string{"porch 0.9", "porch ", "porch 1.1"} {
		if got := <-words; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	last := sub.Messages("/error")[answers-1]
	if got := string(last.Payload); got != "E_CONSENT: what waits is 1.1" || last.Retain {
		t.Errorf("answered %q, retain %t", got, last.Retain)
	}
	if _, ok := b.Retained("covey/home/pi-1/porch/install/error"); ok {
		t.Error("an answer is retained")
	}
}

// Whatever comes from home, what is taken of it says the same again when it is said.
func FuzzSet(f *testing.F) {
	settings := []string{wire.SettingInstall, wire.SettingEnabled, wire.SettingThreshold, wire.SettingRestart, wire.SettingSnapshot}
	for _, s := range []string{"install", "install 1.1", "install 1.1 (8f3ac2d1)", "", "PRESS", "install\x00", "ON", "OFF", "0.5", "1", "1e-3", "0x1p-2", "NaN", ".5", "0.0000000000000000000001", "restart"} {
		for i := range settings {
			f.Add(uint(i), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, which uint, b []byte) {
		setting := settings[which%uint(len(settings))]
		value, err := parseSet(setting, b)
		var e *hal.Error
		if err != nil {
			if value != "" || !errors.As(err, &e) {
				t.Fatalf("%s %q: %q, %v", setting, b, value, err)
			}
			return
		}
		said := value
		switch setting {
		case wire.SettingInstall:
			said = strings.TrimSuffix("install "+value, " ")
		case wire.SettingThreshold:
			if v, err := strconv.ParseFloat(value, 32); err != nil || v <= 0 || v > 1 {
				t.Fatalf("%q is read as %q", b, value)
			}
			if again, err := parseSet(setting, []byte(value)); again != value {
				t.Fatalf("%q is read as %q, and that as %q, %v", b, value, again, err)
			}
			return
		case wire.SettingRestart, wire.SettingSnapshot:
			said = setting
		}
		if said != string(b) {
			t.Fatalf("%s %q is read as %q", setting, b, value)
		}
	})
}

// With a real broker, whose session waits for the board: what was said while it was
// away does not come, and neither does what is retained.
func TestInstallIsNotKept(t *testing.T) {
	broker := linktest.Mosquitto(t)
	sub := person(t, broker, "covey/home/#")
	words := make(chan string, 10)
	lives := 0
	live := func() (stop func()) {
		u := open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: mqttLink(t, broker, "covey-pi-1"), OnSet: func(_, _, version string) error {
			words <- version
			return nil
		}}})
		stop = running(t, u)
		lives++
		sub.Until("the board", func() bool {
			online := 0
			for _, m := range sub.Messages("pi-1/available") {
				if string(m.Payload) == "online" {
					online++
				}
			}
			return online == lives
		})
		return stop
	}
	say := func(text string, retain bool) {
		sub.Send(wire.Message{Topic: "covey/home/pi-1/porch/install/set", Payload: []byte(text), QoS: 1, Retain: retain})
	}
	stop := live()
	say("install 1", false)
	if got := <-words; got != "1" {
		t.Errorf("got %q", got)
	}
	stop()
	say("install 2", false)
	say("install 3", true)
	live()
	say("install 4", false)
	if got := <-words; got != "4" {
		t.Errorf("got %q, which was said while the board was away", got)
	}
}
