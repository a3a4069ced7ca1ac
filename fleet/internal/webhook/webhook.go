// Package webhook tells other programs when a rollout's state changes: a POST of JSON,
// signed with a secret that both know. What is to be told is in the store, and so is how
// far each hook is: nothing is lost over a restart, and nobody waits for a hook.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

// A Hook is one address that is told.
type Hook struct {
	URL    string
	Secret []byte
	// States are those that it is told of; none: all.
	States []wire.RolloutState
}

const (
	// callLimit is how long one call may take.
	callLimit = 10 * time.Second
	// firstPause and longestPause are between two attempts; each is twice the one before.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	// giveUp is how long one event is tried for.
	giveUp = 24 * time.Hour

	minSecret = 16
	maxHooks  = 16
)

const bucketCursor = "webhook.cursor" // sha256 of the URL → number of the last event that was told

// Validate says what is wrong with hooks, nil when nothing is.
func Validate(hooks []Hook) error {
	if len(hooks) > maxHooks {
		return fmt.Errorf("webhooks: %d, at most %d", len(hooks), maxHooks)
	}
	seen := map[string]bool{}
	for _, h := range hooks {
		if err := h.validate(); err != nil {
			return err
		}
		if seen[h.URL] {
			return fmt.Errorf("webhook %s: it is there twice; name all its events in one", h.URL)
		}
		seen[h.URL] = true
	}
	return nil
}

func (h Hook) validate() error {
	u, err := url.Parse(h.URL)
	if err != nil || u.Host == "" {
		return fmt.Errorf("webhook %q: it is no URL, as https://example.org/hook", h.URL)
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return fmt.Errorf("webhook %s: use https, or http to this machine", h.URL)
	}
	if len(h.Secret) < minSecret {
		return fmt.Errorf("webhook %s: its secret has %d bytes, use %d or more, as from `openssl rand -hex 32`", h.URL, len(h.Secret), minSecret)
	}
	for _, s := range h.States {
		if !known(s) {
			return fmt.Errorf("webhook %s: %q is no state of a rollout, as PAUSED", h.URL, s)
		}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func known(s wire.RolloutState) bool {
	return slices.Contains([]wire.RolloutState{
		wire.RolloutDraft, wire.RolloutApproval, wire.RolloutScheduled, wire.RolloutRunning, wire.RolloutPaused,
		wire.RolloutRollingBack, wire.RolloutCompleted, wire.RolloutAborted, wire.RolloutRolledBack,
	}, s)
}

// A Teller tells hooks.
type Teller struct {
	db       *store.Store
	rollouts *rollout.Service
	hooks    []Hook
	log      zerolog.Logger
	http     http.RoundTripper
}

// New makes a teller of valid hooks. A hook that is new is told of what happens from now
// on.
func New(db *store.Store, rollouts *rollout.Service, hooks []Hook, log zerolog.Logger) (*Teller, error) {
	t := &Teller{db: db, rollouts: rollouts, hooks: hooks, log: log, http: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: callLimit, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}}
	last, err := rollouts.LastEvent()
	if err != nil {
		return nil, err
	}
	for _, h := range hooks {
		if _, err := t.cursor(h); errors.Is(err, store.ErrNotFound) {
			err = t.told(h, last)
			if err != nil {
				return nil, err
			}
		} else if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (h Hook) key() string {
	sum := sha256.Sum256([]byte(h.URL))
	return hex.EncodeToString(sum[:])
}

func (t *Teller) cursor(h Hook) (n uint64, err error) {
	err = t.db.View(func(tx *store.Tx) error {
		n, err = store.Get[uint64](tx, bucketCursor, h.key())
		return err
	})
	return n, err
}

func (t *Teller) told(h Hook, n uint64) error {
	return t.db.Update(func(tx *store.Tx) error { return store.Put(tx, bucketCursor, h.key(), n) })
}

// Run tells every hook until ctx ends. Hooks do not wait for each other.
func (t *Teller) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, h := range t.hooks {
		g.Go(func() error { return t.tell(ctx, h) })
	}
	return g.Wait()
}

// tell tells one hook, one event after the other.
func (t *Teller) tell(ctx context.Context, h Hook) error {
	n, err := t.cursor(h)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		changed := t.rollouts.Changed()
		e, err := t.rollouts.NextEvent(n)
		switch {
		case errors.Is(err, rollout.ErrNoEvent):
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		case err != nil:
			return err
		}
		if e.N != n+1 {
			t.log.Error().Str("url", h.URL).Uint64("from", n+1).Uint64("to", e.N-1).Msg("a webhook was away for so long that it missed events")
		}
		if len(h.States) == 0 || slices.Contains(h.States, e.State) {
			if err := t.insist(ctx, h, e); err != nil {
				return nil // ctx ended: it is told after the next start
			}
		}
		n = e.N
		if err := t.told(h, n); err != nil {
			return err
		}
	}
	return nil
}

// insist calls a hook until it has understood, or for as long as that makes sense. The
// error is that of ctx.
func (t *Teller) insist(ctx context.Context, h Hook, e rollout.Event) error {
	began, pause := time.Now(), firstPause
	for {
		err := t.call(ctx, h, e)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Since(began)+pause > giveUp:
			t.log.Error().Err(err).Str("url", h.URL).Uint64("event", e.N).Msg("a webhook is not told of an event")
			return nil
		}
		t.log.Warn().Err(err).Str("url", h.URL).Uint64("event", e.N).Dur("again_in", pause).Msg("a webhook does not answer")
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, longestPause)
	}
}

// call makes one call. A redirect is no answer: what is told is for this address.
func (t *Teller) call(ctx context.Context, h Hook, e rollout.Event) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "covey-fleet")
	req.Header.Set("Covey-Event", strconv.FormatUint(e.N, 10))
	req.Header.Set("Covey-Signature", "t="+at+",v1="+Sign(h.Secret, at, body))
	resp, err := t.http.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

// Sign is the signature of a body that was sent at a moment, Unix seconds: HMAC-SHA256,
// hex, of both with a dot between them.
func Sign(secret []byte, at string, body []byte) string {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(at + "."))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

// Secret is what a file with a secret holds.
func Secret(file []byte) []byte { return []byte(strings.TrimSpace(string(file))) }
