package serial

import (
	"bytes"
	"errors"
)

// mostLine is the bytes that a line may have.
const mostLine = 4 << 10

var errLong = errors.New("a line of more than 4096 bytes")

// lines cuts bytes into lines.
type lines struct {
	memory []byte
	buf    []byte // end of memory: what is not cut yet
	skip   bool   // until the next end of a line: its begin is missing, or it is too long
}

// add takes in bytes.
func (l *lines) add(b []byte) {
	l.memory = append(append(l.memory[:0], l.buf...), b...)
	l.buf = l.memory
}

// next is the next whole line; ok is false when there is none. It is good until the
// next add. Empty lines are left out.
func (l *lines) next() (line []byte, ok bool, err error) {
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 {
			if len(l.buf) <= mostLine {
				return nil, false, nil
			}
			l.buf = l.buf[:0]
			if l.skip {
				return nil, false, nil
			}
			l.skip = true
			return nil, false, errLong
		}
		line, l.buf = l.buf[:i], l.buf[i+1:]
		skipped := l.skip
		l.skip = false
		switch {
		case skipped || len(bytes.TrimSpace(line)) == 0:
		case len(line) > mostLine:
			return nil, false, errLong
		default:
			return line, true, nil
		}
	}
}
