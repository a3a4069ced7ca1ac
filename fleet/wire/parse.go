package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

const maxDepth = 32 // of a message; the deepest of ours is 6

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
	if err := checkJSON(b, limit); err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, jsonFault(b, err)
	}
	if err := P(v).Validate(); err != nil {
		return nil, faultf(CodeJSON, "%v", err)
	}
	return v, nil
}

// checkJSON checks what encoding/json does not.
func checkJSON(b []byte, limit int) error {
	switch {
	case len(b) == 0:
		return faultf(CodeMsgEmpty, "message is empty")
	case len(b) > limit:
		return faultf(CodeMsgSize, "message has %d bytes, limit %d", len(b), limit)
	case !utf8.Valid(b):
		return faultf(CodeMsgType, "message is not UTF-8 text")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		var f *Fault
		if errors.As(err, &f) {
			return f
		}
		return jsonFault(b, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return faultf(CodeJSON, "%s: more behind the value", position(b, dec.InputOffset()))
	}
	return nil
}

// checkValue reads one value and looks at the keys of every object in it.
func checkValue(dec *json.Decoder, depth int) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return faultf(CodeJSON, "nested deeper than %d", maxDepth)
	}
	var seen map[string]struct{}
	for dec.More() {
		if open == '{' {
			t, err := dec.Token()
			if err != nil {
				return err
			}
			key, ok := t.(string)
			if !ok {
				return faultf(CodeJSON, "key is not a string")
			}
			if seen == nil {
				seen = make(map[string]struct{}, 8)
			}
			if _, dup := seen[fold(key)]; dup {
				return faultf(CodeJSON, "key %q twice in one object", clip(key))
			}
			seen[fold(key)] = struct{}{}
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing bracket
	return err
}

// fold maps keys that encoding/json takes for the same to the same text.
func fold(key string) string {
	return strings.ToLower(strings.ToUpper(key)) // by way of upper case, for ſ and K
}

func jsonFault(b []byte, err error) *Fault {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return faultf(CodeJSON, "%s: %v", position(b, syntax.Offset), err)
	case errors.As(err, &typ):
		return faultf(CodeJSON, "%s: %s cannot be a %s", position(b, typ.Offset), clip(typ.Field), clip(typ.Value))
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		return faultf(CodeJSON, "%s: cut off", position(b, int64(len(b))))
	}
	return faultf(CodeJSON, "%s", clip(err.Error()))
}

// position is "line 1 col 812" of a byte offset.
func position(b []byte, offset int64) string {
	before := b[:min(max(offset, 0), int64(len(b)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	col := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Sprintf("line %d col %d", line, max(col, 1))
}

// clip shortens text of the other side for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
