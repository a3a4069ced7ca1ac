package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/covey-edge/covey/hal"
)

// FS is the part of a file system that files surviving a power cut need. Names
// are paths as the operating system writes them. It may be used by many
// goroutines.
type FS interface {
	// Create makes a new file, or empties an old one, for reading and writing.
	Create(name string) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// OpenRW opens a file that exists for reading and writing.
	OpenRW(name string) (File, error)
	// Rename puts old in the place of new; durable after SyncDir.
	Rename(old, new string) error
	// Remove deletes a file; durable after SyncDir.
	Remove(name string) error
	// Stat describes a file.
	Stat(name string) (fs.FileInfo, error)
	// ReadDir lists a folder, sorted by name.
	ReadDir(dir string) ([]fs.DirEntry, error)
	// MkdirAll makes a folder and those above it, durable when it returns.
	MkdirAll(dir string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
	// Free is the number of bytes that may still be written below dir.
	Free(dir string) (int64, error)
}

// A File of an FS, used by one goroutine at a time.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Closer
	// Sync makes the content durable. The name is durable after FS.SyncDir.
	Sync() error
}

// OS is the operating system's file system. Files are private to the user (0600,
// folders 0700).
type OS struct{}

var _ FS = OS{}

// Create makes or empties a file.
func (OS) Create(name string) (File, error) {
	return file(os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600))
}

// Open opens a file for reading.
func (OS) Open(name string) (File, error) { return file(os.Open(name)) }

// OpenRW opens a file that exists for reading and writing.
func (OS) OpenRW(name string) (File, error) { return file(os.OpenFile(name, os.O_RDWR, 0)) }

// file keeps a nil *os.File from becoming a File that is not nil.
func file(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Rename puts old in the place of new.
func (OS) Rename(old, new string) error { return os.Rename(old, new) }

// Remove deletes a file.
func (OS) Remove(name string) error { return os.Remove(name) }

// Stat describes a file.
func (OS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// ReadDir lists a folder.
func (OS) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

// MkdirAll makes dir and what is missing above it, and syncs every folder that
// got a new name.
func (o OS) MkdirAll(dir string) error {
	if fi, err := os.Stat(dir); err == nil {
		if !fi.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := o.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return o.SyncDir(parent)
}

// SyncDir makes the names in dir durable.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Free is what an unprivileged user may still write below dir, in bytes.
func (OS) Free(dir string) (int64, error) { return free(dir) }

// WriteFile replaces name by data so that a power cut at any moment leaves the
// old content or the new one: write beside it, sync, rename, sync the folder.
// There must be one writer of a name at a time.
func WriteFile(fsys FS, name string, data []byte) error {
	tmp := name + ".new"
	err := writeSynced(fsys, tmp, data)
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, Coded(err, name))
	}
	return nil
}

func writeSynced(fsys FS, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadFile reads a whole file of at most max bytes; a longer one is an error.
func ReadFile(fsys FS, name string, max int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, Coded(err, name)
	}
	if int64(len(b)) > max {
		return nil, &hal.Error{Code: hal.CodeLength, Text: fmt.Sprintf("%s is longer than %d bytes", name, max)}
	}
	return b, nil
}

// Coded gives an error of the disk its code: full, read-only, or broken. Other
// errors, and those that have a code, are returned as they are.
func Coded(err error, path string) error {
	switch {
	case err == nil || hal.CodeOf(err) != "":
		return err
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return &hal.Error{Code: hal.CodeDiskFull, Text: "no space left at " + path + ": free some", Err: err}
	case errors.Is(err, syscall.EROFS):
		return &hal.Error{Code: hal.CodeDiskRO, Text: path + " is on a read-only file system: remount it read-write, or replace the card", Err: err}
	case errors.Is(err, syscall.EIO):
		return &hal.Error{Code: hal.CodeDiskIO, Text: "input/output error at " + path + ": check the disk or card", Err: err}
	}
	return err
}
