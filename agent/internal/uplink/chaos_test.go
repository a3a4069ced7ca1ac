package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/rs/zerolog"
)

func mqttLink(t testing.TB, addr, id string) *mqtt.Link {
	t.Helper()
	l, err := mqtt.New(mqtt.Config{
		URL: "mqtt://" + addr, ClientID: id, KeepAlive: time.Second, Logger: zerolog.Nop(),
		Spread: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func person(t *testing.T, broker, filter string) *linktest.Client {
	t.Helper()
	c := linktest.Start(t, mqttLink(t, broker, "person"), wire.Spec{Subscribe: []wire.Subscription{{Filter: filter, QoS: 1}}})
	c.UntilUp(1)
	return c
}

// A child offers results and is killed, again and again; in the end every seq
// has arrived or was said to be lost, and none stands for two results.
func TestKillNine(t *testing.T) {
	broker := linktest.Mosquitto(t)
	sub := person(t, broker, "covey/home/#")
	dir := t.TempDir()
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "offer", broker, dir, strconv.Itoa(round))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := len(sub.Got())
		sub.UntilGot(before + 30) // it is at work
		time.Sleep(rand.N(time.Second))
		cmd.Process.Kill()
		cmd.Wait()
	}
	u := open(t, Config{Dir: dir, Home: &HomeConfig{Link: mqttLink(t, broker, "pi-1")}})
	if u.rebuilt != "" {
		t.Errorf("the outbox was rebuilt: %s", u.rebuilt)
	}
	running(t, u)
	offer(t, u, result(1_000_000))
	marker := `"id":"b/1000000"`
	var last uint64
	sub.Until("the last result and no gap", func() bool {
		a := arrived(t, sub.Messages("/result"))
		for seq, payload := range a.bySeq {
			if contains(payload, marker) {
				last = seq
			}
		}
		return last > 0 && len(a.missing(last)) == 0
	})
	a := arrived(t, sub.Got())
	ids := map[string]uint64{}
	for seq, payload := range a.bySeq {
		if other, ok := ids[payload]; ok {
			t.Errorf("seq %d and %d are the same result", seq, other)
		}
		ids[payload] = seq
	}
	t.Logf("%d results up to seq %d, lost spans %v", len(a.bySeq), last, a.lost)
	if len(a.bySeq) < 100 {
		t.Errorf("only %d results: nothing was tested", len(a.bySeq))
	}
}

func contains(s, sub string) bool {
	for i := 0; i+len(sub) <= len(s); i++ {
		if s[i:i+len(sub)] == sub {
			return true
		}
	}
	return false
}

// offerMain is the child: it offers results until it is killed.
func offerMain(args []string) int {
	l, err := mqtt.New(mqtt.Config{URL: "mqtt://" + args[0], ClientID: "pi-1", Logger: zerolog.Nop(), Spread: 10 * time.Millisecond})
	if err != nil {
		return 1
	}
	u, err := New(Config{
		Device: device, Dir: args[1], Check: checkCommand(), Log: zerolog.Nop(),
		Home: &HomeConfig{Link: l}, Pipelines: []Pipeline{{Name: "porch"}},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go u.Run(context.Background())
	round, _ := strconv.Atoi(args[2])
	for i := range 100_000 {
		u.Offer("porch", result(round*100_000+i))
		time.Sleep(2 * time.Millisecond)
	}
	return 0
}
