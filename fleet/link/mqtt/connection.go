package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	paho "github.com/eclipse/paho.mqtt.golang"
)

// A connection is one paho client, used for one connection only.
type connection struct {
	link   *Link
	client paho.Client
	conn   *conn             // set by the dial inside client.Connect
	in     chan paho.Message // never closed: paho may still write while it ends
	lost   chan error        // paho has ended all it started; holds 1, said once
	opened func() bool       // the context may no longer cut conn; set with conn
}

func (c *connection) options(ctx context.Context) *paho.ClientOptions {
	l := c.link
	o := paho.NewClientOptions().
		SetClientID(l.cfg.ClientID).
		SetUsername(l.cfg.Username).SetPassword(l.cfg.Password).
		SetCleanSession(l.cfg.Clean).
		SetStore(store{l}).
		SetProtocolVersion(4).
		SetAutoReconnect(false).SetConnectRetry(false).SetResumeSubs(false).
		SetOrderMatters(true).SetAutoAckDisabled(true).
		SetKeepAlive(l.cfg.KeepAlive).SetPingTimeout(min(pingTimeout, l.cfg.KeepAlive)).
		SetConnectTimeout(connectTimeout).SetWriteTimeout(handover).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { c.queue(m) }).
		SetConnectionLostHandler(func(_ paho.Client, err error) { c.lost <- err }).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return c.dial(ctx) })
	o.Servers = []*url.URL{l.url}
	if l.spec.Will != nil {
		if w := l.spec.Will(); w != nil {
			o.SetBinaryWill(w.Topic, w.Payload, w.QoS, w.Retain)
		}
	}
	return o
}

func (c *connection) dial(ctx context.Context) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	raw, err := dial(limited, &c.link.cfg, c.link.url)
	if err != nil {
		return nil, err
	}
	conn := newConn(raw, len(c.link.spec.Subscribe))
	c.conn = conn
	c.opened = context.AfterFunc(ctx, func() { conn.kill(ctx.Err()) })
	return conn, nil
}

// open connects and sends again what was not acknowledged before.
func (c *connection) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	token := c.client.Connect()
	<-token.Done() // soon after the context ends: it ends the dial, then the connection
	if c.opened != nil {
		c.opened()
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("connect to %s: %w", c.link.url.Host, err)
	}
	return nil
}

// subscribe asks for every filter in one packet and reads what was granted.
func (c *connection) subscribe(ctx context.Context) error {
	subs := c.link.spec.Subscribe
	if len(subs) == 0 {
		return nil
	}
	filters := make(map[string]byte, len(subs))
	for _, s := range subs {
		filters[s.Filter] = s.QoS
	}
	token := c.client.SubscribeMultiple(filters, nil).(*paho.SubscribeToken)
	select {
	case <-token.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-c.conn.dead:
		return c.conn.reason()
	case <-time.After(writeTimeout):
		return errors.New("subscribe: the broker does not answer")
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	granted := token.Result()
	for _, s := range subs {
		if code, ok := granted[s.Filter]; !ok || code > 2 { // 0x80, but some brokers say others
			return fmt.Errorf("subscribe %s: refused by the broker: check its access list for client %s", s.Filter, c.link.cfg.ClientID)
		}
	}
	return nil
}

// close ends the client: by a DISCONNECT when the context has ended, so that
// the will is not sent, otherwise by cutting the connection.
func (c *connection) close(ctx context.Context, why error) {
	if ctx.Err() != nil {
		c.client.Disconnect(250)
		c.conn.kill(why)
		return
	}
	c.conn.kill(why)
	select {
	case <-c.lost: // comes after paho's own goroutines have ended
	case <-time.After(2 * handover):
		c.client.Disconnect(0)
	}
}

// queue is called by paho, in order. It waits while the queue is full: the
// broker then has to wait too, and TCP tells it so.
func (c *connection) queue(m paho.Message) {
	select {
	case c.in <- m: // also when the connection has ended: it was read before that
		return
	default:
	}
	select {
	case c.in <- m:
	case <-c.conn.dead:
	}
}

// receive gives messages to the user of the link and acknowledges them. What is
// still queued when the connection ends was not acknowledged and comes again, but for
// QoS 0, which would be lost.
func (c *connection) receive() {
	for {
		select {
		case <-c.conn.dead:
			for {
				select {
				case m := <-c.in:
					if m.Qos() == 0 && c.give(m) != nil {
						return
					}
				default:
					return
				}
			}
		case m := <-c.in:
			if err := c.give(m); err != nil {
				c.conn.kill(fmt.Errorf("receive %s: %w", m.Topic(), err))
				return
			}
			m.Ack()
		}
	}
}

func (c *connection) give(m paho.Message) error {
	if m.Qos() == 0 {
		c.link.setUseful() // on a link for QoS 0 nothing else would say so
	}
	if c.link.spec.Receive == nil {
		return nil
	}
	return c.link.spec.Receive(wire.Message{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retain: m.Retained()})
}

// send gives queued messages to paho, each when the one before is written, so
// that paho hardly ever blocks.
func (c *connection) send() {
	l := c.link
	for {
		f := l.take()
		if f == nil {
			select {
			case <-l.wake:
				continue
			case <-c.conn.dead:
				return
			}
		}
		written := c.conn.publishes()
		token := c.client.Publish(f.m.Topic, f.m.QoS, f.m.Retain, f.m.Payload)
		if !l.taken(f, token.Error()) {
			select {
			case <-c.conn.dead:
				return
			case <-time.After(10 * time.Millisecond): // paho knows of the end before we do
			}
			continue
		}
		if f.m.QoS == 0 {
			c.finish0(f, token)
			continue
		}
		select {
		case <-written:
		case <-c.conn.dead:
			return
		}
	}
}

// finish0 waits until a QoS 0 message is written, or lost with the connection.
func (c *connection) finish0(f *flight, token paho.Token) {
	select {
	case <-token.Done():
	case <-c.conn.dead:
	}
	l := c.link
	l.mu.Lock()
	full := l.pending() >= Window
	l.handing = nil
	l.mu.Unlock()
	select {
	case <-token.Done():
		if token.Error() == nil {
			l.settle(f, full)
		}
	default:
	}
}

// take moves the head of the queue into the hand.
func (l *Link) take() *flight {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	f := l.queue[0]
	l.queue = slices.Delete(l.queue, 0, 1)
	l.handing = f
	return f
}

// taken empties the hand after paho's Publish. When paho did not take the
// message, it goes back to the head of the queue.
func (l *Link) taken(f *flight, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.m.QoS == 0 {
		return true // stays in hand until it is written
	}
	l.handing = nil
	if f.mid != 0 && err == nil {
		return true
	}
	if i := slices.Index(l.sent, f); i >= 0 {
		l.sent = slices.Delete(l.sent, i, i+1)
	} else if f.mid != 0 {
		return true // acknowledged meanwhile
	}
	f.mid = 0
	l.queue = slices.Insert(l.queue, 0, f)
	return false
}

// settle tells the owner of a message that it arrived, and that there is room
// again if the window was full.
func (l *Link) settle(f *flight, wasFull bool) {
	if f.acked != nil {
		f.acked()
	}
	if wasFull && l.spec.Room != nil {
		l.spec.Room()
	}
}
