package uplink

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	bolt "go.etcd.io/bbolt"
)

// A memory is what the next start has to know of the house: what stands at its broker
// and would stand there for ever. It is written before anything new is said, and after
// what was there is cleared, so that it never knows too little.
type memory struct {
	Topics map[string]bool     `json:"topics"` // that something of ours stands at
	Parts  map[string]string   `json:"parts"`  // components that Home Assistant was told of, and their platforms
	Labels map[string][]string `json:"labels"` // that are counted, by pipeline

	changed bool // it is not on disk as it is
}

func (u *Uplink) loadMemory() memory {
	var m memory
	err := u.box.file.view(func(tx *bolt.Tx) error {
		if v, err := unseal(tx.Bucket(metaBucket).Get([]byte("home"))); err == nil {
			return json.Unmarshal(v, &m)
		}
		return nil
	})
	if err != nil {
		u.cfg.Log.Error().Err(err).Msg("what stands at home is not known")
		m = memory{}
	}
	if m.Topics == nil {
		m.Topics = map[string]bool{}
	}
	if m.Parts == nil {
		m.Parts = map[string]string{}
	}
	if m.Labels == nil {
		m.Labels = map[string][]string{}
	}
	return m
}

func (m *memory) setLabels(pipeline string, labels []string) {
	labels = slices.Clone(labels[:min(len(labels), wire.MaxHomeLabels)])
	if !slices.Equal(m.Labels[pipeline], labels) {
		m.Labels[pipeline] = labels
		m.changed = true
	}
}

// save writes the memory. It is for keep alone, and not for holders of h.mu.
func (h *home) save() {
	h.mu.Lock()
	changed := h.memory.changed
	b, err := json.Marshal(h.memory)
	h.memory.changed = false
	h.mu.Unlock()
	if !changed {
		return
	}
	if err == nil {
		err = h.u.box.file.update(func(tx *bolt.Tx) error {
			return tx.Bucket(metaBucket).Put([]byte("home"), seal(append(make([]byte, 4), b...)))
		})
	}
	if err != nil {
		h.u.cfg.Log.Error().Err(err).Msg("what stands at home cannot be written")
	}
}

// keep does what takes time or disk, until ctx ends.
func (h *home) keep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			h.save()
			return
		case <-h.wake:
		case <-timer.C:
		}
		timer.Reset(h.step(time.Now()))
	}
}

// step does what there is to do, and says when there may be more.
func (h *home) step(now time.Time) time.Duration {
	h.announce()
	h.mu.Lock()
	stale := h.stale
	h.stale = false
	if stale {
		h.remember()
	}
	h.mu.Unlock()
	h.save() // before anything is said
	h.mu.Lock()
	defer h.save()
	defer h.mu.Unlock()
	if stale {
		h.begin(now)
		h.tidy()
	}
	wait := h.flush(now)
	if h.again.IsZero() {
		return wait
	}
	if left := h.again.Sub(now); left > 0 {
		return min(wait, left)
	}
	h.again = time.Time{}
	h.pump.repeat()
	return wait
}

// remember puts the topics of all that is to be said into the memory.
func (h *home) remember() {
	for topic := range h.docs {
		h.memory.add(topic)
	}
	for topic, v := range h.values {
		if len(v.said) > 0 {
			h.memory.add(topic)
		}
	}
}

func (m *memory) add(topic string) {
	if !m.Topics[topic] {
		m.Topics[topic] = true
		m.changed = true
	}
}

// begin says what is new and in the memory.
func (h *home) begin(now time.Time) {
	for topic, v := range h.values {
		if len(v.said) == 0 || h.docs[topic] != nil && !h.cleared[topic] || !h.memory.Topics[topic] {
			continue
		}
		h.doc(topic, v.qos)
		h.out(v, now)
	}
}

// doc finds a topic's document, or makes it.
func (h *home) doc(topic string, qos byte) *doc {
	d := h.docs[topic]
	if d == nil {
		rank := rankValue
		if topic == wire.Discovery(h.prefix, h.u.cfg.Device) {
			rank = rankDiscovery
		}
		d = h.pump.add(topic, qos, rank)
		h.docs[topic] = d
	}
	return d
}

// tidy clears the topics of the memory that nothing is to stand at, and forgets those
// that are cleared.
func (h *home) tidy() {
	for _, topic := range slices.Sorted(maps.Keys(h.memory.Topics)) {
		switch {
		case h.stands(topic):
		case !h.cleared[topic]:
			h.cleared[topic] = true
			h.pump.setThen(h.doc(topic, 1), nil, h.arrived)
		case h.docs[topic] != nil && h.pump.settled(h.docs[topic]):
			h.pump.drop(h.docs[topic])
			delete(h.docs, topic)
			if !h.mayReturn(topic) {
				delete(h.cleared, topic)
				delete(h.memory.Topics, topic)
				h.memory.changed = true
			}
		}
	}
}

// stands says whether something is to stand at a topic of the memory. Where it cannot be
// known yet, it does.
func (h *home) stands(topic string) bool {
	if v := h.values[topic]; v != nil && len(v.said) > 0 {
		return true
	}
	rest, ours := strings.CutPrefix(topic, h.topics.Base())
	if !ours {
		return topic == wire.Discovery(h.prefix, h.u.cfg.Device) && h.found == nil
	}
	levels := strings.Split(rest, "/")
	p := h.pipes[levels[0]]
	switch {
	case len(levels) == 1:
		return true
	case p == nil || h.mayReturn(topic):
		return false
	case len(levels) == 3:
		return !p.declared
	}
	return true
}

// mayReturn says whether a topic is of those that come and go: pictures.
func (h *home) mayReturn(topic string) bool {
	for name := range h.pipes {
		if topic == h.topics.Image(name) {
			return true
		}
	}
	return false
}
