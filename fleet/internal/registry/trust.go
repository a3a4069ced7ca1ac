package registry

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
)

// bucketTrust holds one record under keyTrust: what people have signed last.
const (
	bucketTrust = "reg.trust"
	keyTrust    = "now"
)

// A trusted record is what people have signed, and the blob that devices get it by.
// Devices verify it for themselves; here it is verified so that a mistake is noticed
// before a thousand boards notice it.
type trusted struct {
	Set  trust.Set         `json:"set"`
	Blob wire.DesiredTrust `json:"blob"`
}

// Trust is what people have signed last. ErrNotFound when nobody ever has.
func (r *Registry) Trust() (set trust.Set, ref wire.DesiredTrust, err error) {
	var t trusted
	err = r.db.View(func(tx *store.Tx) error {
		t, err = store.Get[trusted](tx, bucketTrust, keyTrust)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("signed releases: %w", ErrNotFound)
	}
	return t.Set, t.Blob, err
}

// TakeTrust takes in what people have signed, an encoded trust.Bundle, and tells every
// device. The first one says for good whose root counts. What does not verify, or is
// older than the last, is refused with trust's codes.
func (r *Registry) TakeTrust(ctx context.Context, body []byte) (trust.Set, error) {
	b, err := trust.ParseBundle(body)
	if err != nil {
		return trust.Set{}, err
	}
	r.trusting.Lock()
	defer r.trusting.Unlock()
	set, _, err := r.Trust()
	switch {
	case errors.Is(err, ErrNotFound) && len(b.Roots) > 0:
		set = trust.New(trust.FingerprintOf(b.Roots[0]))
	case err != nil && !errors.Is(err, ErrNotFound):
		return trust.Set{}, err
	}
	if set, err = set.Update(b, r.cfg.Now()); err != nil {
		return trust.Set{}, err
	}
	if r.directs(set) == OtherDirects {
		return trust.Set{}, fmt.Errorf("%w: its root names another director than this controller, and boards would obey no order of it; "+
			"run: covey trust director > director.pub && covey trust root rotate --director director.pub", ErrInvalid)
	}
	sum := sha256.Sum256(body)
	t := trusted{set, wire.DesiredTrust{SHA256: wire.Digest(hex.EncodeToString(sum[:])), Length: int64(len(body))}}
	if err := r.cfg.Blobs.Put(ctx, t.Blob.SHA256, t.Blob.Length, bytes.NewReader(body)); err != nil {
		return trust.Set{}, err
	}
	if err := r.db.Update(func(tx *store.Tx) error { return store.Put(tx, bucketTrust, keyTrust, t) }); err != nil {
		return trust.Set{}, err
	}
	// It is in every document that goes out from now on; this makes one go out.
	for _, d := range r.Select(group.All()) {
		if _, err := r.ChangeDesired(d.ID, func(*wire.DesiredSigned) error { return nil }); err != nil && !errors.Is(err, ErrNotFound) {
			return trust.Set{}, err // one that is not found was revoked meanwhile
		}
	}
	return set, nil
}

// Whose orders boards obey.
const (
	NobodyDirects = "nobody" // they take anybody's
	OtherDirects  = "other"
	ThisDirects   = "this"
)

func (r *Registry) directs(set trust.Set) string {
	ids := set.Director()
	switch {
	case len(ids) == 0:
		return NobodyDirects
	case r.cfg.Director != nil && slices.Contains(ids, trust.KeyID(r.cfg.Director.Public())):
		return ThisDirects
	}
	return OtherDirects
}

// Director is the key that signs what is wanted of devices, and whose orders boards
// obey: this controller's (this), anybody's (nobody), another's (other).
func (r *Registry) Director() (key ed25519.PublicKey, obeyed string, err error) {
	if r.cfg.Director == nil {
		return nil, "", fmt.Errorf("director: %w", ErrNotFound)
	}
	set, _, err := r.Trust()
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, "", err
	}
	return r.cfg.Director.Public(), r.directs(set), nil
}

// trustTx is what a desired document says of it, nil where nobody signs.
func (r *Registry) trustTx(tx *store.Tx) (*wire.DesiredTrust, error) {
	t, err := store.Get[trusted](tx, bucketTrust, keyTrust)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &t.Blob, err
}
