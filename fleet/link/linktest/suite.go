package linktest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// A Rig is one kind of link and the broker behind it, fresh for each test.
type Rig struct {
	// Link makes a client of the broker.
	Link func(clientID string, clean bool) wire.Link
	// Cut breaks the connection of a client, or of all, without a word.
	Cut func(clientID string)
	// Denied is a topic filter that the broker refuses to everybody.
	Denied string
}

// patience bounds every wait of the suite.
const patience = 15 * time.Second

// Run is the suite. make is called once for each test.
func Run(t *testing.T, make func(t *testing.T) Rig) {
	tests := map[string]func(*testing.T, Rig){
		"in order, acknowledged": inOrder,
		"offline before run":     offline,
		"retained":               retained,
		"will":                   will,
		"up and down take turns": upDown,
		"window and room":        window,
		"subscription refused":   refused,
		"receive error":          receiveError,
		"cuts lose nothing":      cuts,
		"session survives":       sessionSurvives,
		"clean session resends":  cleanResends,
		"sent again":             sentAgain,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, make(t)) })
	}
}

// A Client runs a link for a test and keeps what happened to it.
type Client struct {
	wire.Link
	t      testing.TB
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex
	events []string // "up", "down: reason"
	got    []wire.Message
	rooms  int
	change chan struct{} // closed and replaced at every change
}

// Start runs l with the functions of s that are set, and records the rest. The
// test's end stops it.
func Start(t testing.TB, l wire.Link, s wire.Spec) *Client {
	t.Helper()
	c := &Client{Link: l, t: t, done: make(chan error, 1), change: make(chan struct{})}
	up, down, receive, room := s.Up, s.Down, s.Receive, s.Room
	s.Up = func() {
		if up != nil {
			up()
		}
		c.note(func() { c.events = append(c.events, "up") })
	}
	s.Down = func(err error) {
		if down != nil {
			down(err)
		}
		c.note(func() { c.events = append(c.events, fmt.Sprintf("down: %v", err)) })
	}
	s.Room = func() {
		if room != nil {
			room()
		}
		c.note(func() { c.rooms++ })
	}
	s.Receive = func(m wire.Message) error {
		if receive != nil {
			if err := receive(m); err != nil {
				return err
			}
		}
		c.note(func() { c.got = append(c.got, m) })
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go func() { c.done <- l.Run(ctx, s) }()
	t.Cleanup(func() { c.Stop() })
	return c
}

// Stop ends the link and waits for it.
func (c *Client) Stop() error {
	c.cancel()
	err := <-c.done
	c.done <- err
	return err
}

func (c *Client) note(f func()) {
	c.mu.Lock()
	f()
	close(c.change)
	c.change = make(chan struct{})
	c.mu.Unlock()
}

// Until waits until cond holds; cond is called with the client's lock held.
func (c *Client) Until(what string, cond func() bool) {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		c.mu.Lock()
		ok, change, events := cond(), c.change, len(c.events)
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-change:
		case <-timeout:
			c.t.Fatalf("timeout waiting for %s (%d events, %d received)", what, events, len(c.Got()))
		}
	}
}

// UntilUp waits for the n-th time that the connection stood.
func (c *Client) UntilUp(n int) {
	c.t.Helper()
	c.Until(fmt.Sprintf("up %d", n), func() bool { return c.count("up") >= n })
}

// UntilGot waits until n messages were received.
func (c *Client) UntilGot(n int) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%d messages", n), func() bool { return len(c.got) >= n })
}

// Got is what was received so far.
func (c *Client) Got() []wire.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]wire.Message(nil), c.got...)
}

// Messages is what was received on topics that end in suffix. It is meant for the
// condition of Until.
func (c *Client) Messages(suffix string) (ms []wire.Message) {
	for _, m := range c.got {
		if strings.HasSuffix(m.Topic, suffix) {
			ms = append(ms, m)
		}
	}
	return ms
}

// Downs counts the ends of a connection whose reason contains text. It is meant
// for the condition of Until.
func (c *Client) Downs(text string) (n int) {
	for _, e := range c.events {
		if strings.HasPrefix(e, "down: ") && strings.Contains(e, text) {
			n++
		}
	}
	return n
}

func (c *Client) count(prefix string) int {
	n := 0
	for _, e := range c.events {
		if strings.HasPrefix(e, prefix) {
			n++
		}
	}
	return n
}

// Send publishes and waits for the acknowledgement; full windows and cuts are
// waited out.
func (c *Client) Send(m wire.Message) {
	c.t.Helper()
	acked := make(chan struct{})
	c.Push(m, func() { close(acked) })
	select {
	case <-acked:
	case <-time.After(patience):
		c.t.Fatalf("no acknowledgement for %s", m.Topic)
	}
}

// Push publishes without waiting for the acknowledgement.
func (c *Client) Push(m wire.Message, acked func()) {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		err := c.Publish(m, acked)
		if err == nil {
			return
		}
		if !errors.Is(err, wire.ErrOffline) && !errors.Is(err, wire.ErrWindow) {
			c.t.Fatalf("publish: %v", err)
		}
	}
	c.t.Fatalf("publish %s: never taken", m.Topic)
}

func numbered(i int) wire.Message {
	return wire.Message{Topic: "t/n", Payload: fmt.Appendf(nil, "%d", i), QoS: 1}
}

func subscribeTo(filter string) wire.Spec {
	return wire.Spec{Subscribe: []wire.Subscription{{Filter: filter, QoS: 1}}}
}

func inOrder(t *testing.T, r Rig) {
	sub := Start(t, r.Link("sub", false), subscribeTo("t/#"))
	sub.UntilUp(1)
	pub := Start(t, r.Link("pub", false), wire.Spec{})
	const n = 300
	for i := range n {
		pub.Push(numbered(i), nil)
	}
	sub.UntilGot(n)
	for i, m := range sub.Got() {
		if got, want := string(m.Payload), fmt.Sprint(i); got != want || m.QoS != 1 {
			t.Fatalf("message %d is %s (QoS %d)", i, got, m.QoS)
		}
	}
	pub.Send(wire.Message{Topic: "t/zero", Payload: []byte("z")})
	sub.UntilGot(n + 1)
	if err := pub.Stop(); err != nil {
		t.Errorf("run returned %v", err)
	}
}

func offline(t *testing.T, r Rig) {
	if err := r.Link("a", false).Publish(numbered(1), nil); !errors.Is(err, wire.ErrOffline) {
		t.Errorf("publish before run: %v, want ErrOffline", err)
	}
}

func retained(t *testing.T, r Rig) {
	pub := Start(t, r.Link("pub", false), wire.Spec{})
	pub.Send(wire.Message{Topic: "r/a", Payload: []byte("old"), QoS: 1, Retain: true})
	pub.Send(wire.Message{Topic: "r/a", Payload: []byte("new"), QoS: 1, Retain: true})
	pub.Send(wire.Message{Topic: "r/b", Payload: []byte("gone"), QoS: 1, Retain: true})
	pub.Send(wire.Message{Topic: "r/b", QoS: 1, Retain: true})
	pub.Send(wire.Message{Topic: "r/c", Payload: []byte("last"), QoS: 1, Retain: true})
	sub := Start(t, r.Link("sub", false), subscribeTo("r/#"))
	sub.UntilGot(2)
	for _, m := range sub.Got() {
		if !m.Retain || (string(m.Payload) != "new" && string(m.Payload) != "last") {
			t.Errorf("got %s %q retain=%v", m.Topic, m.Payload, m.Retain)
		}
	}
}

func will(t *testing.T, r Rig) {
	sub := Start(t, r.Link("sub", false), subscribeTo("w/#"))
	sub.UntilUp(1)
	attempt := 0
	spec := wire.Spec{Will: func() *wire.Message {
		attempt++
		return &wire.Message{Topic: "w/x", Payload: fmt.Appendf(nil, "will %d", attempt), QoS: 1}
	}}
	c := Start(t, r.Link("mortal", false), spec)
	c.UntilUp(1)
	r.Cut("mortal")
	c.UntilUp(2)
	sub.UntilGot(1)
	if got := string(sub.Got()[0].Payload); got != "will 1" {
		t.Errorf("after the cut the will was %q", got)
	}
	c.Stop()
	before := len(sub.Got())
	other := Start(t, r.Link("other", false), wire.Spec{})
	other.Send(wire.Message{Topic: "w/end", QoS: 1})
	sub.Until("the end", func() bool { return sub.got[len(sub.got)-1].Topic == "w/end" })
	if n := len(sub.Got()); n != before+1 {
		t.Errorf("a clean end sent the will")
	}
}

func upDown(t *testing.T, r Rig) {
	c := Start(t, r.Link("c", false), subscribeTo("x"))
	for i := 1; i <= 3; i++ {
		c.UntilUp(i)
		r.Cut("c")
	}
	c.UntilUp(4)
	c.Stop()
	up := false
	for i, e := range c.events {
		if e == "up" {
			if up {
				t.Fatalf("two ups without a down: %q", c.events[:i+1])
			}
			up = true
		} else {
			up = false
		}
	}
	if up {
		t.Errorf("no down at the end: %q", c.events)
	}
}

func window(t *testing.T, r Rig) {
	c := Start(t, r.Link("c", false), wire.Spec{})
	c.UntilUp(1)
	payload := make([]byte, 64<<10)
	for i := 0; ; i++ {
		err := c.Publish(wire.Message{Topic: "t/big", Payload: payload, QoS: 1}, nil)
		if errors.Is(err, wire.ErrWindow) {
			break
		}
		if err != nil || i > 100_000 {
			t.Fatalf("publish %d: %v", i, err)
		}
	}
	c.Until("room", func() bool { return c.rooms > 0 })
	c.Send(numbered(1))
}

func refused(t *testing.T, r Rig) {
	c := Start(t, r.Link("c", false), wire.Spec{Subscribe: []wire.Subscription{{Filter: "ok/#", QoS: 1}, {Filter: r.Denied, QoS: 1}}})
	c.Until("refusal", func() bool { return c.count("down") > 0 })
	if e := c.events[0]; !strings.Contains(e, r.Denied) {
		t.Errorf("first event %q does not name %s", e, r.Denied)
	}
}

func receiveError(t *testing.T, r Rig) {
	failures := 3
	spec := subscribeTo("t/#")
	spec.Receive = func(m wire.Message) error {
		if string(m.Payload) == "1" && failures > 0 {
			failures--
			return errors.New("disk full")
		}
		return nil
	}
	sub := Start(t, r.Link("sub", false), spec)
	sub.UntilUp(1)
	pub := Start(t, r.Link("pub", false), wire.Spec{})
	for i := range 4 {
		pub.Send(numbered(i))
	}
	sub.Until("all four", func() bool { return distinct(sub.got) == 4 })
	if failures != 0 {
		t.Errorf("%d failures were not used: the message did not come again", failures)
	}
}

func distinct(ms []wire.Message) int {
	seen := map[string]bool{}
	for _, m := range ms {
		seen[string(m.Payload)] = true
	}
	return len(seen)
}

func cuts(t *testing.T, r Rig) {
	sub := Start(t, r.Link("sub", false), subscribeTo("t/#"))
	sub.UntilUp(1)
	pub := Start(t, r.Link("pub", false), wire.Spec{})
	pub.UntilUp(1)
	const n = 2000
	var mu sync.Mutex
	acks := make([]int, n)
	var wg sync.WaitGroup
	wg.Add(n)
	for i := range n {
		pub.Push(numbered(i), func() {
			mu.Lock()
			acks[i]++
			mu.Unlock()
			wg.Done() // panics on a second call
		})
		if i%400 == 200 {
			r.Cut("pub")
		}
	}
	wg.Wait()
	sub.Until("all", func() bool { return distinct(sub.got) == n })
}

func sessionSurvives(t *testing.T, r Rig) {
	sub := Start(t, r.Link("sub", false), subscribeTo("t/#"))
	sub.UntilUp(1)
	sub.Stop()
	pub := Start(t, r.Link("pub", false), wire.Spec{})
	for i := range 5 {
		pub.Send(numbered(i))
	}
	again := Start(t, r.Link("sub", false), subscribeTo("t/#"))
	again.UntilGot(5)
}

func cleanResends(t *testing.T, r Rig) {
	sub := Start(t, r.Link("sub", false), subscribeTo("t/#"))
	sub.UntilUp(1)
	pub := Start(t, r.Link("pub", true), wire.Spec{})
	pub.UntilUp(1)
	for i := range 500 {
		pub.Push(numbered(i), nil)
		if i%100 == 50 {
			r.Cut("pub")
		}
	}
	sub.Until("all", func() bool { return distinct(sub.got) == 500 })
}

// sentAgain: what goes out a second time says what is true then, and only that.
func sentAgain(t *testing.T, r Rig) {
	sub := Start(t, r.Link("sub", false), subscribeTo("t/#"))
	sub.UntilUp(1)
	pub := Start(t, r.Link("pub", false), wire.Spec{})
	var mu sync.Mutex
	asked := map[int]bool{}
	message := func(i int) wire.Message {
		m := numbered(i)
		m.Again = func() []byte {
			mu.Lock()
			defer mu.Unlock()
			asked[i] = true
			return fmt.Appendf(nil, "%d again", i)
		}
		return m
	}
	const quiet = 50
	for i := range quiet {
		pub.Send(message(i))
	}
	if len(asked) > 0 {
		t.Errorf("%d were asked again without a cut", len(asked))
	}
	n, again := quiet, 0
	for end := time.Now().Add(patience); again < 5 && time.Now().Before(end); {
		var wg sync.WaitGroup
		for range 20 {
			wg.Add(1)
			pub.Push(message(n), wg.Done)
			n++
		}
		r.Cut("pub")
		wg.Wait()
		mu.Lock()
		again = len(asked)
		mu.Unlock()
	}
	if again < 5 {
		t.Fatalf("of %d messages %d were sent again", n, again)
	}
	sub.Until("all of them, and those that were asked as they are now", func() bool {
		got := map[string]bool{}
		for _, m := range sub.got {
			got[string(m.Payload)] = true
		}
		mu.Lock()
		defer mu.Unlock()
		for i := range n {
			if now := fmt.Sprintf("%d again", i); asked[i] != got[now] || !asked[i] && !got[fmt.Sprint(i)] {
				return false
			}
		}
		return true
	})
}
