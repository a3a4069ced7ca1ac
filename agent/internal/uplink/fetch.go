package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/pack"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const (
	minPatience = 5 * time.Second  // without a block, until it is asked for again
	maxPatience = 30 * time.Second // the same, on a slow link
	maxBad      = 16               // blocks in a row whose hash is wrong
)

// maxStall is how long a controller that answers may take for one block: slower is no
// way to send anything, and may be meant to keep the board busy.
const maxStall = time.Minute

// A Sink takes the blocks of one file; *blob.Partial is one.
type Sink interface {
	Missing() blob.Bitmap
	Left() int
	// WriteBlock takes block n. An error that wraps blob.ErrBlock means that the
	// bytes are not block n; any other ends the fetch.
	WriteBlock(n int, data []byte) error
}

// A Base is a blob on this board that is like the one to be fetched: blocks may come
// as differences from it.
type Base struct {
	SHA wire.Digest
	R   io.ReaderAt
}

// ErrGone is wrapped by Fetch's error when the controller has no such file for
// this device.
var ErrGone = errors.New("the controller does not have the file")

// Fetch pulls the missing blocks of a file over the second connection, which it
// opens when needed, and returns nil when none is missing. It goes on over cuts
// for as long as ctx lasts, and asks only for what is missing. A connection that
// stands and brings no block in a minute is E_TIMEOUT. One fetch runs at a
// time; others wait. base may be nil. The sink is used from the calling goroutine.
func (u *Uplink) Fetch(ctx context.Context, sha wire.Digest, to Sink, base *Base) error {
	if to.Left() == 0 {
		return nil
	}
	if u.cfg.Fleet == nil || u.cfg.Fleet.Bulk == nil {
		return errors.New("fetch: there is no fleet link")
	}
	select {
	case u.fetching <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-u.fetching }()
	unpack, err := pack.NewUnpacker()
	if err != nil {
		return err
	}
	defer unpack.Close()
	link := u.bulk.take(u.cfg.Fleet.Bulk, u.fleet.topics)
	defer u.bulk.leave()
	f := &fetch{sha: sha, to: to, base: base, topics: u.fleet.topics, link: link, unpack: unpack,
		window: newWindow(time.Now()), asked: map[int]time.Time{}, patience: minPatience, since: time.Now(), turn: link.turn.Load(), other: u.cfg.Fleet.OtherWay}
	return f.run(ctx)
}

// fetch is one file on its way.
type fetch struct {
	sha      wire.Digest
	to       Sink
	base     *Base // nil: none
	topics   wire.Device
	link     *bulkLink
	unpack   *pack.Unpacker
	window   window
	asked    map[int]time.Time // when; not here yet
	next     int               // where to look for missing blocks
	bad      int
	whole    bool // a difference came out wrong: blocks are asked for whole
	patience time.Duration
	since    time.Time // a block came, or the connection did, or went
	turn     uint32    // of the connection, as last seen
	other    bool      // there is another way
}

func (f *fetch) run(ctx context.Context) error {
	silence := time.NewTimer(f.patience)
	defer silence.Stop()
	for f.to.Left() > 0 {
		f.ask()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.link.ended:
			return fmt.Errorf("fetch %s: %w", f.sha.Short(), errors.Join(f.link.err, errors.New("the second connection ended")))
		case <-f.link.changed:
			turn := f.link.turn.Load()
			if turn == f.turn {
				continue // it was seen already
			}
			f.turn, f.since = turn, time.Now()
			if f.stands() {
				f.window.silence(f.since) // it may be another network
			}
			f.forget() // what was under way is gone with the connection before
			silence.Reset(f.patience)
		case <-silence.C:
			if time.Since(f.since) >= maxStall && (f.stands() || f.other) {
				return f.stalled()
			}
			if f.stands() {
				f.window.silence(time.Now())
				f.patience = min(2*f.patience, maxPatience)
			}
			f.forget()
			silence.Reset(f.patience)
		case m := <-f.link.blocks:
			took, err := f.take(m)
			if err != nil {
				return err
			}
			if took {
				f.since = time.Now() // whoever takes the block may have waited
				silence.Reset(f.patience)
			}
		}
	}
	return nil
}

// stands says whether the connection does.
func (f *fetch) stands() bool { return f.turn%2 == 1 }

func (f *fetch) stalled() error {
	if !f.stands() {
		return &hal.Error{Code: hal.CodeTimeout, Text: fmt.Sprintf("file %s…: no second connection to the broker in %s", f.sha.Short(), maxStall), Err: ErrNoConnection}
	}
	return &hal.Error{Code: hal.CodeTimeout, Text: fmt.Sprintf("file %s…: the controller sent no block in %s, with %d to go: look at its load and at the network between",
		f.sha.Short(), maxStall, f.to.Left())}
}

// forget asks again for all that was asked for.
func (f *fetch) forget() {
	clear(f.asked)
	f.next = 0
}

// ask requests more when half of the window is free.
func (f *fetch) ask() {
	room := f.window.room(len(f.asked))
	if !f.stands() || room == 0 {
		return
	}
	missing := f.to.Missing()
	want := f.pick(missing, room)
	if len(want) == 0 {
		return
	}
	from := want[0]
	bits := make(blob.Bitmap, (want[len(want)-1]-from)/8+1)
	for _, n := range want {
		bits[(n-from)/8] |= 1 << ((n - from) % 8)
	}
	get := wire.BlockGet{V: wire.Version, SHA: f.sha, From: from, Bits: bits, Max: len(want)}
	if f.base != nil && !f.whole {
		get.Base = f.base.SHA
	}
	err := f.link.Publish(wire.Message{Topic: f.topics.BlockGet(), Payload: encode(get)}, nil)
	if err != nil {
		return // the next connection, or the silence, asks again
	}
	now := time.Now()
	for _, n := range want {
		f.asked[n] = now
	}
	f.next = want[len(want)-1] + 1
}

// pick finds up to room missing blocks that were not asked for, in order, within
// a span that fits a request.
func (f *fetch) pick(missing blob.Bitmap, room int) (want []int) {
	total := len(missing) * 8
	for n := f.next; n < total && len(want) < room; n++ {
		if _, asked := f.asked[n]; missing.Has(n) && !asked {
			want = append(want, n)
		}
	}
	if len(want) == 0 && f.next > 0 {
		f.next = 0
		return f.pick(missing, room)
	}
	return want
}

// take gives a block that arrived to the sink, and says whether it was wanted.
func (f *fetch) take(m wire.Message) (bool, error) {
	n, ok := f.number(m.Topic)
	if !ok || len(m.Payload) == 0 {
		return false, nil
	}
	flag := m.Payload[0]
	if flag == wire.BlockGone {
		return false, fmt.Errorf("fetch %s: %w: %.200q", f.sha.Short(), ErrGone, m.Payload[1:])
	}
	data, err := f.unpack.Unpack(m.Payload, f.base.reader())
	if err != nil {
		data = nil // a wrong block like any other
	}
	left := f.to.Left()
	when, asked := f.asked[n]
	err = f.to.WriteBlock(n, data)
	delete(f.asked, n)
	switch {
	case errors.Is(err, blob.ErrBlock) && (flag == wire.BlockDiff || flag == wire.BlockDiffFSE):
		f.next, f.whole = 0, true // the base may have rotted
		return false, nil
	case errors.Is(err, blob.ErrBlock):
		f.next = 0
		if f.bad++; f.bad >= maxBad {
			return false, fmt.Errorf("fetch %s: %d wrong blocks in a row: %w", f.sha.Short(), f.bad, err)
		}
		return false, nil
	case err != nil:
		return false, err
	}
	if f.bad = 0; f.to.Left() == left {
		return false, nil // it was here already
	}
	if asked {
		now := time.Now()
		f.window.arrived(now, when)
		f.patience = min(max(minPatience, 2*now.Sub(when)), maxPatience)
	}
	return true, nil
}

// reader is nil where there is no base.
func (b *Base) reader() io.ReaderAt {
	if b == nil {
		return nil
	}
	return b.R
}

// number of the block that a topic names, if it is one of this file.
func (f *fetch) number(topic string) (int, bool) {
	prefix := strings.TrimSuffix(f.topics.Block(f.sha, 0), "0")
	s, ok := strings.CutPrefix(topic, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil && n < wire.MaxBlocks
}
