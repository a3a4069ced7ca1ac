package mqtt

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/haltest/port"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestGuard(t *testing.T) {
	tests := map[string]struct {
		stream string
		want   string // part of the error; "" is none
	}{
		"two small packets": {"\x30\x03\x00\x01a\xd0\x00", ""},
		"256 MiB announced": {"\x30\xff\xff\xff\x7f", "at most"},
		"just above":        {"\x30\x81\x80\x10", "262145"},
		"five digits":       {"\x30\x80\x80\x80\x80\x01", "digits"},
		"suback as asked":   {"\x90\x04\x00\x01\x01\x01", ""},
		"suback with more":  {"\x90\x05\x00\x01\x01\x01\x01", "granted"},
	}
	for name, tt := range tests {
		for _, step := range []int{1, 2, 100} { // cut anywhere
			g := guard{filters: 2}
			var err error
			for b := []byte(tt.stream); len(b) > 0 && err == nil; b = b[min(step, len(b)):] {
				err = g.feed(b[:min(step, len(b))])
			}
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%s by %d: %v, want %q", name, step, err, tt.want)
			}
		}
	}
}

// Whatever a broker sends, reading it neither panics nor makes room for more
// than a packet may have.
func FuzzInbound(f *testing.F) {
	f.Add([]byte("\x30\x03\x00\x01a\xd0\x00"))
	f.Add([]byte("\x90\x04\x00\x01\x01\x01"))
	f.Add([]byte("\x30\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		client, server := net.Pipe()
		defer client.Close()
		c := newConn(client, 2)
		go func() {
			server.Write(stream)
			server.Close()
		}()
		for {
			p, err := packets.ReadPacket(c)
			if err != nil {
				return
			}
			if s, ok := p.(*packets.SubackPacket); ok && len(s.ReturnCodes) > 2 {
				t.Fatalf("%d codes for 2 filters", len(s.ReturnCodes))
			}
		}
	})
}

func TestHugePacketEndsTheConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			packets.ReadPacket(c)
			c.Write([]byte{0x20, 2, 0, 0})                      // welcome
			c.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1}) // here come 256 MiB
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	c := linktest.Start(t, newLink(t, fast(l.Addr().String(), "c", false)), wire.Spec{})
	c.Until("down", func() bool { return c.Downs("at most 262144 are accepted") > 0 })
}

// Any answer to a subscription but a granted QoS is a refusal: some brokers say why,
// with a code of MQTT 5.
func TestUnknownCodeIsARefusal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			packets.ReadPacket(c)
			c.Write([]byte{0x20, 2, 0, 0}) // welcome
			if s, ok := first(packets.ReadPacket(c)).(*packets.SubscribePacket); ok {
				c.Write([]byte{0x90, 3, byte(s.MessageID >> 8), byte(s.MessageID), 0x91}) // packet id in use
			}
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	c := linktest.Start(t, newLink(t, fast(l.Addr().String(), "c", false)), wire.Spec{
		Subscribe: []wire.Subscription{{Filter: "t", QoS: 1}},
		Up:        func() { t.Error("up, and nothing was granted") },
	})
	c.Until("down", func() bool { return c.Downs("refused by the broker") > 0 })
}

func first(p packets.ControlPacket, _ error) packets.ControlPacket { return p }

// Nobody waits for a broker that takes nothing: writes end by their deadline,
// and Publish never waits at all.
func TestPublishNeverWaits(t *testing.T) {
	broker := linktest.Mosquitto(t)
	proxy := linktest.NewProxy(t, broker)
	c := linktest.Start(t, newLink(t, fast(proxy.Addr(), "c", false)), wire.Spec{})
	c.UntilUp(1)
	defer proxy.Stall()()
	payload := make([]byte, 200_000)
	began := time.Now()
	for range 10_000 {
		c.Publish(wire.Message{Topic: "t", Payload: payload, QoS: 1}, nil)
	}
	if d := time.Since(began); d > writeTimeout/2 { // one that waits takes as long as a write may
		t.Errorf("10,000 publishes took %v", d)
	}
}

func TestWebSocket(t *testing.T) {
	addr := port.Free(t)
	_, port, _ := net.SplitHostPort(addr)
	linktest.Mosquitto(t, "listener "+port+" 127.0.0.1", "protocol websockets")
	cfg := fast(addr, "ws", false)
	cfg.URL = "ws://" + addr + "/mqtt"
	c := linktest.Start(t, newLink(t, cfg), wire.Spec{Subscribe: []wire.Subscription{{Filter: "t", QoS: 1}}})
	c.UntilUp(1)
	c.Send(wire.Message{Topic: "t", Payload: make([]byte, 100_000), QoS: 1})
	c.UntilGot(1)
}

// TLS with a client certificate that is asked for at every attempt, through an
// HTTP proxy.
func TestTLSThroughProxy(t *testing.T) {
	dir := t.TempDir()
	pool, pair := certificate(t, dir)
	addr := port.Free(t)
	_, port, _ := net.SplitHostPort(addr)
	linktest.Mosquitto(t, "listener "+port+" 127.0.0.1", "cafile "+dir+"/cert.pem", "certfile "+dir+"/cert.pem",
		"keyfile "+dir+"/key.pem", "require_certificate true")
	cut := linktest.NewProxy(t, addr)
	var asked atomic.Int32
	cfg := fast(cut.Addr(), "tls", false)
	cfg.URL = "mqtts://" + cut.Addr()
	cfg.TLS = func() *tls.Config {
		asked.Add(1)
		return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	}
	c := linktest.Start(t, newLink(t, cfg), wire.Spec{})
	c.UntilUp(1)
	cut.Reset()
	c.UntilUp(2)
	if n := asked.Load(); n < 2 {
		t.Errorf("the certificate was asked for %d times", n)
	}

	tunnels := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := proxyAuth(r); r.Method != http.MethodConnect || user != "u" || pass != "p" {
			http.Error(w, "no", http.StatusProxyAuthRequired)
			return
		}
		tunnels++
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		here, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(there, here)
		io.Copy(here, there)
	}))
	defer proxy.Close()
	via, _ := url.Parse(proxy.URL)
	through := func(*http.Request) (*url.URL, error) { return via, nil }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cfg.Dial = (&net.Dialer{}).DialContext
	if _, err := dialTLS(ctx, &cfg, cfg.TLS(), addr, through); err == nil || !strings.Contains(err.Error(), "407") {
		t.Errorf("without a password the proxy gives %v", err)
	}
	via.User = url.UserPassword("u", "p")
	conn, err := dialTLS(ctx, &cfg, cfg.TLS(), addr, through)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if tunnels != 1 {
		t.Errorf("%d tunnels", tunnels)
	}
}

func proxyAuth(r *http.Request) (user, pass string, ok bool) {
	copied := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	return copied.BasicAuth()
}

// certificate writes a self-signed one for 127.0.0.1, used by both ends.
func certificate(t *testing.T, dir string) (*x509.CertPool, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{"cert.pem": cert, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bytes.Clone(cert))
	return pool, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestDelays(t *testing.T) {
	for failures, want := range []time.Duration{10, 20, 40, 60, 60, 60} {
		if got := delayLimit(10*time.Second, 60*time.Second, failures); got != want*time.Second {
			t.Errorf("after %d failures up to %v, want %v s", failures, got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, u := range []string{"", "http://x", "mqtt://", "mqtt://user:secret@", "://"} {
		_, err := New(Config{URL: u, ClientID: "c"})
		if err == nil {
			t.Errorf("%q is taken", u)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error tells the password", u)
		}
	}
}

// A broker that takes the connection and says nothing does not keep a link that
// has to end.
func TestStopWhileDialling(t *testing.T) {
	for _, scheme := range []string{"mqtt", "mqtts", "ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			link, err := New(Config{URL: scheme + "://" + l.Addr().String(), ClientID: "pi-1"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- link.Run(ctx, wire.Spec{}) }()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			cancel()
			select {
			case <-ended:
			case <-time.After(connectTimeout / 3):
				t.Error("the link does not end")
				c.Close()
				<-ended
			}
		})
	}
}
