package registry_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
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

// Once people sign, what goes out is signed by the director, until a day, and signed
// anew before that.
func TestDirector(t *testing.T) {
	k, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))) // a bubble begins in 2000
		r := start(t)
		r.db.Close()
		r.director = k
		r.open(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		defer func() { cancel(); <-done }()
		r.join(t, "pi")
		r.join(t, "po")
		same := func(*wire.DesiredSigned) error { return nil }
		if _, err := r.ChangeDesired("pi", same); err != nil {
			t.Fatal(err)
		}
		if d := r.br.retained("pi"); len(d.Signatures) != 0 || !d.Signed.Expires.IsZero() {
			t.Errorf("nobody signs, and the document is %+v", d)
		}
		other, err := trust.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.TakeTrust(t.Context(), directed(t, other)); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("a root that names another director: %v", err)
		}
		body := directed(t, k)
		set, err := r.TakeTrust(t.Context(), body)
		if err != nil {
			t.Fatal(err)
		}
		document := func(id wire.DeviceID) wire.DesiredSigned {
			t.Helper()
			r.br.mu.Lock()
			payload := r.br.kept["covey/1/d/"+string(id)+"/dn/desired"]
			r.br.mu.Unlock()
			signed, err := set.VerifyDirected(payload)
			if err != nil {
				t.Fatal(err)
			}
			var d wire.DesiredSigned
			if err := json.Unmarshal(signed, &d); err != nil || len(payload) > wire.MaxDesired {
				t.Fatal(err)
			}
			return d
		}
		first, second := document("pi"), document("po")
		if left := time.Until(first.Expires); first.Rev != 2 || left < 29*24*time.Hour || left > 41*24*time.Hour || first.Expires.Equal(second.Expires) {
			t.Errorf("documents %+v, %+v", first, second)
		}
		if _, obeyed, err := r.Director(); obeyed != "this" || err != nil {
			t.Errorf("they obey %s, %v", obeyed, err)
		}
		for range 60 {
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			for _, id := range []wire.DeviceID{"pi", "po"} {
				if d := document(id); time.Until(d.Expires) < 14*24*time.Hour {
					t.Fatalf("%s's document of rev %d is good for %v", id, d.Rev, time.Until(d.Expires))
				}
			}
		}
		if d := document("pi"); d.Rev > first.Rev+4 {
			t.Errorf("rev %d: signed anew too often", d.Rev)
		}
	})
}

// directed is a repository whose root names a director.
func directed(t *testing.T, director *trust.Key) []byte {
	t.Helper()
	k, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	q := trust.Quorum{Keys: []ed25519.PublicKey{k.Public()}, Threshold: 1}
	repo, err := trust.Create(trust.Setup{Root: q, Releases: q, Publish: q, Director: director.Public()}, time.Now())
	if err == nil {
		_, err = repo.Sign(context.Background(), k, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := repo.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	return b.Encode()
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
