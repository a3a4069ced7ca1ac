// Package gpio is a source of the states of digital lines: buttons, door contacts,
// the alarm outputs of other sensors. Each edge is a frame.
package gpio

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// A Bias is what pulls a line that nothing drives.
type Bias string

const (
	BiasAsIs Bias = ""
	PullUp   Bias = "pull-up"
	PullDown Bias = "pull-down"
	NoBias   Bias = "none"
)

// Config of a Source.
type Config struct {
	Device    string   // chip: its label ("pinctrl-bcm2711"), name ("gpiochip0") or path
	Lines     []string // numbers on the chip, or names ("GPIO17", "door")
	Bias      Bias
	ActiveLow bool          // a low line is 1
	Debounce  time.Duration // edges that are undone sooner are none
}

// A Source gives the state of all lines, 0 or 1 a line as a channel: first as it is,
// then at each edge, with the kernel's time of it. A chip without interrupts is
// polled. One goroutine at a time.
type Source struct {
	c       Config
	offsets []uint32
	file    *os.File // of the lines
	edges   bool     // the chip tells edges
	values  uint64   // bit i: line i
	began   bool     // the first state was given
	opened  time.Time
	seq     uint64
	seen    uint64               // what was polled last,
	since   [mostLines]time.Time // and since when each line is so
	last    uint32               // number of the last event
	events  []byte               // that were read and not given yet
	buf     [16 * eventSize]byte
	dropped uint64
}

// pollPeriod is for chips without interrupts.
const pollPeriod = 10 * time.Millisecond

// Open takes the lines. Lines that are absent, in use or not allowed are E_SOURCE
// with what to do.
func Open(c Config) (*Source, error) {
	if len(c.Lines) < 1 || len(c.Lines) > mostLines {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("%d lines of %s: give 1 to %d", len(c.Lines), c.Device, mostLines)}
	}
	if c.Debounce < 0 || c.Debounce > time.Minute {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("debounce of %v: give 0 to 1m", c.Debounce)}
	}
	flags, ok := map[Bias]uint64{BiasAsIs: 0, PullUp: flagPullUp, PullDown: flagPullDown, NoBias: flagNoBias}[c.Bias]
	if !ok {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("bias %.40q: give pull-up, pull-down or none", c.Bias)}
	}
	s := &Source{c: c}
	if err := s.open(flags | flagInput); err != nil {
		return nil, s.failed(hal.CodeSource, explain(err), err)
	}
	return s, nil
}

func (s *Source) open(flags uint64) error {
	chip, info, err := openChip(s.c.Device)
	if err != nil {
		return err
	}
	defer chip.Close() // the lines stay ours
	if s.offsets, err = offsets(chip, info, s.c.Lines); err != nil {
		return err
	}
	if s.c.ActiveLow {
		flags |= flagActiveLow
	}
	s.edges = true
	s.file, err = request(chip, s.offsets, flags|flagEdgeRising|flagEdgeFalling, s.c.Debounce)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EOPNOTSUPP) {
		s.edges = false
		s.file, err = request(chip, s.offsets, flags, 0)
	}
	if err != nil {
		return err
	}
	s.opened = time.Now()
	if s.values, err = s.get(); err != nil {
		s.file.Close()
	}
	return err
}

// request takes lines.
func request(chip *os.File, offsets []uint32, flags uint64, debounce time.Duration) (*os.File, error) {
	r := newRequest(offsets, flags, debounce)
	if err := ioctl(chip, ioctlGetLine, &r); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(int(r.fd), true); err != nil {
		unix.Close(int(r.fd))
		return nil, err
	}
	return os.NewFile(uintptr(r.fd), "gpio lines"), nil
}

func newRequest(offsets []uint32, flags uint64, debounce time.Duration) lineRequest {
	r := lineRequest{lines: uint32(len(offsets))}
	copy(r.offsets[:], offsets)
	copy(r.consumer[:], "covey")
	r.config.flags = flags
	if debounce > 0 {
		r.config.attributes = 1
		a := &r.config.attrs[0]
		a.id, a.mask = attributeDebounce, math.MaxUint64>>(mostLines-len(offsets))
		binary.NativeEndian.PutUint32(a.value[:], uint32(debounce.Microseconds()))
	}
	return r
}

func (s *Source) failed(code hal.Code, text string, err error) error {
	return &hal.Error{Code: code, Text: fmt.Sprintf("lines of %s: %s", s.c.Device, text), Err: err}
}

func explain(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV):
		return "there is no such chip: covey-agent probe lists those"
	case errors.Is(err, os.ErrPermission):
		return "not allowed: give the service what covey-agent unit prints (by hand: usermod -aG gpio covey) and restart it"
	case errors.Is(err, unix.EBUSY):
		return "another program or driver has one of them: gpioinfo says which"
	case errors.Is(err, unix.ENOTTY):
		return "this is no GPIO chip, or the kernel is older than 5.10"
	}
	return err.Error()
}

// get is the state of all lines.
func (s *Source) get() (uint64, error) {
	v := lineValues{mask: math.MaxUint64 >> (mostLines - len(s.offsets))}
	err := ioctl(s.file, ioctlGetValues, &v)
	return v.bits & v.mask, err
}

// Live is true.
func (s *Source) Live() bool { return true }

// Close gives the lines back.
func (s *Source) Close() error { return s.file.Close() }

// Dropped is how many edges the kernel could not keep for us.
func (s *Source) Dropped() uint64 { return s.dropped }

// Next waits for the next edge, for as long as that takes. A chip that was unplugged
// is E_SOURCE_LOST.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := s.opened
	if s.began {
		wait := s.poll
		if s.edges {
			wait = s.edge
		}
		var err error
		if at, err = wait(ctx); err != nil {
			return err
		}
	}
	s.began = true
	s.seq++
	f.Seq, f.Captured, f.Name = s.seq, at, ""
	f.Format, f.Channels, f.Rate = hal.FormatNone, len(s.offsets), 0
	f.Samples = f.Samples[:0]
	for i := range s.offsets {
		f.Samples = append(f.Samples, float32(s.values>>i&1))
	}
	return nil
}

// edge waits for an edge and takes it in.
func (s *Source) edge(ctx context.Context) (time.Time, error) {
	for len(s.events) < eventSize {
		s.file.SetReadDeadline(time.Time{})
		stop := context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) })
		n, err := s.file.Read(s.buf[:])
		stop()
		switch {
		case n > 0:
			s.events = s.buf[:n]
		case ctx.Err() != nil:
			return time.Time{}, ctx.Err()
		case !errors.Is(err, os.ErrDeadlineExceeded): // or else the end of an earlier ctx came late
			return time.Time{}, s.failed(hal.CodeSourceLost, "the chip went away: connect it again", err)
		}
	}
	e := parseEvent(s.events)
	s.events = s.events[eventSize:]
	if missed := e.seq - s.last - 1; missed != 0 {
		// What the lost edges did is not known, so the lines are asked.
		s.dropped += uint64(missed)
		if values, err := s.get(); err == nil {
			s.values = values
		}
	}
	s.last = e.seq
	s.apply(e)
	return wall(e.monotonic), nil
}

func (s *Source) apply(e event) {
	for i, offset := range s.offsets {
		if offset == e.offset {
			s.values &^= 1 << i
			if e.active {
				s.values |= 1 << i
			}
		}
	}
}

// wall is a time of the kernel's monotonic clock, by both clocks.
func wall(monotonic int64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Now()
	}
	return time.Now().Add(-time.Duration(max(0, now.Nano()-monotonic)))
}

// poll asks until the lines have changed.
func (s *Source) poll(ctx context.Context) (time.Time, error) {
	t := time.NewTicker(pollPeriod)
	defer t.Stop()
	for {
		values, err := s.get()
		if err != nil {
			return time.Time{}, s.failed(hal.CodeSourceLost, "the chip does not answer: connect it again", err)
		}
		now := time.Now()
		if settled := s.settle(values, now); settled != s.values {
			s.values = settled
			return now, nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case <-t.C:
		}
	}
}

// settle is the state of lines that are polled, each as it was until it has kept
// another one for as long as Debounce says; of other chips the kernel does this.
func (s *Source) settle(values uint64, now time.Time) uint64 {
	settled := s.values
	for i := range s.offsets {
		bit := uint64(1) << i
		if (values^s.seen)&bit != 0 {
			s.since[i] = now
		}
		if now.Sub(s.since[i]) >= s.c.Debounce {
			settled = settled&^bit | values&bit
		}
	}
	s.seen = values
	return settled
}
