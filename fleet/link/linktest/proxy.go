// Package linktest is what links are tested with: a proxy that cuts connections
// in every way a network does, a real mosquitto, and the suite that every
// wire.Link must pass.
package linktest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy is a TCP proxy on a free port of this machine that misbehaves when
// told to. All methods may be called at any time from any goroutine.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	pairs  map[*pair]bool
	refuse bool
	rate   int // bytes a second and direction; 0 is no limit
	cuts   int
	closed bool
}

// A pair is one connection through the proxy.
type pair struct {
	client, server net.Conn
	cut            bool // counted; guarded by Proxy.mu
	mu             sync.Mutex
	held           chan struct{} // not nil: nothing is forwarded until it is closed
}

// NewProxy listens in front of target (host:port). The test's end closes it.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{listener: l, target: target, pairs: map[*pair]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Addr is where clients connect to, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Retarget sends new connections elsewhere.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
}

// Refuse makes new connections end at once, until called with false.
func (p *Proxy) Refuse(yes bool) {
	p.mu.Lock()
	p.refuse = yes
	p.mu.Unlock()
}

// Slow limits the bytes a second in each direction of each connection; 0 lifts it.
func (p *Proxy) Slow(bytesPerSecond int) {
	p.mu.Lock()
	p.rate = bytesPerSecond
	p.mu.Unlock()
}

// Reset cuts every connection on both sides with a TCP reset.
func (p *Proxy) Reset() {
	for _, c := range p.cut() {
		c.reset()
	}
}

// HalfOpen tells the server that every connection is over, and the client nothing.
func (p *Proxy) HalfOpen() {
	for _, c := range p.cut() {
		c.hold()
		abort(c.server)
	}
}

// Stall stops forwarding on every connection, which stays open on both sides,
// until the function it returns is called.
func (p *Proxy) Stall() (resume func()) {
	pairs := p.cut()
	for _, c := range pairs {
		c.hold()
	}
	return func() {
		for _, c := range pairs {
			c.release()
		}
	}
}

// Cuts counts the connections that were reset, stalled or half opened.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Open counts the connections that stand.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

// Close ends everything.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.listener.Close()
	for _, c := range p.cut() {
		c.reset()
	}
	p.wg.Wait()
}

func (p *Proxy) cut() []*pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	pairs := make([]*pair, 0, len(p.pairs))
	for c := range p.pairs {
		pairs = append(pairs, c)
		if !c.cut {
			c.cut = true
			p.cuts++
		}
	}
	return pairs
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse, target := p.refuse, p.target
		p.mu.Unlock()
		if refuse {
			abort(c)
			continue
		}
		p.wg.Go(func() { p.serve(c, target) })
	}
}

func (p *Proxy) serve(client net.Conn, target string) {
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		abort(client)
		return
	}
	c := &pair{client: client, server: server}
	p.mu.Lock()
	if p.closed || p.refuse { // said meanwhile
		p.mu.Unlock()
		c.reset()
		return
	}
	p.pairs[c] = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.forward(c, c.server, c.client) })
	wg.Go(func() { p.forward(c, c.client, c.server) })
	wg.Wait()
	c.reset()
	p.mu.Lock()
	delete(p.pairs, c)
	p.mu.Unlock()
}

// forward copies until either side ends; a held pair is not ended by its server.
func (p *Proxy) forward(c *pair, to, from net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		c.wait()
		if n > 0 {
			p.mu.Lock()
			rate := p.rate
			p.mu.Unlock()
			if rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err == io.EOF {
			if tcp, ok := to.(*net.TCPConn); ok {
				tcp.CloseWrite()
			}
			return
		}
		if err != nil {
			c.reset()
			return
		}
	}
}

func (c *pair) hold() {
	c.mu.Lock()
	if c.held == nil {
		c.held = make(chan struct{})
	}
	c.mu.Unlock()
}

func (c *pair) release() {
	c.mu.Lock()
	if c.held != nil {
		close(c.held)
		c.held = nil
	}
	c.mu.Unlock()
}

func (c *pair) wait() {
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (c *pair) reset() {
	abort(c.client)
	abort(c.server)
	c.release()
}

// abort closes with a reset.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
