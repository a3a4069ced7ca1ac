package registry

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/wire"
)

// errBad marks a message that will never be taken in, however often it comes.
var errBad = errors.New("malformed message")

// Handle takes in what a device published on up/<rest>. nil means that it is on
// the disk, or is not worth keeping, and may be acknowledged; an error, that the
// device must send it again. A malformed message is logged, the first time it
// comes, and acknowledged, or it would come for ever.
func (r *Registry) Handle(id wire.DeviceID, rest string, payload []byte) error {
	err := r.take(id, rest, payload)
	if errors.Is(err, errBad) || errors.Is(err, ErrNotFound) {
		r.stats.bad.Add(1)
		r.bad.warn(id, rest, payload, err)
		return nil
	}
	return err
}

func (r *Registry) take(id wire.DeviceID, rest string, payload []byte) error {
	kind, name, _ := strings.Cut(rest, "/")
	switch {
	case rest == "status":
		return r.takeStatus(id, payload)
	case rest == "hello":
		return takeDoc(r, id, payload, wire.MaxHello, func(d *Device, h *wire.Hello) { d.Hello = h })
	case rest == "reported":
		return takeDoc(r, id, payload, wire.MaxReported, func(d *Device, rep *wire.Reported) { d.Reported = rep })
	case rest == "health":
		return r.takeHealth(id, payload)
	case rest == "block/get":
		return r.blocks.ask(id, payload)
	case kind == "exec":
		return r.takeStep(id, name, payload)
	case kind == "result":
		return r.takeResult(id, name, payload)
	}
	return fmt.Errorf("%w: nothing is expected on up/%s", errBad, rest)
}

// takeDoc takes in a document that replaces the one before.
func takeDoc[T any, P message[T]](r *Registry, id wire.DeviceID, payload []byte, limit int, set func(*Device, P)) error {
	v, err := parse[T, P](payload, limit)
	if err != nil {
		return err
	}
	return r.change(id, true, func(d *Device) error {
		d.LastSeen = r.cfg.Now().UTC()
		set(d, v)
		return nil
	}, nil)
}

// errOld ends a change that would bring back the past.
var errOld = errors.New("of an older connection")

func (r *Registry) takeStatus(id wire.DeviceID, payload []byte) error {
	s, err := parse[wire.Status](payload, wire.MaxHealth)
	if err != nil {
		return err
	}
	now := r.cfg.Now().UTC()
	var was, is Device
	err = r.change(id, true, func(d *Device) error {
		was = *d
		if !d.apply(*s, now) {
			return errOld
		}
		d.LastSeen = now
		is = *d
		return nil
	}, nil)
	if errors.Is(err, errOld) {
		return nil
	}
	if err == nil && is.Duplicate(now) && !was.Duplicate(now) {
		r.alarm(id, is.MID, was.MID)
	}
	return err
}

func (r *Registry) alarm(id wire.DeviceID, mids ...string) {
	r.cfg.Log.Error().Str("device", string(id)).Strs("machines", mids).Str("flag", flagDuplicate).
		Msg("two machines use one identity: revoke it and let each join with its own token")
}

const flagDuplicate = "duplicate_identity"

// takeHealth keeps health in memory: it comes every minute from every device.
func (r *Registry) takeHealth(id wire.DeviceID, payload []byte) error {
	h, err := parse[wire.Health](payload, wire.MaxHealth)
	if err != nil {
		return err
	}
	now := r.cfg.Now().UTC()
	said := slices.Contains(h.Flags, flagDuplicate)
	if d, _ := r.Device(id); said && !d.Duplicate(now) {
		r.alarm(id, d.MID)
	}
	return r.change(id, said, func(d *Device) error {
		d.LastSeen, d.Health = now, h
		if said {
			t := Twin{}
			if d.Twin != nil {
				t = *d.Twin
			}
			t.Seen = now
			d.Twin = &t
		}
		return nil
	}, nil)
}

// message is a pointer to a message that can be checked.
type message[T any] interface {
	*T
	Validate() error
}

// parse reads a message of at most limit bytes; errors wrap errBad.
func parse[T any, P message[T]](payload []byte, limit int) (*T, error) {
	v, err := wire.Parse[T, P](payload, limit)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBad, err)
	}
	return v, nil
}

// onceLog logs each malformed message once, and not more than a bounded number
// of them an hour: a device that sends nonsense must not fill the disk with logs.
type onceLog struct {
	log zerolog.Logger

	mu   sync.Mutex
	seen map[[8]byte]bool
	from time.Time
}

const maxOnce = 1000

func (o *onceLog) warn(id wire.DeviceID, rest string, payload []byte, err error) {
	sum := sha256.Sum256(slices.Concat([]byte(id), []byte(rest), payload))
	o.mu.Lock()
	if o.seen == nil || time.Since(o.from) > time.Hour {
		o.seen, o.from = map[[8]byte]bool{}, time.Now()
	}
	known := o.seen[[8]byte(sum[:8])] || len(o.seen) >= maxOnce
	if !known {
		o.seen[[8]byte(sum[:8])] = true
	}
	o.mu.Unlock()
	if !known {
		o.log.Warn().Str("device", string(id)).Str("topic", "up/"+rest).Int("bytes", len(payload)).Err(err).Msg("message dropped")
	}
}
