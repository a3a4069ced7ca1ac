package group

import (
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A kind is what values of a field are, and so what may be asked of them.
type kind int

const (
	truth   kind = iota // yes or no
	text                // one word
	label               // one word, or none; numbers and versions in it have an order
	list                // several words
	number              // with a unit, which may be left out
	size                // bytes
	age                 // how long ago
	release             // name@version
	version
	state // of an execution
)

// kinds says for each what it is called, and what may be asked of it.
var kinds = map[kind]struct {
	name string
	ops  []op
}{
	truth:   {"yes or no", []op{equal, differs}},
	text:    {"a word", []op{equal, differs, like, in}},
	label:   {"a label", []op{equal, differs, like, in, less, atMost, more, atLeast}},
	list:    {"a list", []op{has, differs, like, in}},
	number:  {"a number", []op{equal, differs, in, less, atMost, more, atLeast}},
	size:    {"a size", []op{equal, differs, in, less, atMost, more, atLeast}},
	age:     {"a duration", []op{less, atMost, more, atLeast}},
	version: {"a version", []op{equal, differs, like, in, less, atMost, more, atLeast}},
	release: {"a release", []op{equal, differs, like, in, less, atMost, more, atLeast}},
	state:   {"a state", []op{equal, differs, in}},
}

// A field is what a query may ask about. One of the functions is there, by kind.
type field struct {
	name    string // with a dot at its end: a key follows
	kind    kind
	unit    string // of a number
	says    string // for people
	example string

	yes  func(*Subject) bool
	word func(s *Subject, key string) string // "": there is none
	any  func(*Subject, func(string) bool) bool
	num  func(*Subject) (v float64, ok bool) // sizes in bytes, ages in seconds
	slot func(s *Subject, key string) *wire.ReportedSlot
}

// fields are all there are. Any other name is a label's.
var fields = []field{
	{name: "id", kind: text, says: "id of the device; alone it needs no id ==", example: `id in [porch, yard]`,
		word: func(s *Subject, _ string) string { return string(s.ID) }},
	{name: "name", kind: text, says: "its name for people", example: `name ~ "kitchen*"`,
		word: func(s *Subject, _ string) string { return s.Name }},
	{name: "label.", kind: label, says: "a label; in full it is label.site", example: `site == lyon`},

	{name: "board", kind: text, says: "the hardware", example: `board ~ "Raspberry Pi 5*"`,
		word: hello(func(h *wire.Hello) string { return h.Board })},
	{name: "arch", kind: text, says: "arm64, arm, amd64", example: `arch == arm64`,
		word: hello(func(h *wire.Hello) string { return h.Arch })},
	{name: "os", kind: text, says: "its operating system", example: `os == linux`,
		word: hello(func(h *wire.Hello) string { return h.OS })},
	{name: "ram", kind: size, says: "its memory", example: `ram >= 1GiB`,
		num: func(s *Subject) (float64, bool) {
			return helloNumber(s, func(h *wire.Hello) float64 { return float64(h.RAM) })
		}},
	{name: "cpus", kind: number, says: "its cores", example: `cpus >= 4`,
		num: func(s *Subject) (float64, bool) {
			return helloNumber(s, func(h *wire.Hello) float64 { return float64(h.CPUs) })
		}},
	{name: "accel", kind: list, says: "its accelerators", example: `accel has edgetpu`,
		any: func(s *Subject, is func(string) bool) bool {
			return s.Hello != nil && slices.ContainsFunc(s.Hello.Accelerators, func(d wire.HelloDevice) bool { return is(d.Accelerator) })
		}},
	{name: "engine", kind: list, says: "its engines", example: `engine has onnx`, any: engines},
	{name: "runtime.", kind: version, says: "version of an engine's runtime", example: `runtime.tflite >= 2.16`,
		word: func(s *Subject, key string) string {
			if s.Hello == nil {
				return ""
			}
			return s.Hello.Runtimes[key]
		}},
	{name: "agent", kind: version, says: "version of its agent", example: `agent < 1.4.0`,
		word: hello(func(h *wire.Hello) string { return h.Agent })},

	{name: "online", kind: truth, says: "connected now", example: `online`, yes: func(s *Subject) bool { return s.Online }},
	{name: "seen", kind: age, says: "how long ago it last said anything", example: `seen > 7d`,
		num: func(s *Subject) (float64, bool) { return since(s, s.Seen) }},
	{name: "joined", kind: age, says: "how long ago it joined", example: `joined < 24h`,
		num: func(s *Subject) (float64, bool) { return since(s, s.Joined) }},
	{name: "revoked", kind: truth, says: "shut out", example: `revoked`, yes: func(s *Subject) bool { return s.Revoked }},

	{name: "pipeline", kind: list, says: "its pipelines", example: `pipeline has door`, any: pipelines},
	{name: "release.", kind: release, says: "what a pipeline runs", example: `release.cam < mobilenet@1.2.0`,
		slot: func(s *Subject, key string) *wire.ReportedSlot {
			if s.Reported == nil {
				return nil
			}
			return s.Reported.Pipelines[key].Active
		}},
	{name: "state.", kind: state, says: "how the last execution on a pipeline stands", example: `state.cam == failed`,
		word: func(s *Subject, key string) string {
			if s.Reported == nil {
				return ""
			}
			return string(s.Reported.Pipelines[key].State)
		}},
	{name: "degraded", kind: truth, says: "a pipeline is not on the accelerator it should be on", example: `degraded`, yes: degraded},
	{name: "flag", kind: list, says: "warnings of its health, and duplicate_identity", example: `flag has duplicate_identity`,
		any: func(s *Subject, is func(string) bool) bool {
			return s.Twin && is("duplicate_identity") || s.Health != nil && slices.ContainsFunc(s.Health.Flags, is)
		}},
	{name: "throttled", kind: truth, says: "slowed down by heat or a weak supply", example: `throttled`,
		yes: func(s *Subject) bool { return s.Health != nil && s.Health.Throttled }},
	{name: "temp", kind: number, unit: "°C", says: "its temperature, °C", example: `temp > 75`,
		num: func(s *Subject) (float64, bool) {
			if s.Health == nil || s.Health.Temp == nil {
				return 0, false
			}
			return *s.Health.Temp, true
		}},
	{name: "disk", kind: number, unit: "%", says: "how full its disk is, %", example: `disk > 90`,
		num: func(s *Subject) (float64, bool) {
			if s.Health == nil {
				return 0, false
			}
			return s.Health.Disk, true
		}},
}

// old are names of fields in queries that were written for earlier versions.
var old = map[string]string{"accelerator": "accel"}

// words that a query gives another meaning.
var reserved = []string{"all", "and", "or", "not", "in", "has", "group", "true", "false"}

// labels is the field of a label that is named without "label.".
var labels = fields[slices.IndexFunc(fields, func(f field) bool { return f.name == "label." })]

// A Field is one thing that queries ask about, for help and completion.
type Field struct{ Name, Says, Example string }

// Fields are all that queries ask about. A name with a dot at its end is followed
// by a label, an engine or a pipeline.
func Fields() (list []Field) {
	for _, f := range fields {
		list = append(list, Field{f.name, f.says, f.example})
	}
	return list
}

// Taken says whether a label of this name could only be asked for as label.<name>.
func Taken(name string) bool {
	_, isOld := old[name]
	return isOld || slices.Contains(reserved, name) ||
		slices.ContainsFunc(fields, func(f field) bool { return strings.TrimSuffix(f.name, ".") == name })
}

// find is the field of a name, and the key behind its dot. keyless says that the
// field is there and its key is missing.
func find(name string) (f *field, key string, keyless bool) {
	if now, ok := old[name]; ok {
		name = now
	}
	head, key, dotted := strings.Cut(name, ".")
	for i := range fields {
		switch f := &fields[i]; {
		case dotted && f.name == head+".":
			return f, key, key == ""
		case !dotted && f.name == name:
			return f, "", false
		case !dotted && f.name == name+".":
			return f, "", true
		}
	}
	if !dotted && wire.ValidID(name) {
		return &labels, name, false
	}
	return nil, "", false
}

func hello(fn func(*wire.Hello) string) func(*Subject, string) string {
	return func(s *Subject, _ string) string {
		if s.Hello == nil {
			return ""
		}
		return fn(s.Hello)
	}
}

// helloNumber is a number that is 0 where a board could not find it out.
func helloNumber(s *Subject, fn func(*wire.Hello) float64) (float64, bool) {
	if s.Hello == nil || fn(s.Hello) <= 0 {
		return 0, false
	}
	return fn(s.Hello), true
}

func since(s *Subject, t time.Time) (float64, bool) {
	return s.Now.Sub(t).Seconds(), !t.IsZero()
}

func engines(s *Subject, is func(string) bool) bool {
	if s.Hello == nil {
		return false
	}
	for e := range s.Hello.Runtimes {
		if is(e) {
			return true
		}
	}
	return slices.ContainsFunc(s.Hello.Accelerators, func(d wire.HelloDevice) bool { return is(d.Engine) })
}

func pipelines(s *Subject, is func(string) bool) bool {
	if s.Hello != nil && slices.ContainsFunc(s.Hello.Pipelines, func(p wire.HelloPipeline) bool { return is(p.Name) }) {
		return true
	}
	if s.Reported == nil {
		return false
	}
	for name := range s.Reported.Pipelines {
		if is(name) {
			return true
		}
	}
	return false
}

func degraded(s *Subject) bool {
	if s.Reported != nil {
		for _, p := range s.Reported.Pipelines {
			if p.Degraded != "" {
				return true
			}
		}
	}
	if s.Health != nil {
		for _, p := range s.Health.Pipes {
			if p.Degraded != "" {
				return true
			}
		}
	}
	return false
}
