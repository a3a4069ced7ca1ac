package alsa

import "time"

// A clock tells when sound was taken, from when it was read. A read may come late,
// when sound has waited in buffers, but never early; and between two reads as much
// time has gone by as there is sound.
type clock struct{ at time.Time }

const (
	drift = 1e-3        // by how much the crystals of card and board may differ
	gap   = time.Second // what is late by more has lost sound in between
)

// read returns when the last of a piece of sound was taken that lasts so long.
func (c *clock) read(now time.Time, lasts time.Duration) time.Time {
	expected := c.at.Add(lasts + time.Duration(float64(lasts)*drift))
	if c.at.IsZero() || expected.After(now) || now.Sub(expected) > gap {
		expected = now
	}
	c.at = expected
	return c.at
}
