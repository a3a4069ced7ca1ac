package local

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	attemptsEach = 5  // wrong passwords of one address in a minute
	attemptsAll  = 60 // of all addresses
	maxAddresses = 256
)

// attempts count wrong passwords, and forget them a minute later.
type attempts struct {
	mu    sync.Mutex
	since time.Time // the minute that is counted
	each  map[netip.Addr]int
	all   int
}

// try asks is, unless there were too many wrong answers lately. One at a time: many at
// once get no more tries than one after the other.
func (a *attempts) try(from netip.Addr, is func() bool) (right, allowed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); a.each == nil || now.Sub(a.since) >= time.Minute {
		a.since, a.each, a.all = now, map[netip.Addr]int{}, 0
	}
	_, known := a.each[from]
	if a.each[from] >= attemptsEach || a.all >= attemptsAll || !known && len(a.each) >= maxAddresses {
		return false, false
	}
	if is() {
		return true, true
	}
	a.each[from]++
	a.all++
	return false, true
}

const (
	maxConnections     = 64
	maxConnectionsEach = 16 // of one address
)

// connections is a listener that hangs up on who would be one too many. The board
// itself is never one too many for the others' sake: it has places of its own.
type connections struct {
	net.Listener
	ingress netip.Addr

	mu   sync.Mutex
	each map[netip.Addr]int
	all  int // without those of the board itself
}

func newConnections(l net.Listener, ingress netip.Addr) *connections {
	return &connections{Listener: l, ingress: ingress.Unmap(), each: map[netip.Addr]int{}}
}

// Accept waits for one that is not too many.
func (l *connections) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := address(c.RemoteAddr())
		if l.enter(from) {
			return &connection{Conn: c, leave: sync.OnceFunc(func() { l.exit(from) })}, nil
		}
		c.Close()
	}
}

func (l *connections) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	many := maxConnectionsEach
	if from.IsLoopback() || from == l.ingress {
		many = maxConnections
	}
	if l.each[from] >= many || !from.IsLoopback() && l.all >= maxConnections {
		return false
	}
	l.each[from]++
	if !from.IsLoopback() {
		l.all++
	}
	return true
}

func (l *connections) exit(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each[from]--; l.each[from] == 0 {
		delete(l.each, from)
	}
	if !from.IsLoopback() {
		l.all--
	}
}

type connection struct {
	net.Conn
	leave func()
}

// Close makes room for another.
func (c *connection) Close() error {
	c.leave()
	return c.Conn.Close()
}

func address(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}
