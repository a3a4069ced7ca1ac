// Package mem is a broker in memory and the wire.Link to it: the twin of
// fleet/link/mqtt for tests and simulations. It has no goroutine that outlives a
// Link's Run, no socket and no clock of its own but time's, so it runs inside
// testing/synctest.
//
// It delivers as a broker does: at least once for QoS 1, in order for each
// publisher, retained messages to new subscriptions, wills of those who were cut
// off, messages for a session that is away if it is not a clean one.
package mem

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/covey-edge/covey/fleet/wire"
)

// queueLimit bounds what is kept for one session; beyond it QoS 0 is dropped and
// QoS 1 too, as real brokers do.
const queueLimit = 100_000

// ErrCut is why a connection ended when Cut was called.
var ErrCut = errors.New("cut")

// A Broker routes messages between the links made with its Link method. All
// methods may be called from any goroutine.
type Broker struct {
	// Deny, when set before the first link runs, says which subscriptions are refused.
	Deny func(clientID, filter string) bool

	mu       sync.Mutex
	down     bool
	sessions map[string]*session
	order    []string // client ids in order of their first connection, to route in
	retained map[string]wire.Message
	topics   []string // of retained, in order of their first message
}

// A session is what the broker knows of a client. Broker.mu guards it.
type session struct {
	id      string
	clean   bool
	filters []wire.Subscription
	queue   []wire.Message
	conn    *conn // nil while away
}

// A conn is one connection of a session.
type conn struct {
	will *wire.Message
	done chan struct{} // closed when the connection is over
	more chan struct{} // something is in the queue; holds 1
	why  error         // set before done is closed
}

// NewBroker makes an empty one.
func NewBroker() *Broker {
	return &Broker{sessions: map[string]*session{}, retained: map[string]wire.Message{}}
}

// Cut ends the connection of a client without a word; its will is sent.
func (b *Broker) Cut(clientID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[clientID]; s != nil && s.conn != nil {
		b.end(s, s.conn, ErrCut, true)
	}
}

// Down makes the broker unreachable (and cuts everybody) or reachable again.
func (b *Broker) Down(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = yes
	for _, id := range b.order {
		if s := b.sessions[id]; yes && s != nil && s.conn != nil {
			b.end(s, s.conn, ErrCut, true)
		}
	}
}

// Publish sends a message from nowhere, as an outside client would.
func (b *Broker) Publish(m wire.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.route(m)
}

// Retained is the retained message of a topic.
func (b *Broker) Retained(topic string) (wire.Message, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.retained[topic]
	return m, ok
}

// connect gives a client its session; another connection of the same id ends.
func (b *Broker) connect(id string, clean bool, will *wire.Message) (*session, *conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return nil, nil, errors.New("broker is down")
	}
	s := b.sessions[id]
	if s == nil {
		s = &session{id: id}
		b.sessions[id] = s
		b.order = append(b.order, id)
	}
	if s.conn != nil {
		b.end(s, s.conn, errors.New("taken over by another connection of this client id"), true)
	}
	if clean || s.clean {
		s.filters, s.queue = nil, nil
	}
	s.clean = clean
	s.conn = &conn{will: will, done: make(chan struct{}), more: make(chan struct{}, 1)}
	return s, s.conn, nil
}

// end closes a connection; b.mu is held.
func (b *Broker) end(s *session, c *conn, why error, will bool) {
	if s.conn != c {
		return
	}
	s.conn = nil
	c.why = why
	close(c.done)
	if s.clean {
		s.filters, s.queue = nil, nil
	}
	if will && c.will != nil {
		b.route(*c.will)
	}
}

// subscribe adds filters and sends what is retained under them.
func (b *Broker) subscribe(s *session, c *conn, filters []wire.Subscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.conn != c {
		return c.why
	}
	for _, f := range filters {
		if b.Deny != nil && b.Deny(s.id, f.Filter) {
			return errors.New("subscribe " + f.Filter + ": refused by the broker")
		}
	}
	for _, f := range filters {
		s.filters = slices.DeleteFunc(s.filters, func(old wire.Subscription) bool { return old.Filter == f.Filter })
		s.filters = append(s.filters, f)
		for _, topic := range b.topics {
			if m, ok := b.retained[topic]; ok && Match(f.Filter, topic) {
				m.QoS, m.Retain = min(m.QoS, f.QoS), true
				s.push(m)
			}
		}
	}
	return nil
}

// publish routes for a connected client; false when it is not.
func (b *Broker) publish(s *session, c *conn, m wire.Message) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.conn != c {
		return false
	}
	m.Payload = slices.Clone(m.Payload)
	b.route(m)
	return true
}

// route gives a message to every session that wants it; b.mu is held.
func (b *Broker) route(m wire.Message) {
	if m.Retain {
		if _, known := b.retained[m.Topic]; !known && len(m.Payload) > 0 {
			b.topics = append(b.topics, m.Topic)
		}
		b.retained[m.Topic] = m
		if len(m.Payload) == 0 {
			delete(b.retained, m.Topic)
			b.topics = slices.DeleteFunc(b.topics, func(t string) bool { return t == m.Topic })
		}
	}
	m.Retain = false
	for _, id := range b.order {
		s := b.sessions[id]
		qos, wanted := byte(0), false
		for _, f := range s.filters {
			if Match(f.Filter, m.Topic) {
				qos, wanted = max(qos, min(f.QoS, m.QoS)), true
			}
		}
		if wanted {
			copied := m
			copied.QoS = qos
			s.push(copied)
		}
	}
}

// push queues a message for a session; QoS 0 only while it is connected.
func (s *session) push(m wire.Message) {
	if (s.conn == nil && m.QoS == 0) || len(s.queue) >= queueLimit {
		return
	}
	s.queue = append(s.queue, m)
	if s.conn != nil {
		select {
		case s.conn.more <- struct{}{}:
		default:
		}
	}
}

// head is the oldest message of a connected session.
func (b *Broker) head(s *session, c *conn) (m wire.Message, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.conn != c || len(s.queue) == 0 {
		return m, false
	}
	return s.queue[0], true
}

// done removes the head once it was received.
func (b *Broker) done(s *session, c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.conn == c && len(s.queue) > 0 {
		s.queue[0] = wire.Message{}
		s.queue = s.queue[1:]
	}
}

// leave is a clean disconnect, or (with will) the end after an error.
func (b *Broker) leave(s *session, c *conn, why error, will bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end(s, c, why, will)
}

// Match says whether an MQTT filter covers a topic.
func Match(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		if !tmore {
			return !fmore || frest == "#"
		}
		if !fmore {
			return false
		}
		filter, topic = frest, trest
	}
}
