package registry

import (
	"errors"
	"fmt"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// maxSteps bounds the steps of an execution that are kept; its end is kept as well.
const maxSteps = 1000

// maxN is the highest number of a step. A device counts a hundred for each change of
// the state, and an execution may wait for its window night after night.
const maxN = 1_000_000

// execRecord says that this device was asked for this execution.
type execRecord struct {
	Pipeline string      `json:"pipeline"`
	Release  wire.Digest `json:"release,omitempty"` // "" in records of before it was kept
	Steps    int         `json:"steps,omitempty"`   // that are kept
}

func execKey(id wire.DeviceID, execution string) string { return string(id) + "/" + execution }

func stepKey(id wire.DeviceID, execution string, n int) string {
	return fmt.Sprintf("%s/%08x", execKey(id, execution), n)
}

// Steps are the steps of an execution that were taken in, in their order.
func (r *Registry) Steps(id wire.DeviceID, execution string) (list []wire.ExecStep, err error) {
	err = r.db.View(func(tx *store.Tx) error {
		list, err = r.StepsTx(tx, id, execution)
		return err
	})
	return list, err
}

// StepsTx is Steps within a transaction.
func (r *Registry) StepsTx(tx *store.Tx, id wire.DeviceID, execution string) (list []wire.ExecStep, err error) {
	err = store.Each(tx, bucketExec, execKey(id, execution)+"/", func(_ string, s wire.ExecStep) error {
		list = append(list, s)
		return nil
	})
	return list, err
}

// takeStep stores a step the first time it comes.
func (r *Registry) takeStep(id wire.DeviceID, execution string, payload []byte) error {
	s, err := parse[wire.ExecStep](payload, wire.MaxExec)
	switch {
	case err != nil:
		return err
	case s.Execution != execution || s.N > maxN:
		return fmt.Errorf("%w: step %d of %q on the topic of %q", errBad, s.N, s.Execution, execution)
	}
	fresh, known := false, false
	err = r.db.Batch(func(tx *store.Tx) error {
		rec, err := store.Get[execRecord](tx, bucketExecution, execKey(id, execution))
		fresh, known = false, err == nil
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		key := stepKey(id, execution, s.N)
		most := maxSteps
		if s.State.Terminal() {
			most += 16
		}
		if !known || rec.Steps >= most || store.Has(tx, bucketExec, key) {
			return nil
		}
		fresh, rec.Steps = true, rec.Steps+1
		if err := store.Put(tx, bucketExecution, execKey(id, execution), rec); err != nil {
			return err
		}
		return store.Put(tx, bucketExec, key, *s)
	})
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("%w: execution %q was never asked of this device", errBad, execution)
	}
	if fresh {
		r.watch.send(Event{Kind: EventExec, Device: id, Pipeline: s.Pipeline, Step: s})
	}
	return nil
}
