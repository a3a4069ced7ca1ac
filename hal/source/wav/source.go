// Package wav is a source of sound from WAV files: one, or those in a folder in the
// order of their names. It loses none: a window is read when the one before was
// taken.
package wav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source/window"
)

// Config of a Source.
type Config struct {
	Path        string // a file, or a folder of files that end in .wav
	Window, Hop int    // samples a channel, after resampling, as of window.New
	Rate        int    // samples a second to resample to; 0: each file's own
	Channels    []int  // to take, counted from 0; none: all
	Mono        bool   // take the mean of the channels
	Loop        bool   // begin again after the last file
	Live        bool   // a window comes no sooner than a microphone would have it
}

// A Source reads WAV files: PCM of 8 to 32 bits and floats. The last window of a
// file is filled with silence; no window goes from one file into the next.
type Source struct {
	c      Config
	folder bool
	queue  []string // names still to come
	stream *stream  // of the file that is read; nil between files
	name   string
	barren bool // the last turn of a loop had no window
	whole  bool // the file had one
	seq    uint64
	due    time.Time // with Live: of the next window
}

// Open begins to read. A path that cannot be read, a file that is no sound, and a
// folder without any are E_SOURCE; sizes that make no sense are E_CONFIG.
func Open(c Config) (*Source, error) {
	if _, err := window.New(1, c.Window, c.Hop); err != nil {
		return nil, err
	}
	st, err := os.Stat(c.Path)
	if err != nil {
		return nil, refused(c.Path, err)
	}
	s := &Source{c: c, folder: st.IsDir()}
	if err := s.look(); err != nil {
		return nil, err
	}
	// A single file is judged now, those of a folder each in its turn.
	if !s.folder {
		if err := s.begin(); err != nil {
			return nil, refused(c.Path, err)
		}
	}
	return s, nil
}

func refused(path string, err error) error {
	if hal.CodeOf(err) != "" {
		return err
	}
	return &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("sound %s: %v", path, cause(err)), Err: err}
}

// cause leaves out the path, which our own messages have.
func cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Live is whether the source was told to be.
func (s *Source) Live() bool { return s.c.Live }

// Close closes the file that is read.
func (s *Source) Close() error {
	if s.stream == nil {
		return nil
	}
	file := s.stream.file
	s.stream = nil
	return file.Close()
}

// look puts the names of all files into the queue.
func (s *Source) look() error {
	s.queue = s.queue[:0]
	if !s.folder {
		s.queue = append(s.queue, filepath.Base(s.c.Path))
		return nil
	}
	entries, err := os.ReadDir(s.c.Path) // sorted
	if err != nil {
		return refused(s.c.Path, err)
	}
	for _, e := range entries {
		if name := e.Name(); strings.EqualFold(filepath.Ext(name), ".wav") && !strings.HasPrefix(name, ".") && !e.IsDir() {
			s.queue = append(s.queue, name)
		}
	}
	if len(s.queue) == 0 {
		return &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("folder %s has no WAV files: put some there", s.c.Path)}
	}
	return nil
}

// begin opens the first file of the queue.
func (s *Source) begin() (err error) {
	s.name, s.queue = s.queue[0], s.queue[1:]
	path := s.c.Path
	if s.folder {
		path = filepath.Join(path, s.name)
	}
	s.stream, err = open(path, s.c)
	s.whole = false
	return err
}

// Next reads the next window into f; its Name is the file's. A file that cannot be
// read, and one without sound, is an error that wraps hal.ErrBadFrame and takes no
// Seq.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	if err := sleep(ctx, time.Until(s.due)); err != nil {
		return err
	}
	if err := s.next(ctx, f); err != nil {
		return err
	}
	s.barren, s.whole = false, true
	s.seq++
	now := time.Now()
	f.Seq, f.Captured, f.Name = s.seq, now, s.name
	if s.c.Live {
		s.pace(now, f)
	}
	return nil
}

func (s *Source) next(ctx context.Context, f *hal.Frame) error {
	for {
		if s.stream == nil {
			if err := s.turn(ctx); err != nil {
				return err
			}
			if err := s.begin(); err != nil {
				return s.bad(cause(err))
			}
		}
		err := s.stream.next(f)
		if err == nil {
			return nil
		}
		s.Close()
		if err != io.EOF {
			return s.bad(cause(err))
		}
		if !s.whole {
			return s.bad(errors.New("it has no sound"))
		}
	}
}

func (s *Source) bad(err error) error {
	return fmt.Errorf("sound %s: %w: %w", s.name, hal.ErrBadFrame, err)
}

// turn begins the queue again when it is empty; after a turn without one window it
// waits first, not to spin.
func (s *Source) turn(ctx context.Context) error {
	switch {
	case len(s.queue) > 0:
		return ctx.Err()
	case !s.c.Loop:
		return io.EOF
	case s.barren:
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	s.barren = true
	return s.look()
}

// pace sets when the next window is due: a hop later. After a pause of more than a
// window it begins anew.
func (s *Source) pace(now time.Time, f *hal.Frame) {
	samples := func(n int) time.Duration { return time.Duration(float64(n) / f.Rate * float64(time.Second)) }
	window := len(f.Samples) / f.Channels
	if now.Sub(s.due) > samples(window) {
		s.due = now
	}
	hop := s.c.Hop
	if hop == 0 {
		hop = window
	}
	s.due = s.due.Add(samples(hop))
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
