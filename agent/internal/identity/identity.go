// Package identity is who a board is to its controller: a key that never leaves
// it, the certificate it was given for it, and the address of the broker. It
// joins by a token and renews in time. It talks to the controller's REST API
// over HTTPS and touches nothing else but what its caller writes down.
package identity

import (
	"bytes"
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
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// Limit of a stored identity and of an answer, bytes.
const maxSize = 64 << 10

// An Identity is stored as one JSON file, readable by the agent alone.
type Identity struct {
	URL string `json:"url"` // https://host:port of the controller's REST API
	Key string `json:"key"` // PEM, PKCS#8
	wire.EnrolResponse
}

// Parse reads a stored identity.
func Parse(b []byte) (*Identity, error) {
	if len(b) > maxSize {
		return nil, fmt.Errorf("identity has %d bytes, limit %d", len(b), maxSize)
	}
	var i Identity
	if err := json.Unmarshal(b, &i); err != nil {
		return nil, fmt.Errorf("identity is damaged: %w; join again with `covey-agent join`", err)
	}
	if _, err := i.certificate(); err != nil {
		return nil, err
	}
	return &i, nil
}

// Encode is what Parse reads. It holds the key: write it with mode 0600.
func (i *Identity) Encode() []byte {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		panic(err) // strings only
	}
	return append(b, '\n')
}

func (i *Identity) certificate() (tls.Certificate, error) {
	c, err := tls.X509KeyPair([]byte(i.Cert), []byte(i.Key))
	if err != nil {
		return c, fmt.Errorf("identity holds no usable certificate: %w; join again with `covey-agent join`", err)
	}
	return c, nil
}

// Validity is the time the certificate is good for.
func (i *Identity) Validity() (from, until time.Time) {
	c, err := i.certificate()
	if err != nil {
		return time.Time{}, time.Time{}
	}
	return c.Leaf.NotBefore, c.Leaf.NotAfter
}

// RenewAt is the moment to renew: two thirds of the certificate's life.
func (i *Identity) RenewAt() time.Time {
	from, until := i.Validity()
	return from.Add(until.Sub(from) / 3 * 2)
}

// TLS is a fresh client configuration: this certificate, that CA and no other.
// A clock that is before the certificate was made, as a Pi's that wakes up in
// 1970, does not count.
func (i *Identity) TLS() (*tls.Config, error) {
	c, err := i.certificate()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(i.CA)) {
		return nil, errors.New("identity holds no CA certificate; join again with `covey-agent join`")
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{c},
		RootCAs:      roots,
		Time: func() time.Time {
			if now := time.Now(); now.After(c.Leaf.NotBefore) {
				return now
			}
			return c.Leaf.NotBefore
		},
	}, nil
}

// Join enrols a board under the id it wants. The controller is known by the
// hash of its CA in the token, so nothing in between can take its place.
func Join(ctx context.Context, t wire.JoinToken, id wire.DeviceID) (*Identity, error) {
	key, csr, err := request(id)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: pinned(t), Proxy: http.ProxyFromEnvironment},
	}
	defer client.CloseIdleConnections()
	r, err := post(ctx, client, t.URL+"/v1/enrol", t.Secret, wire.EnrolRequest{ID: id, CSR: csr})
	if err != nil {
		return nil, err
	}
	if got := fingerprint(r.CA); got != t.CA {
		return nil, errors.New("the controller sent another CA than the token names; make a new token")
	}
	return checked(&Identity{URL: t.URL, Key: key, EnrolResponse: *r})
}

// Renew asks for a new certificate, for a new key, with the present one as proof.
func (i *Identity) Renew(ctx context.Context) (*Identity, error) {
	conf, err := i.TLS()
	if err != nil {
		return nil, err
	}
	key, csr, err := request(i.ID)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: conf, Proxy: http.ProxyFromEnvironment},
	}
	defer client.CloseIdleConnections()
	r, err := post(ctx, client, i.URL+"/v1/renew", "", wire.EnrolRequest{ID: i.ID, CSR: csr})
	if err != nil {
		return nil, err
	}
	r.TrustRoot = i.TrustRoot // who signs releases is not for the controller to change
	return checked(&Identity{URL: i.URL, Key: key, EnrolResponse: *r})
}

// request makes a key and a CSR for it, both PEM.
func request(id wire.DeviceID) (key, csr string, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", "", fmt.Errorf("encode the key: %w", err)
	}
	req, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(id)}}, k)
	if err != nil {
		return "", "", fmt.Errorf("make a certificate request: %w", err)
	}
	return pemText("PRIVATE KEY", der), pemText("CERTIFICATE REQUEST", req), nil
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pinned trusts exactly the CA whose hash the token names. Go's own check is
// off because it knows only CAs given beforehand; ours does the same with the CA
// that the controller sends, after comparing its hash.
func pinned(t wire.JoinToken) *tls.Config {
	u, _ := url.Parse(t.URL) // ParseJoinToken has read it
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			roots := x509.NewCertPool()
			for _, c := range s.PeerCertificates {
				if sum := sha256.Sum256(c.Raw); hex.EncodeToString(sum[:]) == t.CA {
					roots.AddCert(c)
				}
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: u.Hostname()})
			if err != nil {
				return fmt.Errorf("this is not the controller that the token names: %w", err)
			}
			return nil
		},
	}
}

func post(ctx context.Context, c *http.Client, to, bearer string, body wire.EnrolRequest) (*wire.EnrolResponse, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the controller: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxSize))
	if err != nil {
		return nil, fmt.Errorf("read the controller's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, refusal(resp.Status, answer)
	}
	return wire.Parse[wire.EnrolResponse](answer, maxSize)
}

// refusal is the controller's own words, where it gave some.
func refusal(status string, answer []byte) error {
	var p struct{ Detail string }
	if json.Unmarshal(answer, &p) == nil && p.Detail != "" {
		return fmt.Errorf("the controller refused (%s): %s", status, p.Detail)
	}
	return fmt.Errorf("the controller refused (%s)", status)
}

// checked makes sure that key, certificate and CA belong together.
func checked(i *Identity) (*Identity, error) {
	c, err := i.certificate()
	if err != nil {
		return nil, err
	}
	if c.Leaf.Subject.CommonName != string(i.ID) {
		return nil, fmt.Errorf("the controller sent a certificate for %q, not for %q", c.Leaf.Subject.CommonName, i.ID)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(i.CA))
	opts := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: c.Leaf.NotBefore}
	if _, err := c.Leaf.Verify(opts); err != nil {
		return nil, fmt.Errorf("the certificate is not of the controller's CA: %w", err)
	}
	return i, nil
}

// fingerprint is the SHA-256 of the first certificate in a PEM text.
func fingerprint(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}
