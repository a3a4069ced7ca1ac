package uplink

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// home is the link to the house's own broker.
type home struct {
	u      *Uplink
	cfg    *HomeConfig
	topics wire.Home
	prefix string
	pump   *pump
	self   *doc          // available
	wake   chan struct{} // holds 1: keep has something to do

	mu      sync.Mutex
	pipes   map[string]*homePipe
	values  map[string]*value // of the whole house by topic, those of pipes included
	docs    map[string]*doc   // of values that the memory knows, and of topics that are cleared
	held    []*value          // that wait for their time
	memory  memory
	cleared map[string]bool // topics of the memory that nothing is to stand at any more
	stale   bool            // the memory, or what is cleared, has to be gone through
	found   *discovery      // nil: SetDiscovery was not called
	again   time.Time       // when all is said again; zero: not planned
	leaving bool            // the last word is said
}

// A homePipe is what the house sees of a pipeline.
type homePipe struct {
	available *doc
	works     bool
	errors    map[string]*doc // of settings that the house may write
	declared  bool            // SetCounts was called
	counts    map[countKey]*count
}

// Where documents stand in the order of sending.
const (
	rankDiscovery = iota
	rankValue
	rankSelf
)

func newHome(u *Uplink, cfg *HomeConfig) *home {
	h := &home{
		u: u, cfg: cfg, topics: wire.Home{Root: rootOr(cfg.Root), ID: u.cfg.Device}, prefix: cfg.Prefix, wake: make(chan struct{}, 1),
		pipes: map[string]*homePipe{}, values: map[string]*value{}, docs: map[string]*doc{}, cleared: map[string]bool{}, memory: u.loadMemory(), stale: true,
	}
	if h.prefix == "" {
		h.prefix = "homeassistant"
	}
	h.pump = newPump(homeSide, cfg.Link, u.box, h.topic)
	for _, p := range u.cfg.Pipelines {
		pipe := &homePipe{errors: map[string]*doc{}, counts: map[countKey]*count{}}
		for _, s := range []string{wire.SettingEnabled, wire.SettingThreshold, wire.SettingInstall, wire.SettingRestart, wire.SettingSnapshot} {
			pipe.errors[s] = h.pump.add(h.topics.SetError(p.Name, s), 1, rankValue)
			pipe.errors[s].retain = false // an answer, not a state
		}
		pipe.available = h.pump.add(h.topics.PipelineAvailable(p.Name), 1, rankValue)
		h.docs[pipe.available.topic] = pipe.available
		h.pipes[p.Name] = pipe
	}
	maps.DeleteFunc(h.memory.Labels, func(pipeline string, _ []string) bool { return h.pipes[pipeline] == nil })
	h.self = h.pump.add(h.topics.Available(), 1, rankSelf)
	h.docs[h.self.topic] = h.self
	return h
}

func (h *home) topic(c class, key string) string {
	if c == classEvent {
		return h.topics.Event(h.u.anyPipeline(key))
	}
	return h.topics.Result(h.u.anyPipeline(key))
}

func (h *home) run(ctx context.Context) error {
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { h.keep(keeping) })
	defer wg.Wait()
	defer stop()
	return lastWords(ctx, h.pump, h.spec(), h.u.cfg.Pulse, nil, func() *doc {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leaving = true
		h.pump.set(h.self, word(false))
		return h.self
	})
}

func (h *home) spec() wire.Spec {
	// With QoS 0 a broker keeps nothing for a board that is away: a word that was
	// meant for one release must not come when another waits.
	listen := []wire.Subscription{{Filter: wire.HomeStatus(h.prefix), QoS: 0}}
	if h.cfg.OnSet != nil {
		listen = append(listen, wire.Subscription{Filter: h.topics.SetAll(), QoS: 0})
	}
	return wire.Spec{
		Subscribe: listen,
		Will: func() *wire.Message {
			return &wire.Message{Topic: h.topics.Available(), Payload: word(false), QoS: 1, Retain: true}
		},
		Up:      func() { h.pump.linkUp(h.birth); poke(h.wake) },
		Down:    func(error) { h.pump.linkDown() },
		Room:    func() { poke(h.pump.wake) },
		Receive: h.receive,
	}
}

// maxSetError is the longest answer to a setting that is refused, bytes.
const maxSetError = 1 << 10

// receive takes a word from home. A retained one is nobody's word: it would be said
// again at every connection.
func (h *home) receive(m wire.Message) error {
	if m.Retain {
		return nil
	}
	if m.Topic == wire.HomeStatus(h.prefix) {
		h.homeStatus(m.Payload)
		return nil
	}
	pipeline, setting, ok := h.topics.ParseSet(m.Topic)
	if !ok || h.cfg.OnSet == nil || h.pipes[pipeline] == nil || h.pipes[pipeline].errors[setting] == nil {
		return nil
	}
	value, err := parseSet(setting, m.Payload)
	if err == nil {
		err = h.cfg.OnSet(pipeline, setting, value)
	}
	if err != nil {
		h.u.cfg.Log.Warn().Err(err).Str("pipeline", pipeline).Str("setting", setting).Msg("setting from home refused")
		h.pump.set(h.pipes[pipeline].errors[setting], clipped([]byte(err.Error()), maxSetError))
	}
	return nil
}

func clipped(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	return bytes.ToValidUTF8(b[:limit], nil)
}

// repeatWithin is the longest that a board waits before it says all again to a Home
// Assistant that has started: a house full of boards must not answer at once.
const repeatWithin = 30 * time.Second

// homeStatus hears that Home Assistant has started.
func (h *home) homeStatus(payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if string(payload) == "online" && h.again.IsZero() {
		h.again = time.Now().Add(rand.N(repeatWithin))
		poke(h.wake)
	}
}

// birth says everything again: what the broker has may be of an earlier life.
func (h *home) birth() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pipes {
		h.pump.set(p.available, word(p.works))
	}
	h.pump.set(h.self, word(!h.leaving))
	h.pump.repeat()
}

func (h *home) setAvailable(pipeline string, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pipes[pipeline]; p != nil && p.works != yes {
		p.works = yes
		h.pump.set(p.available, word(yes))
	}
}

func word(available bool) []byte {
	if available {
		return []byte("online")
	}
	return []byte("offline")
}
