package pipeline

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Drop is a reason why a captured frame gave no result.
type Drop uint8

const (
	DropStale  Drop = iota // live, and a newer one came
	DropStill              // nothing moved
	DropBusy               // no model to take it, or the pipeline ended
	DropOutbox             // no room for its result
	DropError              // it could not be read, filled, run or decoded
	numDrops
)

// String is the reason's name in messages.
func (d Drop) String() string {
	return [...]string{"stale", "still", "busy", "outbox", "error"}[d]
}

// counters are written on the frame path and read at any time.
type counters struct {
	captured, published atomic.Uint64
	dropped             [numDrops]atomic.Uint64
	lost, swaps         atomic.Uint64
	swapGap             atomic.Int64 // ns
	code                atomic.Pointer[string]
	latency             latencies
	stages              [numStages]latencies
}

// A Stage is a step of a frame's way.
type Stage uint8

const (
	StageFill   Stage = iota // the model's input is made
	StageRun                 // in the engine
	StageDecode              // the model's outputs are read
	numStages
)

// Stages are all of them.
func Stages() []Stage { return []Stage{StageFill, StageRun, StageDecode} }

// String is the stage's name in metrics.
func (s Stage) String() string { return [...]string{"fill", "run", "decode"}[s] }

// Stats are what a pipeline counted since it was made. Whenever no frame is under
// way, Captured = Published + the sum of Dropped.
type Stats struct {
	At        time.Time
	Captured  uint64
	Published uint64           // taken by Config.Publish
	Dropped   [numDrops]uint64 // by Drop
	Lost      uint64           // sessions
	Swaps     uint64           // changes of the model under way, seen by a result of each
	SwapGap   time.Duration    // the longest from the last result of one to the first of the other
	Degraded  string           // code of what went wrong since the last result; "" when nothing did
	Latency   Histogram        // from captured to published
	Total     time.Duration    // of Latency, added up
	Stages    [numStages]Histogram
	Times     [numStages]time.Duration // of Stages, added up
}

// Stats may be called at any time, by any goroutine.
func (p *Pipeline) Stats() Stats {
	c := &p.counters
	s := Stats{At: time.Now(), Lost: c.lost.Load(), Swaps: c.swaps.Load(), SwapGap: time.Duration(c.swapGap.Load())}
	s.Published = c.published.Load() // ends before beginnings: never more out than in
	for i := range s.Dropped {
		s.Dropped[i] = c.dropped[i].Load()
	}
	s.Captured = c.captured.Load()
	if code := c.code.Load(); code != nil {
		s.Degraded = *code
	}
	s.Total = c.latency.read(&s.Latency)
	for i := range s.Stages {
		s.Times[i] = c.stages[i].read(&s.Stages[i])
	}
	return s
}

// UnderWay is the number of frames captured, but neither published nor dropped.
func (s *Stats) UnderWay() uint64 {
	n := s.Captured - s.Published
	for _, d := range s.Dropped {
		n -= d
	}
	return n
}

// Health is s as a board reports it; rate and latencies are of the time since
// before, an earlier Stats or the zero one.
func (s *Stats) Health(before *Stats) wire.PipelineHealth {
	h := wire.PipelineHealth{Captured: s.Captured, Published: s.Published, Degraded: s.Degraded}
	if d := s.At.Sub(before.At).Seconds(); d > 0 && !before.At.IsZero() {
		h.FPS = round(float64(s.Published-before.Published)/d, 10)
	}
	window := s.Latency.Since(&before.Latency)
	h.P50 = round(float64(window.Quantile(0.50))/1e6, 10)
	h.P99 = round(float64(window.Quantile(0.99))/1e6, 10)
	for i, n := range s.Dropped {
		if n > 0 {
			if h.Dropped == nil {
				h.Dropped = make(map[string]uint64, numDrops)
			}
			h.Dropped[Drop(i).String()] = n
		}
	}
	return h
}

func round(v, parts float64) float64 { return float64(int64(v*parts+0.5)) / parts }

// A Histogram counts durations in buckets of an eighth of an octave-like width:
// 8 for each doubling from 64 µs on, so a quantile is at most 12.5 % off.
type Histogram [numBuckets]uint64

const (
	subBits    = 3
	minBits    = 16 // 2^16 ns = 65 µs and less: the first bucket
	maxBits    = 40 // 2^40 ns = 18 min and more: the last
	numBuckets = (maxBits-minBits)<<subBits + 1
)

// bucket is the index of a duration.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	n := bits.Len64(v) // v is within 2^(n-1) and 2^n
	switch {
	case n <= minBits:
		return 0
	case n > maxBits:
		return numBuckets - 1
	}
	sub := int(v>>(n-1-subBits)) & (1<<subBits - 1)
	return (n-1-minBits)<<subBits + sub + 1
}

// upper is the end of a bucket.
func upper(i int) time.Duration {
	if i == 0 {
		return 1 << minBits
	}
	octave, sub := (i-1)>>subBits, (i-1)&(1<<subBits-1)
	base := uint64(1) << (minBits + octave)
	return time.Duration(base + base>>subBits*uint64(sub+1))
}

// Since is what h counted since before.
func (h *Histogram) Since(before *Histogram) Histogram {
	var d Histogram
	for i := range h {
		d[i] = h[i] - before[i]
	}
	return d
}

// Quantile is an upper bound of the q-quantile, 0 when nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	var total, below uint64
	for _, n := range h {
		total += n
	}
	for i, n := range h {
		below += n
		if n > 0 && float64(below) >= q*float64(total) {
			return upper(i)
		}
	}
	return 0
}

// Upper is the end of each bucket of a Histogram; the last one's is no end.
func Upper() []time.Duration {
	ends := make([]time.Duration, numBuckets)
	for i := range ends {
		ends[i] = upper(i)
	}
	return ends
}

// latencies are a Histogram that is written and read at the same time.
type latencies struct {
	counts [numBuckets]atomic.Uint64
	sum    atomic.Int64 // ns
}

func (l *latencies) add(d time.Duration) {
	l.counts[bucket(d)].Add(1)
	l.sum.Add(int64(d))
}

// read also returns the sum.
func (l *latencies) read(h *Histogram) time.Duration {
	for i := range l.counts {
		h[i] = l.counts[i].Load()
	}
	return time.Duration(l.sum.Load())
}
