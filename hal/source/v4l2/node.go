package v4l2

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A node is one /dev/video… as the kernel's sysfs describes it.
type node struct {
	name   string // "video0"
	card   string // for people
	driver string
	index  int // among the nodes of the same hardware
	// ids are its stable names, the best first. Of USB: by serial number (none, where
	// the maker gave none), by port, and by model alone.
	ids []string
}

// Bounds of sysfs.
const (
	maxNodes = 256
	maxWord  = 64 // of a file with one word
)

// nodes lists the video nodes under a root, in the order of their numbers.
func nodes(root fs.FS) []node {
	const class = "sys/class/video4linux"
	entries, _ := fs.ReadDir(root, class) // no camera was ever there: no folder
	var found []node
	for _, e := range entries[:min(len(entries), maxNodes)] {
		number, ok := strings.CutPrefix(e.Name(), "video")
		if _, err := strconv.ParseUint(number, 10, 16); !ok || err != nil {
			continue // radio, teletext, sub-devices
		}
		dir := path.Join(class, e.Name())
		n := node{name: e.Name(), card: line(root, path.Join(dir, "name")), index: -1}
		if i, err := strconv.Atoi(word(root, path.Join(dir, "index"))); err == nil {
			n.index = i
		}
		// The folder's own place says what it is plugged into.
		if to, err := fs.ReadLink(root, dir); err == nil {
			dir = path.Join(class, to)
		}
		if to, err := fs.ReadLink(root, path.Join(dir, "device")); err == nil {
			device := path.Join(dir, to)
			if to, err := fs.ReadLink(root, path.Join(device, "driver")); err == nil {
				n.driver = path.Base(to)
			}
			n.ids = ids(root, device)
		}
		found = append(found, n)
	}
	slices.SortFunc(found, func(a, b node) int { // video2 before video10
		return cmp.Or(len(a.name)-len(b.name), strings.Compare(a.name, b.name))
	})
	return found
}

// ids are the names of hardware, which is a folder of sysfs.
func ids(root fs.FS, device string) []string {
	for dir := device; strings.HasPrefix(dir, "sys/devices/"); dir = path.Dir(dir) {
		vendor, product := word(root, path.Join(dir, "idVendor")), word(root, path.Join(dir, "idProduct"))
		if vendor == "" || product == "" {
			continue
		}
		// A camera may have two sensors, each an interface of its own: 3-1:1.2.
		part := ""
		if _, n, ok := strings.Cut(path.Base(device), ":1."); ok && n != "0" {
			part = "+" + n
		}
		model, port := "usb-"+vendor+":"+product, path.Base(dir)
		var all []string
		if serial := word(root, path.Join(dir, "serial")); serial != "" {
			all = append(all, model+"-"+serial+part)
		}
		return append(all, model+"-"+port+part, model+part)
	}
	bus := "platform"
	if to, err := fs.ReadLink(root, path.Join(device, "subsystem")); err == nil {
		bus = plain(path.Base(to))
	}
	return []string{bus + "-" + plain(path.Base(device))}
}

// line is the content of a file of one line; "" when there is none.
func line(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	var b [256]byte
	n, _ := f.Read(b[:])
	return clean(strings.TrimSpace(string(b[:n])))
}

// word is line as a word.
func word(root fs.FS, name string) string { return plain(line(root, name)) }

// plain is s as a word that may stand in a configuration without quotes.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:-", r) {
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), maxWord)]
}

// id is the best name of a node that no other one has: many cameras of one model
// have the same serial number.
func (n node) id(all []node) string {
	for _, id := range n.order() {
		if !slices.ContainsFunc(all, func(o node) bool { return o.name != n.name && o.index == 0 && slices.Contains(o.ids, id) }) {
			return id
		}
	}
	return "/dev/" + n.name
}

// order is the ids, best first. The model alone finds a camera in any socket, which
// the port does not.
func (n node) order() []string {
	if len(n.ids) == 2 { // no serial number
		return []string{n.ids[1], n.ids[0]}
	}
	return n.ids
}

// find is the path of the node that a configuration names: a path, or an id.
func find(root fs.FS, device string) (string, error) {
	if strings.HasPrefix(device, "/") {
		return device, nil
	}
	if bus, _, ok := strings.Cut(device, "-"); !ok || bus == "" {
		return "", fmt.Errorf("%q is neither a path nor an id: write what covey-agent probe lists", device)
	}
	var found []node
	all := nodes(root)
	for _, n := range all {
		if n.index == 0 && slices.Contains(n.ids, device) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return "", fs.ErrNotExist
	case 1:
		return "/dev/" + found[0].name, nil
	}
	var ids []string
	for _, n := range found {
		ids = append(ids, n.id(all))
	}
	return "", fmt.Errorf("%d cameras have this id: write %s", len(found), strings.Join(ids, " or "))
}
