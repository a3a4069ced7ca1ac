package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Codes of what can be wrong with a message as such.
const (
	CodeMsgSize  = "E_MSG_SIZE"  // longer than its kind may be
	CodeMsgEmpty = "E_MSG_EMPTY" // no payload
	CodeMsgType  = "E_MSG_TYPE"  // not text where JSON belongs
	CodeJSON     = "E_JSON"      // not JSON, or JSON that says what cannot be
)

const (
	maxDepth = 32  // of a message; the deepest of ours is 6
	maxKeys  = 256 // of one object
)

// Error is "CODE: text".
func (f *Fault) Error() string { return f.Code + ": " + f.Text }

func faultf(code, format string, args ...any) *Fault {
	return &Fault{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Parse reads a message that came from the other side: at most limit bytes of
// UTF-8, exactly one JSON value, no key twice in an object (nor two that differ
// in case only, which encoding/json takes for one), and what Validate asks for.
// Unknown keys are ignored. Every error is a *Fault.
//
//	d, err := wire.Parse[wire.Desired](payload, wire.MaxDesired)
func Parse[T any, P interface {
	*T
	Validate() error
}](b []byte, limit int) (*T, error) {
	switch {
	case len(b) == 0:
		return nil, faultf(CodeMsgEmpty, "message is empty")
	case len(b) > limit:
		return nil, faultf(CodeMsgSize, "message has %d bytes, limit %d", len(b), limit)
	case !utf8.Valid(b):
		return nil, faultf(CodeMsgType, "message is not UTF-8 text")
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, jsonFault(b, err)
	}
	if err := checkKeys(b); err != nil {
		return nil, err
	}
	if err := P(v).Validate(); err != nil {
		return nil, faultf(CodeJSON, "%v", err)
	}
	return v, nil
}

// checkKeys looks at what encoding/json does not: keys and depth. b is valid JSON.
func checkKeys(b []byte) error {
	var room [64][]byte // enough for most messages
	var starts [maxDepth]int
	keys, depth, key := room[:0], 0, false // keys of all open objects; a string here is a key
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if depth == maxDepth {
				return faultf(CodeJSON, "%s: nested deeper than %d", position(b, i), maxDepth)
			}
			starts[depth] = len(keys)
			if b[i] == '[' {
				starts[depth] = -1
			}
			depth++
			key = b[i] == '{'
		case '}', ']':
			depth--
			if starts[depth] >= 0 {
				keys = keys[:starts[depth]]
			}
		case ',':
			key = starts[depth-1] >= 0
		case '"':
			end := stringEnd(b, i)
			if key {
				name := unescape(b[i:end])
				seen := keys[starts[depth-1]:]
				if len(seen) == maxKeys {
					return faultf(CodeJSON, "%s: more than %d keys in one object", position(b, i), maxKeys)
				}
				for _, k := range seen {
					if bytes.EqualFold(k, name) {
						return faultf(CodeJSON, "%s: key %q twice in one object", position(b, i), clip(string(name)))
					}
				}
				keys, key = append(keys, name), false
			}
			i = end - 1
		}
	}
	return nil
}

// stringEnd is the index behind the string that begins at i.
func stringEnd(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// unescape is what a JSON string says.
func unescape(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return quoted // cannot be: it is valid
	}
	return []byte(s)
}

func jsonFault(b []byte, err error) *Fault {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return faultf(CodeJSON, "%s: %v", position(b, int(syntax.Offset)-1), err)
	case errors.As(err, &typ):
		return faultf(CodeJSON, "%s: %s cannot be a %s", position(b, int(typ.Offset)-1), clip(typ.Field), clip(typ.Value))
	}
	return faultf(CodeJSON, "%s", clip(err.Error()))
}

// position is "line 1 col 812" of the byte at an offset.
func position(b []byte, offset int) string {
	before := b[:min(max(offset, 0), len(b))]
	line := 1 + bytes.Count(before, []byte("\n"))
	return fmt.Sprintf("line %d col %d", line, len(before)-bytes.LastIndexByte(before, '\n'))
}

// clip shortens text of the other side for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
