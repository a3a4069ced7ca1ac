package runner

import (
	"bytes"
	"os"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal/runner/proto"
)

// Bounds of what is kept and logged of a runner's stderr.
const (
	maxSaid  = 64 << 10 // bytes kept, the newest: a Go crash says why first, then pages of stacks
	maxLines = 200      // lines logged of one runner
)

// stderr takes what a runner says, logs it by lines and keeps the end of it. A
// runner that floods it costs memory and log of a fixed size.
type stderr struct {
	log zerolog.Logger

	mu      sync.Mutex
	journal *os.File // gets the same lines, whatever the agent logs; nil: there is none
	said    []byte
	line    []byte
	lines   int
}

// also has lines written to the journal from now on; nil ends that. The file is made
// one that nobody is kept waiting by.
func (s *stderr) also(journal *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal = journal
	if journal != nil {
		_ = unix.SetNonblock(int(journal.Fd()), true)
	}
}

// Write never fails.
func (s *stderr) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, p[max(0, len(p)-maxSaid):]...)
	if over := len(s.said) - maxSaid; over > 0 {
		s.said = append(s.said[:0], s.said[over:]...)
	}
	for _, part := range bytes.SplitAfter(p, []byte("\n")) {
		if room := proto.MaxText - len(s.line); room > 0 {
			s.line = append(s.line, part[:min(len(part), room)]...)
		}
		if bytes.HasSuffix(part, []byte("\n")) {
			s.flush()
		}
	}
	return len(p), nil
}

func (s *stderr) flush() {
	text := proto.OneLine(string(s.line))
	s.line = s.line[:0]
	if text == "" || s.lines > maxLines {
		return
	}
	if s.lines++; s.lines > maxLines {
		text = "the runner says too much; the rest of it is not logged"
	}
	s.log.Debug().Str("line", text).Msg("runner stderr")
	if s.journal != nil {
		_, _ = unix.Write(int(s.journal.Fd()), []byte(text+"\n"))
	}
}

// last is the end of what was said.
func (s *stderr) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.said)
}
