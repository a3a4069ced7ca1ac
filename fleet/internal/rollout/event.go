package rollout

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// An Event is a change of a rollout's state. It is stored with the change, so that there
// is one for each, whatever happens to the controller.
type Event struct {
	N        uint64                 `json:"n"` // counts all events, without a gap
	At       time.Time              `json:"at"`
	Rollout  string                 `json:"rollout"`
	Release  Release                `json:"release"`
	Pipeline string                 `json:"pipeline"`
	Query    string                 `json:"query"`
	Before   wire.RolloutState      `json:"before,omitempty"` // "" when it has begun
	State    wire.RolloutState      `json:"state"`
	Cause    string                 `json:"cause,omitempty"`
	Reason   string                 `json:"reason,omitempty"`
	By       string                 `json:"by,omitempty"` // who did it; "" where its policy did
	Devices  int                    `json:"devices"`
	Counts   map[wire.ExecState]int `json:"counts,omitempty"`
}

const (
	bucketEvent = "rollout.event" // n, as 16 hex digits → Event
	// maxEvents is how many are kept: who reads them later than that has missed some.
	maxEvents = 10_000
)

func eventKey(n uint64) string { return fmt.Sprintf("%016x", n) }

// putEvent stores the change of a rollout from a state to that of r, if it is one.
func putEvent(tx *store.Tx, before wire.RolloutState, r Rollout, xs []Execution, by string) error {
	if before == r.State {
		return nil
	}
	last, err := lastEvent(tx)
	if err != nil {
		return err
	}
	counts, _ := count(xs)
	e := Event{
		N: last + 1, At: time.Now().UTC(), Rollout: r.ID, Release: r.Release, Pipeline: r.Pipeline, Query: r.Query,
		Before: before, State: r.State, Cause: r.Cause, Reason: r.Reason, By: by, Devices: r.Devices, Counts: counts,
	}
	if e.N > maxEvents {
		if err := store.Delete(tx, bucketEvent, eventKey(e.N-maxEvents)); err != nil {
			return err
		}
	}
	return store.Put(tx, bucketEvent, eventKey(e.N), e)
}

func lastEvent(tx *store.Tx) (uint64, error) {
	key := store.Last(tx, bucketEvent, "")
	if key == "" {
		return 0, nil
	}
	return strconv.ParseUint(key, 16, 64)
}

// LastEvent is the number of the newest event, 0 when there is none.
func (s *Service) LastEvent() (n uint64, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		n, err = lastEvent(tx)
		return err
	})
	return n, err
}

// NextEvent is the first event after n that is still here; ErrNoEvent when there is none
// yet. When its number is not n+1, those between were dropped.
func (s *Service) NextEvent(n uint64) (e Event, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		key := store.After(tx, bucketEvent, "", eventKey(n+1))
		if key == "" {
			return ErrNoEvent
		}
		e, err = store.Get[Event](tx, bucketEvent, key)
		return err
	})
	return e, err
}

// ErrNoEvent says that nothing happened since.
var ErrNoEvent = errors.New("no event")
