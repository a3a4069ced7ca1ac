package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Check reads the whole file and says whether it is sound: its pages, and the
// checksum of every value. A missing file is. A damaged one can end the process
// by a signal, or make it turn for ever: call Check in a process of its own, with
// a limit. ErrInUse says nothing about the file but that.
func Check(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, ReadOnly: true})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("check %s: %w", path, ErrInUse)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	err = db.View(func(tx *bolt.Tx) (err error) {
		for e := range tx.Check() { // to its end, or its goroutine stays
			err = errors.Join(err, e)
		}
		if err != nil {
			return err
		}
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, raw []byte) error {
				_, err := decode[json.RawMessage](string(name), string(k), raw)
				return err
			})
		})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	return nil
}
