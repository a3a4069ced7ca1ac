package broker

import (
	"crypto/tls"
	"errors"
	"fmt"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/covey-edge/covey/fleet/wire"
)

// hook is what mochi asks before it does something. Its methods run on the
// goroutine of the client they are about.
type hook struct {
	mqtt.HookBase
	b *Broker
}

func (h *hook) ID() string { return "covey" }

func (h *hook) Provides(what byte) bool {
	switch what {
	case mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished, mqtt.OnACLCheck, mqtt.OnPublish,
		mqtt.OnWill, mqtt.OnWillSent, mqtt.OnClientExpired,
		mqtt.OnPacketRead, mqtt.OnPacketEncode, mqtt.OnQosPublish:
		return true
	}
	return false
}

// OnConnectAuthenticate says whether a client may connect, and gives it the id
// that everything else is decided by.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	in, state := inner(cl.Net.Conn)
	id, err := h.identify(cl.ID, state, pk)
	if err == nil {
		err = h.will(id, pk)
	}
	if err != nil {
		h.refuse(cl, "connect", "", err)
		return false
	}
	cl.ID = id
	in.known()
	return true
}

// identify is the id of a client whose credentials are right: its device's id,
// perhaps with the suffix of the second connection, or one of a home's.
func (h *hook) identify(client string, state *tls.ConnectionState, pk packets.Packet) (string, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return h.identifyHome(client, pk)
	}
	id, err := h.b.cfg.Access.Device(state.PeerCertificates[0])
	if err != nil {
		return "", err
	}
	if client != string(id) && client != string(id)+wire.BulkSuffix {
		return "", fmt.Errorf("certificate of %q does not allow this client id", id)
	}
	return client, nil
}

func (h *hook) identifyHome(client string, pk packets.Packet) (string, error) {
	user := string(pk.Connect.Username)
	if !wire.ValidID(user) || len(pk.Connect.Password) > 128 || len(client) > 128 {
		return "", errors.New("neither a client certificate nor a home's user and password")
	}
	if err := h.b.cfg.Access.Home(user, string(pk.Connect.Password)); err != nil {
		return "", err
	}
	return homePrefix + user + ":" + client, nil
}

// will checks what the broker is to publish when the client dies: mochi does not.
func (h *hook) will(id string, pk packets.Packet) error {
	if !pk.Connect.WillFlag {
		return nil
	}
	if !mqtt.IsValidFilter(pk.Connect.WillTopic, true) || !allowed(h.b.cfg.Root, id, pk.Connect.WillTopic, true) {
		return fmt.Errorf("will on %q is not allowed", clip(pk.Connect.WillTopic))
	}
	return nil
}

// OnSessionEstablish notes whose the client id is from now on, before mochi ends
// the connection that had it.
func (h *hook) OnSessionEstablish(cl *mqtt.Client, _ packets.Packet) {
	in, _ := inner(cl.Net.Conn)
	in.left = func() { h.left(cl) }
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	h.b.newest[cl.ID] = cl
}

// left is called when the connection of a client has ended, after everything
// else. It publishes the will where mochi did not: when a client was gone before
// its CONNACK could be written, and had replaced an older connection.
func (h *hook) left(cl *mqtt.Client) {
	h.b.mu.Lock()
	newest := h.b.newest[cl.ID] == cl
	if newest {
		delete(h.b.newest, cl.ID)
	}
	h.b.mu.Unlock()
	will := cl.Properties.Will
	if !newest || will.Flag == 0 || h.b.stopping.Load() {
		return
	}
	pk := packets.Packet{TopicName: will.TopicName, Payload: will.Payload}
	if err := h.b.srv.Publish(will.TopicName, will.Payload, will.Retain, will.Qos); err != nil {
		h.b.cfg.Log.Error().Str("client", cl.ID).Err(err).Msg("will not published")
	}
	h.OnWillSent(cl, pk)
}

// OnSessionEstablished looks again: a device may have been revoked, or a home
// removed, since it was let in, and before Kick could find it.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, pk packets.Packet) {
	_, state := inner(cl.Net.Conn)
	var err error
	if state != nil && len(state.PeerCertificates) > 0 {
		_, err = h.b.cfg.Access.Device(state.PeerCertificates[0])
	} else {
		err = h.b.cfg.Access.Home(string(pk.Connect.Username), string(pk.Connect.Password))
	}
	if err != nil {
		h.refuse(cl, "connect", "", err)
		cl.Stop(packets.ErrNotAuthorized)
	}
}

// OnACLCheck is asked for publishes, subscriptions and deliveries.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	if allowed(h.b.cfg.Root, cl.ID, topic, write) {
		return true
	}
	what := "read"
	if write {
		what = "write"
	}
	h.refuse(cl, what, topic, errors.New("not allowed on this topic"))
	return false
}

func (h *hook) refuse(cl *mqtt.Client, what, topic string, why error) {
	h.b.refused.add(refusal{cl.ID, what, topic, why.Error()}, cl.Net.Remote)
}

// OnPublish takes in what devices send. Of that the broker itself keeps and
// passes on the status only, which the device reads back; the rest ends here.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	id, rest, ok := wire.ParseUp(h.b.cfg.Root, pk.TopicName)
	if !ok {
		return pk, h.room(cl, pk)
	}
	if err := h.b.handle(id, rest, pk.Payload); err != nil {
		h.b.cfg.Log.Error().Str("device", string(id)).Str("topic", pk.TopicName).Err(err).Msg("not taken in; the device will send it again")
		cl.Stop(err)
		return pk, packets.ErrRejectPacket
	}
	if rest != "status" {
		return pk, packets.CodeSuccessIgnore
	}
	return pk, nil
}

// room bounds what a home may have kept.
func (h *hook) room(cl *mqtt.Client, pk packets.Packet) error {
	if !pk.FixedHeader.Retain || len(pk.Payload) == 0 || h.b.srv.Topics.Retained.Len() < maxRetained {
		return nil
	}
	if _, known := h.b.srv.Topics.Retained.Get(pk.TopicName); known {
		return nil
	}
	err := fmt.Errorf("more than %d retained messages", maxRetained)
	h.refuse(cl, "retain", pk.TopicName, err)
	cl.Stop(err)
	return packets.ErrRejectPacket
}

// OnWill takes the will away of a connection that a newer one of the same client
// has replaced: it would say that a device is offline which has just come.
func (h *hook) OnWill(cl *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	if h.b.stopping.Load() || h.b.newest[cl.ID] != cl {
		return mqtt.Will{TopicName: void}, nil
	}
	return will, nil
}

// void is a topic that nobody can read.
const void = "$void"

// OnWillSent takes in the will of a device, which does not pass by OnPublish.
func (h *hook) OnWillSent(_ *mqtt.Client, pk packets.Packet) {
	id, rest, ok := wire.ParseUp(h.b.cfg.Root, pk.TopicName)
	if !ok {
		return
	}
	if err := h.b.handle(id, rest, pk.Payload); err != nil {
		h.b.cfg.Log.Error().Str("device", string(id)).Err(err).Msg("will not taken in")
	}
}

// OnClientExpired takes away what mochi leaves behind of an expired session.
func (h *hook) OnClientExpired(cl *mqtt.Client) { h.b.srv.UnsubscribeClient(cl) }
