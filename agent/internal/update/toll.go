package update

import (
	"context"
	"fmt"
	"time"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// maxAhead is how many blocks may be under way at once, and so how far a download
// may run ahead of its rate.
const maxAhead = 16

// A toll is what the downloads of one execution cost, and may. nil: nothing is
// counted, as for what people have signed and for the repair of what runs.
type toll struct {
	rate  int64 // bytes a second; 0: as fast as it goes
	most  int64 // bytes in all; 0: no limit
	spent int64
	paid  time.Time // until when the rate is used up
}

// toll is that of the execution under way, by its order of now.
func (j *journey) toll() *toll {
	e := j.pipeline().Exec
	if j.costs == nil {
		j.costs = &toll{spent: e.Spent}
	}
	j.costs.rate, j.costs.most = e.Want.Rate, e.Want.BytesMax
	return j.costs
}

// keepCosts writes down what was spent, where that is limited. It is coarse: a power
// cut forgets up to a tenth of a download.
func (j *journey) keepCosts() {
	t := j.costs
	p := j.pipeline()
	if t == nil || t.most == 0 || p.Over() || p.Exec.Spent == t.spent {
		return
	}
	if err := j.save(func(s slots.State) slots.State { return s.With(j.name, s.Pipelines[j.name].Paid(t.spent)) }); err != nil {
		j.rare.Error().Err(err).Msg("state not saved")
	}
}

// afford says whether need more bytes may be downloaded: nil, or E_BUDGET.
func (t *toll) afford(need int64) error {
	if t == nil || t.most == 0 || need == 0 || t.spent+need <= t.most {
		return nil
	}
	return &hal.Error{Code: hal.CodeBudget, Text: fmt.Sprintf("%d bytes are still to come, and %d of %d are spent: raise bytes_max, or push a smaller release",
		need, t.spent, t.most)}
}

// ahead is how many blocks may be asked for at once: what the rate gives in a second.
func (t *toll) ahead() int {
	if t == nil || t.rate == 0 {
		return maxAhead
	}
	return int(max(1, min(t.rate/wire.BlockSize, maxAhead)))
}

// pay counts n bytes that came, and waits until the rate lets the next ones be
// asked for.
func (t *toll) pay(ctx context.Context, n int) error {
	if t == nil {
		return nil
	}
	t.spent += int64(n)
	if t.most > 0 && t.spent > t.most { // blocks came twice, or were wrong
		return &hal.Error{Code: hal.CodeBudget, Text: fmt.Sprintf("%d bytes came, %d may: raise bytes_max", t.spent, t.most)}
	}
	if t.rate == 0 {
		return nil
	}
	now := time.Now()
	if burst := now.Add(-t.takes(t.ahead() * wire.BlockSize)); t.paid.Before(burst) {
		t.paid = burst
	}
	t.paid = t.paid.Add(t.takes(n))
	if t.paid.After(now) && !sleep(ctx, t.paid.Sub(now)) {
		return context.Cause(ctx)
	}
	return nil
}

// takes is how long n bytes take at the rate.
func (t *toll) takes(n int) time.Duration {
	return time.Duration(float64(n) / float64(t.rate) * float64(time.Second))
}

// A tolled Partial is filled as fast as its toll allows: it shows a few of the blocks
// that are missing, and is slow to take them. Nothing is held in memory for that.
type tolled struct {
	Partial
	ctx context.Context // of the fetch
	*toll
}

// Missing has the first blocks that are wanted.
func (p *tolled) Missing() blob.Bitmap {
	missing := p.Partial.Missing()
	if p.toll == nil || p.rate == 0 {
		return missing
	}
	left := p.ahead()
	for i, b := range missing {
		for bit := byte(1); bit != 0; bit <<= 1 {
			if b&bit == 0 {
				continue
			}
			if left--; left < 0 {
				missing[i] &^= bit
			}
		}
	}
	return missing
}

// WriteBlock takes a block, and its time.
func (p *tolled) WriteBlock(n int, data []byte) error {
	err := p.Partial.WriteBlock(n, data)
	if cost := p.pay(p.ctx, len(data)); cost != nil && p.Left() > 0 {
		return cost
	}
	return err
}
