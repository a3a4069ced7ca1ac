package exec

import (
	"bytes"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Bounds of what is kept and logged of what a program says. It may say anything, as
// often as it likes, for months.
const (
	maxLine   = 512 // bytes kept of a line
	maxRaw    = 4096
	perMinute = 30 // lines logged
)

// said takes what a program writes to its standard error: it logs it by lines, and
// keeps the last one.
type said struct {
	secrets *strings.Replacer
	log     func(string)

	mutex  sync.Mutex
	raw    []byte // of the line that is being written
	line   string // the last one
	minute time.Time
	lines  int // logged within the minute
}

func newSaid(secrets []string, log func(string)) *said {
	var pairs []string
	for _, s := range secrets {
		if s != "" {
			pairs = append(pairs, s, "***")
		}
	}
	return &said{secrets: strings.NewReplacer(pairs...), log: log}
}

// Write never fails.
func (s *said) Write(b []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	n := len(b)
	for len(b) > 0 {
		end := bytes.IndexAny(b, "\n\r")
		part := b
		if end >= 0 {
			part = b[:end]
		}
		if room := maxRaw - len(s.raw); room > 0 {
			s.raw = append(s.raw, part[:min(len(part), room)]...)
		}
		if end < 0 {
			break
		}
		s.take()
		b = b[end+1:]
	}
	return n, nil
}

// take ends a line. Secrets are struck out before it is cut, so that no part of one
// is left.
func (s *said) take() {
	line := strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s.secrets.Replace(string(s.raw))))
	s.raw = s.raw[:0]
	if line == "" {
		return
	}
	if len(line) > maxLine {
		line = strings.ToValidUTF8(line[:maxLine], "") + "…"
	}
	s.line = line
	if s.log == nil {
		return
	}
	if now := time.Now(); now.Sub(s.minute) >= time.Minute {
		s.minute, s.lines = now, 0
	}
	switch s.lines++; {
	case s.lines <= perMinute:
		s.log(line)
	case s.lines == perMinute+1:
		s.log("the program says too much; the rest of this minute is not logged")
	}
}

// flush takes a line without an end.
func (s *said) flush() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.take()
}

func (s *said) last() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.line
}
