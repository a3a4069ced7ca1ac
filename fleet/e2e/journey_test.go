package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

// An operator brings a model to a board, then another; both are right, and the
// operator sees every state go by.
func TestJourney(t *testing.T) {
	c := newController(t)
	e := newEdge(t, c, "pi-1",
		"pipelines:",
		"  cam:",
		"    source: {type: folder, path: "+pictures(t, 2, peacock, example)+", loop: true, fps: 20}",
	)
	e.join()
	e.start()
	c.awaitDevice("pi-1", 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })
	c.covey("device", "results", "pi-1", "cam", "on")

	first := c.push("birds", "1.0.0", mobilenet, mobilenetLabels)
	if r := c.set("pi-1", "cam", first, time.Minute); r.State != wire.RolloutCompleted || r.Executions[0].State != wire.Succeeded {
		t.Fatalf("first release: %+v", r)
	}
	seen := awaitResults(t, c, "pi-1", "cam", 4)
	for _, r := range seen {
		if r.Model.Name == "birds" && strings.Contains(r.Name, "peacock") {
			b, _ := json.Marshal(r)
			wantPeacock(t, b)
		}
	}
	second := c.push("room", "1.0.0", ssd, ssdLabels)
	if r := c.set("pi-1", "cam", second, time.Minute); r.Executions[0].State != wire.Succeeded {
		t.Fatalf("second release: %+v", r)
	}
	d := c.awaitDevice("pi-1", 10*time.Second, "runs room", func(d device) bool {
		p := d.Reported.Pipelines["cam"]
		return p.Active != nil && p.Active.Name == "room" && p.Previous != nil && p.Previous.Name == "birds"
	})
	if d.Health == nil {
		c.awaitDevice("pi-1", 30*time.Second, "sends health", func(d device) bool { return d.Health != nil })
	}
	if err := e.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	c.awaitDevice("pi-1", 10*time.Second, "stopped", func(d device) bool { return d.State == "stopped" })
	if err := c.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
}

// results are all results that the controller keeps, by order of arrival.
func results(c *controller, device, pipeline string) (list []wire.Result, lost []wire.Lost, err error) {
	out, err := c.tryCovey("device", "results", device, pipeline, "--limit", "10000")
	if err != nil {
		return nil, nil, err
	}
	page, err := decode[[]struct {
		Result *wire.Result
		Lost   *wire.Lost
	}](out)
	for _, r := range page {
		if r.Result != nil {
			list = append(list, *r.Result)
		}
		if r.Lost != nil {
			lost = append(lost, *r.Lost)
		}
	}
	return list, lost, err
}

func awaitResults(t *testing.T, c *controller, device, pipeline string, n int) []wire.Result {
	t.Helper()
	var list []wire.Result
	until(t, 2*time.Minute, fmt.Sprintf("%d results", n), func() (err error) {
		list, _, err = results(c, device, pipeline)
		if err == nil && len(list) < n {
			err = fmt.Errorf("%d so far", len(list))
		}
		return err
	})
	return list
}

// The promise of the whole: 1,000 frames at 50 a second through a change of the
// model, while the links are cut 20 times and the controller is killed five times. Each of the 1,000 results reaches the controller's store and the house's
// broker, and none twice with another content.
func TestThousandFrames(t *testing.T) {
	const frames, kills = 1000, 5
	const fleetCuts, homeCuts = 6, 14 // and each kill cuts the fleet link once more
	c := newController(t)
	house := linktest.Mosquitto(t)
	fleetProxy, homeProxy := linktest.NewProxy(t, c.mqtt), linktest.NewProxy(t, house)
	e := newEdge(t, c, "pi-1",
		"fleet: {url: mqtts://"+fleetProxy.Addr()+"}",
		"home: {broker: mqtt://"+homeProxy.Addr()+"}",
		"pipelines:",
		"  cam:",
		"    source: {type: folder, path: "+pictures(t, frames, peacock)+", fps: 50}",
	)
	e.join()
	heard := listen(t, house, "-t", wire.Home{Root: "covey", ID: "pi-1"}.Result("cam"), "-i", "collector", "-c")
	e.start()
	c.awaitDevice("pi-1", 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })
	c.covey("device", "results", "pi-1", "cam", "on")
	// Two versions of one model: whatever answers must answer peacock.
	first := c.push("birds", "1.0.0", mobilenet, mobilenetLabels)
	second := c.push("birds", "2.0.0", mobilenet, mobilenetLabels)
	c.awaitDevice("pi-1", 20*time.Second, "took in the wish for results", func(d device) bool { return d.Reported.Rev >= 1 })
	c.covey("set", "pi-1", "cam="+first, "--yes")
	awaitResults(t, c, "pi-1", "cam", 50)

	c.covey("set", "pi-1", "cam="+second, "--yes")
	var trouble sync.WaitGroup
	trouble.Go(func() { cutLink(t, fleetCuts, fleetProxy) })
	trouble.Go(func() { cutLink(t, homeCuts, homeProxy) })
	for range kills {
		c.kill()
		c.start()
	}
	trouble.Wait()

	atFleet := awaitResults(t, c, "pi-1", "cam", frames)
	var atHome []wire.Result
	for len(atHome) == 0 || len(distinct(atHome)) < frames {
		_, payload := next(t, heard, 2*time.Minute, "result at home", func(string, string) bool { return true })
		r, err := decode[wire.Result]([]byte(payload))
		if err != nil || r.ID == "" {
			t.Fatalf("at home: %v: %s", err, payload)
		}
		atHome = append(atHome, r)
	}
	_, lost, err := results(c, "pi-1", "cam")
	if err != nil || len(lost) > 0 {
		t.Errorf("lost: %v %v", lost, err)
	}
	if fleetProxy.Cuts() < fleetCuts || homeProxy.Cuts() < homeCuts {
		t.Errorf("%d and %d cuts, want %d and %d: the test did not do what it says", fleetProxy.Cuts(), homeProxy.Cuts(), fleetCuts, homeCuts)
	}
	wantWhole(t, "at the controller", atFleet, frames)
	wantWhole(t, "at home", atHome, frames)
	versions := map[string]int{}
	for _, r := range atFleet {
		versions[r.Model.Ver]++
	}
	if versions["1.0.0"] == 0 || versions["2.0.0"] == 0 {
		t.Errorf("results by version %v, want both", versions)
	}
	c.awaitDevice("pi-1", time.Minute, "succeeded", func(d device) bool {
		p := d.Reported.Pipelines["cam"]
		return p.State == wire.Succeeded && p.Active != nil && p.Active.Version == "2.0.0"
	})
	t.Logf("cuts: fleet %d, home %d; %d results at home, %d of them again; by version %v; longest gap between two frames %v",
		fleetProxy.Cuts(), homeProxy.Cuts(), len(atHome), len(atHome)-frames, versions, longestGap(atFleet))
	if err := e.stop(15 * time.Second); err != nil {
		t.Error(err)
	}
	if !e.said(`"captured":1000,"published":1000`) {
		t.Error("the agent's own count is not 1000 captured, 1000 published")
	}
}

// cutLink cuts a link n times in every way. A cut needs a connection: it waits
// until the agent is back, for as long as that takes by its own rules.
func cutLink(t *testing.T, n int, p *linktest.Proxy) {
	for i := p.Cuts(); i < n; i = p.Cuts() {
		if !pause(t, 10*time.Millisecond+rand.N(400*time.Millisecond)) { // in the middle of something
			return
		}
		switch {
		case i == 2: // noticed by the keep-alive alone, which takes its time
			p.HalfOpen()
		case i%3 == 1:
			resume := p.Stall()
			pause(t, 300*time.Millisecond)
			resume()
		default:
			p.Reset()
		}
	}
}

// pause is the network's own time. False: the test is over.
func pause(t *testing.T, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-t.Context().Done():
		return false
	}
}

func distinct(list []wire.Result) map[uint64]wire.Result {
	by := make(map[uint64]wire.Result, len(list))
	for _, r := range list {
		by[r.Seq] = r
	}
	return by
}

// wantWhole holds a stream to its promise: seq from 1 to n, all peacocks, and what
// came twice is the same.
func wantWhole(t *testing.T, where string, list []wire.Result, n int) {
	t.Helper()
	bySeq, byID := map[uint64]string{}, map[string]string{}
	frames := map[uint64]bool{}
	for _, r := range list {
		r.Late = false // is of one sending
		b, _ := json.Marshal(r)
		if before, ok := bySeq[r.Seq]; ok && before != string(b) {
			t.Errorf("%s: seq %d twice: %s and %s", where, r.Seq, before, b)
		}
		if before, ok := byID[r.ID]; ok && before != string(b) {
			t.Errorf("%s: id %s twice: %s and %s", where, r.ID, before, b)
		}
		bySeq[r.Seq], byID[r.ID], frames[r.Frame] = string(b), string(b), true
		if len(r.Items) == 0 || r.Items[0].Label != "peacock" {
			t.Errorf("%s: frame %d is %v", where, r.Frame, labelsOf(&r))
		}
	}
	for seq := uint64(1); seq <= uint64(n); seq++ {
		if _, ok := bySeq[seq]; !ok {
			t.Errorf("%s: seq %d is missing", where, seq)
		}
	}
	if len(bySeq) != n || len(byID) != n || len(frames) != n {
		t.Errorf("%s: %d seqs, %d ids, %d frames, want %d of each", where, len(bySeq), len(byID), len(frames), n)
	}
}

// longestGap is between two frames, but for the first ones, which wait for the
// first model.
func longestGap(list []wire.Result) time.Duration {
	list = slices.SortedFunc(slices.Values(list), func(a, b wire.Result) int { return int(a.Frame) - int(b.Frame) })
	var gap time.Duration
	for i := 10; i < len(list); i++ {
		gap = max(gap, list[i].TS.Sub(list[i-1].TS))
	}
	return gap
}

// Who joined nothing is told how; who is revoked is shut out at once.
func TestRevoke(t *testing.T) {
	c := newController(t)
	e := newEdge(t, c, "pi-1", "pipelines: {cam: {source: {type: synthetic, fps: 5}}}")
	e.join()
	e.start()
	c.awaitDevice("pi-1", 20*time.Second, "online", func(d device) bool { return d.State == "online" })
	c.covey("device", "revoke", "pi-1", "--yes")
	c.awaitDevice("pi-1", 10*time.Second, "revoked", func(d device) bool { return d.State == "revoked" })
	e.await("link down", 20*time.Second)
	other := newEdge(t, c, "pi-2", "pipelines: {cam: {source: {type: synthetic, fps: 5}}}")
	token := ask[struct{ Token string }](c, "device", "token").Token
	agent := program(t, "covey-agent")
	if _, err := run(t, nil, agent, "join", "--config", other.config, token); err != nil {
		t.Fatal(err)
	}
	_, err := run(t, nil, agent, "join", "--config", other.config, token)
	if err == nil {
		t.Error("a join token was used twice")
	}
}
