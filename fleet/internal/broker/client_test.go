package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/broker"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// limit is how long anything may take before a test gives up.
const limit = 20 * time.Second

// A rig is a running broker with the real authority behind it.
type rig struct {
	*broker.Broker
	gate
	db   *store.Store
	auth *auth.Authority
	log  *syncBuffer
	got  chan string // "<id> <rest> <payload>" of what was taken in

	mu   sync.Mutex
	fail error // what taking in returns
}

// A gate is the authority, which something may come behind.
type gate struct {
	*auth.Authority
	passed atomic.Pointer[func()] // called when a home was let in
}

func (g *gate) Home(user, password string) error {
	err := g.Authority.Home(user, password)
	if passed := g.passed.Load(); passed != nil {
		(*passed)()
	}
	return err
}

func start(t *testing.T) *rig {
	t.Helper()
	db, err := store.Open(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := auth.Open(db, auth.Config{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{db: db, auth: a, log: &syncBuffer{}, got: make(chan string, 10_000)}
	r.Authority = a
	r.Broker, err = broker.New(broker.Config{
		Listen: "127.0.0.1:0", TLS: a.ServerTLS(), Plain: "127.0.0.1:0", Root: "covey",
		Access: &r.gate, Log: zerolog.New(r.log),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Handle(r.take)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(limit):
			t.Error("the broker does not stop")
		}
		db.Close()
	})
	return r
}

func (r *rig) take(id wire.DeviceID, rest string, payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail == nil {
		r.got <- fmt.Sprintf("%s %s %s", id, rest, payload)
	}
	return r.fail
}

func (r *rig) setFail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// want waits for the next message that was taken in.
func (r *rig) want(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-r.got:
		if got != want {
			t.Fatalf("took in %q, want %q", got, want)
		}
	case <-time.After(limit):
		t.Fatalf("did not take in %q", want)
	}
}

// device enrols a device and returns its TLS configuration.
func (r *rig) device(t *testing.T, id wire.DeviceID) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := r.auth.AddJoin(0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var cert auth.Certificate
	err = r.db.Update(func(tx *store.Tx) (err error) {
		csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		cert, _, err = r.auth.Join(tx, secret, string(csr), id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert.PEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.trust()
	cfg.Certificates = []tls.Certificate{pair}
	return cfg
}

// trust is the TLS configuration of somebody who has no certificate.
func (r *rig) trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.auth.CAPEM())
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// home makes a home's user and returns the password.
func (r *rig) home(t *testing.T, user string) string {
	t.Helper()
	pw, err := r.auth.AddHome(user)
	if err != nil {
		t.Fatal(err)
	}
	return pw
}

// A client speaks MQTT by hand, so that it can do what no good client does.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// greeting is what a client says of itself.
type greeting struct {
	tls            *tls.Config // nil: plain
	id             string
	user, password string
	will           string // topic; the payload is "gone"
	keep           bool   // the session
}

var errRefused = errors.New("refused")

// dial connects. The error is errRefused when the broker says no or hangs up.
func (r *rig) dial(t *testing.T, g greeting) (*client, error) {
	t.Helper()
	addr := r.PlainAddr()
	if g.tls != nil {
		addr = r.Addr()
	}
	raw, err := net.DialTimeout("tcp", addr.String(), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	if g.tls != nil {
		raw = tls.Client(raw, g.tls)
	}
	raw.SetDeadline(time.Now().Add(limit))
	c := &client{t: t, conn: raw, r: bufio.NewReader(raw)}
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: packets.Connect},
		ProtocolVersion: 4,
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), ClientIdentifier: g.id, Keepalive: 60, Clean: !g.keep,
			UsernameFlag: g.user != "", Username: []byte(g.user),
			PasswordFlag: g.password != "", Password: []byte(g.password),
			WillFlag: g.will != "", WillTopic: g.will, WillPayload: []byte("gone"), WillQos: 1,
		},
	}
	var buf bytes.Buffer
	if err := pk.ConnectEncode(&buf); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(buf.Bytes()); err != nil {
		return nil, errRefused
	}
	typ, body, err := c.read()
	if err != nil || typ != packets.Connack || body[1] != 0 {
		return nil, errRefused
	}
	return c, nil
}

func (r *rig) mustDial(t *testing.T, g greeting) *client {
	t.Helper()
	c, err := r.dial(t, g)
	if err != nil {
		t.Fatalf("connect as %q: %v\n%s", g.id, err, r.log)
	}
	return c
}

// read reads one packet.
func (c *client) read() (typ byte, body []byte, err error) {
	head, err := c.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, _, err := packets.DecodeLength(c.r)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(c.r, body)
	return head >> 4, body, err
}

func (c *client) write(pk packets.Packet, encode func(*packets.Packet, *bytes.Buffer) error) {
	c.t.Helper()
	pk.ProtocolVersion = 4
	var buf bytes.Buffer
	if err := encode(&pk, &buf); err != nil {
		c.t.Fatal(err)
	}
	c.conn.Write(buf.Bytes()) // an error shows when the answer is read
}

func (c *client) send(topic string, payload []byte, qos byte, id uint16) {
	c.t.Helper()
	c.write(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: payload, PacketID: id,
	}, (*packets.Packet).PublishEncode)
}

// publish sends with QoS 1 and says whether the PUBACK came, false when the
// connection ended instead.
func (c *client) publish(topic, payload string, id uint16) bool {
	c.t.Helper()
	c.send(topic, []byte(payload), 1, id)
	for {
		typ, body, err := c.read()
		if err != nil || typ == packets.Disconnect {
			return false
		}
		if typ == packets.Puback {
			return body[0] == byte(id>>8) && body[1] == byte(id)
		}
	}
}

// subscribe says whether the filter was granted.
func (c *client) subscribe(filter string, qos byte) bool {
	c.t.Helper()
	c.write(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 7,
		Filters: packets.Subscriptions{{Filter: filter, Qos: qos}},
	}, (*packets.Packet).SubscribeEncode)
	typ, body, err := c.read()
	if err != nil || typ != packets.Suback {
		c.t.Fatalf("subscribe %q: packet %d, %v", filter, typ, err)
	}
	return body[2] <= 2
}

// closed waits until the broker hangs up.
func (c *client) closed() {
	c.t.Helper()
	for {
		_, _, err := c.read()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			c.t.Fatal("the connection stays open")
		}
		if err != nil {
			return
		}
	}
}

// A syncBuffer is a log that a test reads while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
