package registry

import (
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Device is all that is known of one board, at one moment. What its pointers
// and map lead to is shared and must not be changed.
type Device struct {
	ID          wire.DeviceID     `json:"id"`
	Name        string            `json:"name,omitempty"` // for people
	Labels      map[string]string `json:"labels,omitempty"`
	Enrolled    time.Time         `json:"enrolled"`
	CertExpires time.Time         `json:"cert_expires"`
	Serial      string            `json:"serial"` // of the newest certificate, hex
	Revoked     time.Time         `json:"revoked,omitzero"`

	State    string         `json:"state,omitempty"` // online, stopped, offline; "" before it first came
	SID      uint64         `json:"sid,omitempty"`
	MID      string         `json:"mid,omitempty"`
	LastSeen time.Time      `json:"last_seen,omitzero"`
	Hello    *wire.Hello    `json:"hello,omitempty"`
	Health   *wire.Health   `json:"health,omitempty"` // in memory only, but for what another write takes along
	Reported *wire.Reported `json:"reported,omitempty"`
	Twin     *Twin          `json:"twin,omitempty"`
}

// Online says whether the device has a connection, as far as it said.
func (d Device) Online() bool { return d.State == wire.StateOnline && d.Revoked.IsZero() }

// Duplicate says whether two machines use this device's identity now.
func (d Device) Duplicate(now time.Time) bool {
	return d.Twin != nil && now.Sub(d.Twin.Seen) < twinMemory
}

// A Twin is the other machine that was seen under a device's identity.
type Twin struct {
	MID  string    `json:"mid,omitempty"` // "" when the agent said so itself
	Left time.Time `json:"left"`          // when this machine was last the device
	Seen time.Time `json:"seen"`          // when both were last at it; zero: the machine was changed, once
}

const (
	// twinMemory is how long an alarm about two machines stands after its last reason.
	twinMemory = 30 * time.Minute
	// twinSwap is how soon one machine may come after another without raising an
	// alarm: nobody moves a card from board to board faster.
	twinSwap = 15 * time.Second
)

// apply takes a status in and says whether it counts. Pure.
//
// An offline that is not of the current connection is one of the past: the
// broker published the will of a connection that a newer one has replaced.
func (d *Device) apply(s wire.Status, now time.Time) bool {
	if s.State != wire.StateOnline {
		if s.SID != d.SID || s.MID != d.MID {
			return false
		}
		d.State = s.State
		return true
	}
	if d.MID != "" && s.MID != d.MID {
		d.Twin = meet(d, s.MID, now)
	}
	d.State, d.SID, d.MID = s.State, s.SID, s.MID
	return true
}

// meet decides what it means that another machine came under this identity: an
// alarm when it was here before and the two take turns, or when it pushed out one
// that was alive a moment ago; else a board was replaced.
func meet(d *Device, mid string, now time.Time) *Twin {
	t := &Twin{MID: d.MID, Left: now}
	if d.Twin != nil {
		t.Seen = d.Twin.Seen
	}
	turns := d.Twin != nil && d.Twin.MID == mid && now.Sub(d.Twin.Left) < twinMemory
	pushed := d.State == wire.StateOnline && now.Sub(d.LastSeen) < twinSwap
	if turns || pushed {
		t.Seen = now
	}
	return t
}
