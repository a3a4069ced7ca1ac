package group

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A token is one word, quoted text or sign of a query.
type token struct {
	kind tokenKind
	text string // of a quoted one: what it means
	at   int    // byte in the query
}

type tokenKind int

const (
	end tokenKind = iota
	word
	quoted
	sign
)

// shown is a token for people.
func (t token) shown() string {
	switch {
	case t.kind == end:
		return "the end"
	case t.kind == quoted:
		return clip(t.text)
	}
	return strings.Trim(clip(t.text), `"`)
}

// is says whether a token is this sign or this unquoted word.
func (t token) is(s string) bool { return t.kind != quoted && t.kind != end && t.text == s }

// value says whether a token can be a value.
func (t token) value() bool { return t.kind == word || t.kind == quoted }

// signs, the longer ones first. Some mean nothing and are there to be explained.
var signs = []string{"==", "!=", "<=", ">=", "=~", "&&", "||", "=", "<", ">", "~", "(", ")", "[", "]", ",", "!", "&", "|"}

func wordRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) || strings.ContainsRune("_-.*?/@+:%°", r)
}

// lex splits a query into tokens; the last one is the end.
func lex(s string) (list []token, err error) {
	for at := 0; ; {
		at += len(s[at:]) - len(strings.TrimLeftFunc(s[at:], unicode.IsSpace))
		rest := s[at:]
		if rest == "" {
			return append(list, token{end, "", at}), nil
		}
		t := token{kind: sign, at: at}
		n := len(rest) - len(strings.TrimLeftFunc(rest, wordRune))
		switch {
		case n > 0:
			t.kind, t.text = word, rest[:n]
		case rest[0] == '"' || rest[0] == '\'':
			t.kind = quoted
			if t.text, n, err = lexQuoted(s, at); err != nil {
				return nil, err
			}
		default:
			for _, o := range signs {
				if strings.HasPrefix(rest, o) {
					t.text, n = o, len(o)
					break
				}
			}
		}
		if n == 0 {
			r, size := utf8.DecodeRuneInString(rest)
			if r == utf8.RuneError && size == 1 {
				return nil, mistake(s, at, "this is not UTF-8", "")
			}
			return nil, mistake(s, at, "a query has no "+clip(string(r)), `put text into quotes: name == "Front door"`)
		}
		list = append(list, t)
		at += n
	}
}

// lexQuoted reads a text in quotes, single or double, that begins at at. In it a
// backslash stands before a quote or a backslash.
func lexQuoted(s string, at int) (text string, length int, err error) {
	var b strings.Builder
	mark := s[at]
	for i := at + 1; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case s[i] == mark:
			return b.String(), i + 1 - at, nil
		case r == utf8.RuneError && n == 1:
			return "", 0, mistake(s, i, "this is not UTF-8", "")
		case !unicode.IsPrint(r):
			return "", 0, mistake(s, i, "text in quotes has only printable characters", "")
		case r == '\\':
			if i+1 == len(s) || !strings.ContainsRune(`\"'`, rune(s[i+1])) {
				return "", 0, mistake(s, i, "a backslash stands only before a quote or a backslash", `write two: \\`)
			}
			b.WriteByte(s[i+1])
			i += 2
			continue
		}
		b.WriteString(s[i : i+n])
		i += n
	}
	return "", 0, mistake(s, at, "these quotes are never closed", "put a "+string(mark)+" behind the text")
}

// mistake is an error at a byte of a query.
func mistake(s string, at int, what, fix string) *Error {
	return &Error{Text: s, Column: utf8.RuneCountInString(s[:at]) + 1, What: what, Fix: fix}
}
