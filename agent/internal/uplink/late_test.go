package uplink

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
)

// What is late is said when it is sent: what goes at once is not, what was held back is,
// and tells its age.
func TestLate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		toYear(2026)
		b := mem.NewBroker()
		r := read(t, b.Link("reader", false))
		u := open(t, Config{Dir: dir, Home: &HomeConfig{Link: b.Link("pi-1-home", false)}})
		running(t, u)
		say := func(i int) {
			offer(t, u, result(i))
			if err := u.OfferEvent("porch", event(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		say(1)
		time.Sleep(time.Second)
		b.Down(true)
		say(2)
		time.Sleep(10 * time.Minute)
		say(3)
		b.Down(false)
		time.Sleep(time.Second)
		say(4)
		time.Sleep(time.Second)
		for _, class := range []string{"event", "result"} {
			got := r.said("home/" + class)
			if len(got) != 4 {
				t.Fatalf("%ss: %+v", class, got)
			}
			for i, w := range got {
				// A few go in their order, live or not.
				if w.Seq != uint64(i)+1 || w.Late != (i == 1 || i == 2) {
					t.Errorf("%s %d: %+v", class, i, w)
				}
			}
			if away := 10 * time.Minute.Milliseconds(); class == "event" && (got[0].Age > 100 || got[3].Age > 100 || got[1].Age < away || got[1].Age > away+2000 || got[2].Age > 2000) {
				t.Errorf("ages: %+v", got)
			}
		}
	})
}

// An event that was on its way when the network went is not news a day later, though
// the link sends it again by itself.
func TestLateOnItsWay(t *testing.T) {
	broker := linktest.Mosquitto(t)
	proxy := linktest.NewProxy(t, broker)
	r := read(t, mqttLink(t, broker, "reader"))
	u := open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: mqttLink(t, proxy.Addr(), "pi-1-home")}})
	running(t, u)
	soon(t, "the link", func() bool { return u.Stats().HomeUp })
	proxy.Stall()
	if err := u.OfferEvent("porch", event(1)); err != nil {
		t.Fatal(err)
	}
	soon(t, "the event on its way", func() bool {
		u.box.mu.Lock()
		defer u.box.mu.Unlock()
		return len(u.box.logs[classEvent].streams[homeSide].busy) == 1
	})
	proxy.Reset()
	soon(t, "the event", func() bool { return len(r.said("home/event")) > 0 })
	if got := r.said("home/event"); len(got) != 1 || !got[0].Late {
		t.Errorf("got %+v", got)
	}
}

// A board whose clock was not set does not say that something is older than it.
func TestAgeWithoutAClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "o.db")
	o := newBox(t, path, limits)
	for _, at := range []time.Time{time.Unix(30, 0), time.Now().Add(time.Hour), time.Now().Add(-time.Hour)} {
		add(t, o, classEvent, "porch", "x")
		l := &o.logs[classEvent]
		l.ring[(l.head-1)%ringSlots].at = at
	}
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
	o = newBox(t, path, limits)
	defer o.close()
	for i, p := range drain(o, homeSide) {
		var s saying
		seqOf([]byte(p), &s)
		if age := time.Duration(s.Age) * time.Millisecond; !s.Late || (i < 2) != (age < time.Minute) {
			t.Errorf("%d: %s", i, p)
		}
	}
}

// Order on one link: steps before events before results, what is new before the
// backlog, and of the backlog no more than its share in all.
func TestOrderOnALink(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := newBox(t, filepath.Join(dir, "o.db"), limits)
		defer o.close()
		const n = 2 * shortMost
		for i := range n {
			for c := range classes {
				add(t, o, c, "porch", fmt.Sprint("old ", c, i))
			}
		}
		if err := o.commit(false); err != nil {
			t.Fatal(err)
		}
		o.linkUp(fleetSide)
		for c := range classes {
			add(t, o, c, "porch", fmt.Sprint("new ", c))
		}
		if err := o.commit(false); err != nil {
			t.Fatal(err)
		}
		want := []string{`"x":"new exec"}`, `"x":"new event"}`, `"x":"new result"}`}
		for c := range classes {
			for i := range n {
				want = append(want, fmt.Sprintf(`"x":"old %v %d"}`, c, i))
			}
		}
		began := time.Now()
		var got []string
		for _, p := range drain(o, fleetSide) {
			got = append(got, bare(wire.Message{Payload: []byte(p)}))
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		if took, least := time.Since(began), 3*n*time.Second/backlogRate-100*time.Millisecond; took < least {
			t.Errorf("a backlog of %d took %v, at least %v at %d a second", 3*n, took, least, backlogRate)
		}
	})
}

// The fleet gets events when it asks for them; who asks is not forgotten.
func TestEventsToTheFleet(t *testing.T) {
	b := mem.NewBroker()
	r := read(t, b.Link("reader", false))
	dir := t.TempDir()
	start := func() (*Uplink, func()) {
		u := open(t, Config{Dir: dir, Fleet: &FleetConfig{Link: b.Link("pi-1", false), MID: "m"}, Home: &HomeConfig{Link: b.Link("pi-1-home", false)}})
		return u, running(t, u)
	}
	u, stop := start()
	bad := event(0)
	bad.Label = ""
	if err := u.OfferEvent("porch", bad); err == nil {
		t.Error("an event without a label is taken")
	}
	if err := u.OfferEvent("attic", event(0)); err == nil {
		t.Error("an event of no pipeline is taken")
	}
	if err := u.OfferEvent("porch", event(1)); err != nil {
		t.Fatal(err)
	}
	u.SetEvents([]string{"porch"})
	stop()
	u, _ = start()
	if err := u.OfferEvent("porch", event(2)); err != nil {
		t.Fatal(err)
	}
	soon(t, "two at home", func() bool { return len(r.said("home/event")) == 2 })
	soon(t, "one in the fleet", func() bool { return len(r.said("fleet/event")) == 1 })
	if got := r.said("fleet/event")[0]; got.Seq != 1 || got.ID != "pi-1-porch-2/0" {
		t.Errorf("the fleet got %+v", got)
	}
}

// An event is on disk when it was taken: the board may die.
func TestEventIsDurable(t *testing.T) {
	b := mem.NewBroker()
	r := read(t, b.Link("reader", false))
	dir := t.TempDir()
	home := func() Config { return Config{Dir: dir, Home: &HomeConfig{Link: b.Link("pi-1-home", false)}} }
	u := open(t, home())
	for i := range 3 {
		if err := u.OfferEvent("porch", event(i)); err != nil {
			t.Fatal(err)
		}
	}
	u.box.file.db.Close() // and die
	u = open(t, home())
	if q := u.Stats().Queues[1]; q.Class != "event" || q.Waiting != 3 {
		t.Errorf("%+v", q)
	}
	running(t, u)
	soon(t, "three events", func() bool { return len(r.said("home/event")) == 3 })
	for _, m := range r.said("home/event") {
		if !m.Late {
			t.Errorf("%+v is not late", m)
		}
	}
}

// A crash is said to have lost no more than a few minutes' numbers, and what was
// reserved in a hurry is given back.
func TestReserveFollowsUse(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		toYear(2026)
		b := mem.NewBroker()
		u := open(t, Config{Dir: dir, Home: &HomeConfig{Link: b.Link("pi-1-home", false)}})
		running(t, u)
		for i := range 2000 { // two hundred a second
			offer(t, u, result(i))
			time.Sleep(5 * time.Millisecond)
		}
		reserved := func() uint64 {
			u.box.mu.Lock()
			defer u.box.mu.Unlock()
			st := &u.box.logs[classResult].streams[homeSide]
			return st.written.reserved - st.written.last
		}
		if n := reserved(); n < 1000 {
			t.Errorf("in a hurry %d numbers are reserved at once", n)
		}
		idleHouse(t, u, 20*time.Minute)
		if n := reserved(); n > 2*uint64(reserveTime/time.Second) {
			t.Errorf("in an idle house %d numbers are reserved", n)
		}
	})
}

// The recipe of docs/integrator.md hears what is live and nothing that is late.
func TestRecipe(t *testing.T) {
	page, err := os.ReadFile("../../../docs/integrator.md")
	if err != nil {
		t.Fatal(err)
	}
	recipe := regexp.MustCompile("(?m)^mosquitto_sub .*late.*$").FindString(string(page))
	if recipe == "" {
		t.Fatal("docs/integrator.md has no recipe about what is late")
	}
	broker := linktest.Mosquitto(t)
	proxy := linktest.NewProxy(t, broker)
	dir := t.TempDir()
	host, number, _ := strings.Cut(broker, ":")
	if err := os.WriteFile(dir+"/mosquitto_sub", []byte("-h "+host+"\n-p "+number+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", recipe)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	r := read(t, mqttLink(t, broker, "reader"))
	u := open(t, Config{Dir: t.TempDir(), Home: &HomeConfig{Link: mqttLink(t, proxy.Addr(), "pi-1-home")}})
	running(t, u)
	isUp := func() bool { return u.Stats().HomeUp }
	soon(t, "the link", isUp)
	heard, said := "", 0
	say := func() {
		said++
		if err := u.OfferEvent("porch", event(said)); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, "the recipe", func() bool { // it has subscribed when it hears something
		say()
		select {
		case heard = <-lines:
		case <-time.After(100 * time.Millisecond):
		}
		return heard != ""
	})
	proxy.Refuse(true)
	proxy.Reset()
	soon(t, "the cut", func() bool { return !isUp() })
	say()
	late := said
	proxy.Refuse(false)
	held := fmt.Sprintf("pi-1-porch-%d/0", late)
	soon(t, "what was held back", func() bool { // others may come twice
		return slices.ContainsFunc(r.said("home/event"), func(s saying) bool { return s.ID == held })
	})
	say()
	last := fmt.Sprintf(`"id":"pi-1-porch-%d/0"`, said)
	for timeout := time.After(time.Minute); !strings.Contains(heard, last); {
		select {
		case heard = <-lines:
		case <-timeout:
			t.Fatal("the recipe does not hear what is live")
		}
		if strings.Contains(heard, fmt.Sprintf(`"id":"pi-1-porch-%d/0"`, late)) {
			t.Errorf("the recipe hears what is late: %s", heard)
		}
	}
}
