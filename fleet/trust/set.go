package trust

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/covey-edge/covey/hal"
)

// A Set is what a device trusts. The zero value trusts nothing. It is a value: Update
// returns the next one, so that what could not be stored was not taken in. One
// goroutine at a time.
type Set struct {
	First Fingerprint `json:"first"`
	// Root is the root in force; the rest is what was verified last under it. All are
	// nil until the first Update.
	Root      []byte            `json:"root,omitempty"`
	Timestamp []byte            `json:"timestamp,omitempty"`
	Snapshot  []byte            `json:"snapshot,omitempty"`
	Targets   []byte            `json:"targets,omitempty"`
	Families  map[string][]byte `json:"families,omitempty"`
	// Floor is the latest time at which an update was taken in: it cannot be earlier,
	// whatever a clock without a battery says.
	Floor time.Time `json:"floor,omitzero"`
}

// New trusts what the root of that fingerprint says, and nothing until it is seen.
func New(first Fingerprint) Set { return Set{First: first} }

// Update verifies a bundle over what s holds, as TUF's client workflow (section 5) has
// it, and returns what to trust from now on. After an error that is still s. Codes:
// E_SIGNATURE (too few of the right keys), E_ROLLBACK (older than what s holds),
// E_EXPIRED (held back until it was out of date), E_MIXED (files of different times),
// E_TRUST (not that metadata), E_LENGTH.
func (s Set) Update(b Bundle, now time.Time) (Set, error) {
	if err := b.check(); err != nil {
		return s, err
	}
	now = later(now, s.Floor)
	t, root, err := s.roots(b.Roots, now)
	if err != nil {
		return s, err
	}
	if err := t.update(s, b); err != nil {
		return s, err
	}
	return Set{First: s.First, Root: root, Timestamp: b.Timestamp, Snapshot: b.Snapshot, Targets: b.Targets,
		Families: maps.Clone(b.Families), Floor: now.UTC()}, nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Verified is one set of metadata under verification.
type verified struct {
	*trustedmetadata.TrustedMetadata
}

// roots goes from the root that s holds, or the first, to the last of the list.
func (s Set) roots(list [][]byte, now time.Time) (*verified, []byte, error) {
	root := s.Root
	if root == nil {
		if len(list) == 0 || FingerprintOf(list[0]) != s.First {
			return nil, nil, coded(hal.CodeSignature, "root.json: the first root is not the one of this device's fingerprint; join again if the fleet was set up anew")
		}
		root, list = list[0], list[1:]
	}
	tm, err := trustedmetadata.New(root)
	if err == nil {
		err = errors.Join(keysMatch(tm.Root.Signed.Keys), exact(tm.Root, root), directs(&tm.Root.Signed))
	}
	if err != nil {
		return nil, nil, refused("root.json", err)
	}
	taken := 0
	for _, b := range list {
		version, err := versionOf(b)
		switch {
		case err != nil:
			return nil, nil, refused("root.json", err)
		case version <= tm.Root.Signed.Version && taken == 0:
			continue // the device has it
		}
		if taken++; taken > maxRoots {
			return nil, nil, coded(hal.CodeLength, "root.json: more than %d rotations at once", maxRoots)
		}
		next, err := tm.UpdateRoot(b)
		if err == nil {
			err = errors.Join(keysMatch(next.Signed.Keys), exact(next, b), directs(&next.Signed))
		}
		if err != nil {
			return nil, nil, refused(fmt.Sprintf("root.json %d", version), err)
		}
		root = b
	}
	tm.RefTime = now.UTC()
	return &verified{tm}, root, nil
}

// keysMatch makes one key count once: its name in a root is made from itself.
func keysMatch(keys map[string]*metadata.Key) error {
	for name, key := range keys {
		if key == nil {
			return coded(hal.CodeTrust, "key %s is empty", name)
		}
		// A copy: what the file says it is called is not asked.
		id, err := (&metadata.Key{Type: key.Type, Scheme: key.Scheme, Value: key.Value, UnrecognizedFields: key.UnrecognizedFields}).ID()
		if err != nil || id != name {
			return coded(hal.CodeTrust, "key %.16s goes by another key's name", name)
		}
	}
	return nil
}

// exact refuses a file that says the same in other bytes: with spaces, keys twice or in
// other letters, which another reader may read otherwise. What a hash is known of is
// exact by that.
func exact[T metadata.Roles](m *metadata.Metadata[T], b []byte) error {
	if own, err := m.ToBytes(false); err != nil || !bytes.Equal(own, b) {
		return coded(hal.CodeTrust, "it is not in the one form that metadata has")
	}
	return nil
}

// versionOf is a root's version, before anything is verified.
func versionOf(root []byte) (int64, error) {
	var r struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(root, &r); err != nil {
		return 0, err
	}
	return r.Signed.Version, nil
}

// update is TUF's client workflow behind the root. What s holds goes first, so that
// nothing older comes after it; what of it does not verify any more, because the root
// took away its keys, protects nothing and is left out (a way back from an attacker
// who had those keys and went far ahead: 5.3.11).
func (t *verified) update(s Set, b Bundle) error {
	if s.Timestamp != nil {
		// Errors are of a time that is past, or of keys that are gone.
		_, _ = t.UpdateTimestamp(s.Timestamp)
	}
	_, err := t.UpdateTimestamp(b.Timestamp)
	switch {
	case is[*metadata.ErrEqualVersionNumber](err):
		if !bytes.Equal(b.Timestamp, s.Timestamp) {
			return coded(hal.CodeMixed, "timestamp.json: two files of version %d", t.Timestamp.Signed.Version)
		}
	case err != nil:
		return refused("timestamp.json", err)
	}
	if err := exact(t.Timestamp, b.Timestamp); err != nil {
		return refused("timestamp.json", err)
	}
	if s.Snapshot != nil {
		_, _ = t.UpdateSnapshot(s.Snapshot, true)
	}
	if _, err := t.UpdateSnapshot(b.Snapshot, false); err != nil {
		return refused("snapshot.json", err)
	}
	if _, err := t.UpdateTargets(b.Targets); err != nil {
		return refused("targets.json", err)
	}
	families := t.families()
	for _, name := range slices.Sorted(maps.Keys(b.Families)) {
		if !slices.Contains(families, name) {
			return coded(hal.CodeTrust, "%s.json: nobody delegated to it", oneLine(name))
		}
		// One that is out of date has its signatures, and keeps nobody else from going on.
		if _, err := t.UpdateDelegatedTargets(b.Families[name], name, metadata.TARGETS); err != nil && !is[*metadata.ErrExpiredMetadata](err) {
			return refused(oneLine(name)+".json", err)
		}
	}
	for _, name := range families {
		if b.Families[name] == nil {
			return coded(hal.CodeMixed, "%s.json is missing", oneLine(name))
		}
	}
	return nil
}

// Intact says whether all that s holds still verifies, whatever the date: a disk may
// have rotted.
func (s Set) Intact() error {
	if s.Root == nil {
		return nil
	}
	held := Bundle{Timestamp: s.Timestamp, Snapshot: s.Snapshot, Targets: s.Targets, Families: s.Families}
	if err := held.check(); err != nil {
		return err
	}
	t, _, err := Set{First: s.First, Root: s.Root}.roots(nil, time.Time{})
	if err != nil {
		return err
	}
	return t.update(Set{}, held)
}

// families are the roles that targets delegate to.
func (t *verified) families() []string {
	d := t.Targets[metadata.TARGETS].Signed.Delegations
	if d == nil {
		return nil
	}
	var list []string
	for _, r := range d.Roles {
		list = append(list, r.Name)
	}
	return list
}

// Find says what may run under a target's name. What s holds was verified; that it is
// in date, by the given time, is checked here, since only new installs have to be: the
// four files, and a family's for what it has signed. Codes: E_SIGNATURE for what nobody
// signed, E_EXPIRED.
func (s Set) Find(name string, now time.Time) (Target, error) {
	if s.Targets == nil {
		return Target{}, coded(hal.CodeSignature, "%s: no signed releases are known yet", name)
	}
	if err := s.inDate(now, whole[:]...); err != nil {
		return Target{}, err
	}
	top, err := metadata.Targets().FromBytes(s.Targets)
	if err != nil {
		return Target{}, refused("targets.json", err)
	}
	if f := top.Signed.Targets[name]; f != nil {
		return target(name, metadata.TARGETS, f)
	}
	if top.Signed.Delegations != nil {
		for _, role := range top.Signed.Delegations.Roles {
			if !covers(role.Paths, name) {
				continue
			}
			family, err := metadata.Targets().FromBytes(s.Families[role.Name])
			if err != nil {
				return Target{}, refused(role.Name+".json", err)
			}
			if f := family.Signed.Targets[name]; f != nil {
				if err := s.inDate(now, role.Name+".json"); err != nil {
					return Target{}, err
				}
				return target(name, role.Name, f)
			}
			if role.Terminating {
				break
			}
		}
	}
	return Target{}, coded(hal.CodeSignature, "%s: nobody with the right keys has signed it", name)
}

// FindPilot is Find for a board of the pilot channel: where those who sign releases have
// signed nothing by that name, the keys of the pilot may have.
func (s Set) FindPilot(release, version string, now time.Time) (Target, error) {
	t, err := s.Find(TargetName(release, version), now)
	if hal.CodeOf(err) != hal.CodeSignature {
		return t, err
	}
	return s.Find(PilotName(release, version), now)
}

// whole are the files without which nothing is installed.
var whole = [...]string{"root.json", "timestamp.json", "snapshot.json", "targets.json"}

// Until is the day after which what a role has signed is not installed any more: a
// Target's, or "targets" for all but the families'. s holds something.
func (s Set) Until(role string) Expiry {
	list := s.Expiries()
	return list[slices.IndexFunc(list, func(e Expiry) bool { return slices.Contains(whole[:], e.File) || e.File == role+".json" })]
}

// inDate says whether files count at a time.
func (s Set) inDate(now time.Time, files ...string) error {
	for _, e := range s.Expiries() {
		if slices.Contains(files, e.File) && later(now, s.Floor).After(e.At) {
			return coded(hal.CodeExpired, "%s has expired on %s: no new release is installed until it is signed anew; what runs goes on", e.File, e.At.Format(time.DateOnly))
		}
	}
	return nil
}

// covers says whether patterns, in which * is a part of a name, fit a target.
func covers(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

func target(name, role string, f *metadata.TargetFiles) (Target, error) {
	sum := f.Hashes["sha256"]
	if len(sum) != 32 || f.Length <= 0 {
		return Target{}, coded(hal.CodeTrust, "%s: no length and SHA-256", name)
	}
	return Target{Name: name, Length: f.Length, SHA256: hex.EncodeToString(sum), Role: role}, nil
}

// An Expiry is the day after which a file counts no more.
type Expiry struct {
	File string
	At   time.Time
}

// Soon is how long before its day an expiry is warned of.
const Soon = 30 * 24 * time.Hour

// Expiries are those of all files that s holds, the first to come first.
func (s Set) Expiries() []Expiry {
	var list []Expiry
	add := func(file string, b []byte) {
		var m struct {
			Signed struct {
				Expires time.Time `json:"expires"`
			} `json:"signed"`
		}
		if b != nil && json.Unmarshal(b, &m) == nil {
			list = append(list, Expiry{file, m.Signed.Expires})
		}
	}
	add("root.json", s.Root)
	add("timestamp.json", s.Timestamp)
	add("snapshot.json", s.Snapshot)
	add("targets.json", s.Targets)
	for name, b := range s.Families {
		add(name+".json", b)
	}
	slices.SortFunc(list, func(a, b Expiry) int { return a.At.Compare(b.At) })
	return list
}

// directorField is where a root names the director's keys: a role of our own, since
// TUF knows none that signs for one device.
const directorField = "x-covey-director"

// Director is the ids of the keys that sign what is wanted of each device; none where
// the root names no director, and then nobody signs that.
func (s Set) Director() []string {
	root, err := metadata.Root().FromBytes(s.Root)
	if err != nil {
		return nil
	}
	role, err := directorOf(&root.Signed)
	if err != nil {
		return nil
	}
	return role.KeyIDs
}

// VerifyDirected checks a document for one device, {"signed":…,"signatures":[…]},
// against the director's keys of the root, and returns the bytes that are signed.
// Nothing of them was parsed. Codes: E_SIGNATURE, E_JSON.
func (s Set) VerifyDirected(document []byte) (json.RawMessage, error) {
	if s.Root == nil {
		return nil, coded(hal.CodeSignature, "no root is known yet")
	}
	root, err := metadata.Root().FromBytes(s.Root)
	if err != nil {
		return nil, refused("root.json", err)
	}
	role, err := directorOf(&root.Signed)
	if err != nil {
		return nil, err
	}
	var d directed
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, coded(hal.CodeJSON, "desired document: %v", err)
	}
	if have := count(root.Signed.Keys, role.KeyIDs, d.Signed, d.Signatures); have < role.Threshold {
		return nil, coded(hal.CodeSignature, "desired document: %d of %d signatures of the director", have, role.Threshold)
	}
	return d.Signed, nil
}

// A directed document is what the director signs: its bytes, as they are.
type directed struct {
	Signed     json.RawMessage      `json:"signed"`
	Signatures []metadata.Signature `json:"signatures"`
}

// directs refuses a root that names a director in a way that cannot be read: as one that
// names none, it would let anybody's orders count.
func directs(root *metadata.RootType) error {
	if _, ok := root.UnrecognizedFields[directorField]; !ok {
		return nil
	}
	_, err := directorOf(root)
	return err
}

// directorOf is the director's role in a root.
func directorOf(root *metadata.RootType) (*metadata.Role, error) {
	field, ok := root.UnrecognizedFields[directorField]
	if !ok {
		return nil, coded(hal.CodeSignature, "root.json names no director")
	}
	b, err := json.Marshal(field)
	if err != nil {
		return nil, refused("root.json", err)
	}
	var role metadata.Role
	if err := json.Unmarshal(b, &role); err != nil || role.Threshold < 1 || len(role.KeyIDs) < role.Threshold {
		return nil, coded(hal.CodeTrust, "root.json: the director's keys do not reach their threshold of %d", role.Threshold)
	}
	return &role, nil
}
