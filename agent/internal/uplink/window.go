package uplink

import "time"

const (
	firstWindow = 8
	maxWindow   = 64 // 4 MiB, which a small board has to spare

	// leastAhead is for how long there is always enough under way: on a quick link it
	// is not the delay that would leave it idle, but a machine that is busy.
	leastAhead = 200 * time.Millisecond
	gain       = 4 // a machine that is busy answers late now and then
)

// A window is how many blocks may be under way: some times what bandwidth times delay
// is, both as measured. So it doubles with each round while the link is not full, and
// holds then. After a silence or a cut it is halved and measures again.
type window struct {
	size  int
	got   int           // blocks of this round, which has size of them
	since time.Time     // the round began
	rate  float64       // blocks a second, of the fastest rounds
	delay time.Duration // from the request to the block, at the least; 0: not known
}

func newWindow(now time.Time) window { return window{size: firstWindow, since: now} }

// room is how many more may be asked for. It waits until half of the window is free,
// so that there are few requests.
func (w *window) room(out int) int {
	if room := w.size - out; room >= (w.size+1)/2 {
		return room
	}
	return 0
}

// arrived takes note of a block that was asked for.
func (w *window) arrived(now, asked time.Time) {
	if d := now.Sub(asked); w.delay == 0 || d < w.delay {
		w.delay = d
	}
	if w.got++; w.got < w.size {
		return
	}
	rate := float64(w.got) / max(now.Sub(w.since), time.Millisecond).Seconds()
	w.rate = max(rate, 0.9*w.rate) // an old one does not count for ever
	w.got, w.since = 0, now
	w.size = min(max(int(w.rate*max(gain*w.delay, leastAhead).Seconds()), firstWindow), 2*w.size, maxWindow)
}

func (w *window) silence(now time.Time) {
	*w = window{size: max(w.size/2, 1), since: now, rate: w.rate / 2}
}
