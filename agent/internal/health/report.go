package health

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
)

// DefaultPeriod is the time between two health messages, give or take a fifth.
const DefaultPeriod = 60 * time.Second

// Input is what a report says besides the gauges.
type Input struct {
	Outbox int64    // records that wait
	Lost   uint64   // records that will never come
	Flags  []string // codes
	Pipes  map[string]wire.PipelineHealth
}

// A Reporter publishes the brief form of health from time to time.
type Reporter struct {
	Sampler *Sampler
	Period  func() time.Duration // asked for each wait; 0 or less means DefaultPeriod
	Collect func() Input
	Publish func(*wire.Health)
	Loop    *pulse.Loop // says that it goes on; nil: nobody asks
}

// Run publishes until ctx ends. The first report comes after a part of a period,
// a different one on each board, so that boards that start together do not stay
// together.
func (r *Reporter) Run(ctx context.Context) error {
	started := time.Now()
	wait := rand.N(r.period()/4 + 1)
	for {
		if !r.Loop.Sleep(ctx.Done(), wait) {
			return nil
		}
		now := time.Now()
		h := Brief(now, now.Sub(started), r.Sampler.Sample(), r.Collect())
		r.Publish(&h)
		wait = jitter(r.period())
	}
}

func (r *Reporter) period() time.Duration {
	if d := r.Period(); d > 0 {
		return d
	}
	return DefaultPeriod
}

// jitter is d ± 20 %.
func jitter(d time.Duration) time.Duration { return d*4/5 + rand.N(d*2/5+1) }

// Brief is the brief form: at most 400 bytes of JSON for two pipelines as they
// usually are.
func Brief(now time.Time, up time.Duration, g Gauges, in Input) wire.Health {
	return wire.Health{
		V: wire.Version, TS: now.UTC().Truncate(time.Second), Up: int64(up / time.Second),
		CPU: g.CPU, Mem: g.Mem, RSS: g.RSS, Temp: g.Temp, Throttled: g.Throttled, Disk: g.Disk,
		Outbox: in.Outbox, Lost: in.Lost, Flags: in.Flags, Pipes: in.Pipes,
	}
}
