package registry

import (
	"sync"

	"github.com/covey-edge/covey/fleet/wire"
)

// An EventKind says what an Event is about.
type EventKind string

const (
	EventDevice  EventKind = "device"  // a device's record changed: read it anew
	EventDesired EventKind = "desired" // a new desired document went out
	EventExec    EventKind = "exec"    // Step was taken in, for the first time
	EventResult  EventKind = "result"  // Answer was taken in, for the first time
	EventGroup   EventKind = "group"   // a named group changed: read queries anew
	EventLagged  EventKind = "lagged"  // events were dropped: read everything anew
)

// An Event says that something has changed. What it says is on the disk.
type Event struct {
	Kind     EventKind      `json:"kind"`
	Device   wire.DeviceID  `json:"device,omitempty"`
	Pipeline string         `json:"pipeline,omitempty"`
	Step     *wire.ExecStep `json:"step,omitempty"`
	Answer   *Answer        `json:"answer,omitempty"`
}

// A hub hands events to watchers and waits for none of them.
type hub struct {
	mu       sync.Mutex
	watchers map[*Watch]bool
}

// A Watch receives events until it is closed. One that is too slow loses some,
// and is told so by an EventLagged in their place.
type Watch struct {
	C <-chan Event

	hub    *hub
	c      chan Event
	size   int
	lagged bool // guarded by hub.mu
}

// Watch begins to receive events. size is how many may wait, at least 1.
func (r *Registry) Watch(size int) *Watch {
	size = max(size, 1)
	c := make(chan Event, size+1) // one more for EventLagged
	w := &Watch{C: c, hub: &r.watch, c: c, size: size}
	r.watch.mu.Lock()
	defer r.watch.mu.Unlock()
	if r.watch.watchers == nil {
		r.watch.watchers = map[*Watch]bool{}
	}
	r.watch.watchers[w] = true
	return w
}

// Close ends the watch and closes C. Closing twice is allowed.
func (w *Watch) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if w.hub.watchers[w] {
		delete(w.hub.watchers, w)
		close(w.c)
	}
}

func (h *hub) send(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		switch {
		case len(w.c) < w.size:
			w.c <- e
			w.lagged = false
		case !w.lagged: // the slot kept free for it
			w.c <- Event{Kind: EventLagged}
			w.lagged = true
		}
	}
}
