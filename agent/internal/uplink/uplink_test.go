package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/rs/zerolog"
)

const device = wire.DeviceID("pi-1")

// TestMain lets this program be the children that tests start.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "check-outbox" {
		os.Exit(CheckMain(os.Args[2], os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == "offer" {
		os.Exit(offerMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func checkCommand() []string { return []string{os.Args[0], "check-outbox"} }

// result is the i-th of a pipeline.
func result(i int) *wire.Result {
	return &wire.Result{
		V: 1, ID: fmt.Sprintf("b/%d", i), TS: time.Unix(1_700_000_000, 0), Pipe: "porch", Frame: uint64(i),
		Model: wire.ModelRef{Name: "ssd", Ver: "1", SHA: "0123456789abcdef"}, Accel: "cpu", Kind: "detect",
		Items: []wire.Item{{Label: "person", Score: 0.9, Box: &[4]float32{0, 0, 1, 1}}},
	}
}

// running starts u and returns what ends it.
func running(t testing.TB, u *Uplink) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func open(t testing.TB, cfg Config) *Uplink {
	t.Helper()
	cfg.Device, cfg.Log, cfg.Check = device, zerolog.Nop(), checkCommand()
	if cfg.Pipelines == nil {
		cfg.Pipelines = []Pipeline{{Name: "porch", Lossless: true}}
	}
	u, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// offer waits for room, as a lossless source does.
func offer(t testing.TB, u *Uplink, r *wire.Result) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		room := u.Room()
		err := u.Offer("porch", r)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		select {
		case <-room:
		case <-timeout:
			t.Fatal("no room for 20 s")
		}
	}
}

// A record of what arrived: by seq, the payload; and the lost spans.
type arrivals struct {
	bySeq map[uint64]string
	lost  []wire.LostSpan
	dups  int
}

// arrived reads results off what a client got.
func arrived(t testing.TB, got []wire.Message) arrivals {
	t.Helper()
	a := arrivals{bySeq: map[uint64]string{}}
	for _, m := range got {
		if !strings.HasSuffix(m.Topic, "/result") && !strings.Contains(m.Topic, "/result/") {
			continue
		}
		var v struct {
			Seq  uint64         `json:"seq"`
			Lost *wire.LostSpan `json:"lost"`
		}
		if err := json.Unmarshal(m.Payload, &v); err != nil {
			t.Fatalf("%s: %v", m.Payload, err)
		}
		if v.Lost != nil {
			a.lost = append(a.lost, *v.Lost)
			continue
		}
		if old, ok := a.bySeq[v.Seq]; ok {
			a.dups++
			if old != bare(m) {
				t.Errorf("seq %d came with different bytes:\n%s\n%s", v.Seq, old, m.Payload)
			}
		}
		a.bySeq[v.Seq] = bare(m)
	}
	return a
}

var head = regexp.MustCompile(`^\{"seq":\d+,("late":(true|false),)?("age_ms":\d+,)?`)

// bare is what a message says however late it is.
func bare(m wire.Message) string { return head.ReplaceAllString(string(m.Payload), "") }

// missing says which seq in 1..to neither came nor was said to be lost.
func (a arrivals) missing(to uint64) (gaps []uint64) {
	for seq := uint64(1); seq <= to; seq++ {
		_, ok := a.bySeq[seq]
		for _, l := range a.lost {
			ok = ok || (l.From <= seq && seq <= l.To)
		}
		if !ok {
			gaps = append(gaps, seq)
		}
	}
	return gaps
}

func (a arrivals) highest() (high uint64) {
	for seq := range a.bySeq {
		high = max(high, seq)
	}
	return high
}

// A listener is a client of a broker in memory.
func listen(t *testing.T, b *mem.Broker, id, filter string) *linktest.Client {
	t.Helper()
	c := linktest.Start(t, b.Link(id, false), wire.Spec{Subscribe: []wire.Subscription{{Filter: filter, QoS: 1}}})
	c.UntilUp(1)
	return c
}

func TestHomeGetsResults(t *testing.T) {
	b := mem.NewBroker()
	sub := listen(t, b, "person", "covey/home/#")
	u := open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: b.Link("pi-1", false)}})
	stop := running(t, u)
	u.SetAvailable("porch", true)
	for i := range 1000 {
		offer(t, u, result(i))
	}
	sub.Until("1000 results", func() bool { return len(sub.Messages("/result")) == 1000 })
	a := arrived(t, sub.Got())
	if gaps := a.missing(1000); len(gaps) > 0 || a.dups > 0 {
		t.Errorf("missing %v, %d twice", gaps, a.dups)
	}
	stop()
	if m, _ := b.Retained("covey/home/pi-1/available"); string(m.Payload) != "offline" {
		t.Errorf("after a clean stop available is %q", m.Payload)
	}
	if m, _ := b.Retained("covey/home/pi-1/porch/available"); string(m.Payload) != "online" {
		t.Errorf("porch is %q", m.Payload)
	}
}

// What was offered while nothing was up, over a restart, arrives once it is.
func TestBacklogSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { backlogSurvivesRestart(t, dir) })
}

func backlogSurvivesRestart(t *testing.T, dir string) {
	b := mem.NewBroker()
	sub := listen(t, b, "person", "covey/home/#")
	b.Down(true)
	const each = 1500 // more than memory holds
	for round := range 2 {
		u := open(t, Config{Dir: dir, Home: &HomeConfig{Link: b.Link("pi-1", false)}})
		stop := running(t, u)
		for i := range each {
			offer(t, u, result(round*each+i))
		}
		stop()
	}
	b.Down(false)
	u := open(t, Config{Dir: dir, Home: &HomeConfig{Link: b.Link("pi-1", false)}})
	stop := running(t, u)
	sub.Until("all", func() bool { return len(sub.Messages("/result")) >= 2*each })
	a := arrived(t, sub.Got())
	if gaps := a.missing(2 * each); len(gaps) > 0 || a.highest() != 2*each || len(a.lost) > 0 {
		t.Errorf("%d missing (%v…), highest %d, lost %v", len(gaps), gaps[:min(3, len(gaps))], a.highest(), a.lost)
	}
	stop()
	u = open(t, Config{Dir: dir, Home: &HomeConfig{Link: b.Link("pi-1", false)}})
	if s := u.Stats(); s.DiskBytes != 0 {
		t.Errorf("%d bytes stay on disk after everything was delivered", s.DiskBytes)
	}
	running(t, u)
}
