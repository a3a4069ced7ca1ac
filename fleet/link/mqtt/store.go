package mqtt

import (
	"slices"
	"strconv"
	"strings"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// store is what paho believes to be its persistence. Its Del of an outgoing
// publish is the only true acknowledgement that paho gives: it is called when
// the PUBACK is read, and for nothing less. It outlives the paho client, so that
// the next one sends again what was not acknowledged, in order, with the same
// packet ids. Incoming packets are not stored: the broker keeps them until they
// are acknowledged.
type store struct{ l *Link }

var _ paho.Store = store{}

func (s store) Open()  {}
func (s store) Close() {}

// Put is called inside Publish, before the packet is sent.
func (s store) Put(key string, p packets.ControlPacket) {
	pub, ok := p.(*packets.PublishPacket)
	if !ok || !strings.HasPrefix(key, "o.") {
		return
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if f := s.l.handing; f != nil && f.mid == 0 {
		f.mid = pub.MessageID
		s.l.sent = append(s.l.sent, f)
	}
}

// Get makes a new packet every time: paho changes what it gets.
func (s store) Get(key string) packets.ControlPacket {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	i := s.index(key)
	if i < 0 {
		return nil
	}
	f := s.l.sent[i]
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.MessageID = f.m.Topic, f.m.Payload, f.mid
	p.Qos, p.Retain = f.m.QoS, f.m.Retain
	return p
}

// All is in the order of sending.
func (s store) All() []string {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	keys := make([]string, len(s.l.sent))
	for i, f := range s.l.sent {
		keys[i] = "o." + strconv.Itoa(int(f.mid))
	}
	return keys
}

// Del of what is not known is an answer to a subscription.
func (s store) Del(key string) {
	s.l.mu.Lock()
	i := s.index(key)
	if i < 0 {
		s.l.mu.Unlock()
		return
	}
	f := s.l.sent[i]
	full := s.l.pending() >= Window
	s.l.sent = slices.Delete(s.l.sent, i, i+1)
	s.l.useful = true
	s.l.mu.Unlock()
	s.l.settle(f, full)
}

// Reset is called after a connection with a clean session stands: paho forgets,
// we do not. What was not acknowledged goes to the head of the queue.
func (s store) Reset() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for _, f := range s.l.sent {
		f.mid = 0
	}
	s.l.queue = append(s.l.sent, s.l.queue...)
	s.l.sent = nil
}

// index finds the message of an outgoing key; -1 for any other. l.mu is held.
func (s store) index(key string) int {
	id, ok := strings.CutPrefix(key, "o.")
	if !ok {
		return -1
	}
	n, err := strconv.ParseUint(id, 10, 16)
	if err != nil {
		return -1
	}
	return slices.IndexFunc(s.l.sent, func(f *flight) bool { return f.mid == uint16(n) })
}
