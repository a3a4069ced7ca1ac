package mem

import (
	"context"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// Window is how many messages may wait for their acknowledgement.
const Window = 32

// retryDelay is the time between attempts to connect.
const retryDelay = 100 * time.Millisecond

// A Link is a wire.Link to a Broker.
type Link struct {
	b     *Broker
	id    string
	clean bool
	spec  wire.Spec
	wake  chan struct{} // holds 1

	mu      sync.Mutex
	up      bool
	flights []flight // taken and not settled, in order
}

type flight struct {
	m     wire.Message
	acked func()
}

// Link makes a client of the broker.
func (b *Broker) Link(clientID string, clean bool) *Link {
	return &Link{b: b, id: clientID, clean: clean, wake: make(chan struct{}, 1)}
}

// Run is wire.Link's.
func (l *Link) Run(ctx context.Context, s wire.Spec) error {
	l.spec = s
	for {
		err := l.connection(ctx)
		if s.Down != nil {
			s.Down(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryDelay):
		}
	}
}

// Publish is wire.Link's.
func (l *Link) Publish(m wire.Message, acked func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return wire.ErrOffline
	}
	if len(l.flights) >= Window {
		return wire.ErrWindow
	}
	l.flights = append(l.flights, flight{m, acked})
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

func (l *Link) connection(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.refresh()
	var will *wire.Message
	if l.spec.Will != nil {
		will = l.spec.Will()
	}
	s, c, err := l.b.connect(l.id, l.clean, will)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.receive(s, c) })
	err = l.b.subscribe(s, c, l.spec.Subscribe)
	if err == nil {
		l.setUp(true)
		wg.Go(func() { l.send(s, c) })
		if l.spec.Up != nil {
			l.spec.Up()
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-c.done:
			err = c.why
		}
		l.setUp(false)
	}
	l.b.leave(s, c, err, ctx.Err() == nil)
	wg.Wait()
	l.dropQoS0()
	return err
}

// refresh asks what was not settled on the connection before for what it says now.
func (l *Link) refresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.flights {
		if m := &l.flights[i].m; m.Again != nil {
			m.Payload = m.Again()
		}
	}
}

func (l *Link) setUp(up bool) {
	l.mu.Lock()
	l.up = up
	l.mu.Unlock()
}

// dropQoS0 forgets what may be lost, once a connection has ended.
func (l *Link) dropQoS0() {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.flights[:0]
	for _, f := range l.flights {
		if f.m.QoS > 0 {
			kept = append(kept, f)
		}
	}
	clear(l.flights[len(kept):])
	l.flights = kept
}

// send publishes in order and settles each when the broker has it. A cut between
// the two means that it is sent again.
func (l *Link) send(s *session, c *conn) {
	for {
		l.mu.Lock()
		var f flight
		some := len(l.flights) > 0
		if some {
			f = l.flights[0]
		}
		l.mu.Unlock()
		if !some {
			select {
			case <-l.wake:
				continue
			case <-c.done:
				return
			}
		}
		if !l.b.publish(s, c, f.m) {
			return
		}
		select {
		case <-c.done: // the acknowledgement is lost
			return
		default:
		}
		l.settle(f)
	}
}

func (l *Link) settle(f flight) {
	l.mu.Lock()
	full := len(l.flights) >= Window
	l.flights[0] = flight{}
	l.flights = l.flights[1:]
	l.mu.Unlock()
	if f.acked != nil {
		f.acked()
	}
	if full && l.spec.Room != nil {
		l.spec.Room()
	}
}

func (l *Link) receive(s *session, c *conn) {
	for {
		m, ok := l.b.head(s, c)
		if !ok {
			select {
			case <-c.more:
				continue
			case <-c.done:
				return
			}
		}
		if l.spec.Receive != nil {
			if err := l.spec.Receive(m); err != nil {
				l.b.leave(s, c, err, true)
				return
			}
		}
		l.b.done(s, c)
	}
}
