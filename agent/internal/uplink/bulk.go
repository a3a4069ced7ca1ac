package uplink

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// linger is how long the second connection is kept after a fetch: a release has
// several files, and the next one is asked for at once.
const linger = 5 * time.Second

// bulk is the second connection, which is opened by a fetch and closed a while after
// the last.
type bulk struct {
	mu   sync.Mutex
	link *bulkLink   // nil: none
	idle *time.Timer // closes it
}

// A bulkLink is one second connection. It mends itself, until closed.
type bulkLink struct {
	wire.Link
	turn    atomic.Uint32     // counts how often it came and went: it stands when that is odd
	changed chan struct{}     // turn did; holds 1
	blocks  chan wire.Message // bounded: what does not fit is dropped and asked for again
	end     context.CancelFunc
	ended   chan struct{} // closed when it is over
	err     error         // why, when nobody closed it; read after ended
}

// take gives the connection to a fetch, of which there is one at a time.
func (b *bulk) take(open func() wire.Link, topics wire.Device) *bulkLink {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle != nil {
		b.idle.Stop()
	}
	if l := b.link; l != nil {
		select {
		case <-l.ended:
		default:
			return l
		}
	}
	ctx, cancel := context.WithCancel(context.Background()) // it outlives the fetch
	l := &bulkLink{Link: open(), changed: make(chan struct{}, 1), blocks: make(chan wire.Message, 2*maxWindow), end: cancel, ended: make(chan struct{})}
	go func() { // ended by close
		defer close(l.ended)
		l.err = l.Run(ctx, l.spec(topics))
	}()
	b.link = l
	return l
}

// leave ends a fetch.
func (b *bulk) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle = time.AfterFunc(linger, b.close)
}

// close ends the connection, if there is one.
func (b *bulk) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle != nil {
		b.idle.Stop()
	}
	if b.link != nil {
		b.link.end()
		<-b.link.ended
		b.link = nil
	}
}

func (l *bulkLink) spec(topics wire.Device) wire.Spec {
	return wire.Spec{
		Subscribe: []wire.Subscription{{Filter: topics.BlockAll(), QoS: 0}},
		Up:        func() { l.turn.Add(1 + l.turn.Load()%2); poke(l.changed) },
		Down: func(error) {
			if l.turn.Load()%2 == 1 { // not for an attempt that failed
				l.turn.Add(1)
				poke(l.changed)
			}
		},
		Receive: func(m wire.Message) error {
			if len(m.Payload) > wire.BlockSize+1 {
				return nil // not a block
			}
			select {
			case l.blocks <- m:
			default:
			}
			return nil
		},
	}
}
