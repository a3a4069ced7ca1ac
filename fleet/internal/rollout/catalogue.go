package rollout

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

const bucketRelease = "release" // digest → Entry

var (
	// ErrNoRelease says that no release, or more than one, is called so.
	ErrNoRelease = errors.New("no such release")
	// ErrTaken says that a release of this name and version exists with other content.
	ErrTaken = errors.New("name and version are taken")
)

// A Catalogue is the releases that can be rolled out. Manifests and files are
// blobs; the store says which of them are releases. It may be used by many
// goroutines.
type Catalogue struct {
	db    *store.Store
	blobs *blob.Store
}

// NewCatalogue makes a catalogue over a store and blobs that it does not own.
func NewCatalogue(db *store.Store, blobs *blob.Store) *Catalogue {
	return &Catalogue{db: db, blobs: blobs}
}

// An Entry is one release of a catalogue.
type Entry struct {
	Release
	Task   string    `json:"task"`
	Size   int64     `json:"size"` // bytes of all files
	Pushed time.Time `json:"pushed"`
	By     string    `json:"by"`
}

// Add makes a release of a manifest whose files are all here. missing names
// those that are not, and then nothing was added. Adding what is there already
// changes nothing. Errors: ErrTaken, and those of release.Parse.
func (c *Catalogue) Add(ctx context.Context, manifest []byte, by string) (e Entry, missing []release.File, err error) {
	m, err := release.Parse(manifest)
	if err != nil {
		return e, nil, err
	}
	body := m.Canonical()
	e = Entry{
		Release: Release{Digest: m.Digest(), Length: int64(len(body)), Name: m.Name, Version: m.Version},
		Task:    m.Task, Pushed: time.Now().UTC(), By: by,
	}
	for _, f := range m.Files() {
		e.Size += f.Length
		if !c.blobs.Has(wire.Digest(f.SHA256)) {
			missing = append(missing, f)
		}
	}
	if missing != nil {
		return e, missing, nil
	}
	if err := c.blobs.Put(ctx, e.Digest, e.Length, bytes.NewReader(body)); err != nil {
		return e, nil, err
	}
	err = c.db.Update(func(tx *store.Tx) error { return add(tx, &e) })
	return e, nil, err
}

// add writes an entry unless it is there; then *e becomes what is there.
func add(tx *store.Tx, e *Entry) error {
	old, err := store.Get[Entry](tx, bucketRelease, string(e.Digest))
	if err == nil {
		*e = old
		return nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	err = store.Each(tx, bucketRelease, "", func(_ string, o Entry) error {
		if o.Name == e.Name && o.Version == e.Version {
			return fmt.Errorf("release %s@%s: %w by other files (%s)", e.Name, e.Version, ErrTaken, o.Digest.Short())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return store.Put(tx, bucketRelease, string(e.Digest), *e)
}

// List is every release, newest first.
func (c *Catalogue) List() (list []Entry, err error) {
	err = c.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketRelease, "", func(_ string, e Entry) error {
			list = append(list, e)
			return nil
		})
	})
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(b.Pushed.Compare(a.Pushed), cmp.Compare(a.Digest, b.Digest))
	})
	return list, err
}

// Find is the release that a person means: name@version, name (the newest), or
// the beginning of a digest. ErrNoRelease.
func (c *Catalogue) Find(ref string) (Entry, error) {
	list, err := c.List()
	if err != nil {
		return Entry{}, err
	}
	name, version, exact := strings.Cut(ref, "@")
	for _, e := range list {
		if e.Name == name && (!exact || e.Version == version) {
			return e, nil
		}
	}
	var found []Entry
	for _, e := range list {
		if len(ref) >= minPrefix && strings.HasPrefix(string(e.Digest), ref) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Entry{}, fmt.Errorf("release %q: %w", ref, ErrNoRelease)
	}
	return Entry{}, fmt.Errorf("release %q: %w: %d digests begin like this", ref, ErrNoRelease, len(found))
}

// minPrefix is how many digits of a digest may stand for it.
const minPrefix = 8

// Manifest reads the manifest of a release.
func (c *Catalogue) Manifest(digest wire.Digest) (*release.Manifest, error) {
	b, err := c.blobs.Read(digest, release.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest.Short(), err)
	}
	return release.Load(b, digest)
}
