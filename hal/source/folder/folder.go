// Package folder is a source of the pictures in a folder, in the order of their
// names. It loses none: the next picture is read when the one before was taken.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/vision"
)

// Config of a Source.
type Config struct {
	Path  string
	Loop  bool    // begin again after the last picture
	Watch bool    // go on with pictures that are put into the folder later
	FPS   float64 // most frames a second; 0: as fast as they are taken

	// Decode makes a frame of a picture file, as vision.DecodePicture does, which is
	// what nil means.
	Decode func(file []byte, f *hal.Frame) error
}

// A Source reads JPEG, PNG, BMP and GIF pictures (of names that end so) straight
// from its folder, not from folders in it. Names that begin with a dot are left
// out: programs that copy files write to such names first.
type Source struct {
	c       Config
	period  time.Duration
	due     time.Time
	watcher *watcher // nil unless Config.Watch
	queue   []string // names still to come
	done    map[string]stamp
	seq     uint64
	barren  bool // the last turn of a loop had no good picture
	file    []byte
}

// A stamp tells a file from what was under its name before.
type stamp struct {
	size  int64
	mtime time.Time
}

// Open begins to read a folder. One that cannot be read, and one that has no pictures
// where nobody waits for them, is E_SOURCE; what makes no sense is E_CONFIG.
func Open(c Config) (*Source, error) {
	if c.Loop && c.Watch {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: "folder source: loop and watch exclude each other, drop one"}
	}
	if !(c.FPS >= 0 && c.FPS <= 1e6) {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("folder source of %v frames a second: give 0 to 1000000", c.FPS)}
	}
	if c.Decode == nil {
		c.Decode = vision.DecodePicture
	}
	s := &Source{c: c}
	if c.FPS > 0 {
		s.period = time.Duration(float64(time.Second) / c.FPS)
	}
	if c.Watch {
		// Watching begins before the first look, so that no picture falls between.
		w, err := watch(c.Path)
		if err != nil {
			return nil, err
		}
		s.watcher, s.done = w, map[string]stamp{}
	}
	if err := s.look(); err != nil {
		s.Close()
		return nil, err
	}
	if len(s.queue) == 0 && !c.Watch {
		return nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("folder %s has no pictures (jpg, png, bmp, gif): put some there or set watch", c.Path)}
	}
	return s, nil
}

// refuse says why a folder cannot be read, and what to do.
func refuse(path string, err error) error {
	e := &hal.Error{Code: hal.CodeSource, Err: err}
	var errno syscall.Errno
	switch errors.As(err, &errno); {
	case errno == syscall.ENOENT:
		e.Text = fmt.Sprintf("folder %s is not there: make it, or mount what it is on", path)
	case errno == syscall.EACCES:
		e.Text = fmt.Sprintf("folder %s: not allowed: let the agent's user read it", path)
	case errno == syscall.ENOTDIR:
		e.Text = fmt.Sprintf("%s is no folder: give that of the pictures", path)
	case errno == syscall.EMFILE || errno == syscall.ENOSPC:
		e.Text = fmt.Sprintf("folder %s cannot be watched: raise fs.inotify.max_user_instances and max_user_watches with sysctl", path)
	default:
		e.Text = fmt.Sprintf("folder %s: %v", path, err)
	}
	return e
}

// Live is false: pictures wait.
func (s *Source) Live() bool { return false }

// Close ends watching.
func (s *Source) Close() error {
	if s.watcher == nil {
		return nil
	}
	return s.watcher.close()
}

// look puts the names of all pictures in the folder into the queue.
func (s *Source) look() error {
	entries, err := os.ReadDir(s.c.Path) // sorted
	if err != nil {
		return refuse(s.c.Path, err)
	}
	s.queue = s.queue[:0]
	for _, e := range entries {
		if isPicture(e.Name()) && !e.IsDir() {
			s.queue = append(s.queue, e.Name())
		}
	}
	return nil
}

func isPicture(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".jpg", ".jpeg", ".png", ".bmp", ".gif":
		return true
	}
	return false
}

// Next reads the next picture into f; its Name is the file's. A picture that
// cannot be decoded is an error that wraps hal.ErrBadFrame and takes no Seq.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	for {
		name, err := s.next(ctx)
		if err != nil {
			return err
		}
		taken, err := s.read(name)
		if errors.Is(err, os.ErrNotExist) || err == nil && !taken {
			continue // gone again, or seen before
		}
		if err == nil {
			err = s.c.Decode(s.file, f)
		}
		if err != nil {
			return fmt.Errorf("picture %s: %w: %w", name, hal.ErrBadFrame, err)
		}
		s.barren = false
		s.seq++
		f.Seq, f.Captured, f.Name = s.seq, time.Now(), name
		s.due = s.due.Add(s.period)
		return nil
	}
}

// next is the name of the next picture.
func (s *Source) next(ctx context.Context) (string, error) {
	if err := s.pace(ctx); err != nil {
		return "", err
	}
	for len(s.queue) == 0 {
		switch {
		case s.watcher != nil:
			if err := s.wait(ctx); err != nil {
				return "", err
			}
		case s.c.Loop:
			if err := s.turn(ctx); err != nil {
				return "", err
			}
		default:
			return "", io.EOF
		}
	}
	name := s.queue[0]
	s.queue = s.queue[1:]
	return name, nil
}

// turn begins the folder again; after a turn without one good picture it waits
// first, not to spin.
func (s *Source) turn(ctx context.Context) error {
	if s.barren {
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	s.barren = true
	return s.look()
}

// wait takes in what happened in the folder.
func (s *Source) wait(ctx context.Context) error {
	events, err := s.watcher.read(ctx)
	if err != nil {
		return err
	}
	for _, e := range events {
		switch {
		case e.overflow:
			return s.look() // what was done before is told by its stamp
		case !isPicture(e.name):
		case e.gone:
			delete(s.done, e.name)
		case !slices.Contains(s.queue, e.name):
			s.queue = append(s.queue, e.name)
		}
	}
	return nil
}

// read reads a file into s.file. taken is false for what is no plain file and,
// when watching, for what was read before and has not changed since.
func (s *Source) read(name string) (taken bool, err error) {
	// Without O_NONBLOCK a named pipe would hold us here for ever.
	file, err := os.OpenFile(filepath.Join(s.c.Path, name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false, err
	}
	if now := (stamp{st.Size(), st.ModTime()}); s.done != nil {
		if s.done[name] == now {
			return false, nil
		}
		s.done[name] = now
	}
	// One byte more than is allowed, so that DecodePicture refuses it.
	n := min(st.Size(), vision.MaxPictureBytes+1)
	if int64(cap(s.file)) < n {
		s.file = make([]byte, n)
	}
	s.file = s.file[:n]
	got, err := io.ReadFull(file, s.file)
	if s.file = s.file[:got]; err == io.ErrUnexpectedEOF {
		err = nil // it shrank: decoding will tell
	}
	return true, err
}

// pace waits until the next frame is due. After a pause it begins anew.
func (s *Source) pace(ctx context.Context) error {
	if err := sleep(ctx, time.Until(s.due)); err != nil {
		return err
	}
	if now := time.Now(); now.Sub(s.due) > s.period {
		s.due = now
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
