package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A controller signs what it is asked to, as the real one does.
type controller struct {
	*httptest.Server
	t    *testing.T
	key  *ecdsa.PrivateKey
	ca   *x509.Certificate
	name string // CN to sign instead of the wanted one
	asks []string
}

func newController(t *testing.T) *controller {
	c := &controller{t: t}
	c.key, c.ca = authority(t)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := c.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &leafKey.PublicKey)
	pool := x509.NewCertPool()
	pool.AddCert(c.ca)
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	c.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf, c.ca.Raw}, PrivateKey: leafKey}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

func authority(t *testing.T) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, ca
}

func (c *controller) sign(tmpl *x509.Certificate, pub any) []byte {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.ca, pub, c.key)
	if err != nil {
		c.t.Error(err)
	}
	return der
}

func (c *controller) serve(w http.ResponseWriter, r *http.Request) {
	who := r.Header.Get("Authorization")
	if len(r.TLS.PeerCertificates) > 0 {
		who = "CN " + r.TLS.PeerCertificates[0].Subject.CommonName
	}
	c.asks = append(c.asks, r.URL.Path+" "+who)
	if who == "Bearer used" {
		w.WriteHeader(http.StatusForbidden)
		json.NewEncoder(w).Encode(map[string]string{"detail": "this token was used; make a new one"})
		return
	}
	var req wire.EnrolRequest
	json.NewDecoder(r.Body).Decode(&req)
	block, _ := pem.Decode([]byte(req.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		c.t.Error("csr does not hold", err)
	}
	name := csr.Subject.CommonName
	if c.name != "" {
		name = c.name
	}
	leaf := c.sign(&x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-30 * time.Minute), NotAfter: time.Now().Add(60 * time.Minute),
	}, csr.PublicKey)
	json.NewEncoder(w).Encode(wire.EnrolResponse{
		ID: req.ID, Cert: pemText("CERTIFICATE", leaf), CA: pemText("CERTIFICATE", c.ca.Raw), MQTT: "mqtts://127.0.0.1:8883", Root: "covey",
	})
}

func (c *controller) token(secret string) wire.JoinToken {
	sum := sha256.Sum256(c.ca.Raw)
	return wire.JoinToken{URL: c.URL, CA: hex.EncodeToString(sum[:]), Secret: secret}
}

// A board without a battery wakes up in the past, and connects all the same.
func TestClockIsNotSet(t *testing.T) {
	id, err := Join(t.Context(), newController(t).token("s3cret"), "pi-1")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // it is the year 2000 in there
		conf, err := id.TLS()
		if err != nil {
			t.Fatal(err)
		}
		if from, until := id.Validity(); conf.Time().Before(from) || conf.Time().After(until) {
			t.Errorf("certificates are looked at as of %v, ours is of %v", conf.Time(), from)
		}
	})
}

func TestJoinStoreRenew(t *testing.T) {
	c := newController(t)
	id, err := Join(t.Context(), c.token("s3cret"), "pi-1")
	if err != nil {
		t.Fatal(err)
	}
	id, err = Parse(id.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if got := time.Until(id.RenewAt()); got < 29*time.Minute || got > 31*time.Minute {
		t.Errorf("renew in %v, want two thirds of 90 minutes that began 30 minutes ago", got)
	}
	id.TrustRoot = strings.Repeat("a", 64) // as it was told when it joined
	next, err := id.Renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if next.TrustRoot != id.TrustRoot {
		t.Errorf("renewal made %q of who signs releases", next.TrustRoot)
	}
	if next.Key == id.Key {
		t.Error("renewal kept the old key")
	}
	want := []string{"/v1/enrol Bearer s3cret", "/v1/renew CN pi-1"}
	if strings.Join(c.asks, ",") != strings.Join(want, ",") {
		t.Errorf("asked %q, want %q", c.asks, want)
	}
}

func TestJoinRefusals(t *testing.T) {
	tests := []struct {
		name   string
		change func(*controller, *wire.JoinToken)
		want   string
	}{
		{"another CA", func(c *controller, j *wire.JoinToken) { j.CA = strings.Repeat("0", 64) }, "not the controller that the token names"},
		{"used token", func(c *controller, j *wire.JoinToken) { j.Secret = "used" }, "this token was used; make a new one"},
		{"certificate of another", func(c *controller, j *wire.JoinToken) { c.name = "pi-2" }, `certificate for "pi-2", not for "pi-1"`},
		{"another host", func(c *controller, j *wire.JoinToken) {
			j.URL = strings.Replace(j.URL, "127.0.0.1", "localhost", 1)
		}, "not the controller that the token names"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newController(t)
			j := c.token("s3cret")
			tt.change(c, &j)
			_, err := Join(t.Context(), j, "pi-1")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error gives the secret away: %v", err)
			}
		})
	}
}

// The secret goes to nobody but the controller that the token names.
func TestSecretStaysHome(t *testing.T) {
	c := newController(t)
	j := c.token("s3cret")
	j.CA = strings.Repeat("0", 64)
	Join(context.Background(), j, "pi-1")
	if len(c.asks) != 0 {
		t.Errorf("a stranger was asked: %q", c.asks)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "{}", `{"cert":"x","key":"y"}`, strings.Repeat(" ", maxSize+1)} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("Parse(%.20q) took it", text)
		}
	}
}
