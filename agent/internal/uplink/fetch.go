package uplink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/klauspost/compress/zstd"
)

const (
	blockTimeout = 5 * time.Second
	maxWindow    = 16
	maxBad       = 16 // blocks in a row whose hash is wrong
)

// A Sink takes the blocks of one file; *blob.Partial is one.
type Sink interface {
	Missing() blob.Bitmap
	Left() int
	// WriteBlock takes block n. An error that wraps blob.ErrBlock means that the
	// bytes are not block n; any other ends the fetch.
	WriteBlock(n int, data []byte) error
}

// ErrGone is wrapped by Fetch's error when the controller has no such file for
// this device.
var ErrGone = errors.New("the controller does not have the file")

// Fetch pulls the missing blocks of a file over the second connection, which it
// opens when needed, and returns nil when none is missing. It goes on over cuts
// for as long as ctx lasts, and asks only for what is missing. One fetch runs at a
// time; others wait. The sink is used from the calling goroutine.
func (u *Uplink) Fetch(ctx context.Context, sha wire.Digest, to Sink) error {
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
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(wire.BlockSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return err
	}
	defer dec.Close()
	link := &bulkLink{Link: u.cfg.Fleet.Bulk(), up: make(chan struct{}, 1), blocks: make(chan wire.Message, 4*maxWindow)}
	f := &fetch{sha: sha, to: to, topics: u.fleet.topics, link: link, dec: dec, window: newWindow(), asked: map[int]bool{}}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := link.Run(ctx, link.spec(f.topics)); err != nil {
			cancel(fmt.Errorf("fetch %s: %w", sha.Short(), err))
		}
	})
	defer wg.Wait()
	defer cancel(nil)
	return f.run(ctx)
}

// A window is how many blocks may be under way: one more for each window that
// arrived, half after a silence.
type window struct{ size float64 }

func newWindow() window            { return window{4} }
func (w *window) arrived()         { w.size = min(w.size+1/w.size, maxWindow) }
func (w *window) silence()         { w.size = max(w.size/2, 1) }
func (w *window) room(out int) int { return int(w.size) - out }

// fetch is one file on its way.
type fetch struct {
	sha    wire.Digest
	to     Sink
	topics wire.Device
	link   *bulkLink
	dec    *zstd.Decoder
	window window
	asked  map[int]bool // and not here yet
	next   int          // where to look for missing blocks
	bad    int
	buf    []byte
}

func (f *fetch) run(ctx context.Context) error {
	silence := time.NewTimer(blockTimeout)
	defer silence.Stop()
	for f.to.Left() > 0 {
		f.ask()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.link.up:
			clear(f.asked) // what was under way is gone with the connection before
			f.next = 0
		case <-silence.C:
			f.window.silence()
			clear(f.asked)
			f.next = 0
			silence.Reset(blockTimeout)
		case m := <-f.link.blocks:
			took, err := f.take(m)
			if err != nil {
				return err
			}
			if took {
				silence.Reset(blockTimeout)
			}
		}
	}
	return nil
}

// ask requests more when half of the window is free.
func (f *fetch) ask() {
	room := f.window.room(len(f.asked))
	if room <= 0 || room < int(f.window.size)/2 {
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
	err := f.link.Publish(wire.Message{Topic: f.topics.BlockGet(), Payload: encode(get)}, nil)
	if err != nil {
		return // the next connection, or the silence, asks again
	}
	for _, n := range want {
		f.asked[n] = true
	}
	f.next = want[len(want)-1] + 1
}

// pick finds up to room missing blocks that were not asked for, in order, within
// a span that fits a request.
func (f *fetch) pick(missing blob.Bitmap, room int) (want []int) {
	total := len(missing) * 8
	for n := f.next; n < total && len(want) < room; n++ {
		if missing.Has(n) && !f.asked[n] {
			want = append(want, n)
		}
	}
	if len(want) == 0 && f.next > 0 {
		f.next = 0
		return f.pick(missing, room)
	}
	return want
}

// take gives a block that arrived to the sink.
func (f *fetch) take(m wire.Message) (bool, error) {
	n, ok := f.number(m.Topic)
	if !ok || len(m.Payload) == 0 {
		return false, nil
	}
	data, kind := m.Payload[1:], m.Payload[0]
	switch kind {
	case wire.BlockRaw:
	case wire.BlockZstd:
		if f.buf == nil {
			f.buf = make([]byte, 0, wire.BlockSize)
		}
		var err error
		if data, err = f.dec.DecodeAll(data, f.buf); err != nil {
			data = nil // a wrong block like any other
		}
	case wire.BlockGone:
		return false, fmt.Errorf("fetch %s: %w: %.200q", f.sha.Short(), ErrGone, data)
	default:
		return false, nil
	}
	asked := f.asked[n]
	err := f.to.WriteBlock(n, data)
	delete(f.asked, n)
	switch {
	case errors.Is(err, blob.ErrBlock):
		f.next = 0
		if f.bad++; f.bad >= maxBad {
			return false, fmt.Errorf("fetch %s: %d wrong blocks in a row: %w", f.sha.Short(), f.bad, err)
		}
		return false, nil
	case err != nil:
		return false, err
	}
	f.bad = 0
	if asked {
		f.window.arrived()
	}
	return true, nil
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

// A bulkLink is the second connection, as long as a fetch lasts.
type bulkLink struct {
	wire.Link
	up     chan struct{}     // it stands, again; holds 1
	blocks chan wire.Message // bounded: what does not fit is dropped and asked for again
}

func (l *bulkLink) spec(topics wire.Device) wire.Spec {
	return wire.Spec{
		Subscribe: []wire.Subscription{{Filter: topics.BlockAll(), QoS: 0}},
		Up:        func() { poke(l.up) },
		Receive: func(m wire.Message) error {
			select {
			case l.blocks <- m:
			default:
			}
			return nil
		},
	}
}
