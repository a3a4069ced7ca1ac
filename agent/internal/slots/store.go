package slots

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Format is the number of the file's format; a file with a greater one is not
// read and not touched.
const Format = 1

// maxFile is the longest state file, bytes. Sixteen pipelines need some 30 kB.
const maxFile = 1 << 20

const (
	fileName = "state.json"
	oldName  = "state.json.old"
)

// envelope is the file: the state's bytes as they are written, and a checksum.
type envelope struct {
	Format int             `json:"format"`
	CRC    uint32          `json:"crc"`
	State  json.RawMessage `json:"state"`
}

// sum is the CRC32C of the format and the state: a flipped bit in the format
// must not look like a newer agent's file.
func (e *envelope) sum() uint32 {
	b := strconv.AppendInt(nil, int64(e.Format), 10)
	return crc32.Checksum(append(append(b, '\n'), e.State...), crc32.MakeTable(crc32.Castagnoli))
}

// A Store keeps the State on disk: state.json, and state.json.old as it was
// before the last change. It may be used by many goroutines.
type Store struct {
	fs  blob.FS
	dir string

	disk sync.Mutex // guards the files: changes are one after the other, on the disk too; taken before mu

	mu    sync.Mutex // guards what follows, never while the disk is at work: who reads does not wait for it
	state State
	old   State // what state.json.old holds: its blobs stay pinned
	note  error
}

// Open reads the state in dir, making the folder. A broken file is moved aside
// and the copy before it is used, or an empty state: Note says so. Errors:
// E_STATE_NEWER, or the disk's.
func Open(dir string, fsys blob.FS) (*Store, error) {
	s := &Store{fs: fsys, dir: dir}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("open state in %s: %w", dir, blob.Coded(err, dir))
	}
	state, err := s.read(fileName)
	old, oldErr := s.read(oldName)
	if code := hal.CodeOf(err); code == hal.CodeStateNewer {
		return nil, err
	}
	switch {
	case err == nil:
		s.state = state
	case errors.Is(err, fs.ErrNotExist) && oldErr == nil:
		s.state = old // cut between two renames
	case errors.Is(err, fs.ErrNotExist) && errors.Is(oldErr, fs.ErrNotExist):
		// first start
	case errors.Is(err, errCorrupt) || errors.Is(err, fs.ErrNotExist):
		if oldErr == nil {
			s.state = old
		}
		if err := s.setAside(oldErr == nil); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("open state in %s: %w", dir, blob.Coded(err, dir))
	}
	if oldErr == nil {
		s.old = old
	}
	return s, nil
}

// Read reads the state in dir and changes nothing. Errors: fs.ErrNotExist, E_STATE_NEWER,
// what Open would mend, or the disk's.
func Read(dir string, fsys blob.FS) (State, error) {
	return (&Store{fs: fsys, dir: dir}).read(fileName)
}

var errCorrupt = errors.New("broken state file")

// read reads one of the two files: errCorrupt, fs.ErrNotExist, E_STATE_NEWER.
func (s *Store) read(name string) (State, error) {
	path := filepath.Join(s.dir, name)
	b, err := blob.ReadFile(s.fs, path, maxFile)
	if hal.CodeOf(err) == hal.CodeLength {
		return State{}, errCorrupt
	}
	if err != nil {
		return State{}, err
	}
	var e envelope
	var st State
	if json.Unmarshal(b, &e) != nil {
		return State{}, errCorrupt
	}
	if e.sum() != e.CRC {
		return State{}, errCorrupt
	}
	if e.Format > Format {
		return State{}, &hal.Error{Code: hal.CodeStateNewer,
			Text: fmt.Sprintf("%s has format %d, this agent reads up to %d: install the newer agent again", path, e.Format, Format)}
	}
	if json.Unmarshal(e.State, &st) != nil {
		return State{}, errCorrupt
	}
	return st, nil
}

// maxAside is how many broken files are kept: of more, the last one gives way.
const maxAside = 3

// setAside moves the broken file away and remembers to say so.
func (s *Store) setAside(haveOld bool) error {
	path := filepath.Join(s.dir, fileName)
	aside := path
	for n := 1; ; n++ {
		aside = fmt.Sprintf("%s.corrupt-%d", path, n)
		if _, err := s.fs.Stat(aside); errors.Is(err, fs.ErrNotExist) || err == nil && n == maxAside {
			break
		} else if err != nil {
			return fmt.Errorf("set broken state aside: %w", blob.Coded(err, s.dir))
		}
	}
	if err := s.fs.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set broken state aside: %w", blob.Coded(err, s.dir))
	}
	went := "going on with the copy before it"
	if !haveOld {
		went = "beginning anew, the fleet's wish will be fetched again"
	}
	s.note = &hal.Error{Code: hal.CodeStateCorrupt, Text: fmt.Sprintf("%s was broken and is now %s; %s", path, filepath.Base(aside), went)}
	return nil
}

// Note is what Open had to mend (E_STATE_CORRUPT), or nil.
func (s *Store) Note() error { return s.note }

// State is the state as it is on the disk.
func (s *Store) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Update changes the state and writes it; when Update returns nil the change
// survives a power cut. With an error the state is as it was.
func (s *Store) Update(change func(State) State) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	before := s.State()
	next := change(before)
	b, err := encode(next)
	if err == nil {
		err = s.write(b)
	}
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.old = next, before
	return nil
}

func encode(st State) ([]byte, error) {
	payload, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	e := envelope{Format: Format, State: payload}
	e.CRC = e.sum()
	return json.Marshal(e)
}

// write keeps the file that is there as the old one and puts b in its place. A
// cut between the two renames leaves the old one alone, which Open knows.
func (s *Store) write(b []byte) error {
	path, old := filepath.Join(s.dir, fileName), filepath.Join(s.dir, oldName)
	if _, err := s.read(fileName); err == nil { // never a broken one over a good one
		if err := s.fs.Rename(path, old); err != nil {
			return blob.Coded(err, path)
		}
	}
	return blob.WriteFile(s.fs, path, b)
}

// Pins are the blobs that must stay: those of the state, and of the one before
// it, which a broken file would bring back.
func (s *Store) Pins() map[wire.Digest]bool {
	s.disk.Lock() // what a change under way needs is among them
	defer s.disk.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	pins := map[wire.Digest]bool{}
	s.state.Pins(pins)
	s.old.Pins(pins)
	return pins
}

// Collect removes every blob that is not pinned, not even by extra, and returns
// the bytes that were freed.
func (s *Store) Collect(blobs *blob.Store, extra map[wire.Digest]bool) (int64, error) {
	pins := s.Pins()
	return blobs.Collect(func(sha wire.Digest) bool { return pins[sha] || extra[sha] })
}
