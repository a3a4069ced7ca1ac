package uplink

import (
	"bytes"
	"maps"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Discovery is what Home Assistant is told of a board. The zero value is nothing, and
// takes back what it was told.
type Discovery struct {
	// Document is all that there is to say. Components that are gone, by their
	// platforms, are named in it as gone: Home Assistant forgets no others.
	Document func(gone map[string]string) []byte
	Parts    map[string]string // components → platforms
}

// A discovery is how far telling has come. home.mu guards phase.
type discovery struct {
	Discovery
	phase int
}

const (
	telling  = iota // nothing is said yet
	removing        // what is gone is said to be
	settling        // the document as it stays is said
	told            // there is nothing to do
)

func (h *home) setDiscovery(d Discovery) {
	d.Parts = maps.Clone(d.Parts)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.found = &discovery{Discovery: d}
	h.goThrough()
}

// announce takes the next step of telling Home Assistant of the board.
func (h *home) announce() {
	h.mu.Lock()
	f := h.found
	if f == nil || f.phase == told || f.phase != telling && !h.atBroker() {
		h.mu.Unlock()
		return
	}
	gone := goneFrom(h.memory.Parts, f.Parts)
	h.mu.Unlock()
	if f.phase == removing {
		gone = nil
	}
	var text []byte
	if f.Document != nil && f.phase != settling {
		text = f.Document(gone)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.found == f { // nobody has come in between
		h.tell(f, gone, text)
	}
}

// tell says a document, or is done. Nobody but keep changes a phase.
func (h *home) tell(f *discovery, gone map[string]string, text []byte) {
	v := h.value(wire.Discovery(h.prefix, h.u.cfg.Device), 1)
	switch {
	case f.phase == settling || f.Document == nil:
		if f.Document == nil {
			h.say(v, nil)
		}
		f.phase = told
		h.rememberParts(f.Parts)
		return
	case f.phase == telling && len(gone) > 0:
		f.phase = removing
	default:
		f.phase = settling
	}
	all := maps.Clone(f.Parts)
	maps.Copy(all, gone)
	h.rememberParts(all)
	if bytes.Equal(v.said, text) {
		h.goThrough() // there is nothing whose arrival would wake us
	}
	h.say(v, text)
}

// goneFrom are the components of before that are not now, or not of the same platform.
func goneFrom(before, now map[string]string) map[string]string {
	gone := map[string]string{}
	for key, platform := range before {
		if now[key] != platform {
			gone[key] = platform
		}
	}
	return gone
}

func (h *home) rememberParts(parts map[string]string) {
	if !maps.Equal(h.memory.Parts, parts) {
		h.memory.Parts = maps.Clone(parts)
		h.memory.changed = true
	}
}

// atBroker says whether the document that was said last has arrived there.
func (h *home) atBroker() bool {
	topic := wire.Discovery(h.prefix, h.u.cfg.Device)
	v, d := h.values[topic], h.docs[topic]
	return v != nil && d != nil && !v.held && !h.cleared[topic] && h.pump.settled(d)
}
