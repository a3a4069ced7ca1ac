package wire

import (
	"context"
	"errors"
)

// A Message is one MQTT publish.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte // 0 or 1
	Retain  bool
	// Again, when not nil, is asked for the payload whenever a connection begins that
	// will send again what the one before had taken and not got acknowledged: what was
	// true of the message then may not be any more. It must not call the Link.
	Again func() []byte
}

// ErrOffline is returned by Link.Publish while there is no connection.
var ErrOffline = errors.New("link is down")

// ErrWindow is returned by Link.Publish while as many messages as may be are
// waiting for their acknowledgement; Spec.Room tells when that changes.
var ErrWindow = errors.New("send window is full")

// A Link is one connection to a broker that mends itself.
type Link interface {
	// Run connects and keeps the connection until ctx ends, then disconnects
	// cleanly and returns nil. It returns an error only for what can never work
	// (a broken configuration). It may be called again when it has returned; what
	// was taken and not acknowledged is then sent again.
	Run(ctx context.Context, s Spec) error
	// Publish hands a message over without waiting. acked (may be nil) is called
	// at most once, for QoS 1 when the broker's PUBACK has come, for QoS 0 when it was
	// written; never for anything less. A QoS 1 message that was taken is sent
	// again after a cut until it is acknowledged. An error means it was
	// not taken. The payload is not kept after acked, and must not change before.
	Publish(m Message, acked func()) error
}

// A Spec is what a user of a Link brings. All functions may be nil. None may
// block for long; all but Receive may call Publish.
type Spec struct {
	Subscribe []Subscription
	// Will is asked before every attempt to connect.
	Will func() *Message
	// Up is called when the connection stands and every subscription was granted.
	Up func()
	// Down is called when it ended or an attempt failed, with the reason.
	Down func(error)
	// Room is called when an acknowledgement made room in a full window.
	Room func()
	// Receive gets one message after the other. It is acknowledged when Receive
	// returns nil; on an error the connection is dropped, so that it comes again.
	Receive func(Message) error
}

// A Subscription is a topic filter.
type Subscription struct {
	Filter string
	QoS    byte
}
