package mqtt

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
	paho "github.com/eclipse/paho.mqtt.golang"
)

// A ledger knows, for each message, whether it was acknowledged to its sender
// and how often it arrived.
type ledger struct {
	acked   []atomic.Int32
	arrived []atomic.Int32
	left    atomic.Int64  // messages that have not arrived
	all     chan struct{} // closed when none is left
}

func newLedger(n int) *ledger {
	l := &ledger{acked: make([]atomic.Int32, n), arrived: make([]atomic.Int32, n), all: make(chan struct{})}
	l.left.Store(int64(n))
	return l
}

func (l *ledger) arrive(payload []byte) {
	if l.arrived[binary.BigEndian.Uint32(payload)].Add(1) == 1 && l.left.Add(-1) == 0 {
		close(l.all)
	}
}

// faults counts acknowledgements for messages that never arrived, messages that
// never arrived, and further arrivals.
func (l *ledger) faults() (falseAcks, missing, duplicates int) {
	for i := range l.acked {
		n := l.arrived[i].Load()
		switch {
		case n == 0:
			missing++
			if l.acked[i].Load() > 0 {
				falseAcks++
			}
		default:
			duplicates += int(n) - 1
		}
	}
	return falseAcks, missing, duplicates
}

func payload(i int) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, 200), uint32(i))[:200]
}

// size is how many messages the chaos tests send: COVEY_CHAOS sets it for longer runs.
func size(t *testing.T, usual int) int {
	n, err := strconv.Atoi(os.Getenv("COVEY_CHAOS"))
	if err != nil {
		return usual
	}
	return n
}

// receiver subscribes straight at the broker, with a clean connection to it.
func receiver(t *testing.T, broker string, l *ledger) {
	t.Helper()
	spec := wire.Spec{
		Subscribe: []wire.Subscription{{Filter: "t/#", QoS: 1}},
		Receive:   func(m wire.Message) error { l.arrive(m.Payload); return nil },
	}
	linktest.Start(t, newLink(t, fast(broker, "receiver", false)), spec).UntilUp(1)
}

// chaos cuts all connections of the proxy in random ways until done is closed.
func chaos(p *linktest.Proxy, up func() <-chan struct{}, done <-chan struct{}) {
	for i := 0; ; i++ {
		select { // a cut of nothing is no cut
		case <-done:
			return
		case <-up():
		}
		select {
		case <-done:
			return
		case <-time.After(time.Duration(rand.IntN(150)) * time.Millisecond):
		}
		switch i % 12 {
		case 5:
			p.HalfOpen()
		case 10:
			resume := p.Stall()
			time.AfterFunc(50*time.Millisecond, resume)
		default:
			p.Reset()
		}
	}
}

func TestChaosLosesNothing(t *testing.T) {
	n := size(t, 30_000)
	broker := linktest.Mosquitto(t)
	proxy := linktest.NewProxy(t, broker)
	l := newLedger(n)
	receiver(t, broker, l)

	var mu sync.Mutex
	up := make(chan struct{})
	cfg := fast(proxy.Addr(), "sender", false)
	cfg.KeepAlive = time.Second
	room := make(chan struct{}, 1)
	signal := func() {
		select {
		case room <- struct{}{}:
		default:
		}
	}
	c := linktest.Start(t, newLink(t, cfg), wire.Spec{
		Up: func() { mu.Lock(); close(up); mu.Unlock(); signal() },
		Down: func(error) {
			mu.Lock()
			defer mu.Unlock()
			select {
			case <-up:
				up = make(chan struct{})
			default: // an attempt failed: who waits for up goes on waiting
			}
		},
		Room: signal,
	})
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		chaos(proxy, func() <-chan struct{} { mu.Lock(); defer mu.Unlock(); return up }, done)
	})
	began := time.Now()
	owed := make(chan struct{}, n)
	for i := 0; i < n; {
		if time.Since(began) > time.Duration(n)*2*time.Millisecond {
			t.Fatalf("only %d messages were taken in %v", i, time.Since(began))
		}
		// Pace so that the cuts spread over the run.
		if i%200 == 0 && proxy.Cuts() < 55*i/n {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		owner := i
		switch err := c.Publish(wire.Message{Topic: "t/c", Payload: payload(i), QoS: 1}, func() { l.acked[owner].Add(1); owed <- struct{}{} }); {
		case err == nil:
			i++
		case errors.Is(err, wire.ErrWindow), errors.Is(err, wire.ErrOffline):
			select {
			case <-room:
			case <-time.After(50 * time.Millisecond):
			}
		default:
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
	timeout := time.After(20 * time.Second)
	for range n {
		select {
		case <-owed:
		case <-timeout:
			t.Fatal("not every message was acknowledged")
		}
	}
	select {
	case <-l.all:
	case <-timeout:
	}
	falseAcks, missing, duplicates := l.faults()
	t.Logf("%d messages, %d cuts, %v: %d false acks, %d missing, %d duplicates", n, proxy.Cuts(), time.Since(began).Round(time.Millisecond), falseAcks, missing, duplicates)
	if falseAcks > 0 || missing > 0 {
		t.Error("messages were lost")
	}
	if proxy.Cuts() < 50 {
		t.Errorf("only %d cuts", proxy.Cuts())
	}
	for i := range l.acked {
		if got := l.acked[i].Load(); got != 1 {
			t.Fatalf("message %d was acknowledged %d times", i, got)
		}
	}
}

// The same ledger must catch what this room exists to avoid: paho's own token
// taken for an acknowledgement.
func TestChaosCatchesPahoTokens(t *testing.T) {
	broker := linktest.Mosquitto(t)
	proxy := linktest.NewProxy(t, broker)
	const n = 2000
	l := newLedger(n)
	receiver(t, broker, l)
	o := paho.NewClientOptions().AddBroker("tcp://" + proxy.Addr()).SetClientID("liar").
		SetCleanSession(false).SetAutoReconnect(true).SetMaxReconnectInterval(50 * time.Millisecond).
		SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond)
	c := paho.NewClient(o)
	if token := c.Connect(); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer c.Disconnect(0)
	tokens := make([]paho.Token, n)
	proxy.Stall() // the broker gets nothing of what follows
	for i := range 20 {
		tokens[i] = c.Publish("t/c", 1, false, payload(i))
	}
	proxy.Reset()
	// Back, but cut again before the broker can answer: the tokens of before are
	// complete all the same.
	proxy.Slow(4000)
	lied := 0
	for end := time.Now().Add(time.Minute); lied == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		for i := range 20 {
			select {
			case <-tokens[i].Done():
				if tokens[i].Error() == nil {
					l.acked[i].Add(1)
				}
			default:
			}
		}
		lied, _, _ = l.faults()
	}
	if lied < 1 {
		t.Error("the ledger saw no false acknowledgement")
	}
	t.Logf("%d false acknowledgements seen", lied)
}
