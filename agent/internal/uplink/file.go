package uplink

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The outbox file has, for each class, a bucket of bodies by position, and for
// each class and link one of entries by position: what is in neither was
// delivered. Another bucket holds counters.
//
//	exec, event, result                  position → body
//	exec/fleet, exec/home, …             position → entry
//	meta                                 "exec/fleet" → counter, "sid" → number, …

const (
	maxFile    = 64 << 20 // bytes
	allocSize  = 1 << 20  // the file grows by so much; what does not fit below maxFile is never used
	checkLimit = 20 * time.Second
	// Format is the number of the file's format.
	Format = 1
)

var metaBucket = []byte("meta")

func bodies(c class) []byte          { return []byte(c.String()) }
func entries(c class, s side) []byte { return []byte(c.String() + "/" + s.String()) }

// file is the outbox's database. A damaged file can kill the process that reads
// it (bbolt maps it), so that after an unclean stop a child looks first.
type file struct {
	db   *bolt.DB
	path string
	// aside is where a damaged file was put, "" if there was none.
	aside string
}

// Path is the outbox of a data folder.
func Path(dir string) string { return filepath.Join(dir, "outbox.db") }

// openFile opens or makes the file. check is the command line of a child that
// calls CheckMain with the path that is appended to it; empty means no check.
func openFile(path string, check []string) (*file, error) {
	f := &file{path: path}
	if err := (blob.OS{}).MkdirAll(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("outbox: %w", blob.Coded(err, path))
	}
	_, err := os.Stat(path)
	if err == nil {
		if _, dirty := os.Stat(f.marker()); dirty == nil && len(check) > 0 {
			switch runCheck(check, path) {
			case checkedLocked:
				return nil, locked(path)
			case checkedBad:
				if err := f.setAside(); err != nil {
					return nil, err
				}
			}
		}
	}
	if f.aside != "" || errors.Is(err, fs.ErrNotExist) {
		if err := f.create(); err != nil {
			return nil, err
		}
	}
	if err := blob.WriteFile(blob.OS{}, f.marker(), nil); err != nil {
		return nil, fmt.Errorf("outbox: %w", blob.Coded(err, path))
	}
	f.db, err = openDB(path)
	var system syscall.Errno
	if err != nil && !errors.Is(err, berrors.ErrTimeout) && !errors.As(err, &system) && f.aside == "" {
		// What bbolt itself refuses needs no child. What the system refuses is no
		// fault of the file.
		if err := f.setAside(); err != nil {
			return nil, err
		}
		if err := f.create(); err != nil {
			return nil, err
		}
		f.db, err = openDB(path)
	}
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, locked(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open outbox %s: %w", path, blob.Coded(err, path))
	}
	return f, nil
}

// openDB keeps the list of free pages in memory only: after a long time without a link it
// is tens of kilobytes, which every commit would write.
func openDB(path string) (db *bolt.DB, err error) {
	defer recovered(&err)
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, MaxSize: maxFile, NoFreelistSync: true})
	if err == nil {
		db.AllocSize = allocSize
	}
	return db, err
}

// recovered turns bbolt's panics about a damaged file into errors.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("database is damaged: %v", p)
	}
}

// create makes an empty file under another name first: a power cut leaves no half of one.
func (f *file) create() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("create outbox: %w", blob.Coded(err, f.path))
		}
	}()
	fresh := f.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openDB(fresh)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for c := range classes {
			if _, err := tx.CreateBucket(bodies(c)); err != nil {
				return err
			}
			for s := range sides {
				if _, err := tx.CreateBucket(entries(c, s)); err != nil {
					return err
				}
			}
		}
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		return meta.Put([]byte("format"), []byte{Format})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, f.path); err != nil {
		return err
	}
	return (blob.OS{}).SyncDir(filepath.Dir(f.path))
}

// maxAside is how many damaged files are kept: of more, the last one gives way.
const maxAside = 3

// setAside gives a damaged file another name.
func (f *file) setAside() error {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s.corrupt-%d", f.path, n)
		if _, err := os.Stat(name); err == nil && n < maxAside {
			continue
		}
		if err := os.Rename(f.path, name); err != nil {
			return fmt.Errorf("set damaged outbox aside: %w", err)
		}
		f.aside = name
		return nil
	}
}

// beyond is a number above every seq that a damaged file has given out: boards
// say less than a thousand things a second.
func (f *file) beyond() uint64 {
	at := time.Now()
	if fi, err := os.Stat(f.aside); err == nil && fi.ModTime().After(at) {
		at = fi.ModTime() // the clock is not set yet
	}
	return uint64(max(at.UnixMilli(), 1))
}

// marker names the file that exists while the outbox is open.
func (f *file) marker() string { return f.path + ".open" }

// close also says that the stop was a clean one.
func (f *file) close() error {
	if err := f.db.Close(); err != nil {
		return err
	}
	return os.Remove(f.marker())
}

func (f *file) update(do func(*bolt.Tx) error) (err error) {
	defer recovered(&err)
	return f.db.Update(do)
}

func (f *file) view(do func(*bolt.Tx) error) (err error) {
	defer recovered(&err)
	return f.db.View(do)
}

func locked(path string) error {
	return &hal.Error{Code: hal.CodeStateLocked, Text: "outbox " + path + " is in use by another process: stop the other agent"}
}

// Exit statuses of the child that checks. Go itself ends a program that reads
// what is not there with status 2.
const (
	checkedGood   = 0
	checkedBad    = 1
	checkedLocked = 3
)

// runCheck looks at the file in a child process, and returns how that ended. A
// child that could not be started, or that somebody stopped, found nothing wrong.
func runCheck(command []string, path string) int {
	ctx, cancel := context.WithTimeout(context.Background(), checkLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], path)...)
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return checkedGood
	case ctx.Err() != nil:
		return checkedBad // a reader that finds no end
	case !errors.As(err, &exit):
		return checkedGood
	}
	switch how := exit.Sys().(syscall.WaitStatus); {
	case how.Signaled() && how.Signal() != syscall.SIGBUS && how.Signal() != syscall.SIGSEGV:
		return checkedGood
	case how.ExitStatus() == checkedLocked:
		return checkedLocked
	}
	return checkedBad
}

// CheckMain is the main of the child process that looks at an outbox file after
// an unclean stop: it returns the exit status, 0 for a sound file, and writes what
// is wrong to w. It may die instead.
func CheckMain(path string, w io.Writer) int {
	err := check(path)
	switch {
	case err == nil:
		return checkedGood
	case errors.Is(err, berrors.ErrTimeout):
		return checkedLocked
	}
	fmt.Fprintf(w, "outbox %s: %v\n", path, err)
	return checkedBad
}

func check(path string) (err error) {
	defer recovered(&err)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			return errRecord
		}
		for c := range classes {
			if err := each(tx.Bucket(bodies(c)), func(v []byte) error { _, err := decodeBody(v); return err }); err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			for s := range sides {
				if err := each(tx.Bucket(entries(c, s)), func(v []byte) error { _, err := decodeEntry(v); return err }); err != nil {
					return fmt.Errorf("%s/%s: %w", c, s, err)
				}
				if _, err := decodeCounter(meta.Get(entries(c, s))); err != nil {
					return fmt.Errorf("counter of %s/%s: %w", c, s, err)
				}
			}
		}
		return nil
	})
}

func each(b *bolt.Bucket, do func(v []byte) error) error {
	if b == nil {
		return errRecord
	}
	return b.ForEach(func(k, v []byte) error {
		if _, err := atPosition(k); err != nil {
			return err
		}
		return do(v)
	})
}

func putNumber(tx *bolt.Tx, key string, n uint64) error {
	return tx.Bucket(metaBucket).Put([]byte(key), seal(binary.BigEndian.AppendUint64(make([]byte, 4, 12), n)))
}

func getNumber(tx *bolt.Tx, key string) uint64 {
	v, err := unseal(tx.Bucket(metaBucket).Get([]byte(key)))
	if err != nil || len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func putList(tx *bolt.Tx, key string, list []string) error {
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return tx.Bucket(metaBucket).Put([]byte(key), seal(append(make([]byte, 4), b...)))
}

// getList leaves the list as it is where there is none.
func getList(tx *bolt.Tx, key string, list *[]string) error {
	v, err := unseal(tx.Bucket(metaBucket).Get([]byte(key)))
	if err != nil {
		return nil
	}
	return json.Unmarshal(v, list)
}
