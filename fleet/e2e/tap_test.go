package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/agent"
)

// A tap stands between two programs and keeps every byte, both ways.
type tap struct {
	addr string // where it listens, host:port

	mu      sync.Mutex
	streams []*stream
}

// A stream is one direction of a connection.
type stream struct {
	tap  *tap
	up   bool // from who connected
	kept []byte
}

func (s *stream) Write(b []byte) (int, error) {
	s.tap.mu.Lock()
	defer s.tap.mu.Unlock()
	s.kept = append(s.kept, b...)
	return len(b), nil
}

// newTap listens in front of a host:port, until the test ends.
func newTap(t *testing.T, target string) *tap {
	return listenTap(t, nil, func() (net.Conn, error) { return net.DialTimeout("tcp", target, 5*time.Second) })
}

// listenTap: with front, who connects speaks TLS with the tap.
func listenTap(t *testing.T, front *tls.Config, dial func() (net.Conn, error)) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{addr: l.Addr().String()}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if front != nil {
				c = tls.Server(c, front)
			}
			all.Go(func() { p.forward(ctx, c, dial) })
		}
	})
	t.Cleanup(func() { stop(); l.Close(); all.Wait() })
	return p
}

func (p *tap) forward(ctx context.Context, client net.Conn, dial func() (net.Conn, error)) {
	defer client.Close()
	server, err := dial()
	if err != nil {
		return
	}
	defer server.Close()
	end := func() { client.Close(); server.Close() }
	defer context.AfterFunc(ctx, end)()
	up, down := &stream{tap: p, up: true}, &stream{tap: p}
	p.mu.Lock()
	p.streams = append(p.streams, up, down)
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { io.Copy(io.MultiWriter(up, server), client); end() })
	both.Go(func() { io.Copy(io.MultiWriter(down, client), server); end() })
	both.Wait()
}

// kept is a copy of all streams.
func (p *tap) kept() (all [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams {
		all = append(all, bytes.Clone(s.kept))
	}
	return all
}

// sent is how many bytes those who connected have sent.
func (p *tap) sent() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams {
		if s.up {
			n += len(s.kept)
		}
	}
	return n
}

// tapFleet puts taps between a board that has joined and its controller, in the plain:
// the board is made to trust another CA besides, and the taps have the board's own key.
func (e *edge) tapFleet() (broker, api *tap) {
	e.t.Helper()
	data := filepath.Join(e.dir, "data")
	id, err := agent.LoadIdentity(data)
	if err != nil || id == nil {
		e.t.Fatalf("identity: %v", err)
	}
	behind, err := id.TLS()
	if err != nil {
		e.t.Fatal(err)
	}
	front, ca := madeUp(e.t)
	between := func(target string) *tap {
		return listenTap(e.t, front, func() (net.Conn, error) {
			return (&tls.Dialer{Config: behind}).Dial("tcp", target)
		})
	}
	broker, api = between(e.c.mqtt), between(e.c.api)
	id.CA += string(ca)
	id.MQTT, id.URL = "mqtts://"+broker.addr, "https://"+api.addr
	if err := agent.SaveIdentity(data, id); err != nil {
		e.t.Fatal(err)
	}
	return broker, api
}

// madeUp is a server at 127.0.0.1, and the CA that says so.
func madeUp(t *testing.T) (*tls.Config, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tap"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, own, own, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	front := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert}
	return front, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A colour is what a part of the pictures is filled with, and nothing else on the wire
// looks like a row of it.
type colour [3]byte

var shown, hidden = colour{0xc5, 0x3a, 0x71}, colour{0x17, 0xd6, 0x2b}

// traces are the bytes by which a picture is known, with their names.
func traces() map[string][]byte {
	all := map[string][]byte{
		"JPEG": {0xff, 0xd8, 0xff}, "PNG": []byte("\x89PNG"), "GIF": []byte("GIF89a"), "WebP": []byte("WEBPVP8"),
	}
	for _, begin := range [][]byte{{0xff, 0xd8, 0xff, 0xdb, 0, 0x84}, {0xff, 0xd8, 0xff, 0xe0, 0, 0x10}, []byte("\x89PNG\r\n\x1a\n\x00")} {
		n := len(begin) / 3 * 4
		all["base64 of "+string(rune('A'+len(all)))] = []byte(base64.StdEncoding.EncodeToString(begin)[:n])
		all["base64 for URLs of "+string(rune('A'+len(all)))] = []byte(base64.URLEncoding.EncodeToString(begin)[:n])
	}
	for _, c := range []colour{shown, hidden} {
		for _, order := range []colour{c, {c[2], c[1], c[0]}} {
			row := bytes.Repeat(order[:], 8)
			name := string(rune('A' + len(all)))
			all["pixels "+name] = row
			for shift := range 3 { // wherever the row begins
				all["base64 of pixels "+name+string(rune('0'+shift))] = []byte(base64.StdEncoding.EncodeToString(row[shift : shift+21]))
			}
		}
	}
	return all
}

// traced is the traces of pictures in what was heard.
func traced(heard [][]byte) (found []string) {
	for name, trace := range traces() {
		for _, b := range heard {
			if bytes.Contains(b, trace) {
				found = append(found, name)
				break
			}
		}
	}
	return found
}
