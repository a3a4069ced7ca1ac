// Package event turns results into what happened: how many of a label are where, and
// that something came, stayed and went. Pure: time is that of the frames and of who
// calls, and everything that it finds is told in order.
package event

import (
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// All is the zone that is the whole picture.
const All = "all"

const (
	// most is how many presences are kept at a time; what comes beyond is not noticed.
	most = 256
	// patience is the least time between two updates of an event that only score better.
	patience = 5 * time.Second
	// better is how much a score has to gain to be worth an update.
	better = 0.1
)

// Config of a Watcher. Zero values mean the defaults.
type Config struct {
	IDPrefix string        // of events' ids: different for every pipeline and start
	Zones    []Zone        // events are of these; without any, of All
	Labels   []string      // others are not looked at; empty: all are
	Confirm  int           // results in a row that show something before it has come; 0: 2
	Hold     time.Duration // without it before it has gone; 0: 5 s
}

// A Zone is a part of the picture: a polygon of corners (x, y) in 0..1.
type Zone struct {
	Name    string
	Corners [][2]float32
}

// Told hears what a Watcher finds.
type Told interface {
	// Count says how many of a label are in a zone now.
	Count(zone, label string, n int)
	// Event says that something came, changed or went: all but Pipe, Image and what the
	// uplink knows is set. e is the Watcher's own.
	Event(e *wire.Event)
}

// A Watcher follows one pipeline. It is used by one goroutine at a time.
type Watcher struct {
	c    Config
	seen []*presence // in the order of their coming
	n    uint64      // events begun
}

// A presence is a label in a zone.
type presence struct {
	zone, label string
	now         int // in this result
	best        wire.Item
	last        time.Time // when it was seen last
	met         int       // results in a row that showed it

	here    bool       // it has come, and that was told
	event   wire.Event // the last that was told
	words   int        // told of the event
	updated time.Time  // when the last of them was
	count   int        // told last
	other   int        // a number that results show instead, and
	row     int        // how many in a row
}

// New makes a watcher.
func New(c Config) *Watcher {
	if c.Confirm == 0 {
		c.Confirm = 2
	}
	if c.Hold == 0 {
		c.Hold = 5 * time.Second
	}
	return &Watcher{c: c}
}

// See takes in a result. Of items without a box, as a classification has them, the
// first alone is seen.
func (w *Watcher) See(at time.Time, items []wire.Item, t Told) {
	for _, p := range w.seen {
		p.now = 0
	}
	for i := range items {
		it := &items[i]
		if it.Box == nil && i > 0 || len(w.c.Labels) > 0 && !slices.Contains(w.c.Labels, it.Label) {
			continue
		}
		w.tally(All, it)
		for j := range w.c.Zones {
			if z := &w.c.Zones[j]; it.Box != nil && z.holds(it.Box) {
				w.tally(z.Name, it)
			}
		}
	}
	for _, p := range w.seen {
		w.step(p, at, t)
	}
	w.forget()
}

// Tick lets time pass without a result: what was not seen for long has gone.
func (w *Watcher) Tick(now time.Time, t Told) {
	for _, p := range w.seen {
		p.notAfter(now)
		if p.here && now.Sub(p.last) >= w.c.Hold {
			p.now = 0
			w.leave(p, t)
		}
	}
	w.forget()
}

// End says of all that is there that it has gone: nobody looks any more.
func (w *Watcher) End(t Told) {
	for _, p := range w.seen {
		if p.here {
			w.leave(p, t)
		}
	}
	w.seen = nil
}

// tally counts an item in a zone.
func (w *Watcher) tally(zone string, it *wire.Item) {
	i := slices.IndexFunc(w.seen, func(p *presence) bool { return p.zone == zone && p.label == it.Label })
	if i < 0 {
		if len(w.seen) == most {
			return
		}
		i = len(w.seen)
		w.seen = append(w.seen, &presence{zone: zone, label: it.Label})
	}
	p := w.seen[i]
	if p.now++; p.now == 1 || it.Score > p.best.Score {
		p.best = *it
	}
}

// step is what a result means for a presence.
func (w *Watcher) step(p *presence, at time.Time, t Told) {
	p.notAfter(at)
	if p.now == 0 {
		p.met, p.row = 0, 0
		if p.here && at.Sub(p.last) >= w.c.Hold {
			w.leave(p, t)
		}
		return
	}
	p.last = at
	if p.met++; p.met == 1 && !p.here {
		p.event.Start = at
	}
	switch {
	case p.here:
		w.stay(p, at, t)
	case p.met >= w.c.Confirm:
		w.come(p, at, t)
	}
}

// notAfter holds against a clock that was set back: what would be seen in the future is
// seen now, or it would stay for as long as the clock went back.
func (p *presence) notAfter(now time.Time) {
	if p.last.After(now) {
		p.last = now
	}
	if p.updated.After(now) {
		p.updated = now
	}
}

// come begins an event.
func (w *Watcher) come(p *presence, at time.Time, t Told) {
	w.n++
	p.here, p.count, p.words = true, p.now, 0
	p.event = wire.Event{V: wire.Version, Event: fmt.Sprintf("%s-%d", w.c.IDPrefix, w.n), Type: wire.EventStart, Label: p.label, Zone: p.zone, Start: p.event.Start, Count: p.now}
	p.look()
	t.Count(p.zone, p.label, p.count)
	w.tell(p, at, t)
}

// stay tells another number once enough results have shown it, that there were never
// so many, and now and then that it is seen better.
func (w *Watcher) stay(p *presence, at time.Time, t Told) {
	if p.row++; p.now != p.other {
		p.other, p.row = p.now, 1
	}
	more := false
	if p.now != p.count && p.row >= w.c.Confirm {
		p.count = p.now
		t.Count(p.zone, p.label, p.count)
		if more = p.count > p.event.Count; more {
			p.event.Count = p.count
		}
	}
	clearer := p.best.Score >= p.event.Score+better && at.Sub(p.updated) >= patience
	if !more && !clearer {
		return
	}
	if p.best.Score > p.event.Score {
		p.look()
	}
	p.event.Type = wire.EventUpdate
	w.tell(p, at, t)
}

// leave ends an event.
func (w *Watcher) leave(p *presence, t Told) {
	p.here = false
	t.Count(p.zone, p.label, 0)
	p.event.Type, p.event.End = wire.EventEnd, p.last
	if p.last.Before(p.event.Start) { // by a clock that was set back
		p.event.End = p.event.Start
	}
	w.tell(p, p.last, t)
}

// look makes the best item of this result the event's.
func (p *presence) look() {
	p.event.Score, p.event.Box = p.best.Score, nil
	if b := p.best.Box; b != nil {
		box := *b
		p.event.Box = &box
	}
}

// tell says what happened, unless zones are what matters and this is none of them.
func (w *Watcher) tell(p *presence, at time.Time, t Told) {
	p.event.TS, p.updated = at, at
	p.event.ID = fmt.Sprintf("%s/%d", p.event.Event, p.words)
	p.words++
	if p.zone != All || len(w.c.Zones) == 0 {
		t.Event(&p.event)
	}
}

// forget drops what is not there and did not come.
func (w *Watcher) forget() {
	w.seen = slices.DeleteFunc(w.seen, func(p *presence) bool { return !p.here && p.now == 0 })
}

// holds says whether what is in a box stands in the zone: the middle of its lower edge
// is within, by the rule of non-zero winding.
func (z *Zone) holds(box *[4]float32) bool {
	x, y := (box[0]+box[2])/2, box[3]
	winding := 0
	for i, a := range z.Corners {
		b := z.Corners[(i+1)%len(z.Corners)]
		side := (b[0]-a[0])*(y-a[1]) - (x-a[0])*(b[1]-a[1])
		switch {
		case a[1] <= y && b[1] > y && side > 0:
			winding++
		case a[1] > y && b[1] <= y && side < 0:
			winding--
		}
	}
	return winding != 0
}
