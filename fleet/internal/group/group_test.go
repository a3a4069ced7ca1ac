package group

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

var update = flag.Bool("update", false, "write the errors that are given")

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// subjects are three boards of one fleet: one that has said all there is to say,
// one that was only ever let in, and one that was shut out.
func subjects() map[string]*Subject {
	temp := 71.5
	return map[string]*Subject{
		"full": {
			ID: "pi-porch", Name: "Front door", Labels: map[string]string{"site": "lyon", "floor": "10", "fw": "1.10.0"},
			Online: true, Seen: now.Add(-time.Minute), Joined: now.Add(-48 * time.Hour), Now: now,
			Hello: &wire.Hello{Agent: "1.4.0-rc.2", OS: "linux", Arch: "arm64", Board: "Raspberry Pi 5", CPUs: 4, RAM: 4 << 30,
				Accelerators: []wire.HelloDevice{{Engine: "tflite", Accelerator: "cpu"}, {Engine: "tflite", Accelerator: "edgetpu"}},
				Runtimes:     map[string]string{"tflite": "2.17.1"}, Pipelines: []wire.HelloPipeline{{Name: "cam"}, {Name: "door"}},
				Labels: map[string]string{"site": "nowhere", "rack": "7"}},
			Health: &wire.Health{Temp: &temp, Disk: 93, Flags: []string{"low_voltage"}, Throttled: true},
			Reported: &wire.Reported{Pipelines: map[string]wire.ReportedPipeline{
				"cam":  {Active: &wire.ReportedSlot{Name: "mobilenet", Version: "1.1.0"}, State: wire.RolledBack},
				"door": {Active: &wire.ReportedSlot{Name: "faces", Version: "dev"}, State: wire.Probation, Degraded: "E_FALLBACK"},
			}},
		},
		"new":  {ID: "pi-new", Joined: now.Add(-time.Hour), Now: now},
		"gone": {ID: "pi-gone", Labels: map[string]string{"site": "lyon"}, Revoked: true, Seen: now.Add(-30 * 24 * time.Hour), Twin: true, Now: now},
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct{ query, canonical, who string }{
		{`all`, `all`, "full new"},
		{`pi-new`, `id == "pi-new"`, "new"},
		{`'pi-new'`, `id == "pi-new"`, "new"},
		{`pi-new,pi-porch, pi-nobody`, `id in ["pi-new", "pi-porch", "pi-nobody"]`, "full new"},
		{`pi-new,pi-porch,online=true`, `id in ["pi-new", "pi-porch"] and online`, "full"},
		{`site=lyon,online=true`, `site == "lyon" and online`, "full"},
		{`site=lyon`, `site == "lyon"`, "full"},
		{`all,arch=arm64`, `all and arch == "arm64"`, "full"},
		{`accelerator=edgetpu,pipeline=cam`, `accel has "edgetpu" and pipeline has "cam"`, "full"},
		{`site == "lyon" and accel has "edgetpu" and ram >= 1GiB and not (agent < 1.4.0-beta) and online and name ~ "Front*"`,
			`site == "lyon" and accel has "edgetpu" and ram >= 1GiB and not (agent < 1.4.0-beta) and online and name ~ "Front*"`, "full"},

		// A device that does not have it: == no, != yes.
		{`site == lyon`, `site == "lyon"`, "full"},
		{`site != lyon`, `site != "lyon"`, "new"},
		{`not site == lyon`, `not (site == "lyon")`, "new"},
		{`site ~ *`, `site ~ "*"`, "full"},
		{`ram != 1GiB`, `ram != 1GiB`, "full new"},
		{`ram < 1GiB`, `ram < 1GiB`, ""},
		{`temp > 71`, `temp > 71`, "full"},
		{`not (temp > 71)`, `not (temp > 71)`, "new"},

		{`label.site = lyon`, `site == "lyon"`, "full"},
		{`label.ram = lyon`, `label.ram == "lyon"`, ""},
		{`rack == 7`, `rack == "7"`, "full"}, // the board's own
		{`site == nowhere`, `site == "nowhere"`, ""},
		{`floor > 9`, `floor > 9`, "full"},
		{`floor > 9.5.0`, `floor > 9.5.0`, "full"},
		{`fw >= 1.9.0`, `fw >= 1.9.0`, "full"}, // not as text
		{`fw >= 1.9`, `fw >= 1.9`, ""},         // 1.10.0 is no number
		{`site in [paris, "lyon"]`, `site in ["paris", "lyon"]`, "full"},

		{`ram >= 4GiB and ram <= 4096MiB and ram == 4294967296`, `ram >= 4GiB and ram <= 4GiB and ram == 4GiB`, "full"},
		{`ram > 4GB`, `ram > 4GB`, "full"},
		{`ram in [1.5GiB, 4GiB]`, `ram in [1536MiB, 4GiB]`, "full"},
		{`cpus >= 4`, `cpus >= 4`, "full"},
		{`cpus < 4.5`, `cpus < 4.5`, "full"},
		{`disk > 90%`, `disk > 90`, "full"},
		{`temp > -3.5°C`, `temp > -3.5`, "full"},
		{`seen < 1h`, `seen < 1h`, "full"},
		{`seen < 90m30s`, `seen < 1h30m30s`, "full"},
		{`not seen < 1w`, `not (seen < 7d)`, "new"},
		{`joined < 1d`, `joined < 1d`, "new"},

		{`agent < 1.4.0`, `agent < 1.4.0`, "full"}, // what comes before a release is less
		{`agent < 1.4.0-rc.10`, `agent < 1.4.0-rc.10`, "full"},
		{`agent >= v1.4.0-alpha`, `agent >= v1.4.0-alpha`, "full"},
		{`agent ~ 1.4.*`, `agent ~ "1.4.*"`, "full"},
		{`agent != dev`, `agent != "dev"`, "full new"},
		{`runtime.tflite >= 2.9`, `runtime.tflite >= 2.9`, "full"},
		{`runtime.onnx > 1`, `runtime.onnx > 1`, ""},
		{`engine has tflite`, `engine has "tflite"`, "full"},
		{`engine != tflite`, `engine != "tflite"`, "new"},
		{`accel in [gpu, edgetpu]`, `accel in ["gpu", "edgetpu"]`, "full"},
		{`accel ~ edge*`, `accel ~ "edge*"`, "full"},
		{`board ~ "Raspberry Pi ?"`, `board ~ "Raspberry Pi ?"`, "full"},
		{`board ~ "Raspberry"`, `board ~ "Raspberry"`, ""},

		{`pipeline has door`, `pipeline has "door"`, "full"},
		{`release.cam == mobilenet`, `release.cam == "mobilenet"`, "full"},
		{`release.cam == mobilenet@1.1`, `release.cam == "mobilenet@1.1"`, "full"}, // as versions
		{`release.cam < mobilenet@1.10.0`, `release.cam < "mobilenet@1.10.0"`, "full"},
		{`release.cam < other@9.0.0`, `release.cam < "other@9.0.0"`, ""},
		{`release.cam ~ "mobilenet@1.*"`, `release.cam ~ "mobilenet@1.*"`, "full"},
		{`release.door in [x, faces@dev]`, `release.door in ["x", "faces@dev"]`, "full"},
		{`release.cam != mobilenet`, `release.cam != "mobilenet"`, "new"},
		{`state.cam == failed`, `state.cam == "failed"`, "full"},
		{`state.cam in [ROLLED_BACK, FAILED]`, `state.cam in ["ROLLED_BACK", "FAILED"]`, "full"},
		{`state.door == trying and not state.cam == trying`, `state.door == "trying" and not (state.cam == "trying")`, "full"},
		{`state.none != failed`, `state.none != "failed"`, "full new"},
		{`degraded`, `degraded`, "full"},
		{`flag has low_voltage`, `flag has "low_voltage"`, "full"},
		{`throttled == true`, `throttled`, "full"},
		{`online = false`, `online == false`, "new"},
		{`not online`, `not online`, "new"},
		{`online != false`, `online`, "full"},

		// Who was shut out is in no group that does not ask for it.
		{`revoked`, `revoked`, "gone"},
		{`revoked and flag has duplicate_identity`, `revoked and flag has "duplicate_identity"`, "gone"},
		{`all and revoked == false`, `all and revoked == false`, "full new"},
		{`revoked or all`, `revoked or all`, "full gone new"},
		{`seen > 7d`, `seen > 7d`, ""},

		{`(pi-new)`, `id == "pi-new"`, "new"},
		{`pi-new or pi-porch and online`, `id == "pi-new" or id == "pi-porch" and online`, "full new"},
		{`(pi-new or pi-porch) and online`, `(id == "pi-new" or id == "pi-porch") and online`, "full"},
		{`((pi-new and all) and (all)) or ((pi-porch))`, `id == "pi-new" and all and all or id == "pi-porch"`, "full new"},
		{`not not (pi-new or pi-porch)`, `not not (id == "pi-new" or id == "pi-porch")`, "full new"},
		{`name == "Front door" or name == 'a"b\\c'`, `name == "Front door" or name == "a\"b\\c"`, "full"},
		{"site\n\t==  lyon", `site == "lyon"`, "full"},
		{`online or online or not @nobody`, `online or online or not @nobody`, "full new"},
		{`group nobody`, `@nobody`, ""},
	} {
		q, err := Parse(tt.query)
		if err != nil {
			t.Errorf("%s\n%v", tt.query, err)
			continue
		}
		if q.String() != tt.canonical {
			t.Errorf("%s\nis written %s\nwant       %s", tt.query, q, tt.canonical)
		}
		again, err := Parse(q.String())
		if err != nil || again.String() != q.String() {
			t.Errorf("%s is read as %s, %v", q, again, err)
			continue
		}
		for _, q := range []Query{q, again} {
			var who []string
			for _, name := range []string{"full", "gone", "new"} {
				if q.Match(subjects()[name]) {
					who = append(who, name)
				}
			}
			if got := strings.Join(who, " "); got != tt.who {
				t.Errorf("%s matches %q, want %q", q, got, tt.who)
			}
		}
	}
	if (Query{}).Match(subjects()["full"]) {
		t.Error("the empty query matches")
	}
	if !All().Match(subjects()["new"]) || All().Match(subjects()["gone"]) {
		t.Error("all is not all")
	}
}

// bad are queries with a mistake each; testdata/errors.txt has what is said.
var bad = []string{
	"", "   ", "all,", ",", "=x", "a=", "A=b", "ä == x", "pi porch", "site lyon", "site = lyon paris", "(online", "online)", "()", "not", "online and", "online and and",
	"online && site == x", "site == a || site == b", "!online", "ONLINE AND x", "site =~ x", `"site" == x`, "site == ", "site == (a)", "site == [a, b]", "site in a", "site in [a b]", "site in []", "site in [a,", "site not in [a]",
	"site has x", "accel < 3", "accel", "ram", "ram >= 1gb", "ram >= -1", "ram ~ 1*", "temp > hot", "seen == 1h", "seen < 1y", "seen < 5", "agent < new", "floor > lots", "release.cam < mobilenet", "release == x", "state.cam == broken", "state", "label == x", "label.Site == x", "runtime.tflite",
	"foo.bar == 1", "online == maybe", "online ~ x", "name == 'x", `name == "a\n"`, "name == \"a\x00\"", "site == \xff", "a; b", "kitchen-*", "@", "@Kitchen", "group", "group )", "a,b and c", "a,not b", "(a, b)", "a=b=c",
	"site == x and " + strings.Repeat("y == z and ", 20) + "§ and " + strings.Repeat("y == z and ", 20),
	strings.Repeat("(", MaxDepth+1) + "all" + strings.Repeat(")", MaxDepth+1),
	strings.Repeat("not ", MaxDepth+1) + "all",
	strings.Repeat("x", MaxText+1),
	strings.Repeat("a=b,", MaxText/4-1) + "a=b",
}

func TestErrors(t *testing.T) {
	var b strings.Builder
	for _, s := range bad {
		q, err := Parse(s)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q was read as %s", s, q)
			continue
		}
		b.WriteString(e.Error() + "\n\n")
	}
	const path = "testdata/errors.txt"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != b.String() {
		t.Errorf("%s: run with -update and look at the difference; %v, got:\n%s", path, err, b.String())
	}
}

func TestDepth(t *testing.T) {
	for _, s := range []string{
		strings.Repeat("not ", MaxDepth) + "site == x", // is written with a parenthesis more
		strings.Repeat("(", MaxDepth) + "a or b" + strings.Repeat(")", MaxDepth),
		strings.Repeat("not (a or (", MaxDepth/2) + "b" + strings.Repeat("))", MaxDepth/2),
	} {
		q, err := Parse(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if again, err := Parse(q.String()); err != nil || again.String() != q.String() {
			t.Errorf("%s is read as %s, %v", q, again, err)
		}
	}
}

func TestNamedGroups(t *testing.T) {
	defs := map[string]Definition{
		"kitchen": {Query: must(t, "site == lyon and @list")},
		"list":    {Devices: []wire.DeviceID{"pi-porch", "pi-gone"}},
		"shut":    {Query: must(t, "revoked")},
		"empty":   {},
		"a":       {Query: must(t, "not @b")},
		"b":       {Query: must(t, "online or @a")},
		"lost":    {Query: must(t, "@nowhere")},
	}
	wide := "all"
	for i := range 20 { // each twice as much as the one before
		name := "w" + string(rune('a'+i))
		defs[name] = Definition{Query: must(t, wide+" and "+wide)}
		wide = "@" + name
	}
	lookup := func(name string) (Definition, bool) { d, ok := defs[name]; return d, ok }
	for text, want := range map[string]string{
		"@kitchen": "full", "not @kitchen": "new", "@list": "full", "@list or @shut": "full", "@shut": "", "revoked and @shut": "gone", "@empty": "", "not @empty": "full new",
		"group kitchen and online": "full", "@wa": "full new",
		"online and @a":     "column 12: a group cannot be a part of itself: a → b → a\n",
		"@x":                "column 1: there is no group x",
		"all and @lost":     "column 9: there is no group nowhere",
		"online or " + wide: "asks too much",
	} {
		q, err := must(t, text).Resolve(text, lookup)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			var who []string
			for _, name := range []string{"full", "gone", "new"} {
				if q.Match(subjects()[name]) {
					who = append(who, name)
				}
			}
			got = strings.Join(who, " ")
		}
		if err == nil && got != want || err != nil && !strings.Contains(got, want) || err != nil && want == "" {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		if err == nil && q.String() != must(t, text).String() {
			t.Errorf("%s is written %s when it is resolved", text, q)
		}
	}
	if got := strings.Join(must(t, "@b and (@a or not @b) and group c").Groups(), " "); got != "a b c" {
		t.Errorf("groups: %s", got)
	}
	if name, ok := must(t, "(group a)").Named(); !ok || name != "a" {
		t.Errorf("named %q %v", name, ok)
	}
	if _, ok := must(t, "@a and all").Named(); ok {
		t.Error("more than a name is no name")
	}
}

func must(t testing.TB, s string) Query {
	t.Helper()
	q, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestVersionOrder(t *testing.T) {
	list := strings.Fields("0.9 1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 v1.0.0.1 1.2 1.10 2")
	for i, a := range list {
		for j, b := range list {
			v, ok := parseVersion(a)
			w, ok2 := parseVersion(b)
			if got := v.compare(w); !ok || !ok2 || direction(got) != direction(i-j) {
				t.Errorf("%s against %s: %d", a, b, got)
			}
		}
	}
	for _, s := range []string{"", "v", "1.", ".1", "1..2", "1.2.3.4.5", "dev", "1.x", "1-", "1234567890", "-1"} {
		if v, ok := parseVersion(s); ok {
			t.Errorf("%q is read as version %v", s, v)
		}
	}
}

func direction(n int) int { return max(-1, min(1, n)) }

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*c", "abc", true}, {"a*c", "abcd", false}, {"?", "ü", true}, {"??", "ü", false},
		{"*ü?", "xüü", true}, {"*??ab", "€ab", false}, {"*?ab", "€ab", true}, {"a**b", "ab", true}, {"*a*b*c", "xxaxxbxxcxxc", true}, {"*a", "ba", true}, {"?*", "", false}, {"[a]", "a", false},
	} {
		if got := glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("%q ~ %q: %v", tt.s, tt.pattern, got)
		}
	}
	// A pattern that takes others exponential time.
	if glob(strings.Repeat("*a", 1000)+"*b", strings.Repeat("a", 4000)) {
		t.Error("matches")
	}
}

func TestFieldsAreWhole(t *testing.T) {
	for _, f := range fields {
		q, err := Parse(f.example)
		if err != nil {
			t.Errorf("%s: its example is wrong: %v", f.name, err)
			continue
		}
		if f.kind != label && !strings.HasPrefix(q.String(), f.name) {
			t.Errorf("%s: its example is about something else: %s", f.name, q)
		}
		for _, s := range subjects() {
			q.Match(s)
		}
		q.Match(&Subject{})
	}
	for _, name := range []string{"all", "ram", "label", "state", "accelerator", "group"} {
		if !Taken(name) {
			t.Errorf("a label may be called %s", name)
		}
	}
	if Taken("site") || Taken("floor") {
		t.Error("what may labels be called?")
	}
}

// TestFieldsAreInTheDocs keeps the operator's page whole.
func TestFieldsAreInTheDocs(t *testing.T) {
	b, err := os.ReadFile("../../../docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	_, groups, _ := strings.Cut(string(b), "\n## Groups\n")
	groups, _, _ = strings.Cut(groups, "\n## ")
	for _, f := range Fields() {
		if !strings.Contains(groups, "`"+f.Name) {
			t.Errorf("docs/operator.md, Groups: no %s", f.Name)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range bad {
		f.Add(s)
	}
	for _, s := range []string{
		`site == "lyon" and accel has "edgetpu" and ram >= 1.5GiB and not (agent < v1.4.0-rc.1+b) and online and name ~ "kitchen-*"`,
		"a,b,online=true", "not not (a or b) and @c", `name == 'a"b\\' or seen > 1w2h or temp in [-0, 1.50, .5]`, "release.cam < a@1 or state.cam == failed",
		"floor > 2 or fw < 1.2.3", "ram == 0 or ram in [1kB, 1024, 9007199254740992]", "revoked != true", "group a, all",
	} {
		f.Add(s)
	}
	list := subjects()
	f.Fuzz(func(t *testing.T, s string) {
		q, err := Parse(s)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.What == "" || e.Column < 1 || strings.Count(e.Mark(), "\n") != 1 {
				t.Fatalf("%q: %#v", s, err)
			}
			return
		}
		again, err := Parse(q.String())
		if err != nil || again.String() != q.String() {
			t.Fatalf("%q is written %q, which is read as %q, %v", s, q, again, err)
		}
		for name, d := range list {
			if q.Match(d) != again.Match(d) {
				t.Fatalf("%q and %q differ about %s", s, q, name)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	full := subjects()["full"]
	fleet := make([]Subject, 100_000)
	for i := range fleet {
		fleet[i] = *full
		fleet[i].ID = wire.DeviceID(wire.NewID("d"))
	}
	for _, s := range []string{
		"all", "site == lyon",
		`site == "lyon" and accel has "edgetpu" and ram >= 1GiB and not (agent < 1.3.0) and online and name ~ "Front*"`,
		`release.cam < mobilenet@2.0.0 and state.cam == failed and flag has low_voltage and runtime.tflite >= 2.16 and seen < 1h`,
	} {
		q := must(b, s)
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for i := range fleet {
					if q.Match(&fleet[i]) {
						n++
					}
				}
				if n != len(fleet) {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/100k")
		})
	}
}
