package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestParseRefuses(t *testing.T) {
	status := `{"v":1,"state":"online","sid":1,"mid":"m","ts":"2026-11-23T12:00:00Z"}`
	tests := []struct{ name, text, code, want string }{
		{"empty", "", CodeMsgEmpty, ""},
		{"too long", status + strings.Repeat(" ", MaxHealth), CodeMsgSize, "limit 16384"},
		{"not UTF-8", "{\"v\":1,\"mid\":\"\xff\"}", CodeMsgType, ""},
		{"cut", status[:40], CodeJSON, "line 1 col 40: unexpected end"},
		{"cut in a key", `{"v":1,"st`, CodeJSON, "line 1 col 10: unexpected end"},
		{"trailing", status + "{}", CodeJSON, "after top-level value"},
		{"trailing nonsense", status + "x", CodeJSON, "after top-level value"},
		{"duplicate key", `{"v":1,"state":"online","v":1}`, CodeJSON, `key "v" twice`},
		{"duplicate by escape", `{"v":1,"\u0076":1}`, CodeJSON, `key "v" twice`},
		{"duplicate by case", `{"v":1,"V":1}`, CodeJSON, `key "V" twice`},
		{"duplicate by fold", `{"sid":1,"ſid":1}`, CodeJSON, "twice"},
		{"duplicate deep below", `{"v":1,"x":[{"a":{"b":1,"b":2}}]}`, CodeJSON, `key "b" twice`},
		{"deep", `{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}", CodeJSON, "nested deeper than 32"},
		{"many keys", `{"x":{` + manyKeys(300) + `}}`, CodeJSON, "more than 256 keys"},
		{"NaN", `{"v":NaN}`, CodeJSON, "col 6"},
		{"number too large", `{"v":1e400}`, CodeJSON, "v cannot be a number 1e400"},
		{"negative", `{"v":1,"sid":-1}`, CodeJSON, "sid cannot be a number -1"},
		{"fraction", `{"v":1.5}`, CodeJSON, "v cannot be a number 1.5"},
		{"no object", `[1]`, CodeJSON, "cannot be a array"},
		{"null", `null`, CodeJSON, "v: 0 is not 1"},
		{"trailing comma", `{"v":1,}`, CodeJSON, "col 8"},
		{"mismatch", `{"v":[1}`, CodeJSON, "col 8"},
		{"second line", "{\"v\":1,\n  \"sid\":x}", CodeJSON, "line 2 col 9"},
		{"other version", `{"v":2,"state":"online"}`, CodeJSON, "v: 2 is not 1"},
		{"state", strings.Replace(status, "online", "on fire", 1), CodeJSON, `state: "on fire" is not one of`},
		{"control character", strings.Replace(status, `"m"`, `"a\u0007"`, 1), CodeJSON, "mid: control character U+0007"},
		{"time", strings.Replace(status, "2026-11-23T12:00:00Z", "yesterday", 1), CodeJSON, "yesterday"},
	}
	if _, err := Parse[Status]([]byte(status), MaxHealth); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse[Status]([]byte(tt.text), MaxHealth)
			var f *Fault
			if !errors.As(err, &f) {
				t.Fatalf("got %v", err)
			}
			if f.Code != tt.code || !strings.Contains(f.Text, tt.want) || len(f.Text) > 300 {
				t.Errorf("got  %v\nwant %s %s", f, tt.code, tt.want)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"k%d":1,`, i)
	}
	return b.String() + `"last":1`
}

func TestParseIgnoresUnknownKeys(t *testing.T) {
	s, err := Parse[Status]([]byte(`{"new":{"a":[1,null,{"v":2}],"state":{}},"v":1,"state":"stopped","ts":"2026-11-23T12:00:00Z"}`), MaxHealth)
	if err != nil || s.State != StateStopped {
		t.Errorf("got %+v, %v", s, err)
	}
}

// What Validate refuses, the schema refuses as well: each line changes one golden.
func TestValidateAgreesWithTheSchemas(t *testing.T) {
	digest, long := strings.Repeat("0f", 32), strings.Repeat("x", 5000)
	tests := []struct{ kind, golden, old, new string }{
		{"status", "online", `"online"`, `"dead"`},
		{"status", "online", `5f1d7a84db00d2fc`, long[:65]},
		{"hello", "pi", `"porch"`, `"Porch"`},
		{"hello", "pi", `"cpus": 4`, `"cpus": -4`},
		{"hello", "pi", "Raspberry", long[:300]},
		{"hello", "pi", "usb:0", long[:65]},
		{"hello", "pi", "libedgetpu", long[:300]},
		{"hello", "pi", `"site"`, `"Site"`},
		{"hello", "pi", `"lyon"`, `"ly,on"`},
		{"hello", "pi", `"lyon"`, `" lyon"`},
		{"hello", "pi", `"lyon"`, `""`},
		{"hello", "pi", "lyon", long[:65]},
		{"health", "two-pipelines", `"cpu": 37.5`, `"cpu": 137.5`},
		{"health", "two-pipelines", `"temp": 61.3`, `"temp": -87.9`},
		{"health", "two-pipelines", `"garden"`, `"a/b"`},
		{"health", "two-pipelines", `"fps": 2`, `"fps": -2`},
		{"health", "two-pipelines", `"stale"`, `"Stale"`},
		{"health", "trouble", `"duplicate_identity"`, `""`},
		{"health", "trouble", `"wr": 1048576`, `"wr": -1`},
		{"health", "trouble", `"wear": 100`, `"wear": 110`},
		{"health", "trouble", `"eol": 3`, `"eol": 4`},
		{"hello", "pi", "raspberrypi-4", long[:65]},
		{"hello", "pi", `"sd"`, `"` + long[:65] + `"`},
		{"desired", "two-releases", digest, "../../etc/passwd"},
		{"desired", "two-releases", digest, strings.ToUpper(digest)},
		{"desired", "two-releases", `"length": 2048`, `"length": 0`},
		{"desired", "two-releases", `"length": 2048`, `"length": 1048577`},
		{"desired", "two-releases", `"ex-abcdefghijklmnop"`, `"ex/#"`},
		{"desired", "two-releases", `"attempt": 1`, `"attempt": -1`},
		{"desired", "two-releases", `"pi-1"`, `"+"`},
		{"desired", "two-releases", `"*"`, `"#"`},
		{"desired", "two-releases", `"health_seconds": 30`, `"health_seconds": 86401`},
		{"desired", "two-releases", `"activate"`, `""`},
		{"reported", "updating", `"SELF_TESTING"`, `"SLEEPING"`},
		{"reported", "updating", `"attempt": 1`, `"attempt": -1`},
		{"reported", "updating", `"E_CRASH",`, `"",`},
		{"reported", "updating", `"edgetpu: 2`, `"` + long[:1025]},
		{"reported", "updating", `"gpu"`, `""`},
		{"reported", "updating", `3.21 times`, long[:257]},
		{"reported", "updating", `"ms": 31.4`, `"ms": -1`},
		{"exec", "downloading", `"done": 65536`, `"done": -1`},
		{"exec", "downloading", `"DOWNLOADING"`, `"downloading"`},
		{"exec", "downloading", digest, ""},
		{"result", "classify", `"peacock.png"`, `"` + long + `"`},
		{"result", "classify", `"inv": 14.8`, `"inv": -14.8`},
		{"result", "classify", `"porch"`, `""`},
		{"event", "start", `"start"`, `"begin"`},
		{"event", "start", `"porch"`, `"por/ch"`},
		{"event", "start", `"door"`, `"the door"`},
		{"event", "start", `"person"`, `""`},
		{"event", "start", `"count": 1`, `"count": -1`},
		{"event", "start", `0.875`, `1.875`},
		{"event", "start", `"age_ms": 3`, `"age_ms": -3`},
		{"event", "start", `"pi-1-porch-17"`, `"` + long[:257] + `"`},
		{"event", "start", `"type": "start"`, `"type": "end"`},
		{"event", "late", `"type": "end"`, `"type": "update"`},
		{"event", "late", `"type": "end"`, `"type": ""`},
		{"desired", "two-releases", `"events": [`, `"events": [ "a b",`},
		{"lost", "crash", `"from": 990`, `"from": 0`},
		{"block-get", "three", `"from": 8`, `"from": 16384`},
		{"block-get", "three", `"max": 16`, `"max": 0`},
		{"block-get", "three", `"Bw=="`, `""`},
		{"block-get", "three", `"Bw=="`, `"B"`},
	}
	all := map[string]kind{}
	schemas := map[string]*jsonschema.Schema{}
	for _, k := range kinds() {
		all[k.name], schemas[k.name] = k, schema(t, k.name)
	}
	for _, tt := range tests {
		t.Run(tt.kind+" "+tt.old, func(t *testing.T) {
			golden := string(goldens(t, tt.kind)[tt.kind+"."+tt.golden+".json"])
			b := []byte(strings.Replace(golden, tt.old, tt.new, 1))
			if string(b) == golden {
				t.Fatal("nothing changed")
			}
			if _, err := all[tt.kind].parse(b); err == nil {
				t.Errorf("Parse accepts %q", tt.new)
			}
			if schemas[tt.kind].Validate(value(t, b)) == nil {
				t.Errorf("the schema accepts %q", tt.new)
			}
		})
	}
}

// Whatever Parse accepts, the schema does, and Go writes it again so that Parse
// accepts it.
func FuzzParse(f *testing.F) {
	schemas := map[string]*jsonschema.Schema{}
	for i, k := range kinds() {
		schemas[k.name] = schema(f, k.name)
		for _, b := range goldens(f, k.name) {
			var short bytes.Buffer
			if err := json.Compact(&short, b); err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), short.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		k := kinds()[int(which)%len(kinds())]
		v, err := k.parse(b)
		if err != nil {
			var fault *Fault
			if !errors.As(err, &fault) || len(fault.Text) > 2000 {
				t.Fatalf("error %q", err)
			}
			return
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.parse(again); err != nil && !errors.As(err, new(*Fault)) {
			t.Fatalf("%s: does not come back: %v", again, err)
		}
		if err := schemas[k.name].Validate(value(t, again)); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}

// A board that has as many pipelines as it may is heard.
func TestManyPipelinesFit(t *testing.T) {
	sha := Digest(strings.Repeat("a", 64))
	slot := &ReportedSlot{Release: sha, Name: strings.Repeat("n", 32), Version: strings.Repeat("1", 32), SHA256: sha}
	rep := Reported{V: Version, Pipelines: map[string]ReportedPipeline{}}
	h := Health{V: Version, Pipes: map[string]PipelineHealth{}}
	for i := range MaxPipelines {
		name := fmt.Sprintf("%s-%d", strings.Repeat("p", 28), i)
		rep.Pipelines[name] = ReportedPipeline{Active: slot, Previous: slot, Candidate: slot, Accelerator: "xnnpack",
			Execution: name, State: RollbackFailed, Fault: &Fault{Code: "E_HASH_ATREST", Text: strings.Repeat("x", 250)}}
		h.Pipes[name] = PipelineHealth{FPS: 1000.5, P50: 1000.5, P99: 1000.5, Captured: 1e12, Published: 1e12,
			Dropped: map[string]uint64{"stale": 1e12, "busy": 1e12, "outbox": 1e12, "error": 1e12}, Degraded: "E_HASH_ATREST"}
	}
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse[Reported](b, MaxReported); err != nil {
		t.Errorf("reported: %v", err)
	}
	if b, err = json.Marshal(h); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse[Health](b, MaxHealth); err != nil {
		t.Errorf("health: %v", err)
	}
}
