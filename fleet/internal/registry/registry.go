// Package registry knows every device: who it is, what it should run, what it
// says it runs, and what it answered. It takes in what devices send, before it is
// acknowledged, and hands out what they ask for. It keeps all of it in the store
// and a picture of the devices in memory.
package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
)

// ErrNotFound says that there is no such device.
var ErrNotFound = errors.New("no such device")

// ErrInvalid says that what was asked for is malformed.
var ErrInvalid = errors.New("invalid")

// buckets of the store
const (
	bucketDevice    = "reg.device"    // id → Device
	bucketDesired   = "reg.desired"   // id → wire.Desired
	bucketExecution = "reg.execution" // device/execution → execRecord: those ever asked for
	bucketExec      = "reg.exec"      // device/execution/n → wire.ExecStep
	bucketResult    = "reg.result"    // device/pipeline/n → Answer
	bucketResultID  = "reg.resultid"  // device/pipeline/id → n
)

// A Broker is what the registry needs of one.
type Broker interface {
	// Publish hands a message to whoever has subscribed, without waiting.
	Publish(wire.Message) error
	// Kick ends all connections of a device.
	Kick(wire.DeviceID)
}

// Config of a Registry.
type Config struct {
	Root  string // of the topics
	Log   zerolog.Logger
	Blobs Blobs
	Now   func() time.Time // nil: time.Now
	// Director signs what is wanted of each device, once people sign releases; nil: nobody does.
	Director trust.Signer
}

// A Registry may be used by many goroutines.
type Registry struct {
	cfg    Config
	db     *store.Store
	auth   *auth.Authority
	broker Broker
	blocks *blocks
	bad    onceLog

	watch hub

	mu      sync.RWMutex
	devices map[wire.DeviceID]*entry
	order   []*entry // of devices, by id

	grouping sync.RWMutex // held for writing until a change is on the disk
	groups   map[string]Group

	trusting   sync.Mutex // one bundle of signatures at a time
	publishing sync.Mutex // keeps an older desired document from overtaking a newer one

	stats struct{ results, duplicates, bad atomic.Uint64 }
}

// An entry is a device's place in memory. Whoever changes the device holds mu
// from reading the old record until the new one is on the disk, so that changes of
// one device are one after the other; readers take the picture and wait for nobody.
type entry struct {
	mu  sync.Mutex
	dev atomic.Pointer[Device]
}

// Open reads all devices. Nobody is online until it says so again.
func Open(db *store.Store, a *auth.Authority, broker Broker, cfg Config) (*Registry, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Registry{cfg: cfg, db: db, auth: a, broker: broker, devices: map[wire.DeviceID]*entry{}, groups: map[string]Group{}}
	r.bad.log = cfg.Log
	r.blocks = newBlocks(r)
	err := db.View(func(tx *store.Tx) error {
		if err := r.readGroups(tx); err != nil {
			return err
		}
		return store.Each(tx, bucketDevice, "", func(_ string, d Device) error {
			if d.State == wire.StateOnline {
				d.State = wire.StateOffline
			}
			r.put(&d)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read devices and groups: %w", err)
	}
	return r, nil
}

func (r *Registry) put(d *Device) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.devices[d.ID]
	if e == nil {
		e = &entry{}
		r.devices[d.ID] = e
		at, _ := slices.BinarySearchFunc(r.order, d.ID, func(e *entry, id wire.DeviceID) int { return cmp.Compare(e.dev.Load().ID, id) })
		r.order = slices.Insert(r.order, at, e)
	}
	e.dev.Store(d)
}

func (r *Registry) entry(id wire.DeviceID) *entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.devices[id]
}

// Device is one device; ok is false when there is none of this id.
func (r *Registry) Device(id wire.DeviceID) (d Device, ok bool) {
	e := r.entry(id)
	if e == nil {
		return d, false
	}
	return *e.dev.Load(), true
}

// change is the one way in which a known device's record changes. fn works on a
// copy and must replace what maps and pointers lead to. keep says that the change
// is on the disk before change returns; else it lives in memory. also, which may
// be nil, writes what belongs into the same transaction; it may run more than once.
func (r *Registry) change(id wire.DeviceID, keep bool, fn func(*Device) error, also func(*store.Tx) error) error {
	e := r.entry(id)
	if e == nil {
		return fmt.Errorf("device %q: %w", id, ErrNotFound)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	d := *e.dev.Load()
	if err := fn(&d); err != nil {
		return err
	}
	if keep {
		err := r.db.Batch(func(tx *store.Tx) error {
			if also != nil {
				if err := also(tx); err != nil {
					return err
				}
			}
			return store.Put(tx, bucketDevice, string(id), d)
		})
		if err != nil {
			return fmt.Errorf("device %q: %w", id, err)
		}
	}
	e.dev.Store(&d)
	r.watch.send(Event{Kind: EventDevice, Device: id})
	return nil
}

// Rename gives a device a name for people, "" takes it away.
func (r *Registry) Rename(id wire.DeviceID, name string) error {
	if len(name) > maxValue || !printable(name) {
		return fmt.Errorf("device name: %w: at most %d printable characters", ErrInvalid, maxValue)
	}
	return r.change(id, true, func(d *Device) error { d.Name = name; return nil }, nil)
}

// SetLabels sets labels of a device, and takes away those that are set to "".
func (r *Registry) SetLabels(id wire.DeviceID, labels map[string]string) error {
	set := maps.Clone(labels)
	maps.DeleteFunc(set, func(_, v string) bool { return v == "" })
	if err := ValidLabels(set); err != nil {
		return err
	}
	return r.change(id, true, func(d *Device) error {
		next := map[string]string{}
		maps.Copy(next, d.Labels)
		maps.DeleteFunc(next, func(k, _ string) bool { v, named := labels[k]; return named && v == "" })
		d.Labels = next
		return d.addLabels(set)
	}, nil)
}

// addLabels adds to labels that are nobody else's.
func (d *Device) addLabels(labels map[string]string) error {
	maps.Copy(d.Labels, labels)
	if len(d.Labels) > wire.MaxLabels {
		return fmt.Errorf("labels of %q: %w: %d, at most %d", d.ID, ErrInvalid, len(d.Labels), wire.MaxLabels)
	}
	return nil
}

// An Enrolment is what a device that joined gets.
type Enrolment struct {
	ID   wire.DeviceID
	Cert auth.Certificate
}

// Enrol lets a device in by a join token's secret and its certificate request.
// want is the id it would like, "" for any. Errors wrap auth.ErrDenied,
// auth.ErrExists or auth.ErrInvalid.
func (r *Registry) Enrol(secret, csrPEM string, want wire.DeviceID) (Enrolment, error) {
	id := want
	if id == "" {
		id = wire.DeviceID(wire.NewID("d"))
	}
	if e := r.entry(id); e != nil { // as change does: no older record may come after this one
		e.mu.Lock()
		defer e.mu.Unlock()
	}
	var d Device
	var cert auth.Certificate
	err := r.db.Update(func(tx *store.Tx) (err error) {
		var token auth.JoinToken
		if cert, token, err = r.auth.Join(tx, secret, csrPEM, id); err != nil {
			return err
		}
		d, err = store.Get[Device](tx, bucketDevice, string(id))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		d.ID, d.Enrolled, d.Revoked = id, r.cfg.Now().UTC(), time.Time{}
		d.Serial, d.CertExpires = cert.Serial, cert.Expires
		d.Labels = maps.Clone(d.Labels)
		if d.Labels == nil {
			d.Labels = map[string]string{}
		}
		if err := d.addLabels(token.Labels); err != nil {
			return err
		}
		return store.Put(tx, bucketDevice, string(id), d)
	})
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrol: %w", err)
	}
	r.put(&d)
	r.watch.send(Event{Kind: EventDevice, Device: id})
	r.cfg.Log.Info().Str("device", string(id)).Time("expires", cert.Expires).Msg("device enrolled")
	return Enrolment{id, cert}, nil
}

// Renew gives a device that showed its certificate a new one.
func (r *Registry) Renew(id wire.DeviceID, csrPEM string) (e Enrolment, err error) {
	e.ID = id
	err = r.db.Update(func(tx *store.Tx) (err error) {
		e.Cert, err = r.auth.Renew(tx, id, csrPEM)
		return err
	})
	if err != nil {
		return e, fmt.Errorf("renew: %w", err)
	}
	return e, r.change(id, true, func(d *Device) error {
		d.Serial, d.CertExpires = e.Cert.Serial, e.Cert.Expires
		return nil
	}, nil)
}

// Revoke takes a device's certificates back, ends its connections and forgets
// what was desired of it. Its record stays. It may join again with a new token.
func (r *Registry) Revoke(id wire.DeviceID) error {
	err := r.change(id, true, func(d *Device) error {
		d.Revoked, d.State = r.cfg.Now().UTC(), wire.StateOffline
		return nil
	}, func(tx *store.Tx) error {
		if err := r.auth.Revoke(tx, id); err != nil {
			return err
		}
		return store.Delete(tx, bucketDesired, string(id))
	})
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	r.broker.Kick(id)
	r.cfg.Log.Info().Str("device", string(id)).Msg("device revoked")
	return r.publishDesired(id)
}

// Stats are counts for metrics, since the start.
type Stats struct {
	Devices, Online     int
	Results             uint64 // taken in
	DuplicateResults    uint64 // came again
	Bad                 uint64 // messages that were malformed, and dropped
	BlocksSent          uint64
	BlockBytes          uint64 // of blocks, as they were sent
	BlockRequestsLate   uint64 // dropped because too many waited
	DuplicateIdentities int    // devices that two machines claim to be
}

// Stats counts.
func (r *Registry) Stats() (s Stats) {
	now := r.cfg.Now()
	r.mu.RLock()
	for _, e := range r.devices {
		d := e.dev.Load()
		s.Devices++
		if d.Online() {
			s.Online++
		}
		if d.Duplicate(now) {
			s.DuplicateIdentities++
		}
	}
	r.mu.RUnlock()
	s.Results, s.DuplicateResults, s.Bad = r.stats.results.Load(), r.stats.duplicates.Load(), r.stats.bad.Load()
	s.BlocksSent, s.BlockBytes, s.BlockRequestsLate = r.blocks.sent.Load(), r.blocks.bytes.Load(), r.blocks.late.Load()
	return s
}
