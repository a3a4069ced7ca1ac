// Package homeassistant says what Home Assistant is told of a board: one document of
// its MQTT discovery for the whole device. It is pure: what it is given are the
// capabilities that the board publishes, what comes out is text.
package homeassistant

import (
	"encoding/json"
	"net/url"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
)

// MaxDocument is the longest document, bytes. What does not fit is left out.
const MaxDocument = 64 << 10

// A Device is a board.
type Device struct {
	wire.HomeCapabilities
	Root string // of its topics; "" is "covey"
	Page string // address of its own page, http:// or https://; "": it has none
}

// An Announcement is what there is to say of a device.
type Announcement struct {
	// Parts are the components and their platforms. A component is what it is called
	// for ever, whatever a device or a pipeline is called for people.
	Parts map[string]string
	// Left is how many components there was no room for.
	Left int

	frame map[string]any
	texts map[string]json.RawMessage // of Parts
	order []string                   // of Parts, the more important first
}

// A component is one entity, by the abbreviations that Home Assistant has for its keys.
type component map[string]any

// Announce makes the announcement of a device.
func Announce(d Device) *Announcement {
	if d.Root == "" {
		d.Root = "covey"
	}
	m := &maker{device: d, topics: wire.Home{Root: d.Root, ID: d.Device}}
	a := &Announcement{Parts: map[string]string{}, texts: map[string]json.RawMessage{}, frame: map[string]any{
		"dev": m.dev(),
		"o":   map[string]string{"name": "covey", "sw": text(d.Agent)},
	}}
	size := len(encode(a.frame)) + len(`,"cmps":{}`)
	for _, e := range m.entities() {
		if a.Parts[e.key] != "" {
			continue // two labels that are one at home
		}
		b := encode(e.component)
		need := len(encode(e.key)) + len(b) + len(":,")
		if size+need > MaxDocument {
			a.Left++
			continue
		}
		size += need
		a.Parts[e.key], a.texts[e.key] = e.component["p"].(string), b
		a.order = append(a.order, e.key)
	}
	return a
}

// Document is the document. Components that are gone are named in it by their platforms
// alone, and no longer as what they are now, which takes them away; the next document,
// without any, closes the matter. Where there is no room for both, what is gone goes first.
func (a *Announcement) Document(gone map[string]string) []byte {
	parts := map[string]json.RawMessage{}
	size := len(encode(a.frame)) + len(`,"cmps":{}`)
	put := func(key string, b json.RawMessage) {
		need := len(encode(key)) + len(b) + len(":,")
		if _, ok := parts[key]; !ok && size+need <= MaxDocument {
			size += need
			parts[key] = b
		}
	}
	for key, platform := range gone {
		put(key, encode(component{"p": platform}))
	}
	for _, key := range a.order {
		put(key, a.texts[key])
	}
	return encode(map[string]any{"dev": a.frame["dev"], "o": a.frame["o"], "cmps": parts})
}

// Labels are the labels of a pipeline that are counted: those that a configuration names,
// then those that were counted before, then those that were seen since, as far as the
// model knows them and there is room.
func Labels(named, before, seen, known []string) []string {
	knows := map[string]bool{}
	for _, l := range known {
		knows[l] = true
	}
	var labels []string
	taken := map[string]bool{}
	for i, list := range [][]string{named, before, seen} {
		for _, l := range list {
			level := wire.LabelLevel(l)
			if taken[level] || len(labels) == wire.MaxHomeLabels || i > 0 && len(known) > 0 && !knows[l] {
				continue
			}
			taken[level] = true
			labels = append(labels, l)
		}
	}
	return labels
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // nothing here that JSON does not hold
	}
	return b
}

// page is an address that Home Assistant takes; one that it does not would cost the
// whole document.
func page(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || len(s) > 256 {
		return ""
	}
	return s
}

// maxName is the longest name for people, in characters.
const maxName = 64

// text is what a person may read in one line.
func text(s string) string {
	r := []rune(strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), ""))
	return string(r[:min(len(r), maxName)])
}
