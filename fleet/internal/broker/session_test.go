package broker_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
)

// A board that dies in any moment after its document came gets it again from its next
// start, whatever of its session it has not acknowledged. COVEY_CHAOS sets how often.
func TestTheDocumentComesAgain(t *testing.T) {
	deaths, err := strconv.Atoi(os.Getenv("COVEY_CHAOS"))
	if err != nil {
		deaths = 200
	}
	r := start(t)
	cert := r.device(t, "pi")
	go func() {
		for range r.got { // what it says of itself
		}
	}()
	for i := range deaths {
		doc := fmt.Sprintf("rev %d", i)
		if err := r.Publish(wire.Message{Topic: desired, Payload: []byte(doc), QoS: 1, Retain: true}); err != nil {
			t.Fatal(err)
		}
		for _, life := range []string{"first", "second"} {
			b := bear(t, r, cert, doc)
			select {
			case <-b.got:
			case <-time.After(5 * time.Second):
				t.Fatalf("death %d: the document has not come to the %s life", i, life)
			}
			time.Sleep(rand.N(2 * time.Millisecond)) // any moment: before it subscribes, while it says hello, …
			b.die()
		}
	}
}

// A life is the link of a board until it dies.
type life struct {
	got chan struct{} // closed when the document came

	mu   sync.Mutex
	raw  net.Conn
	dead bool
	end  context.CancelFunc
	done chan error
}

func bear(t *testing.T, r *rig, cert *tls.Config, doc string) *life {
	t.Helper()
	l := &life{got: make(chan struct{}), done: make(chan error, 1)}
	link, err := mqtt.New(mqtt.Config{
		URL: "mqtts://" + r.Addr().String(), ClientID: "pi", TLS: func() *tls.Config { return cert }, Dial: l.dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, l.end = context.WithCancel(context.Background())
	t.Cleanup(l.die)
	status := wire.Device{Root: "covey", ID: "pi"}.Status()
	came := sync.OnceFunc(func() { close(l.got) })
	go func() {
		l.done <- link.Run(ctx, wire.Spec{
			Subscribe: []wire.Subscription{{Filter: desired, QoS: 1}, {Filter: status, QoS: 1}},
			Will: func() *wire.Message {
				return &wire.Message{Topic: status, Payload: []byte("off"), QoS: 1, Retain: true}
			},
			Up: func() { link.Publish(wire.Message{Topic: status, Payload: []byte("on"), QoS: 1, Retain: true}, nil) },
			Receive: func(m wire.Message) error {
				if string(m.Payload) == doc {
					came()
				}
				return nil
			},
		})
	}()
	return l
}

func (l *life) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return nil, errors.New("dead")
	}
	var err error
	l.raw, err = (&net.Dialer{}).DialContext(ctx, network, addr)
	return l.raw, err
}

// die ends it as a kill does: without a word.
func (l *life) die() {
	l.mu.Lock()
	if l.raw != nil && !l.dead {
		l.raw.Close()
	}
	l.dead = true
	l.mu.Unlock()
	l.end()
	err := <-l.done
	l.done <- err
}
