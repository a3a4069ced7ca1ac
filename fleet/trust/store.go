package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
)

// A Store keeps a Set on a board's disk: the last one, and beside it the one before,
// for a file that rots.
type Store struct {
	FS   blob.FS
	Path string
}

// maxStore bounds a stored set, bytes: base64 of all there may be.
const maxStore = 4 * MaxBundle

func (s Store) old() string { return s.Path + ".old" }

// Load returns the last set that is whole and is of the given first root, and what was
// wrong with a later one. Where there is none it is New's: a bundle then has to begin
// with the first root again. An error of the disk is returned alone.
func (s Store) Load(first Fingerprint) (set Set, damage, err error) {
	for _, path := range []string{s.Path, s.old()} {
		set, err := s.read(path)
		switch {
		case err == nil && set.First == first:
			return set, damage, nil
		case err == nil || errors.Is(err, fs.ErrNotExist): // of another fleet, or none
		case hal.CodeOf(err) == hal.CodeDiskIO:
			return New(first), damage, err
		default:
			damage = errors.Join(damage, err)
		}
	}
	return New(first), damage, nil
}

func (s Store) read(path string) (Set, error) {
	b, err := blob.ReadFile(s.FS, path, maxStore)
	if err != nil {
		return Set{}, err
	}
	var set Set
	if err := json.Unmarshal(b, &set); err != nil {
		return Set{}, coded(hal.CodeStateCorrupt, "%s is damaged: %v", path, err)
	}
	if err := set.Intact(); err != nil {
		return Set{}, &hal.Error{Code: hal.CodeStateCorrupt, Text: fmt.Sprintf("%s is damaged: %v", path, err), Err: err}
	}
	return set, nil
}

// Save makes a set the last one. A power cut at any moment leaves it or the one before.
func (s Store) Save(set Set) error {
	b, err := json.Marshal(set)
	if err != nil {
		return err
	}
	if last, err := s.read(s.Path); err == nil { // a damaged one takes no good one's place
		b, err := json.Marshal(last)
		if err == nil {
			err = blob.WriteFile(s.FS, s.old(), b)
		}
		if err != nil {
			return err
		}
	}
	return blob.WriteFile(s.FS, s.Path, b)
}
