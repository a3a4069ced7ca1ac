package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// TrustPath is the file below an agent's data folder that holds what people have
// signed last.
func TrustPath(data string) string { return filepath.Join(data, "trust.json") }

// voucher is for a board that was told who signs when it joined; nil for others.
func (a *agent) voucher() *voucher {
	if a.TrustRoot == "" {
		return nil
	}
	v := &voucher{store: trust.Store{FS: a.FS, Path: TrustPath(a.File.Data)}, pilot: a.File.Fleet.Channel == PilotChannel}
	set, damage, err := v.store.Load(trust.Fingerprint(a.TrustRoot))
	if err != nil { // what runs goes on; nothing new is installed until the fleet has sent it again
		set, damage = trust.New(trust.Fingerprint(a.TrustRoot)), err
	}
	if damage != nil {
		a.Log.Error().Err(damage).Msg("what was signed is damaged on the disk; the fleet sends it again")
	}
	v.set = set
	return v
}

// A voucher is an update.Voucher that remembers on the board's disk.
type voucher struct {
	store trust.Store
	pilot bool // what the pilot's keys have signed counts here, too

	mu   sync.Mutex // guards set, and its file
	set  trust.Set
	last wire.Digest // of the bundle it came from, since the start
}

// Learn verifies a bundle, and keeps it before it counts.
func (v *voucher) Learn(bundle []byte, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	b, err := trust.ParseBundle(bundle)
	if err != nil {
		return err
	}
	next, err := v.set.Update(b, now)
	if err != nil {
		return err
	}
	if err := v.store.Save(next); err != nil {
		return err
	}
	sum := sha256.Sum256(bundle)
	v.set, v.last = next, wire.Digest(hex.EncodeToString(sum[:]))
	return nil
}

// directed is a desired document that the director has signed, as far as the root asks
// for that. Codes: E_SIGNATURE, E_JSON.
func (v *voucher) directed(document []byte) (*wire.Desired, error) {
	v.mu.Lock()
	set := v.set
	v.mu.Unlock()
	if set.Root != nil && set.Director() == nil {
		return wire.Parse[wire.Desired](document, wire.MaxDesired)
	}
	signed, err := set.VerifyDirected(document)
	if err != nil {
		return nil, err
	}
	// What was verified, and not what the document may say elsewhere.
	return wire.Parse[wire.Desired](slices.Concat([]byte(`{"signatures":[],"signed":`), signed, []byte("}")), wire.MaxDesired)
}

// knows says whether a bundle was the last that was learnt.
func (v *voucher) knows(bundle wire.Digest) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last == bundle
}

// Vouch asks for the release by name, and wants its digest.
func (v *voucher) Vouch(name, version string, digest wire.Digest, length int64, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	t, err := v.find(name, version, now)
	if err != nil {
		return err
	}
	if t.SHA256 != string(digest) || t.Length != length {
		return &hal.Error{Code: hal.CodeSignature, Text: t.Name + ": another release was signed by that name: " + wire.Digest(t.SHA256).Short()}
	}
	return nil
}

// find is the target that counts on this board. Only its own configuration, which no
// controller can write, lets the pilot's keys in.
func (v *voucher) find(name, version string, now time.Time) (trust.Target, error) {
	if v.pilot {
		return v.set.FindPilot(name, version, now)
	}
	return v.set.Find(trust.TargetName(name, version), now)
}
