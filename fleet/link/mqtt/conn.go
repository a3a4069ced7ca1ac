package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A conn is the network connection beneath paho. Every write has a deadline,
// and whatever fails on it ends it, with the first reason kept. It looks at the
// packets that come in before paho does.
type conn struct {
	net.Conn
	r     *bufio.Reader // belongs to paho's reading goroutine
	guard guard         // same
	dead  chan struct{} // closed when the connection is over

	wmu  sync.Mutex // one write at a time, with its deadline
	mu   sync.Mutex
	why  error
	pubs chan struct{} // closed and replaced when a PUBLISH was written; guarded by mu
}

func newConn(c net.Conn, filters int) *conn {
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 8<<10), guard: guard{filters: filters}, dead: make(chan struct{}), pubs: make(chan struct{})}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err == nil {
		err = c.guard.feed(p[:n])
	}
	if err != nil {
		c.kill(err)
		// Never the text "use of closed network connection": paho keeps quiet about that.
		return 0, c.reason()
	}
	return n, nil
}

func (c *conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := c.Conn.Write(p)
	c.wmu.Unlock()
	if err != nil {
		c.kill(err)
		return n, c.reason()
	}
	if len(p) > 0 && p[0]>>4 == packetPublish {
		c.mu.Lock()
		close(c.pubs)
		c.pubs = make(chan struct{})
		c.mu.Unlock()
	}
	return n, nil
}

// publishes is closed when the next PUBLISH has been written.
func (c *conn) publishes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pubs
}

// Close is called by paho.
func (c *conn) Close() error {
	c.kill(errors.New("connection closed"))
	return nil
}

// SetWriteDeadline does nothing: every write has its own.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is used by paho around its handshake.
func (c *conn) SetDeadline(t time.Time) error { return c.Conn.SetReadDeadline(t) }

func (c *conn) kill(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return
	}
	if errors.Is(why, net.ErrClosed) {
		why = errors.New("connection closed")
	}
	c.why = fmt.Errorf("link cut: %w", why)
	close(c.dead)
	c.Conn.Close()
}

func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

const (
	packetPublish = 3
	packetSuback  = 9
)

// A guard follows the packets in a stream and refuses one that is larger than
// may be, before anybody makes room for it. The zero value is at the start of a
// packet.
type guard struct {
	filters int // in a SUBSCRIBE of ours: a SUBACK has as many codes
	kind    byte
	length  int
	shift   int // of the next digit of the length; -1 inside a body
	begun   bool
	body    int // bytes of the body still to come
}

// feed takes the next bytes of the stream, cut anywhere.
func (g *guard) feed(p []byte) error {
	for len(p) > 0 {
		switch {
		case g.body > 0:
			n := min(g.body, len(p))
			g.body -= n
			p = p[n:]
		case !g.begun:
			g.begun, g.kind, g.length, g.shift = true, p[0]>>4, 0, 0
			p = p[1:]
		default:
			digit := p[0]
			p = p[1:]
			g.length |= int(digit&127) << g.shift
			g.shift += 7
			if digit&128 != 0 {
				if g.shift >= 28 {
					return errors.New("broker sent a packet length of more than four digits")
				}
				continue
			}
			g.begun, g.body = false, g.length
			if g.length > wire.MaxPacket {
				return fmt.Errorf("broker sent a packet of %d bytes, at most %d are accepted", g.length, wire.MaxPacket)
			}
			if g.kind == packetSuback && g.length > 2+g.filters {
				return fmt.Errorf("broker granted %d subscriptions, %d were asked for", g.length-2, g.filters)
			}
		}
	}
	return nil
}
