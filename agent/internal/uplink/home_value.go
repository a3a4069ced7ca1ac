package uplink

import (
	"bytes"
	"strconv"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// homePace is how long a topic of the house rests after each message, at the least: of
// what changes faster, the last counts.
const homePace = 200 * time.Millisecond

// A value is what stands at one topic of the house. What is guarded by home.mu.
type value struct {
	topic string
	qos   byte
	said  []byte // empty: nothing stands there
	next  time.Time
	held  bool // said waits for next
}

// A count is how many of a label there are in a zone.
type count struct {
	value
	n int
}

type countKey struct{ zone, label string }

// value finds a topic's value, or makes it.
func (h *home) value(topic string, qos byte) *value {
	v := h.values[topic]
	if v == nil {
		v = &value{topic: topic, qos: qos}
		h.values[topic] = v
	}
	return v
}

// say replaces what stands at a topic. It is for holders of h.mu.
func (h *home) say(v *value, payload []byte) {
	if bytes.Equal(v.said, payload) {
		return
	}
	v.said = payload
	now := time.Now()
	switch {
	case len(payload) == 0 || h.docs[v.topic] == nil:
		h.goThrough() // the memory comes first
	case now.Before(v.next):
		h.hold(v)
	default:
		h.out(v, now)
	}
}

// goThrough has the memory gone through. It is for holders of h.mu.
func (h *home) goThrough() {
	h.stale = true
	poke(h.wake)
}

// arrived is called when something has arrived that the memory waits for.
func (h *home) arrived() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.goThrough()
}

func (h *home) hold(v *value) {
	if !v.held {
		v.held = true
		h.held = append(h.held, v)
		poke(h.wake)
	}
}

// out gives a value to its document.
func (h *home) out(v *value, now time.Time) {
	v.held, v.next = false, now.Add(homePace)
	delete(h.cleared, v.topic)
	d := h.docs[v.topic]
	if d.rank == rankDiscovery {
		h.pump.setThen(d, v.said, h.arrived)
		return
	}
	h.pump.set(d, v.said)
}

// flush gives those values to their documents whose time has come, and says how long
// the next one has to wait.
func (h *home) flush(now time.Time) time.Duration {
	wait, rest := time.Hour, h.held[:0]
	for _, v := range h.held {
		switch {
		case !v.held:
		case len(v.said) == 0 || h.docs[v.topic] == nil:
			v.held = false
		case now.Before(v.next):
			wait = min(wait, v.next.Sub(now))
			rest = append(rest, v)
		default:
			h.out(v, now)
		}
	}
	clear(h.held[len(rest):])
	h.held = rest
	return wait
}

// set replaces what stands at a topic of the board.
func (h *home) set(topic string, qos byte, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.say(h.value(topic, qos), payload)
}

// setOf is set for a topic of a pipeline, where there is such a pipeline.
func (h *home) setOf(pipeline, topic string, qos byte, payload []byte) {
	if h.pipes[pipeline] != nil {
		h.set(topic, qos, payload)
	}
}

func (h *home) setSetting(pipeline, setting, value string) {
	if setting == wire.SettingEnabled || setting == wire.SettingThreshold {
		h.setOf(pipeline, h.topics.Setting(pipeline, setting), 1, []byte(value))
	}
}

// setImage takes a picture, or none. One that is too large counts for none: an old one
// would be taken for the new.
func (h *home) setImage(pipeline string, jpeg []byte) {
	if len(jpeg) > wire.MaxHomeImage {
		h.u.cfg.Log.Warn().Str("pipeline", pipeline).Int("bytes", len(jpeg)).Int("limit", wire.MaxHomeImage).Msg("picture is too large for home")
		jpeg = nil
	}
	h.setOf(pipeline, h.topics.Image(pipeline), 0, jpeg)
}

// maxCounts is how many counts all pipelines together may have.
const maxCounts = 4096

// setCounts replaces the counts of a pipeline. Those that were there keep their number.
func (h *home) setCounts(pipeline string, zones, labels []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pipes[pipeline]
	if p == nil {
		return
	}
	room := maxCounts
	for _, other := range h.pipes {
		room -= len(other.counts)
	}
	before := p.counts
	room += len(before)
	p.counts, p.declared = map[countKey]*count{}, true
	taken := map[string]bool{}
	for _, label := range labels[:min(len(labels), wire.MaxHomeLabels)] {
		for _, zone := range append([]string{wire.ZoneAll}, zones[:min(len(zones), wire.MaxHomeZones)]...) {
			topic := h.topics.Count(pipeline, zone, label)
			if taken[topic] || room == 0 || zone != wire.ZoneAll && !wire.ValidZone(zone) {
				continue
			}
			taken[topic] = true
			room--
			c := before[countKey{zone, label}]
			if c == nil {
				c = &count{value: value{topic: topic}}
			}
			p.counts[countKey{zone, label}] = c
			h.values[topic] = &c.value
			h.say(&c.value, strconv.AppendInt(nil, int64(c.n), 10))
		}
	}
	for _, c := range before {
		c.held = c.held && h.values[c.topic] == &c.value
		if !taken[c.topic] {
			c.held = false
			delete(h.values, c.topic)
		}
	}
	h.memory.setLabels(pipeline, labels)
	h.goThrough()
}

// setCount takes a new number. It allocates nothing where it is the old one.
func (h *home) setCount(pipeline, zone, label string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pipes[pipeline]
	if p == nil {
		return
	}
	if c := p.counts[countKey{zone, label}]; c != nil && c.n != n {
		c.n = n
		h.say(&c.value, strconv.AppendInt(nil, int64(n), 10))
	}
}
