package task

import (
	"math"
	"sync/atomic"
)

// A Tunable is a Decoder that leaves out what scores too low.
type Tunable interface {
	// Threshold is the least score of an item.
	Threshold() float32
	// SetThreshold changes it, from the next Decode on. Any goroutine may call it.
	SetThreshold(least float32)
}

// A threshold is set by any goroutine and used by the one that decodes.
type threshold struct{ bits atomic.Uint32 }

func (t *threshold) Threshold() float32         { return math.Float32frombits(t.bits.Load()) }
func (t *threshold) SetThreshold(least float32) { t.bits.Store(math.Float32bits(least)) }
