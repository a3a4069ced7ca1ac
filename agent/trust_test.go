package agent

import (
	"context"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// What the pilot's key has signed runs where the board's own configuration says so, and
// nowhere else: no controller can bring it elsewhere.
func TestVoucherPilot(t *testing.T) {
	now := time.Now()
	people, ci := someKey(t), someKey(t)
	quorum := func(k *trust.Key) trust.Quorum {
		return trust.Quorum{Keys: []ed25519.PublicKey{k.Public()}, Threshold: 1}
	}
	r, err := trust.Create(trust.Setup{Root: quorum(people), Releases: quorum(people), Publish: quorum(people)}, now)
	if err == nil {
		err = r.Delegate("ci", []string{trust.Pilot("*")}, quorum(ci), now)
	}
	digest := wire.Digest(strings.Repeat("ab", 32))
	if err == nil {
		err = r.Allow(trust.Target{Name: trust.PilotName("birds", "1.1.0"), Length: 7, SHA256: string(digest)}, now)
	}
	for _, k := range []*trust.Key{ci, people} {
		if err == nil {
			_, err = r.Sign(context.Background(), k, now)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	for channel, want := range map[string]hal.Code{"": hal.CodeSignature, PilotChannel: ""} {
		a := &agent{Config: Config{FS: blob.OS{}, TrustRoot: string(r.FirstFingerprint()), File: &File{Data: t.TempDir(), Fleet: FleetFile{Channel: channel}}}}
		v := a.voucher()
		if err := v.Learn(b.Encode(), now); err != nil {
			t.Fatal(err)
		}
		if err := v.Vouch("birds", "1.1.0", digest, 7, now); hal.CodeOf(err) != want {
			t.Errorf("channel %q: %v, want %q", channel, err, want)
		}
		if err := v.Vouch("birds", "1.1.0", wire.Digest(strings.Repeat("cd", 32)), 7, now); hal.CodeOf(err) != hal.CodeSignature {
			t.Errorf("channel %q, another release: %v", channel, err)
		}
	}
}

func someKey(t *testing.T) *trust.Key {
	t.Helper()
	k, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}
