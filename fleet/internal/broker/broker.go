// Package broker is the embedded MQTT broker: who may connect, what they may read
// and write, and the way of what devices send into the controller. It is the only
// room that knows mochi, and mends what is wrong with it for this use:
//
//   - what a device sends is taken in before the PUBACK, in OnPublish;
//   - a client that does not read is cut off after two seconds, because whoever
//     publishes to it waits for it;
//   - packet ids of a client are not taken for those of messages to it;
//   - retained messages never expire, packets and queues are bounded;
//   - a client id belongs to one certificate, or to one user of a home.
package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/wire"
)

// Access says who may connect.
type Access interface {
	// Device says whose client certificate, already verified, this is.
	Device(cert *x509.Certificate) (wire.DeviceID, error)
	// Home says whether this is the password of a home's user.
	Home(user, password string) error
}

// Config of a Broker.
type Config struct {
	Listen string      // address for TLS, "host:port"; port 0 is any
	TLS    *tls.Config // which verifies client certificates if given
	Plain  string      // address without TLS, for homes only; "" is none
	Root   string      // of all topics
	Access Access
	Log    zerolog.Logger

	MaxClients int64 // connections at a time; 0 means 20,000
}

// A Broker is used by many goroutines.
type Broker struct {
	cfg     Config
	srv     *mqtt.Server
	tls     *listener
	plain   *listener // may be nil
	refused refusals

	handle   func(wire.DeviceID, string, []byte) error
	stopping atomic.Bool

	mu     sync.Mutex
	newest map[string]*mqtt.Client // by client id: the connection that it belongs to now
}

const (
	maxPending  = 1024      // writes that wait for one client
	maxInflight = 1024      // QoS 1 messages of one client without its acknowledgement
	maxRetained = 250_000   // retained messages
	maxSession  = 24 * 3600 // seconds a session outlives its connection
)

// New binds the addresses. Nobody is let in before Run.
func New(cfg Config) (*Broker, error) {
	if cfg.MaxClients == 0 {
		cfg.MaxClients = 20_000
	}
	b := &Broker{cfg: cfg, newest: map[string]*mqtt.Client{}}
	b.refused.log = cfg.Log
	b.srv = mqtt.New(&mqtt.Options{
		Capabilities:           capabilities(cfg.MaxClients),
		Logger:                 slog.New(slog.DiscardHandler), // it logs packets whole
		SysTopicResendInterval: 60,
		InlineClient:           true,
	})
	if err := b.srv.AddHook(&hook{b: b}, nil); err != nil {
		return nil, err
	}
	var err error
	if b.tls, err = b.listen("tls", cfg.Listen, cfg.TLS); err != nil {
		return nil, err
	}
	if cfg.Plain != "" {
		if b.plain, err = b.listen("plain", cfg.Plain, nil); err != nil {
			b.tls.net.Close()
			return nil, err
		}
	}
	return b, nil
}

func capabilities(clients int64) *mqtt.Capabilities {
	c := mqtt.NewDefaultServerCapabilities()
	c.MaximumClients = clients
	c.MaximumMessageExpiryInterval = 0 // 24 hours by default, for retained messages too
	c.MaximumClientWritesPending = maxPending
	c.MaximumSessionExpiryInterval = maxSession
	c.MaximumPacketSize = wire.MaxPacket
	c.MaximumInflight = maxInflight
	c.TopicAliasMaximum = 0 // an alias would go round the check of its topic
	c.MinimumProtocolVersion = 4
	return c
}

func (b *Broker) listen(id, addr string, cfg *tls.Config) (*listener, error) {
	n, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for mqtt on %s: %w", addr, err)
	}
	l := &listener{id: id, net: n, tls: cfg, open: map[*conn]bool{}, strangers: map[string]int{}}
	l.refuse = func(from string, why error) {
		b.refused.add(refusal{what: "connection", why: why.Error()}, from)
	}
	return l, b.srv.AddListener(l)
}

// Addr is the address of the TLS listener.
func (b *Broker) Addr() net.Addr { return b.tls.net.Addr() }

// PlainAddr is the address of the plain listener, nil when there is none.
func (b *Broker) PlainAddr() net.Addr {
	if b.plain == nil {
		return nil
	}
	return b.plain.net.Addr()
}

// Handle sets who takes in what devices publish on up/<rest>. It is called
// before the device gets its acknowledgement, on the goroutine of its connection:
// fn blocks nobody else. When it returns an error the device gets none and is
// disconnected, so that it sends again. Call it before Run.
func (b *Broker) Handle(fn func(id wire.DeviceID, rest string, payload []byte) error) { b.handle = fn }

// Run lets clients in until ctx ends, and returns when all connections are closed.
func (b *Broker) Run(ctx context.Context) error {
	if b.handle == nil {
		return errors.New("broker: nobody handles what devices send")
	}
	if err := b.srv.Serve(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	<-ctx.Done()
	b.stopping.Store(true)
	return b.srv.Close()
}

// Close frees the addresses of a Broker that is never run.
func (b *Broker) Close() error {
	err := b.tls.net.Close()
	if b.plain != nil {
		err = errors.Join(err, b.plain.net.Close())
	}
	return err
}

// Publish hands a message to whoever has subscribed. It never waits for a
// client; QoS 0 is dropped for those that are behind. It may be called before Run,
// for retained messages.
func (b *Broker) Publish(m wire.Message) error {
	if len(m.Payload)+len(m.Topic)+16 > wire.MaxPacket {
		return fmt.Errorf("publish on %s: %d bytes, at most %d", m.Topic, len(m.Payload), wire.MaxPacket)
	}
	if err := b.srv.Publish(m.Topic, m.Payload, m.Retain, m.QoS); err != nil {
		return fmt.Errorf("publish on %s: %w", m.Topic, err)
	}
	return nil
}

// Kick ends both connections of a device.
func (b *Broker) Kick(id wire.DeviceID) {
	b.kick(string(id))
	b.kick(string(id) + wire.BulkSuffix)
}

func (b *Broker) kick(client string) {
	if cl, ok := b.srv.Clients.Get(client); ok {
		cl.Stop(packets.ErrNotAuthorized)
	}
}

// KickHome ends all connections of a home's user.
func (b *Broker) KickHome(user string) {
	for client, cl := range b.srv.Clients.GetAll() {
		if strings.HasPrefix(client, homePrefix+user+":") {
			cl.Stop(packets.ErrNotAuthorized)
		}
	}
}

// Connected says whether a device's first connection stands.
func (b *Broker) Connected(id wire.DeviceID) bool {
	cl, ok := b.srv.Clients.Get(string(id))
	return ok && !cl.Closed()
}

// Stats are counts for metrics. All but the first two are since the start.
type Stats struct {
	Clients        int64 // connections now
	Retained       int64 // messages now
	Received, Sent int64 // messages
	ReceivedBytes  int64
	SentBytes      int64
	Dropped        int64 // messages to clients that were behind
	Refused        uint64
}

// Stats counts.
func (b *Broker) Stats() Stats {
	i := b.srv.Info.Clone()
	return Stats{
		Clients: i.ClientsConnected, Retained: i.Retained,
		Received: i.MessagesReceived, Sent: i.MessagesSent,
		ReceivedBytes: i.BytesReceived, SentBytes: i.BytesSent,
		Dropped: i.MessagesDropped + i.InflightDropped, Refused: b.refused.total.Load(),
	}
}
