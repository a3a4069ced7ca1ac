package agent

import (
	"context"
	"sync"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// An order is a desired document as it came, and as it was read before anybody knew
// whether to believe it.
type order struct {
	document []byte
	read     *wire.Desired
}

// A director believes what the controller wants only where its key has signed it, once
// people sign releases and their root names that key. Whoever has taken the broker, the
// database or the network can then order nothing.
type director struct {
	voucher *voucher // nil: nobody signs
	take    func(*wire.Desired) error
	refuse  func(error)
	fetch   func(context.Context, wire.DesiredTrust) ([]byte, error)
	now     func() time.Time

	mu    sync.Mutex
	later *order        // not believed yet
	wake  chan struct{} // 1: there is a later one
}

// order takes in a document at once where it can be believed. Where it names signatures
// of people that are not here yet, they may name a new key of the director: then it
// waits for them. A newer document takes the place of one that waits. Not for two
// goroutines at a time.
func (d *director) order(document []byte, read *wire.Desired) {
	if d.voucher == nil {
		d.settle(read, nil)
		return
	}
	d.mu.Lock()
	d.later = nil
	d.mu.Unlock()
	believed, err := d.voucher.directed(document)
	if t := read.Signed.Trust; err != nil && t != nil && !d.voucher.knows(t.SHA256) {
		d.mu.Lock()
		d.later = &order{document, read}
		d.mu.Unlock()
		poke(d.wake)
		return
	}
	d.settle(believed, err)
}

func (d *director) settle(believed *wire.Desired, err error) {
	if err == nil {
		err = d.take(believed)
	}
	if err != nil {
		d.refuse(err)
	}
}

// run fetches what documents that wait for it need, until ctx ends.
func (d *director) run(ctx context.Context, loop *pulse.Loop) {
	defer loop.Leave(ctx)
	for {
		loop.Beat()
		select {
		case <-ctx.Done():
			return
		case <-loop.Pulse():
			continue
		case <-d.wake:
		}
		loop.Do("fetches what people have signed", 0) // as long as there is no link
		for wait := time.Second; d.tryLater(ctx); wait = min(2*wait, time.Minute) {
			if !loop.Sleep(ctx.Done(), wait) {
				return
			}
			loop.Do("fetches what people have signed", 0)
		}
	}
}

// tryLater fetches what the waiting document names and judges the document by that. It
// says whether to try again: what is named could not be had.
func (d *director) tryLater(ctx context.Context) (again bool) {
	d.mu.Lock()
	o := d.later
	d.mu.Unlock()
	if o == nil {
		return false
	}
	bundle, err := d.fetch(ctx, *o.read.Signed.Trust)
	if err == nil {
		err = d.voucher.Learn(bundle, d.now())
	} else {
		again = true
	}
	if ctx.Err() != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock() // a newer one may come at any time, and is not to be overtaken
	if d.later != o {
		return d.later != nil
	}
	believed, unbelieved := d.voucher.directed(o.document)
	if unbelieved == nil || !again {
		d.later = nil
	}
	if unbelieved != nil && err != nil {
		unbelieved = err // the reason behind
	}
	d.settle(believed, unbelieved)
	return d.later != nil
}

// desire takes in a desired document that is believed.
func (a *agent) desire(d *wire.Desired) error {
	if err := a.loop.Desire(*d); err != nil {
		return err
	}
	a.uplink.SetResults(d.Signed.Config.Results)
	a.healthSeconds.Store(int64(d.Signed.Config.HealthSeconds))
	a.Log.Info().Uint64("rev", d.Signed.Rev).Msg("desired document taken in")
	return nil
}

// disbelieve says why a desired document was not taken in.
func (a *agent) disbelieve(err error) {
	a.Log.Warn().Err(err).Str("code", string(hal.CodeOf(err))).Msg("desired document refused")
	a.loop.Refuse(err)
}
