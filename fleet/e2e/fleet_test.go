package e2e

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/haltest"
)

// Boards of the fleet: four with a real model and a picture, the others with a tiny one.
const (
	boards   = 20
	pictured = 4
	watched  = "pi-00" // the real board of the canary, whose results are heard
)

var sites = []string{"lyon", "nice", "oslo"}

// careful is how releases go out here: the canary, two sites, who is left.
const careful = `
phases:
  - {name: canary, query: tier=canary, soak: 1s}
  - {name: lyon, query: site=lyon, soak: 1s}
  - {name: nice, query: site=nice}
  - {name: rest, percent: 100}
gates: {success_percent: 90, crashes_percent: 0, fallback_percent: 5, slower_percent: %d}
errors: {percent: 10}
on_error: revert
offline: 10m
per_site: %d
order:
  probation: {results: 10, seconds: 60%s}
%s`

const perSite = 4

// A tale is a rollout with all that happened to it.
type tale struct {
	ID       string
	Release  struct{ Name, Version string }
	Pipeline string
	By       string
	State    wire.RolloutState
	Cause    string
	Reason   string
	Created  time.Time
	Ended    time.Time
	Devices  int
	Back     int
	Phases   []struct {
		Name, State, Reason string
		Devices             int
	}
	Executions []episode
	Earlier    []episode
	History    []struct{ By, What string }
}

type episode struct {
	Device, Phase string
	State         wire.ExecState
	Fault         *wire.Fault
	Updated       time.Time
	Back          *struct{ Name, Version string }
	Kept          string
}

func (r tale) of(device string) episode {
	i := slices.IndexFunc(r.Executions, func(x episode) bool { return x.Device == device })
	if i < 0 {
		return episode{}
	}
	return r.Executions[i]
}

// did says whether somebody, or the policy, did something with these words in it.
func (r tale) did(by, what string) bool {
	for _, a := range r.History {
		if a.By == by && strings.Contains(a.What, what) {
			return true
		}
	}
	return false
}

// A nation is a controller, people and boards.
type nation struct {
	t     *testing.T
	c     *controller
	dir   string
	edges map[string]*edge
	ear   *ear
	light string // the agent without an engine but ONNX Runtime
	doom  string // the agent whose models may be the end of their runner
	house string
	ada   []string // the environment in which covey is an operator's
}

func (n *nation) at(name ...string) string { return filepath.Join(append([]string{n.dir}, name...)...) }

func (n *nation) trust(args ...string) {
	n.t.Helper()
	n.c.covey(append(args, "--trust", n.at("trust"))...)
}

// site of a board.
func site(i int) string { return sites[i%len(sites)] }

// board writes a board's configuration.
func (n *nation) board(i int) *edge {
	var lines []string
	if i == 0 {
		lines = append(lines, "home: {broker: mqtt://"+n.house+"}")
	}
	if i == 0 || i == pictured {
		lines = append(lines, "labels: {tier: canary}")
	}
	lines = append(lines, "pipelines:", "  cam:")
	if i < pictured {
		fps := 5
		if i == 0 {
			fps = 10
		}
		lines = append(lines, fmt.Sprintf("    source: {type: folder, path: %s, loop: true, fps: %d}", pictures(n.t, 2, peacock), fps), "    accelerator: xnnpack", "    memory: 600MB")
	} else {
		lines = append(lines, "    source: {type: synthetic, width: 64, height: 48, fps: 10}", "    accelerator: cpu")
	}
	e := newEdge(n.t, n.c, fmt.Sprintf("pi-%02d", i), lines...)
	if e.agent = n.light; i < pictured {
		e.agent = n.doom
	}
	n.edges[e.id] = e
	return e
}

// settle lets boards join, all at once, and waits until all are there.
func (n *nation) settle(from, to int) {
	n.t.Helper()
	tokens := map[string]string{}
	for _, s := range sites {
		tokens[s] = ask[struct{ Token string }](n.c, "device", "token", "--uses", fmt.Sprint(to-from), "--label", "site="+s).Token
	}
	var wg sync.WaitGroup
	for i := from; i < to; i++ {
		e := n.board(i)
		wg.Go(func() {
			if _, err := run(n.t, nil, e.agent, "join", "--config", e.config, tokens[site(i)]); err != nil {
				n.t.Error(err)
			}
		})
	}
	wg.Wait()
	if n.t.Failed() {
		n.t.FailNow()
	}
	for i := from; i < to; i++ {
		n.edges[fmt.Sprintf("pi-%02d", i)].start()
	}
	until(n.t, 2*time.Minute, "all boards are there", func() error {
		online := 0
		for _, d := range ask[[]device](n.c, "device", "list") {
			if d.State == "online" && len(d.Pipelines) > 0 {
				online++
			}
		}
		if online != to {
			return fmt.Errorf("%d of %d", online, to)
		}
		return nil
	})
}

// agentWith is covey-agent in a folder of its own, with these files beside it.
func agentWith(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range append(names, "covey-agent") {
		b, err := os.ReadFile(program(t, name))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "covey-agent")
}

// tiny is a model that looks at 1001 pixels, one for each class of MobileNet, and says
// whose is the brightest: in this picture, given as MobileNet's input, the class named.
func tiny(picture []byte, class int) []byte {
	const classes, side = 1001, 224
	bright, dark := 0, 0
	for i, v := range picture {
		if v > picture[bright] {
			bright = i
		}
		if v < picture[dark] {
			dark = i
		}
	}
	var at []byte
	for c := range classes {
		i := dark
		if c == class {
			i = bright
		}
		for _, k := range []int{0, i / (3 * side), i / 3 % side, i % 3} {
			at = binary.LittleEndian.AppendUint64(at, uint64(k))
		}
	}
	return haltest.ONNX(haltest.Graph{
		Nodes: []haltest.Node{
			{Op: "GatherND", In: []string{"x", "at"}, Out: []string{"seen"}},
			{Op: "Cast", In: []string{"seen"}, Out: []string{"y"}, Attributes: map[string]any{"to": haltest.ONNXFloat}},
		},
		Weights: []haltest.Constant{{Name: "at", Type: haltest.ONNXInt64, Shape: []int{1, classes, 4}, Data: at}},
		In:      []haltest.Value{{Name: "x", Type: haltest.ONNXUint8, Shape: []any{1, side, side, 3}}},
		Out:     []haltest.Value{{Name: "y", Type: haltest.ONNXFloat, Shape: []any{1, classes}}},
	})
}

// sample is the picture of the peacock as covey prepares it for MobileNet.
func (n *nation) sample() []byte {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(models(n.t), peacock))
	if err == nil {
		err = os.MkdirAll(n.at("samples", "peacock"), 0o755)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	write(n.t, n.at("samples", "peacock", "one.png"), b)
	n.c.covey("release", "init", filepath.Join(models(n.t), mobilenet), "--labels", filepath.Join(models(n.t), mobilenetLabels),
		"--samples", n.at("samples"), "--name", "birds", "--out", n.at("draft"))
	var input []byte
	filepath.WalkDir(n.at("draft"), func(path string, e fs.DirEntry, err error) error {
		if i, _ := e.Info(); err == nil && i.Size() == 224*224*3 {
			input, err = os.ReadFile(path)
		}
		return err
	})
	if input == nil {
		n.t.Fatal("covey release init has made no sample")
	}
	return input
}

// An edition is one release of birds.
type edition struct {
	version string
	model   func([]byte) []byte // of MobileNet
	labels  func([]string) []string
	blind   bool // without a golden sample
	code    string
	// of the order
	probation, order string
}

// folder is an edition as its maker has it.
func (n *nation) folder(ed edition, sample []byte) string {
	n.t.Helper()
	dir := n.at("birds-" + ed.version)
	b, err := os.ReadFile(filepath.Join(models(n.t), mobilenet))
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	text, err2 := os.ReadFile(filepath.Join(models(n.t), mobilenetLabels))
	if err := cmp.Or(err, err2); err != nil {
		n.t.Fatal(err)
	}
	labels := strings.Split(strings.TrimSpace(string(text)), "\n")
	class := slices.Index(labels, "peacock")
	if ed.labels != nil {
		labels = ed.labels(labels)
	}
	if ed.model != nil {
		b = ed.model(slices.Clip(b))
	}
	golden := `"golden":[{"inputs":[{"name":"peacock.bin"}],"label":"peacock"}],`
	if ed.blind {
		golden = ""
	}
	for name, b := range map[string][]byte{
		modelName: b, "tiny.onnx": tiny(sample, class), "labels.txt": []byte(strings.Join(labels, "\n") + "\n"), "peacock.bin": sample,
		"release.json": []byte(`{"v":1,"name":"birds","version":"` + ed.version + `","task":"",` + golden + `"labels":{"name":"labels.txt"},
			"variants":[{"engine":"tflite","file":{"name":"m.tflite"}},{"engine":"onnx","file":{"name":"tiny.onnx"}}]}`),
	} {
		write(n.t, filepath.Join(dir, name), b)
	}
	return dir
}

// yard is a release of configuration: how sure an answer must be to be one.
func (n *nation) yard(version string, threshold float64) string {
	n.t.Helper()
	dir := n.at("yard-" + version)
	if err := os.Mkdir(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	write(n.t, filepath.Join(dir, "yard.yaml"), fmt.Appendf(nil, "pipelines:\n  cam:\n    threshold: %v\n", threshold))
	write(n.t, filepath.Join(dir, "release.json"), []byte(`{"v":1,"name":"yard","version":"`+version+`","config":{"name":"yard.yaml"}}`))
	return dir
}

// start begins a rollout as the operator.
func (n *nation) start(query, want, policy string) string {
	n.t.Helper()
	path := filepath.Join(n.t.TempDir(), "policy.yaml")
	write(n.t, path, []byte(policy))
	out, err := run(n.t, n.ada, program(n.t, "covey"), "--json", "rollout", "start", query, want, "--policy", path, "--yes")
	if err != nil {
		n.t.Fatal(err)
	}
	r, err := decode[tale](out)
	if err != nil {
		n.t.Fatal(err)
	}
	return r.ID
}

// follow waits until a rollout is over or waits for somebody, and sees that no site has
// more boards at it than may be. Where boards go back there is no such limit, and one
// that restarts with its configuration is not there, and takes nobody's place.
func (n *nation) follow(id string) tale {
	n.t.Helper()
	out, err := n.c.tryCovey("rollout", "watch", id)
	if len(out) == 0 {
		n.t.Fatal(err)
	}
	now := map[string]wire.ExecState{}
	for line := range strings.Lines(string(out)) {
		ch, err := decode[struct {
			Rollout    tale
			Executions []episode
		}]([]byte(line))
		if err != nil {
			n.t.Fatalf("%v: %s", err, line)
		}
		for _, x := range ch.Executions {
			now[x.Device] = x.State
		}
		at := map[string]int{}
		for id, s := range now {
			var i int
			fmt.Sscanf(id, "pi-%d", &i)
			if s != wire.Queued && !s.Terminal() {
				at[site(i)]++
			}
		}
		for s, k := range at {
			if k > perSite && ch.Rollout.Pipeline == "cam" && ch.Rollout.State == wire.RolloutRunning {
				n.t.Errorf("rollout %s: %d boards of %s at it, may be %d", id, k, s, perSite)
			}
		}
	}
	return ask[tale](n.c, "rollout", "show", id)
}

// must is follow, to a certain end.
func (n *nation) must(id string, want wire.RolloutState) tale {
	n.t.Helper()
	r := n.follow(id)
	if r.State != want {
		b, _ := json.MarshalIndent(r, "", " ")
		n.t.Fatalf("rollout %s of %s %s is %s, want %s\n%s", id, r.Release.Name, r.Release.Version, r.State, want, b)
	}
	return r
}

// runs counts the boards that run a release of birds, as they report it.
func (n *nation) runs() map[string]int {
	n.t.Helper()
	count := map[string]int{}
	for _, d := range ask[[]device](n.c, "device", "list") {
		for _, p := range d.Pipelines {
			if p.Name == "cam" && p.Release != nil {
				count[p.Release.Version]++
			}
		}
	}
	return count
}

// An ear hears the results of a board, and when.
type ear struct {
	mu   sync.Mutex
	all  []heardResult
	t    *testing.T
	bell chan struct{} // closed and renewed at each result
}

func newEar(t *testing.T, lines <-chan string) *ear {
	e := &ear{t: t, bell: make(chan struct{})}
	go func() {
		for {
			select {
			case l := <-lines:
				_, payload, _ := strings.Cut(l, " ")
				r, err := decode[wire.Result]([]byte(payload))
				if err != nil || r.Model.Ver == "" { // lost, which only may be
					continue
				}
				e.mu.Lock()
				e.all = append(e.all, heardResult{r, time.Now()})
				close(e.bell)
				e.bell = make(chan struct{})
				e.mu.Unlock()
			case <-t.Context().Done():
				return
			}
		}
	}()
	return e
}

// since is what was heard from a moment on.
func (e *ear) since(from time.Time) []heardResult {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.all, func(r heardResult) bool { return r.at.After(from) })
	if i < 0 {
		return nil
	}
	return slices.Clone(e.all[i:])
}

// await waits for n results from now on that are as wanted.
func (e *ear) await(n int, what string, ok func(heardResult) bool) {
	e.t.Helper()
	from, end := time.Now(), time.After(2*time.Minute)
	for {
		e.mu.Lock()
		bell := e.bell
		e.mu.Unlock()
		k := 0
		for _, r := range e.since(from) {
			if ok(r) {
				k++
			}
		}
		if k >= n {
			return
		}
		select {
		case <-bell:
		case <-end:
			e.t.Fatalf("%d of %d results of %s within two minutes", k, n, what)
		}
	}
}

func (e *ear) awaitVersion(n int, version string) {
	e.t.Helper()
	e.await(n, version, func(r heardResult) bool { return r.Model.Ver == version })
}

// newNation is people, a controller and boards that know who signs.
func newNation(t *testing.T) *nation {
	t.Helper()
	n := &nation{t: t, c: newController(t), dir: t.TempDir(), edges: map[string]*edge{}, house: linktest.Mosquitto(t),
		light: agentWith(t, "covey-runner-onnx", "lib/libonnxruntime.so"), doom: doomedAgent(t)}
	n.ada = n.person("ada", "operator")
	for _, name := range []string{"ada.key", "ben.key"} {
		n.c.covey("trust", "key", "new", n.at(name), "--no-passphrase")
	}
	write(t, n.at("director.pub"), []byte(ask[struct{ Public string }](n.c, "trust", "director").Public))
	n.trust("trust", "init", "--releases", n.at("ada.key")+","+n.at("ben.key"), "--threshold", "2", "--director", n.at("director.pub"))
	n.trust("trust", "sign", "--key", n.at("ada.key"))
	n.trust("trust", "sign", "--key", n.at("ben.key"))
	n.trust("trust", "push")
	n.ear = newEar(t, listen(t, n.house, "-t", wire.Home{Root: "covey", ID: watched}.Result("cam")))
	return n
}

// person is the environment of somebody with a token of their own.
func (n *nation) person(name, role string) []string {
	n.t.Helper()
	token := ask[struct{ Token string }](n.c, "token", "add", name, "--role", role).Token
	write(n.t, n.at(name+".token"), []byte(token+"\n"))
	b, err := os.ReadFile(filepath.Join(n.c.data, "endpoints.json"))
	if err != nil {
		n.t.Fatal(err)
	}
	at, err := decode[struct{ API, CA string }](b)
	if err != nil {
		n.t.Fatal(err)
	}
	env := []string{"XDG_CONFIG_HOME=" + n.at(name)}
	if _, err := run(n.t, env, program(n.t, "covey"), "login", at.API, "--ca", filepath.Join(n.c.data, filepath.Base(at.CA)), "--token-file", n.at(name+".token")); err != nil {
		n.t.Fatal(err)
	}
	return env
}

// A row is how a bad release fared.
type row struct {
	name, code                  string
	refused, back, over, gapped time.Duration
}

// Two people sign, twenty boards get what they signed phase by phase, and what is bad
// is halted at the canary and taken back, with its reason. A good release is taken back
// from every board, a configuration from a site; and who joins later gets what its
// group has.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("twenty boards take a minute")
	}
	t.Parallel()
	n := newNation(t)
	n.settle(0, boards)
	sample := n.sample()

	doom := func(name string) func([]byte) []byte {
		return func(b []byte) []byte { return append(b, "doom:"+name+" "...) }
	}
	bad := []edition{
		{version: "2.0.0-crash", model: doom("crash-run-late"), code: "E_CRASH"},
		{version: "2.0.0-wrong", model: func(b []byte) []byte {
			for i := 2_000_000; i < 2_400_000; i++ {
				b[i] ^= 0x5a
			}
			return b
		}, code: "E_GOLDEN"},
		{version: "2.0.0-slow", model: doom("slow-run"), code: "E_SLOW", probation: ", slower_percent: 400"},
		{version: "2.0.0-labels", labels: func(l []string) []string { return append(l[1:], l[0]) }, blind: true, code: "E_AGREEMENT",
			order: "  shadow: {frames: 15, agreement_percent: 80, seconds: 60}\n"},
	}
	var signed []string
	for _, ed := range append([]edition{{version: "1.0.0"}, {version: "1.1.0", model: func(b []byte) []byte { return append(b, "twin"...) }}}, bad...) {
		signed = append(signed, n.folder(ed, sample))
	}
	signed = append(signed, n.yard("1.0.0", 0.5), n.yard("1.1.0", 0.995))
	sign := func(folder, key string) { n.trust("release", "sign", folder, "--key", n.at(key)) }
	for _, folder := range signed {
		sign(folder, "ada.key")
		sign(folder, "ben.key")
		n.c.covey("release", "push", folder)
	}
	n.trust("trust", "push")

	// A plan names every board, what it would run, and when.
	policy := func(ed edition, slower int) string {
		return fmt.Sprintf(careful, slower, perSite, ed.probation, ed.order)
	}
	write(t, n.at("policy.yaml"), []byte(policy(edition{}, 150)))
	plan := ask[struct {
		Targets []struct {
			Device, Phase, Variant string
			Refusal                *wire.Fault
		}
	}](n.c, "rollout", "plan", "all", "cam=birds@1.0.0", "--policy", n.at("policy.yaml"))
	phases := map[string]int{}
	for _, x := range plan.Targets {
		phases[x.Phase]++
		var i int
		fmt.Sscanf(x.Device, "pi-%d", &i)
		want := "tiny.onnx"
		if i < pictured {
			want = modelName
		}
		if x.Refusal != nil || x.Variant != want {
			t.Errorf("plan of %s: %+v %+v, want %s", x.Device, x, x.Refusal, want)
		}
	}
	if phases["canary"] != 2 || phases["lyon"] != 6 || phases["nice"] != 6 || phases["rest"] != 6 {
		t.Errorf("the plan has phases %v", phases)
	}

	// The first release: nothing ran before, and the gates that a policy has without a word.
	r := n.must(n.start("all", "cam=birds@1.0.0", policy(edition{}, 150)), wire.RolloutCompleted)
	if got := n.runs(); got["1.0.0"] != boards {
		t.Fatalf("boards run %v", got)
	}
	for _, p := range r.Phases {
		if p.State != "PASSED" || !r.did("", "phase "+p.Name+" passed") {
			t.Errorf("phase %s is %s; history %+v", p.Name, p.State, r.History)
		}
	}

	// Signed by one alone: no board runs it.
	half := n.folder(edition{version: "1.0.1"}, sample)
	sign(half, "ada.key")
	n.c.covey("release", "push", half)
	one := n.must(n.start("tier=canary", "cam=birds@1.0.1", policy(edition{}, 150)), wire.RolloutRolledBack)
	for _, x := range one.Executions {
		if x.State != wire.Rejected || x.Fault == nil || x.Fault.Code != "E_SIGNATURE" {
			t.Errorf("signed by one alone: %+v %+v", x, x.Fault)
		}
	}

	var table []row
	for _, ed := range bad {
		table = append(table, n.halts(ed, policy(ed, 0)))
	}
	if got := n.runs(); got["1.0.0"] != boards {
		t.Errorf("after four bad releases boards run %v", got)
	}

	// A good one, which is taken back all the same.
	good := n.must(n.start("all", "cam=birds@1.1.0", policy(edition{}, 0)), wire.RolloutCompleted)
	if got := n.runs(); got["1.1.0"] != boards {
		t.Errorf("boards run %v, want 1.1.0", got)
	}
	from := time.Now()
	n.c.covey("rollout", "revert", good.ID)
	good = n.must(good.ID, wire.RolloutRolledBack)
	reverted := time.Since(from)
	if got := n.runs(); got["1.0.0"] != boards || good.Back != boards || !good.did("admin", "reverted") {
		t.Errorf("after the revert boards run %v; %d are back; %+v", got, good.Back, good.History)
	}

	n.configures()
	late := n.joinsLater()
	n.audit(append([]edition{{version: "1.0.1", code: "E_SIGNATURE"}}, bad...), good.ID, late)

	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "release\treason\torder to refused\tfailing frame to old model\torder to rolled back\tlongest gap of results")
	for _, r := range table {
		back := "never ran"
		if r.back > 0 {
			back = seconds(r.back)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.code, seconds(r.refused), back, seconds(r.over), seconds(r.gapped))
	}
	w.Flush()
	t.Logf("a good release on %d boards: %s; taken back from all: %s\n%s", boards, seconds(r.Ended.Sub(r.Created)), seconds(reverted), b.String())
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// halts brings out a bad release, which must get no further than the canary.
func (n *nation) halts(ed edition, policy string) row {
	t := n.t
	t.Helper()
	n.ear.awaitVersion(25, "1.0.0") // to be held against
	from := time.Now()
	r := n.must(n.start("all", "cam=birds@"+ed.version, policy), wire.RolloutRolledBack)
	n.ear.awaitVersion(5, "1.0.0")
	x := r.of(watched)
	if x.Fault == nil || x.Fault.Code != ed.code || x.State != wire.RolledBack && x.State != wire.Rejected {
		t.Errorf("%s: %s %+v, want %s", ed.version, x.State, x.Fault, ed.code)
	} else {
		t.Logf("%s: %s %s: %s", ed.version, x.State, x.Fault.Code, x.Fault.Text)
	}
	for _, x := range r.Executions {
		if x.Phase != "canary" && x.State != wire.Canceled {
			t.Errorf("%s: %s, which is no canary, is %s", ed.version, x.Device, x.State)
		}
	}
	if !strings.HasPrefix(r.Reason, "phase canary: ") || r.Phases[0].State != "FAILED" || r.Phases[1].State != "PENDING" {
		t.Errorf("%s: %s, %+v", ed.version, r.Reason, r.Phases)
	}
	out := row{name: ed.version, code: ed.code, refused: x.Updated.Sub(r.Created), over: r.Ended.Sub(r.Created)}
	all := n.ear.since(from)
	first, last := -1, -1
	for i, h := range all {
		if i > 0 {
			out.gapped = max(out.gapped, h.at.Sub(all[i-1].at))
		}
		if h.Model.Ver != "1.0.0" {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if ran := ed.code == "E_CRASH" || ed.code == "E_SLOW"; ran != (first >= 0) {
		t.Errorf("%s: %d results of it", ed.version, last-first)
	} else if ran {
		failing := all[first].TS // every frame of a slow model fails
		if ed.code == "E_CRASH" {
			failing = all[last+1].TS // the old model was given the frame again
		}
		if out.back = all[last+1].at.Sub(failing); out.back > 30*time.Second {
			t.Errorf("%s: the old model is back after %v", ed.version, out.back)
		}
	}
	return out
}

// configures brings a configuration to a site, another one, and takes that back.
func (n *nation) configures() {
	t := n.t
	t.Helper()
	policy := "phases: [{name: all, percent: 100}]\norder: {probation: {results: 5, seconds: 60}}\n"
	answers := func(want int) {
		t.Helper()
		n.ear.await(5, fmt.Sprintf("%d answers", want), func(r heardResult) bool { return len(r.Items) == want })
	}
	answers(1)
	n.must(n.start("site=lyon", "config=yard@1.0.0", policy), wire.RolloutCompleted)
	answers(1)
	second := n.must(n.start("site=lyon", "config=yard@1.1.0", policy), wire.RolloutCompleted)
	answers(0) // not even the peacock is as sure as that
	if second.Devices != (boards+2)/len(sites) {
		t.Errorf("%d boards of lyon were configured", second.Devices)
	}
	n.c.covey("rollout", "revert", second.ID)
	second = n.must(second.ID, wire.RolloutRolledBack)
	answers(1)
	for i := range boards {
		id, want := fmt.Sprintf("pi-%02d", i), ""
		if site(i) == "lyon" {
			want = "1.0.0"
		}
		n.c.awaitDevice(id, time.Minute, "configured by "+want, func(d device) bool {
			if d.Reported == nil {
				return false
			}
			a := d.Reported.Pipelines[wire.ConfigPipeline].Active
			return a == nil && want == "" || a != nil && a.Version == want
		})
	}
}

// joinsLater lets a board join a group that a rollout has already been to.
func (n *nation) joinsLater() (id string) {
	t := n.t
	t.Helper()
	n.c.covey("group", "set", "snow", "site == oslo", "--dynamic")
	id = n.start("@snow", "cam=birds@1.1.0", fmt.Sprintf("phases: [{name: all, percent: 100}]\nper_site: %d\norder: {probation: {results: 5, seconds: 60}}\n", perSite))
	n.must(id, wire.RolloutCompleted)
	n.settle(boards, boards+1) // oslo's
	late := fmt.Sprintf("pi-%02d", boards)
	n.c.awaitDevice(late, 2*time.Minute, "runs what its group has", func(d device) bool {
		p := d.Reported.Pipelines["cam"]
		return p.Active != nil && p.Active.Version == "1.1.0" && p.State == wire.Succeeded
	})
	return id
}

// audit sees that who did what, and why, is kept.
func (n *nation) audit(bad []edition, good, late string) {
	t := n.t
	t.Helper()
	all := map[string]tale{}
	for _, r := range ask[[]tale](n.c, "rollout", "list") {
		all[r.ID] = r
	}
	if len(all) != 1+len(bad)+1+2+1 {
		t.Errorf("%d rollouts are listed", len(all))
	}
	for _, ed := range bad {
		found := false
		for id, listed := range all {
			if listed.Release.Version != ed.version {
				continue
			}
			found = true
			r := ask[tale](n.c, "rollout", "show", id)
			if r.By != "ada" || !r.did("ada", "asked for birds@"+ed.version) || !r.did("", "phase canary failed") || !r.did("", "goes back") || !r.did("", "ROLLED_BACK") {
				t.Errorf("history of %s by %s: %+v", ed.version, r.By, r.History)
			}
			if x := r.of(watched); x.Fault == nil || x.Fault.Code != ed.code || x.Fault.Text == "" {
				t.Errorf("%s: the reason of %s is %+v", ed.version, watched, x.Fault)
			}
		}
		if !found {
			t.Errorf("%s is not in the list", ed.version)
		}
	}
	if r := ask[tale](n.c, "rollout", "show", good); len(r.Earlier) != boards || r.By != "ada" || !r.did("", "COMPLETED") || !r.did("admin", "reverted") {
		t.Errorf("of the good release there are %d earlier executions; %+v", len(r.Earlier), r.History)
	}
	if r := ask[tale](n.c, "rollout", "show", late); r.of(fmt.Sprintf("pi-%02d", boards)).State != wire.Succeeded {
		t.Errorf("who came later is %+v", r.of(fmt.Sprintf("pi-%02d", boards)))
	}
}
