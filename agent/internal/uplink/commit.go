package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/blob"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// maxDrop bounds the records that one commit drops.
const maxDrop = 10_000

// clockSet is a year that has passed: a board whose clock says less has not set
// it yet, and how old its records are nobody knows.
const clockSet = 2025

// fillPercent of a page before the next one is begun: what is appended in order needs
// no room in between.
const fillPercent = 0.95

// A batch is what one commit writes.
type batch struct {
	puts     []put
	dels     []place
	counters [classes][sides]counter
	changed  [classes][sides]bool
	busy     [classes][sides][]uint64 // not to be dropped
	lo       [classes]uint64          // nor is what is in memory: from here on
	now      time.Time
	added    [classes]int64 // bytes of bodies, after writing
	onDisk   [classes]int64 // before
	lost     uint64         // records dropped, after writing
	dropped  [classes][sides]map[string]uint64
}

type put struct {
	c     class
	n     uint64
	value []byte
	seq   [sides]uint64
	want  [sides]bool
}

// write is the loop that commits when it is time.
func (o *outbox) write(ctx context.Context, board *pulse.Board) {
	loop := board.Loop("outbox")
	defer loop.Leave(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	said := "" // a disk that refuses does so every few seconds
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.kick:
		case <-timer.C:
		case <-loop.Pulse():
			loop.Beat()
			continue
		}
		loop.Beat()
		wait := o.due(time.Now())
		if wait <= 0 {
			loop.Do("writes", diskTime)
			err := o.commitDue()
			switch {
			case err != nil && err.Error() != said:
				said = err.Error()
				o.log.Error().Err(err).Msg("outbox cannot be written; keeping records in memory")
			case err == nil && said != "":
				said = ""
				o.log.Info().Msg("outbox can be written again")
			}
			wait = o.due(time.Now())
		}
		timer.Reset(max(wait, 10*time.Millisecond))
	}
}

// due is how long the next commit can wait; 0 or less is now.
func (o *outbox) due(now time.Time) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	wait := time.Hour
	if len(o.gone) > 0 {
		wait = lazyTime - now.Sub(o.lazySince)
	}
	if len(o.gone) >= 4*groupSize {
		wait = 0
	}
	for c := range classes {
		if wait = min(wait, o.dueClass(c, now)); o.lowReserve(c) {
			wait = 0
		}
	}
	if o.broken != nil {
		wait = max(wait, brokenDelay-now.Sub(o.brokenAt))
	}
	return wait
}

// dueClass is due for what is unwritten of one class. mu is held.
func (o *outbox) dueClass(c class, now time.Time) time.Duration {
	if o.full(c) {
		return 0
	}
	l := &o.logs[c]
	wait := time.Hour
	for n := l.lo; n < l.head && l.fresh > 0; n++ {
		s := &l.ring[n%ringSlots]
		if s.state != fresh || !s.wanted() {
			continue
		}
		if s.each {
			return 0
		}
		wait = min(wait, o.patience(s, now)-now.Sub(s.at))
	}
	return wait
}

// patience is how long a record may be in memory alone. Where no link has been up for
// long that could take it, it can only be written, and a group makes that cheap. mu is
// held.
func (o *outbox) patience(s *slot, now time.Time) time.Duration {
	for side := range sides {
		if s.want[side] && (o.up[side] || now.Sub(o.down[side]) < shortOutage) {
			return groupTime
		}
	}
	return offlineTime
}

// commitDue is commit for what has to be written now.
func (o *outbox) commitDue() error { return o.commitWhat(false, false) }

// commit writes everything that is not on disk and still wanted, deletes what
// was delivered, and drops what the caps do not allow. final also gives back the
// numbers that were reserved and not used.
func (o *outbox) commit(final bool) error { return o.commitWhat(true, final) }

func (o *outbox) commitWhat(all, final bool) error {
	o.committing.Lock()
	defer o.committing.Unlock()
	b := o.collect(all, final)
	var err error
	if !b.empty() {
		err = o.file.update(b.write(o))
		if errors.Is(err, berrors.ErrDatabaseNotOpen) {
			err = errors.New("outbox is closed")
		}
	}
	o.finish(b, err)
	if err != nil {
		return fmt.Errorf("write outbox: %w", blob.Coded(err, o.file.path))
	}
	return nil
}

func (b *batch) empty() bool {
	return len(b.puts) == 0 && len(b.dels) == 0 && b.changed == [classes][sides]bool{}
}

func (o *outbox) collect(all, final bool) *batch {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := &batch{now: time.Now()}
	for c := range classes {
		l := &o.logs[c]
		b.onDisk[c], b.lo[c] = l.onDisk, l.lo
		if all || o.dueClass(c, b.now) <= 0 {
			o.collectPuts(b, c)
		}
		for s := range sides {
			b.busy[c][s] = slices.Clone(l.streams[s].busy)
		}
	}
	o.gone, o.going = o.going, o.gone
	b.dels = slices.Collect(maps.Keys(o.going))
	for c := range classes {
		for s := range sides {
			o.collectCounter(b, c, s, final)
		}
	}
	return b
}

func (o *outbox) collectPuts(b *batch, c class) {
	l := &o.logs[c]
	for n := l.lo; n < l.head && l.fresh > 0; n++ {
		s := &l.ring[n%ringSlots]
		if s.state == fresh && s.wanted() {
			s.state = writing
			l.fresh--
			b.puts = append(b.puts, put{c, n, encodeBody(s.body), s.seq, s.want})
		}
	}
}

// collectCounter also reserves more, where something is written anyway or the numbers
// run out.
func (o *outbox) collectCounter(b *batch, c class, s side, final bool) {
	st := &o.logs[c].streams[s]
	next := counter{o.accounted(c, s), st.last}
	if c == classResult && !final {
		st.resize(b.now)
		next.reserved += st.block
	}
	b.counters[c][s] = next
	// How far it has come is worth writing only along with something else.
	alone := len(b.puts)+len(b.dels) == 0 && !final && !o.lowReserve(c)
	b.changed[c][s] = next != st.written && !alone
	if b.changed[c][s] {
		st.reserved = min(st.reserved, next.reserved) // what is given back is not used meanwhile
	}
}

// accounted is the number up to which all are on the disk after this commit, or are done:
// a crash would lose what is behind it, and has to say so. mu is held.
func (o *outbox) accounted(c class, s side) uint64 {
	l := &o.logs[c]
	for n := l.lo; n < l.head && l.fresh > 0; n++ {
		if slot := &l.ring[n%ringSlots]; slot.state == fresh && slot.want[s] {
			return slot.seq[s] - 1
		}
	}
	return l.streams[s].last
}

// resize makes the block so large that it is enough for reserveTime.
func (st *stream) resize(now time.Time) {
	used, ms := st.last-st.written.last, max(now.Sub(st.writtenAt), time.Second).Milliseconds()
	st.block = min(max(used*uint64(reserveTime.Milliseconds())/uint64(ms), minReserve), maxReserve)
}

func (o *outbox) finish(b *batch, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.broken, o.brokenAt = err, b.now
	for _, p := range b.puts {
		l := &o.logs[p.c]
		s := &l.ring[p.n%ringSlots]
		switch {
		case err == nil:
			s.state = stored
		default:
			s.state = fresh
			if s.wanted() {
				l.fresh++
			}
			for side := range sides {
				delete(o.gone, place{p.c, side, p.n})
			}
		}
	}
	if err != nil {
		maps.Copy(o.gone, o.going)
	} else {
		for c := range classes {
			o.logs[c].onDisk += b.added[c]
			for s := range sides {
				st := &o.logs[c].streams[s]
				if b.changed[c][s] {
					st.reserved, st.written, st.writtenAt = b.counters[c][s].reserved, b.counters[c][s], b.now
				}
				for reason, n := range b.dropped[c][s] {
					st.dropped[reason] += n
					st.waiting -= n
				}
			}
		}
		o.lost += b.lost
	}
	clear(o.going)
	if len(o.gone) > 0 {
		o.lazySince = b.now
	}
	for s := range sides {
		poke(o.wake[s])
	}
	o.tellRoom()
}

func (b *batch) write(o *outbox) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error {
		b.added, b.lost, b.dropped = [classes]int64{}, 0, [classes][sides]map[string]uint64{}
		for c := range classes {
			tx.Bucket(bodies(c)).FillPercent = fillPercent
			for s := range sides {
				tx.Bucket(entries(c, s)).FillPercent = fillPercent
			}
		}
		for _, p := range b.puts {
			if err := b.put(tx, p); err != nil {
				return err
			}
		}
		for _, p := range b.dels {
			if err := b.del(tx, p); err != nil {
				return err
			}
		}
		for c := range classes {
			if err := b.drop(tx, c, o.caps[c]); err != nil {
				return err
			}
			for s := range sides {
				if !b.changed[c][s] {
					continue
				}
				if err := tx.Bucket(metaBucket).Put(entries(c, s), encodeCounter(b.counters[c][s])); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func (b *batch) put(tx *bolt.Tx, p put) error {
	key := position(p.n)
	if err := tx.Bucket(bodies(p.c)).Put(key, p.value); err != nil {
		return err
	}
	b.added[p.c] += int64(len(p.value))
	for s := range sides {
		if p.want[s] {
			if err := tx.Bucket(entries(p.c, s)).Put(key, encodeEntry(entry{seq: p.seq[s]})); err != nil {
				return err
			}
		}
	}
	return nil
}

// del removes one link's entry, and the body with the last of them.
func (b *batch) del(tx *bolt.Tx, p place) error {
	key := position(p.n)
	if err := tx.Bucket(entries(p.c, p.s)).Delete(key); err != nil {
		return err
	}
	for s := range sides {
		if tx.Bucket(entries(p.c, s)).Get(key) != nil {
			return nil
		}
	}
	return b.delBody(tx, p.c, key)
}

func (b *batch) delBody(tx *bolt.Tx, c class, key []byte) error {
	bucket := tx.Bucket(bodies(c))
	b.added[c] -= int64(len(bucket.Get(key)))
	return bucket.Delete(key)
}

// drop replaces the oldest records by the news that they are lost, as long as
// the class has too many bytes or they are too old.
func (b *batch) drop(tx *bolt.Tx, c class, limit caps) error {
	for _, d := range b.victims(tx, c, limit) {
		for s := range sides {
			if err := b.lose(tx, c, s, d.n, d.key, d.reason); err != nil {
				return err
			}
		}
		if err := b.delBody(tx, c, position(d.n)); err != nil {
			return err
		}
		b.lost++
	}
	return nil
}

type victim struct {
	n           uint64
	key, reason string
}

// victims are the oldest records on disk that exceed the limits. What is in
// memory or on its way is not among them.
func (b *batch) victims(tx *bolt.Tx, c class, limit caps) (vs []victim) {
	left := b.onDisk[c] + b.added[c]
	cur := tx.Bucket(bodies(c)).Cursor()
	for k, v := cur.First(); k != nil && len(vs) < maxDrop; k, v = cur.Next() {
		n, err := atPosition(k)
		if err != nil || n >= b.lo[c] {
			return vs
		}
		rec, err := decodeBody(v)
		if err != nil {
			continue // said to be lost when it is read back
		}
		reason := "bytes"
		if left <= limit.bytes {
			if b.now.Sub(rec.at) <= limit.age || rec.at.Year() < clockSet {
				return vs
			}
			reason = "age"
		}
		if rec.keep || b.isBusy(c, n) {
			continue
		}
		vs = append(vs, victim{n, rec.key, reason})
		left -= int64(len(v))
	}
	return vs
}

func (b *batch) isBusy(c class, n uint64) bool {
	return slices.Contains(b.busy[c][fleetSide], n) || slices.Contains(b.busy[c][homeSide], n)
}

// lose replaces an entry, joining it to what was lost just before it.
func (b *batch) lose(tx *bolt.Tx, c class, s side, n uint64, key, reason string) error {
	bucket := tx.Bucket(entries(c, s))
	v := bucket.Get(position(n))
	if v == nil {
		return nil
	}
	e, err := decodeEntry(v)
	if err != nil || e.lost != nil {
		return err
	}
	if b.dropped[c][s] == nil {
		b.dropped[c][s] = map[string]uint64{}
	}
	b.dropped[c][s][reason]++
	lost := &span{from: e.seq, to: e.seq, reason: reason, at: b.now, key: key}
	cur := bucket.Cursor()
	cur.Seek(position(n))
	if k, v := cur.Prev(); k != nil {
		before, err := decodeEntry(v)
		m, _ := atPosition(k)
		if err == nil && before.lost != nil && before.lost.reason == reason && before.lost.to+1 == e.seq && !slices.Contains(b.busy[c][s], m) {
			lost.from = before.lost.from
			if err := bucket.Delete(bytes.Clone(k)); err != nil {
				return err
			}
		}
	}
	return bucket.Put(position(n), encodeEntry(entry{lost: lost}))
}

// close writes what is left. Nothing can be appended afterwards.
func (o *outbox) close() error {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	return errors.Join(o.commit(true), o.file.close())
}
