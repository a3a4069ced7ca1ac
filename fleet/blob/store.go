// Package blob keeps files by their SHA-256 so that a power cut at any moment
// leaves each of them whole or absent. Both ends use it: a board for the models
// it runs, a controller for the releases it hands out. It touches one folder,
// through the small interface FS.
//
// A blob is a file named by its hash. One that is still being received is beside
// it as <hash>.part; what Put writes is tmp-<random> until it is complete.
package blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// MaxLength is the length of the longest blob, in bytes.
const MaxLength = 1 << 30

// reserve is what is left free on the disk for everything else, bytes.
const reserve = 8 << 20

const (
	partSuffix = ".part"
	tmpPrefix  = "tmp-"
)

// A Store is one folder of blobs. It may be used by many goroutines; one blob is
// received or deleted by one at a time.
type Store struct {
	fs  FS
	dir string
}

// Info is one blob of a Store.
type Info struct {
	SHA    wire.Digest
	Length int64 // bytes
}

// Open opens the store in dir, making the folder, and removes what an
// interrupted Put left. Partly received blobs stay and go on.
func Open(dir string, fsys FS) (*Store, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("open blobs in %s: %w", dir, Coded(err, dir))
	}
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open blobs in %s: %w", dir, Coded(err, dir))
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tmpPrefix) {
			// A file that stays costs space and nothing else.
			_ = fsys.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return &Store{fs: fsys, dir: dir}, nil
}

// Path is where the blob lies, or would.
func (s *Store) Path(sha wire.Digest) string { return filepath.Join(s.dir, string(sha)) }

// Has says whether the blob is here, complete. Its bytes were right when they
// were written; Verify says whether they still are.
func (s *Store) Has(sha wire.Digest) bool {
	if !wire.ValidDigest(string(sha)) {
		return false
	}
	_, err := s.fs.Stat(s.Path(sha))
	return err == nil
}

// Open opens a blob for reading. The error is fs.ErrNotExist when it is not here.
func (s *Store) Open(sha wire.Digest) (File, error) {
	if !wire.ValidDigest(string(sha)) {
		return nil, badDigest(sha)
	}
	return s.fs.Open(s.Path(sha))
}

// Length is the length of a blob, bytes. The error is fs.ErrNotExist when it is not
// here.
func (s *Store) Length(sha wire.Digest) (int64, error) {
	if !wire.ValidDigest(string(sha)) {
		return 0, badDigest(sha)
	}
	fi, err := s.fs.Stat(s.Path(sha))
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Read returns a blob of at most max bytes, whose hash it checks (E_HASH_ATREST).
func (s *Store) Read(sha wire.Digest, max int64) ([]byte, error) {
	if !wire.ValidDigest(string(sha)) {
		return nil, badDigest(sha)
	}
	b, err := ReadFile(s.fs, s.Path(sha), max)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", sha.Short(), err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != string(sha) {
		return nil, rotten(sha, sum[:])
	}
	return b, nil
}

// Put reads exactly length bytes from r and keeps them as the blob sha. Errors:
// E_HASH when the bytes are others, E_LENGTH when there are more, E_MODEL_SHORT
// when there are fewer, E_DISK_FULL, or what r returns.
func (s *Store) Put(ctx context.Context, sha wire.Digest, length int64, r io.Reader) error {
	if err := s.admit(sha, length, length); err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, tmpPrefix+rand.Text())
	err := s.putTemp(ctx, tmp, sha, length, r)
	if err == nil {
		err = s.fs.Rename(tmp, s.Path(sha))
	}
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		_ = s.fs.Remove(tmp) // removed at the next Open otherwise
		return fmt.Errorf("store blob %s: %w", sha.Short(), Coded(err, s.dir))
	}
	return nil
}

func (s *Store) putTemp(ctx context.Context, tmp string, sha wire.Digest, length int64, r io.Reader) error {
	f, err := s.fs.Create(tmp)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, h), &ctxReader{ctx, io.LimitReader(r, length+1)}, make([]byte, wire.BlockSize))
	switch {
	case err != nil:
	case n > length:
		err = &hal.Error{Code: hal.CodeLength, Text: fmt.Sprintf("stopped at %d bytes: %d were announced", n, length)}
	case n < length:
		err = &hal.Error{Code: hal.CodeModelShort, Text: fmt.Sprintf("got %d of %d bytes: send the whole file again", n, length)}
	default:
		err = checkSum(sha, h.Sum(nil))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// admit checks what is announced before a byte is written: a legal name, a
// length within bounds, and room for the need bytes that are still to come.
func (s *Store) admit(sha wire.Digest, length, need int64) error {
	if !wire.ValidDigest(string(sha)) {
		return badDigest(sha)
	}
	if length < 0 || length > MaxLength {
		return &hal.Error{Code: hal.CodeLength, Text: fmt.Sprintf("a file of %d bytes is not taken: the limit is %d", length, MaxLength)}
	}
	return s.Room(need)
}

// Wants is how many bytes of a blob of length bytes are still to come, by the lengths
// of the files: 0 when it is here.
func (s *Store) Wants(sha wire.Digest, length int64) int64 {
	if s.Has(sha) || !wire.ValidDigest(string(sha)) {
		return 0
	}
	fi, err := s.fs.Stat(s.Path(sha) + partSuffix)
	if err != nil {
		return length
	}
	return max(0, length-fi.Size())
}

// Room says whether the disk has room for need more bytes, and some to spare: nil,
// or E_DISK_FULL.
func (s *Store) Room(need int64) error {
	free, err := s.fs.Free(s.dir)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, Coded(err, s.dir))
	}
	if need > 0 && free < need+reserve {
		return &hal.Error{Code: hal.CodeDiskFull, Text: fmt.Sprintf("need %s and %s to spare, free %s at %s: free some",
			size(need), size(reserve), size(free), s.dir)}
	}
	return nil
}

// Verify reads a blob and compares its hash: nil, E_HASH_ATREST, or an error of
// the disk (fs.ErrNotExist when it is not here).
func (s *Store) Verify(ctx context.Context, sha wire.Digest) error {
	f, err := s.Open(sha)
	if err != nil {
		return fmt.Errorf("verify blob %s: %w", sha.Short(), Coded(err, s.dir))
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, &ctxReader{ctx, f}, make([]byte, wire.BlockSize)); err != nil {
		return fmt.Errorf("verify blob %s: %w", sha.Short(), Coded(err, s.dir))
	}
	if sum := h.Sum(nil); hex.EncodeToString(sum) != string(sha) {
		return rotten(sha, sum)
	}
	return nil
}

// Delete removes a blob and what was received of it. Deleting what is not here
// is no error.
func (s *Store) Delete(sha wire.Digest) error {
	if !wire.ValidDigest(string(sha)) {
		return badDigest(sha)
	}
	for _, name := range []string{s.Path(sha), s.Path(sha) + partSuffix} {
		if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete blob %s: %w", sha.Short(), Coded(err, s.dir))
		}
	}
	return nil
}

// List returns the complete blobs, sorted by hash.
func (s *Store) List() ([]Info, error) {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", Coded(err, s.dir))
	}
	var list []Info
	for _, e := range entries {
		if !wire.ValidDigest(e.Name()) {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			continue // deleted since
		}
		list = append(list, Info{SHA: wire.Digest(e.Name()), Length: fi.Size()})
	}
	return list, nil
}

// Collect removes every blob, complete or not, that keep says no to, and returns
// the bytes that were freed.
func (s *Store) Collect(keep func(wire.Digest) bool) (freed int64, err error) {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("collect blobs: %w", Coded(err, s.dir))
	}
	for _, e := range entries {
		sha := strings.TrimSuffix(e.Name(), partSuffix)
		if !wire.ValidDigest(sha) || keep(wire.Digest(sha)) {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			continue // deleted since
		}
		if err := s.fs.Remove(filepath.Join(s.dir, e.Name())); err != nil {
			return freed, fmt.Errorf("collect blob %s: %w", sha[:16], Coded(err, s.dir))
		}
		freed += fi.Size()
	}
	return freed, nil
}

// ctxReader ends a copy when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

func checkSum(want wire.Digest, got []byte) error {
	if g := hex.EncodeToString(got); g != string(want) {
		return &hal.Error{Code: hal.CodeHash, Text: fmt.Sprintf("want %s… got %s…: these are not the bytes that were announced", want.Short(), g[:16])}
	}
	return nil
}

func rotten(sha wire.Digest, got []byte) error {
	return &hal.Error{Code: hal.CodeHashAtRest, Text: fmt.Sprintf("file %s… reads as %s…: the disk or card lost bits", sha.Short(), hex.EncodeToString(got)[:16])}
}

func badDigest(sha wire.Digest) error {
	return &hal.Error{Code: hal.CodePath, Text: fmt.Sprintf("%.80q is not a SHA-256 in lower-case hex", string(sha))}
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d kB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
