package uplink

import (
	"maps"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	bolt "go.etcd.io/bbolt"
)

// Stats of an Uplink.
type Stats struct {
	FleetUp, HomeUp bool
	Waiting         int      // records that the link which is furthest behind has not acknowledged
	DiskBytes       int64    // of records on disk
	Lost            uint64   // records dropped by a cap since the start
	Queues          []Queue  // each class on each link that there is
	Flags           []string // codes for health: duplicate_identity, outbox_disk, outbox_rebuilt
	Disk            error    // why nothing can be written; nil while it can
}

// A Queue is one class of the outbox on one link.
type Queue struct {
	Class   string        // exec, event, result
	Link    string        // fleet, home
	Waiting uint64        // records that are not acknowledged
	Oldest  time.Duration // how long the oldest of them has waited
	// Dropped counts records by reason since the start: bytes and age (a cap), damaged
	// (could not be read back), crash (at most so many were lost at the end of the run
	// before this one).
	Dropped map[string]uint64
}

// Stats is where things stand.
func (u *Uplink) Stats() Stats {
	var s Stats
	u.box.stats(&s, [sides]bool{fleetSide: u.fleet != nil, homeSide: u.home != nil})
	if u.fleet != nil {
		s.FleetUp = u.fleet.pump.isUp()
		if u.fleet.duplicate() {
			s.Flags = append(s.Flags, "duplicate_identity")
		}
	}
	if u.home != nil {
		s.HomeUp = u.home.pump.isUp()
	}
	if s.Disk != nil {
		s.Flags = append(s.Flags, "outbox_disk")
	}
	if u.rebuilt != "" {
		s.Flags = append(s.Flags, "outbox_rebuilt")
	}
	return s
}

func (o *outbox) stats(s *Stats, on [sides]bool) {
	o.mu.Lock()
	s.Lost, s.Disk = o.lost, blob.Coded(o.broken, o.file.path)
	for c := range classes {
		l := &o.logs[c]
		s.DiskBytes += l.onDisk
		most := uint64(0)
		for side := range sides {
			st := &l.streams[side]
			most = max(most, st.waiting)
			if on[side] {
				s.Queues = append(s.Queues, Queue{Class: c.String(), Link: side.String(), Waiting: st.waiting, Dropped: maps.Clone(st.dropped)})
			}
		}
		s.Waiting += int(most)
	}
	o.mu.Unlock()
	i := 0
	for c := range classes {
		for side := range sides {
			if !on[side] {
				continue
			}
			if q := &s.Queues[i]; q.Waiting > 0 {
				q.Oldest = o.oldest(c, side)
			}
			i++
		}
	}
}

// oldest is how long the oldest record that a link has not acknowledged has waited.
func (o *outbox) oldest(c class, s side) time.Duration {
	var at time.Time
	err := o.file.view(func(tx *bolt.Tx) error {
		at = o.oldestOnDisk(tx, c, s)
		return nil
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	if l := &o.logs[c]; err != nil || at.IsZero() {
		for n := l.lo; n < l.head; n++ {
			if slot := &l.ring[n%ringSlots]; slot.want[s] {
				at = slot.at
				break
			}
		}
	}
	if at.IsZero() {
		return 0
	}
	return max(time.Since(at), 0)
}

// oldestOnDisk is the zero time where there is none.
func (o *outbox) oldestOnDisk(tx *bolt.Tx, c class, s side) time.Time {
	cur := tx.Bucket(entries(c, s)).Cursor()
	for k, v := cur.First(); k != nil; k, v = cur.Next() {
		n, err := atPosition(k)
		if err != nil || o.isGone(place{c, s, n}) {
			continue
		}
		if e, err := decodeEntry(v); err != nil || e.lost != nil {
			continue
		}
		if b, err := decodeBody(tx.Bucket(bodies(c)).Get(k)); err == nil {
			return o.plausible(b.at)
		}
	}
	return time.Time{}
}

// isGone says whether what is on disk was delivered.
func (o *outbox) isGone(p place) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gone[p] || o.going[p]
}
