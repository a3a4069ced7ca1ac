package ladder

import (
	"fmt"
	"slices"
	"time"

	"github.com/covey-edge/covey/hal"
)

// When an accelerator is taken off a model. Three sessions lost, or runs failed in
// a row, are enough; a hang counts twice, because each costs a whole deadline: two
// of them and the next rung works within five seconds.
const (
	enough    = 3
	hangCount = 2
	within    = 5 * time.Minute // lost sessions that are further apart are not counted together

	firstPause = time.Minute // until a benched accelerator is tried again
	lastPause  = time.Hour
	goodTime   = 10 * time.Minute // that it has to work for the pause to be short again
)

// A rung is how one model does on one accelerator. Its methods alone change it;
// now is the caller's clock.
type rung struct {
	lost    []loss // sessions, not long ago
	reason  string // why it is benched; "" while it is not
	until   time.Time
	pause   time.Duration // that until is apart from when it was benched
	retried time.Time     // when it came back
}

type loss struct {
	at    time.Time
	count int
}

func (r *rung) benched() bool { return r.reason != "" }

// lose counts a lost session, and benches the accelerator when that is enough.
func (r *rung) lose(err error, now time.Time) {
	r.lost = slices.DeleteFunc(r.lost, func(l loss) bool { return now.Sub(l.at) >= within })
	l := loss{now, 1}
	if hal.CodeOf(err) == hal.CodeTimeout {
		l.count = hangCount
	}
	r.lost = append(r.lost, l)
	sum := 0
	for _, l := range r.lost {
		sum += l.count
	}
	if sum >= enough {
		r.bench(fmt.Sprintf("%d sessions were lost, the last by %v", len(r.lost), err), now)
	}
}

// bench takes the accelerator off, for twice as long as before unless it worked
// well in between.
func (r *rung) bench(reason string, now time.Time) {
	if r.pause == 0 || !r.benched() && now.Sub(r.retried) >= goodTime {
		r.pause = firstPause
	} else {
		r.pause = min(2*r.pause, lastPause)
	}
	r.reason, r.until, r.lost = clip(reason), now.Add(r.pause), nil
}

// back lets the accelerator work again.
func (r *rung) back(now time.Time) { r.reason, r.lost, r.retried = "", nil, now }

// degraded is the reason for people.
func (r *rung) degraded(a hal.Accelerator) string {
	return fmt.Sprintf("%s: %s; tried again at %s", a, r.reason, r.until.Format("15:04"))
}
