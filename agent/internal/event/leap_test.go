package event

import (
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// Whatever a clock is set to while something is there: it comes once, goes once, and goes
// when it was not seen for as long as it should.
func TestClockLeaps(t *testing.T) {
	cat := []wire.Item{thing("cat", 0.9, 0.1, 0.1, 0.2, 0.2)}
	for _, to := range []time.Time{time.Unix(0, 0), noon.Add(-time.Hour), noon.Add(time.Hour), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)} {
		for _, back := range []bool{false, true} { // and set right again
			l := &ledger{t: t, count: map[string]int{}, open: map[string]string{}, ended: map[string]bool{}, words: map[string]bool{}}
			w := New(Config{IDPrefix: "e"})
			at := noon
			step := func(items []wire.Item) {
				at = at.Add(time.Second)
				w.See(at, items, l)
				w.Tick(at, l)
			}
			for range 5 {
				step(cat)
			}
			at = to
			for range 5 {
				step(cat)
			}
			if back {
				at = noon.Add(10 * time.Second)
				step(cat)
			}
			if len(l.open) != 1 {
				t.Errorf("to %v, back %t: %d are open", to, back, len(l.open))
			}
			at = at.Add(-3 * time.Minute)
			step(nil) // set back a little more, with nobody there
			for range 4 {
				step(nil)
			}
			if here := l.open["all/cat"]; here == "" {
				t.Errorf("to %v, back %t: it has gone too early", to, back)
			}
			for range 2 {
				step(nil)
			}
			if l.open["all/cat"] != "" {
				t.Errorf("to %v, back %t: it does not go", to, back)
			}
		}
	}
}
