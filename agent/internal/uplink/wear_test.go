package uplink

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
	bolt "go.etcd.io/bbolt"
)

// wearAim is what a board may write to its card, bytes a day.
const wearAim = 50e6

// event is the i-th of a pipeline.
func event(i int) *wire.Event {
	at := time.Now()
	return &wire.Event{
		ID: fmt.Sprintf("pi-1-porch-%d/0", i), Event: "pi-1-porch", TS: at, Type: wire.EventStart, Label: "person", Zone: "door",
		Track: uint64(i + 1), Score: 0.87, Start: at, Count: 1, Box: &[4]float32{0.1, 0.2, 0.3, 0.4}, Image: fmt.Sprintf("pi-1-porch-%d", i),
	}
}

// idleHouse is what a board says at home all day: a result a second, an event every
// twenty.
func idleHouse(t *testing.T, u *Uplink, lasts time.Duration) {
	for i := range int(lasts / time.Second) {
		if err := u.Offer("porch", result(i)); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			if err := u.OfferEvent("porch", event(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
	}
}

// written is how many bytes this process has sent to storage, as the kernel counts:
// nothing for tmpfs, and whole folios, which may be 16 KiB for a page of 4, on a new one.
func written(t *testing.T) (n int64) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Log(err)
	}
	_, text, _ := bytes.Cut(b, []byte("\nwrite_bytes: "))
	fmt.Sscan(string(text), &n)
	return n
}

// pages is how many bytes the database has written, and in how many commits.
func pages(t *testing.T, u *Uplink) (n int64, commits int) {
	stats := u.box.file.db.Stats().TxStats
	err := u.box.file.view(func(tx *bolt.Tx) error { commits = tx.ID(); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return stats.GetPageAlloc() + int64(commits*os.Getpagesize()), commits // each writes the page at the head, too
}

// wear lets a house live for a while, with both links up, and says what that wrote.
func wear(t *testing.T, u *Uplink, lasts time.Duration) {
	stop := running(t, u)
	for s := u.Stats(); !s.HomeUp || !s.FleetUp; s = u.Stats() {
		time.Sleep(10 * time.Millisecond)
	}
	pagesBefore, commitsBefore := pages(t, u)
	writtenBefore := written(t)
	idleHouse(t, u, lasts)
	n, commits := pages(t, u)
	day := func(n int64) float64 { return float64(n) / lasts.Hours() * 24 }
	mine := day(n - pagesBefore)
	t.Logf("wear: %.1f MB a day in %.0f commits; write_bytes says %.1f MB", mine/1e6, day(int64(commits-commitsBefore)), day(written(t)-writtenBefore)/1e6)
	if mine > wearAim {
		t.Errorf("%.1f MB a day are too many", mine/1e6)
	}
	stop()
}

// The card of a board in an idle house lives: every commit is a real one, the clock is
// not. COVEY_WEAR_HOURS says how many hours of the house pass.
func TestWear(t *testing.T) {
	hours, err := strconv.Atoi(os.Getenv("COVEY_WEAR_HOURS"))
	if err != nil {
		hours = 1
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := mem.NewBroker()
		wear(t, open(t, Config{
			Dir: dir, Home: &HomeConfig{Link: b.Link("pi-1-home", false)}, Fleet: &FleetConfig{Link: b.Link("pi-1", false), MID: "m"},
		}), time.Duration(hours)*time.Hour)
	})
}

// The same with a real broker and on the real clock, for as long as COVEY_WEAR_REAL says.
func TestWearReal(t *testing.T) {
	lasts, err := time.ParseDuration(os.Getenv("COVEY_WEAR_REAL"))
	if err != nil {
		t.Skip("set COVEY_WEAR_REAL=10m: it takes that long")
	}
	broker := linktest.Mosquitto(t)
	sub := person(t, broker, "covey/home/#")
	wear(t, open(t, Config{
		Dir: t.TempDir(), Home: &HomeConfig{Link: mqttLink(t, broker, "pi-1-home")}, Fleet: &FleetConfig{Link: mqttLink(t, broker, "pi-1"), MID: "m"},
	}), lasts)
	if n := len(sub.Got()); n < int(lasts/time.Second) {
		t.Errorf("only %d messages came", n)
	}
}
