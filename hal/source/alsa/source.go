// Package alsa is a source of sound from microphones and other inputs of sound
// cards. It records with arecord, a program of the package alsa-utils: all that ALSA
// knows by a name can be used, plugins too, and no native library is in the agent.
package alsa

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/signal"
	"github.com/covey-edge/covey/hal/source/window"
)

// Config of a Source.
type Config struct {
	Device      string // "": ALSA's default; "hw:CARD=Device,DEV=0" stays the same whatever socket it is in
	Rate        int    // samples a second; 0: the hardware's own. Resampled when the hardware has another
	Channels    []int  // to take, counted from 0; none: as few as the hardware has
	Mono        bool   // take the mean of the channels
	Window, Hop int    // samples a channel at Rate, as of window.New
	Program     string // "": arecord
}

// A Source reads what a microphone hears. One goroutine at a time.
type Source struct {
	c       Config
	setup   setup
	record  *recorder
	convert *signal.Converter // nil until the first sound says at what rate it is
	ring    *window.Ring
	part    int // bytes at the begin of buf that are no whole sample yet
	buf     [16 << 10]byte
	samples []float32
	out     []float32
	rest    []float32 // end of out: what is not in the ring yet
	at      time.Time // of the last of rest
	clock   clock
	last    time.Time // window
	quiet   time.Duration
	heard   bool
}

// Limits of waiting.
const (
	quiet  = 5 * time.Second // a device that gives nothing for so long has stalled
	answer = 5 * time.Second // to what it can do
)

// Open begins to record. A device that is absent, busy, not allowed, or cannot do
// what is asked is E_SOURCE with what to do.
func Open(ctx context.Context, c Config) (*Source, error) {
	if c.Device == "" {
		c.Device = "default"
	}
	if c.Program == "" {
		c.Program = "arecord"
	}
	if _, err := window.New(1, c.Window, c.Hop); err != nil {
		return nil, err
	}
	for _, p := range c.Channels {
		if p < 0 || p >= window.MostChannels {
			return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("channel %d of a microphone: give 0 to %d", p, window.MostChannels-1)}
		}
	}
	said, err := ask(ctx, c.Program, answer, "-D", c.Device, "-t", "raw", "-s", "1", "--dump-hw-params")
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, failed(hal.CodeSourceStalled, c.Device, fmt.Sprintf("it has not answered for %v: unplug it and plug it in again", answer))
	case err != nil:
		return nil, failed(hal.CodeSource, c.Device, err.Error())
	}
	h, ok := parseHardware(said)
	if !ok {
		return nil, failed(hal.CodeSource, c.Device, explain(said))
	}
	s := &Source{c: c, quiet: quiet}
	if s.setup, err = h.choose(c.Rate, c.Channels); err != nil {
		return nil, failed(hal.CodeSource, c.Device, err.Error())
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// start runs the recording. Periods are short, so that a window comes soon after
// its last sample; the buffer bridges half a second without us.
func (s *Source) start() (err error) {
	s.record, err = start(s.c.Program, "-D", s.c.Device, "-t", "raw", "-f", s.setup.format, "-r", fmt.Sprint(s.setup.rate),
		"-c", fmt.Sprint(s.setup.channels), "--period-time=20000", "--buffer-time=500000")
	if err != nil {
		return failed(hal.CodeSource, s.c.Device, err.Error())
	}
	s.record.rate = s.setup.rate
	return nil
}

// Live is true.
func (s *Source) Live() bool { return true }

// Close ends the recording.
func (s *Source) Close() error {
	s.record.close()
	return nil
}

// Overruns is how often sound was lost because nobody took it in time.
func (s *Source) Overruns() uint64 { return s.record.overruns }

// Next waits for the next window. A device that gives nothing is E_SOURCE_STALLED,
// one that was unplugged E_SOURCE_LOST. No window goes over a gap in the sound.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for s.ring == nil || !s.ring.Next(f) {
		if len(s.rest) == 0 {
			if err := s.read(ctx, f); err != nil {
				return err
			}
		}
		s.push()
	}
	// Sound that came faster than it can be heard, as from a file, has impossible times.
	if f.Captured.Before(s.last) {
		f.Captured = s.last
	}
	f.Name, s.last = "", f.Captured
	return nil
}

func (s *Source) read(ctx context.Context, f *hal.Frame) error {
	n, err := s.record.read(ctx, s.buf[s.part:], time.Now().Add(s.quiet))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failed(hal.CodeSourceStalled, s.c.Device, fmt.Sprintf("no sound for %v: unplug it and plug it in again", s.quiet))
	case err == errEnded && s.heard:
		return failed(hal.CodeSourceLost, s.c.Device, "it went away: "+explain(string(s.record.said)))
	case err == errEnded:
		return failed(hal.CodeSource, s.c.Device, explain(string(s.record.said)))
	case err != nil:
		return err
	}
	now := time.Now()
	if !s.heard {
		if err := s.begin(f); err != nil {
			return err
		}
	}
	if s.record.interrupted {
		s.record.interrupted, s.clock = false, clock{}
		s.convert.Reset()
		s.ring.Clear()
	}
	n += s.part
	whole := n - n%(s.setup.channels*s.setup.pcm.Size())
	s.samples = s.setup.pcm.Decode(s.samples[:0], s.buf[:whole])
	s.part = copy(s.buf[:], s.buf[whole:n])
	s.out = s.convert.Convert(s.out[:0], s.samples)
	lasts := time.Duration(float64(len(s.samples)/s.setup.channels) / float64(s.record.rate) * float64(time.Second))
	s.rest, s.at = s.out, s.clock.read(now, lasts).Add(-s.convert.Latency())
	return nil
}

// push moves as much as there is room for into the ring.
func (s *Source) push() {
	channels := s.convert.Channels()
	n := min(len(s.rest), s.ring.Room()*channels)
	behind := float64((len(s.rest)-n)/channels) / s.ring.Rate
	s.ring.Push(s.rest[:n], s.at.Add(-time.Duration(behind*float64(time.Second))))
	s.rest = s.rest[n:]
}

// begin makes what depends on the rate that the device records at, which need not
// be the one that was asked for.
func (s *Source) begin(f *hal.Frame) (err error) {
	if s.convert, err = signal.NewConverter(s.setup.channels, s.record.rate, s.c.Rate, s.c.Channels, s.c.Mono); err != nil {
		return err
	}
	if s.ring, err = window.New(s.convert.Channels(), s.c.Window, s.c.Hop); err != nil {
		return err
	}
	if s.ring.Rate = float64(s.c.Rate); s.c.Rate == 0 {
		s.ring.Rate = float64(s.record.rate)
	}
	s.heard = true
	s.ring.Next(f) // it learns the size
	return nil
}
