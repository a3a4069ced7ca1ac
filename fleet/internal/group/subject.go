package group

import (
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Subject is one device at one moment, as a query sees it. What it has said of
// itself is nil until it said so.
type Subject struct {
	ID      wire.DeviceID
	Name    string
	Labels  map[string]string // the operator's; those of Hello count where these say nothing
	Online  bool
	Revoked bool
	Seen    time.Time // zero: never
	Joined  time.Time
	Twin    bool // two machines use this identity

	Hello    *wire.Hello
	Health   *wire.Health
	Reported *wire.Reported

	Now time.Time
}

// Label is a label of the device: what the operator says, else what the device's
// own configuration says.
func (s *Subject) Label(key string) (string, bool) {
	if v, ok := s.Labels[key]; ok {
		return v, true
	}
	if s.Hello == nil {
		return "", false
	}
	v, ok := s.Hello.Labels[key]
	return v, ok
}
