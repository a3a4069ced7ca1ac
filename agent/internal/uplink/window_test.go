package uplink

import (
	"math"
	"testing"
	"time"
)

// On a link of a bandwidth and a delay the window becomes what fills it, and not much
// more.
func TestWindow(t *testing.T) {
	for _, c := range []struct {
		name        string
		perSecond   float64 // blocks
		delay       time.Duration
		least, most int
	}{
		{"a slow one", 2, 50 * time.Millisecond, firstWindow, firstWindow * 2},
		{"100 Mbit/s, 50 ms", 190, 50 * time.Millisecond, 10, 32},
		{"1 Gbit/s, 100 ms", 1900, 100 * time.Millisecond, maxWindow, maxWindow},
		{"a house", 1500, time.Millisecond, firstWindow, firstWindow * 2},
	} {
		now := time.Unix(0, 0)
		w := newWindow(now)
		for range 200 { // rounds: as many blocks as may be under way, in a round trip or as long as they take
			n := w.size
			d := max(c.delay, time.Duration(float64(n)/c.perSecond*float64(time.Second)))
			for range n {
				now = now.Add(d / time.Duration(n))
				w.arrived(now)
			}
		}
		if w.size < c.least || w.size > c.most {
			t.Errorf("%s: %d blocks under way, want %d to %d", c.name, w.size, c.least, c.most)
		}
		before := w.size
		w.silence(now)
		if w.size != before/2 || w.room(0) != w.size || w.room(w.size) != 0 {
			t.Errorf("%s: after a silence %d, room for %d", c.name, w.size, w.room(0))
		}
		for range 20 {
			w.silence(now)
		}
		if w.size != 1 || w.room(0) != 1 {
			t.Errorf("%s: after long silence %d", c.name, w.size)
		}
		w.arrived(now) // in no time
		if w.size < 1 || w.size > maxWindow || math.IsNaN(w.best) {
			t.Errorf("%s: %+v", c.name, w)
		}
	}
}
