package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/local"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A dwelling is a house around a real agent: its broker, what stands on it, and what was
// said of events. All in memory and the bubble's time.
type dwelling struct {
	t      *testing.T
	broker *mem.Broker
	topics wire.Home
	file   *File
	label  atomic.Int32 // that the model sees: nothing, cat, dog, bird
	engine tflite

	stands atomic.Pointer[Standing]

	mutex  sync.Mutex
	events []wire.Event
	errors map[string]string
	all    [][]byte // every payload that left the board
}

func newDwelling(t *testing.T, pipeline PipelineFile) *dwelling {
	model := filepath.Join(t.TempDir(), "local.tflite")
	if err := os.WriteFile(model, aPicture("local"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipeline.Labels = filepath.Join(t.TempDir(), "labels.txt")
	if err := os.WriteFile(pipeline.Labels, []byte("nothing\ncat\ndog\nbird\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipeline.Events.Labels = []string{"cat", "dog", "bird"}
	pipeline.Name, pipeline.Model, pipeline.Source = "cam", model, SourceFile{Type: "fake", Live: true, FPS: 5}
	d := &dwelling{t: t, broker: mem.NewBroker(), topics: wire.Home{Root: "covey", ID: "pi-1"}, engine: newEngine(), errors: map[string]string{},
		file: &File{Data: t.TempDir(), Pipelines: []PipelineFile{pipeline}}}
	d.engine.Latency = 0 // a session that runs cannot be asked how often it ran
	d.engine.Compute = func(_, out [][]byte) {
		clear(out[0])
		binary.LittleEndian.PutUint32(out[0][4*d.label.Load():], math.Float32bits(3)) // a softmax makes 0.87 of it
	}
	return d
}

func (d *dwelling) listen(ctx context.Context) {
	up := make(chan struct{}, 1)
	go d.broker.Link("house", true).Run(ctx, wire.Spec{
		Subscribe: []wire.Subscription{{Filter: "#", QoS: 1}},
		Up:        func() { up <- struct{}{} },
		Receive: func(m wire.Message) error {
			d.mutex.Lock()
			defer d.mutex.Unlock()
			d.all = append(d.all, m.Payload)
			switch {
			case m.Topic == d.topics.Event("cam"):
				e, err := wire.Parse[wire.Event](m.Payload, wire.MaxResult)
				if err != nil {
					d.t.Errorf("%v: %s", err, m.Payload)
					return nil
				}
				d.events = append(d.events, *e)
			case strings.HasSuffix(m.Topic, "/error"):
				d.errors[m.Topic] = string(m.Payload)
			}
			return nil
		},
	})
	<-up
}

// agent starts the board and returns what ends it.
func (d *dwelling) agent(ctx context.Context, page func(local.Board)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	c := Config{Standing: func(s Standing) { d.stands.Store(&s) }, File: d.file, Device: "pi-1", Version: "test", FS: blob.OS{}, Engines: []hal.Engine{d.engine},
		Source: func(_ context.Context, s SourceFile) (hal.Source, error) {
			return &haltest.FakeSource{Every: time.Duration(float64(time.Second) / s.FPS), Width: 64, Height: 48, IsLive: true}, nil
		},
		Home: d.broker.Link("covey-pi-1", false), Board: firmware.Board{Name: "test board"}, Log: zerolog.New(d.t.Output()).Level(zerolog.WarnLevel)}
	go func() { ended <- run(ctx, c, page) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			d.t.Error(err)
		}
	}
}

func (d *dwelling) retained(topic string) string {
	m, _ := d.broker.Retained(topic)
	return string(m.Payload)
}

func (d *dwelling) say(setting, value string) {
	d.broker.Publish(wire.Message{Topic: d.topics.Set("cam", setting), Payload: []byte(value)})
	pass(3 * time.Second)
}

func (d *dwelling) types() (types []string) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, e := range d.events {
		types = append(types, e.Type+" "+e.Zone+"/"+e.Label)
	}
	return types
}

func pass(t time.Duration) {
	time.Sleep(t)
	synctest.Wait()
}

// A house hears that something came and went, and how many there are; it switches a
// camera off, which is off after a restart as well, and its threshold counts.
func TestHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		d := newDwelling(t, PipelineFile{})
		d.listen(ctx)
		stop := d.agent(ctx, nil)
		pass(5 * time.Second)
		var can wire.HomeCapabilities
		if err := json.Unmarshal([]byte(d.retained(d.topics.Capabilities())), &can); err != nil || len(can.Pipelines) != 1 || can.Pipelines[0].Image {
			t.Errorf("%v: %+v", err, can)
		}
		if s := d.retained(d.topics.Setting("cam", wire.SettingThreshold)); s != "0.1" {
			t.Errorf("threshold %q", s)
		}

		d.label.Store(2)
		pass(3 * time.Second)
		if n := d.retained(d.topics.Count("cam", wire.ZoneAll, "dog")); n != "1" {
			t.Errorf("%q of dog", n)
		}
		d.label.Store(0)
		pass(10 * time.Second)
		if n := d.retained(d.topics.Count("cam", wire.ZoneAll, "dog")); n != "0" {
			t.Errorf("%q of dog when it has gone", n)
		}
		if want := []string{"start all/dog", "end all/dog"}; !slices.Equal(d.types(), want) {
			t.Errorf("events %q, want %q", d.types(), want)
		}

		d.label.Store(3)
		pass(3 * time.Second)
		d.say(wire.SettingThreshold, "0.9") // more than the model says
		pass(7 * time.Second)
		if n := d.retained(d.topics.Count("cam", wire.ZoneAll, "bird")); n != "0" {
			t.Errorf("%q of bird above the threshold", n)
		}
		d.say(wire.SettingThreshold, "2")
		d.say(wire.SettingSnapshot, "snapshot")
		d.say(wire.SettingInstall, "install")
		d.mutex.Lock()
		for setting, code := range map[string]string{wire.SettingThreshold: "E_", wire.SettingSnapshot: "E_PRIVACY", wire.SettingInstall: "E_"} {
			if e := d.errors[d.topics.SetError("cam", setting)]; !strings.Contains(e, code) {
				t.Errorf("%s: %q", setting, e)
			}
		}
		d.mutex.Unlock()
		d.say(wire.SettingEnabled, "OFF")
		runs := d.runs()
		pass(time.Minute)
		if d.runs() != runs || d.retained(d.topics.Setting("cam", wire.SettingEnabled)) != "OFF" || d.retained(d.topics.PipelineAvailable("cam")) != "offline" {
			t.Errorf("%d runs while it is off", d.runs()-runs)
		}
		stop()
		stop = d.agent(ctx, nil)
		pass(time.Minute)
		if n := d.runs(); n != 0 {
			t.Errorf("%d runs after a restart while it is off", n)
		}
		if s := d.stands.Load(); !s.Settled || !strings.HasSuffix(s.Text, "; cam: switched off") {
			t.Errorf("the board stands so: %+v", s)
		}
		d.say(wire.SettingEnabled, "ON")
		pass(3 * time.Second)
		if d.runs() == 0 || d.retained(d.topics.PipelineAvailable("cam")) != "online" || d.retained(d.topics.Setting("cam", wire.SettingThreshold)) != "0.9" {
			t.Errorf("switched on: %d runs, threshold %q", d.runs(), d.retained(d.topics.Setting("cam", wire.SettingThreshold)))
		}
		opened := len(d.engine.Sessions())
		d.say(wire.SettingRestart, "restart")
		if len(d.engine.Sessions()) != opened+1 || !d.engine.Sessions()[opened-1].Closed() {
			t.Errorf("%d models were opened by a restart", len(d.engine.Sessions())-opened)
		}
		stop()
	})
}

func (d *dwelling) runs() int { s := d.engine.Sessions(); return s[len(s)-1].Runs() }

// What the board's own file says counts: nobody changes it from home.
func TestHouseDoesNotOverrule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		d := newDwelling(t, PipelineFile{Threshold: 0.5, Zones: []ZoneFile{{"door", [][2]float32{{0, 0}, {1, 0}, {1, 1}}}}})
		d.listen(ctx)
		boards := make(chan local.Board, 1)
		stop := d.agent(ctx, func(b local.Board) { boards <- b })
		pass(5 * time.Second)
		d.say(wire.SettingThreshold, "0.9")
		d.mutex.Lock()
		if e := d.errors[d.topics.SetError("cam", wire.SettingThreshold)]; !strings.Contains(e, "the board's configuration sets the threshold") {
			t.Errorf("%q", e)
		}
		d.mutex.Unlock()
		b := <-boards
		if r, err := b.Regions("cam"); err != nil || r.Locked == "" || len(r.Zones) != 1 || r.Origin != local.OriginFile {
			t.Errorf("%+v, %v", r, err)
		}
		if err := b.SetRegions("cam", nil, nil); err == nil {
			t.Error("zones of the file were changed")
		}
		stop()
	})
}

// On the page somebody draws a zone; from then on events are of it. What may be shown
// decides whether there is a picture with them, on the page and at home.
func TestPage(t *testing.T) {
	for _, tt := range []struct {
		privacy    PrivacyFile
		page, home bool
	}{
		{PrivacyFile{}, false, false},
		{PrivacyFile{Class: "thumbnails"}, true, false},
		{PrivacyFile{Class: "frames", Pictures: "home"}, true, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := newDwelling(t, PipelineFile{Privacy: tt.privacy})
			d.listen(ctx)
			boards := make(chan local.Board, 1)
			stop := d.agent(ctx, func(b local.Board) { boards <- b })
			b := <-boards
			pass(3 * time.Second)
			looking, look := context.WithCancel(ctx)
			views, err := b.Preview(looking, "cam")
			if err != nil {
				t.Fatal(err)
			}
			d.label.Store(1)
			pass(3 * time.Second)
			v := <-views
			for len(v.Items) == 0 {
				v = <-views
			}
			if (len(v.JPEG) > 0) != tt.page || v.Items[0].Label != "cat" {
				t.Errorf("%+v: %d bytes of picture, items %+v", tt, len(v.JPEG), v.Items)
			}
			look()
			pass(time.Second)
			events := b.Events(0)
			if len(events) != 1 || events[0].Picture != tt.page || events[0].Type != wire.EventStart {
				t.Fatalf("%+v: events %+v", tt, events)
			}
			picture, err := b.EventPicture(events[0].ID)
			if (err == nil) != tt.page || (len(picture) > 0) != tt.page {
				t.Errorf("%+v: picture of %d bytes, %v", tt, len(picture), err)
			}
			if at := d.retained(d.topics.Image("cam")); (at != "") != tt.home {
				t.Errorf("%+v: %d bytes of picture at home", tt, len(at))
			}
			if !tt.home {
				d.mutex.Lock()
				for _, p := range d.all {
					if strings.Contains(string(p), "\xff\xd8\xff") {
						t.Errorf("%+v: a picture has left the board", tt)
					}
				}
				d.mutex.Unlock()
			}
			corner := []local.Zone{{ID: "corner", Points: [][2]float64{{0, 0}, {0.2, 0}, {0.2, 0.2}}}}
			if err := b.SetRegions("cam", corner, corner); err != nil {
				t.Error(err)
			}
			pass(5 * time.Second)
			if r, err := b.Regions("cam"); err != nil || len(r.Zones) != 1 || len(r.Masks) != 1 || r.Origin != local.OriginHome || r.Locked != "" {
				t.Errorf("%+v, %v", r, err)
			}
			if last := b.Events(0); len(last) != 1 || last[0].Type != wire.EventEnd {
				t.Errorf("%+v: what was in the picture has not gone when zones were drawn: %+v", tt, last)
			}
			s := b.Status()
			if len(s.Pipelines) != 1 || s.Pipelines[0].State != local.StateRuns || s.NotReady != "" || s.Pipelines[0].Privacy.Pictures != tt.page || math.Abs(s.Pipelines[0].Aspect-64./48) > 1e-9 {
				t.Errorf("%+v", s)
			}
			if err := b.Set("cam", "threshold", 0.9); err != nil {
				t.Error(err)
			}
			if set, err := b.Settings("cam"); err != nil || set[1].Value != 0.9 || set[1].Origin != local.OriginHome {
				t.Errorf("%+v, %v", set, err)
			}
			if err := b.Set("cam", "threshold", nil); err != nil {
				t.Error(err)
			}
			if set, err := b.Settings("cam"); err != nil || set[1].Value != 0.1 || set[1].Origin != local.OriginDefault {
				t.Errorf("%+v, %v", set, err)
			}
			stop()
		})
	}
}

// Pictures of events are gone after a day, on the page and at home.
func TestPicturesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		d := newDwelling(t, PipelineFile{Privacy: PrivacyFile{Class: "frames", Pictures: "home"}})
		d.file.Pipelines[0].Source.FPS = 0.1
		d.listen(ctx)
		stop := d.agent(ctx, nil)
		d.label.Store(1)
		pass(time.Minute)
		d.label.Store(0)
		if d.retained(d.topics.Image("cam")) == "" {
			t.Error("no picture")
		}
		pass(25 * time.Hour)
		if n := len(d.retained(d.topics.Image("cam"))); n != 0 {
			t.Errorf("%d bytes of picture a day later", n)
		}
		stop()
	})
}

// Who asks the service how it stands hears of a disk that takes nothing.
func TestStorageTrouble(t *testing.T) {
	for want, err := range map[string]error{
		"":                  nil,
		"data: E_DISK_FULL": fmt.Errorf("write outbox: %w", blob.Coded(syscall.ENOSPC, "outbox.db")),
		"data: E_DISK_RO":   blob.Coded(syscall.EROFS, "outbox.db"),
		"data: E_UNKNOWN":   errors.New("something else"),
	} {
		if got := storage(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
