package source

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrQuiet is Take's, when nothing came for too long.
var ErrQuiet = errors.New("nothing came")

// An Item is one thing that came, before it is decoded.
type Item struct {
	Data []byte
	At   time.Time // when it began to come
	Err  error     // it is no good, and why; wraps hal.ErrBadFrame
}

// A Box holds the newest of what comes from outside. Whoever reads a live stream
// reads it without a pause and puts what it got into a box, so that nothing grows old
// in a socket or pipe while a slow consumer is at work; what nobody took in time gives
// way. Three pieces of memory go round: being filled, in the box, being used.
type Box struct {
	ready chan struct{} // 1: there may be something to take

	mutex sync.Mutex
	item  Item
	full  bool
	spare []byte
	ended error
}

// NewBox returns an empty box.
func NewBox() *Box { return &Box{ready: make(chan struct{}, 1)} }

// Put puts an item into the box and returns memory for the next one, which is what
// the box held so far. It may be nil. A bad item does not take the place of a good one.
func (b *Box) Put(item Item) (memory []byte) {
	b.mutex.Lock()
	if b.full && b.item.Err == nil && item.Err != nil {
		b.mutex.Unlock()
		return item.Data[:0]
	}
	memory, b.spare = b.spare, nil
	if b.full {
		memory = b.item.Data
	}
	b.item, b.full = item, true
	b.mutex.Unlock()
	b.wake()
	return memory[:0]
}

// End says that nothing will come any more, and why. The first reason stays; what
// is in the box can still be taken.
func (b *Box) End(err error) {
	b.mutex.Lock()
	if b.ended == nil {
		b.ended = err
	}
	b.mutex.Unlock()
	b.wake()
}

func (b *Box) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// Take waits for an item, at most for quiet (0: for ever); then it is ErrQuiet. It
// gives back old, the memory of what was taken before. After the last item it returns
// what End was told.
func (b *Box) Take(ctx context.Context, quiet time.Duration, old []byte) (Item, error) {
	var late <-chan time.Time
	for {
		if err := ctx.Err(); err != nil {
			return Item{}, err
		}
		if item, ok, err := b.get(&old); ok || err != nil {
			return item, err
		}
		if late == nil && quiet > 0 {
			t := time.NewTimer(quiet)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-b.ready:
		case <-late:
			return Item{}, ErrQuiet
		case <-ctx.Done():
		}
	}
}

func (b *Box) get(old *[]byte) (item Item, ok bool, err error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if *old != nil {
		b.spare, *old = *old, nil
	}
	if !b.full {
		return Item{}, false, b.ended
	}
	item, b.item, b.full = b.item, Item{}, false
	return item, true, nil
}
