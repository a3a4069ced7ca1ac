package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

type nobody struct{}

func (nobody) Publish(wire.Message) error { return nil }
func (nobody) Kick(wire.DeviceID)         {}

// A fleet without devices: its rollouts begin, and are over.
type fleet struct {
	t    *testing.T
	db   *store.Store
	s    *rollout.Service
	stop func()
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t}
	dir := t.TempDir()
	var err error
	f.db, err = store.Open(filepath.Join(dir, "fleet.db"))
	f.check(err)
	a, err := auth.Open(f.db, auth.Config{})
	f.check(err)
	blobs, err := blob.Open(filepath.Join(dir, "blobs"), blob.OS{})
	f.check(err)
	reg, err := registry.Open(f.db, a, nobody{}, registry.Config{Root: "covey", Log: zerolog.Nop(), Blobs: blobs})
	f.check(err)
	f.s, err = rollout.Open(f.db, reg, zerolog.Nop())
	f.check(err)
	f.stop = f.run(f.s.Run)
	return f
}

func (f *fleet) run(fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	return func() { cancel(); f.check(<-done) }
}

func (f *fleet) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) rollout() string {
	f.t.Helper()
	r, err := f.s.Start(rollout.Wanted{Release: rollout.Release{Digest: wire.Digest(strings.Repeat("1", 64)), Length: 1, Name: "m", Version: "1.0.0"}, Pipeline: "cam", Query: "all", By: "ada"}, nil)
	f.check(err)
	return r.ID
}

func (f *fleet) end() {
	f.stop()
	f.check(f.db.Close())
}

// A post is somebody who is told, and does not always listen.
type post struct {
	mu     sync.Mutex
	answer func(host string, call int) (status int, err error)
	calls  int
	told   []string
	began  time.Time
}

func (p *post) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	p.calls++
	status, err := p.answer(r.URL.Host, p.calls)
	if err != nil {
		return nil, err
	}
	if status == 200 {
		var e rollout.Event
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, err
		}
		p.told = append(p.told, fmt.Sprintf("%s %d %s", r.URL.Host, e.N, e.State))
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: io.NopCloser(bytes.NewReader(nil))}, nil
}

// heard is what was told, and how often somebody was called.
func (p *post) heard() (told []string, calls int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told), p.calls
}

func hook(host string, states ...wire.RolloutState) Hook {
	return Hook{URL: "https://" + host + "/", Secret: []byte(strings.Repeat("s", 32)), States: states}
}

func TestNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
		f := newFleet(t)
		f.rollout() // before there was a hook
		synctest.Wait()
		p := &post{began: time.Now()}
		begin := func() (stop func()) {
			tell, err := New(f.db, f.s, []Hook{hook("deaf"), hook("all"), hook("some", wire.RolloutCompleted)}, zerolog.Nop())
			f.check(err)
			tell.http = p
			return f.run(tell.Run)
		}
		p.answer = func(host string, call int) (int, error) {
			switch {
			case host == "deaf":
				return 0, errors.New("no route")
			case host == "all" && time.Since(p.began) < 3*time.Second:
				return []int{500, 302, 404}[call%3], nil
			}
			return 200, nil
		}
		stop := begin()
		f.rollout()
		synctest.Wait()
		if told, _ := p.heard(); fmt.Sprint(told) != "[some 4 COMPLETED]" {
			t.Errorf("at once: %v", told)
		}
		time.Sleep(2 * time.Second)
		stop() // in the middle of it
		f.rollout()
		synctest.Wait()
		time.Sleep(time.Hour)
		p.told = nil
		stop = begin()
		synctest.Wait()
		all := ""
		told, calls := p.heard()
		for _, s := range told {
			if strings.HasPrefix(s, "all") {
				all += s + ","
			}
		}
		if all != "all 3 RUNNING,all 4 COMPLETED,all 5 RUNNING,all 6 COMPLETED," {
			t.Errorf("after a restart: %s", all)
		}
		// Who never answers is told of no event for longer than a day, and holds nobody up.
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if _, after := p.heard(); after-calls < 270 || after-calls > 300 {
			t.Errorf("%d calls in a day", after-calls)
		}
		if n, err := (&Teller{db: f.db}).cursor(hook("deaf")); err != nil || n != 2 {
			t.Errorf("it is told of %d, %v", n, err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n, err := (&Teller{db: f.db}).cursor(hook("deaf")); err != nil || n != 3 {
			t.Errorf("after a day it is told of %d, %v", n, err)
		}
		stop()
		f.end()
	})
}

// What is sent over a real connection is signed as the page for operators says.
func TestSignature(t *testing.T) {
	f := newFleet(t)
	defer f.end()
	got := make(chan string, 10)
	secret := []byte(strings.Repeat("s", 32))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		at, sum, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Covey-Signature"), "t="), ",v1=")
		switch {
		case sum != Sign(secret, at, body):
			got <- "wrong signature"
		case sum == Sign(secret, at+"1", body) || sum == Sign(secret[1:], at, body) || sum == Sign(secret, at, body[1:]):
			got <- "a signature of anything"
		default:
			got <- r.Header.Get("Covey-Event") + " " + r.Header.Get("Content-Type")
		}
	}))
	defer srv.Close()
	h := Hook{URL: srv.URL, Secret: secret, States: []wire.RolloutState{wire.RolloutCompleted}}
	if err := Validate([]Hook{h}); err != nil {
		t.Fatal(err)
	}
	tell, err := New(f.db, f.s, []Hook{h}, zerolog.Nop())
	f.check(err)
	stop := f.run(tell.Run)
	f.rollout()
	if s := <-got; s != "2 application/json" {
		t.Error(s)
	}
	stop()
}

func TestValidate(t *testing.T) {
	ok := []byte(strings.Repeat("s", 16))
	for _, tc := range []struct {
		h    Hook
		says string
	}{
		{Hook{URL: "https://example.org/a", Secret: ok}, ""},
		{Hook{URL: "http://127.0.0.1:80/a", Secret: ok}, ""},
		{Hook{URL: "http://[::1]/a", Secret: ok, States: []wire.RolloutState{"PAUSED"}}, ""},
		{Hook{URL: "http://example.org/a", Secret: ok}, "use https"},
		{Hook{URL: "http://127.0.0.1.example.org/a", Secret: ok}, "use https"},
		{Hook{URL: "ftp://example.org/a", Secret: ok}, "use https"},
		{Hook{URL: "example.org", Secret: ok}, "no URL"},
		{Hook{URL: "https://example.org", Secret: ok[1:]}, "15 bytes"},
		{Hook{URL: "https://example.org", Secret: ok, States: []wire.RolloutState{"paused"}}, "no state"},
	} {
		err := Validate([]Hook{tc.h})
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", tc.h.URL, err, tc.says)
		}
	}
	if err := Validate([]Hook{hook("a"), hook("a")}); err == nil {
		t.Error("twice the same is fine")
	}
}
