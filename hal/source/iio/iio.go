// Package iio is a source of measurements from the kernel's industrial I/O:
// accelerometers, converters, sensors of temperature, light, pressure. Values are in
// the units of the kernel's ABI: m/s², rad/s, mV, m°C, kPa, lux.
package iio

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source/window"
)

// Config of a Source.
type Config struct {
	Device      string   // its id of Probe, as "bme280@1-0076"; its name or label will do where there is one of it
	Channels    []string // by the kernel's names: "accel_x", "temp", "voltage0"; none: all
	Rate        float64  // samples a second, as near as the device can; 0: its own, or 1 where it is polled
	Window, Hop int      // samples a channel, as of window.New
	Root        string   // "": "/"
}

// A Source reads a device through its buffer or, when it has none that we may use,
// polls it. One goroutine at a time.
type Source struct {
	c      Config
	device device
	ring   *window.Ring
	quiet  time.Duration

	buffer *buffer // nil: polled
	why    error   // polled and not buffered
	bytes  []byte
	part   int // bytes at the begin of bytes that are no whole record yet

	polled []polled
	period time.Duration
	due    time.Time
	faults int // in a row

	values []float32
}

const (
	leastQuiet = 5 * time.Second
	mostPolled = 1000. // times a second
	mostFaults = 10    // in a row; then the sensor is gone
)

// Open begins to measure. A device or channel that is not there, or not allowed, is
// E_SOURCE with what to do.
func Open(c Config) (*Source, error) {
	if c.Root == "" {
		c.Root = "/"
	}
	if !(c.Rate >= 0 && c.Rate <= 1e6) {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("sensor at %v samples a second: give 0 to 1000000", c.Rate)}
	}
	s := &Source{c: c}
	var err error
	if s.device, err = find(c.Root, c.Device); err != nil {
		return nil, s.failed(hal.CodeSource, err)
	}
	var channels int
	var rate float64
	if s.buffer, s.why = startBuffer(&s.device, c.Root, c.Channels, c.Rate); s.why == nil {
		channels, rate = len(s.buffer.record.elements), s.buffer.rate
		s.bytes = make([]byte, 64*s.buffer.record.size)
	} else {
		if err := s.startPolling(); err != nil {
			return nil, s.failed(hal.CodeSource, err)
		}
		channels, rate = len(s.polled), float64(time.Second)/float64(s.period)
	}
	if s.ring, err = window.New(channels, c.Window, c.Hop); err != nil {
		s.Close()
		return nil, err
	}
	s.ring.Rate, s.quiet = rate, leastQuiet
	if rate > 0 {
		s.quiet = max(s.quiet, time.Duration(10/rate*float64(time.Second)))
	}
	return s, nil
}

func (s *Source) failed(code hal.Code, err error) error {
	text := err.Error()
	if errors.Is(err, os.ErrPermission) {
		text = "not allowed: add a udev rule that gives the group covey what is of SUBSYSTEM==\"iio\""
	}
	return &hal.Error{Code: code, Text: fmt.Sprintf("sensor %s: %s", s.c.Device, text), Err: err}
}

// Live is true.
func (s *Source) Live() bool { return true }

// Polled is why the device is polled; nil when its buffer is read.
func (s *Source) Polled() error { return s.why }

// Close ends measuring.
func (s *Source) Close() error {
	if s.buffer == nil {
		return nil
	}
	return s.buffer.close()
}

// Next waits for the next window. A device that gives nothing is E_SOURCE_STALLED,
// one that is gone E_SOURCE_LOST; a poll that fails wraps hal.ErrBadFrame.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for !s.ring.Next(f) {
		read := s.poll
		if s.buffer != nil {
			read = s.read
		}
		if err := read(ctx); err != nil {
			return err
		}
	}
	f.Name = ""
	return nil
}

// read takes records from the buffer, no more than the ring has room for.
func (s *Source) read(ctx context.Context) error {
	size := s.buffer.record.size
	room := max(1, min(s.ring.Room(), len(s.bytes)/size))
	due := time.Now().Add(s.quiet)
	s.buffer.file.SetReadDeadline(due)
	stop := context.AfterFunc(ctx, func() { s.buffer.file.SetReadDeadline(time.Unix(1, 0)) })
	n, err := s.buffer.file.Read(s.bytes[s.part : room*size])
	stop()
	switch {
	case n > 0:
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		if time.Now().Before(due) {
			return nil // the end of an earlier ctx came late
		}
		return s.failed(hal.CodeSourceStalled, fmt.Errorf("nothing for %v: check its trigger and its interrupt line", s.quiet))
	default:
		return s.failed(hal.CodeSourceLost, fmt.Errorf("it went away (%w): connect it again", err))
	}
	now := time.Now()
	n += s.part
	whole := n - n%size
	for at := 0; at < whole; at += size {
		var stamp int64
		s.values, stamp = s.buffer.record.parse(s.values[:0], s.bytes[at:at+size])
		s.ring.Push(s.values, taken(now, stamp, (whole-at)/size-1, s.ring.Rate))
	}
	s.part = copy(s.bytes, s.bytes[whole:n])
	return nil
}

// taken is when a record was taken: as its time stamp says, if that is of the wall's
// clock, else from how many records came behind it in the same read.
func taken(now time.Time, stamp int64, behind int, rate float64) time.Time {
	if ago := now.UnixNano() - stamp; stamp > 0 && ago >= 0 && ago < int64(10*time.Second) {
		return now.Add(-time.Duration(ago)) // keeps the monotonic clock
	}
	if rate > 0 {
		return now.Add(-time.Duration(float64(behind) / rate * float64(time.Second)))
	}
	return now
}

// A polled channel is a file that measures when it is read.
type polled struct {
	file          string
	scale, offset float64
}

func (s *Source) startPolling() error {
	d, names := &s.device, s.c.Channels
	if len(names) == 0 {
		names = d.names("", "raw", "input")
	}
	if len(names) == 0 {
		return fmt.Errorf("it has nothing to read, and: %w", s.why)
	}
	for _, name := range names {
		// What is processed is in its unit already.
		p := polled{file: "in_" + name + "_input", scale: 1}
		_, err := d.read(p.file)
		if errors.Is(err, os.ErrNotExist) {
			p = polled{"in_" + name + "_raw", d.number(name, "scale", 1), d.number(name, "offset", 0)}
			_, err = d.read(p.file)
		}
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("it has no channel %q, but %.200q", name, d.names("", "raw", "input"))
		}
		if errors.Is(err, os.ErrPermission) {
			return err
		}
		s.polled = append(s.polled, p) // one that cannot be read just now may be later
	}
	rate := s.c.Rate
	if rate == 0 {
		rate = 1
	}
	s.period = time.Duration(float64(time.Second) / min(rate, mostPolled))
	return nil
}

// poll waits until the next sample is due and takes it.
func (s *Source) poll(ctx context.Context) error {
	if err := sleep(ctx, time.Until(s.due)); err != nil {
		return err
	}
	now := time.Now()
	if now.Sub(s.due) > s.period {
		s.due = now
	}
	s.due = s.due.Add(s.period)
	s.values = s.values[:0]
	for _, p := range s.polled {
		v, err := s.measure(p)
		if err == nil {
			s.values = append(s.values, v)
			continue
		}
		if s.faults++; s.faults >= mostFaults || errors.Is(err, syscall.ENODEV) || errors.Is(err, os.ErrNotExist) {
			return s.failed(hal.CodeSourceLost, fmt.Errorf("it went away (%w): connect it again", err))
		}
		return fmt.Errorf("sensor %s: %w: %w", s.c.Device, hal.ErrBadFrame, err)
	}
	s.faults = 0
	s.ring.Push(s.values, time.Now())
	return nil
}

func (s *Source) measure(p polled) (float32, error) {
	text, err := s.device.read(p.file)
	if err != nil {
		return 0, err
	}
	raw, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(raw, 0) || math.IsNaN(raw) {
		return 0, fmt.Errorf("%s says %.40q", p.file, text)
	}
	e := element{scale: p.scale, offset: p.offset}
	return e.value(raw), nil
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
