package uplink

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
)

// A house is a broker in memory, with somebody who hears all, and the lives of one board.
// It is for bubbles of synctest.
type house struct {
	t      *testing.T
	broker *mem.Broker
	dir    string
	heard  *linktest.Client
}

func newHouse(t *testing.T) *house {
	b := mem.NewBroker()
	return &house{t: t, broker: b, dir: t.TempDir(), heard: listen(t, b, "person", "#")}
}

func (h *house) live(cfg HomeConfig, pipelines ...string) (u *Uplink, stop func()) {
	h.t.Helper()
	c := Config{Dir: h.dir, Home: &cfg}
	for _, p := range pipelines {
		c.Pipelines = append(c.Pipelines, Pipeline{Name: p})
	}
	cfg.Link = h.broker.Link("pi-1", false)
	u = open(h.t, c)
	return u, running(h.t, u)
}

// want compares what stands at the topics of the board.
func (h *house) want(want map[string]string) {
	h.t.Helper()
	synctest.Wait()
	topics := map[string]bool{}
	for topic := range want {
		topics[topic] = true
	}
	for _, m := range h.heard.Got() {
		topics[strings.TrimPrefix(m.Topic, "covey/home/pi-1/")] = true
	}
	for topic := range topics {
		full := topic
		if !strings.HasPrefix(topic, "homeassistant/") {
			full = "covey/home/pi-1/" + topic
		}
		m, ok := h.broker.Retained(full)
		if w, wanted := want[topic]; ok != wanted || string(m.Payload) != w {
			h.t.Errorf("%s: got %q, want %q (there: %t)", topic, m.Payload, w, wanted)
		}
	}
}

// said are the messages of a topic.
func (h *house) said(topic string) (list []string) {
	synctest.Wait()
	for _, m := range h.heard.Got() {
		if m.Topic == topic {
			list = append(list, string(m.Payload))
		}
	}
	return list
}

// Counts are 0 until they are more. A count that changes a hundred times a second is said
// five times a second, the last one in the end; one that does not change costs nothing.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		u, _ := h.live(HomeConfig{}, "porch")
		u.SetCount("porch", "all", "person", 9) // not declared
		u.SetCounts("porch", []string{"door", "install", "all"}, []string{"person", "cell phone"})
		u.SetCounts("attic", nil, []string{"person"}) // no such pipeline
		want := map[string]string{"available": "online", "porch/available": "offline", "porch/all/person": "0", "porch/door/person": "0", "porch/all/cell-phone": "0", "porch/door/cell-phone": "0"}
		h.want(want)
		for i := range 300 {
			u.SetCount("porch", "door", "person", i%7+1)
			u.SetCount("porch", "roof", "person", i)
			time.Sleep(10 * time.Millisecond)
		}
		u.SetCount("porch", "door", "person", 42)
		time.Sleep(homePace)
		want["porch/door/person"] = "42"
		h.want(want)
		if n := len(h.said("covey/home/pi-1/porch/door/person")); n < 14 || n > 18 {
			t.Errorf("said %d times in three seconds", n)
		}
		before := len(h.heard.Got())
		if n := testing.AllocsPerRun(100, func() { u.SetCount("porch", "door", "person", 42) }); n > 0 {
			t.Errorf("%v allocations", n)
		}
		synctest.Wait()
		if got := h.heard.Got()[before:]; len(got) > 0 {
			t.Errorf("said again: %v", got)
		}
	})
}

// What a gauge or a model could not tell is said as JSON can say it, and as the schemas
// want it.
func TestWhatJSONCannotSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		u, _ := h.live(HomeConfig{}, "porch")
		nan := math.NaN()
		u.SetLast("porch", wire.HomeLast{Label: "x", Zone: "all", Score: float32(nan)})
		u.SetDiagnostics(wire.HomeDiagnostics{Temperature: &nan, CPU: math.Inf(1), Pipelines: map[string]wire.HomePipelineDiagnosis{"porch": {FPS: nan, Latency: math.Inf(-1)}}})
		u.SetCapabilities(wire.HomeCapabilities{Name: "Pi", Pipelines: []wire.HomePipeline{{Name: "porch"}}})
		time.Sleep(time.Second)
		h.want(map[string]string{"available": "online", "porch/available": "offline",
			"porch/last":   `{"v":1,"label":"x","score":0,"zone":"all","ts":"0001-01-01T00:00:00Z"}`,
			"diagnostics":  `{"v":1,"uptime":0,"temperature":null,"throttled":false,"cpu":0,"memory":0,"disk":0,"outbox":0,"lost":0,"pipelines":{"porch":{"fps":0,"latency":0,"accelerator":"","degraded":""}}}`,
			"capabilities": `{"v":1,"device":"pi-1","name":"Pi","board":"","agent":"","pipelines":[{"name":"porch","task":"","zones":[],"labels":[],"events":false,"image":false,"settings":[]}]}`,
		})
	})
}

// Everything of a board, cut off and back again: the broker has the newest of all.
func TestEverythingIsSaidAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		u, _ := h.live(HomeConfig{}, "porch")
		u.SetCapabilities(wire.HomeCapabilities{Name: "Pi", Pipelines: []wire.HomePipeline{}})
		u.SetCounts("porch", nil, []string{"person"})
		u.SetLast("porch", wire.HomeLast{Label: "person", Zone: "all"})
		u.SetImage("porch", []byte("jpeg"))
		u.SetSetting("porch", wire.SettingEnabled, "ON")
		u.SetSetting("porch", wire.SettingThreshold, "0.5")
		u.SetSetting("porch", wire.SettingInstall, "what has no state")
		u.SetModel("porch", wire.HomeModel{Installed: "1", Latest: "1"})
		u.SetDiagnostics(wire.HomeDiagnostics{Uptime: 7})
		u.SetDiscovery(Discovery{Document: func(map[string]string) []byte { return []byte("document") }, Parts: map[string]string{"a": "sensor"}})
		time.Sleep(time.Second)
		h.broker.Down(true)
		time.Sleep(time.Second)
		u.SetCount("porch", "all", "person", 1)
		u.SetCount("porch", "all", "person", 2)
		u.SetSetting("porch", wire.SettingEnabled, "OFF")
		u.SetImage("porch", nil)
		time.Sleep(time.Second)
		for _, m := range h.heard.Got() { // the broker forgets, as one without a disk
			h.broker.Publish(wire.Message{Topic: m.Topic, Retain: true})
		}
		h.broker.Down(false)
		time.Sleep(time.Minute)
		h.want(map[string]string{
			"available": "online", "porch/available": "offline", "porch/all/person": "2", "porch/enabled": "OFF", "porch/threshold": "0.5",
			"porch/last":                       `{"v":1,"label":"person","score":0,"zone":"all","ts":"0001-01-01T00:00:00Z"}`,
			"capabilities":                     `{"v":1,"device":"pi-1","name":"Pi","board":"","agent":"","pipelines":[]}`,
			"porch/model":                      `{"installed_version":"1","latest_version":"1","title":"","in_progress":false,"update_percentage":null,"release_summary":""}`,
			"diagnostics":                      `{"v":1,"uptime":7,"temperature":null,"throttled":false,"cpu":0,"memory":0,"disk":0,"outbox":0,"lost":0,"pipelines":{}}`,
			"homeassistant/device/pi-1/config": "document",
		})
	})
}

// What a later configuration has no longer is cleared: labels, zones, pipelines, and in
// every life the picture of the life before. What is still there is not touched.
func TestWhatIsGoneIsCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		u, stop := h.live(HomeConfig{}, "porch", "attic")
		u.SetCounts("porch", []string{"door"}, []string{"person", "cat"})
		u.SetCounts("attic", nil, []string{"mouse"})
		u.SetCount("porch", "all", "person", 3)
		u.SetImage("porch", []byte("jpeg"))
		u.SetSetting("attic", wire.SettingEnabled, "ON")
		u.SetLast("porch", wire.HomeLast{Label: "cat", Zone: "all"})
		time.Sleep(time.Second)
		u.SetCounts("porch", []string{"path"}, []string{"person", "dog"}) // within one life
		time.Sleep(time.Second)
		last := `{"v":1,"label":"cat","score":0,"zone":"all","ts":"0001-01-01T00:00:00Z"}`
		h.want(map[string]string{"available": "online", "porch/available": "offline", "attic/available": "offline", "porch/image": "jpeg", "attic/enabled": "ON",
			"porch/all/person": "3", "porch/path/person": "0", "porch/all/dog": "0", "porch/path/dog": "0", "attic/all/mouse": "0", "porch/last": last})
		stop()
		u, stop = h.live(HomeConfig{}, "porch")
		if got := u.Labels("porch"); !slices.Equal(got, []string{"person", "dog"}) || u.Labels("attic") != nil {
			t.Errorf("labels: %q, %q", got, u.Labels("attic"))
		}
		time.Sleep(time.Second)
		// Counts are left until it is said what is counted.
		h.want(map[string]string{"available": "online", "porch/available": "offline", "porch/all/person": "3", "porch/path/person": "0", "porch/all/dog": "0", "porch/path/dog": "0", "porch/last": last})
		u.SetCounts("porch", nil, []string{"person"})
		time.Sleep(time.Second)
		want := map[string]string{"available": "online", "porch/available": "offline", "porch/all/person": "0", "porch/last": last}
		h.want(want)
		stop()
		h.heard.Send(wire.Message{Topic: "covey/home/pi-1/porch/all/dog", Payload: []byte("somebody else's"), Retain: true, QoS: 1})
		_, stop = h.live(HomeConfig{}, "porch")
		time.Sleep(time.Second)
		want["porch/all/dog"] = "somebody else's" // it was forgotten
		h.want(want)
		stop()
	})
}

// A topic is in the memory on disk before anything is said there: a board that dies
// between the two can clear it in its next life.
func TestMemoryComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.NewBroker()
		var u *Uplink
		heard := linktest.Start(t, b.Link("person", false), wire.Spec{Subscribe: []wire.Subscription{{Filter: "#", QoS: 1}}, Receive: func(m wire.Message) error {
			memory := u.loadMemory()
			if len(m.Payload) > 0 && !memory.Topics[m.Topic] {
				t.Errorf("%s is said and not in the memory", m.Topic)
			}
			if m.Topic == "homeassistant/device/pi-1/config" && len(m.Payload) > 0 {
				for part := range strings.FieldsSeq(string(m.Payload)) {
					if part[0] != '-' && memory.Parts[part] == "" { // what is gone may be forgotten by now
						t.Errorf("%s is told and not in the memory", part)
					}
				}
			}
			return nil
		}})
		heard.UntilUp(1)
		u = open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: b.Link("pi-1", false)}})
		stop := running(t, u)
		for i := range 5 {
			u.SetCounts("porch", []string{"door"}, []string{fmt.Sprint("label ", i)})
			u.SetImage("porch", []byte("jpeg"))
			tell(u, fmt.Sprint("part", i))
			time.Sleep(time.Second)
		}
		stop()
	})
}

// tell announces a document that names its parts, and as "-part" those that are gone.
func tell(u *Uplink, parts ...string) {
	platforms := map[string]string{}
	for _, p := range parts {
		platforms[p] = "sensor"
	}
	u.SetDiscovery(Discovery{Parts: platforms, Document: func(gone map[string]string) []byte {
		words := slices.Clone(parts)
		for _, key := range slices.Sorted(maps.Keys(gone)) {
			words = append(words, "-"+key+"="+gone[key])
		}
		return []byte(strings.Join(words, " "))
	}})
}

// Home Assistant is told in two steps of what is gone, also where that was told in a life
// before, and forgets the board where it is not to be found any more, or elsewhere.
func TestDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const topic, other = "homeassistant/device/pi-1/config", "ha/device/pi-1/config"
		h := newHouse(t)
		u, stop := h.live(HomeConfig{}, "porch")
		tell(u, "a", "b")
		time.Sleep(time.Second)
		tell(u, "a", "b") // nothing is new
		time.Sleep(time.Second)
		tell(u, "b", "c")
		time.Sleep(time.Second)
		tell(u, "x")
		tell(u, "d") // x was never told
		time.Sleep(time.Second)
		stop()
		u, stop = h.live(HomeConfig{}, "porch")
		time.Sleep(time.Second)
		tell(u, "d", "e")
		time.Sleep(time.Second)
		u.SetDiscovery(Discovery{Parts: map[string]string{"d": "switch"}, Document: func(gone map[string]string) []byte { return fmt.Append(nil, gone) }})
		time.Sleep(time.Second)
		stop()
		want := []string{"a b", "b c -a=sensor", "b c", "d -b=sensor -c=sensor", "d", "d e", "map[d:sensor e:sensor]", "map[]"}
		if got := h.said(topic); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		u, stop = h.live(HomeConfig{Prefix: "ha"}, "porch")
		tell(u, "d")
		time.Sleep(time.Second)
		h.want(map[string]string{"available": "online", "porch/available": "offline"})
		_, old := h.broker.Retained(topic)
		if m, _ := h.broker.Retained(other); string(m.Payload) != "d" || old {
			t.Errorf("at the new prefix stands %q, at the old one something: %t", m.Payload, old)
		}
		u.SetDiscovery(Discovery{})
		time.Sleep(time.Second)
		if m, ok := h.broker.Retained(other); ok {
			t.Errorf("%s is still told", m.Payload)
		}
		if m := u.loadMemory(); len(m.Parts) > 0 {
			t.Errorf("the memory has %v", m.Parts)
		}
		stop()
	})
}

// A Home Assistant that starts hears everything again within half a minute, the document
// first, and once for all that it says. What it has said before the board came is old.
func TestHomeAssistantStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.heard.Send(wire.Message{Topic: "homeassistant/status", Payload: []byte("online"), QoS: 1, Retain: true})
		u, _ := h.live(HomeConfig{}, "porch")
		tell(u, "a")
		u.SetCounts("porch", nil, []string{"person"})
		time.Sleep(time.Minute)
		before := len(h.heard.Got())
		for _, word := range []string{"offline", "", "ONLINE"} {
			h.broker.Publish(wire.Message{Topic: "homeassistant/status", Payload: []byte(word)})
		}
		time.Sleep(time.Minute)
		if got := h.heard.Got()[before:]; len(got) != 3 {
			t.Errorf("said %v", got)
		}
		before += 3
		for range 3 {
			h.broker.Publish(wire.Message{Topic: "homeassistant/status", Payload: []byte("online")})
		}
		time.Sleep(repeatWithin)
		synctest.Wait()
		var got []string
		for _, m := range h.heard.Got()[before:] {
			if m.Topic != "homeassistant/status" {
				got = append(got, m.Topic)
			}
		}
		want := []string{"homeassistant/device/pi-1/config", "covey/home/pi-1/porch/available", "covey/home/pi-1/porch/all/person", "covey/home/pi-1/available"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		before = len(h.said("covey/home/pi-1/available"))
		for range 310 { // one that starts again and again is not left waiting
			h.broker.Publish(wire.Message{Topic: "homeassistant/status", Payload: []byte("online")})
			time.Sleep(100 * time.Millisecond)
		}
		if len(h.said("covey/home/pi-1/available")) == before {
			t.Error("nothing was said in 31 seconds")
		}
	})
}

// Settings from home arrive as what they mean, others are answered and do not.
func TestSettingsFromHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var got []string
		h.live(HomeConfig{OnSet: func(p, s, v string) error {
			got = append(got, p+" "+s+" "+v)
			if v == "OFF" {
				return fmt.Errorf("%s", strings.Repeat("long ", 1000))
			}
			return nil
		}}, "porch")
		time.Sleep(time.Second)
		for _, c := range []struct{ topic, payload, want, answer string }{
			{"porch/enabled", "ON", "porch enabled ON", ""},
			{"porch/enabled", "on", "", `E_CONFIG: want "ON" or "OFF"`},
			{"porch/enabled", "OFF", "porch enabled OFF", strings.Repeat("long ", 1000)[:maxSetError]},
			{"porch/threshold", "0.30000000000000004", "porch threshold 0.3", ""},
			{"porch/threshold", "1.0", "porch threshold 1", ""},
			{"porch/threshold", "0", "", "E_CONFIG: want a number above 0 and up to 1, as in 0.5"},
			{"porch/threshold", "1.01", "", "E_CONFIG: want a number above 0 and up to 1, as in 0.5"},
			{"porch/restart", "restart", "porch restart ", ""},
			{"porch/snapshot", "restart", "", `E_CONFIG: want "snapshot"`},
			{"porch/snapshot", "snapshot", "porch snapshot ", ""},
			{"porch/install", "install 1.1", "porch install 1.1", ""},
			{"porch/warp", "9", "", ""},
			{"attic/enabled", "ON", "", ""},
		} {
			got = nil
			before := len(h.said("covey/home/pi-1/" + c.topic + "/error"))
			h.broker.Publish(wire.Message{Topic: "covey/home/pi-1/" + c.topic + "/set", Payload: []byte(c.payload), QoS: 1})
			time.Sleep(time.Second)
			synctest.Wait()
			if strings.Join(got, ",") != c.want {
				t.Errorf("%s %s: got %q, want %q", c.topic, c.payload, got, c.want)
			}
			answers := h.said("covey/home/pi-1/" + c.topic + "/error")[before:]
			if strings.Join(answers, "") != c.answer {
				t.Errorf("%s %s: answered %q, want %q", c.topic, c.payload, answers, c.answer)
			}
		}
	})
}

// A picture that is too large is none, and no old one is left in its place.
func TestPictureTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		u, _ := h.live(HomeConfig{}, "porch")
		want := map[string]string{"available": "online", "porch/available": "offline"}
		for _, size := range []int{1, wire.MaxHomeImage, wire.MaxHomeImage + 1, 2} {
			jpeg := bytes.Repeat([]byte("x"), size)
			u.SetImage("porch", jpeg)
			time.Sleep(time.Second)
			want["porch/image"] = string(jpeg)
			if size > wire.MaxHomeImage {
				delete(want, "porch/image")
			}
			h.want(want)
		}
		for _, m := range h.heard.Got() {
			if wanted := len(m.Payload) == 0; strings.HasSuffix(m.Topic, "/image") && (m.QoS == 1) != wanted {
				t.Errorf("%d bytes were said with QoS %d", len(m.Payload), m.QoS)
			}
		}
	})
}

// A deaf link takes everything and acknowledges nothing.
type deaf struct{ sent []wire.Message }

func (d *deaf) Run(ctx context.Context, _ wire.Spec) error { <-ctx.Done(); return nil }
func (d *deaf) Publish(m wire.Message, _ func()) error     { d.sent = append(d.sent, m); return nil }

// What was under way with QoS 0 when the link broke is lost, and said again at the next
// connection; with QoS 1 the link does that itself.
func TestUnderWayWhenTheLinkBreaks(t *testing.T) {
	box := open(t, Config{Dir: t.TempDir()}).box
	d := &deaf{}
	p := newPump(homeSide, d, box, nil)
	state, once := p.add("state", 0, 0), p.add("once", 1, 0)
	p.set(state, []byte("1"))
	p.set(once, []byte("1"))
	for range 2 {
		p.linkUp(p.repeat)
		p.sendDocs()
		p.linkDown()
	}
	p.set(state, nil)
	p.linkUp(func() {})
	p.sendDocs()
	p.linkDown()
	p.set(state, []byte("2")) // the link still says what it was before
	p.linkUp(func() {})
	p.sendDocs()
	var got []string
	for _, m := range d.sent {
		got = append(got, fmt.Sprint(m.Topic, m.QoS, string(m.Payload)))
	}
	if want := []string{"state01", "once11", "state01", "state1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// However many zones and labels a configuration has, what is said and remembered is
// bounded.
func TestCountsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var names, zones, labels []string
		for i := range 40 {
			names = append(names, fmt.Sprint("p", i))
			zones = append(zones, fmt.Sprint("z", i))
			labels = append(labels, fmt.Sprint("l", i))
		}
		u, stop := h.live(HomeConfig{}, names...)
		for range 2 {
			for _, p := range names {
				u.SetCounts(p, zones, labels)
			}
		}
		time.Sleep(time.Second)
		stop()
		counts := 0
		for topic := range u.home.memory.Topics {
			if strings.Count(topic, "/") == 5 {
				counts++
			}
		}
		if counts != maxCounts {
			t.Errorf("%d counts, want %d", counts, maxCounts)
		}
		b, err := json.Marshal(u.home.memory)
		if err != nil || len(b) > 1<<20 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}

// With a real broker and a network that cuts: in the end the broker has the last number
// of each count, and nothing where something was taken back.
func TestHomeSurvivesCuts(t *testing.T) {
	broker := linktest.Mosquitto(t)
	proxy := linktest.NewProxy(t, broker)
	sub := person(t, broker, "covey/home/#")
	u := open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: mqttLink(t, proxy.Addr(), "covey-pi-1")}})
	running(t, u)
	labels := []string{"a", "b", "c", "d"}
	u.SetCounts("porch", nil, labels)
	last := func(topic string) (payload string, heard bool) {
		for _, m := range sub.Messages(topic) {
			payload, heard = string(m.Payload), true
		}
		return payload, heard
	}
	for round := range 12 {
		for i := range 200 {
			u.SetCount("porch", "all", labels[i%4], 1000*round+i)
		}
		if u.SetImage("porch", []byte{byte(round)}); round%3 == 2 {
			u.SetImage("porch", nil)
		}
		sub.Until("something of this round", func() bool {
			n, _ := last("all/d")
			return len(n) > 3 && n[:len(n)-3] == fmt.Sprint(round) || round == 0 && n == "199"
		})
		proxy.Reset()
	}
	for i, label := range labels {
		u.SetCount("porch", "all", label, i)
	}
	u.SetImage("porch", nil)
	sub.Until("the last numbers", func() bool {
		for i, label := range labels {
			if n, _ := last("all/" + label); n != fmt.Sprint(i) {
				return false
			}
		}
		image, heard := last("/image")
		return heard && image == ""
	})
}
