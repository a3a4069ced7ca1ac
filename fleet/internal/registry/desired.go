package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/window"
	"github.com/covey-edge/covey/fleet/wire"
)

// Desired is what is wanted of a device. A device that nothing was wanted of yet
// has revision 0.
func (r *Registry) Desired(id wire.DeviceID) (d wire.DesiredSigned, err error) {
	err = r.db.View(func(tx *store.Tx) error {
		d, err = r.DesiredTx(tx, id)
		return err
	})
	return d, err
}

// DesiredTx is Desired within a transaction.
func (r *Registry) DesiredTx(tx *store.Tx, id wire.DeviceID) (wire.DesiredSigned, error) {
	doc, err := store.Get[wire.Desired](tx, bucketDesired, string(id))
	if errors.Is(err, store.ErrNotFound) {
		doc.Signed = wire.DesiredSigned{V: wire.Version, Device: id, Pipelines: map[string]wire.DesiredRelease{}}
		err = nil
	}
	return doc.Signed, err
}

// UpdateDesired changes what is wanted of a device, in the caller's transaction:
// fn works on the current document, whose revision is already the next one. When
// the transaction commits, the document goes out, retained. ErrNotFound for a
// device that is not here or revoked, ErrInvalid for a window that never opens.
func (r *Registry) UpdateDesired(tx *store.Tx, id wire.DeviceID, fn func(*wire.DesiredSigned) error) (wire.DesiredSigned, error) {
	var none wire.DesiredSigned
	dev, err := store.Get[Device](tx, bucketDevice, string(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && !dev.Revoked.IsZero() {
		return none, fmt.Errorf("desired of %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return none, err
	}
	doc, err := r.DesiredTx(tx, id)
	if err != nil {
		return none, err
	}
	// Revisions go on after a device was revoked and joined again: its agent may
	// still know the old ones.
	last, err := store.Get[uint64](tx, bucketRev, string(id))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return none, err
	}
	doc.Rev = max(doc.Rev, last) + 1
	// And after the database was restored from a backup: its agent refuses what is
	// older than it has.
	if rep := dev.Reported; rep != nil && rep.Rev >= doc.Rev && rep.Rev < maxRev {
		doc.Rev = rep.Rev + 1
	}
	if doc.Trust, err = r.trustTx(tx); err != nil {
		return none, fmt.Errorf("desired of %q: %w", id, err)
	}
	doc.Expires = r.expires(id, doc)
	if err := fn(&doc); err != nil {
		return none, fmt.Errorf("desired of %q: %w", id, err)
	}
	if err := r.putDesired(tx, id, doc); err != nil {
		return none, fmt.Errorf("desired of %q: %w", id, err)
	}
	tx.OnCommit(func() {
		if err := r.publishDesired(id); err != nil {
			r.cfg.Log.Error().Err(err).Str("device", string(id)).Msg("publish desired")
		}
		r.watch.send(Event{Kind: EventDesired, Device: id})
	})
	return doc, nil
}

// ChangeDesired is UpdateDesired in a transaction of its own.
func (r *Registry) ChangeDesired(id wire.DeviceID, fn func(*wire.DesiredSigned) error) (doc wire.DesiredSigned, err error) {
	err = r.db.Update(func(tx *store.Tx) error {
		doc, err = r.UpdateDesired(tx, id, fn)
		return err
	})
	return doc, err
}

// maxRev is higher than any revision that ever was.
const maxRev = 1 << 62

// bucketRev holds the last revision of a device for good: id → uint64.
const bucketRev = "reg.rev"

func (r *Registry) putDesired(tx *store.Tx, id wire.DeviceID, signed wire.DesiredSigned) error {
	doc := wire.Desired{Signed: signed, Signatures: []json.RawMessage{}}
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if len(body) > wire.MaxDesired-signatureRoom {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(body), wire.MaxDesired-signatureRoom)
	}
	if err := doc.Validate(); err != nil { // its device would refuse all of it
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	for pipeline, rel := range signed.Pipelines {
		if rel.Window != nil {
			if _, err := window.Parse(*rel.Window); err != nil {
				return fmt.Errorf("%w: pipeline %q: %w", ErrInvalid, pipeline, err)
			}
		}
		if rel.Execution == "" {
			continue
		}
		if !wire.ValidID(rel.Execution) {
			return fmt.Errorf("%w: execution %q of pipeline %q", ErrInvalid, rel.Execution, pipeline)
		}
		if store.Has(tx, bucketExecution, execKey(id, rel.Execution)) {
			continue // wanted before, maybe in another way
		}
		if err := store.Put(tx, bucketExecution, execKey(id, rel.Execution), execRecord{Pipeline: pipeline, Release: rel.Release}); err != nil {
			return err
		}
	}
	if err := store.Put(tx, bucketRev, string(id), signed.Rev); err != nil {
		return err
	}
	return store.Put(tx, bucketDesired, string(id), doc)
}

// publishDesired sends the stored document, or clears the retained one when there
// is none. Reading it here, one at a time, makes the last one sent the newest.
func (r *Registry) publishDesired(id wire.DeviceID) error {
	r.publishing.Lock()
	defer r.publishing.Unlock()
	var payload []byte
	err := r.db.View(func(tx *store.Tx) error {
		doc, err := store.Get[wire.Desired](tx, bucketDesired, string(id))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		payload, err = r.document(doc)
		return err
	})
	if err != nil {
		return err
	}
	topic := wire.Device{Root: r.cfg.Root, ID: id}.Desired()
	return r.broker.Publish(wire.Message{Topic: topic, Payload: payload, QoS: 1, Retain: true})
}

// document is a desired document as it goes out: signed where people sign releases.
func (r *Registry) document(doc wire.Desired) ([]byte, error) {
	if r.cfg.Director == nil || doc.Signed.Trust == nil {
		return json.Marshal(doc)
	}
	return trust.SignDirected(context.Background(), r.cfg.Director, doc.Signed)
}

// signatureRoom is for the director's signature, bytes.
const signatureRoom = 512

// A document that is signed counts for thirty days, so that a board from which newer
// ones are kept back does not act on it for ever. It is made anew long before. The
// days are spread, or a fleet that joined together would be signed anew together.
const (
	directedLife  = 30 * 24 * time.Hour
	directedRenew = 15 * 24 * time.Hour // before its end
	directedTurn  = time.Hour
	renewals      = 1000 // in a turn: a fleet of 300,000 in its fifteen days
)

func (r *Registry) expires(id wire.DeviceID, doc wire.DesiredSigned) time.Time {
	if r.cfg.Director == nil || doc.Trust == nil {
		return time.Time{}
	}
	h := fnv.New32a()
	h.Write([]byte(id))
	spread := time.Duration(h.Sum32()%(10*24*60)) * time.Minute
	return r.cfg.Now().UTC().Truncate(time.Second).Add(directedLife + spread)
}

// renew makes documents anew that expire soon, those that do first.
func (r *Registry) renew() error {
	type due struct {
		id wire.DeviceID
		at time.Time
	}
	var list []due
	soon := r.cfg.Now().Add(directedRenew)
	err := r.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketDesired, "", func(id string, d wire.Desired) error {
			if at := d.Signed.Expires; !at.IsZero() && at.Before(soon) {
				list = append(list, due{wire.DeviceID(id), at})
			}
			return nil
		})
	})
	slices.SortFunc(list, func(a, b due) int { return a.at.Compare(b.at) })
	for _, d := range list[:min(len(list), renewals)] {
		_, e := r.ChangeDesired(d.id, func(*wire.DesiredSigned) error { return nil })
		if e != nil && !errors.Is(e, ErrNotFound) { // revoked: it asks nobody
			err = errors.Join(err, e)
		}
	}
	return err
}

// renewing goes on until ctx ends.
func (r *Registry) renewing(ctx context.Context) error {
	t := time.NewTicker(directedTurn)
	defer t.Stop()
	for {
		if err := r.renew(); err != nil {
			r.cfg.Log.Error().Err(err).Msg("desired documents are not signed anew")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// PublishAll sends every desired document: the broker keeps them in memory only,
// so this is done at each start, before the broker lets anybody in.
func (r *Registry) PublishAll() error {
	var ids []wire.DeviceID
	err := r.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketDesired, "", func(id string, _ json.RawMessage) error {
			ids = append(ids, wire.DeviceID(id))
			return nil
		})
	})
	for _, id := range ids {
		err = errors.Join(err, r.publishDesired(id))
	}
	return err
}
