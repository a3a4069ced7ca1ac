package auth_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// A rig is an authority with a clock that is set by hand.
type rig struct {
	*auth.Authority
	db   *store.Store
	path string
	mu   sync.Mutex
	now  time.Time
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) wait(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func open(t *testing.T) *rig {
	t.Helper()
	r := &rig{path: filepath.Join(t.TempDir(), "x.db"), now: time.Now()}
	var err error
	if r.db, err = store.Open(r.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.db.Close() })
	if r.Authority, err = auth.Open(r.db, auth.Config{Hosts: []string{"fleet.example.org", "192.0.2.7"}, Now: r.clock}); err != nil {
		t.Fatal(err)
	}
	return r
}

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// request is a certificate request that asks for more than it gets.
func request(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"fleet.example.org"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (r *rig) join(secret, csr string, id wire.DeviceID) (c auth.Certificate, err error) {
	err = r.db.Update(func(tx *store.Tx) (err error) {
		c, _, err = r.Join(tx, secret, csr, id)
		return err
	})
	return c, err
}

func (r *rig) token(t *testing.T, life time.Duration, uses int) string {
	t.Helper()
	_, secret, err := r.AddJoin(life, uses, nil)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func leaf(t *testing.T, c auth.Certificate) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(c.PEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestJoin(t *testing.T) {
	r := open(t)
	csr := request(t, key(t))
	secret := r.token(t, 0, 0)
	c, err := r.join(secret, csr, "pi")
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, c)
	if cert.Subject.CommonName != "pi" || len(cert.DNSNames) != 0 || cert.IsCA ||
		len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("certificate for %q, names %v, ca %v, usage %v", cert.Subject.CommonName, cert.DNSNames, cert.IsCA, cert.ExtKeyUsage)
	}
	if life := cert.NotAfter.Sub(r.clock()); life < 89*24*time.Hour || life > 90*24*time.Hour {
		t.Errorf("lives %v", life)
	}
	if id, err := r.Device(cert); id != "pi" || err != nil {
		t.Errorf("device %q, %v", id, err)
	}

	t.Run("an answer that got lost", func(t *testing.T) {
		if _, err := r.join(secret, csr, "pi"); err != nil {
			t.Error(err)
		}
	})
	t.Run("used up", func(t *testing.T) {
		if _, err := r.join(secret, request(t, key(t)), "pi2"); !errors.Is(err, auth.ErrDenied) {
			t.Error(err)
		}
	})
	t.Run("id taken", func(t *testing.T) {
		if _, err := r.join(r.token(t, 0, 0), request(t, key(t)), "pi"); !errors.Is(err, auth.ErrExists) {
			t.Error(err)
		}
	})
	t.Run("late", func(t *testing.T) {
		secret := r.token(t, 0, 0)
		r.wait(auth.JoinLife + time.Second)
		if _, err := r.join(secret, request(t, key(t)), "pi3"); !errors.Is(err, auth.ErrDenied) {
			t.Error(err)
		}
	})
	t.Run("wrong secrets", func(t *testing.T) {
		good := r.token(t, 0, 0)
		id, _, _ := strings.Cut(good, ".")
		for _, s := range []string{"", ".", id, id + ".", good + "x", good[:len(good)-1], strings.Repeat("x", 1000), "../" + good} {
			if _, err := r.join(s, request(t, key(t)), "pi4"); !errors.Is(err, auth.ErrDenied) {
				t.Errorf("secret %q: %v", s, err)
			}
		}
	})
	t.Run("bad requests", func(t *testing.T) {
		big, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		torn := []byte(csr)
		torn[len(torn)/2] ^= 2
		for name, csr := range map[string]string{
			"none": "", "text": "hello", "long": strings.Repeat("x", 10<<10), "two": csr + csr, "torn": string(torn), "rsa": request(t, big),
			"certificate": string(c.PEM),
		} {
			if _, err := r.join(r.token(t, 0, 0), csr, "pi5"); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, id := range []wire.DeviceID{"", "Pi", "pi/x", "pi~x", "#", "+", wire.DeviceID(strings.Repeat("a", 33))} {
			if _, err := r.join(r.token(t, 0, 0), request(t, key(t)), id); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("id %q: %v", id, err)
			}
		}
	})
	t.Run("a refused request uses nothing", func(t *testing.T) {
		secret := r.token(t, 0, 0)
		if _, err := r.join(secret, "nonsense", "pi6"); err == nil {
			t.Fatal("nonsense was signed")
		}
		_, ed, _ := ed25519.GenerateKey(rand.Reader)
		if _, err := r.join(secret, request(t, ed), "pi6"); err != nil {
			t.Error(err)
		}
	})
}

// TestCountedToken: of many who come at once, exactly so many get in.
func TestCountedToken(t *testing.T) {
	r := open(t)
	secret := r.token(t, time.Hour, 5)
	var wg sync.WaitGroup
	results := make(chan error, 20)
	for i := range 20 {
		csr := request(t, key(t))
		wg.Go(func() {
			_, err := r.join(secret, csr, wire.DeviceID("pi-"+string(rune('a'+i))))
			results <- err
		})
	}
	wg.Wait()
	in := 0
	for range 20 {
		if err := <-results; err == nil {
			in++
		} else if !errors.Is(err, auth.ErrDenied) {
			t.Error(err)
		}
	}
	if in != 5 {
		t.Errorf("%d got in", in)
	}
	if list, err := r.JoinTokens(); err != nil || len(list) != 0 {
		t.Errorf("tokens left: %v, %v", list, err)
	}
}

func TestRevokeAndRenew(t *testing.T) {
	r := open(t)
	c, err := r.join(r.token(t, 0, 0), request(t, key(t)), "pi")
	if err != nil {
		t.Fatal(err)
	}
	old := leaf(t, c)
	r.wait(60 * 24 * time.Hour)
	err = r.db.Update(func(tx *store.Tx) (err error) {
		c, err = r.Renew(tx, "pi", request(t, key(t)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]*x509.Certificate{"old": old, "new": leaf(t, c)} {
		if _, err := r.Device(cert); err != nil {
			t.Errorf("%s certificate: %v", name, err)
		}
	}
	r.wait(31 * 24 * time.Hour)
	if _, err := r.Device(old); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("the old certificate after its end: %v", err)
	}
	if err := r.db.Update(func(tx *store.Tx) error { return r.Revoke(tx, "pi") }); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Device(leaf(t, c)); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("revoked: %v", err)
	}
	if _, err := r.join(r.token(t, 0, 0), request(t, key(t)), "pi"); err != nil {
		t.Errorf("join again after a revocation: %v", err)
	}
}

// An authority that is made before the clock is set would end before it began.
func TestNoAuthorityWithoutTime(t *testing.T) {
	db, err := store.Open(filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Unix(100, 0)
	cfg := auth.Config{Now: func() time.Time { return now }}
	if _, err := auth.Open(db, cfg); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("in 1970: %v", err)
	}
	now = time.Now()
	if _, err := auth.Open(db, cfg); err != nil {
		t.Error(err)
	}
	now = time.Unix(100, 0) // what is there is used, whatever the clock says
	if _, err := auth.Open(db, cfg); err != nil {
		t.Error(err)
	}
}

// TestServerTLS: a client that knows only the hash of the CA finds it behind the
// server's certificate, which fits every host and is made anew in time.
func TestServerTLS(t *testing.T) {
	r := open(t)
	for _, days := range []int{0, 59, 61, 200, -320} { // at last the clock is set right
		r.wait(time.Duration(days) * 24 * time.Hour)
		for _, host := range []string{"localhost", "127.0.0.1", "fleet.example.org", "192.0.2.7"} {
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(r.CAPEM())
			a, b := net.Pipe()
			srv := tls.Server(a, r.ServerTLS())
			go srv.Handshake() // ends with the pipe
			cl := tls.Client(b, &tls.Config{RootCAs: pool, ServerName: host, Time: r.clock})
			if err := cl.Handshake(); err != nil {
				t.Errorf("after %d days, %s: %v", days, host, err)
				continue
			}
			if chain := cl.ConnectionState().PeerCertificates; len(chain) != 2 || !chain[1].IsCA {
				t.Errorf("the server sent %d certificates", len(chain))
			}
			a.Close()
			b.Close()
		}
	}
}

func TestTokensAndHomes(t *testing.T) {
	r := open(t)
	dir := t.TempDir()
	save := func(token string) error { return os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600) }
	if made, err := r.Admin(func(string) error { return errors.New("disk full") }); made || err == nil {
		t.Errorf("a token that could not be saved: %v, %v", made, err)
	}
	if made, err := r.Admin(save); !made || err != nil {
		t.Fatalf("made %v, %v", made, err)
	}
	if made, err := r.Admin(func(string) error { t.Error("saved again"); return nil }); made || err != nil {
		t.Errorf("made again: %v, %v", made, err)
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Bearer(string(token)); err != nil || p.Role != auth.RoleAdmin {
		t.Errorf("admin: %v, %v", p, err)
	}
	look, err := r.AddToken("ci", auth.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.AddToken("ci", auth.RoleAdmin); !errors.Is(err, auth.ErrExists) {
		t.Error(err)
	}
	if _, err := r.AddToken("x", "god"); !errors.Is(err, auth.ErrInvalid) {
		t.Error(err)
	}
	p, err := r.Bearer(look)
	if err != nil || p.Name != "ci" || p.Role != auth.RoleViewer {
		t.Errorf("viewer: %v, %v", p, err)
	}
	if !p.Role.Covers(auth.RoleViewer) || p.Role.Covers(auth.RoleOperator) || auth.Role("").Covers("") {
		t.Error("roles cover the wrong ones")
	}
	if err := r.RemoveToken("ci"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", look, string(token) + "x", strings.Repeat("x", 1000)} {
		if _, err := r.Bearer(bad); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}

	pw, err := r.AddHome("ha")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Home("ha", pw); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{{"ha", ""}, {"ha", pw + "x"}, {"hb", pw}, {"", pw}, {"", ""}} {
		if err := r.Home(bad[0], bad[1]); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := r.RemoveHome("ha"); err != nil {
		t.Error(err)
	}
	if err := r.Home("ha", pw); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("removed: %v", err)
	}

	// Of all these secrets, none lies in the file.
	if err := r.db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{string(token), look, pw} {
		if strings.Contains(string(file), secret) {
			t.Error("a secret is stored")
		}
	}
	r.db, err = store.Open(r.path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := auth.Open(r.db, auth.Config{})
	if err != nil || again.CAHash() != r.CAHash() {
		t.Errorf("another CA after a restart: %v", err)
	}
}

// FuzzJoin: whatever comes as a secret nobody gets in by, and whatever comes as
// a request breaks nothing.
func FuzzJoin(f *testing.F) {
	db, err := store.Open(filepath.Join(f.TempDir(), "x.db"))
	if err != nil {
		f.Fatal(err)
	}
	a, err := auth.Open(db, auth.Config{})
	if err != nil {
		f.Fatal(err)
	}
	_, good, err := a.AddJoin(time.Hour, 1, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("jt-x.y", "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n", "pi")
	f.Fuzz(func(t *testing.T, secret, csr, id string) {
		join := func(secret string) error {
			return db.View(func(tx *store.Tx) error { // which cannot write: nobody really joins
				_, _, err := a.Join(tx, secret, csr, wire.DeviceID(id))
				return err
			})
		}
		if err := join(secret); !errors.Is(err, auth.ErrDenied) {
			t.Fatalf("%q: %v", secret, err)
		}
		if err := join(good); err == nil {
			t.Fatal("signed without a write")
		}
	})
}
