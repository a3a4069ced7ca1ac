package uplink

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
)

// A saying is what a consumer reads of a message.
type saying struct {
	ID   string
	Seq  uint64
	Late bool
	Age  int64 `json:"age_ms"`
	Lost *wire.LostSpan
	at   time.Time // it came
}

// A reader keeps what comes on the topics of results and events, by queue:
// "home/event", ….
type reader struct {
	mu  sync.Mutex
	got map[string][]saying
	ups int // how often it was connected
}

func (r *reader) receive(m wire.Message) error {
	levels := strings.Split(m.Topic, "/")
	var queue string
	switch {
	case len(levels) == 5 && levels[1] == "home":
		queue = "home/" + levels[4]
	case len(levels) == 7 && levels[4] == "up":
		queue = "fleet/" + levels[5]
	}
	w := saying{at: time.Now()}
	if seqOf(m.Payload, &w); w.Seq == 0 {
		return nil
	}
	r.mu.Lock()
	r.got[queue] = append(r.got[queue], w)
	r.mu.Unlock()
	return nil
}

// seqOf reads a message, if it is one that is numbered.
func seqOf(payload []byte, s *saying) {
	if json.Unmarshal(payload, s) != nil {
		s.Seq = 0
	}
}

func (r *reader) said(queue string) []saying {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got[queue]
}

// read starts a reader of everything.
func read(t *testing.T, l wire.Link) *reader {
	r := &reader{got: map[string][]saying{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, wire.Spec{Subscribe: []wire.Subscription{{Filter: "covey/#", QoS: 1}}, Receive: r.receive, Up: func() {
			r.mu.Lock()
			r.ups++
			r.mu.Unlock()
		}})
	}()
	t.Cleanup(func() { cancel(); <-done })
	soon(t, "the reader", func() bool { return r.connected() == 1 })
	return r
}

func (r *reader) connected() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ups
}

// soon waits until something is so.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout waiting for %s", what)
		}
	}
}

// inMemory is a folder for a test that commits thousands of times and asks nothing of
// the disk.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "covey-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// toYear lets an unreal clock reach a year that boards believe in.
func toYear(year int) { time.Sleep(time.Until(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))) }

// A house is without a network for a month, then it comes back: what is new goes first,
// the backlog in its order at a bounded rate and marked, and what the caps dropped is
// said to the last record. COVEY_OFFLINE_HOURS sets how long it takes; the caps
// shrink with it.
func TestMonthOffline(t *testing.T) {
	hours, err := strconv.Atoi(os.Getenv("COVEY_OFFLINE_HOURS"))
	if err != nil {
		hours = 4
	}
	dir := inMemory(t)
	synctest.Test(t, func(t *testing.T) { offline(t, dir, time.Duration(hours)*time.Hour) })
}

func offline(t *testing.T, dir string, away time.Duration) {
	toYear(2026)
	b := mem.NewBroker()
	r := read(t, b.Link("reader", false))
	network := make(chan struct{})
	u := open(t, Config{
		Dir: dir, Home: &HomeConfig{Link: gated{b.Link("pi-1-home", false), network}},
		Fleet:     &FleetConfig{Link: gated{b.Link("pi-1", false), network}, MID: "m"},
		Pipelines: []Pipeline{{Name: "porch"}},
	})
	month := 30 * 24 * time.Hour
	for c := range classes {
		most := &u.box.caps[c].bytes
		*most = max(*most*int64(away/time.Hour)/int64(month/time.Hour), *most/48) // more than memory holds
	}
	u.SetResults([]string{"*"})
	u.SetEvents([]string{"*"})
	running(t, u)
	h := &household{t: t, u: u}
	h.live(away)
	look(t, u, dir)
	close(network)
	for s := u.Stats(); !s.HomeUp || !s.FleetUp; s = u.Stats() {
		h.live(time.Second)
	}
	h.live(2 * time.Second) // what it missed last
	back := time.Now()
	for s := u.Stats(); s.Waiting > 2; s = u.Stats() {
		h.live(10 * time.Second)
		if time.Since(back) > time.Hour {
			t.Fatalf("the backlog does not end: %+v", s)
		}
	}
	took := time.Since(back)
	time.Sleep(time.Second)
	look(t, u, dir)
	for _, q := range u.Stats().Queues {
		if q.Class != "exec" {
			h.check(r.said(q.Link+"/"+q.Class), q, back)
		}
	}
	t.Logf("%v away, %d results and %d events; the backlog took %v", away, h.results, h.events, took)
}

// A gated link does not try before there is a network.
type gated struct {
	wire.Link
	network <-chan struct{}
}

func (g gated) Run(ctx context.Context, s wire.Spec) error {
	select {
	case <-g.network:
		return g.Link.Run(ctx, s)
	case <-ctx.Done():
		return nil
	}
}

// A household says what an idle house says, and remembers when.
type household struct {
	t               *testing.T
	u               *Uplink
	n               int
	results, events uint64
	at              []int64 // of each second, Unix nanoseconds
}

// when is the time that the words of an id were said at.
func (h *household) when(id string) time.Time {
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(id, "pi-1-porch-"), "b/"), "/0"))
	if err != nil {
		h.t.Fatal(err)
	}
	return time.Unix(0, h.at[n])
}

func (h *household) live(lasts time.Duration) {
	for range int(lasts / time.Second) {
		h.at = append(h.at, time.Now().UnixNano())
		r := result(h.n)
		if err := h.u.Offer("porch", r); err != nil {
			h.t.Fatalf("result %d: %v", h.n, err)
		}
		h.results++
		if h.n%20 == 0 {
			e := event(h.n)
			if err := h.u.OfferEvent("porch", e); err != nil {
				h.t.Fatalf("event %d: %v", h.n, err)
			}
			h.events++
		}
		h.n++
		time.Sleep(time.Second)
	}
}

// look says that the disk is well.
func look(t *testing.T, u *Uplink, dir string) {
	t.Helper()
	fi, err := os.Stat(filepath.Join(dir, "outbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	if s := u.Stats(); s.Disk != nil || fi.Size() > maxFile {
		t.Errorf("the file has %d bytes, at most %d; %v", fi.Size(), maxFile, s.Disk)
	}
	t.Logf("file of %.1f MB; %+v", float64(fi.Size())/1e6, u.Stats().Queues)
}

// check holds what came of a queue against what was said.
func (h *household) check(got []saying, q Queue, back time.Time) {
	h.t.Helper()
	name := q.Link + "/" + q.Class
	produced := h.results
	if q.Class == "event" {
		produced = h.events
	}
	seen := make([]int, produced+1) // 1: came, 2: lost
	var came, lost, last uint64
	perSecond := map[int64]int{}
	for _, w := range got {
		if w.Lost != nil {
			for n := w.Lost.From; n <= w.Lost.To; n++ {
				if n > produced || seen[n] != 0 {
					h.t.Fatalf("%s: %d is said to be lost (%+v), and it was %d", name, n, *w.Lost, seen[n])
				}
				seen[n] = 2
				lost++
			}
			continue
		}
		if w.Seq > produced || seen[w.Seq] == 2 {
			h.t.Fatalf("%s: %d came, of %d, or was lost", name, w.Seq, produced)
		}
		if seen[w.Seq] == 0 {
			came++
		}
		seen[w.Seq] = 1
		said := h.when(w.ID)
		wait := w.at.Sub(said)
		switch {
		case said.After(back) && (w.Late || wait > time.Second):
			h.t.Fatalf("%s: %d was live and came after %v, late %t", name, w.Seq, wait, w.Late)
		case said.Before(back.Add(-10*time.Second)) && !w.Late:
			h.t.Fatalf("%s: %d was held back for %v and is not late", name, w.Seq, wait)
		case q.Class == "event" && (time.Duration(w.Age)*time.Millisecond-wait).Abs() > time.Second:
			h.t.Fatalf("%s: %d says an age of %d ms and is %v old", name, w.Seq, w.Age, wait)
		}
		if w.Late {
			if w.Seq < last {
				h.t.Fatalf("%s: of the backlog %d came behind %d", name, w.Seq, last)
			}
			last = w.Seq
			perSecond[w.at.Unix()]++
		}
	}
	for n := uint64(1); n <= produced; n++ {
		if seen[n] == 0 {
			h.t.Fatalf("%s: %d neither came nor was lost", name, n)
		}
	}
	if came+lost != produced || q.Waiting != 0 || q.Dropped["bytes"]+q.Dropped["age"] != lost {
		h.t.Errorf("%s: %d came and %d were lost of %d; stats say %+v", name, came, lost, produced, q)
	}
	if lost == 0 {
		h.t.Errorf("%s: nothing was dropped: the caps were not tried", name)
	}
	for _, n := range perSecond {
		if n > backlogRate+backlogRate/10 {
			h.t.Errorf("%s: %d of the backlog in one second", name, n)
		}
	}
	h.t.Logf("%s: %d produced, %d came, %d lost", name, produced, came, lost)
}
