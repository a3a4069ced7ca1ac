package health

import "time"

// daily says what a counter grew by in the last day. It keeps a mark an hour.
type daily struct{ marks []mark }

type mark struct {
	at    time.Time
	total int64
}

const day = 24 * time.Hour

// add takes the counter as it stands and returns how much it grew in the last 24
// hours, or since the first call where that is less.
func (d *daily) add(now time.Time, total int64) int64 {
	if len(d.marks) > 0 && total < d.marks[len(d.marks)-1].total {
		d.marks = nil // it began anew
	}
	for len(d.marks) > 1 && now.Sub(d.marks[1].at) >= day {
		d.marks = d.marks[1:]
	}
	if n := len(d.marks); n == 0 || now.Sub(d.marks[n-1].at) >= time.Hour {
		d.marks = append(d.marks, mark{now, total})
	}
	grown, since := total-d.marks[0].total, now.Sub(d.marks[0].at)
	if since > day { // the oldest mark is up to an hour too old, or more where samples are rare
		return int64(float64(grown) * float64(day) / float64(since))
	}
	return grown
}
