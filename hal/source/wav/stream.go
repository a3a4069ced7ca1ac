package wav

import (
	"bufio"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/signal"
	"github.com/covey-edge/covey/hal/source/window"
)

// A stream is the windows of one file.
type stream struct {
	header
	file    *os.File
	sound   io.Reader // from the first sample to the last
	convert *signal.Converter
	ring    *window.Ring
	rest    []float32 // converted, not in the ring yet
	memory  []float32 // of rest
	samples []float32
	bytes   []byte
	ended   bool
}

// open reads the header of a file.
func open(path string, c Config) (*stream, error) {
	// Without O_NONBLOCK a named pipe would hold us here for ever.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &stream{file: file}
	if err := s.begin(c); err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

func (s *stream) begin(c Config) error {
	st, err := s.file.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New("not a plain file")
	}
	return s.beginAt(s.file, c)
}

func (s *stream) beginAt(r io.Reader, c Config) (err error) {
	s.sound = bufio.NewReaderSize(r, 1<<16)
	if s.header, err = readHeader(s.sound); err != nil {
		return err
	}
	if s.length >= 0 {
		s.sound = io.LimitReader(s.sound, s.length)
	}
	if s.convert, err = signal.NewConverter(s.channels, s.rate, c.Rate, c.Channels, c.Mono); err != nil {
		return err
	}
	if s.ring, err = window.New(s.convert.Channels(), c.Window, c.Hop); err != nil {
		return err
	}
	s.ring.Rate = float64(s.rate)
	if c.Rate > 0 {
		s.ring.Rate = float64(c.Rate)
	}
	s.bytes = make([]byte, 4096*s.channels*s.pcm.Size())
	return nil
}

// next writes the next window into f; io.EOF after the last.
func (s *stream) next(f *hal.Frame) error {
	for !s.ring.Next(f) {
		switch {
		case len(s.rest) > 0:
			n := min(len(s.rest), s.ring.Room()*s.convert.Channels())
			s.ring.Push(s.rest[:n], time.Time{}) // files do not know when
			s.rest = s.rest[n:]
		case !s.ended:
			if err := s.read(); err != nil {
				return err
			}
		default:
			s.ring.Pad()
			if !s.ring.Next(f) {
				return io.EOF
			}
			return nil
		}
	}
	return nil
}

// read fills rest. A sample that the end of the file cuts is left out.
func (s *stream) read() error {
	n, err := io.ReadFull(s.sound, s.bytes)
	s.ended = err == io.EOF || err == io.ErrUnexpectedEOF
	if err != nil && !s.ended {
		return err
	}
	s.samples = s.pcm.Decode(s.samples[:0], s.bytes[:n])
	s.memory = s.convert.Convert(s.memory[:0], s.samples)
	if s.ended {
		s.memory = s.convert.Flush(s.memory)
	}
	s.rest = s.memory
	return nil
}
