package uplink

import "time"

const (
	firstWindow = 8
	maxWindow   = 64 // 4 MiB, which a small board has to spare
)

// A window is how many blocks may be under way. It doubles for as long as that makes
// blocks come faster: then it holds what bandwidth times delay is, or somewhat more.
// After a silence it is halved and finds its size again.
type window struct {
	size  int
	got   int       // blocks of this round, which has size of them
	since time.Time // the round began
	best  float64   // blocks a second, of the fastest round
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

func (w *window) arrived(now time.Time) {
	if w.got++; w.got < w.size {
		return
	}
	rate := float64(w.got) / max(now.Sub(w.since), time.Microsecond).Seconds()
	w.got, w.since = 0, now
	if rate > 1.1*w.best {
		w.best, w.size = rate, min(2*w.size, maxWindow)
	}
}

func (w *window) silence(now time.Time) {
	*w = window{size: max(w.size/2, 1), since: now}
}
