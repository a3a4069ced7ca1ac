package uplink

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

const (
	// duplicateRest is the least time a board stays away when another one uses its
	// identity; up to twice as much is added, so that they do not meet again.
	duplicateRest = 2 * time.Minute
	// duplicateMemory is how long a board says that it met another one.
	duplicateMemory = 30 * time.Minute
)

// fleet is the link to a controller.
type fleet struct {
	u      *Uplink
	cfg    *FleetConfig
	topics wire.Device
	pump   *pump
	// In the order in which they are sent when a connection stands.
	hello, reported, status, health *doc

	mu       sync.Mutex
	helloMsg *wire.Hello
	report   *wire.Reported
	lastBeat wire.Health
	echoed   bool              // our own online was seen
	met      time.Time         // when another machine was seen under our id
	leave    chan struct{}     // closed to end the connection that runs
	desired  [sha256.Size]byte // of the last document that came
	hadFault bool
	leaving  bool // the last word is said: nothing is to contradict it
}

func newFleet(u *Uplink, cfg *FleetConfig) *fleet {
	f := &fleet{u: u, cfg: cfg, topics: wire.Device{Root: rootOr(cfg.Root), ID: u.cfg.Device}}
	f.pump = newPump(fleetSide, cfg.Link, u.box, f.topic)
	f.hello = f.pump.add(f.topics.Hello(), 1, 0)
	f.reported = f.pump.add(f.topics.Reported(), 1, 0)
	f.status = f.pump.add(f.topics.Status(), 1, 0)
	f.health = f.pump.add(f.topics.Health(), 0, 0)
	return f
}

func rootOr(root string) string {
	if root == "" {
		return "covey"
	}
	return root
}

// topic of a record. What is lost without a name goes by any.
func (f *fleet) topic(c class, key string) string {
	switch c {
	case classExec:
		if key == "" {
			key = "lost"
		}
		return f.topics.Exec(key)
	case classEvent:
		return f.topics.Event(f.u.anyPipeline(key))
	}
	return f.topics.Result(f.u.anyPipeline(key))
}

func (u *Uplink) anyPipeline(key string) string {
	if key == "" && len(u.cfg.Pipelines) > 0 {
		return u.cfg.Pipelines[0].Name
	}
	return key
}

// run keeps the link; when another board uses this identity it stays away for
// minutes, then tries again.
func (f *fleet) run(ctx context.Context) error {
	for {
		f.mu.Lock()
		f.leave = make(chan struct{})
		leave := f.leave
		f.mu.Unlock()
		err := lastWords(ctx, f.pump, f.spec(), f.u.cfg.Pulse, leave, func() *doc {
			if ctx.Err() == nil {
				return f.health // says why we leave
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.leaving = true
			f.sayStatus()
			return f.status
		})
		if err != nil || ctx.Err() != nil {
			return err
		}
		rest := duplicateRest + rand.N(2*duplicateRest)
		f.u.cfg.Log.Error().Dur("rest", rest).Msg("another machine uses this device's identity: join one of them again under another id")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

func (f *fleet) spec() wire.Spec {
	return wire.Spec{
		Subscribe: []wire.Subscription{{Filter: f.topics.Desired(), QoS: 1}, {Filter: f.topics.Status(), QoS: 1}},
		Will: func() *wire.Message {
			return &wire.Message{Topic: f.topics.Status(), Payload: f.statusOf(wire.StateOffline, f.u.nextSID()), QoS: 1, Retain: true}
		},
		Up:   func() { f.pump.linkUp(f.birth) },
		Down: func(error) { f.pump.linkDown() },
		Room: func() { poke(f.pump.wake) },
		Receive: func(m wire.Message) error {
			switch m.Topic {
			case f.topics.Desired():
				f.takeDesired(m.Payload)
			case f.topics.Status():
				f.takeStatus(m.Payload)
			}
			return nil
		},
	}
}

func (f *fleet) statusOf(state string, sid uint64) []byte {
	return encode(wire.Status{V: wire.Version, State: state, SID: sid, MID: f.cfg.MID, TS: time.Now().UTC()})
}

// birth sets what is said at the beginning of a connection.
func (f *fleet) birth() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sayHello()
	f.sayReported()
	f.sayStatus()
}

// sayStatus says that we are here, or have gone. mu is held.
func (f *fleet) sayStatus() {
	state := wire.StateOnline
	if f.leaving {
		state = wire.StateStopped
	}
	f.pump.set(f.status, f.statusOf(state, f.u.SID()))
}

func (f *fleet) setHello(h wire.Hello) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.helloMsg = &h
	f.sayHello()
}

func (f *fleet) sayHello() {
	if f.helloMsg != nil {
		h := *f.helloMsg
		h.V, h.SID, h.TS = wire.Version, f.u.SID(), time.Now().UTC()
		f.pump.set(f.hello, encode(h))
	}
}

func (f *fleet) setReported(r wire.Reported) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report = &r
	f.sayReported()
}

func (f *fleet) sayReported() {
	if f.report != nil {
		r := *f.report
		r.V, r.SID, r.TS = wire.Version, f.u.SID(), time.Now().UTC()
		f.pump.set(f.reported, encode(r))
	}
}

func (f *fleet) setHealth(h wire.Health) {
	f.mu.Lock()
	f.lastBeat = h
	f.mu.Unlock()
	if h.V = wire.Version; f.pump.isUp() {
		f.pump.set(f.health, encode(h))
	}
}

// takeDesired hands a document on when it is another one than the last.
func (f *fleet) takeDesired(payload []byte) {
	sum := sha256.Sum256(payload)
	f.mu.Lock()
	same := sum == f.desired
	f.desired = sum
	f.mu.Unlock()
	if same || len(payload) == 0 {
		return
	}
	d, err := wire.Parse[wire.Desired](payload, wire.MaxDesired)
	if err == nil && d.Signed.Device != f.u.cfg.Device {
		err = &wire.Fault{Code: "E_TARGET", Text: "desired document is for " + string(d.Signed.Device) + ", this is " + string(f.u.cfg.Device)}
	}
	f.sayFault(err)
	if err != nil {
		return
	}
	if f.cfg.OnDesired != nil {
		f.cfg.OnDesired(payload, d)
	}
}

func (f *fleet) sayFault(err error) {
	fault, _ := err.(*wire.Fault)
	if err != nil {
		f.u.cfg.Log.Error().Err(err).Msg("desired document cannot be used")
		if fault == nil {
			fault = &wire.Fault{Code: wire.CodeJSON, Text: err.Error()}
		}
	}
	f.mu.Lock()
	news := fault != nil || f.hadFault
	f.hadFault = fault != nil
	f.mu.Unlock()
	if news && f.cfg.OnFault != nil {
		f.cfg.OnFault(fault)
	}
}

// takeStatus looks at what is said under our own name. An offline is a will that
// came late: it is contradicted. Once our own online was seen there, anything
// from another machine means that there are two of us; before, it is what the
// board that had this identity before us has left.
func (f *fleet) takeStatus(payload []byte) {
	s, err := wire.Parse[wire.Status](payload, wire.MaxHealth)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch ours := s.MID == f.cfg.MID; {
	case ours && s.State == wire.StateOnline:
		f.echoed = true
	case !ours && f.echoed:
		f.meet()
	case s.State == wire.StateOffline && f.pump.isUp():
		f.sayStatus()
	}
}

// meet notes that another machine has our identity, says so, and ends this
// connection. mu is held.
func (f *fleet) meet() {
	f.met = time.Now()
	beat := f.lastBeat
	beat.V, beat.Flags = wire.Version, append(beat.Flags[:len(beat.Flags):len(beat.Flags)], "duplicate_identity")
	f.pump.set(f.health, encode(beat))
	select {
	case <-f.leave:
	default:
		close(f.leave)
	}
}

// duplicate says whether another machine was met under our id not long ago.
func (f *fleet) duplicate() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.met.IsZero() && time.Since(f.met) < duplicateMemory
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own messages hold nothing that JSON does not
	}
	return b
}
