package trust

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
)

// How long signatures are good for. What is renewed by hand lasts a year; what says
// that it is all still so has to be renewed each quarter.
const (
	rootLife  = 365 * 24 * time.Hour
	freshLife = 90 * 24 * time.Hour
)

// A Repository is the images repository as its signers have it: a folder of files, of
// which every signer may have a copy, or all one in a version control. It is not
// safe for two goroutines.
type Repository struct {
	roots     [][]byte // signed and in force, by version, from 1
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	families  map[string]*metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
}

// A Quorum is keys of which so many have to sign.
type Quorum struct {
	Keys      []ed25519.PublicKey
	Threshold int
}

func (q Quorum) check(what string) error {
	if q.Threshold < 1 || q.Threshold > len(q.Keys) {
		return fmt.Errorf("%s: %d of %d keys cannot be: name as many keys as have to sign, at least one", what, q.Threshold, len(q.Keys))
	}
	return nil
}

// A Setup is who signs what. Publish signs that the releases are all that there is;
// its keys alone let nothing run.
type Setup struct {
	Root, Releases, Publish Quorum
	Director                ed25519.PublicKey // the controller's; nil: none yet
}

// Create begins a repository. Nothing is signed yet.
func Create(s Setup, now time.Time) (*Repository, error) {
	r := &Repository{root: metadata.Root(now.Add(rootLife).UTC().Truncate(time.Second)), families: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	r.root.Signed.ConsistentSnapshot = false
	r.targets = metadata.Targets(now.Add(rootLife).UTC().Truncate(time.Second))
	return r, s.into(&r.root.Signed)
}

// into writes who signs what into a root.
func (s Setup) into(root *metadata.RootType) error {
	root.Keys = map[string]*metadata.Key{}
	for _, p := range []struct {
		role string
		q    Quorum
	}{{metadata.ROOT, s.Root}, {metadata.TARGETS, s.Releases}, {metadata.SNAPSHOT, s.Publish}, {metadata.TIMESTAMP, s.Publish}} {
		if err := p.q.check(p.role); err != nil {
			return err
		}
		root.Roles[p.role] = &metadata.Role{KeyIDs: []string{}, Threshold: p.q.Threshold}
		for _, public := range p.q.Keys {
			key, err := metadata.KeyFromPublicKey(public)
			if err == nil {
				err = root.AddKey(key, p.role)
			}
			if err != nil {
				return err
			}
		}
		if n := len(root.Roles[p.role].KeyIDs); n < p.q.Threshold {
			return fmt.Errorf("%s: %d different keys for a threshold of %d", p.role, n, p.q.Threshold)
		}
	}
	delete(root.UnrecognizedFields, directorField)
	if s.Director != nil {
		key, err := metadata.KeyFromPublicKey(s.Director)
		if err != nil {
			return err
		}
		id := KeyID(s.Director)
		root.Keys[id] = key
		if root.UnrecognizedFields == nil {
			root.UnrecognizedFields = map[string]any{}
		}
		root.UnrecognizedFields[directorField] = map[string]any{"keyids": []any{id}, "threshold": 1}
	}
	return nil
}

// Setup is who signs what by now.
func (r *Repository) Setup() (Setup, error) {
	root := &r.root.Signed
	quorum := func(role *metadata.Role) (q Quorum, err error) {
		q.Threshold = role.Threshold
		for _, id := range role.KeyIDs {
			public, err := root.Keys[id].ToPublicKey()
			if err != nil {
				return q, err
			}
			q.Keys = append(q.Keys, public.(ed25519.PublicKey))
		}
		return q, nil
	}
	var s Setup
	var errs [4]error
	s.Root, errs[0] = quorum(root.Roles[metadata.ROOT])
	s.Releases, errs[1] = quorum(root.Roles[metadata.TARGETS])
	s.Publish, errs[2] = quorum(root.Roles[metadata.TIMESTAMP])
	if role, err := directorOf(root); err == nil {
		var q Quorum
		q, errs[3] = quorum(role)
		s.Director = q.Keys[0]
	}
	return s, errors.Join(errs[:]...)
}

// Rotate begins the next root, with other keys. It is in force when enough of the old
// keys and of the new ones have signed it. What was signed with keys that are gone has
// to be signed anew.
func (r *Repository) Rotate(s Setup, now time.Time) error {
	next := r.root
	if r.rootInForce() {
		b, err := r.root.ToBytes(false)
		if err != nil {
			return err
		}
		if next, err = metadata.Root().FromBytes(b); err != nil {
			return err
		}
		next.Signed.Version++
	}
	if err := s.into(&next.Signed); err != nil {
		return err
	}
	next.Signed.Expires = now.Add(rootLife).UTC().Truncate(time.Second)
	next.Signatures = nil
	r.root = next
	return nil
}

// rootInForce says whether the newest root has its signatures.
func (r *Repository) rootInForce() bool { return int64(len(r.roots)) == r.root.Signed.Version }

// Delegate gives releases of a name to other keys: a family. An old family of the same
// name gets the new keys. What Pilot gives is a name, too.
func (r *Repository) Delegate(family string, releases []string, q Quorum, now time.Time) error {
	if err := q.check(family); err != nil {
		return err
	}
	if !wire.ValidID(family) || slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], family) {
		return fmt.Errorf("a family cannot be called %q: use [a-z0-9-]{1,32}, and none of %s", family, strings.Join(metadata.TOP_LEVEL_ROLE_NAMES[:], ", "))
	}
	for _, name := range releases {
		if bare, is := strings.CutPrefix(name, pilot); !wire.ValidID(bare) && !(is && bare == "*") {
			return fmt.Errorf("%q is no release's name: use [a-z0-9-]{1,32}", name)
		}
	}
	t := &r.targets.Signed
	if t.Delegations == nil {
		t.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	}
	role := metadata.DelegatedRole{Name: family, KeyIDs: []string{}, Threshold: q.Threshold, Terminating: true}
	for _, name := range releases {
		role.Paths = append(role.Paths, name+"/*")
	}
	for _, public := range q.Keys {
		key, err := metadata.KeyFromPublicKey(public)
		if err != nil {
			return err
		}
		id := KeyID(public)
		role.KeyIDs, t.Delegations.Keys[id] = append(role.KeyIDs, id), key
	}
	t.Delegations.Roles = append(slices.DeleteFunc(t.Delegations.Roles, func(d metadata.DelegatedRole) bool { return d.Name == family }), role)
	if r.families[family] == nil {
		r.families[family] = metadata.Targets(now.Add(rootLife).UTC().Truncate(time.Second))
	}
	changed(r.targets, now)
	return nil
}

// changed begins a new version that nobody has signed, unless the last one is such.
func changed(m *metadata.Metadata[metadata.TargetsType], now time.Time) {
	if len(m.Signatures) > 0 {
		m.Signed.Version++
	}
	m.Signed.Expires = now.Add(rootLife).UTC().Truncate(time.Second)
	m.Signatures = nil
}

// Allow lets a release run, once it is signed. What is so already stays as it is, so
// that the second signer finds what the first has signed.
func (r *Repository) Allow(t Target, now time.Time) error {
	sum, err := hex.DecodeString(t.SHA256)
	if err != nil || len(sum) != 32 || t.Length <= 0 {
		return fmt.Errorf("%s: no length and SHA-256", t.Name)
	}
	m := r.owner(t.Name)
	f := &metadata.TargetFiles{Length: t.Length, Hashes: metadata.Hashes{"sha256": sum}}
	if old := m.Signed.Targets[t.Name]; old != nil {
		if old.Length == f.Length && old.Hashes.Equal(f.Hashes) {
			return nil
		}
		return fmt.Errorf("%s is another release by now: give the new one a new version", t.Name)
	}
	m.Signed.Targets[t.Name] = f
	changed(m, now)
	return nil
}

// Withdraw takes a release's leave to run: no board installs it any more.
func (r *Repository) Withdraw(name string, now time.Time) error {
	m := r.owner(name)
	if m.Signed.Targets[name] == nil {
		return fmt.Errorf("%s is not among the signed releases", name)
	}
	delete(m.Signed.Targets, name)
	changed(m, now)
	return nil
}

// owner is the role that signs a target: the first family that has its name, or all.
func (r *Repository) owner(name string) *metadata.Metadata[metadata.TargetsType] {
	if d := r.targets.Signed.Delegations; d != nil {
		for _, role := range d.Roles {
			if covers(role.Paths, name) {
				return r.families[role.Name]
			}
		}
	}
	return r.targets
}

// rootByOldKeys is a root that follows another, as the keys of that one see it.
const rootByOldKeys = "root (by the old keys)"

// A Role is how far one file of the repository has got.
type Role struct {
	Name    string
	Version int64
	Expires time.Time
	Have    int // signatures of its keys
	Need    int
	Keys    []string // their names
	By      []string // those of them that have signed it
}

// Signed says whether the file has its signatures.
func (r Role) Signed() bool { return r.Need > 0 && r.Have >= r.Need }

// roleOf counts what a file has of what it needs.
func roleOf[T metadata.Roles](name string, m *metadata.Metadata[T], version int64, expires time.Time, keys map[string]*metadata.Key, ids []string, threshold int) (Role, error) {
	r := Role{Name: name, Version: version, Expires: expires, Need: threshold, Keys: ids}
	message, err := cjson.EncodeCanonical(m.Signed)
	if err == nil {
		r.By = signers(keys, ids, message, m.Signatures)
		r.Have = len(r.By)
	}
	return r, err
}

// Roles is how far all files have got, the root first. A root that follows another
// needs the old keys as well, and is there twice.
func (r *Repository) Roles() ([]Role, error) {
	var list []Role
	add := func(role Role, err error) error {
		list = append(list, role)
		return err
	}
	root := &r.root.Signed
	if n := len(r.roots); n > 0 && !r.rootInForce() {
		old, err := metadata.Root().FromBytes(r.roots[n-1])
		if err != nil {
			return nil, err
		}
		keys := old.Signed.Roles[metadata.ROOT]
		if err := add(roleOf(rootByOldKeys, r.root, root.Version, root.Expires, old.Signed.Keys, keys.KeyIDs, keys.Threshold)); err != nil {
			return nil, err
		}
	}
	keys := root.Roles[metadata.ROOT]
	err := add(roleOf(metadata.ROOT, r.root, root.Version, root.Expires, root.Keys, keys.KeyIDs, keys.Threshold))
	keys = root.Roles[metadata.TARGETS]
	err = errors.Join(err, add(roleOf(metadata.TARGETS, r.targets, r.targets.Signed.Version, r.targets.Signed.Expires, root.Keys, keys.KeyIDs, keys.Threshold)))
	if d := r.targets.Signed.Delegations; d != nil {
		for _, role := range d.Roles {
			m := r.families[role.Name]
			err = errors.Join(err, add(roleOf(role.Name, m, m.Signed.Version, m.Signed.Expires, d.Keys, role.KeyIDs, role.Threshold)))
		}
	}
	keys = root.Roles[metadata.SNAPSHOT]
	if r.snapshot != nil {
		err = errors.Join(err, add(roleOf(metadata.SNAPSHOT, r.snapshot, r.snapshot.Signed.Version, r.snapshot.Signed.Expires, root.Keys, keys.KeyIDs, keys.Threshold)))
	}
	keys = root.Roles[metadata.TIMESTAMP]
	if r.timestamp != nil {
		err = errors.Join(err, add(roleOf(metadata.TIMESTAMP, r.timestamp, r.timestamp.Signed.Version, r.timestamp.Signed.Expires, root.Keys, keys.KeyIDs, keys.Threshold)))
	}
	return list, err
}

// Keys are all keys that something is said of, by their names: those that sign, and the
// director's.
func (r *Repository) Keys() (map[string]ed25519.PublicKey, error) {
	all := map[string]ed25519.PublicKey{}
	list := []map[string]*metadata.Key{r.root.Signed.Keys}
	if n := len(r.roots); n > 0 && !r.rootInForce() {
		old, err := metadata.Root().FromBytes(r.roots[n-1])
		if err != nil {
			return nil, err
		}
		list = append(list, old.Signed.Keys)
	}
	if d := r.targets.Signed.Delegations; d != nil {
		list = append(list, d.Keys)
	}
	for _, keys := range list {
		for id, key := range keys {
			public, err := key.ToPublicKey()
			p, ok := public.(ed25519.PublicKey)
			if err != nil || !ok {
				return nil, fmt.Errorf("key %.8s is none of ed25519: %w", id, err)
			}
			all[id] = p
		}
	}
	return all, nil
}

// Sign signs with one key all that it may sign and has not: the root, the releases,
// the families; and where those have all their signatures, that this is all there is.
// It returns the names of what it signed.
func (r *Repository) Sign(ctx context.Context, s Signer, now time.Time) ([]string, error) {
	var done []string
	roles, err := r.Roles()
	if err != nil {
		return nil, err
	}
	id := KeyID(s.Public())
	for _, role := range roles {
		if !slices.Contains(role.Keys, id) || slices.Contains(done, role.Name) {
			continue
		}
		switch role.Name {
		case metadata.ROOT, rootByOldKeys:
			err = signOne(ctx, s, r.root, &done, metadata.ROOT)
		case metadata.TARGETS:
			err = signOne(ctx, s, r.targets, &done, metadata.TARGETS)
		case metadata.SNAPSHOT, metadata.TIMESTAMP:
		default:
			err = signOne(ctx, s, r.families[role.Name], &done, role.Name)
		}
		if err != nil {
			return done, err
		}
	}
	if err := r.enact(); err != nil {
		return done, err
	}
	published, err := r.publish(ctx, s, now)
	return append(done, published...), err
}

// signOne signs a file that the key has not signed yet.
func signOne[T metadata.Roles](ctx context.Context, s Signer, m *metadata.Metadata[T], done *[]string, name string) error {
	id := KeyID(s.Public())
	message, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return err
	}
	key, err := metadata.KeyFromPublicKey(s.Public())
	if err != nil {
		return err
	}
	if count(map[string]*metadata.Key{id: key}, []string{id}, message, m.Signatures) == 1 {
		return nil
	}
	if m.Signatures, err = sign(ctx, s, message, m.Signatures); err != nil {
		return fmt.Errorf("sign %s: %w", name, err)
	}
	*done = append(*done, name)
	return nil
}

// enact puts a root that has all its signatures into force.
func (r *Repository) enact() error {
	if r.rootInForce() {
		return nil
	}
	roles, err := r.Roles()
	if err != nil {
		return err
	}
	for _, role := range roles {
		if (role.Name == metadata.ROOT || role.Name == rootByOldKeys) && !role.Signed() {
			return nil
		}
	}
	b, err := r.root.ToBytes(false)
	if err != nil {
		return err
	}
	r.roots = append(r.roots, b)
	return nil
}

// ErrUnsigned is a repository in which signatures are missing.
var ErrUnsigned = errors.New("signatures are missing: see `covey trust status`")

// publish makes a snapshot and a timestamp of what is signed, when the key may and
// something has changed, or half of their time is over.
func (r *Repository) publish(ctx context.Context, s Signer, now time.Time) ([]string, error) {
	role := r.root.Signed.Roles[metadata.TIMESTAMP]
	if !r.rootInForce() || !slices.Contains(role.KeyIDs, KeyID(s.Public())) {
		return nil, nil
	}
	roles, err := r.Roles()
	if err != nil {
		return nil, err
	}
	for _, role := range roles {
		if role.Name != metadata.SNAPSHOT && role.Name != metadata.TIMESTAMP && !role.Signed() {
			return nil, nil
		}
	}
	meta, err := r.meta()
	if err != nil {
		return nil, err
	}
	expires := now.Add(freshLife).UTC().Truncate(time.Second)
	snapshot := metadata.Snapshot(expires)
	snapshot.Signed.Meta = meta
	if r.snapshot != nil {
		fresh := r.timestamp != nil && r.timestamp.Signed.Expires.Sub(now) > freshLife/2
		if fresh && r.published(meta) {
			return nil, nil
		}
		snapshot.Signed.Version = r.snapshot.Signed.Version + 1
	}
	var done []string
	if err := signOne(ctx, s, snapshot, &done, metadata.SNAPSHOT); err != nil {
		return nil, err
	}
	b, err := snapshot.ToBytes(false)
	if err != nil {
		return nil, err
	}
	timestamp := metadata.Timestamp(expires)
	if r.timestamp != nil {
		timestamp.Signed.Version = r.timestamp.Signed.Version + 1
	}
	if timestamp.Signed.Meta["snapshot.json"], err = metaFile(b, snapshot.Signed.Version); err != nil {
		return nil, err
	}
	if err := signOne(ctx, s, timestamp, &done, metadata.TIMESTAMP); err != nil {
		return nil, err
	}
	r.snapshot, r.timestamp = snapshot, timestamp
	return done, nil
}

// published says whether the snapshot is of these files and counts under the root.
func (r *Repository) published(meta map[string]*metadata.MetaFiles) bool {
	roles, err := r.Roles()
	if err != nil || slices.ContainsFunc(roles, func(r Role) bool { return !r.Signed() }) {
		return false
	}
	return maps.EqualFunc(meta, r.snapshot.Signed.Meta, func(a, b *metadata.MetaFiles) bool {
		return a.Version == b.Version && a.Length == b.Length && a.Hashes.Equal(b.Hashes)
	})
}

// meta is what a snapshot says of the files of releases.
func (r *Repository) meta() (map[string]*metadata.MetaFiles, error) {
	meta := map[string]*metadata.MetaFiles{}
	b, err := r.targets.ToBytes(false)
	if err == nil {
		meta["targets.json"], err = metaFile(b, r.targets.Signed.Version)
	}
	for name, m := range r.families {
		if err != nil {
			break
		}
		if b, err = m.ToBytes(false); err == nil {
			meta[name+".json"], err = metaFile(b, m.Signed.Version)
		}
	}
	return meta, err
}

func metaFile(b []byte, version int64) (*metadata.MetaFiles, error) {
	f, err := metadata.TargetFile().FromBytes("", b, "sha256")
	if err != nil {
		return nil, err
	}
	return &metadata.MetaFiles{Length: f.Length, Hashes: f.Hashes, Version: version}, nil
}

// Bundle is what devices are sent. Where signatures are missing it is ErrUnsigned.
func (r *Repository) Bundle() (Bundle, error) {
	roles, err := r.Roles()
	if err != nil {
		return Bundle{}, err
	}
	if r.timestamp == nil || slices.ContainsFunc(roles, func(r Role) bool { return !r.Signed() }) {
		return Bundle{}, ErrUnsigned
	}
	b := Bundle{Roots: slices.Clone(r.roots), Families: map[string][]byte{}}
	files := map[string]func(bool) ([]byte, error){"timestamp": r.timestamp.ToBytes, "snapshot": r.snapshot.ToBytes, "targets": r.targets.ToBytes}
	for name, to := range map[string]*[]byte{"timestamp": &b.Timestamp, "snapshot": &b.Snapshot, "targets": &b.Targets} {
		if *to, err = files[name](false); err != nil {
			return Bundle{}, err
		}
	}
	for name, m := range r.families {
		if b.Families[name], err = m.ToBytes(false); err != nil {
			return Bundle{}, err
		}
	}
	return b, nil
}

// FirstFingerprint is what devices are handed when they join; "" before the first root
// is signed.
func (r *Repository) FirstFingerprint() Fingerprint {
	if len(r.roots) == 0 {
		return ""
	}
	return FingerprintOf(r.roots[0])
}

// FileName is the repository's file in its folder.
const FileName = "trust.json"

// maxRepository bounds it, bytes.
const maxRepository = 16 << 20

// A stored repository is one file, so that no crash and no merge leaves half of it.
type stored struct {
	V         int                        `json:"v"`
	Roots     [][]byte                   `json:"roots"`
	Root      json.RawMessage            `json:"root"`
	Targets   json.RawMessage            `json:"targets"`
	Families  map[string]json.RawMessage `json:"families,omitempty"`
	Snapshot  json.RawMessage            `json:"snapshot,omitempty"`
	Timestamp json.RawMessage            `json:"timestamp,omitempty"`
}

// Save writes the repository into its folder.
func (r *Repository) Save(dir string) error {
	s := stored{V: 1, Roots: r.roots, Families: map[string]json.RawMessage{}}
	var err error
	put := func(to *json.RawMessage, bytes func(bool) ([]byte, error)) {
		if err == nil {
			*to, err = bytes(false)
		}
	}
	put(&s.Root, r.root.ToBytes)
	put(&s.Targets, r.targets.ToBytes)
	for name, m := range r.families {
		var b json.RawMessage
		put(&b, m.ToBytes)
		s.Families[name] = b
	}
	if r.timestamp != nil {
		put(&s.Snapshot, r.snapshot.ToBytes)
		put(&s.Timestamp, r.timestamp.ToBytes)
	}
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return blob.WriteFile(blob.OS{}, filepath.Join(dir, FileName), append(b, '\n'))
}

// Load reads a repository from its folder.
func Load(dir string) (*Repository, error) {
	path := filepath.Join(dir, FileName)
	b, err := blob.ReadFile(blob.OS{}, path, maxRepository)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no trust repository: begin one with `covey trust init`", dir)
	}
	if err != nil {
		return nil, err
	}
	var s stored
	if err := json.Unmarshal(b, &s); err != nil || s.V != 1 {
		return nil, fmt.Errorf("%s is damaged, or of a later version (%v)", path, err)
	}
	r := &Repository{roots: s.Roots, families: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	r.root, err = metadata.Root().FromBytes(s.Root)
	if err == nil {
		r.targets, err = metadata.Targets().FromBytes(s.Targets)
	}
	for name, b := range s.Families {
		if err == nil {
			r.families[name], err = metadata.Targets().FromBytes(b)
		}
	}
	if err == nil && s.Timestamp != nil {
		if r.snapshot, err = metadata.Snapshot().FromBytes(s.Snapshot); err == nil {
			r.timestamp, err = metadata.Timestamp().FromBytes(s.Timestamp)
		}
	}
	if err != nil {
		return nil, refused(path, err)
	}
	return r, nil
}
