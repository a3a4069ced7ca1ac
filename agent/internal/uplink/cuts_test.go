package uplink

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

// A witness is a link that knows what was acknowledged. One that lies says so of
// everything as soon as the link has taken it, as who mistakes Publish for a PUBACK.
type witness struct {
	wire.Link
	lies bool

	mu    sync.Mutex
	acked map[string]map[uint64]bool // by topic, seq
}

func (w *witness) Publish(m wire.Message, acked func()) error {
	var s saying
	seqOf(m.Payload, &s)
	note := func() {
		w.mu.Lock()
		if s.Seq > 0 {
			if w.acked[m.Topic] == nil {
				w.acked[m.Topic] = map[uint64]bool{}
			}
			w.acked[m.Topic][s.Seq] = true
		}
		w.mu.Unlock()
		acked()
	}
	if !w.lies {
		return w.Link.Publish(m, note)
	}
	m.Payload, m.Again = slices.Clone(m.Payload), nil // it is used again at once
	err := w.Link.Publish(m, nil)
	if err == nil {
		note()
	}
	return err
}

// A house is a board between a real broker and a network that cuts.
type cutHouse struct {
	t      *testing.T
	broker *linktest.Broker
	proxy  *linktest.Proxy
	reader *reader
	dir    string
	lies   bool
	links  [sides]*witness // of all its lives

	mu              sync.Mutex // held while the board is started again
	board           *Uplink
	stop            func()
	results, events int // taken by the outbox
}

func newCutHouse(t *testing.T, lies bool) *cutHouse {
	h := &cutHouse{t: t, broker: linktest.NewBroker(t), dir: t.TempDir(), lies: lies}
	h.proxy = linktest.NewProxy(t, h.broker.Addr)
	h.reader = read(t, mqttLink(t, h.broker.Addr, "reader"))
	for s := range sides {
		h.links[s] = &witness{lies: lies, acked: map[string]map[uint64]bool{}}
	}
	h.start()
	h.board.SetResults([]string{"*"})
	h.board.SetEvents([]string{"*"})
	return h
}

func (h *cutHouse) start() {
	h.links[fleetSide].Link = mqttLink(h.t, h.proxy.Addr(), "pi-1")
	h.links[homeSide].Link = mqttLink(h.t, h.proxy.Addr(), "pi-1-home")
	h.board = open(h.t, Config{Dir: h.dir, Fleet: &FleetConfig{Link: h.links[fleetSide], MID: "m"}, Home: &HomeConfig{Link: h.links[homeSide]}})
	h.stop = running(h.t, h.board)
}

// say offers a result, and an event now and then.
func (h *cutHouse) say() {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch err := h.board.Offer("porch", result(h.results)); {
	case err == nil:
		h.results++
	case !errors.Is(err, ErrFull):
		h.t.Error(err)
	}
	if h.results%10 == 0 {
		if err := h.board.OfferEvent("porch", event(h.events)); err != nil {
			h.t.Error(err)
		}
		h.events++
	}
}

func (h *cutHouse) said() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.results
}

func (h *cutHouse) up(yes bool) {
	h.t.Helper()
	soon(h.t, fmt.Sprintf("links up: %t", yes), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.board.fleet.pump.isUp() == yes && h.board.home.pump.isUp() == yes
	})
}

// waiting is how many records are not acknowledged, on both links.
func (h *cutHouse) waiting() (n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.board.box
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range classes {
		for s := range sides {
			n += o.logs[c].streams[s].waiting
		}
	}
	return n
}

// ups counts the connections of each link of this life.
func (h *cutHouse) ups() [sides]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	var n [sides]int
	for s, p := range [sides]*pump{h.board.fleet.pump, h.board.home.pump} {
		p.mu.Lock()
		n[s] = p.ups
		p.mu.Unlock()
	}
	return n
}

// cut does one of the things that networks, boards and brokers do, and waits until both
// links have seen it and stand again.
func (h *cutHouse) cut(i int) {
	h.up(true)
	time.Sleep(rand.N(60 * time.Millisecond))
	before := h.ups()
	pause := 20*time.Millisecond + rand.N(150*time.Millisecond)
	switch {
	case i%11 == 5:
		h.restart()
		before = [sides]int{}
	case i%23 == 7 && !h.lies:
		h.killBroker()
	case i%14 == 1: // it takes the agent two seconds to see that
		h.proxy.HalfOpen()
	case i%7 == 3:
		resume := h.proxy.Stall()
		time.Sleep(pause)
		resume()
		return
	case i%7 == 4:
		h.proxy.Slow(20_000)
		time.Sleep(pause)
		h.proxy.Slow(0)
		return
	case i%7 == 6:
		h.proxy.Refuse(true)
		h.proxy.Reset()
		time.Sleep(pause)
		h.proxy.Refuse(false)
	default:
		h.proxy.Reset()
	}
	soon(h.t, "other connections", func() bool {
		now := h.ups()
		return now[fleetSide] > before[fleetSide] && now[homeSide] > before[homeSide]
	})
}

// restart ends the agent with messages on their way that no broker has, and starts it
// again.
func (h *cutHouse) restart() {
	h.proxy.Stall()
	h.proxy.Refuse(true)
	before := h.said()
	soon(h.t, "something on its way", func() bool { return h.said() >= before+5 })
	h.proxy.Reset()
	h.up(false)
	h.mu.Lock()
	h.stop()
	h.start()
	h.mu.Unlock()
	h.proxy.Refuse(false)
}

// killBroker kills mosquitto and starts it again with what it has kept. It says PUBACK
// before it writes anything down: what it has said so of is given the time to arrive.
func (h *cutHouse) killBroker() {
	h.proxy.Refuse(true)
	h.proxy.Stall()
	soon(h.t, "all that is acknowledged", func() bool { return h.owed() == 0 })
	before := h.reader.connected()
	h.broker.Kill()
	h.broker.Start()
	soon(h.t, "the reader", func() bool { return h.reader.connected() > before })
	h.proxy.Reset()
	h.proxy.Refuse(false)
}

// owed is how many were acknowledged and have not arrived.
func (h *cutHouse) owed() (n int) {
	queues := map[string]string{
		topics.Result("porch"): "fleet/result", topics.Event("porch"): "fleet/event",
		"covey/home/pi-1/porch/result": "home/result", "covey/home/pi-1/porch/event": "home/event",
	}
	for _, l := range h.links {
		l.mu.Lock()
		for topic, seqs := range l.acked {
			if queues[topic] == "" {
				continue
			}
			came := map[uint64]bool{}
			for _, s := range h.reader.said(queues[topic]) {
				came[s.Seq] = true
			}
			for seq := range seqs {
				if !came[seq] {
					n++
				}
			}
		}
		l.mu.Unlock()
	}
	return n
}

// A toll is what a run of cuts cost.
type toll struct{ missing, twice, faults int }

// judge looks at what arrived: each seq up to the last one once or more, under one id.
func (h *cutHouse) judge() (all toll) {
	for _, link := range []string{"fleet", "home"} {
		for class, produced := range map[string]int{"result": h.results, "event": h.events} {
			ids, seqs := map[uint64]string{}, map[string]uint64{}
			for _, s := range h.reader.said(link + "/" + class) {
				if s.Lost != nil {
					all.faults++
					continue
				}
				if id, again := ids[s.Seq]; again && id != s.ID {
					all.faults++
				} else if again {
					all.twice++
				}
				if seq, again := seqs[s.ID]; again && seq != s.Seq {
					all.faults++
				}
				ids[s.Seq], seqs[s.ID] = s.ID, s.Seq
			}
			for seq := range produced {
				if ids[uint64(seq)+1] == "" {
					all.missing++
				}
			}
		}
	}
	return all
}

// run says things while everything is cut, until the last thing said has arrived.
func (h *cutHouse) run(cuts int) toll {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(4 * time.Millisecond):
				h.say()
			}
			if h.waiting() > 300 { // the machine is busy: let it come along
				time.Sleep(100 * time.Millisecond)
			}
		}
	})
	for i := range cuts {
		h.cut(i)
	}
	h.up(true)
	close(done)
	wg.Wait()
	soon(h.t, "an empty outbox", func() bool { return h.waiting() == 0 })
	soon(h.t, "all that is acknowledged", func() bool { return h.lies || h.owed() == 0 })
	last := time.Now()
	soon(h.t, "what was said last", func() bool {
		if h.lies && time.Since(last) > time.Second { // a liar may have lost just that
			for range 10 {
				h.say()
			}
			last = time.Now()
		}
		for queue, want := range map[string]int{"fleet/result": h.results, "home/result": h.results, "fleet/event": h.events, "home/event": h.events} {
			last := uint64(0)
			for _, s := range h.reader.said(queue) {
				last = max(last, s.Seq)
			}
			if last < uint64(want) {
				return false
			}
		}
		return true
	})
	return h.judge()
}

// Cuts of every kind, the agent started again in the middle of some and the broker
// killed in others: what was taken arrives on both links, numbered without a gap, and
// what comes twice is the same. COVEY_LINK_CUTS sets how many.
func TestChaosCuts(t *testing.T) {
	cuts, err := strconv.Atoi(os.Getenv("COVEY_LINK_CUTS"))
	if err != nil {
		cuts = 25
	}
	h := newCutHouse(t, false)
	got := h.run(cuts)
	t.Logf("%d cuts: %d results and %d events on each link, %d came twice", cuts, h.results, h.events, got.twice)
	if got.missing > 0 || got.faults > 0 {
		t.Errorf("%d are missing, %d under a wrong number", got.missing, got.faults)
	}
	if h.results < 10*cuts || h.events < cuts {
		t.Errorf("only %d results and %d events: nothing was tried", h.results, h.events)
	}
}

// The same must catch an outbox that takes Publish for the acknowledgement.
func TestChaosCutsCatchALiar(t *testing.T) {
	h := newCutHouse(t, true)
	got := h.run(6) // the last of them starts the agent again
	t.Logf("%d missing", got.missing)
	if got.missing == 0 || h.owed() == 0 { // acknowledged, and never came
		t.Errorf("nothing is missing of %d results and %d events", h.results, h.events)
	}
}
