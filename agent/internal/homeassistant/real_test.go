package homeassistant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/rs/zerolog"
)

// TestRealHomeAssistant has a real Home Assistant and a real mosquitto find boards, show
// what they say, and press what they offer. COVEY_HOMEASSISTANT is the root of the system
// in which it is installed: scripts/homeassistant makes one and runs this.
func TestRealHomeAssistant(t *testing.T) {
	root := os.Getenv("COVEY_HOMEASSISTANT")
	if root == "" {
		t.Skip("run scripts/homeassistant")
	}
	broker := linktest.Mosquitto(t)
	ha := newHA(t, root)
	ha.start()
	ha.onboard()
	ha.addBroker(broker)

	proxy := linktest.NewProxy(t, broker)
	person := linktest.Start(t, link(t, broker, "person"), wire.Spec{Subscribe: []wire.Subscription{{Filter: "covey/#", QoS: 1}}})
	person.UntilUp(1)
	b := board(t, proxy.Addr(), devices()["kitchen"])
	u, sets := b.uplink, b.sets

	t.Run("all entities are there", func(t *testing.T) {
		ha.until(t, "every entity", func(s states) string { return s.missing(b.announcement) })
		// The count of something that is not there is 0, and says so.
		ha.want(t, map[string]string{"sensor.kitchen_porch_person_count": "0", "binary_sensor.kitchen_porch_door_person": "off"})
	})
	t.Run("they show what the board says", func(t *testing.T) {
		u.SetCount("porch", "all", "person", 3)
		u.SetCount("porch", "door", "person", 1)
		u.SetCount("porch", "path", "cell phone", 2)
		u.SetCount("sounds", "all", "Dog bark", 1)
		u.SetLast("porch", wire.HomeLast{Label: "person", Score: 0.9, Zone: "door", TS: time.Unix(1_800_000_000, 0).UTC()})
		u.SetSetting("porch", wire.SettingEnabled, "ON")
		u.SetSetting("porch", wire.SettingThreshold, "0.5")
		u.SetModel("porch", wire.HomeModel{Installed: "1.0.0", Latest: "1.1.0 (8f3ac2d1)", Title: "birds", Summary: "birds 1.1.0: waiting for install"})
		warm := 71.5
		u.SetDiagnostics(wire.HomeDiagnostics{Uptime: 60, Temperature: &warm, Throttled: true, Outbox: 3, Pipelines: map[string]wire.HomePipelineDiagnosis{
			"porch": {FPS: 14.75, Latency: 23.4, Accelerator: "xnnpack"}}})
		ha.want(t, map[string]string{
			"sensor.kitchen_porch_person_count": "3", "sensor.kitchen_porch_door_person_count": "1", "sensor.kitchen_porch_path_person_count": "0",
			"binary_sensor.kitchen_porch_door_person": "on", "binary_sensor.kitchen_porch_path_cell_phone": "on", "binary_sensor.kitchen_porch_path_person": "off",
			"binary_sensor.kitchen_sounds_dog_bark": "on", "sensor.kitchen_porch_last": "person",
			"switch.kitchen_porch_enabled": "on", "number.kitchen_porch_threshold": "0.5", "update.kitchen_porch_model": "on",
			"sensor.kitchen_temperature": "71.5", "binary_sensor.kitchen_throttled": "on",
			"sensor.kitchen_porch_frame_rate": "14.75", "sensor.kitchen_porch_latency": "23.4", "sensor.kitchen_porch_accelerator": "xnnpack",
			"sensor.kitchen_sounds_frame_rate": "unknown", "sensor.kitchen_sounds_accelerator": "unknown",
		})
		if s := ha.states()["sensor.kitchen_porch_last"]; s.Attributes["zone"] != "door" {
			t.Errorf("last: %v", s.Attributes)
		}
		if s := ha.states()["update.kitchen_porch_model"]; s.Attributes["latest_version"] != "1.1.0 (8f3ac2d1)" || s.Attributes["title"] != "birds" {
			t.Errorf("model: %v", s.Attributes)
		}
		u.SetCount("porch", "door", "person", 0)
		ha.want(t, map[string]string{"binary_sensor.kitchen_porch_door_person": "off", "sensor.kitchen_porch_door_person_count": "0"})
	})
	t.Run("a picture is shown and taken back", func(t *testing.T) {
		jpeg := append([]byte("\xff\xd8\xff\xe0"), bytes.Repeat([]byte("picture"), 20_000)...)
		u.SetImage("porch", jpeg)
		ha.until(t, "a picture", func(s states) string {
			return different("unknown", s["image.kitchen_porch_picture"].State == "unknown", false)
		})
		if got := ha.call("GET", "/api/image_proxy/image.kitchen_porch_picture", nil); !bytes.Equal(got, jpeg) {
			t.Errorf("the picture has %d bytes, want %d", len(got), len(jpeg))
		}
		u.SetImage("porch", nil)
		person.Until("the picture is gone", func() bool {
			m := person.Messages("/porch/image")
			return len(m) > 0 && len(m[len(m)-1].Payload) == 0
		})
	})
	t.Run("events are told, those of the past are not", func(t *testing.T) {
		say := func(text string) {
			person.Send(wire.Message{Topic: "covey/home/kitchen/porch/event", Payload: []byte(text), QoS: 1})
		}
		say(`{"v":1,"id":"e1","type":"start","label":"person","zone":"door","track":7,"score":0.9,"start":"2026-11-25T10:00:00Z","late":false,"seq":1}`)
		ha.until(t, "a start", func(s states) string {
			return different("type", s["event.kitchen_porch_event"].Attributes["event_type"], "start", s["event.kitchen_porch_event"].Attributes["label"] == "person")
		})
		say(`{"v":1,"id":"e1","type":"update","label":"person","seq":2}`)
		say(`{"seq":3,"v":1,"id":"l","lost":{"class":"event","from":1,"to":3,"reason":"age"}}`)
		say(`{"v":1,"id":"e1","type":"end","label":"person","score":0.8,"seq":4}`)
		say(`{"v":1,"id":"e0","type":"start","label":"late","late":true,"seq":5}`)
		person.Send(wire.Message{Topic: "covey/home/kitchen/sounds/all/dog-bark", Payload: []byte("7"), QoS: 1}) // comes behind
		ha.want(t, map[string]string{"sensor.kitchen_sounds_dog_bark_count": "7"})
		if a := ha.states()["event.kitchen_porch_event"].Attributes; a["event_type"] != "end" || a["label"] != "person" || a["id"] != "e1" {
			t.Errorf("after all the event is %v", a)
		}
	})
	t.Run("what is pressed arrives", func(t *testing.T) {
		for _, c := range []struct{ service, entity, more, want string }{
			{"update/install", "update.kitchen_porch_model", "", "porch install "},
			{"switch/turn_off", "switch.kitchen_porch_enabled", "", "porch enabled OFF"},
			{"switch/turn_on", "switch.kitchen_porch_enabled", "", "porch enabled ON"},
			{"number/set_value", "number.kitchen_porch_threshold", `,"value":0.25`, "porch threshold 0.25"},
			{"button/press", "button.kitchen_porch_restart", "", "porch restart "},
			{"button/press", "button.kitchen_porch_snapshot", "", "porch snapshot "},
		} {
			ha.call("POST", "/api/services/"+c.service, []byte(`{"entity_id":"`+c.entity+`"`+c.more+`}`))
			select {
			case got := <-sets:
				if got != c.want {
					t.Errorf("%s: got %q, want %q", c.service, got, c.want)
				}
			case <-time.After(30 * time.Second):
				t.Fatal(c.service, "did not arrive")
			}
		}
		if got := ending(person, "/porch/install/set"); len(got) != 1 || string(got[0].Payload) != "install" || got[0].Retain {
			t.Errorf("install/set: %v", got)
		}
		u.SetSetting("porch", wire.SettingThreshold, "0.25")
		ha.want(t, map[string]string{"number.kitchen_porch_threshold": "0.25"})
	})
	t.Run("a pipeline that is off can be switched on", func(t *testing.T) {
		u.SetAvailable("porch", false)
		ha.want(t, map[string]string{"sensor.kitchen_porch_person_count": "unavailable", "binary_sensor.kitchen_porch_door_person": "unavailable",
			"sensor.kitchen_porch_last": "unavailable", "switch.kitchen_porch_enabled": "on", "binary_sensor.kitchen_sounds_dog_bark": "on"})
		u.SetAvailable("porch", true)
		ha.want(t, map[string]string{"sensor.kitchen_porch_person_count": "3"})
	})
	t.Run("labels and pipelines go", func(t *testing.T) {
		d := devices()["kitchen"]
		d.Pipelines = d.Pipelines[:2]
		d.Pipelines[0].Labels = labels("person", "猫")
		b.announce(d)
		ha.until(t, "what is left", func(s states) string {
			if s["sensor.kitchen_porch_cell_phone_count"].State != "" || s["sensor.kitchen_boiler_last"].State != "" {
				return "there is what was removed"
			}
			return s.missing(b.announcement)
		})
		ha.want(t, map[string]string{"sensor.kitchen_porch_person_count": "3"})
	})
	t.Run("after a restart of Home Assistant all is as before", func(t *testing.T) {
		before := len(ending(person, "/capabilities"))
		ha.stop()
		ha.start()
		ha.want(t, map[string]string{"sensor.kitchen_porch_person_count": "3", "sensor.kitchen_porch_last": "person",
			"number.kitchen_porch_threshold": "0.25", "binary_sensor.kitchen_sounds_dog_bark": "on"})
		ha.until(t, "word from the board", func(states) string { // within 30 s
			return different("again", len(ending(person, "/capabilities")) > before, true)
		})
	})
	t.Run("the will makes all unavailable", func(t *testing.T) {
		proxy.Refuse(true)
		proxy.Reset()
		ha.until(t, "nothing available", func(s states) string {
			for id, e := range s {
				if strings.Contains(id, ".kitchen_") && e.State != "unavailable" {
					return id + " is " + e.State
				}
			}
			return ""
		})
		proxy.Refuse(false)
		ha.want(t, map[string]string{"sensor.kitchen_porch_person_count": "3", "binary_sensor.kitchen_throttled": "on"})
	})
	t.Run("strange names are taken as they are", func(t *testing.T) {
		for _, name := range []string{"strange", "bare"} {
			d := devices()[name]
			other := board(t, broker, d)
			ha.until(t, "every entity of "+name, func(s states) string { return s.missing(other.announcement) })
			other.uplink.SetDiscovery(uplink.Discovery{})
		}
	})
	t.Run("a board that is not to be found is gone", func(t *testing.T) {
		u.SetDiscovery(uplink.Discovery{})
		ha.until(t, "nothing", func(s states) string {
			for id := range s {
				if strings.Contains(id, ".kitchen_") || strings.Contains(id, "strange") || strings.Contains(id, "bare_") {
					return id + " is there"
				}
			}
			return ""
		})
	})
	ha.stop()
	for line := range strings.Lines(ha.log()) {
		// It clears the topic itself of what was taken back, and hears that again.
		if strings.Contains(line, "No device components to cleanup") {
			continue
		}
		if (strings.Contains(line, "WARNING") || strings.Contains(line, "ERROR")) && (strings.Contains(line, "mqtt") || strings.Contains(line, "emplate")) {
			t.Errorf("it complains: %s", line)
		}
	}
	t.Logf("Home Assistant %s took all of it", ha.version)
}

func ending(c *linktest.Client, suffix string) (list []wire.Message) {
	for _, m := range c.Got() {
		if strings.HasSuffix(m.Topic, suffix) {
			list = append(list, m)
		}
	}
	return list
}

// A homeBoard is the real home link of a device, with every document of it.
type homeBoard struct {
	uplink       *uplink.Uplink
	sets         chan string
	announcement *Announcement
}

func board(t *testing.T, broker string, d Device) *homeBoard {
	t.Helper()
	b := &homeBoard{sets: make(chan string, 100)}
	var pipelines []uplink.Pipeline
	for _, p := range d.Pipelines {
		pipelines = append(pipelines, uplink.Pipeline{Name: p.Name})
	}
	var err error
	b.uplink, err = uplink.New(uplink.Config{
		Device: d.Device, Dir: t.TempDir(), Pipelines: pipelines, Log: zerolog.Nop(),
		Home: &uplink.HomeConfig{Link: link(t, broker, "covey-"+string(d.Device)), OnSet: func(p, s, v string) error {
			b.sets <- p + " " + s + " " + v
			return nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.uplink.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for _, p := range d.Pipelines {
		b.uplink.SetAvailable(p.Name, true)
	}
	b.announce(d)
	return b
}

func (b *homeBoard) announce(d Device) {
	b.announcement = Announce(d)
	for _, p := range d.Pipelines {
		var names []string
		for _, l := range p.Labels {
			names = append(names, l.Label)
		}
		b.uplink.SetCounts(p.Name, p.Zones, names)
	}
	b.uplink.SetCapabilities(d.HomeCapabilities)
	b.uplink.SetDiscovery(uplink.Discovery{Document: b.announcement.Document, Parts: b.announcement.Parts})
}

func link(t *testing.T, addr, id string) *mqtt.Link {
	t.Helper()
	l, err := mqtt.New(mqtt.Config{URL: "mqtt://" + addr, ClientID: id, KeepAlive: time.Second, Logger: zerolog.Nop(), Spread: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// An ha is a Home Assistant in a system of its own.
type ha struct {
	t       *testing.T
	root    string
	config  string // within root
	addr    string
	token   string
	version string
	cmd     *exec.Cmd
	client  http.Client
}

func newHA(t *testing.T, root string) *ha {
	t.Helper()
	config, err := os.MkdirTemp(filepath.Join(root, "tmp"), "config")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(config) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &ha{t: t, root: root, config: config, addr: l.Addr().String(), client: http.Client{Timeout: time.Minute}}
	l.Close()
	_, port, _ := net.SplitHostPort(h.addr)
	text := "http:\n  server_host: 127.0.0.1\n  server_port: " + port + "\napi:\nconfig:\nonboarding:\nmqtt:\nlogger:\n  default: warning\n"
	if err := os.WriteFile(filepath.Join(config, "configuration.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	return h
}

// start begins a life and waits until it answers. It has namespaces of its own, which
// end with it.
func (h *ha) start() {
	h.t.Helper()
	inside := strings.TrimPrefix(h.config, h.root)
	h.cmd = exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc="+filepath.Join(h.root, "proc"),
		"chroot", h.root, "/usr/bin/env", "-i", "HOME="+inside, "LANG=C.UTF-8", "PATH=/venv/bin:/usr/bin:/bin",
		"/venv/bin/hass", "-c", inside, "--log-no-color", "--log-file", inside+"/log", "--skip-pip")
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := os.OpenFile(filepath.Join(h.config, "out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	h.cmd.Stdout, h.cmd.Stderr = out, out
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	for range 240 {
		if r, err := h.client.Get("http://" + h.addr + "/manifest.json"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
	h.t.Fatalf("Home Assistant does not start:\n%s", h.log())
}

func (h *ha) stop() {
	if h.cmd != nil {
		h.cmd.Process.Kill()
		h.cmd.Wait()
		h.cmd = nil
	}
}

func (h *ha) log() string {
	b, _ := os.ReadFile(filepath.Join(h.config, "out"))
	return string(b)
}

// call is one request of the REST API.
func (h *ha) call(method, path string, body []byte) []byte {
	h.t.Helper()
	b, err := h.try(method, path, "application/json", body)
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", method, path, err, h.log())
	}
	return b
}

func (h *ha) try(method, path, kind string, body []byte) ([]byte, error) {
	r, err := http.NewRequest(method, "http://"+h.addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", kind)
	if h.token != "" {
		r.Header.Set("Authorization", "Bearer "+h.token)
	}
	answer, err := h.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, b)
	}
	return b, err
}

// onboard makes the first user and gets its token.
func (h *ha) onboard() {
	h.t.Helper()
	client := "http://" + h.addr + "/"
	var code struct {
		Code string `json:"auth_code"`
	}
	ask := encode(map[string]string{"client_id": client, "name": "Covey", "username": "covey", "password": "covey", "language": "en"})
	if err := json.Unmarshal(h.call("POST", "/api/onboarding/users", ask), &code); err != nil {
		h.t.Fatal(err)
	}
	form := url.Values{"client_id": {client}, "grant_type": {"authorization_code"}, "code": {code.Code}}
	b, err := h.try("POST", "/auth/token", "application/x-www-form-urlencoded", []byte(form.Encode()))
	var token struct {
		Token string `json:"access_token"`
	}
	if err := errors.Join(err, json.Unmarshal(b, &token)); err != nil {
		h.t.Fatalf("%v: %s", err, b)
	}
	h.token = token.Token
	var config struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(h.call("GET", "/api/config", nil), &config); err != nil {
		h.t.Fatal(err)
	}
	h.version = config.Version
}

// addBroker does what a person does in the settings.
func (h *ha) addBroker(broker string) {
	h.t.Helper()
	var flow struct {
		ID   string `json:"flow_id"`
		Type string `json:"type"`
	}
	if err := json.Unmarshal(h.call("POST", "/api/config/config_entries/flow", []byte(`{"handler":"mqtt"}`)), &flow); err != nil {
		h.t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(broker)
	b := h.call("POST", "/api/config/config_entries/flow/"+flow.ID, []byte(`{"broker":"`+host+`","port":`+port+`}`))
	if err := json.Unmarshal(b, &flow); err != nil || flow.Type != "create_entry" {
		h.t.Fatalf("%v: %s", err, b)
	}
}

type state struct {
	State      string         `json:"state"`
	Attributes map[string]any `json:"attributes"`
}

type states map[string]state

func (h *ha) states() states {
	var list []struct {
		ID string `json:"entity_id"`
		state
	}
	if b, err := h.try("GET", "/api/states", "", nil); err != nil || json.Unmarshal(b, &list) != nil {
		return states{} // it is starting
	}
	s := states{}
	for _, e := range list {
		s[e.ID] = e.state
	}
	return s
}

// until asks until cond has nothing to say.
func (h *ha) until(t *testing.T, what string, cond func(states) string) {
	t.Helper()
	why := ""
	for range 240 {
		if why = cond(h.states()); why == "" {
			return
		}
		time.Sleep(250 * time.Millisecond)
	}
	t.Fatalf("no %s: %s\n%s", what, why, h.log())
}

// want waits for the states of entities.
func (h *ha) want(t *testing.T, want map[string]string) {
	t.Helper()
	h.until(t, "such states", func(s states) string {
		var wrong []string
		for id, w := range want {
			if s[id].State != w {
				wrong = append(wrong, fmt.Sprintf("%s is %q, not %q", id, s[id].State, w))
			}
		}
		return strings.Join(wrong, "; ")
	})
}

// missing says how many entities are there instead of those of an announcement that are
// not off from the start.
func (s states) missing(a *Announcement) string {
	device := a.frame["dev"].(map[string]any)["name"].(string)
	got, want := map[string]int{}, map[string]int{}
	for id, e := range s {
		if name, _ := e.Attributes["friendly_name"].(string); strings.HasPrefix(name, device+" ") {
			platform, _, _ := strings.Cut(id, ".")
			got[platform]++
		}
	}
	for key, platform := range a.Parts {
		if !bytes.Contains(a.texts[key], []byte(`"en":false`)) {
			want[platform]++
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Sprintf("got %v, want %v", got, want)
	}
	return ""
}

func different(what string, got, want any, more ...bool) string {
	if got != want || slices.Contains(more, false) {
		return fmt.Sprintf("%s is %v, want %v", what, got, want)
	}
	return ""
}
