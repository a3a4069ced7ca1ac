package signal

import (
	"fmt"
	"time"

	"github.com/covey-edge/covey/hal"
)

// A Converter takes some of the channels of a stream, or their mean, at another
// rate. One goroutine at a time.
type Converter struct {
	channels int   // of what comes in
	pick     []int // of them
	mono     bool
	resample *Resampler
	mixed    []float32
}

// NewConverter makes a Converter of a stream of so many channels at a rate of from
// samples a second, into one at a rate of to; to 0 is the same rate. pick is the
// channels to take, counted from 0, none being all of them; mono takes their mean.
// What makes no sense is E_CONFIG.
func NewConverter(channels, from, to int, pick []int, mono bool) (*Converter, error) {
	for _, p := range pick {
		if p < 0 || p >= channels {
			return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf(
				"channel %d of a source of %d: give 0 to %d", p, channels, channels-1)}
		}
	}
	if len(pick) == 0 {
		for c := range channels {
			pick = append(pick, c)
		}
	}
	if to == 0 {
		to = from
	}
	c := &Converter{channels: channels, pick: pick, mono: mono}
	var err error
	c.resample, err = NewResampler(c.Channels(), from, to)
	return c, err
}

// Channels is how many channels come out.
func (c *Converter) Channels() int {
	if c.mono {
		return 1
	}
	return len(c.pick)
}

// Convert appends to dst what follows from src, samples of all channels in turns.
func (c *Converter) Convert(dst, src []float32) []float32 {
	return c.resample.Resample(dst, c.mix(src))
}

// mix takes the channels; the result is good until the next call.
func (c *Converter) mix(src []float32) []float32 {
	c.mixed = c.mixed[:0]
	for ; len(src) >= c.channels; src = src[c.channels:] {
		if !c.mono {
			for _, p := range c.pick {
				c.mixed = append(c.mixed, src[p])
			}
			continue
		}
		var sum float32
		for _, p := range c.pick {
			sum += src[p]
		}
		c.mixed = append(c.mixed, sum/float32(len(c.pick)))
	}
	return c.mixed
}

// Flush appends what is left at the end of a stream, and resets.
func (c *Converter) Flush(dst []float32) []float32 { return c.resample.Flush(dst) }

// Reset forgets the stream: what comes next does not continue it.
func (c *Converter) Reset() { c.resample.Reset() }

// Latency is how far the output is behind the input.
func (c *Converter) Latency() time.Duration { return c.resample.Latency() }
