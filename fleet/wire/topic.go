package wire

import (
	"strconv"
	"strings"
)

// Device is the root of one device's topics in the fleet tree.
type Device struct {
	Root string // "covey" unless configured
	ID   DeviceID
}

func (d Device) base() string {
	return d.Root + "/" + strconv.Itoa(Version) + "/d/" + string(d.ID) + "/"
}

// What the device writes.
func (d Device) Status() string                 { return d.base() + "up/status" }
func (d Device) Hello() string                  { return d.base() + "up/hello" }
func (d Device) Health() string                 { return d.base() + "up/health" }
func (d Device) Reported() string               { return d.base() + "up/reported" }
func (d Device) Exec(execution string) string   { return d.base() + "up/exec/" + execution }
func (d Device) Result(pipeline string) string  { return d.base() + "up/result/" + pipeline }
func (d Device) Event(pipeline string) string   { return d.base() + "up/event/" + pipeline }
func (d Device) Response(command string) string { return d.base() + "up/response/" + command }
func (d Device) BlockGet() string               { return d.base() + "up/block/get" }
func (d Device) UpAll() string                  { return d.base() + "up/#" }

// What the controller writes.
func (d Device) Desired() string            { return d.base() + "dn/desired" }
func (d Device) Command(name string) string { return d.base() + "dn/cmd/" + name }
func (d Device) Block(sha Digest, n int) string {
	return d.base() + "dn/block/" + sha.Short() + "/" + strconv.Itoa(n)
}
func (d Device) BlockAll() string { return d.base() + "dn/block/#" }
func (d Device) DnAll() string    { return d.base() + "dn/#" }

// BulkSuffix is what a device's second connection, for blocks, has behind its id.
const BulkSuffix = "~x"

// ParseUp splits a topic of the fleet tree that a device wrote into its device
// and the levels behind up/, as in ("pi-1", "exec/ex-1"). ok is false for any
// other topic.
func ParseUp(root, topic string) (id DeviceID, rest string, ok bool) {
	s, ok := strings.CutPrefix(topic, root+"/"+strconv.Itoa(Version)+"/d/")
	if !ok {
		return "", "", false
	}
	dev, rest, ok := strings.Cut(s, "/")
	if !ok || !ValidID(dev) {
		return "", "", false
	}
	rest, ok = strings.CutPrefix(rest, "up/")
	return DeviceID(dev), rest, ok
}
