package broker_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/covey-edge/covey/fleet/wire"
)

const desired = "covey/1/d/pi/dn/desired"

// owed is a device that has come back to a message which it was sent, and has not
// acknowledged: "rev 1" on desired, with the packet id that the device uses next.
func owed(t *testing.T, r *rig) (again func() *client, id uint16) {
	t.Helper()
	g := greeting{tls: r.device(t, "pi"), id: "pi", keep: true}
	first := r.mustDial(t, g)
	if !first.subscribe(desired, 1) || !first.publish("covey/1/d/pi/up/hello", "x", 1) {
		t.Fatal("refused")
	}
	r.want(t, "pi hello x") // what was retained before would have come by now
	first.conn.Close()
	if err := r.Publish(wire.Message{Topic: desired, Payload: []byte("rev 1"), QoS: 1, Retain: true}); err != nil {
		t.Fatal(err)
	}
	again = func() *client { return r.mustDial(t, g) }
	c := again()
	body := c.next(packets.Publish)
	c.conn.Close()
	at := 2 + binary.BigEndian.Uint16(body)
	return again, binary.BigEndian.Uint16(body[at:])
}

// next reads until a packet of the type comes.
func (c *client) next(want byte) []byte {
	c.t.Helper()
	for {
		typ, body, err := c.read()
		if err != nil {
			c.t.Fatalf("no packet %d: %v", want, err)
		}
		if typ == want {
			return body
		}
	}
}

// A client that subscribes with the id of a message which it owes an acknowledgement
// for is granted what it asks, by that id, and gets what is retained.
func TestSubscribeWithAnIDInFlight(t *testing.T) {
	r := start(t)
	again, id := owed(t, r)
	c := again()
	ask := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: id,
		Filters: packets.Subscriptions{{Filter: desired, Qos: 1}}}
	c.write(ask, (*packets.Packet).SubscribeEncode)
	if got, want := c.next(packets.Suback), []byte{byte(id >> 8), byte(id), 1}; !bytes.Equal(got, want) {
		t.Fatalf("SUBACK % x, want % x", got, want)
	}
	if body := c.next(packets.Publish); !strings.HasSuffix(string(body), "rev 1") {
		t.Errorf("retained is %q", body)
	}
	ask.FixedHeader.Type = packets.Unsubscribe
	c.write(ask, (*packets.Packet).UnsubscribeEncode)
	if got, want := c.next(packets.Unsuback), []byte{byte(id >> 8), byte(id)}; !bytes.Equal(got, want) {
		t.Errorf("UNSUBACK % x, want % x", got, want)
	}
	if !c.subscribe(desired, 1) {
		t.Error("refused after it has unsubscribed")
	}
}

// A client that publishes with the id of a message which it owes an acknowledgement
// for gets its own acknowledged by that id, and still owes: the message comes again.
func TestPublishWithAnIDInFlight(t *testing.T) {
	r := start(t)
	again, id := owed(t, r)
	c := again()
	if !c.publish("covey/1/d/pi/up/result/cam", "one", id) || !c.publish("covey/1/d/pi/up/result/cam", "two", id) {
		t.Fatal("not acknowledged")
	}
	c.conn.Close()
	r.want(t, "pi result/cam one")
	r.want(t, "pi result/cam two")
	c = again()
	if body := c.next(packets.Publish); !strings.HasSuffix(string(body), "rev 1") {
		t.Fatalf("came again: %q", body)
	}
	c.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id}, (*packets.Packet).PubackEncode)
	if !c.publish("covey/1/d/pi/up/result/cam", "three", id) {
		t.Fatal("not acknowledged")
	}
	c.conn.Close()
	// Nothing is owed any more: what comes first is the answer to a subscription.
	c = again()
	c.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: id,
		Filters: packets.Subscriptions{{Filter: desired, Qos: 1}}}, (*packets.Packet).SubscribeEncode)
	typ, body, err := c.read()
	if err != nil || typ != packets.Suback || !slices.Equal(body[2:], []byte{1}) {
		t.Errorf("packet %d % x, %v", typ, body, err)
	}
}

// An acknowledgement that could not be written is not sent on the next connection: the
// client may have given its id, or the one inside, to something else by then.
func TestNoAckOfAnOlderConnection(t *testing.T) {
	r := start(t)
	g := greeting{tls: r.device(t, "pi"), id: "pi", keep: true}
	c := r.mustDial(t, g)
	r.mu.Lock() // nothing is taken in until this is over
	before := r.Stats().Received
	c.send("covey/1/d/pi/up/result/cam", []byte("one"), 1, 5)
	for begin := time.Now(); r.Stats().Received == before; runtime.Gosched() {
		if time.Since(begin) > limit {
			t.Fatal("not received")
		}
	}
	r.Kick("pi")
	c.closed()
	r.mu.Unlock()
	r.want(t, "pi result/cam one")
	c = r.mustDial(t, g)
	if !c.subscribe(desired, 1) { // fails at any other packet
		t.Error("refused")
	}
}
