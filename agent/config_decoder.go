package agent

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A configDecoder reads a YAML tree and collects what is wrong with it.
type configDecoder struct {
	name   string
	folder string // that relative paths begin at
	stat   func(string) (fs.FileInfo, error)
	errs   []error
}

// A field reads one value to where it belongs.
type field func(*yaml.Node)

type fields map[string]field

const maxConfigErrors = 20

func (d *configDecoder) errorAt(line, column int, format string, args ...any) {
	if len(d.errs) == maxConfigErrors {
		return
	}
	text := fmt.Sprintf("%s:%d:%d: %s", d.name, line, column, oneLine(fmt.Sprintf(format, args...)))
	d.errs = append(d.errs, &hal.Error{Code: hal.CodeConfig, Text: text})
}

func (d *configDecoder) errorf(n *yaml.Node, format string, args ...any) {
	d.errorAt(n.Line, n.Column, format, args...)
}

// oneLine keeps an error message on one line of bounded length, whatever the file
// that it quotes holds.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 500 {
		return strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}

// document parses the one YAML document of a file; nil when there is none to
// look at.
func (d *configDecoder) document(b []byte) *yaml.Node {
	if len(b) > maxConfig {
		d.errorAt(1, 1, "longer than %d KiB", maxConfig>>10)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if err == io.EOF {
		return nil // an empty file is an empty configuration
	}
	if err != nil {
		d.syntax(b, err)
		return nil
	}
	var more yaml.Node
	if err := dec.Decode(&more); err != io.EOF {
		if err != nil {
			d.syntax(b, err)
		} else {
			d.errorf(&more, "a second document: one file holds one configuration")
		}
		return nil
	}
	if len(doc.Content) != 1 {
		return nil
	}
	return doc.Content[0]
}

// syntax reports an error of the YAML parser, which speaks of tabs in riddles and
// gives a line at best.
func (d *configDecoder) syntax(b []byte, err error) {
	for i, line := range bytes.Split(b, []byte("\n")) {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if tab := bytes.IndexByte(indent, '\t'); tab >= 0 {
			d.errorAt(i+1, tab+1, "tab in the indentation: use spaces")
			return
		}
	}
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if no, what, ok := strings.Cut(rest, ": "); ok {
			if l, err := strconv.Atoi(no); err == nil {
				text, line = what, l
			}
		}
	}
	d.errorAt(line, 1, "%s", text)
}

// eachKey calls do for the keys of a mapping, each once.
func (d *configDecoder) eachKey(n *yaml.Node, where string, do func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n, "%s: want keys and values, got %s", where, kindName(n))
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.errorf(key, "%s: want a key, got %s", where, kindName(key))
			continue
		}
		if line, dup := first[key.Value]; dup {
			d.errorf(key, "%q again: it is already in line %d", key.Value, line)
			continue
		}
		first[key.Value] = key.Line
		do(key, value)
	}
}

// object reads a mapping of known keys. A key without a value is taken as not there.
func (d *configDecoder) object(where string, known fields) field {
	return func(n *yaml.Node) {
		d.eachKey(n, where, func(key, value *yaml.Node) {
			read, ok := known[key.Value]
			switch {
			case !ok:
				d.errorf(key, "%q is not a key of %s%s", key.Value, where, known.nearest(key.Value))
			case value.Kind == yaml.ScalarNode && value.ShortTag() == "!!null":
				d.errorf(key, "%q has no value", key.Value)
			default:
				read(value)
			}
		})
	}
}

// scalar returns the text of a value of the wanted tag.
func (d *configDecoder) scalar(n *yaml.Node, want string, tags ...string) (string, bool) {
	if n.Kind == yaml.ScalarNode {
		for _, tag := range tags {
			if n.ShortTag() == tag {
				return n.Value, true
			}
		}
	}
	d.errorf(n, "want %s, got %s", want, kindName(n))
	return "", false
}

func (d *configDecoder) text(to *string) field {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "text", "!!str")
		switch {
		case !ok:
		case s == "":
			d.errorf(n, "want text, got nothing")
		case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
			d.errorf(n, "text holds a control character")
		default:
			*to = s
		}
	}
}

func (d *configDecoder) id(to *string) field {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "a name", "!!str", "!!int")
		if ok && !wire.ValidID(s) {
			d.errorf(n, "%q is not a name: 1 to 32 of a-z, 0-9 and -%s", s, suggestion(wire.MakeID(s)))
			return
		}
		*to = s
	}
}

func (d *configDecoder) path(to *string) field {
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		if s != "" && !filepath.IsAbs(s) {
			s = filepath.Join(d.folder, s)
		}
		if s != "" {
			*to = s
		}
	}
}

// credential checks the name of a credential, and that the service has it. Who checks a
// configuration away from the service has none.
func (d *configDecoder) credential(n *yaml.Node, name string) {
	if !credentialName.MatchString(name) {
		d.errorf(n, "%.80q is not the name of a credential, as in credential:home", name)
		return
	}
	path, err := secretPath(n.Value)
	if d.stat == nil || err != nil {
		return
	}
	if _, err := d.stat(path); err != nil {
		d.errorf(n, "credential %s: %v: add LoadCredential=%s:<file> to the service (systemctl edit covey-agent)", name, err, name)
	}
}

// secret is the path of a file that others must not be able to read.
func (d *configDecoder) secret(to *string) field {
	return func(n *yaml.Node) {
		if name, is := strings.CutPrefix(n.Value, credentialPrefix); is && n.Kind == yaml.ScalarNode {
			d.credential(n, name)
			*to = n.Value
			return
		}
		d.path(to)(n)
		if d.stat == nil || *to == "" {
			return
		}
		info, err := d.stat(*to)
		switch {
		case err != nil:
			d.errorf(n, "%v", err)
		case !info.Mode().IsRegular():
			d.errorf(n, "%s is not a file", *to)
		case info.Mode().Perm()&0o007 != 0:
			d.errorf(n, "%s can be read by everyone: chmod 600 %s", *to, *to)
		}
	}
}

func (d *configDecoder) boolean(to *bool) field {
	return func(n *yaml.Node) {
		if s, ok := d.scalar(n, "true or false", "!!bool"); ok {
			*to = strings.EqualFold(s, "true")
		}
	}
}

func (d *configDecoder) not(to *bool) field {
	return func(n *yaml.Node) {
		v := !*to
		d.boolean(&v)(n)
		*to = !v
	}
}

func (d *configDecoder) number(to *float64, lo, hi float64) field {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "a number", "!!int", "!!float")
		if !ok {
			return
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(v) || v < lo || v > hi {
			d.errorf(n, "%s is not a number within %v and %v", s, lo, hi)
			return
		}
		*to = v
	}
}

// shapes reads shapes of inputs by their names.
func (d *configDecoder) shapes(to *map[string][]int) field {
	return func(n *yaml.Node) {
		*to = map[string][]int{}
		d.eachKey(n, "shapes", func(key, value *yaml.Node) {
			if value.Kind != yaml.SequenceNode || len(value.Content) == 0 || len(value.Content) > 8 {
				d.errorf(value, "want a shape such as [1, 3, 224, 224], got %s", kindName(value))
				return
			}
			for _, item := range value.Content {
				var side int
				d.integer(&side, 1, 1<<24)(item)
				(*to)[key.Value] = append((*to)[key.Value], side)
			}
		})
	}
}

// settings reads settings of accelerators; what they mean the accelerator knows.
func (d *configDecoder) settings(to *map[hal.Accelerator]map[string]string) field {
	return func(n *yaml.Node) {
		*to = map[hal.Accelerator]map[string]string{}
		d.eachKey(n, "settings", func(key, value *yaml.Node) {
			var a hal.Accelerator
			d.accelerator(&a)(key)
			all := map[string]string{}
			d.eachKey(value, "settings of "+key.Value, func(key, value *yaml.Node) {
				if v, ok := d.scalar(value, "text", "!!str", "!!int", "!!float", "!!bool"); ok {
					all[key.Value] = v
				}
			})
			(*to)[a] = all
		})
	}
}

// labels reads labels of the board.
func (d *configDecoder) labels(to *map[string]string) field {
	return func(n *yaml.Node) {
		*to = map[string]string{}
		d.eachKey(n, "labels", func(key, value *yaml.Node) {
			if v, ok := d.scalar(value, "text", "!!str", "!!int", "!!float", "!!bool"); ok {
				(*to)[key.Value] = v
			}
		})
		if err := wire.CheckLabels(*to); err != nil {
			d.errorf(n, "%v", err)
		}
	}
}

// region reads the corners of a part of the picture.
func (d *configDecoder) region(to *[4]float32) field {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) != 4 {
			d.errorf(n, "want [x0, y0, x1, y1] in 0 to 1, got %s", kindName(n))
			return
		}
		for i, item := range n.Content {
			var v float64
			d.number(&v, 0, 1)(item)
			to[i] = float32(v)
		}
		if to[0] >= to[2] || to[1] >= to[3] {
			d.errorf(n, "an empty part of the picture: x0 has to be less than x1, y0 less than y1")
		}
	}
}

func (d *configDecoder) threshold(to *float32) field {
	return func(n *yaml.Node) {
		var v float64
		d.number(&v, 1e-6, 1)(n)
		*to = float32(v)
	}
}

func (d *configDecoder) integer(to *int, lo, hi int) field {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "a whole number", "!!int")
		if !ok {
			return
		}
		v, err := strconv.Atoi(s)
		if err != nil || v < lo || v > hi {
			d.errorf(n, "%s is not a whole number within %d and %d", s, lo, hi)
			return
		}
		*to = v
	}
}

func (d *configDecoder) count(to *uint64) field {
	return func(n *yaml.Node) {
		var v int
		d.integer(&v, 1, math.MaxInt)(n)
		*to = uint64(v)
	}
}

func (d *configDecoder) duration(to *time.Duration, lo, hi time.Duration) field {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, `a duration with its unit, as in "500ms"`, "!!str")
		if !ok {
			return
		}
		v, err := time.ParseDuration(s)
		if err != nil || v < lo || v > hi {
			d.errorf(n, `%q is not a duration within %v and %v, as in "500ms" or "2s"`, s, lo, hi)
			return
		}
		*to = v
	}
}

func (d *configDecoder) size(to *int64, lo, hi int64) field {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, `a size with its unit, as in "256MB"`, "!!str")
		if !ok {
			return
		}
		v, ok := parseSize(s)
		if !ok || v < lo || v > hi {
			d.errorf(n, `%q is not a size of at least %d MiB, as in "256MB" or "1GiB"`, s, lo>>20)
			return
		}
		*to = v
	}
}

// parseSize reads "256MB" (10⁶) or "256MiB" (2²⁰).
func parseSize(s string) (int64, bool) {
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i <= 0 {
		return 0, false
	}
	v, err := strconv.ParseInt(s[:i], 10, 64)
	if err != nil {
		return 0, false
	}
	units := map[string]int64{"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
	unit, ok := units[strings.TrimSpace(s[i:])]
	if !ok || v > math.MaxInt64/unit {
		return 0, false
	}
	return v * unit, true
}

func (d *configDecoder) oneOf(to *string, allowed ...string) field {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "one of "+strings.Join(allowed, ", "), "!!str")
		if !ok {
			return
		}
		for _, a := range allowed {
			if s == a {
				*to = s
				return
			}
		}
		d.errorf(n, "%q is not one of %s%s", s, strings.Join(allowed, ", "), nearest(s, allowed))
	}
}

func (d *configDecoder) accelerator(to *hal.Accelerator) field {
	return d.oneAccelerator(to, append([]hal.Accelerator{hal.Auto}, accelerators...))
}

// accelerators that the configuration may name, besides external:<library>.
var accelerators = []hal.Accelerator{hal.CPU, hal.XNNPACK, hal.GPU, hal.EdgeTPU, hal.CUDA, hal.TensorRT}

func (d *configDecoder) oneAccelerator(to *hal.Accelerator, known []hal.Accelerator) field {
	var names []string
	for _, a := range known {
		names = append(names, string(a))
	}
	return func(n *yaml.Node) {
		if lib, ok := strings.CutPrefix(n.Value, "external:"); ok && lib != "" {
			d.text((*string)(to))(n)
			return
		}
		d.oneOf((*string)(to), names...)(n)
	}
}

// deviceName is what a runner calls one device of an accelerator.
var deviceName = regexp.MustCompile(`^(usb|pci|gpu):(0|[1-9][0-9]{0,2})$`)

func (d *configDecoder) acceleratorDevice(to *string) field {
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		if s != "" && !deviceName.MatchString(s) {
			d.errorf(n, "%q is no device as covey-agent doctor lists them: usb:0, usb:1, pci:0, … of edgetpu, gpu:0, … of cuda and tensorrt", s)
			return
		}
		*to = s
	}
}

// checkDevice finds a device that the pipeline's one accelerator cannot have.
func (d *configDecoder) checkDevice(p *PipelineFile, pipeline *yaml.Node) {
	kind, _, named := strings.Cut(p.AcceleratorDevice, ":")
	ok := !named
	switch p.Accelerator {
	case hal.Auto:
		ok = true
	case hal.EdgeTPU:
		ok = ok || kind != "gpu"
	case hal.CUDA, hal.TensorRT:
		ok = ok || kind == "gpu"
	}
	if !ok {
		d.errorf(child(pipeline, "accelerator_device"), "%s has no device %s", p.Accelerator, p.AcceleratorDevice)
	}
}

// maxEntries of a list.
const maxEntries = 16

// list reads each entry of a list.
func (d *configDecoder) list(n *yaml.Node, where string, read func(*yaml.Node)) {
	switch {
	case n.Kind != yaml.SequenceNode:
		d.errorf(n, "%s: want a list, as in [a, b], got %s", where, kindName(n))
	case len(n.Content) == 0 || len(n.Content) > maxEntries:
		d.errorf(n, "%s: %d entries, want 1 to %d", where, len(n.Content), maxEntries)
	default:
		for _, entry := range n.Content {
			read(entry)
		}
	}
}

// accelerators reads an order; external:* is every external delegate.
func (d *configDecoder) accelerators(to *[]hal.Accelerator) field {
	return func(n *yaml.Node) {
		d.list(n, "accelerators", func(entry *yaml.Node) {
			var a hal.Accelerator
			d.oneAccelerator(&a, accelerators)(entry)
			if a != "" && slices.Contains(*to, a) {
				d.errorf(entry, "%s comes twice", a)
			}
			*to = append(*to, a)
		})
	}
}

// maxOption is the longest option of a delegate, bytes.
const maxOption = 1024

func (d *configDecoder) delegates(to *[]DelegateFile) field {
	return func(n *yaml.Node) {
		d.list(n, "delegates", func(entry *yaml.Node) {
			f := DelegateFile{}
			d.object("a delegate", fields{
				"library": d.library(&f.Library),
				"options": d.options(&f.Options),
				"devices": d.devices(&f.Devices),
			})(entry)
			if entry.Kind == yaml.MappingNode && child(entry, "library") == nil {
				d.errorf(entry, `a delegate needs a library, as in "library: /usr/lib/libvx_delegate.so"`)
			}
			if slices.ContainsFunc(*to, func(o DelegateFile) bool { return o.Library == f.Library }) {
				d.errorf(entry, "delegate %s comes twice", f.Library)
			}
			*to = append(*to, f)
		})
	}
}

// library is an absolute path, or a name that the loader searches for.
func (d *configDecoder) library(to *string) field {
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		if strings.Contains(s, "/") && (!filepath.IsAbs(s) || filepath.Clean(s) != s) {
			d.errorf(n, "library %q: write an absolute path, or the name alone", s)
			return
		}
		*to = s
	}
}

func (d *configDecoder) options(to *map[string]string) field {
	return func(n *yaml.Node) {
		*to = map[string]string{}
		d.eachKey(n, "options", func(key, value *yaml.Node) {
			s, ok := d.scalar(value, "a value", "!!str", "!!int", "!!float", "!!bool")
			switch {
			case !ok:
			case len(s) > maxOption || len(key.Value) > maxOption || strings.ContainsRune(s+key.Value, 0):
				d.errorf(value, "option %.40q is longer than %d bytes, or holds a zero byte", key.Value, maxOption)
			default:
				(*to)[key.Value] = s
			}
		})
		if len(*to) > maxEntries {
			d.errorf(n, "%d options, the limit is %d", len(*to), maxEntries)
		}
	}
}

func (d *configDecoder) devices(to *[]string) field {
	return func(n *yaml.Node) {
		d.list(n, "devices", func(entry *yaml.Node) {
			var s string
			d.text(&s)(entry)
			if s != "" && (!strings.HasPrefix(s, "/dev/") || filepath.Clean(s) != s) {
				d.errorf(entry, "device %q: write its path below /dev, as in /dev/galcore", s)
				return
			}
			*to = append(*to, s)
		})
	}
}

// broker reads the URL of a broker and fills in its port. Credentials have no
// place in it: URLs end up in logs.
func (d *configDecoder) broker(to *string, schemes ...string) field {
	ports := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		if s == "" {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			d.errorf(n, "%q is not the URL of a broker, as in %s://192.168.1.10:%s", redact(s), schemes[0], ports[schemes[0]])
			return
		}
		var scheme string
		d.oneOf(&scheme, schemes...)(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: u.Scheme, Line: n.Line, Column: n.Column})
		port := u.Port()
		if port == "" {
			port = ports[scheme]
		}
		v, err := strconv.Atoi(port)
		switch {
		case scheme == "":
		case err != nil || v < 1 || v > 65535:
			d.errorf(n, "port %s is not within 1 and 65535", port)
		case u.User != nil:
			d.errorf(n, "no user or password in the URL: use the keys user and password_file")
		case u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && scheme[0] == 'm'):
			d.errorf(n, "nothing belongs behind host and port in the URL of a broker")
		default:
			u.Host = net.JoinHostPort(u.Hostname(), port)
			*to = u.String()
		}
	}
}

// redact keeps what could be a password out of a message.
func redact(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

// child is the value of a key of a mapping, nil when it is not there.
func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// kindName says what a node is, for people.
func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias, which is not supported"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!str":
		return strconv.Quote(n.Value)
	}
	return n.ShortTag()
}

// nearest suggests a known key for one that is not.
func (f fields) nearest(key string) string {
	known := make([]string, 0, len(f))
	for k := range f {
		known = append(known, k)
	}
	return nearest(key, known)
}

// nearest is `, did you mean "x"?` for the candidate fewest edits away, "" when
// none is near. Of equals the first in the alphabet wins.
func nearest(s string, known []string) string {
	best, bestAt := "", 3
	if len(s) > 64 {
		return ""
	}
	for _, k := range known {
		at := edits(strings.ToLower(s), k)
		if at < bestAt || at == bestAt && best != "" && k < best {
			best, bestAt = k, at
		}
	}
	if bestAt >= max(len(s), 2) {
		return ""
	}
	return suggestion(best)
}

func suggestion(s string) string {
	if s == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", s)
}

// edits counts the insertions, deletions, replacements and swaps of neighbours
// that lead from a to b.
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
