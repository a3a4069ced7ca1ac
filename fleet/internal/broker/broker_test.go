package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

func TestWhoMayConnect(t *testing.T) {
	r := start(t)
	pi, other := r.device(t, "pi"), r.device(t, "other")
	pw := r.home(t, "ha")
	gone := r.device(t, "gone")
	if err := r.db.Update(func(tx *store.Tx) error { return r.auth.Revoke(tx, "gone") }); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		g  greeting
		ok bool
	}{
		"device":                     {greeting{tls: pi, id: "pi"}, true},
		"second connection":          {greeting{tls: pi, id: "pi~x"}, true},
		"home with tls":              {greeting{tls: r.trust(), id: "any", user: "ha", password: pw}, true},
		"home, plain":                {greeting{id: "any", user: "ha", password: pw}, true},
		"home with a device's id":    {greeting{id: "other", user: "ha", password: pw}, true}, // does not disturb other
		"nothing":                    {greeting{tls: r.trust(), id: "pi"}, false},
		"nothing, plain":             {greeting{id: "pi"}, false},
		"wrong password":             {greeting{id: "any", user: "ha", password: pw + "x"}, false},
		"no password":                {greeting{id: "any", user: "ha"}, false},
		"no such user":               {greeting{id: "any", user: "nobody", password: pw}, false},
		"another device's id":        {greeting{tls: pi, id: "other"}, false},
		"another second connection":  {greeting{tls: pi, id: "other~x"}, false},
		"made-up suffix":             {greeting{tls: pi, id: "pi~y"}, false},
		"another's, with a password": {greeting{tls: pi, id: "other", user: "ha", password: pw}, false},
		"no id":                      {greeting{tls: pi}, false},
		"inline":                     {greeting{tls: pi, id: "inline"}, false},
		"revoked":                    {greeting{tls: gone, id: "gone"}, false},
		"foreign CA":                 {greeting{tls: foreign(t, r.trust(), "pi"), id: "pi"}, false},
		"another's will":             {greeting{tls: pi, id: "pi", will: "covey/1/d/other/up/status"}, false},
		"will in dn":                 {greeting{tls: pi, id: "pi", will: "covey/1/d/pi/dn/desired"}, false},
		"home's will on a device":    {greeting{id: "x", user: "ha", password: pw, will: "covey/1/d/pi/up/status"}, false},
	}
	victim := r.mustDial(t, greeting{tls: other, id: "other"})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := r.dial(t, tt.g)
			if (err == nil) != tt.ok {
				t.Fatalf("connected: %v", err == nil)
			}
			if err == nil {
				c.conn.Close()
			}
		})
	}
	if !victim.publish("covey/1/d/other/up/hello", "x", 1) {
		t.Error("the device other lost its connection")
	}
	for _, want := range []string{`certificate of \"pi\" does not allow this client id`, "wrong user or password", "revoked or not issued here", "will on"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, r.log)
		}
	}
	if strings.Contains(r.log.String(), pw) {
		t.Error("the log tells a password")
	}
}

// foreign is a certificate for id that somebody else's CA has signed.
func foreign(t *testing.T, cfg *tls.Config, id string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	// A client sends no certificate that the server's CA list does not fit, unless made to.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return cfg
}

func TestOthersTopics(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	pw := r.home(t, "ha")
	secret := "for other only"
	if err := r.Publish(wire.Message{Topic: "covey/1/d/other/dn/desired", Payload: []byte(secret), QoS: 1, Retain: true}); err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{
		"#", "+/#", "covey/#", "covey/1/d/#", "covey/1/d/+/dn/desired", "covey/1/d/other/dn/desired", "covey/1/d/other/up/#",
		"covey/1/d/pi/#", "covey/1/d/pi/+/desired", "covey/1/d/pi/up/#", "$share/a/covey/1/d/other/dn/#", "$SYS/#", "covey/home/#",
	} {
		c := r.mustDial(t, greeting{tls: pi, id: "pi"})
		if c.subscribe(filter, 1) {
			t.Errorf("pi may read %q", filter)
		}
		c.conn.Close()
	}
	home := r.mustDial(t, greeting{tls: r.trust(), id: "h", user: "ha", password: pw})
	for _, filter := range []string{"#", "covey/#", "covey/1/#", "covey/+/pi/available", "covey/1/d/other/dn/desired"} {
		if home.subscribe(filter, 1) {
			t.Errorf("a home may read %q", filter)
		}
	}
	for _, topic := range []string{"covey/1/d/other/up/status", "covey/1/d/pi/dn/desired", "covey/1/d/other/dn/desired", "covey/home/pi/available", "x"} {
		c := r.mustDial(t, greeting{tls: pi, id: "pi"})
		if c.publish(topic, "evil", 1) {
			t.Errorf("pi may write %q", topic)
		}
	}
	if home.publish("covey/1/d/pi/up/status", "evil", 1) {
		t.Error("a home may write a device's status")
	}
	select {
	case got := <-r.got:
		t.Errorf("took in %q", got)
	default:
	}
	if log := r.log.String(); !strings.Contains(log, `"what":"write"`) || !strings.Contains(log, `"what":"read"`) {
		t.Errorf("refusals were not logged:\n%s", log)
	}
}

func TestStandardClientsAreRefused(t *testing.T) {
	pub, err := exec.LookPath("mosquitto_pub")
	if err != nil {
		t.Skip("mosquitto-clients is not installed")
	}
	r := start(t)
	pw := r.home(t, "ha")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, r.auth.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(r.Addr().String())
	run := func(user, pw, topic string) error {
		cmd := exec.CommandContext(t.Context(), pub, "-h", "localhost", "-p", port, "--cafile", ca,
			"-u", user, "-P", pw, "-q", "1", "-t", topic, "-m", "x")
		out, err := cmd.CombinedOutput()
		t.Logf("%s on %s: %v %s", user, topic, err, out)
		return err
	}
	if err := run("ha", pw, "covey/home/pi/cam/enabled/set"); err != nil {
		t.Errorf("a home cannot write its own topic: %v", err)
	}
	if run("ha", "wrong", "covey/home/x") == nil {
		t.Error("a wrong password is let in")
	}
	if run("ha", pw, "covey/1/d/pi/dn/desired") == nil {
		t.Error("a home may write what is desired")
	}
}

// TestNoAckBeforeTaken: what could not be taken in is not acknowledged, and comes
// again on the next connection.
func TestNoAckBeforeTaken(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	r.setFail(errors.New("disk full"))
	c := r.mustDial(t, greeting{tls: pi, id: "pi"})
	if c.publish("covey/1/d/pi/up/result/cam", "one", 1) {
		t.Fatal("acknowledged")
	}
	r.setFail(nil)
	c = r.mustDial(t, greeting{tls: pi, id: "pi"})
	if !c.publish("covey/1/d/pi/up/result/cam", "one", 1) {
		t.Fatal("not acknowledged")
	}
	r.want(t, "pi result/cam one")
}

func TestWill(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	g := greeting{tls: pi, id: "pi", will: "covey/1/d/pi/up/status"}
	first := r.mustDial(t, g)
	second := r.mustDial(t, g)
	first.closed()
	if !second.publish("covey/1/d/pi/up/status", "online", 1) {
		t.Fatal("not acknowledged")
	}
	r.want(t, "pi status online") // and not "gone" of the first
	second.conn.Close()
	r.want(t, "pi status gone")
}

// TestStatusComesBack: a device reads its own status, retained or not.
func TestStatusComesBack(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	c := r.mustDial(t, greeting{tls: pi, id: "pi"})
	if !c.subscribe("covey/1/d/pi/up/status", 1) {
		t.Fatal("refused")
	}
	c.send("covey/1/d/pi/up/status", []byte("hello"), 1, 9)
	for {
		typ, body, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if typ == packets.Publish {
			if !strings.HasSuffix(string(body), "hello") {
				t.Errorf("got %q", body)
			}
			return
		}
	}
}

func TestKick(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	pi.ClientSessionCache = tls.NewLRUClientSessionCache(4) // a resumed session counts no more than a new one
	pw := r.home(t, "ha")
	a := r.mustDial(t, greeting{tls: pi, id: "pi", keep: true})
	b := r.mustDial(t, greeting{tls: pi, id: "pi~x"})
	h := r.mustDial(t, greeting{id: "h", user: "ha", password: pw})
	if !r.Connected("pi") {
		t.Error("not connected")
	}
	if err := r.db.Update(func(tx *store.Tx) error { return r.auth.Revoke(tx, "pi") }); err != nil {
		t.Fatal(err)
	}
	r.Kick("pi")
	a.closed()
	b.closed()
	if _, err := r.dial(t, greeting{tls: pi, id: "pi"}); err == nil {
		t.Error("a revoked device came back")
	}
	if r.Connected("pi") {
		t.Error("still connected")
	}
	r.KickHome("ha")
	h.closed()
}

// A home that is removed between its password and its session is not missed.
func TestHomeRemovedWhileItConnects(t *testing.T) {
	r := start(t)
	pw := r.home(t, "ha")
	remove := sync.OnceFunc(func() {
		if err := r.auth.RemoveHome("ha"); err != nil {
			t.Error(err)
		}
		r.KickHome("ha")
	})
	r.passed.Store(&remove)
	if h, err := r.dial(t, greeting{id: "h", user: "ha", password: pw}); err == nil {
		h.closed()
	}
}

func TestPacketLimit(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	c := r.mustDial(t, greeting{tls: pi, id: "pi"})
	if !c.publish("covey/1/d/pi/up/result/cam", strings.Repeat("x", 200<<10), 1) {
		t.Error("200 KiB were refused")
	}
	c.send("covey/1/d/pi/up/result/cam", make([]byte, 257<<10), 1, 2)
	c.closed()
	if n := len(r.got); n != 1 {
		t.Errorf("%d messages were taken in", n)
	}
}

// TestSlowReader: who does not read is cut off, and holds nobody up for long.
func TestSlowReader(t *testing.T) {
	r := start(t)
	pw := r.home(t, "ha")
	slow := r.mustDial(t, greeting{id: "slow", user: "ha", password: pw})
	if !slow.subscribe("covey/home/#", 1) {
		t.Fatal("refused")
	}
	good := r.mustDial(t, greeting{id: "good", user: "ha", password: pw})
	payload := strings.Repeat("x", 64<<10)
	var longest time.Duration
	for i := range 400 { // 25 MiB: more than sockets hold
		begin := time.Now()
		if !good.publish("covey/home/a", payload, uint16(i+1)) {
			t.Fatal("the publisher was cut off")
		}
		longest = max(longest, time.Since(begin))
	}
	t.Logf("longest wait for a PUBACK: %v", longest)
	if longest > 5*time.Second {
		t.Errorf("a PUBACK took %v", longest)
	}
	slow.closed()
}

// TestStrangers: connections that do not say who they are cost little and do
// not last, and leave room for others.
func TestStrangers(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	var idle []net.Conn
	for range 200 {
		c, err := net.Dial("tcp", r.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	closed := 0
	for _, c := range idle {
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		var late net.Error
		if !errors.As(err, &late) || !late.Timeout() {
			closed++
		}
		if closed == 72 { // 200 - maxOfAddress
			break
		}
	}
	if closed != 72 {
		t.Errorf("%d of 200 were closed at once, want 72", closed)
	}
	for _, c := range idle {
		c.Close()
	}
	// The broker notices that they are gone; then there is room again.
	for begin := time.Now(); ; {
		if _, err := r.dial(t, greeting{tls: pi, id: "pi"}); err == nil {
			break
		}
		if time.Since(begin) > limit {
			t.Fatal("no room for a device")
		}
	}
	// A greeting has its limit, whatever it claims to be.
	c, err := net.Dial("tcp", r.PlainAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	c.Write([]byte{0x10, 0xff, 0xff, 0x0f}) // CONNECT of 256 KiB
	go c.Write(make([]byte, 64<<10))        // ends with c
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("64 KiB of greeting: %v", err)
	}
}

func TestRetained(t *testing.T) {
	r := start(t)
	pi := r.device(t, "pi")
	m := wire.Message{Topic: "covey/1/d/pi/dn/desired", Payload: []byte("rev 7"), QoS: 1, Retain: true}
	if err := r.Publish(m); err != nil {
		t.Fatal(err)
	}
	c := r.mustDial(t, greeting{tls: pi, id: "pi"})
	if !c.subscribe("covey/1/d/pi/dn/#", 1) {
		t.Fatal("refused")
	}
	typ, body, err := c.read()
	if err != nil || typ != packets.Publish || !strings.HasSuffix(string(body), "rev 7") {
		t.Fatalf("got packet %d %q, %v", typ, body, err)
	}
	if err := r.Publish(wire.Message{Topic: "x", Payload: make([]byte, wire.MaxPacket)}); err == nil {
		t.Error("a message above the limit was published")
	}
}
