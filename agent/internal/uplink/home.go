package uplink

import (
	"context"
	"strings"
	"sync"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// home is the link to the house's own broker.
type home struct {
	u      *Uplink
	cfg    *HomeConfig
	topics wire.Home
	pump   *pump
	self   *doc            // available
	pipes  map[string]*doc // <pipeline>/available
	models map[string]*doc // <pipeline>/model
	errors map[string]*doc // <pipeline>/install/error

	mu      sync.Mutex
	works   map[string]bool
	said    map[string]string // models, encoded
	leaving bool              // the last word is said
}

func newHome(u *Uplink, cfg *HomeConfig) *home {
	h := &home{u: u, cfg: cfg, topics: wire.Home{Root: rootOr(cfg.Root), ID: u.cfg.Device}, works: map[string]bool{},
		pipes: map[string]*doc{}, models: map[string]*doc{}, errors: map[string]*doc{}, said: map[string]string{}}
	h.pump = newPump(homeSide, cfg.Link, u.box, h.topic)
	for _, p := range u.cfg.Pipelines {
		h.pipes[p.Name] = h.pump.add(h.topics.PipelineAvailable(p.Name), 1)
		h.models[p.Name] = h.pump.add(h.topics.Model(p.Name), 1)
		h.errors[p.Name] = h.pump.add(h.topics.InstallError(p.Name), 1)
		h.errors[p.Name].retain = false // an answer, not a state
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
	return lastWords(ctx, h.pump, h.spec(), h.u.cfg.Pulse, nil, func() *doc {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leaving = true
		h.pump.set(h.self, word(false))
		return h.self
	})
}

func (h *home) spec() wire.Spec {
	s := wire.Spec{
		Will: func() *wire.Message {
			return &wire.Message{Topic: h.topics.Available(), Payload: word(false), QoS: 1, Retain: true}
		},
		Up:   func() { h.pump.linkUp(h.birth) },
		Down: func(error) { h.pump.linkDown() },
		Room: func() { poke(h.pump.wake) },
	}
	if h.cfg.OnInstall != nil {
		// With QoS 0 a broker keeps nothing for a board that is away: a word that was
		// meant for one release must not come when another waits.
		s.Subscribe = []wire.Subscription{{Filter: h.topics.InstallAll(), QoS: 0}}
		s.Receive = h.receive
	}
	return s
}

// receive takes a word from home. A retained one is nobody's word: it would be said
// again at every connection.
func (h *home) receive(m wire.Message) error {
	for _, p := range h.u.cfg.Pipelines {
		if m.Topic != h.topics.Install(p.Name) || m.Retain {
			continue
		}
		version, err := parseInstall(m.Payload)
		if err == nil {
			err = h.cfg.OnInstall(p.Name, version)
		}
		if err != nil {
			h.u.cfg.Log.Warn().Err(err).Str("pipeline", p.Name).Msg("install refused")
			h.pump.set(h.errors[p.Name], []byte(err.Error()))
		}
	}
	return nil
}

// maxInstall is the longest word, bytes.
const maxInstall = 128

// parseInstall reads "install" or "install <version>".
func parseInstall(payload []byte) (version string, err error) {
	refused := &hal.Error{Code: hal.CodeConsent, Text: `want "install" or "install <version>"`}
	if len(payload) > maxInstall {
		return "", refused
	}
	for _, c := range payload {
		if c < ' ' || c > '~' {
			return "", refused
		}
	}
	word, version, more := strings.Cut(string(payload), " ")
	if word != "install" || more && strings.TrimSpace(version) != version || more && version == "" {
		return "", refused
	}
	return version, nil
}

func (h *home) setModel(pipeline string, m wire.HomeModel) {
	b := encode(m)
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.models[pipeline]; d != nil && h.said[pipeline] != string(b) {
		h.said[pipeline] = string(b)
		h.pump.set(d, b)
	}
}

func (h *home) birth() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, d := range h.pipes {
		h.pump.set(d, word(h.works[name]))
	}
	for name, b := range h.said {
		h.pump.set(h.models[name], []byte(b))
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
