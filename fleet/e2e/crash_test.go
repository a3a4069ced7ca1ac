package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

// dooms are the ways in which a model is the end of its runner, and the reasons that
// may be given for it: who eats all memory may crash before it can say so. A model
// that is late goes well for ten pictures.
var dooms = []struct{ name, code string }{
	{"crash-run-late", "E_CRASH"}, {"eat-run-late", "E_MEMORY E_CRASH"}, {"hang-run-late", "E_TIMEOUT"},
	{"crash-open", "E_CRASH"}, {"eat-open", "E_MEMORY E_CRASH"},
	{"crash-run", "E_CRASH"}, {"hang-run", "E_TIMEOUT"}, {"eat-run", "E_MEMORY E_CRASH"},
}

// Models that crash, hang or eat memory, one after the other, each come to their
// end and into quarantine; the model that ran before answers all the time, and the
// agent notices nothing. COVEY_DOOMS says how many, one of each without.
func TestCrashingModels(t *testing.T) {
	t.Parallel()
	n := len(dooms)
	if s := os.Getenv("COVEY_DOOMS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c := newController(t)
	e, heard := badBoardOf(t, c, doomedAgent(t))
	model, err := os.ReadFile(filepath.Join(models(t), mobilenet))
	if err != nil {
		t.Fatal(err)
	}
	before := e.cmd.Process.Pid
	ends := map[wire.ExecState]int{}
	for i := range n {
		doom := dooms[i%len(dooms)]
		path := filepath.Join(t.TempDir(), modelName)
		write(t, path, append(slices.Clip(model), fmt.Sprintf("doom:%s %03d", doom.name, i)...))
		version := fmt.Sprintf("1.0.%d", i)
		r := c.pushFile(doom.name, version, path, mobilenetLabels)
		x := c.set("pi-1", "cam", doom.name+"@"+version, 2*time.Minute).Executions[0]
		ends[x.State]++
		if x.State != wire.Rejected && x.State != wire.RolledBack || x.Fault == nil || !isOne(x.Fault.Code, doom.code) {
			t.Errorf("%s: %s, %+v, want an end by %s", doom.name, x.State, x.Fault, doom.code)
		}
		d := c.awaitDevice("pi-1", 10*time.Second, doom.name+" in quarantine", func(d device) bool {
			return slices.ContainsFunc(d.Reported.Quarantine, func(q wire.Quarantined) bool { return q.Release == r.Digest })
		})
		if p := d.Reported.Pipelines["cam"]; p.Active == nil || p.Active.Name != "birds" {
			t.Errorf("%s: active is %+v, want birds", doom.name, p.Active)
		}
	}
	select {
	case <-e.done:
		t.Fatal("the agent has ended")
	default:
	}
	if starts := e.count(`"message":"agent starts"`); starts != 1 || e.cmd.Process.Pid != before {
		t.Errorf("the agent started %d times", starts)
	}
	if ends[wire.RolledBack] == 0 {
		t.Errorf("ends are %v: none was on trial", ends)
	}
	var list []wire.Result
	l := newLedger()
	for len(heard) > 0 {
		_, payload, _ := strings.Cut(<-heard, " ")
		l.take(t, payload)
		r, err := decode[wire.Result]([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	l.mustBeWhole(t)
	if gap := longestGap(list); gap > 5*time.Second || len(l.lost) > 0 {
		t.Errorf("%v, a gap of %v, want 5 s at most", l, gap)
	} else {
		t.Logf("%d models, ends %v; %v, longest gap %v", n, ends, l, gap)
	}
}

// doomedAgent is the agent in a folder of its own, with a runner whose models do
// what is written behind their bytes.
func doomedAgent(t *testing.T) string {
	t.Helper()
	agent := agentWith(t, "covey-runner-jpeg", "lib/libtensorflowlite_c.so")
	build := exec.Command("go", "build", "-o", filepath.Join(filepath.Dir(agent), "covey-runner-tflite"), "./testdata/doomedrunner")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return agent
}
