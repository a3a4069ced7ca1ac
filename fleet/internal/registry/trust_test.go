package registry_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// What people have signed goes out with every document, as a blob that each device may
// fetch. What is older, or of other people, changes nothing.
func TestTrust(t *testing.T) {
	r := start(t)
	r.join(t, "pi")
	r.join(t, "gone")
	if err := r.Revoke("gone"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Trust(); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("nobody has signed: %v", err)
	}
	ours, theirs := signed(t, "birds", "cats"), signed(t, "birds")
	set, err := r.TakeTrust(t.Context(), ours[0])
	if err != nil {
		t.Fatal(err)
	}
	first := r.br.retained("pi").Signed
	if first.Trust == nil || first.Trust.Length != int64(len(ours[0])) || first.Rev != 1 {
		t.Fatalf("document %+v", first)
	}
	if b, err := r.blobs.Read(first.Trust.SHA256, first.Trust.Length); err != nil || string(b) != string(ours[0]) {
		t.Errorf("the blob: %v", err)
	}
	if d := r.br.retained("gone"); d.Signed.Rev != 0 {
		t.Errorf("a revoked device was told: %+v", d)
	}
	if _, err := r.TakeTrust(t.Context(), ours[1]); err != nil {
		t.Fatal(err)
	}
	r.db.Close()
	r.open(t)
	for name, c := range map[string]struct {
		body []byte
		code hal.Code
	}{
		"older":           {ours[0], hal.CodeRollback},
		"of other people": {theirs[0], hal.CodeSignature},
		"a web page":      {[]byte("<html>"), hal.CodeJSON},
		"nothing":         {[]byte("{}"), hal.CodeTrust},
		"long":            {[]byte(strings.Repeat(" ", trust.MaxBundle+1)), hal.CodeLength},
	} {
		if _, err := r.TakeTrust(t.Context(), c.body); hal.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	got, ref, err := r.Trust()
	if err != nil || got.First != set.First || ref.Length != int64(len(ours[1])) {
		t.Errorf("afterwards: %v, %+v, %v", got.First, ref, err)
	}
	doc, err := r.ChangeDesired("pi", func(*wire.DesiredSigned) error { return nil })
	if err != nil || doc.Trust == nil || doc.Trust.SHA256 != ref.SHA256 {
		t.Errorf("document %+v, %v", doc, err)
	}
}

// signed is a repository of one key, as it is after each release.
func signed(t *testing.T, releases ...string) (bundles [][]byte) {
	t.Helper()
	k, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	q := trust.Quorum{Keys: []ed25519.PublicKey{k.Public()}, Threshold: 1}
	repo, err := trust.Create(trust.Setup{Root: q, Releases: q, Publish: q}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range releases {
		if err := repo.Allow(trust.Target{Name: trust.TargetName(name, "1.0.0"), Length: 1, SHA256: strings.Repeat("a", 64)}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Sign(context.Background(), k, time.Now()); err != nil {
			t.Fatal(err)
		}
		b, err := repo.Bundle()
		if err != nil {
			t.Fatal(err)
		}
		bundles = append(bundles, b.Encode())
	}
	return bundles
}
