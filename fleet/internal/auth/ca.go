package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 90 * 24 * time.Hour
	deviceLife = 90 * 24 * time.Hour
	// early is how far back certificates begin: boards have no clock that runs
	// while they are off, and come up with the time they went down at.
	early = 90 * 24 * time.Hour
)

// A ca signs. Its key never leaves this package.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	server *tls.Certificate // this controller's own, made anew before it ends
}

type caRecord struct {
	Cert []byte `json:"cert"` // DER
	Key  []byte `json:"key"`  // PKCS #8
}

func openCA(db *store.Store, now time.Time) (*ca, error) {
	var r caRecord
	err := db.Update(func(tx *store.Tx) (err error) {
		if r, err = store.Get[caRecord](tx, bucketCA, "ca"); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if r, err = makeCA(now); err != nil {
			return err
		}
		return store.Put(tx, bucketCA, "ca", r)
	})
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(r.Cert)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(r.Key)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("stored key is a %T", key)
	}
	return &ca{cert: cert, key: ec}, nil
}

func makeCA(now time.Time) (r caRecord, err error) {
	if now.Year() < 2024 {
		return r, fmt.Errorf("the clock says %s: set it first, or wait until it is set", now.Format(time.DateOnly))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return r, err
	}
	t := template("Covey fleet CA", now, caLife)
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if r.Cert, err = x509.CreateCertificate(rand.Reader, t, t, key.Public(), key); err != nil {
		return r, err
	}
	r.Key, err = x509.MarshalPKCS8PrivateKey(key)
	return r, err
}

func template(name string, now time.Time, life time.Duration) *x509.Certificate {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails: crypto/rand
	serial[0] &= 0x7f // positive
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-early).UTC(),
		NotAfter:     now.Add(life).UTC().Truncate(time.Second),
	}
}

// CAPEM is the CA's certificate, what a client of this controller trusts.
func (a *Authority) CAPEM() []byte { return encodePEM(a.ca.cert.Raw) }

// CAHash is the SHA-256 of the CA's certificate (DER) in hex, what a join token
// pins.
func (a *Authority) CAHash() string {
	sum := sha256.Sum256(a.ca.cert.Raw)
	return hex.EncodeToString(sum[:])
}

func encodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ServerTLS is the configuration of every listener: this controller's own
// certificate with the CA behind it, so that a client which knows only the CA's
// hash finds it, and client certificates of devices verified when they are sent.
func (a *Authority) ServerTLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca.cert)
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      pool,
		Time:           a.cfg.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.serverCert() },
	}
}

// serverCert is the current certificate of this controller. It is made at the
// first handshake, and again when a third of its life is left; devices pin the
// CA, so nobody notices.
func (a *Authority) serverCert() (*tls.Certificate, error) {
	now := a.cfg.Now()
	a.ca.mu.Lock()
	defer a.ca.mu.Unlock()
	// One that was made before the clock was set right may begin in the future.
	if c := a.ca.server; c != nil && now.After(c.Leaf.NotBefore) && now.Before(c.Leaf.NotAfter.Add(-serverLife/3)) {
		return c, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("covey-fleet", now, serverLife)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, host := range append([]string{"localhost", "127.0.0.1", "::1"}, a.cfg.Hosts...) {
		if ip := net.ParseIP(host); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.ca.cert, key.Public(), a.ca.key)
	if err != nil {
		return nil, fmt.Errorf("server certificate for %q: %w", a.cfg.Hosts, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a.ca.server = &tls.Certificate{Certificate: [][]byte{der, a.ca.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return a.ca.server, nil
}

// A Certificate is what a device got.
type Certificate struct {
	PEM     []byte // the device's, and the CA's behind it
	Serial  string // hex
	Expires time.Time
}

// certRecord allows one certificate. What is not on this list is not let in, so
// that a device that was revoked or is not known at all need not be on another.
type certRecord struct {
	Expires time.Time `json:"expires"`
	Key     string    `json:"key"` // SHA-256 of the public key
}

// certKey is a record's key. No id has a slash, so a device's records are those
// behind its id and one.
func certKey(id wire.DeviceID, serial string) string { return string(id) + "/" + serial }

// sign makes a client certificate for the key of a request that was checked.
func (a *Authority) sign(tx *store.Tx, csr *x509.CertificateRequest, id wire.DeviceID) (c Certificate, err error) {
	t := template(string(id), a.cfg.Now(), deviceLife)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, a.ca.cert, csr.PublicKey, a.ca.key)
	if err != nil {
		return c, fmt.Errorf("sign certificate of %s: %w", id, err)
	}
	c = Certificate{
		PEM:     append(encodePEM(der), a.CAPEM()...),
		Serial:  t.SerialNumber.Text(16),
		Expires: t.NotAfter,
	}
	return c, store.Put(tx, bucketCert, certKey(id, c.Serial), certRecord{c.Expires, keyHash(csr)})
}

func keyHash(csr *x509.CertificateRequest) string {
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Device says which device a verified client certificate belongs to: ErrDenied
// when it was revoked, or was not issued here for a device.
func (a *Authority) Device(cert *x509.Certificate) (wire.DeviceID, error) {
	id := wire.DeviceID(cert.Subject.CommonName)
	if !wire.ValidID(string(id)) {
		return "", fmt.Errorf("certificate of %q: %w: no device id", id, ErrDenied)
	}
	err := a.db.View(func(tx *store.Tx) error {
		_, err := store.Get[certRecord](tx, bucketCert, certKey(id, cert.SerialNumber.Text(16)))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return "", fmt.Errorf("certificate of %q: %w: revoked or not issued here; join again with a new token", id, ErrDenied)
	}
	if err != nil {
		return "", err
	}
	if now := a.cfg.Now(); now.After(cert.NotAfter) {
		return "", fmt.Errorf("certificate of %q: %w: ended %s", id, ErrDenied, cert.NotAfter.Format(time.RFC3339))
	}
	return id, nil
}

// Revoke takes back every certificate of a device, in the caller's transaction.
// The caller kicks its connections afterwards.
func (a *Authority) Revoke(tx *store.Tx, id wire.DeviceID) error {
	return dropCerts(tx, id, func(certRecord) bool { return true })
}

// dropCerts deletes the records of a device's certificates that drop says yes to.
func dropCerts(tx *store.Tx, id wire.DeviceID, drop func(certRecord) bool) error {
	var gone []string
	err := store.Each(tx, bucketCert, certKey(id, ""), func(key string, r certRecord) error {
		if drop(r) {
			gone = append(gone, key)
		}
		return nil
	})
	for _, key := range gone {
		err = errors.Join(err, store.Delete(tx, bucketCert, key))
	}
	return err
}
