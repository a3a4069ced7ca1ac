// Package serial is a source of the numbers that a board or sensor sends over a
// serial port, a line each: CSV or JSON.
package serial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source/numbers"
	"github.com/covey-edge/covey/hal/source/window"
)

// Config of a Source.
type Config struct {
	Device      string         // "/dev/serial/by-id/usb-…" stays the same whatever socket it is in
	Baud        int            // 0: 115200; USB ports of microcontrollers do not care
	Format      numbers.Format // "": CSV
	Channels    []string       // as of numbers.New
	Window, Hop int            // lines, as of window.New
	Quiet       time.Duration  // without a line for so long it has stalled; 0: it may be silent
}

// A Source reads lines of at most 4096 bytes. Each is one sample of all channels;
// its time is that of its arrival.
type Source struct {
	c       Config
	file    *os.File
	parser  *numbers.Parser
	ring    *window.Ring // nil until the first line says how many channels there are
	lines   lines
	at      time.Time // when the bytes in lines came
	last    time.Time // when a line came
	buf     [1 << 10]byte
	samples []float32
}

// Open opens the port for itself alone. A port that is absent, busy, not allowed,
// no port, or does not do the rate is E_SOURCE with what to do.
func Open(c Config) (*Source, error) {
	if c.Baud == 0 {
		c.Baud = 115200
	}
	if c.Format == "" {
		c.Format = numbers.CSV
	}
	if c.Baud < 50 || c.Baud > 4_000_000 {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("serial port at %d baud: give 50 to 4000000", c.Baud)}
	}
	parser, err := numbers.New(c.Format, c.Channels)
	if err != nil {
		return nil, err
	}
	if _, err := window.New(max(1, len(c.Channels)), c.Window, c.Hop); err != nil {
		return nil, err
	}
	file, err := openPort(c.Device, c.Baud)
	if err != nil {
		return nil, err
	}
	// The first line was under way when we came.
	return &Source{c: c, file: file, parser: parser, lines: lines{skip: true}, last: time.Now()}, nil
}

// Live is true: lines come when they come.
func (s *Source) Live() bool { return true }

// Close closes the port.
func (s *Source) Close() error { return s.file.Close() }

// Next waits for the next window. A line that cannot be read is an error that wraps
// hal.ErrBadFrame and is no part of a window; a port that is unplugged is
// E_SOURCE_LOST.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for s.ring == nil || !s.ring.Next(f) {
		line, ok, err := s.lines.next()
		switch {
		case err != nil:
			return s.bad(err)
		case !ok:
			if err := s.read(ctx); err != nil {
				return err
			}
			continue
		}
		if s.samples, err = s.parser.Parse(s.samples[:0], line); err != nil {
			return s.bad(err)
		}
		s.last = s.at
		if s.ring == nil {
			if s.ring, err = window.New(s.parser.Channels(), s.c.Window, s.c.Hop); err != nil {
				return err
			}
			s.ring.Next(f) // it learns the size
		}
		s.ring.Push(s.samples, s.at)
	}
	f.Name = ""
	return nil
}

// bad is a line that cannot be read. When there is nothing else for too long, the
// port is as good as silent.
func (s *Source) bad(err error) error {
	if s.c.Quiet > 0 && s.at.Sub(s.last) > s.c.Quiet {
		return s.stalled()
	}
	return fmt.Errorf("serial port %s: %w: %w", s.c.Device, hal.ErrBadFrame, err)
}

func (s *Source) stalled() error {
	return &hal.Error{Code: hal.CodeSourceStalled, Text: fmt.Sprintf(
		"serial port %s: no line that can be read for %v: check the wiring, the baud rate (%d) and the format (%s)", s.c.Device, s.c.Quiet, s.c.Baud, s.c.Format)}
}

// read waits for bytes. What came while nobody called is read even when it is late.
func (s *Source) read(ctx context.Context) error {
	var due time.Time
	if s.c.Quiet > 0 {
		due = s.last.Add(s.c.Quiet)
		if soon := time.Now().Add(10 * time.Millisecond); due.Before(soon) {
			due = soon
		}
	}
	s.file.SetReadDeadline(due)
	stop := context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) })
	n, err := s.file.Read(s.buf[:])
	stop()
	switch {
	case n > 0:
		s.at = time.Now()
		s.lines.add(s.buf[:n])
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		if due.IsZero() || time.Now().Before(due) {
			return nil // the end of an earlier ctx came late
		}
		return s.stalled()
	}
	return &hal.Error{Code: hal.CodeSourceLost, Text: fmt.Sprintf("serial port %s: it went away: plug it in again", s.c.Device), Err: err}
}
