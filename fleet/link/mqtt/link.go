// Package mqtt is the wire.Link over a real broker: MQTT 3.1.1 by way of
// paho.mqtt.golang. It is the only room that imports paho, and exists because
// paho's own promises cannot be used as they are:
//
//   - its tokens complete without a PUBACK after a reconnect; here the deletion of
//     a packet from the store, which only a PUBACK causes, is the acknowledgement
//   - its reconnects come in step; here every connection is a new paho client, and
//     the time between them is this room's own, with full jitter
//   - it writes most packets without a deadline, and allocates what a broker tells
//     it to; here both are bounded in the connection beneath it
package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
)

// Window is how many messages may wait for their acknowledgement.
const Window = 32

const (
	connectTimeout = 15 * time.Second // dial, TLS and MQTT handshake together
	writeTimeout   = 10 * time.Second // of one packet
	pingTimeout    = 10 * time.Second
	handover       = time.Second // into paho, which blocks for this long after a cut
	inboundDepth   = 64          // packets received and not yet given to Receive
)

// Config says which broker, and as whom. URL and ClientID are required.
type Config struct {
	// URL is mqtt://host:1883, mqtts://host:8883, ws://host/path or wss://host/path.
	// All but mqtt go through the HTTP proxy that the environment names.
	URL      string
	ClientID string
	// Clean asks the broker to forget this client between connections.
	Clean bool
	// TLS is asked before every attempt, so that a renewed certificate is used at
	// the next one. Nil means the system's roots and no client certificate.
	TLS                func() *tls.Config
	Username, Password string
	// KeepAlive is how long a silent connection is trusted; 0 is 30 s.
	KeepAlive time.Duration
	// Spread is the range of the random delay before the first attempt after a cut,
	// so that a fleet does not come back in step; it doubles with every failure up
	// to MaxDelay. 0 is 10 s and 60 s.
	Spread, MaxDelay time.Duration
	// Dial replaces the dialling of TCP, for tests and simulated networks.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Logger zerolog.Logger
}

// A Link is a wire.Link to one broker. Its window counts messages of both QoS.
type Link struct {
	cfg  Config
	url  *url.URL
	spec wire.Spec
	wake chan struct{} // something is in the queue; holds 1, so that nobody waits to say so

	mu      sync.Mutex
	up      bool
	useful  bool      // an acknowledgement, or a message of QoS 0, came on this connection
	queue   []*flight // taken, not yet given to paho
	handing *flight   // being given to paho now
	sent    []*flight // given to paho, QoS 1, not acknowledged; in order
}

// A flight is a message that was taken and whose acked is still owed.
type flight struct {
	m     wire.Message
	acked func()
	mid   uint16 // 0 until paho gave it one
}

// New checks the configuration. It dials nothing.
func New(cfg Config) (*Link, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("broker url: %w", err)
	}
	switch u.Scheme {
	case "mqtt", "mqtts", "ws", "wss":
	default:
		return nil, fmt.Errorf("broker url %q: scheme must be mqtt, mqtts, ws or wss", u.Redacted())
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("broker url %q: no host", u.Redacted())
	}
	if cfg.ClientID == "" {
		return nil, errors.New("mqtt: no client id")
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = 30 * time.Second
	}
	if cfg.Spread == 0 {
		cfg.Spread = 10 * time.Second
	}
	if cfg.MaxDelay == 0 {
		cfg.MaxDelay = 60 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: connectTimeout}).DialContext
	}
	return &Link{cfg: cfg, url: u, wake: make(chan struct{}, 1)}, nil
}

// Run is wire.Link's.
func (l *Link) Run(ctx context.Context, s wire.Spec) error {
	l.spec = s
	failures := 0
	for {
		began := time.Now()
		err := l.connection(ctx)
		if s.Down != nil {
			s.Down(err)
		}
		if ctx.Err() != nil {
			return nil
		}
		// A connection that carried something, or outlived the delay it would have to
		// wait for, was a good one.
		limit := delayLimit(l.cfg.Spread, l.cfg.MaxDelay, failures)
		if l.wasUseful() || time.Since(began) > limit+connectTimeout {
			failures, limit = 0, l.cfg.Spread
		}
		failures++
		delay := rand.N(limit)
		l.cfg.Logger.Info().Err(err).Dur("retry_in", delay).Msg("link down")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// delayLimit is the upper end of the random delay after so many failures in a row.
func delayLimit(spread, most time.Duration, failures int) time.Duration {
	d := spread
	for range failures {
		if d *= 2; d >= most {
			return most
		}
	}
	return min(d, most)
}

// Publish is wire.Link's.
func (l *Link) Publish(m wire.Message, acked func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(m.Payload)+len(m.Topic)+8 > wire.MaxPacket:
		return fmt.Errorf("publish %s: %d bytes are more than a packet may have", m.Topic, len(m.Payload))
	case !l.up:
		return wire.ErrOffline
	case l.pending() >= Window:
		return wire.ErrWindow
	}
	l.queue = append(l.queue, &flight{m: m, acked: acked})
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// pending counts what is in the window. l.mu is held.
func (l *Link) pending() int {
	n := len(l.queue) + len(l.sent)
	if l.handing != nil && l.handing.mid == 0 {
		n++
	}
	return n
}

// connection lives through one connection, from the dial to its end, and returns
// why it ended. When it returns, everything it started has ended.
func (l *Link) connection(ctx context.Context) error {
	l.refresh()
	c := &connection{link: l, in: make(chan paho.Message, inboundDepth), lost: make(chan error, 1)}
	c.client = paho.NewClient(c.options(ctx))
	if err := c.open(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(c.receive) // before the subscriptions: a session may hold messages from before
	err := c.subscribe(ctx)
	if err == nil {
		wg.Go(c.send)
		l.setUp(true)
		l.cfg.Logger.Info().Str("broker", l.url.Host).Msg("link up")
		if l.spec.Up != nil {
			l.spec.Up()
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-c.conn.dead:
			err = c.conn.reason()
		}
		l.setUp(false)
	}
	c.close(ctx, err)
	wg.Wait()
	l.dropQoS0()
	return err
}

// refresh asks what was not acknowledged on the connection before for what it says now.
func (l *Link) refresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, list := range [][]*flight{l.sent, l.queue} {
		for _, f := range list {
			if f.m.Again != nil {
				f.m.Payload = f.m.Again()
			}
		}
	}
}

func (l *Link) setUp(up bool) {
	l.mu.Lock()
	l.up = up
	l.mu.Unlock()
}

func (l *Link) setUseful() {
	l.mu.Lock()
	l.useful = true
	l.mu.Unlock()
}

// wasUseful says whether the connection that ended carried something, and forgets it.
func (l *Link) wasUseful() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.useful
	l.useful = false
	return was
}

// dropQoS0 forgets what may be lost, once a connection has ended.
func (l *Link) dropQoS0() {
	l.mu.Lock()
	kept := l.queue[:0]
	for _, f := range l.queue {
		if f.m.QoS > 0 {
			kept = append(kept, f)
		}
	}
	clear(l.queue[len(kept):])
	l.queue = kept
	l.mu.Unlock()
}
