package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// refusals logs what was refused to whom: each kind at its first time and then
// once a minute with how often it came, and not more than so many a minute in all.
type refusals struct {
	log   zerolog.Logger
	total atomic.Uint64

	mu   sync.Mutex
	from time.Time       // of this minute
	seen map[refusal]int // in this minute
	left map[refusal]int // not logged in the minute before
}

type refusal struct{ client, what, topic, why string }

const maxRefusals = 100 // kinds a minute

func (r *refusals) add(x refusal, remote string) {
	r.total.Add(1)
	first, before := r.count(x, time.Now())
	if !first {
		return
	}
	e := r.log.Warn().Str("client", clip(x.client)).Str("what", x.what).Str("reason", x.why).Str("remote", remote)
	if x.topic != "" {
		e = e.Str("topic", clip(x.topic))
	}
	if before > 1 {
		e = e.Int("again", before-1)
	}
	e.Msg("refused")
}

// count says whether this is the first of its kind in this minute, and how many
// there were in the one before.
func (r *refusals) count(x refusal, now time.Time) (first bool, before int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil || now.Sub(r.from) > time.Minute {
		r.from, r.left, r.seen = now, r.seen, map[refusal]int{}
	}
	n, known := r.seen[x]
	if !known && len(r.seen) >= maxRefusals {
		return false, 0
	}
	r.seen[x] = n + 1
	return !known, r.left[x]
}

// clip keeps the log readable, whatever somebody calls himself.
func clip(s string) string {
	if len(s) > 128 {
		return s[:128] + "…"
	}
	return s
}
