package api

import (
	"sync"
	"time"
)

// A limiter bounds wrong join tokens: a few from one address at once, then one
// every few seconds. Right ones are free, so that a factory's boards behind one
// address may all join. The zero limiter works; many goroutines may use it.
type limiter struct {
	mu   sync.Mutex
	from map[string]tries // by address
}

type tries struct {
	wrong float64 // decays
	at    time.Time
}

const (
	maxWrong     = 10
	forgive      = 6 * time.Second // for one wrong one
	maxAddresses = 10_000
)

// wait is how long an address should wait before it tries again; 0: not at all.
func (l *limiter) wait(addr string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if over := l.from[addr].after(now) + 1 - maxWrong; over > 0 {
		return time.Duration(over * float64(forgive))
	}
	return 0
}

// wrong counts a wrong token.
func (l *limiter) wrong(addr string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.from == nil || len(l.from) >= maxAddresses {
		l.from = map[string]tries{} // forgives everybody, and costs no more memory
	}
	l.from[addr] = tries{l.from[addr].after(now) + 1, now}
}

func (t tries) after(now time.Time) float64 {
	return max(0, t.wrong-float64(now.Sub(t.at))/float64(forgive))
}

// locks are one lock a name, for those who would rather be told than wait.
type locks struct {
	mu   sync.Mutex
	held map[string]bool
}

// try takes the lock of a name; ok is false when somebody has it.
func (l *locks) try(name string) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] {
		return nil, false
	}
	if l.held == nil {
		l.held = map[string]bool{}
	}
	l.held[name] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, name)
	}, true
}
