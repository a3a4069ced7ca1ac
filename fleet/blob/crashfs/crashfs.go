// Package crashfs is a file system in memory whose power can be cut at any
// operation, for tests of what must survive that. After a cut, what was synced is
// there; of the rest each 512-byte sector, each file's length and each change of
// a name is there or not, as a seed decides: with a journal, which keeps changes of
// names in their order, or in any order. It touches nothing outside itself.
package crashfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
)

// ErrCut is what every operation returns once the power is gone.
var ErrCut = errors.New("power cut")

const sector = 512

// FS is the file system. It may be used by many goroutines. Folders are made
// durably at once, as blob.FS says of MkdirAll.
type FS struct {
	// NoSync and NoSyncDir make the syncs do nothing: what a careless program
	// would get. A test that still passes with one of them proves nothing.
	NoSync, NoSyncDir bool

	mu      sync.Mutex // guards all below
	dirs    map[string]bool
	live    map[string]*inode // what programs see
	durable map[string]*inode // names as of the last SyncDir
	pending []change          // changes of names since, in order
	ops     int
	cut     int           // the operation that the power is cut in; 0: none
	fail    map[int]error // errors by operation
	free    int64
}

// An inode is the content of a file, apart from its names.
type inode struct {
	live, durable []byte
}

// A change of a name: to an inode, or away (nil). A rename is one change: it takes
// another name away, or does not happen.
type change struct {
	name string
	to   *inode
	from string // "": of no rename
}

// apply makes the change in names.
func (c change) apply(names map[string]*inode) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.to == nil {
		delete(names, c.name)
		return
	}
	names[c.name] = c.to
}

// New makes an empty file system.
func New() *FS {
	return &FS{dirs: map[string]bool{"/": true}, live: map[string]*inode{}, durable: map[string]*inode{},
		fail: map[int]error{}, free: math.MaxInt64}
}

var _ blob.FS = (*FS)(nil)

// CutAt cuts the power in the n-th changing operation from now, counting from 1:
// it is begun, fails, and so does everything after it.
func (f *FS) CutAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = f.ops + n
}

// FailAt makes the n-th changing operation from now fail with err, doing nothing.
func (f *FS) FailAt(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[f.ops+n] = err
}

// Ops is the number of changing operations so far.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// SetFree sets the free space in bytes. Files that grow use it up, Remove gives back.
func (f *FS) SetFree(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = n
}

// Flip changes one bit of a file, on the disk and in sight: bit rot. It says
// whether the file has that bit.
func (f *FS) Flip(name string, bit int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.live[filepath.Clean(name)]
	if i == nil || bit/8 >= len(i.live) {
		return false
	}
	i.live[bit/8] ^= 1 << (bit % 8)
	if bit/8 < len(i.durable) {
		i.durable[bit/8] = i.live[bit/8]
	}
	return true
}

// Crash returns what a restart finds: a new file system, everything in it
// durable. Seed 0 loses all that was not synced, seed 1 nothing; any other
// decides by chance: of the changes of names an even one keeps a first part, an odd
// one any of them.
func (f *FS) Crash(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 7))
	some := func(n int) int { // how many of n
		switch seed {
		case 0:
			return 0
		case 1:
			return n
		}
		return rng.IntN(n + 1)
	}
	after := New()
	for d := range f.dirs {
		after.dirs[d] = true
	}
	names := map[string]*inode{}
	for name, i := range f.durable {
		names[name] = i
	}
	if seed < 2 || seed%2 == 0 {
		for _, c := range f.pending[:some(len(f.pending))] {
			c.apply(names)
		}
	} else {
		for _, c := range f.pending {
			if some(1) == 1 {
				c.apply(names)
			}
		}
	}
	// By sorted name, so that a seed always means the same.
	for _, name := range slices.Sorted(maps.Keys(names)) {
		data := names[name].survivor(some)
		i := &inode{live: data, durable: slices.Clone(data)}
		after.live[name], after.durable[name] = i, i
	}
	return after
}

// Sum is a checksum of all that is on the disk, names and contents: of what a restart
// finds when every change of it was synced, as after Crash.
func (f *FS) Sum() (sum [sha256.Size]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(f.live)) {
		fmt.Fprintf(h, "%s\n%d\n", name, len(f.live[name].live))
		h.Write(f.live[name].live)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// survivor is the content of a file after a cut: of every sector and of the
// length the old or the new. A sector that was never written reads as zeros.
func (i *inode) survivor(some func(int) int) []byte {
	n := len(i.durable)
	if some(1) == 1 {
		n = len(i.live)
	}
	out := make([]byte, n)
	for at := 0; at < n; at += sector {
		src := i.durable
		if some(1) == 1 {
			src = i.live
		}
		if at < len(src) {
			copy(out[at:min(at+sector, n)], src[at:])
		}
	}
	return out
}

// begin counts a changing operation. do: it takes effect; err: what it returns.
func (f *FS) begin() (do bool, err error) {
	if f.cut > 0 && f.ops >= f.cut {
		return false, ErrCut
	}
	f.ops++
	if f.ops == f.cut {
		return true, ErrCut
	}
	if err := f.fail[f.ops]; err != nil {
		return false, err
	}
	return true, nil
}

// down is the error of an operation that changes nothing.
func (f *FS) down() error {
	if f.cut > 0 && f.ops >= f.cut {
		return ErrCut
	}
	return nil
}

func (f *FS) change(c change) {
	c.apply(f.live)
	f.pending = append(f.pending, c)
}

// Create makes or empties a file.
func (f *FS) Create(name string) (blob.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = filepath.Clean(name)
	if !f.dirs[filepath.Dir(name)] {
		return nil, notExist("create", name)
	}
	do, err := f.begin()
	i := f.live[name]
	if do && i != nil {
		i.live = nil
	} else if do {
		i = &inode{}
		f.change(change{name: name, to: i})
	}
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	return &file{fs: f, i: i, name: name, rw: true}, nil
}

// Open opens a file for reading.
func (f *FS) Open(name string) (blob.File, error) { return f.open(name, false) }

// OpenRW opens a file that exists for reading and writing.
func (f *FS) OpenRW(name string) (blob.File, error) { return f.open(name, true) }

func (f *FS) open(name string, rw bool) (blob.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = filepath.Clean(name)
	if err := f.down(); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	i := f.live[name]
	if i == nil {
		return nil, notExist("open", name)
	}
	return &file{fs: f, i: i, name: name, rw: rw}, nil
}

// Rename puts old in the place of new.
func (f *FS) Rename(old, new string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, new = filepath.Clean(old), filepath.Clean(new)
	i := f.live[old]
	if i == nil {
		return notExist("rename", old)
	}
	do, err := f.begin()
	if do {
		f.change(change{new, i, old})
	}
	return err
}

// Remove deletes a file.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = filepath.Clean(name)
	if f.live[name] == nil {
		return notExist("remove", name)
	}
	do, err := f.begin()
	if do {
		f.free += min(int64(len(f.live[name].live)), math.MaxInt64-f.free)
		f.change(change{name: name})
	}
	return err
}

// Stat describes a file or a folder.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = filepath.Clean(name)
	if err := f.down(); err != nil {
		return nil, err
	}
	if f.dirs[name] {
		return info{name: filepath.Base(name), dir: true}, nil
	}
	if i := f.live[name]; i != nil {
		return info{name: filepath.Base(name), size: int64(len(i.live))}, nil
	}
	return nil, notExist("stat", name)
}

// ReadDir lists the files of a folder.
func (f *FS) ReadDir(dir string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir = filepath.Clean(dir)
	if err := f.down(); err != nil {
		return nil, err
	}
	if !f.dirs[dir] {
		return nil, notExist("readdir", dir)
	}
	var list []fs.DirEntry
	for name, i := range f.live {
		if filepath.Dir(name) == dir {
			list = append(list, fs.FileInfoToDirEntry(info{name: filepath.Base(name), size: int64(len(i.live))}))
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// MkdirAll makes a folder and those above it.
func (f *FS) MkdirAll(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirs[filepath.Clean(dir)] {
		return f.down()
	}
	if _, err := f.begin(); err != nil {
		return err
	}
	for d := filepath.Clean(dir); !f.dirs[d]; d = filepath.Dir(d) {
		f.dirs[d] = true
	}
	return nil
}

// SyncDir makes the names in dir durable.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir = filepath.Clean(dir)
	if _, err := f.begin(); err != nil || f.NoSyncDir {
		return err
	}
	var rest []change
	for _, c := range f.pending {
		if filepath.Dir(c.name) == dir {
			c.apply(f.durable)
		} else {
			rest = append(rest, c)
		}
	}
	f.pending = rest
	return nil
}

// Free is the free space, in bytes.
func (f *FS) Free(string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.free, f.down()
}

// A file is an open file.
type file struct {
	fs   *FS
	i    *inode
	name string
	rw   bool
	at   int64 // of Read and Write
}

func (h *file) ReadAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.down(); err != nil {
		return 0, err
	}
	if off >= int64(len(h.i.live)) {
		return 0, io.EOF
	}
	n := copy(p, h.i.live[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) Read(p []byte) (int, error) {
	n, err := h.ReadAt(p, h.at)
	h.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (h *file) WriteAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if !h.rw {
		return 0, &fs.PathError{Op: "write", Path: h.name, Err: fs.ErrPermission}
	}
	do, err := h.fs.begin()
	if grow := off + int64(len(p)) - int64(len(h.i.live)); do && grow > 0 {
		if grow > h.fs.free {
			return 0, noSpace("write", h.name)
		}
		h.fs.free -= grow
		h.i.live = append(h.i.live, make([]byte, grow)...)
	}
	if do {
		copy(h.i.live[off:], p)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (h *file) Write(p []byte) (int, error) {
	n, err := h.WriteAt(p, h.at)
	h.at += int64(n)
	return n, err
}

func (h *file) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if _, err := h.fs.begin(); err != nil || h.fs.NoSync {
		return err
	}
	h.i.durable = slices.Clone(h.i.live)
	return nil
}

func (h *file) Close() error { return nil }

// info describes a file.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

func notExist(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

func noSpace(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
}
