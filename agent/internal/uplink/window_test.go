package uplink

import (
	"testing"
	"time"
)

// flow lets blocks come over a link of a bandwidth and a delay that has a queue, for
// some seconds, and returns the window's size then and how full the link was.
func flow(perSecond float64, delay, limit time.Duration) (size int, full float64) {
	begin := time.Unix(0, 0)
	now := begin
	w := newWindow(now)
	var came, asked []time.Time // of blocks under way
	free, n := now, 0           // when the link is
	for now.Sub(begin) < limit {
		for range w.room(len(came)) {
			if at := now.Add(delay / 2); free.Before(at) {
				free = at
			}
			free = free.Add(time.Duration(float64(time.Second) / perSecond))
			came, asked = append(came, free.Add(delay/2)), append(asked, now)
		}
		now = came[0]
		w.arrived(now, asked[0])
		came, asked = came[1:], asked[1:]
		n++
	}
	return w.size, float64(n) / limit.Seconds() / perSecond
}

// On a link of a bandwidth and a delay the window becomes what fills it, and not much
// more.
func TestWindow(t *testing.T) {
	for _, c := range []struct {
		name        string
		perSecond   float64 // blocks
		delay       time.Duration
		least, most int
		full        float64
	}{
		{"a slow one", 2, 50 * time.Millisecond, firstWindow, firstWindow, 0.95},
		{"satellite", 40, 600 * time.Millisecond, 24, maxWindow, 0.8},
		{"100 Mbit/s, 50 ms", 190, 50 * time.Millisecond, 30, 48, 0.97},
		{"1 Gbit/s, 20 ms", 1900, 20 * time.Millisecond, maxWindow, maxWindow, 0.9},
		{"a house", 1500, time.Millisecond, maxWindow, maxWindow, 0.95},
	} {
		size, full := flow(c.perSecond, c.delay, 20*time.Second)
		if size < c.least || size > c.most || full < c.full {
			t.Errorf("%s: %d blocks under way, want %d to %d; the link was used by %.2f, want %.2f", c.name, size, c.least, c.most, full, c.full)
		}
	}
}

func TestWindowAfterSilence(t *testing.T) {
	now := time.Unix(0, 0)
	w := newWindow(now)
	for range 20 {
		before := w.size
		w.silence(now)
		if w.size != max(before/2, 1) || w.room(0) != w.size || w.room(w.size) != 0 {
			t.Fatalf("after a silence %d of %d, room for %d", w.size, before, w.room(0))
		}
	}
	w.arrived(now, now) // in no time
	if w.size < 1 || w.size > maxWindow {
		t.Errorf("%+v", w)
	}
}
