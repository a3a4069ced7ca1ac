package firmware

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// A Trap is what goes wrong on a kind of board, when it does, and the line that
// mends it. Written:
//
//	CONDITION, CONDITION…: text => fix
//
// Conditions are: always; file GLOB; no-file GLOB; pci VENDOR:DEVICE and usb
// VENDOR:DEVICE, hexadecimal, with no- before them for their absence; pages BYTES,
// of the kernel's at least.
type Trap struct {
	When []Condition
	Text string
	Fix  string // "": nothing can be mended, it is good to know
}

// A Condition of a trap.
type Condition struct {
	Kind  string // always, file, pci, usb, pages
	Not   bool
	Value string
}

func parseTrap(value string) (Trap, error) {
	conditions, text, found := strings.Cut(value, ": ")
	if !found {
		return Trap{}, fmt.Errorf("no \": \" between conditions and text")
	}
	var t Trap
	for c := range strings.SplitSeq(conditions, ", ") {
		one, err := parseCondition(c)
		if err != nil {
			return t, err
		}
		t.When = append(t.When, one)
	}
	text, fix, fixed := strings.Cut(text, " => ")
	if text == "" || fixed && fix == "" || len(t.When) > maxList {
		return t, fmt.Errorf("it wants up to %d conditions, a text, and behind => a fix", maxList)
	}
	t.Text, t.Fix = text, fix
	return t, nil
}

func parseCondition(s string) (Condition, error) {
	kind, value, _ := strings.Cut(s, " ")
	c := Condition{Value: value}
	c.Kind, c.Not = strings.CutPrefix(kind, "no-")
	var err error
	switch {
	case c.Kind == "always" && !c.Not && value == "":
	case c.Kind == "file":
		err = pattern(value)
	case c.Kind == "pci", c.Kind == "usb":
		vendor, device, _ := strings.Cut(value, ":")
		for _, id := range []string{vendor, device} {
			if len(id) != 4 || strings.Trim(id, "0123456789abcdef") != "" {
				err = fmt.Errorf("%.64q is not vendor:device, four digits of 0-9a-f each", value)
			}
		}
	case c.Kind == "pages" && !c.Not:
		_, err = number(value, 4096, 1<<20)
	default:
		err = fmt.Errorf("%.64q is no condition", s)
	}
	return c, err
}

// Sprung says whether a trap's conditions are all met on the board with this root
// and pages of these bytes.
func (t Trap) Sprung(root fs.FS, pageSize int) bool {
	for _, c := range t.When {
		if c.met(root, pageSize) == c.Not {
			return false
		}
	}
	return true
}

func (c Condition) met(root fs.FS, pageSize int) bool {
	vendor, device, _ := strings.Cut(c.Value, ":")
	switch c.Kind {
	case "file":
		return len(glob(root, c.Value)) > 0
	case "pci":
		return plugged(root, "sys/bus/pci/devices/*/vendor", "0x"+vendor, "device", "0x"+device)
	case "usb":
		return plugged(root, "sys/bus/usb/devices/*/idVendor", vendor, "idProduct", device)
	case "pages":
		n, err := strconv.Atoi(c.Value)
		return err == nil && pageSize >= n
	}
	return true
}

// plugged looks for a device on a bus: a file that names its vendor, and one beside
// it that names the device.
func plugged(root fs.FS, vendors, vendor, file, device string) bool {
	for _, name := range glob(root, vendors) {
		if strings.TrimSpace(read(root, name)) == vendor && strings.TrimSpace(read(root, path.Join(path.Dir(name), file))) == device {
			return true
		}
	}
	return false
}
