package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A shaper is a TCP proxy that is a link of a rate and a delay, and can be cut.
type shaper struct {
	net.Listener
	target string
	rate   float64       // bytes a second and direction, of all connections together
	delay  time.Duration // one way
	down   atomic.Int64  // bytes that reached clients

	mu    sync.Mutex
	free  [2]time.Time // when each direction is
	pairs map[*shaped]bool
}

// shaped is one connection through a shaper.
type shaped struct {
	client, server net.Conn
	down           atomic.Int64
}

func newShaper(target string, rate float64, delay time.Duration) (*shaper, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &shaper{Listener: l, target: target, rate: rate, delay: delay, pairs: map[*shaped]bool{}}
	go s.accept() // ended by Close
	return s, nil
}

func (s *shaper) accept() {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		go s.serve(c)
	}
}

func (s *shaper) serve(client net.Conn) {
	time.Sleep(2 * s.delay) // of TCP's own handshake
	server, err := net.Dial("tcp", s.target)
	if err != nil {
		client.Close()
		return
	}
	p := &shaped{client: client, server: server}
	s.mu.Lock()
	s.pairs[p] = true
	s.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { s.forward(0, server, client, func(int) {}) })
	both.Go(func() {
		s.forward(1, client, server, func(n int) { p.down.Add(int64(n)); s.down.Add(int64(n)) })
	})
	both.Wait()
	s.mu.Lock()
	delete(s.pairs, p)
	s.mu.Unlock()
}

// A parcel is bytes on their way, and when they arrive.
type parcel struct {
	b   []byte
	due time.Time
}

// forward carries bytes until either side ends, with a queue of a megabyte.
func (s *shaper) forward(direction int, to, from net.Conn, arrived func(int)) {
	way := make(chan parcel, 64)
	go func() {
		defer close(way)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				way <- parcel{b[:n], s.due(direction, n)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.due))
		if n, err := to.Write(p.b); err == nil {
			arrived(n)
		}
	}
	to.Close()
	from.Close()
}

// due is when n more bytes arrive.
func (s *shaper) due(direction, n int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.free[direction].Before(now) {
		s.free[direction] = now
	}
	s.free[direction] = s.free[direction].Add(time.Duration(float64(n) / s.rate * float64(time.Second)))
	return s.free[direction].Add(s.delay)
}

// cut resets the connection that has brought most, with what is under way on it.
func (s *shaper) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var most *shaped
	for p := range s.pairs {
		if most == nil || p.down.Load() > most.down.Load() {
			most = p
		}
	}
	if most == nil {
		return
	}
	delete(s.pairs, most)
	for _, c := range []net.Conn{most.client, most.server} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
	}
}

// cuts cuts n times while size bytes come, evenly; stop ends it.
func (s *shaper) cuts(n, size int) (stop func()) {
	from, done := s.down.Load(), make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for i := 1; i <= n; {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if s.down.Load()-from > int64(i*size/(n+1)) {
				s.cut()
				i++
			}
		}
	})
	return func() { close(done); watch.Wait() }
}

// copyPlain brings size bytes over the link by plain TCP, going on where a cut left
// off, and returns how long it took.
func (s *shaper) copyPlain(size int) (time.Duration, error) {
	begin := time.Now()
	buf := make([]byte, 64<<10)
	for got := 0; got < size; {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			return 0, err
		}
		offset := []byte{byte(got >> 24), byte(got >> 16), byte(got >> 8), byte(got)}
		_, err = c.Write(offset)
		for err == nil && got < size {
			var n int
			n, err = c.Read(buf)
			got += n
		}
		c.Close()
	}
	return time.Since(begin), nil
}

// servePlain is the other end of copyPlain.
func servePlain(size int) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { // ended by the listener's Close
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var o [4]byte
				if _, err := io.ReadFull(c, o[:]); err != nil {
					return
				}
				left := size - int(o[0])<<24 - int(o[1])<<16 - int(o[2])<<8 - int(o[3])
				for buf := make([]byte, 64<<10); left > 0; {
					n, err := c.Write(buf[:min(left, len(buf))])
					if left -= n; err != nil {
						return
					}
				}
			}()
		}
	}()
	return l, nil
}
