package uplink

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
)

// A pump sends on one link: first the documents of which only the latest counts,
// in their order, then what is in the outbox.
type pump struct {
	side  side
	link  wire.Link
	box   *outbox
	topic func(c class, key string) string
	wake  chan struct{} // the outbox's of this side
	loop  *pulse.Loop   // of run

	mu    sync.Mutex
	up    bool
	docs  []*doc // in the order of sending; replaced, never changed
	dirty int    // of docs
	idle  []*parcel
	held  *parcel // found no room in the window; used by run alone
}

// A doc is a message of which only the latest counts.
type doc struct {
	topic   string
	qos     byte // an empty payload goes with 1: what is to be cleared must be
	retain  bool
	rank    int
	payload []byte
	dirty   bool // payload was not taken by the link yet
	flying  bool
	sent    byte // QoS of what is flying
	acked   func()
	then    func() // called when what was set has arrived; may be nil
}

// A parcel is a flight with the function that ends it, both used again.
type parcel struct {
	flight
	acked func()
}

func newPump(s side, l wire.Link, box *outbox, topic func(class, string) string) *pump {
	return &pump{side: s, link: l, box: box, topic: topic, wake: box.wake[s]}
}

// add makes a document, sent behind those added before that have no higher rank.
func (p *pump) add(topic string, qos byte, rank int) *doc {
	d := &doc{topic: topic, qos: qos, retain: true, rank: rank}
	d.acked = func() {
		p.mu.Lock()
		d.flying = false
		then := d.then
		p.mu.Unlock()
		poke(p.wake)
		if then != nil {
			then()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := len(p.docs)
	for at > 0 && p.docs[at-1].rank > rank {
		at--
	}
	p.docs = slices.Insert(slices.Clone(p.docs), at, d)
	return d
}

// drop forgets a document. What of it is under way arrives.
func (p *pump) drop(d *doc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark(d, false)
	p.docs = slices.DeleteFunc(slices.Clone(p.docs), func(o *doc) bool { return o == d })
}

// mark says whether a document has something to send. It is for holders of p.mu.
func (p *pump) mark(d *doc, dirty bool) {
	switch {
	case dirty && !d.dirty:
		p.dirty++
	case d.dirty && !dirty:
		p.dirty--
	}
	d.dirty = dirty
}

// set replaces a document; it goes out when the link is up.
func (p *pump) set(d *doc, payload []byte) { p.setThen(d, payload, nil) }

// setThen is set with what is to be called when the payload has arrived.
func (p *pump) setThen(d *doc, payload []byte, then func()) {
	p.mu.Lock()
	d.payload, d.then = payload, then
	p.mark(d, true)
	p.mu.Unlock()
	poke(p.wake)
}

// repeat sends every state again.
func (p *pump) repeat() {
	p.mu.Lock()
	for _, d := range p.docs {
		if d.retain && len(d.payload) > 0 {
			p.mark(d, true)
		}
	}
	p.mu.Unlock()
	poke(p.wake)
}

// linkUp begins to send, the documents first. prepare is called in between, to
// set them.
func (p *pump) linkUp(prepare func()) {
	p.box.linkUp(p.side)
	prepare()
	p.mu.Lock()
	p.up = true
	p.mu.Unlock()
	poke(p.wake)
}

func (p *pump) linkDown() {
	p.mu.Lock()
	p.up = false
	for _, d := range p.docs {
		d.flying = d.flying && d.sent > 0 // the link sends the rest again
	}
	p.mu.Unlock()
}

// settled says whether a document has arrived.
func (p *pump) settled(d *doc) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !d.dirty && !d.flying
}

func (p *pump) run(ctx context.Context, board *pulse.Board) {
	p.loop = board.Loop(p.side.String() + " link")
	defer p.loop.Leave(ctx)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		case <-p.loop.Pulse():
			p.loop.Beat()
			continue
		}
		p.loop.Beat()
		if p.send() {
			timer.Reset(100 * time.Millisecond)
		}
	}
}

// send sends what it can; true means that it wants to be called again soon.
func (p *pump) send() bool {
	if !p.sendDocs() {
		return false
	}
	for {
		p.loop.Beat()
		c := p.held
		p.held = nil
		if c == nil {
			c = p.parcel()
			switch p.box.next(p.side, &c.flight) {
			case nothing:
				p.release(c)
				return false
			case later:
				p.release(c)
				return true
			case readDisk:
				p.loop.Do("reads the outbox back", diskTime)
				p.box.readBack(c.c, p.side)
				p.release(c)
				continue
			}
		}
		err := p.link.Publish(wire.Message{Topic: p.topic(c.c, c.key), Payload: c.payload, QoS: 1}, c.acked)
		if err == nil {
			continue
		}
		p.held = c
		return !errors.Is(err, wire.ErrOffline) && !errors.Is(err, wire.ErrWindow)
	}
}

// sendDocs returns false while a document waits: nothing may overtake it.
func (p *pump) sendDocs() bool {
	p.mu.Lock()
	docs, up, dirty := p.docs, p.up, p.dirty
	p.mu.Unlock()
	if !up || dirty == 0 {
		return up
	}
	for _, d := range docs {
		p.mu.Lock()
		m := wire.Message{Topic: d.topic, Payload: d.payload, QoS: d.qos, Retain: d.retain}
		if len(m.Payload) == 0 {
			m.QoS = 1
		}
		dirty, flying := d.dirty, d.flying
		if dirty && !flying {
			p.mark(d, false)
			d.flying, d.sent = true, m.QoS
		}
		p.mu.Unlock()
		if !dirty {
			continue
		}
		if flying {
			return false // its acknowledgement wakes us
		}
		if err := p.link.Publish(m, d.acked); err != nil {
			p.mu.Lock()
			p.mark(d, true)
			d.flying = false
			p.mu.Unlock()
			return false // room or the next connection wakes us
		}
	}
	return true
}

func (p *pump) parcel() *parcel {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = slices.Delete(p.idle, n-1, n)
		return c
	}
	c := &parcel{}
	c.acked = func() {
		p.box.acked(p.side, &c.flight)
		p.release(c)
		poke(p.wake)
	}
	return c
}

func (p *pump) release(c *parcel) {
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
}
