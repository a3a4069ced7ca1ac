package uplink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
)

// ErrFull is returned by Offer when the outbox has no room. Room says when to
// try again.
var ErrFull = errors.New("outbox is full")

const (
	ringSlots   = 512             // records of a class in memory
	ringBytes   = 4 << 20         // of a class in memory
	groupTime   = time.Second     // the oldest unwritten record waits no longer,
	shortOutage = 5 * time.Minute // but when its link has been down for that long:
	offlineTime = time.Minute     // then it waits no longer than this
	groupSize   = 64              // nor do as many
	lazyTime    = 5 * time.Minute // what was delivered leaves the disk after so long, or with the next commit
	reserveTime = 5 * time.Minute // for so long the seq numbers are enough that are reserved at once
	minReserve  = 256
	maxReserve  = 4096
	brokenDelay = 5 * time.Second // between attempts to write to a disk that refuses
	backlogMost = 16              // of a link's backlog in flight: the rest of the window is for what is new
	backlogRate = 300             // of a link's backlog a second: brokers at home are small
	shortMost   = 32              // so many that a link missed go first, in their order: that is no backlog
	lateAfter   = 5 * time.Second // what waited longer before it was sent is late
	readAhead   = 32
	maxBody     = wire.MaxResult - 128 // bytes: with a head in front it is still a legal message
)

// caps bound what a class may keep on disk. What was appended with keep is never
// dropped: its append fails instead.
type caps struct {
	bytes int64
	age   time.Duration
}

// outbox holds what must reach the links. Each class is a log; a record has a
// position in it, and a seq on every link that wants it. What is new is sent from
// memory; it is written when it was not acknowledged within groupTime (offlineTime
// while there is no link to do so); what memory has no room for is read back when its
// turn comes. On a link exec goes before event before result, and what is new before
// the backlog, which goes at a bounded rate in its own order.
//
// exec and event are sent only once they are on disk, so their seq is never used
// twice. Results are sent at once; the numbers they may have used are reserved
// on disk before.
type outbox struct {
	file   *file
	device wire.DeviceID
	log    zerolog.Logger
	caps   [classes]caps
	kick   chan struct{}        // to write; holds 1
	wake   [sides]chan struct{} // to the pumps; hold 1

	committing sync.Mutex // one commit, or reading back, at a time; taken before mu

	opened time.Time

	mu        sync.Mutex
	up        [sides]bool
	down      [sides]time.Time // since when it is not
	backlog   [sides]pace
	logs      [classes]memLog
	gone      map[place]bool // delivered, still on disk
	going     map[place]bool // the commit under way deletes them
	lazySince time.Time      // of the oldest of gone
	broken    error          // the last commit failed with it
	brokenAt  time.Time
	closed    bool
	room      chan struct{} // closed when there may be room; nil when nobody waits
	lost      uint64        // records dropped since the start
}

// A place is one entry of the file.
type place struct {
	c class
	s side
	n uint64
}

// memLog is the part of one class's log that is in memory, positions [lo, head).
type memLog struct {
	ring    []slot
	lo      uint64
	head    uint64
	bytes   int64 // of bodies in the ring
	fresh   int   // slots that are wanted and not written
	onDisk  int64 // bytes of bodies in the file
	streams [sides]stream
}

type slotState int

const (
	fresh slotState = iota
	writing
	stored
)

type slot struct {
	body
	seq   [sides]uint64
	want  [sides]bool
	state slotState
	each  bool // write at once
}

func (s *slot) wanted() bool { return s.want[fleetSide] || s.want[homeSide] }

// free says whether the slot may be used for another record.
func (s *slot) free() bool { return s.state == stored || (s.state == fresh && !s.wanted()) }

// A stream is one class on one link: two places to read from. Positions in
// [back, backEnd) are the backlog, from live on it is what is new.
type stream struct {
	counter
	block     uint64 // of seq numbers, to reserve next
	written   counter
	writtenAt time.Time
	live      uint64
	missed    uint64 // positions below are from before the link came up
	back      uint64
	backEnd   uint64
	ready     []flight          // of the backlog, read from disk
	busy      []uint64          // positions in flight or in ready
	waiting   uint64            // records that are not acknowledged
	dropped   map[string]uint64 // records, by reason; since the start
}

// A pace bounds what goes of the backlog over one link.
type pace struct {
	flying int
	tick   time.Time
	ticked int // sent since tick
}

// A flight is a record on its way over one link, or the news that some are lost.
type flight struct {
	c       class
	n       uint64
	key     string
	seq     uint64
	at      time.Time // since when it waits
	text    []byte    // a record's JSON without its brace; of what is lost the whole message
	lost    bool
	damaged bool // it was a record, and cannot be read
	late    bool // it was held back while the link was down
	backlog bool
}

// dress appends what f is sent as now. late says that it is late whatever f says.
func (o *outbox) dress(dst []byte, f *flight, late bool) []byte {
	if f.lost {
		return append(dst, f.text...)
	}
	age := max(time.Since(f.at), 0)
	late = late || f.late || f.backlog || age > lateAfter
	switch f.c {
	case classEvent:
		dst = wire.AppendEventHead(dst, f.seq, late, age)
	case classResult:
		dst = wire.AppendResultHead(dst, f.seq, late)
	default:
		dst = wire.AppendResultHead(dst, f.seq, false) // no siren hangs on these
	}
	return append(dst, f.text...)
}

func openOutbox(f *file, device wire.DeviceID, limits [classes]caps, log zerolog.Logger) (*outbox, error) {
	o := &outbox{
		file: f, device: device, log: log, caps: limits,
		kick: make(chan struct{}, 1), gone: map[place]bool{}, going: map[place]bool{}, opened: time.Now(),
	}
	o.down = [sides]time.Time{o.opened, o.opened}
	for s := range sides {
		o.wake[s] = make(chan struct{}, 1)
	}
	if err := f.update(o.load); err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return o, nil
}

// load takes over what is on disk, and says of the numbers that may have been
// used before a crash that they are lost.
func (o *outbox) load(tx *bolt.Tx) error {
	for c := range classes {
		l := &o.logs[c]
		l.ring = make([]slot, ringSlots)
		l.head = 1
		err := tx.Bucket(bodies(c)).ForEach(func(_, v []byte) error { l.onDisk += int64(len(v)); return nil })
		if err != nil {
			return err
		}
		for s := range sides {
			if k, _ := tx.Bucket(entries(c, s)).Cursor().Last(); len(k) == 8 {
				n, _ := atPosition(k)
				l.head = max(l.head, n+1)
			}
		}
		for s := range sides {
			if err := o.loadStream(tx, c, s); err != nil {
				return err
			}
		}
		l.lo = l.head
		for s := range sides {
			l.streams[s].live, l.streams[s].backEnd = l.head, l.head
		}
	}
	return nil
}

func (o *outbox) loadStream(tx *bolt.Tx, c class, s side) error {
	l := &o.logs[c]
	st := &l.streams[s]
	saved, err := decodeCounter(tx.Bucket(metaBucket).Get(entries(c, s)))
	if err != nil {
		return err
	}
	reason := "crash"
	if o.file.aside != "" {
		saved, reason = counter{reserved: o.file.beyond()}, "damaged"
	}
	st.dropped = map[string]uint64{}
	if n := saved.reserved - saved.last; saved.reserved > saved.last && o.file.aside == "" {
		st.dropped[reason] = n // of a damaged file nobody knows how many
	}
	if saved.reserved > saved.last {
		e := entry{lost: &span{from: saved.last + 1, to: saved.reserved, reason: reason, at: time.Now()}}
		if err := tx.Bucket(entries(c, s)).Put(position(l.head), encodeEntry(e)); err != nil {
			return err
		}
		l.head++
	}
	st.last, st.block = max(saved.last, saved.reserved), minReserve
	st.reserved = st.last
	if c == classResult {
		st.reserved += st.block
	}
	st.written, st.writtenAt = st.counter, o.opened
	st.back = l.head
	if k, _ := tx.Bucket(entries(c, s)).Cursor().First(); len(k) == 8 {
		st.back, _ = atPosition(k)
	}
	err = tx.Bucket(entries(c, s)).ForEach(func(_, v []byte) error {
		if e, err := decodeEntry(v); err == nil && e.lost == nil {
			st.waiting++
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tx.Bucket(metaBucket).Put(entries(c, s), encodeCounter(st.counter))
}

// append adds a record for the links in to. fill appends its JSON object. It
// never blocks for long and allocates nothing once warm. Without a link that
// wants it, the record is done at once.
func (o *outbox) append(c class, key string, to [sides]bool, keep, each bool, fill func([]byte) []byte) error {
	if !to[fleetSide] && !to[homeSide] {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l := &o.logs[c]
	if !o.hasRoom(c, to, keep) {
		poke(o.kick)
		return ErrFull
	}
	s := &l.ring[l.head%ringSlots]
	s.body = body{at: time.Now(), keep: keep, key: key, json: fill(s.json[:0])}
	if len(s.json) > maxBody {
		s.json = nil
		return fmt.Errorf("%s of %s is larger than %d bytes", c, key, maxBody)
	}
	s.want, s.state, s.each = to, fresh, each || c != classResult
	s.seq = [sides]uint64{}
	for side := range sides {
		if to[side] {
			l.streams[side].last++
			l.streams[side].waiting++
			s.seq[side] = l.streams[side].last
		}
	}
	l.head++
	l.bytes += int64(len(s.json))
	l.fresh++
	if l.fresh == 1 || o.full(c) || s.each || o.lowReserve(c) {
		poke(o.kick)
	}
	for side := range sides {
		if to[side] {
			poke(o.wake[side])
		}
	}
	return nil
}

// hasRoom makes room in the ring if it can. mu is held.
func (o *outbox) hasRoom(c class, to [sides]bool, keep bool) bool {
	l := &o.logs[c]
	o.evict(c)
	if l.head-l.lo >= ringSlots || l.bytes >= ringBytes || o.closed {
		return false
	}
	if keep && l.onDisk >= o.caps[c].bytes {
		return false
	}
	for s := range sides {
		st := &l.streams[s]
		if to[s] && c == classResult && st.last >= st.reserved && o.broken == nil {
			return false
		}
	}
	return true
}

// full says that what is unwritten of a class may not wait any longer. mu is held.
func (o *outbox) full(c class) bool {
	l := &o.logs[c]
	return l.fresh >= groupSize || l.fresh > 0 && l.bytes >= ringBytes/2
}

// evict forgets the oldest slots that nobody needs in memory. mu is held.
func (o *outbox) evict(c class) {
	l := &o.logs[c]
	full := func() bool { return l.head-l.lo >= ringSlots || l.bytes >= ringBytes }
	for l.lo < l.head {
		s := &l.ring[l.lo%ringSlots]
		if !s.free() || (s.wanted() && !full()) {
			return
		}
		l.bytes -= int64(len(s.json))
		if cap(s.json) > 16<<10 {
			s.json = nil
		}
		l.lo++
	}
}

func (o *outbox) lowReserve(c class) bool {
	for s := range sides {
		if st := &o.logs[c].streams[s]; c == classResult && st.reserved-st.last < st.block/2 {
			return true
		}
	}
	return false
}

// linkUp makes what a link has missed its backlog, so that what is new goes first; a
// few records go in their order.
func (o *outbox) linkUp(s side) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up[s] = true
	for c := range classes {
		l := &o.logs[c]
		st := &l.streams[s]
		st.missed = l.head
		if l.head-st.live > shortMost {
			st.retire(l.head)
		}
	}
	poke(o.kick) // it has less patience now
}

func (o *outbox) linkDown(s side) {
	o.mu.Lock()
	if o.up[s] {
		o.down[s] = time.Now()
	}
	o.up[s] = false
	o.mu.Unlock()
}

// retire moves positions below n from live to the backlog.
func (st *stream) retire(n uint64) {
	if st.live >= n {
		return
	}
	if st.back >= st.backEnd {
		st.back = st.live
	}
	st.backEnd, st.live = n, n
}

// verdict of next.
type verdict int

const (
	nothing  verdict = iota
	ready            // the flight is filled
	readDisk         // call readBack for the flight's class, then next again
	later            // the backlog has had its share for now; try again in 100 ms
)

// next fills f with what to send over a link: what is new, class by class, then
// the backlog. f.text is reused.
func (o *outbox) next(s side, f *flight) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range classes {
		if o.nextLive(c, s, f) {
			return ready
		}
	}
	if o.backlog[s].flying >= backlogMost {
		return nothing // an acknowledgement wakes the pump
	}
	for c := range classes {
		if v := o.nextBack(c, s, f); v != nothing {
			return v
		}
	}
	return nothing
}

func (o *outbox) nextLive(c class, s side, f *flight) bool {
	l := &o.logs[c]
	st := &l.streams[s]
	st.retire(min(l.lo, l.head)) // the ring went on without this link
	for st.live < l.head {
		slot := &l.ring[st.live%ringSlots]
		if c != classResult && slot.state != stored && slot.want[s] && o.broken == nil {
			return false // its turn comes when it is written
		}
		n := st.live
		st.live++
		if slot.want[s] {
			o.fly(f, c, s, n, slot)
			return true
		}
	}
	return false
}

func (o *outbox) nextBack(c class, s side, f *flight) verdict {
	l := &o.logs[c]
	st := &l.streams[s]
	if len(st.ready) == 0 && st.back >= st.backEnd {
		return nothing
	}
	p := &o.backlog[s]
	if !p.may(time.Now()) {
		return later
	}
	if len(st.ready) > 0 {
		r := st.ready[0]
		st.ready = slices.Delete(st.ready, 0, 1)
		text := append(f.text[:0], r.text...)
		*f = r
		f.text = text
		p.count()
		return ready
	}
	for st.back < st.backEnd {
		if st.back < l.lo {
			f.c = c
			return readDisk
		}
		n := st.back
		slot := &l.ring[n%ringSlots]
		if c != classResult && slot.state != stored && slot.want[s] && o.broken == nil {
			return nothing
		}
		st.back++
		if slot.want[s] && !slices.Contains(st.busy, n) {
			o.fly(f, c, s, n, slot)
			f.backlog = true
			p.count()
			return ready
		}
	}
	return nothing
}

func (p *pace) may(now time.Time) bool {
	if now.Sub(p.tick) >= 100*time.Millisecond {
		p.tick, p.ticked = now, 0
	}
	return p.ticked < backlogRate/10
}

func (p *pace) count() {
	p.flying++
	p.ticked++
}

func (o *outbox) fly(f *flight, c class, s side, n uint64, slot *slot) {
	st := &o.logs[c].streams[s]
	st.busy = append(st.busy, n)
	*f = flight{c: c, n: n, key: slot.key, seq: slot.seq[s], at: slot.at, late: n < st.missed, text: append(f.text[:0], slot.json[1:]...)}
}

// readBack reads the next part of a link's backlog from disk. No commit runs meanwhile:
// it might drop what is read here, and say that it is lost.
func (o *outbox) readBack(c class, s side) {
	o.committing.Lock()
	defer o.committing.Unlock()
	o.mu.Lock()
	l := &o.logs[c]
	st := &l.streams[s]
	from, to := st.back, min(st.backEnd, l.lo)
	o.mu.Unlock()
	var got []flight
	next := to
	err := o.file.view(func(tx *bolt.Tx) error {
		cur := tx.Bucket(entries(c, s)).Cursor()
		for k, v := cur.Seek(position(from)); k != nil; k, v = cur.Next() {
			n, err := atPosition(k)
			if err != nil {
				return err
			}
			if n >= to {
				return nil
			}
			if len(got) == readAhead {
				next = n
				return nil
			}
			got = append(got, o.restore(tx, c, n, v))
		}
		return nil
	})
	if err != nil {
		o.log.Error().Err(err).Stringer("class", c).Msg("outbox cannot be read back")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range got {
		p := place{c, s, f.n}
		if f.text == nil || o.gone[p] || o.going[p] || slices.Contains(st.busy, f.n) {
			continue
		}
		if f.damaged {
			st.waiting--
			st.dropped["damaged"]++
		}
		st.ready = append(st.ready, f)
		st.busy = append(st.busy, f.n)
	}
	st.back = max(st.back, next)
}

// restore makes the flight of an entry. A body that cannot be read is lost, and
// that is what is sent in its place.
func (o *outbox) restore(tx *bolt.Tx, c class, n uint64, v []byte) flight {
	f := flight{c: c, n: n, backlog: true}
	e, err := decodeEntry(v)
	if err != nil {
		o.log.Error().Err(err).Stringer("class", c).Uint64("position", n).Msg("outbox entry is damaged")
		return f
	}
	if e.lost == nil {
		b, err := decodeBody(tx.Bucket(bodies(c)).Get(position(n)))
		if err == nil {
			f.key, f.seq, f.at, f.text = b.key, e.seq, o.plausible(b.at), bytes.Clone(b.json[1:])
			return f
		}
		o.log.Error().Err(err).Stringer("class", c).Uint64("seq", e.seq).Msg("outbox record is damaged")
		e.lost, f.damaged = &span{from: e.seq, to: e.seq, reason: "damaged", at: time.Now()}, true
	}
	f.key, f.text, f.lost = e.lost.key, o.encodeLost(c, e.lost), true
	return f
}

// plausible is a time from the disk, or where the clock was not set then, or has
// gone back, the start of this process: a record is at least as old.
func (o *outbox) plausible(at time.Time) time.Time {
	if at.Year() < clockSet || at.After(time.Now()) {
		return o.opened
	}
	return at
}

func (o *outbox) encodeLost(c class, l *span) []byte {
	payload, err := json.Marshal(wire.Lost{
		V: wire.Version, ID: fmt.Sprintf("%s/lost/%s/%d-%d", o.device, c, l.from, l.to), Seq: l.to,
		Lost: wire.LostSpan{Class: c.String(), From: l.from, To: l.to, Reason: l.reason, TS: l.at.UTC()},
	})
	if err != nil {
		panic(err) // strings, numbers and a time
	}
	return payload
}

// acked takes a record off a link's list.
func (o *outbox) acked(s side, f *flight) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := &o.logs[f.c]
	st := &l.streams[s]
	if i := slices.Index(st.busy, f.n); i >= 0 {
		st.busy = slices.Delete(st.busy, i, i+1)
	}
	if f.backlog {
		o.backlog[s].flying--
	}
	if !f.lost {
		st.waiting--
	}
	onDisk := f.n < l.lo
	if !onDisk {
		slot := &l.ring[f.n%ringSlots]
		was := slot.wanted()
		slot.want[s] = false
		onDisk = slot.state != fresh
		if was && !slot.wanted() && slot.state == fresh {
			l.fresh--
		}
		o.evict(f.c)
	}
	if onDisk {
		if len(o.gone) == 0 {
			o.lazySince = time.Now()
		}
		o.gone[place{f.c, s, f.n}] = true
		if len(o.gone) == 1 || len(o.gone) >= 4*groupSize {
			poke(o.kick)
		}
	}
	o.tellRoom()
}

// tellRoom wakes who waits for room. mu is held.
func (o *outbox) tellRoom() {
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

// waitRoom returns a channel that is closed when there may be room. Get it before
// the attempt that fails.
func (o *outbox) waitRoom() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.room == nil {
		o.room = make(chan struct{})
	}
	return o.room
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
