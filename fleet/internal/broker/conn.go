package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
)

const (
	// writeLimit is how long one write to a socket may take, at most 16 KiB under
	// TLS. A client that reads slower is cut off: everybody who publishes to it
	// would wait for it.
	writeLimit = 2 * time.Second
	// greetLimit is how long a connection may take from the first byte to CONNECT.
	greetLimit = 10 * time.Second
	// maxGreeting is how much may be received of a connection that has not said
	// who it is, in bytes on the wire.
	maxGreeting = 32 << 10
	// maxStrangers is how many connections may be at that, and maxOfAddress how
	// many of them from one address. More are closed at once.
	maxStrangers = 1024
	maxOfAddress = 128
)

// A conn is a connection below TLS. It gives every write its own deadline, which
// nobody above can make longer, and reads little before it is known.
type conn struct {
	net.Conn
	welcome func() // ends the time as a stranger; may be called more than once
	left    func() // of the client, called when all is over; set and used by the connection's goroutine
	asked   alias  // same

	mu    sync.Mutex
	quota int // bytes that may still be read; negative: no limit
}

var errGreeting = errors.New("too much was sent before CONNECT")

func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	quota := c.quota
	c.mu.Unlock()
	if quota == 0 {
		return 0, errGreeting
	}
	if quota > 0 && len(p) > quota {
		p = p[:quota]
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quota > 0 {
		c.quota = max(c.quota-n, 0)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		c.Close() // half a packet is on its way: nothing can follow it
	}
	return n, err
}

// SetDeadline leaves the deadline of writes alone.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// known ends the limits of a stranger.
func (c *conn) known() {
	c.mu.Lock()
	c.quota = -1
	c.mu.Unlock()
	c.welcome()
}

// inner is the conn that a connection of the broker runs on, and the state of the
// TLS above it, nil without.
func inner(c net.Conn) (*conn, *tls.ConnectionState) {
	if t, ok := c.(*tls.Conn); ok {
		state := t.ConnectionState()
		in, _ := t.NetConn().(*conn)
		return in, &state
	}
	in, _ := c.(*conn)
	return in, nil
}

// A listener accepts connections for the broker and bounds those that have not
// said yet who they are. It implements mochi's listeners.Listener.
type listener struct {
	id     string
	net    net.Listener
	tls    *tls.Config // nil: plain
	refuse func(from string, why error)

	mu        sync.Mutex
	closed    bool
	open      map[*conn]bool
	strangers map[string]int // address → connections
	count     int            // of all strangers

	conns sync.WaitGroup
}

var _ listeners.Listener = (*listener)(nil)

func (l *listener) Init(*slog.Logger) error { return nil }
func (l *listener) ID() string              { return l.id }
func (l *listener) Address() string         { return l.net.Addr().String() }
func (l *listener) Protocol() string        { return "tcp" }

// Serve accepts until the listener is closed, and waits for its connections.
func (l *listener) Serve(establish listeners.EstablishFn) {
	defer l.conns.Wait()
	for {
		raw, err := l.net.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, usually: others will end
			time.Sleep(50 * time.Millisecond)
			continue
		}
		c, err := l.admit(raw)
		if err != nil {
			raw.Close()
			l.refuse(host(raw.RemoteAddr()), err)
			continue
		}
		l.conns.Go(func() { l.greet(c, establish) })
	}
}

var errCrowd = errors.New("too many connections that do not say who they are")

// admit counts a new stranger in, if there is room.
func (l *listener) admit(raw net.Conn) (*conn, error) {
	from := host(raw.RemoteAddr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	if l.count >= maxStrangers || l.strangers[from] >= maxOfAddress {
		return nil, errCrowd
	}
	l.count++
	l.strangers[from]++
	c := &conn{Conn: raw, quota: maxGreeting}
	c.welcome = sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.count--
		if l.strangers[from]--; l.strangers[from] == 0 {
			delete(l.strangers, from)
		}
	})
	l.open[c] = true
	return c, nil
}

// greet does the handshake and hands the connection to the broker until it ends.
func (l *listener) greet(c *conn, establish listeners.EstablishFn) {
	defer func() {
		c.Close()
		c.welcome()
		l.mu.Lock()
		delete(l.open, c)
		l.mu.Unlock()
	}()
	if err := c.SetReadDeadline(time.Now().Add(greetLimit)); err != nil {
		return
	}
	var top net.Conn = c
	if l.tls != nil {
		t := tls.Server(c, l.tls)
		if err := t.HandshakeContext(context.Background()); err != nil { // the deadline ends it
			l.refuse(host(c.RemoteAddr()), fmt.Errorf("tls: %w", err))
			return
		}
		top = t
	}
	_ = establish(l.id, top) // why it ended is nobody's business: whatever was refused was logged
	if c.left != nil {
		c.left()
	}
}

// Close ends accepting and all connections. Serve returns when they are gone.
func (l *listener) Close(listeners.CloseFn) {
	l.mu.Lock()
	l.closed = true
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.net.Close()
	l.conns.Wait()
}

func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}
