package broker

import (
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

const (
	maxTopic = 256 // bytes of a topic or filter
	maxDepth = 16  // levels
)

// homePrefix is in front of the client id of a home's user, behind which come the
// user and what the client called itself. No device id has a colon, so that a
// home can never take over a device's session, nor another home's.
const homePrefix = "home:"

// deviceOf is the device that a client is a connection of. bulk is its second
// one, for blocks. ok is false for a home's client.
func deviceOf(client string) (id wire.DeviceID, bulk, ok bool) {
	name, bulk := strings.CutSuffix(client, wire.BulkSuffix)
	return wire.DeviceID(name), bulk, wire.ValidID(name)
}

// allowed says whether a client may write to a topic, or read all that a filter
// can match. Whatever is not allowed here is refused, to read and to write.
func allowed(root, client, topic string, write bool) bool {
	if topic == "" || len(topic) > maxTopic || strings.Count(topic, "/") >= maxDepth {
		return false
	}
	if !write {
		topic = unshare(topic)
	}
	for _, pattern := range patterns(root, client, write) {
		if covers(pattern, topic) {
			return true
		}
	}
	return false
}

// patterns are what a client may write or read.
func patterns(root, client string, write bool) []string {
	id, bulk, ok := deviceOf(client)
	d := wire.Device{Root: root, ID: id}
	switch {
	case !ok && strings.HasPrefix(client, homePrefix):
		return []string{root + "/home/#", "homeassistant/#"}
	case !ok:
		return nil
	case bulk && write:
		return []string{d.BlockGet()}
	case bulk:
		return []string{d.BlockAll()}
	case write:
		return []string{d.UpAll()}
	default:
		return []string{d.DnAll(), d.Status()}
	}
}

// covers says whether every topic that matches filter matches pattern too. The
// pattern has a wildcard, #, at its end or none.
func covers(pattern, filter string) bool {
	for {
		if pattern == "#" {
			return true
		}
		p, ps, pmore := strings.Cut(pattern, "/")
		f, fs, fmore := strings.Cut(filter, "/")
		if p != f || f == "+" || f == "#" {
			return false
		}
		switch {
		case pmore && fmore:
			pattern, filter = ps, fs
		case pmore:
			return ps == "#" // a/# matches a
		default:
			return !fmore
		}
	}
}

// unshare is the filter of a shared subscription, "$share/<group>/<filter>".
func unshare(filter string) string {
	first, rest, ok := strings.Cut(filter, "/")
	if !ok || !strings.EqualFold(first, "$share") {
		return filter
	}
	_, filter, _ = strings.Cut(rest, "/")
	return filter
}
