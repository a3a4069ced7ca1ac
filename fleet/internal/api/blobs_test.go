package api_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net/http"
	"testing"

	"github.com/covey-edge/covey/fleet/internal/api/apitest"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/wire"
)

// certified is an HTTP client that shows a certificate of a device which joined.
func certified(t *testing.T, f *apitest.Fleet, id wire.DeviceID) *http.Client {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(id)}}, key)
	if err != nil {
		t.Fatal(err)
	}
	e, err := f.Registry.Renew(id, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(e.Cert.PEM)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.Auth.CAPEM())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}}}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func fetch(t *testing.T, c *http.Client, url, ranges string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// A board gets the files that it is asked to have, whole and in ranges, for its
// certificate; others, the revoked and people with tokens get nothing.
func TestBlobsForBoards(t *testing.T) {
	f, c := start(t)
	f.Join(t, "pi-1", nil, "cam")
	f.Join(t, "pi-2", nil, "cam")
	file := bytes.Repeat([]byte("weights "), 30_000)
	sum := sha256.Sum256(file)
	sha := wire.Digest(hex.EncodeToString(sum[:]))
	if err := f.Blobs.Put(t.Context(), sha, int64(len(file)), bytes.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	one, two := certified(t, f, "pi-1"), certified(t, f, "pi-2")
	url := f.URL + "/v1/blobs/" + string(sha)
	if status, _ := fetch(t, one, url, ""); status != http.StatusNotFound {
		t.Errorf("before it was asked to have it: %d", status)
	}
	// What people have signed is the simplest of the files that a board is asked to have.
	_, err := f.Registry.ChangeDesired("pi-1", func(d *wire.DesiredSigned) error {
		d.Trust = &wire.DesiredTrust{SHA256: sha, Length: int64(len(file))}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		ranges string
		status int
		want   []byte
	}{
		{"", 200, file},
		{"bytes=0-65535", 206, file[:wire.BlockSize]},
		{"bytes=196608-999999", 206, file[3*wire.BlockSize:]},
		{"bytes=239999-", 206, file[239999:]},
	} {
		if status, body := fetch(t, one, url, tc.ranges); status != tc.status || !bytes.Equal(body, tc.want) {
			t.Errorf("%q: %d with %d bytes, want %d with %d", tc.ranges, status, len(body), tc.status, len(tc.want))
		}
	}
	if status, _ := fetch(t, one, url, "bytes=240000-"); status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("behind the end: %d", status)
	}
	if status, body := fetch(t, two, url, ""); status != http.StatusNotFound || bytes.Contains(body, []byte("weights")) {
		t.Errorf("another board: %d %.100s", status, body)
	}
	c.refused("GET", "/v1/blobs/"+string(sha), nil, http.StatusUnauthorized, v1.CodeUnauthorized)
	if err := f.Registry.Revoke("pi-1"); err != nil {
		t.Fatal(err)
	}
	if status, _ := fetch(t, one, url, ""); status != http.StatusUnauthorized {
		t.Errorf("revoked: %d", status)
	}
}
