package broker

import (
	"math"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Client and broker each number their own packets, and both begin at 1. mochi keeps
// both in one map: a client's SUBSCRIBE with the id of a message that is on its way to
// the client would be refused, with a code that MQTT 3.1.1 does not have and without
// what is retained, and its PUBLISH would take that message out of the session. So a
// client's packet goes by another id inside, the highest that is free: mochi counts
// upwards. An answer is written before the next packet is read, so that one note for
// each connection is enough. QoS 2, of which the answer is not the end, stays as it is.

// An alias is the id of the packet that a client waits for an answer to. The
// connection's goroutine alone uses it.
type alias struct{ theirs, inside uint16 }

// OnPacketRead gives a client's packet an id that is nobody else's.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if pk.FixedHeader.Qos != 1 {
			return pk, nil
		}
	case packets.Subscribe, packets.Unsubscribe:
	default:
		return pk, nil
	}
	in, _ := inner(cl.Net.Conn)
	if in == nil || pk.PacketID == 0 { // 0 is malformed, and refused as that
		return pk, nil
	}
	in.asked = alias{theirs: pk.PacketID, inside: free(cl.State.Inflight)}
	pk.PacketID = in.asked.inside
	return pk, nil
}

// OnPacketEncode gives the answer the client's own id again.
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	switch pk.FixedHeader.Type {
	case packets.Puback, packets.Suback, packets.Unsuback:
		in, _ := inner(cl.Net.Conn)
		if in != nil && pk.PacketID == in.asked.inside {
			pk.PacketID = in.asked.theirs
		}
	}
	return pk
}

// OnQosPublish takes a PUBACK out of the session before it is written: mochi would
// send one that could not be written again on the next connection, by the id inside.
// There the client sends its message again, and is answered then.
func (h *hook) OnQosPublish(cl *mqtt.Client, pk packets.Packet, _ int64, _ int) {
	if pk.FixedHeader.Type == packets.Puback && cl.State.Inflight.Delete(pk.PacketID) {
		atomic.AddInt64(&h.b.srv.Info.Inflight, -1)
	}
}

func free(inflight *mqtt.Inflight) uint16 {
	id := uint16(math.MaxUint16)
	for ; id > 1; id-- { // there are never as many in flight
		if _, used := inflight.Get(id); !used {
			break
		}
	}
	return id
}
