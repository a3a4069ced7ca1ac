package release

import (
	"bytes"
	"encoding/json"
	"regexp"
)

// What people need not see, or not on so many lines. In JSON no text can hold the ends
// of lines that are part of each pattern.
var (
	unknown = regexp.MustCompile(`,\n\s*"sha256": "",\n\s*"length": 0,\n\s*"blocks": null`) // behind the name of a file
	alone   = regexp.MustCompile(`\{\n\s*("name": "(?:[^"\\]|\\.)*")\n\s*\}`)               // a name
	numeric = regexp.MustCompile(`\[\n\s*[-+.0-9e]+(?:,\n\s*[-+.0-9e]+)*\n\s*\]`)           // a list of numbers
)

// Short is the manifest as people write and change it: files by their names alone
// where no more is known of them, keys in the order of Canonical. Build reads it.
func (m *Manifest) Short() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	n := *m.normal()
	n.Schema = m.Schema
	if err := e.Encode(n); err != nil {
		panic("manifest with a number that cannot be written: " + err.Error())
	}
	text := alone.ReplaceAll(unknown.ReplaceAll(b.Bytes(), nil), []byte("{${1}}"))
	return numeric.ReplaceAllFunc(text, func(list []byte) []byte {
		return bytes.ReplaceAll(bytes.Join(bytes.Fields(list), nil), []byte(","), []byte(", "))
	})
}
