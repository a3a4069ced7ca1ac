package uplink

import (
	"context"
	"sync"

	"github.com/covey-edge/covey/fleet/wire"
)

// home is the link to the house's own broker.
type home struct {
	u      *Uplink
	topics wire.Home
	pump   *pump
	self   *doc            // available
	pipes  map[string]*doc // <pipeline>/available

	mu      sync.Mutex
	works   map[string]bool
	leaving bool // the last word is said
}

func newHome(u *Uplink, cfg *HomeConfig) *home {
	h := &home{u: u, topics: wire.Home{Root: rootOr(cfg.Root), ID: u.cfg.Device}, pipes: map[string]*doc{}, works: map[string]bool{}}
	h.pump = newPump(homeSide, cfg.Link, u.box, h.topic)
	for _, p := range u.cfg.Pipelines {
		h.pipes[p.Name] = h.pump.add(h.topics.PipelineAvailable(p.Name), 1)
	}
	h.self = h.pump.add(h.topics.Available(), 1)
	return h
}

func (h *home) topic(c class, key string) string {
	if c == classEvent {
		return h.topics.Event(h.u.anyPipeline(key))
	}
	return h.topics.Result(h.u.anyPipeline(key))
}

func (h *home) run(ctx context.Context) error {
	return lastWords(ctx, h.pump, h.spec(), nil, func() *doc {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leaving = true
		h.pump.set(h.self, word(false))
		return h.self
	})
}

func (h *home) spec() wire.Spec {
	return wire.Spec{
		Will: func() *wire.Message {
			return &wire.Message{Topic: h.topics.Available(), Payload: word(false), QoS: 1, Retain: true}
		},
		Up:   func() { h.pump.linkUp(h.birth) },
		Down: func(error) { h.pump.linkDown() },
		Room: func() { poke(h.pump.wake) },
	}
}

func (h *home) birth() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, d := range h.pipes {
		h.pump.set(d, word(h.works[name]))
	}
	h.pump.set(h.self, word(!h.leaving))
}

func (h *home) setAvailable(pipeline string, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.pipes[pipeline]
	if d == nil || h.works[pipeline] == yes {
		return
	}
	h.works[pipeline] = yes
	h.pump.set(d, word(yes))
}

func word(available bool) []byte {
	if available {
		return []byte("online")
	}
	return []byte("offline")
}
