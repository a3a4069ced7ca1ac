package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

const (
	// JoinLife and JoinUses are a join token's defaults.
	JoinLife = 10 * time.Minute
	JoinUses = 1
	// MaxJoinLife and MaxJoinUses bound what a factory may ask for.
	MaxJoinLife = 365 * 24 * time.Hour
	MaxJoinUses = 100_000
	// maxCSR is the longest certificate request that is read, bytes of PEM.
	maxCSR = 8 << 10
)

// A JoinToken lets devices in: so many, for so long.
type JoinToken struct {
	ID      string            `json:"id"`
	Created time.Time         `json:"created"`
	Expires time.Time         `json:"expires"`
	Uses    int               `json:"uses"` // how many devices may join
	Used    int               `json:"used"`
	Labels  map[string]string `json:"labels,omitempty"` // given to every device that joins by it
}

type joinRecord struct {
	JoinToken
	Hash string `json:"hash"`
}

// AddJoin makes a join token; zero life or uses are the defaults. The secret is
// shown this once: JoinText makes of it what a person copies.
func (a *Authority) AddJoin(life time.Duration, uses int, labels map[string]string) (t JoinToken, secret string, err error) {
	if life == 0 {
		life = JoinLife
	}
	if uses == 0 {
		uses = JoinUses
	}
	if life < 0 || life > MaxJoinLife || uses < 0 || uses > MaxJoinUses {
		return t, "", fmt.Errorf("join token for %d devices and %s: %w: at most %d devices and %s", uses, life, ErrInvalid, MaxJoinUses, MaxJoinLife)
	}
	now := a.cfg.Now().UTC()
	t = JoinToken{ID: wire.NewID("jt"), Created: now, Expires: now.Add(life), Uses: uses, Labels: labels}
	random := newSecret()
	err = a.db.Update(func(tx *store.Tx) error {
		return store.Put(tx, bucketJoin, t.ID, joinRecord{t, hash(random)})
	})
	// The id in front finds the record, so that one hash is compared, not all.
	return t, t.ID + "." + random, err
}

// JoinTokens lists join tokens that can still be used; those that cannot are
// deleted on the way.
func (a *Authority) JoinTokens() (list []JoinToken, err error) {
	now := a.cfg.Now()
	err = a.db.Update(func(tx *store.Tx) error {
		var gone []string
		err := store.Each(tx, bucketJoin, "", func(id string, r joinRecord) error {
			if now.After(r.Expires) {
				gone = append(gone, id)
			} else if r.Used < r.Uses {
				list = append(list, r.JoinToken)
			}
			return nil
		})
		for _, id := range gone {
			err = errors.Join(err, store.Delete(tx, bucketJoin, id))
		}
		return err
	})
	return list, err
}

// RemoveJoin ends a join token; store.ErrNotFound when there is none.
func (a *Authority) RemoveJoin(id string) error { return a.remove(bucketJoin, id) }

// JoinText is what a person copies to a board: the controller's URL, the hash of
// its CA and the secret.
func (a *Authority) JoinText(url, secret string) string {
	return wire.JoinToken{URL: url, CA: a.CAHash(), Secret: secret}.Encode()
}

// Join checks a secret and a certificate request and signs it, in the caller's
// transaction: what the caller does with the new device stands or falls with
// the use of the token. It returns the token's labels for the device.
//
// The id must be free, or hold the same key: a device whose answer got lost asks
// again with the same token and key, and gets another certificate without
// another use. ErrDenied, ErrExists, ErrInvalid.
func (a *Authority) Join(tx *store.Tx, secret, csrPEM string, id wire.DeviceID) (c Certificate, t JoinToken, err error) {
	r, err := a.findJoin(tx, secret)
	if err != nil {
		return c, t, err
	}
	csr, err := parseCSR(csrPEM)
	if err != nil {
		return c, t, err
	}
	if !wire.ValidID(string(id)) {
		return c, t, fmt.Errorf("device id %q: %w: use [a-z0-9-]{1,32}", id, ErrInvalid)
	}
	again, err := a.holds(tx, id, keyHash(csr))
	if err != nil {
		return c, t, err
	}
	if !again {
		if r.Used >= r.Uses {
			return c, t, fmt.Errorf("join token: %w: used up; make a new one with `covey device token`", ErrDenied)
		}
		r.Used++
		if err := store.Put(tx, bucketJoin, r.ID, r); err != nil {
			return c, t, err
		}
	}
	c, err = a.sign(tx, csr, id)
	return c, r.JoinToken, err
}

// findJoin finds the token of a secret, "<id>.<random>".
func (a *Authority) findJoin(tx *store.Tx, secret string) (r joinRecord, err error) {
	denied := fmt.Errorf("join token: %w: not known, ended or used up; make a new one with `covey device token`", ErrDenied)
	if len(secret) > 128 {
		return r, denied
	}
	id, random, _ := strings.Cut(secret, ".")
	r, err = store.Get[joinRecord](tx, bucketJoin, id)
	if errors.Is(err, store.ErrNotFound) {
		return r, denied
	}
	if err != nil {
		return r, err
	}
	if !same(random, r.Hash) || a.cfg.Now().After(r.Expires) {
		return r, denied
	}
	return r, nil
}

// holds says whether a device holds a certificate for this very key. A device
// with another key is ErrExists.
func (a *Authority) holds(tx *store.Tx, id wire.DeviceID, key string) (held bool, err error) {
	taken := false
	err = store.Each(tx, bucketCert, certKey(id, ""), func(_ string, r certRecord) error {
		taken = true
		held = held || subtle.ConstantTimeCompare([]byte(r.Key), []byte(key)) == 1
		return nil
	})
	if err == nil && taken && !held {
		err = fmt.Errorf("device %q: %w: choose another id, or revoke that device first with `covey device revoke %s`", id, ErrExists, id)
	}
	return held, err
}

// Renew signs a new certificate for a device that showed its current one, in
// the caller's transaction. The old one stays good until it ends, so that a lost
// answer locks nobody out.
func (a *Authority) Renew(tx *store.Tx, id wire.DeviceID, csrPEM string) (c Certificate, err error) {
	csr, err := parseCSR(csrPEM)
	if err != nil {
		return c, err
	}
	now := a.cfg.Now()
	err = dropCerts(tx, id, func(r certRecord) bool { return now.After(r.Expires) })
	if err != nil {
		return c, err
	}
	return a.sign(tx, csr, id)
}

// parseCSR reads a certificate request. Of what it asks for only the key
// counts; its signature proves that whoever asks holds it.
func parseCSR(text string) (*x509.CertificateRequest, error) {
	if len(text) > maxCSR {
		return nil, fmt.Errorf("certificate request: %w: longer than %d bytes", ErrInvalid, maxCSR)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 2 {
		return nil, fmt.Errorf("certificate request: %w: not one PEM block", ErrInvalid)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w: %w", ErrInvalid, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w: %w", ErrInvalid, err)
	}
	switch key := csr.PublicKey.(type) {
	case ed25519.PublicKey:
		return csr, nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return csr, nil
		}
	}
	return nil, fmt.Errorf("certificate request: %w: the key must be Ed25519 or ECDSA P-256", ErrInvalid)
}
