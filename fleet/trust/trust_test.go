package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/hal"
)

var day0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// A fleet is its signers and their repository.
type fleet struct {
	t        *testing.T
	root     [3]*Key // two of three
	releases [3]*Key // two of three
	publish  *Key
	director *Key
	r        *Repository
}

func key(t *testing.T) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public(keys ...*Key) (list []ed25519.PublicKey) {
	for _, k := range keys {
		list = append(list, k.Public())
	}
	return list
}

func (f *fleet) setup() Setup {
	return Setup{Root: Quorum{public(f.root[:]...), 2}, Releases: Quorum{public(f.releases[:]...), 2},
		Publish: Quorum{public(f.publish), 1}, Director: f.director.Public()}
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, publish: key(t), director: key(t)}
	for i := range 3 {
		f.root[i], f.releases[i] = key(t), key(t)
	}
	var err error
	if f.r, err = Create(f.setup(), day0); err != nil {
		t.Fatal(err)
	}
	return f
}

// release is the target of a release whose digest is n again and again.
func release(name, version string, n int) Target {
	return Target{Name: TargetName(name, version), Length: int64(1000 + n), SHA256: strings.Repeat(fmt.Sprintf("%02x", n), 32)}
}

func (f *fleet) allow(t Target, now time.Time) {
	f.t.Helper()
	if err := f.r.Allow(t, now); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) sign(now time.Time, keys ...Signer) {
	f.t.Helper()
	for _, k := range keys {
		if _, err := f.r.Sign(context.Background(), k, now); err != nil {
			f.t.Fatal(err)
		}
	}
}

// signAll is by enough of all.
func (f *fleet) signAll(now time.Time) Bundle {
	f.t.Helper()
	f.sign(now, f.root[0], f.root[1], f.releases[0], f.releases[1], f.publish)
	return f.bundle()
}

func (f *fleet) bundle() Bundle {
	f.t.Helper()
	b, err := f.r.Bundle()
	if err != nil {
		f.t.Fatal(err)
	}
	// As it travels.
	if b, err = ParseBundle(b.Encode()); err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *fleet) device() Set { return New(f.r.FirstFingerprint()) }

func must(t *testing.T, s Set, b Bundle, now time.Time) Set {
	t.Helper()
	next, err := s.Update(b, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Intact(); err != nil {
		t.Fatal(err)
	}
	return next
}

// wantRefused checks that a bundle is refused with a code and changes nothing.
func wantRefused(t *testing.T, s Set, b Bundle, now time.Time, code hal.Code) {
	t.Helper()
	next, err := s.Update(b, now)
	if hal.CodeOf(err) != code {
		t.Errorf("%v, want %s", err, code)
	}
	before, _ := json.Marshal(s)
	after, _ := json.Marshal(next)
	if !bytes.Equal(before, after) {
		t.Error("what is trusted has changed")
	}
	if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("%q is not one line", err)
	}
}

func wantFind(t *testing.T, s Set, want Target, now time.Time, code hal.Code) {
	t.Helper()
	got, err := s.Find(want.Name, now)
	if hal.CodeOf(err) != code || err == nil && (got.SHA256 != want.SHA256 || got.Length != want.Length) {
		t.Errorf("%s: %+v, %v, want %+v, %q", want.Name, got, err, want, code)
	}
}

// What two of three sign may run, on every device that knows the first root alone.
func TestSignedReleasesAreFound(t *testing.T) {
	f := newFleet(t)
	birds, cats := release("birds", "1.0.0", 1), release("cats", "1.0.0", 2)
	f.allow(birds, day0)
	b := f.signAll(day0)
	s := must(t, f.device(), b, day0)
	wantFind(t, s, birds, day0, "")
	wantFind(t, s, cats, day0, hal.CodeSignature)
	wantFind(t, f.device(), birds, day0, hal.CodeSignature)

	f.allow(cats, day0.Add(day))
	s = must(t, s, f.signAll(day0.Add(day)), day0.Add(day))
	wantFind(t, s, birds, day0.Add(day), "")
	wantFind(t, s, cats, day0.Add(day), "")
	must(t, s, f.bundle(), day0.Add(2*day)) // the same again

	if err := f.r.Withdraw(birds.Name, day0.Add(2*day)); err != nil {
		t.Fatal(err)
	}
	s = must(t, s, f.signAll(day0.Add(2*day)), day0.Add(2*day))
	wantFind(t, s, birds, day0.Add(2*day), hal.CodeSignature)
}

// Signers may sit anywhere: each has the folder in turn, and the second finds what the
// first has signed.
func TestSignersTakeTurns(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	birds := release("birds", "1.0.0", 1)
	for i, k := range []*Key{f.root[2], f.root[0], f.releases[1], f.publish, f.releases[2], f.publish} {
		f.allow(birds, day0)
		f.sign(day0, k)
		if err := f.r.Save(dir); err != nil {
			t.Fatal(err)
		}
		var err error
		if f.r, err = Load(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := f.r.Bundle(); (err == nil) != (i == 5) {
			t.Errorf("behind signer %d: %v", i, err)
		}
	}
	s := must(t, f.device(), f.bundle(), day0)
	wantFind(t, s, birds, day0, "")
	if err := f.r.Allow(release("birds", "1.0.0", 9), day0); err == nil {
		t.Error("a version was given to another release")
	}
}

// A family has keys of its own, and they count for its name alone.
func TestFamilies(t *testing.T) {
	f := newFleet(t)
	pilot, stranger := key(t), key(t)
	if err := f.r.Delegate("pilot", []string{"pilot-birds", "pilot-cats"}, Quorum{public(pilot), 1}, day0); err != nil {
		t.Fatal(err)
	}
	birds, trial := release("birds", "1.0.0", 1), release("pilot-birds", "2.0.0", 2)
	f.allow(birds, day0)
	f.allow(trial, day0)
	f.sign(day0, f.root[0], f.root[1], f.releases[0], f.releases[1])
	f.sign(day0, stranger, f.publish)
	if _, err := f.r.Bundle(); err == nil {
		t.Error("complete without the family's key")
	}
	f.sign(day0, pilot, f.publish)
	b := f.bundle()
	s := must(t, f.device(), b, day0)
	wantFind(t, s, birds, day0, "")
	wantFind(t, s, trial, day0, "")
	if got, _ := s.Find(trial.Name, day0); got.Role != "pilot" {
		t.Errorf("signed by %q", got.Role)
	}

	// The family's key signs another name: it is not looked at.
	evil := release("birds", "6.6.6", 6)
	m := f.r.families["pilot"]
	m.Signed.Targets[evil.Name] = &metadata.TargetFiles{Length: evil.Length, Hashes: metadata.Hashes{"sha256": bytes.Repeat([]byte{6}, 32)}}
	changed(m, day0)
	f.sign(day0, pilot, f.publish)
	s = must(t, s, f.bundle(), day0)
	wantFind(t, s, evil, day0, hal.CodeSignature)
	wantFind(t, s, trial, day0, "")

	// A family that nobody signs anew keeps the others from nothing.
	old := must(t, s, f.bundle(), day0)
	f.r.families["pilot"].Signed.Expires = day0.Add(day)
	f.r.families["pilot"].Signatures = nil
	f.r.families["pilot"].Signed.Version++
	f.sign(day0, pilot, f.publish)
	now := day0.Add(2 * day)
	lazy := must(t, old, f.bundle(), now)
	wantFind(t, lazy, birds, now, "")
	wantFind(t, lazy, trial, now, hal.CodeExpired)
	if a, b := lazy.Until("targets"), lazy.Until("pilot"); a.File == "pilot.json" || b.File != "pilot.json" || !b.At.Before(a.At) {
		t.Errorf("installed until %v, of the family until %v", a, b)
	}
	for _, name := range []string{"targets", "root", "", "a b", "../x"} {
		if err := f.r.Delegate(name, []string{"x"}, Quorum{public(pilot), 1}, day0); err == nil {
			t.Errorf("a family is called %q", name)
		}
	}
	if err := f.r.Delegate("fine", []string{"*"}, Quorum{public(pilot), 1}, day0); err == nil {
		t.Error("a family has everything")
	}
	s = lazy

	missing := f.bundle()
	missing.Families = nil
	wantRefused(t, s, missing, day0, hal.CodeMixed)
	more := f.bundle()
	more.Families["stranger"] = more.Families["pilot"]
	wantRefused(t, s, more, day0, hal.CodeTrust)
}

// Each attack of TUF's list is refused, by its own code.
func TestAttacks(t *testing.T) {
	f := newFleet(t)
	birds, cats := release("birds", "1.0.0", 1), release("cats", "1.0.0", 2)
	f.allow(birds, day0)
	first := f.signAll(day0)
	f.allow(cats, day0.Add(day))
	second := f.signAll(day0.Add(day))
	now := day0.Add(2 * day)
	s := must(t, must(t, f.device(), first, day0), second, now)

	t.Run("rollback", func(t *testing.T) { wantRefused(t, s, first, now, hal.CodeRollback) })
	t.Run("freeze", func(t *testing.T) {
		wantRefused(t, s, second, now.Add(100*day), hal.CodeExpired)
		wantFind(t, s, birds, now.Add(100*day), hal.CodeExpired)
		wantFind(t, s, birds, now.Add(80*day), "")
	})
	t.Run("mix and match", func(t *testing.T) {
		for name, mix := range map[string]func(b *Bundle){
			"old targets":      func(b *Bundle) { b.Targets = first.Targets },
			"old snapshot":     func(b *Bundle) { b.Snapshot = first.Snapshot },
			"both old":         func(b *Bundle) { b.Snapshot, b.Targets = first.Snapshot, first.Targets },
			"snapshot twice":   func(b *Bundle) { b.Targets = b.Snapshot },
			"timestamp thrice": func(b *Bundle) { b.Targets, b.Snapshot = b.Timestamp, b.Timestamp },
		} {
			b := second
			mix(&b)
			_, err := s.Update(b, now)
			if code := hal.CodeOf(err); code != hal.CodeMixed {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := f.device().Update(b, now); hal.CodeOf(err) != hal.CodeMixed {
				t.Errorf("%s, to a new device: %v", name, err)
			}
		}
	})
	t.Run("endless data", func(t *testing.T) {
		for name, grow := range map[string]func(b *Bundle){
			"targets":   func(b *Bundle) { b.Targets = make([]byte, maxFile+1) },
			"roots":     func(b *Bundle) { b.Roots = slices.Repeat([][]byte{first.Roots[0]}, maxRootChain+1) },
			"all roots": func(b *Bundle) { b.Roots = slices.Repeat([][]byte{make([]byte, maxFile)}, 8) },
		} {
			b := second
			grow(&b)
			if _, err := s.Update(b, now); hal.CodeOf(err) != hal.CodeLength {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := ParseBundle(make([]byte, MaxBundle+1)); hal.CodeOf(err) != hal.CodeLength {
			t.Errorf("a long bundle: %v", err)
		}
	})
	t.Run("too few keys", func(t *testing.T) {
		g := copyOf(t, f)
		g.allow(release("evil", "1.0.0", 6), now)
		g.sign(now, g.releases[0])
		g.r.targets.Signatures = append(g.r.targets.Signatures, metadata.Signature{KeyID: KeyID(g.releases[1].Public()), Signature: make([]byte, 64)})
		wantRefused(t, s, g.force(now), now, hal.CodeSignature)
		// One key, signing twice.
		g.r.targets.Signatures = append(g.r.targets.Signatures[:1], g.r.targets.Signatures[0])
		if _, err := s.Update(g.force(now), now); err == nil {
			t.Error("one key counts twice")
		}
	})
	t.Run("another fleet", func(t *testing.T) {
		g := newFleet(t)
		g.allow(birds, now)
		b := g.signAll(now)
		wantRefused(t, s, b, now, hal.CodeSignature)
		wantRefused(t, f.device(), b, now, hal.CodeSignature)
		b.Roots = first.Roots // with this fleet's root before it
		wantRefused(t, s, b, now, hal.CodeSignature)
	})
	t.Run("no root", func(t *testing.T) {
		b := second
		b.Roots = nil
		wantRefused(t, f.device(), b, now, hal.CodeSignature)
		must(t, s, b, now) // who has it needs none
	})
}

// copyOf is the repository as somebody has it who does as he likes with it.
func copyOf(t *testing.T, f *fleet) *fleet {
	t.Helper()
	dir := t.TempDir()
	if err := f.r.Save(dir); err != nil {
		t.Fatal(err)
	}
	g := *f
	var err error
	if g.r, err = Load(dir); err != nil {
		t.Fatal(err)
	}
	return &g
}

// force publishes what is not signed by enough, with the key that may publish.
func (f *fleet) force(now time.Time) Bundle {
	f.t.Helper()
	bytesOf := func(b []byte, err error) []byte {
		if err != nil {
			f.t.Fatal(err)
		}
		return b
	}
	meta, err := f.r.meta()
	if err != nil {
		f.t.Fatal(err)
	}
	var done []string
	snapshot, timestamp := metadata.Snapshot(now.Add(freshLife)), metadata.Timestamp(now.Add(freshLife))
	snapshot.Signed.Meta, snapshot.Signed.Version = meta, f.r.snapshot.Signed.Version+1
	if err := signOne(context.Background(), f.publish, snapshot, &done, "snapshot"); err != nil {
		f.t.Fatal(err)
	}
	b := Bundle{Roots: f.r.roots, Snapshot: bytesOf(snapshot.ToBytes(false)), Targets: bytesOf(f.r.targets.ToBytes(false))}
	timestamp.Signed.Version = f.r.timestamp.Signed.Version + 1
	if timestamp.Signed.Meta["snapshot.json"], err = metaFile(b.Snapshot, snapshot.Signed.Version); err != nil {
		f.t.Fatal(err)
	}
	if err := signOne(context.Background(), f.publish, timestamp, &done, "timestamp"); err != nil {
		f.t.Fatal(err)
	}
	b.Timestamp = bytesOf(timestamp.ToBytes(false))
	return b
}

// A root is rotated in band: keys go and come, and the old ones count no more.
func TestRotation(t *testing.T) {
	f := newFleet(t)
	birds := release("birds", "1.0.0", 1)
	f.allow(birds, day0)
	b := f.signAll(day0)
	s := must(t, f.device(), b, day0)
	revoked := f.releases[0]

	f.releases[0] = key(t)
	if err := f.r.Rotate(f.setup(), day0); err != nil {
		t.Fatal(err)
	}
	f.sign(day0, f.root[0])
	if _, err := f.r.Bundle(); err == nil {
		t.Error("complete with one root key of two")
	}
	f.sign(day0, f.root[2], f.releases[0], f.releases[1], f.publish)
	b = f.bundle()
	if len(b.Roots) != 2 {
		t.Fatalf("%d roots", len(b.Roots))
	}
	s = must(t, s, b, day0)
	wantFind(t, must(t, f.device(), b, day0), birds, day0, "")

	// The key that went signs with one that stayed.
	g := copyOf(t, f)
	g.allow(release("evil", "1.0.0", 6), day0)
	g.r.root.Signed.Roles["targets"].KeyIDs = append(g.r.root.Signed.Roles["targets"].KeyIDs, KeyID(revoked.Public()))
	old, _ := metadata.KeyFromPublicKey(revoked.Public())
	g.r.root.Signed.Keys[KeyID(revoked.Public())] = old
	g.sign(day0, revoked, g.releases[1])
	wantRefused(t, s, g.force(day0), day0, hal.CodeSignature)

	// A root that follows has to be the next, by enough keys of the last and its own.
	for name, c := range map[string]struct {
		change func(root *metadata.RootType)
		by     []*Key
		code   hal.Code
	}{
		"one key":        {func(*metadata.RootType) {}, []*Key{f.root[0]}, hal.CodeSignature},
		"other keys":     {func(*metadata.RootType) {}, f.releases[:], hal.CodeSignature},
		"leaves one out": {func(r *metadata.RootType) { r.Version++ }, f.root[:], hal.CodeRollback},
		"threshold 0":    {func(r *metadata.RootType) { r.Roles["root"].Threshold = 0 }, f.root[:], hal.CodeTrust},
		"no keys":        {func(r *metadata.RootType) { r.Roles["root"].KeyIDs = nil }, f.root[:], hal.CodeTrust},
		"one key under two names": {func(r *metadata.RootType) {
			r.Keys[strings.Repeat("ab", 32)] = r.Keys[KeyID(f.root[0].Public())]
		}, f.root[:], hal.CodeTrust},
	} {
		m, err := metadata.Root().FromBytes(f.r.roots[1])
		if err != nil {
			t.Fatal(err)
		}
		m.Signed.Version++
		m.Signatures = nil
		c.change(&m.Signed)
		for _, k := range c.by {
			var done []string
			if err := signOne(context.Background(), k, m, &done, "root"); err != nil {
				t.Fatal(err)
			}
		}
		root, err := m.ToBytes(false)
		if err != nil {
			t.Fatal(err)
		}
		b := f.bundle()
		b.Roots = append(b.Roots, root)
		next, err := s.Update(b, day0)
		if hal.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
		if !bytes.Equal(next.Root, s.Root) {
			t.Errorf("%s: is in force", name)
		}
	}
}

// Who has stolen the key that publishes can go far ahead, so that nothing honest is
// newer; a root that takes the key away is the way back.
func TestFastForward(t *testing.T) {
	f := newFleet(t)
	birds, cats := release("birds", "1.0.0", 1), release("cats", "1.0.0", 2)
	f.allow(birds, day0)
	b := f.signAll(day0)
	s := must(t, f.device(), b, day0)
	g := copyOf(t, f)
	g.r.timestamp.Signed.Version, g.r.snapshot.Signed.Version = 1<<40, 1<<40
	s = must(t, s, g.force(day0), day0)

	f.allow(cats, day0)
	f.signAll(day0)
	wantRefused(t, s, f.bundle(), day0, hal.CodeRollback)
	f.publish = key(t)
	if err := f.r.Rotate(f.setup(), day0); err != nil {
		t.Fatal(err)
	}
	s = must(t, s, f.signAll(day0), day0)
	wantFind(t, s, cats, day0, "")
}

// No bit of any file can be changed. One in 23 is tried, which is each bit of a
// byte somewhere; COVEY_EVERY_BIT tries all.
func TestEveryBit(t *testing.T) {
	f := newFleet(t)
	f.allow(release("birds", "1.0.0", 1), day0)
	b := f.signAll(day0)
	s := f.device()
	must(t, s, b, day0)
	flipped := 0
	for name, file := range map[string]*[]byte{"root": &b.Roots[0], "timestamp": &b.Timestamp, "snapshot": &b.Snapshot, "targets": &b.Targets} {
		whole := *file
		step := 23
		if os.Getenv("COVEY_EVERY_BIT") != "" {
			step = 1
		}
		for bit := 0; bit < 8*len(whole); bit += step {
			*file = bytes.Clone(whole)
			(*file)[bit/8] ^= 1 << (bit % 8)
			if _, err := s.Update(b, day0); hal.CodeOf(err) == "" {
				t.Errorf("%s: bit %d was changed: %v", name, bit, err)
			}
			flipped++
		}
		*file = whole
	}
	t.Logf("%d bits, each refused", flipped)
	if _, err := s.Update(spaced(b), day0); hal.CodeOf(err) != hal.CodeTrust {
		t.Errorf("a timestamp in other bytes: %v", err)
	}
}

func spaced(b Bundle) Bundle {
	b.Timestamp = append(bytes.Clone(b.Timestamp), ' ')
	return b
}

// A clock without a battery, or one that was set wrong, is no way around a date.
func TestClocks(t *testing.T) {
	f := newFleet(t)
	birds := release("birds", "1.0.0", 1)
	f.allow(birds, day0)
	b := f.signAll(day0)
	s := must(t, f.device(), b, day0.Add(89*day))
	old := must(t, f.device(), b, time.Unix(0, 0)) // a new board in 1970 takes what it is given
	wantFind(t, old, birds, time.Unix(0, 0), "")

	f.r.timestamp.Signed.Expires = day0 // as if it were signed long ago
	f.allow(release("cats", "1.0.0", 2), day0.Add(-100*day))
	stale := f.signAll(day0.Add(-100 * day))
	wantRefused(t, s, stale, time.Unix(0, 0), hal.CodeExpired)
	wantFind(t, s, birds, time.Unix(0, 0), "")
	wantFind(t, s, birds, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), hal.CodeExpired)
	if e := s.Expiries(); len(e) != 4 || e[0].At != day0.Add(freshLife) {
		t.Errorf("expiries %v", e)
	}
}

// What the director signs is for one device, by a key that the root names; a root can
// take it away.
func TestDirected(t *testing.T) {
	f := newFleet(t)
	f.allow(release("birds", "1.0.0", 1), day0)
	b := f.signAll(day0)
	s := must(t, f.device(), b, day0)
	odd := map[string]any{"v": 1, "rev": uint64(1)<<53 + 1, "device": "pi-1", "name": "a<b>&\u2028\"\\é"}
	text, err := SignDirected(context.Background(), f.director, odd)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.VerifyDirected(text)
	var back struct {
		Rev  uint64 `json:"rev"`
		Name string `json:"name"`
	}
	if err != nil || json.Unmarshal(raw, &back) != nil || back.Rev != 1<<53+1 || back.Name != odd["name"] {
		t.Errorf("%+v of %s, %v", back, text, err)
	}
	document := map[string]any{"v": 1, "rev": 7, "device": "pi-1"}
	signed, err := SignDirected(context.Background(), f.director, document)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.VerifyDirected(signed)
	if err != nil || string(got) != `{"device":"pi-1","rev":7,"v":1}` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := f.device().VerifyDirected(signed); hal.CodeOf(err) != hal.CodeSignature {
		t.Errorf("without a root: %v", err)
	}
	for _, k := range []*Key{f.publish, f.releases[0], f.root[0], key(t)} {
		b, err := SignDirected(context.Background(), k, document)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.VerifyDirected(b); hal.CodeOf(err) != hal.CodeSignature {
			t.Errorf("by another key: %v", err)
		}
	}
	whole := bytes.Clone(signed)
	for bit := 0; bit < 8*len(whole); bit += 3 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := s.VerifyDirected(b); err == nil && string(got) != `{"device":"pi-1","rev":7,"v":1}` {
			t.Errorf("bit %d: %s", bit, got)
		}
	}
	stolen := f.director
	f.director = key(t)
	if err := f.r.Rotate(f.setup(), day0); err != nil {
		t.Fatal(err)
	}
	s = must(t, s, f.signAll(day0), day0)
	forged, err := SignDirected(context.Background(), stolen, document)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.VerifyDirected(forged); hal.CodeOf(err) != hal.CodeSignature {
		t.Errorf("a key that was taken away: %v", err)
	}
}

// A root that names a director in a way that nobody can read does not name none: then
// anybody's orders would count.
func TestBrokenDirector(t *testing.T) {
	for name, role := range map[string]any{
		"threshold 0": map[string]any{"keyids": []any{}, "threshold": 0}, "too few keys": map[string]any{"keyids": []any{"a"}, "threshold": 2},
		"a text": "a", "nothing": nil, "a list": []any{}, "other types": map[string]any{"keyids": "a", "threshold": "1"},
	} {
		f := newFleet(t)
		f.allow(release("birds", "1.0.0", 1), day0)
		f.r.root.Signed.UnrecognizedFields[directorField] = role
		b := f.signAll(day0)
		wantRefused(t, f.device(), b, day0, hal.CodeTrust)

		f = newFleet(t)
		f.allow(release("birds", "1.0.0", 1), day0)
		b = f.signAll(day0)
		s := must(t, f.device(), b, day0)
		if err := f.r.Rotate(f.setup(), day0); err != nil {
			t.Fatal(err)
		}
		f.r.root.Signed.UnrecognizedFields[directorField] = role
		b = f.signAll(day0)
		if next, err := s.Update(b, day0); hal.CodeOf(err) != hal.CodeTrust || len(next.Director()) != 1 {
			t.Errorf("%s: %v, directors %v", name, err, next.Director())
		}
	}
}

// A store that was torn, or rotted, is recovered from the one before, or by the next
// bundle, and never stands in the way.
func TestStoreRecovers(t *testing.T) {
	f := newFleet(t)
	f.allow(release("birds", "1.0.0", 1), day0)
	first := f.signAll(day0)
	f.allow(release("cats", "1.0.0", 2), day0)
	second := f.signAll(day0)
	a := must(t, f.device(), first, day0)
	b := must(t, a, second, day0)
	harms := map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"zeros": func(p []byte) []byte { return make([]byte, len(p)) },
		"half":  func(p []byte) []byte { return p[:len(p)/2] },
		"a bit": func(p []byte) []byte { p = bytes.Clone(p); p[len(p)/3] ^= 1; return p },
	}
	recovered := 0
	for name, harm := range harms {
		for _, files := range [][]string{{"/trust.json"}, {"/trust.json.old"}, {"/trust.json", "/trust.json.old"}} {
			disk := crashfs.New()
			store := Store{disk, "/trust.json"}
			for _, s := range []Set{a, b} {
				if err := store.Save(s); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range files {
				p := readAll(t, disk, file)
				h, err := disk.Create(file)
				if err != nil {
					t.Fatal(err)
				}
				h.Write(harm(p))
				h.Close()
			}
			s, damage, err := store.Load(f.r.FirstFingerprint())
			if err != nil || (damage == nil) != (files[0] == "/trust.json.old") {
				t.Errorf("%s of %v: %v, %v", name, files, damage, err)
			}
			s = must(t, s, second, day0)
			if err := store.Save(s); err != nil {
				t.Fatal(err)
			}
			if s, damage, err = store.Load(f.r.FirstFingerprint()); damage != nil || err != nil || !bytes.Equal(s.Targets, second.Targets) {
				t.Errorf("%s of %v, afterwards: %v, %v", name, files, damage, err)
			}
			recovered++
		}
	}
	t.Logf("%d of 12 recover", recovered)

	// A power cut at every step of the disk leaves one of the two.
	for cut := 0; ; cut++ {
		disk := crashfs.New()
		store := Store{disk, "/trust.json"}
		if err := store.Save(a); err != nil {
			t.Fatal(err)
		}
		disk.CutAt(disk.Ops() + cut)
		err := store.Save(b)
		after := Store{disk.Crash(uint64(cut)), "/trust.json"}
		s, damage, loadErr := after.Load(f.r.FirstFingerprint())
		if damage != nil || loadErr != nil || !bytes.Equal(s.Targets, a.Targets) && !bytes.Equal(s.Targets, b.Targets) {
			t.Fatalf("cut %d: %v, %v", cut, damage, loadErr)
		}
		if err == nil {
			if !bytes.Equal(s.Targets, b.Targets) {
				t.Error("what was saved is gone")
			}
			t.Logf("%d cuts", cut)
			break
		}
	}
}

func readAll(t *testing.T, disk *crashfs.FS, name string) []byte {
	t.Helper()
	h, err := disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A setup in which nobody can reach a threshold is refused.
func TestSetups(t *testing.T) {
	f := newFleet(t)
	for name, change := range map[string]func(*Setup){
		"threshold 0":        func(s *Setup) { s.Root.Threshold = 0 },
		"more than keys":     func(s *Setup) { s.Releases.Threshold = 4 },
		"no key":             func(s *Setup) { s.Publish = Quorum{} },
		"one key, twice":     func(s *Setup) { s.Releases = Quorum{public(f.root[0], f.root[0]), 2} },
		"negative threshold": func(s *Setup) { s.Publish.Threshold = -1 },
	} {
		s := f.setup()
		change(&s)
		if _, err := Create(s, day0); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	got, err := f.r.Setup()
	if err != nil || KeyID(got.Director) != KeyID(f.director.Public()) || got.Root.Threshold != 2 || len(got.Releases.Keys) != 3 {
		t.Errorf("setup %+v, %v", got, err)
	}
}

// No bundle makes Update panic, and none that nobody signed is taken.
func FuzzUpdate(f *testing.F) {
	t := &testing.T{}
	fleet := newFleet(t)
	fleet.allow(release("birds", "1.0.0", 1), day0)
	b := fleet.signAll(day0)
	s := fleet.device()
	f.Add(b.Encode())
	f.Add([]byte(`{"roots":[],"timestamp":"e30="}`))
	whole := b.Encode()
	f.Fuzz(func(t *testing.T, p []byte) {
		got, err := ParseBundle(p)
		if err != nil {
			return
		}
		next, err := s.Update(got, day0)
		if err == nil && (!bytes.Equal(next.Targets, b.Targets) || !maps.EqualFunc(next.Families, b.Families, bytes.Equal)) {
			t.Errorf("taken: %s", p)
		}
		if bytes.Equal(p, whole) && err != nil {
			t.Error(err)
		}
		_, _ = s.VerifyDirected(p)
	})
}

// A pilot's key signs for boards of the pilot channel, whatever their name; others never
// look at it. Nothing that those who sign releases have signed is another by it.
func TestPilot(t *testing.T) {
	f := newFleet(t)
	ci, wildlife := key(t), key(t)
	for family, c := range map[string]struct {
		names []string
		key   *Key
	}{"ci": {[]string{Pilot("birds"), Pilot("cats")}, ci}, "wildlife": {[]string{Pilot("*")}, wildlife}} {
		if err := f.r.Delegate(family, c.names, Quorum{public(c.key), 1}, day0); err != nil {
			t.Fatal(err)
		}
	}
	pilot := func(name, version string, n int) Target {
		p := release(name, version, n)
		p.Name = PilotName(name, version)
		return p
	}
	f.allow(release("birds", "1.0.0", 1), day0)
	f.allow(pilot("birds", "1.1.0", 2), day0)
	f.allow(pilot("birds", "1.0.0", 3), day0) // that production has signed as another
	f.allow(pilot("dogs", "1.0.0", 4), day0)
	f.sign(day0, ci, wildlife)
	b := f.signAll(day0)
	s := must(t, f.device(), b, day0)
	for _, c := range []struct {
		name, version string
		all, pilot    int // digest's; 0: refused
	}{{"birds", "1.0.0", 1, 1}, {"birds", "1.1.0", 0, 2}, {"dogs", "1.0.0", 0, 4}, {"cats", "1.0.0", 0, 0}, {"pilot", "1.0.0", 0, 0}} {
		digest := func(find func() (Target, error)) int {
			got, err := find()
			if err != nil {
				if hal.CodeOf(err) != hal.CodeSignature {
					t.Errorf("%s %s: %v", c.name, c.version, err)
				}
				return 0
			}
			return int(got.Length) - 1000
		}
		all := digest(func() (Target, error) { return s.Find(TargetName(c.name, c.version), day0) })
		p := digest(func() (Target, error) { return s.FindPilot(c.name, c.version, day0) })
		if all != c.all || p != c.pilot {
			t.Errorf("%s %s: %d for all and %d for the pilot, want %d and %d", c.name, c.version, all, p, c.all, c.pilot)
		}
	}
	if _, err := s.FindPilot("birds", "1.1.0", day0.Add(1000*day)); hal.CodeOf(err) != hal.CodeExpired {
		t.Errorf("in the far future: %v", err)
	}

	// Whoever has the pilot's key signs what everybody would run: nobody does, nor what
	// another pilot's is.
	m := f.r.families["ci"]
	for _, n := range []string{TargetName("birds", "9.0.0"), PilotName("dogs", "9.0.0"), "pilot/birds/9.0.0/x", "pilot/9.0.0"} {
		m.Signed.Targets[n] = m.Signed.Targets[PilotName("birds", "1.1.0")]
	}
	m.Signed.Version++
	m.Signatures = nil
	f.sign(day0, ci)
	s = must(t, s, f.signAll(day0), day0)
	for _, find := range []func() (Target, error){
		func() (Target, error) { return s.Find(TargetName("birds", "9.0.0"), day0) },
		func() (Target, error) { return s.FindPilot("birds", "9.0.0", day0) },
		func() (Target, error) { return s.FindPilot("dogs", "9.0.0", day0) },
		func() (Target, error) { return s.FindPilot("pilot", "9.0.0", day0) },
	} {
		if got, err := find(); hal.CodeOf(err) != hal.CodeSignature {
			t.Errorf("found %+v, %v", got, err)
		}
	}
	for _, name := range []string{"pilot/", "pilot/*/*", "pilot/a/b", "pilot/A", "other/birds"} {
		if err := f.r.Delegate("more", []string{name}, Quorum{public(ci), 1}, day0); err == nil {
			t.Errorf("%q was delegated", name)
		}
	}
}

// Each key is listed with who has signed.
func TestKeys(t *testing.T) {
	f := newFleet(t)
	f.sign(day0, f.root[0], f.releases[1])
	keys, err := f.r.Keys()
	if err != nil || len(keys) != 8 || !keys[KeyID(f.director.Public())].Equal(f.director.Public()) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	roles, err := f.r.Roles()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roles {
		want := map[string]string{"root": KeyID(f.root[0].Public()), "targets": KeyID(f.releases[1].Public())}[r.Name]
		if len(r.By) != 1 || r.By[0] != want || r.Have != 1 {
			t.Errorf("%s is signed by %v, want %s", r.Name, r.By, want)
		}
	}
}
