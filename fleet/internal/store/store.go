// Package store keeps the controller's data in one bbolt file: JSON values with
// a checksum, in named buckets. It knows nothing of what is in them. It is the
// only room of the controller that touches bbolt.
package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

var (
	// ErrNotFound says that a key is not there.
	ErrNotFound = errors.New("not found")
	// ErrCorrupt says that a value's checksum is wrong: the file has rotted.
	ErrCorrupt = errors.New("stored value is damaged")
	// ErrInUse says that another process has the file open.
	ErrInUse = errors.New("in use by another process")
	// ErrStop returned by the function of Each ends the walk without an error.
	ErrStop = errors.New("stop")
)

// A Store is an open database file. It may be used by many goroutines.
type Store struct {
	db *bolt.DB

	mu    sync.Mutex
	queue []*call // waits for the next commit of Batch
	busy  bool    // somebody leads a commit
}

// A Tx is one transaction. It ends with the function it was handed to.
type Tx struct{ tx *bolt.Tx }

// Open opens the file, or creates it so that a power cut leaves either none or a
// whole one. A second process that opens it gets ErrInUse after a second. An empty file is damage.
func Open(path string) (*Store, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(path)
	} else if err == nil && fi.Size() == 0 { // bbolt would begin anew, as if nothing had ever been here
		err = fmt.Errorf("open %s: the file is empty", path)
	}
	if err != nil {
		return nil, err
	}
	db, err := open(path)
	if err != nil {
		return nil, err
	}
	return &Store{db: db}, nil
}

func open(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// create makes an empty database beside its place and moves it there, because a
// power cut while bbolt writes its first pages leaves a file it cannot open.
func create(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create %s: %w", path, err)
	}
	db, err := open(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Sync(), db.Close()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close waits for transactions under way and closes the file.
func (s *Store) Close() error { return s.db.Close() }

// View runs fn on a consistent picture of the data. It never waits for writers.
func (s *Store) View(fn func(*Tx) error) error {
	return s.db.View(func(tx *bolt.Tx) error { return fn(&Tx{tx}) })
}

// Update runs fn in a transaction. When it returns nil, what fn wrote is on
// the disk; when fn or the commit fails, nothing of it is.
func (s *Store) Update(fn func(*Tx) error) error {
	return s.db.Update(func(tx *bolt.Tx) error { return fn(&Tx{tx}) })
}

// Size is the file's size in bytes.
func (s *Store) Size() (n int64) {
	s.db.View(func(tx *bolt.Tx) error { n = tx.Size(); return nil })
	return n
}

// Write copies a consistent picture of the whole database, a backup.
func (s *Store) Write(path string) error {
	return s.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(path, 0o600) })
}

// OnCommit calls fn after the transaction is on the disk. Functions of different
// transactions may run in another order than these were committed.
func (tx *Tx) OnCommit(fn func()) { tx.tx.OnCommit(fn) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Get reads the value of a key: ErrNotFound, ErrCorrupt.
func Get[T any](tx *Tx, bucket, key string) (v T, err error) {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return v, ErrNotFound
	}
	raw := b.Get([]byte(key))
	if raw == nil {
		return v, ErrNotFound
	}
	return decode[T](bucket, key, raw)
}

// decode checks the CRC-32C in front of a value and reads the JSON behind it.
func decode[T any](bucket, key string, raw []byte) (v T, err error) {
	if len(raw) < 4 || binary.BigEndian.Uint32(raw) != crc32.Checksum(raw[4:], castagnoli) {
		return v, fmt.Errorf("read %s %q: %w", bucket, key, ErrCorrupt)
	}
	if err := json.Unmarshal(raw[4:], &v); err != nil {
		return v, fmt.Errorf("read %s %q: %w", bucket, key, err)
	}
	return v, nil
}

// Put writes the value of a key.
func Put[T any](tx *Tx, bucket, key string, v T) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s %q: %w", bucket, key, err)
	}
	b, err := tx.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("write %s: %w", bucket, err)
	}
	raw := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(raw, crc32.Checksum(body, castagnoli))
	if err := b.Put([]byte(key), append(raw, body...)); err != nil {
		return fmt.Errorf("write %s %q: %w", bucket, key, err)
	}
	return nil
}

// Has says whether a key is there, without reading its value.
func Has(tx *Tx, bucket, key string) bool {
	b := tx.tx.Bucket([]byte(bucket))
	return b != nil && b.Get([]byte(key)) != nil
}

// Delete removes a key; one that is not there is no error.
func Delete(tx *Tx, bucket, key string) error {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Delete([]byte(key))
}

// Each calls fn for every key of a bucket that begins with prefix, in the order
// of keys, until fn returns an error. fn must not write to the bucket.
func Each[T any](tx *Tx, bucket, prefix string, fn func(key string, v T) error) error {
	return EachFrom(tx, bucket, prefix, prefix, fn)
}

// EachFrom is Each beginning at the key from, which itself begins with prefix.
func EachFrom[T any](tx *Tx, bucket, prefix, from string, fn func(key string, v T) error) error {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, raw := c.Seek([]byte(from)); k != nil && strings.HasPrefix(string(k), prefix); k, raw = c.Next() {
		v, err := decode[T](bucket, string(k), raw)
		if err == nil {
			err = fn(string(k), v)
		}
		if errors.Is(err, ErrStop) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// First is the first key that begins with prefix, "" when there is none.
func First(tx *Tx, bucket, prefix string) string { return After(tx, bucket, prefix, prefix) }

// Last is the last key that begins with prefix, "" when there is none. Keys are
// ASCII.
func Last(tx *Tx, bucket, prefix string) string {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return ""
	}
	c := b.Cursor()
	k, _ := c.Seek([]byte(prefix + "\xff"))
	if k == nil {
		k, _ = c.Last()
	} else {
		k, _ = c.Prev()
	}
	if !strings.HasPrefix(string(k), prefix) {
		return ""
	}
	return string(k)
}

// After is the first key at from or behind it that begins with prefix; "" when
// there is none.
func After(tx *Tx, bucket, prefix, from string) string {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return ""
	}
	k, _ := b.Cursor().Seek([]byte(from))
	if !strings.HasPrefix(string(k), prefix) {
		return ""
	}
	return string(k)
}
