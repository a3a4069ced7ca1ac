package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// maxDepth is how deep a manifest's JSON may be nested; a valid one has 6 levels.
const maxDepth = 16

// Parse reads a manifest that came from outside and checks everything about it
// that can be checked without its files. Errors have a code: E_JSON for text that
// is not the JSON of a manifest, E_PATH, E_MODEL_EMPTY, E_LENGTH, E_MANIFEST.
func Parse(b []byte) (*Manifest, error) {
	m, err := decode(b)
	if err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// Load reads a manifest that is named by its digest: the bytes must be the
// canonical ones (E_HASH when they are not).
func Load(b []byte, digest wire.Digest) (*Manifest, error) {
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != string(digest) {
		return nil, coded(hal.CodeHash, "want %s… got %s…: this is not the manifest that was announced", digest.Short(), hex.EncodeToString(sum[:8]))
	}
	m, err := Parse(b)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(m.Canonical(), b) {
		return nil, coded(hal.CodeManifest, "manifest %s… is not in canonical form: push the release again", digest.Short())
	}
	return m, nil
}

// Canonical is the one way to write the manifest: keys in the order of the
// struct, no white space, no escapes that JSON does not ask for.
func (m *Manifest) Canonical() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m.normal()); err != nil {
		// Only NaN and infinities cannot be written, and Validate refuses them.
		panic("manifest that was not validated: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// normal is m with one spelling for nothing: -0 and empty lists would be written.
func (m *Manifest) normal() *Manifest {
	n := *m
	n.Schema = ""
	if n.Decode.Threshold == 0 {
		n.Decode.Threshold = 0
	}
	if len(n.Decode.Mean) == 0 {
		n.Decode.Mean = nil
	}
	if len(n.Decode.Std) == 0 {
		n.Decode.Std = nil
	}
	return &n
}

// Digest is the SHA-256 of the canonical manifest: the release's identity.
func (m *Manifest) Digest() wire.Digest {
	sum := sha256.Sum256(m.Canonical())
	return wire.Digest(hex.EncodeToString(sum[:]))
}

// decode reads the JSON strictly and checks nothing of what it means.
func decode(b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, coded(hal.CodeJSON, "manifest of %d bytes: the limit is %d", len(b), MaxManifest)
	}
	if !utf8.Valid(b) {
		at := 0
		for r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1; r, n = utf8.DecodeRune(b[at:]) {
			at += n
		}
		return nil, jsonError(b, int64(at), errors.New("not UTF-8"))
	}
	if err := walk(b); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var m Manifest
	if err := d.Decode(&m); err != nil {
		at := d.InputOffset()
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			at = te.Offset
		}
		return nil, jsonError(b, at, err)
	}
	return &m, nil
}

// walk refuses what encoding/json would let pass: keys that come twice or differ
// in case from a known one, too much depth, anything behind the end.
func walk(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	known := keysOf(reflect.TypeFor[Manifest](), map[string]bool{})
	type level struct {
		keys map[string]bool // nil in an array
		key  bool            // a key comes next
	}
	var stack []level
	for started := false; !started || len(stack) > 0; started = true {
		tok, err := d.Token()
		if err != nil {
			return jsonError(b, d.InputOffset(), err)
		}
		if delim, ok := tok.(json.Delim); ok && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if n := len(stack); n > 0 && stack[n-1].keys != nil {
			top := &stack[n-1]
			if top.key {
				key := tok.(string)
				if top.keys[key] {
					return jsonError(b, d.InputOffset(), fmt.Errorf("key %.60q comes twice", key))
				}
				if !known[key] {
					return jsonError(b, d.InputOffset(), fmt.Errorf("unknown key %.60q", key))
				}
				top.keys[key], top.key = true, false
				continue
			}
			top.key = true // behind this value
		}
		switch tok {
		case json.Delim('{'):
			stack = append(stack, level{keys: map[string]bool{}, key: true})
		case json.Delim('['):
			stack = append(stack, level{})
		}
		if len(stack) > maxDepth {
			return jsonError(b, d.InputOffset(), fmt.Errorf("nested deeper than %d levels", maxDepth))
		}
	}
	if _, err := d.Token(); err != io.EOF {
		return jsonError(b, d.InputOffset(), errors.New("something follows the end"))
	}
	return nil
}

// keysOf collects the JSON keys of a struct and of those inside it.
func keysOf(t reflect.Type, keys map[string]bool) map[string]bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return keys
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		keys[name] = true
		keysOf(t.Field(i).Type, keys)
	}
	return keys
}

// jsonError says where in the text something is wrong.
func jsonError(b []byte, at int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the text ends too early")
	}
	before := b[:min(max(at, 0), int64(len(b)))]
	line := bytes.Count(before, []byte("\n")) + 1
	col := len(before) - bytes.LastIndexByte(before, '\n')
	text := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", " "), "json: ")
	return coded(hal.CodeJSON, "manifest line %d col %d: %s", line, col, text)
}

func coded(code hal.Code, format string, args ...any) error {
	return &hal.Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Files lists every file of the release once, variants first.
func (m *Manifest) Files() []File {
	var files []File
	seen := map[string]bool{}
	for _, f := range m.files() {
		if !seen[f.SHA256] {
			seen[f.SHA256] = true
			files = append(files, *f)
		}
	}
	return files
}

// Named lists the files by name: one content may have several names, in one order.
func (m *Manifest) Named() []File {
	var list []File
	seen := map[string]bool{}
	for _, f := range m.files() {
		if !seen[f.Name] {
			seen[f.Name] = true
			list = append(list, *f)
		}
	}
	return list
}

// files are all mentions of a file, to be read or filled in.
func (m *Manifest) files() []*File {
	var files []*File
	for i := range m.Variants {
		files = append(files, &m.Variants[i].File)
	}
	return append(files, m.shared()...)
}

// shared are the files that every variant needs.
func (m *Manifest) shared() []*File {
	var files []*File
	if m.Config != nil {
		files = append(files, m.Config)
	}
	if m.Labels != nil {
		files = append(files, m.Labels)
	}
	for i := range m.Golden {
		for j := range m.Golden[i].Inputs {
			files = append(files, &m.Golden[i].Inputs[j])
		}
		for j := range m.Golden[i].Outputs {
			files = append(files, &m.Golden[i].Outputs[j])
		}
	}
	return files
}

// FilesOf lists the files that a board needs to run variant v, each once, the
// model first and then its sibling.
func (m *Manifest) FilesOf(v Variant) []File {
	files := []File{v.File}
	more := m.shared()
	if s := m.SiblingOf(v); s != nil {
		more = append([]*File{&s.File}, more...)
	}
	for _, f := range more {
		if !slices.ContainsFunc(files, func(g File) bool { return g.SHA256 == f.SHA256 }) {
			files = append(files, *f)
		}
	}
	return files
}
