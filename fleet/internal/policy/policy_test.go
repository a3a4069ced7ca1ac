package policy_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

func TestParse(t *testing.T) {
	full := `{"phases":[{"name":"one","count":1,"soak":"30m","approval":"admin"},{"name":"lyon","query":"site=lyon"},
		{"name":"rest","percent":100,"gates":{"success_percent":95,"crashes_percent":0,"strict":true}}],
		"gates":{"slower_percent":150},"errors":{"percent":2.5,"sample":4},"on_error":"revert","offline":"24h",
		"concurrency":100,"per_site":5,"site_label":"house","membership":"dynamic","start":"2026-01-02T03:04:05Z",
		"order":{"mode":"stage","window":{"cron":"0 2 * * *","minutes":120},"rate":100000,"shadow":{"frames":100}}}`
	p, err := policy.Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if p.Phases[0].Soak != policy.Duration(30*time.Minute) || p.GatesOf(0).Slower != 150 || !p.GatesOf(2).Strict || p.GatesOf(2).Slower != 0 {
		t.Errorf("%+v", p)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := policy.Parse(b); err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("%s: %+v, %v", b, again, err)
	}
	for bad, says := range map[string]string{
		`{`:                         "EOF",
		`{} {}`:                     "follows",
		`{"fazes":[]}`:              "fazes",
		`{"phases":[{}]}`:           "name",
		`{"phases":[{"name":"a"}]}`: "one of count, percent, query",
		`{"phases":[{"name":"a","count":1,"percent":5}]}`:                       "one of count, percent, query",
		`{"phases":[{"name":"a","percent":101}]}`:                               "101",
		`{"phases":[{"name":"a","count":-1}]}`:                                  "-1",
		`{"phases":[{"name":"a","count":1},{"name":"a","count":1}]}`:            "two phases",
		`{"phases":[{"name":"a","percent":50},{"name":"b","percent":25}]}`:      "less than 50",
		`{"phases":[{"name":"a","count":1,"soak":"-1s"}]}`:                      "soak",
		`{"phases":[{"name":"a","count":1,"soak":"soon"}]}`:                     "soon",
		`{"phases":[{"name":"a","count":1,"approval":"cook"}]}`:                 "cook",
		`{"gates":{"crashes_percent":-1}}`:                                      "crashes",
		`{"on_error":"weep"}`:                                                   "weep",
		`{"order":{"mode":"shadow"}}`:                                           "shadow",
		`{"order":{"window":{"cron":"0 2 * * *"}}}`:                             "window.minutes",
		`{"order":{"window":{"cron":"0 2","minutes":60}}}`:                      "five fields",
		`{"order":{"shadow":{"frames":0}}}`:                                     "shadow.frames",
		`{"order":{"rate":-1}}`:                                                 "rate",
		`{"phases":[` + strings.Repeat(`{"name":"a","count":1},`, 17) + `{}]}`:  "at most 16",
		`{"site_label":"` + strings.Repeat("x", policy.MaxJSON) + `"}`:          "longer than",
		`{"phases":[{"name":"a","query":"` + strings.Repeat("x", 1025) + `"}]}`: "query",
		`{"phases":[{"name":"a","count":1,"soak":"9999h"}]}`:                    "9999h",
		`{"errors":{"percent":1e9}}`:                                            "errors.percent",
		`{"membership":"all"}`:                                                  "membership",
		`{"concurrency":99999999}`:                                              "concurrency",
	} {
		if _, err := policy.Parse([]byte(bad)); !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.80s: %v, want %q", bad, err, says)
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, p := range []policy.Policy{policy.Default(), policy.AtOnce(), {}} {
		if err := p.Filled().Validate(); err != nil {
			t.Error(err)
		}
	}
	f := policy.Policy{}.Filled()
	if len(f.Phases) != 1 || f.Phases[0].Percent != 100 || f.Order.Mode != wire.ModeActivate || f.OnError != policy.Pause {
		t.Errorf("%+v", f)
	}
}

func TestDurationsAreForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		10 * time.Minute: "10m", 24 * time.Hour: "24h", 90 * time.Second: "1m30s", 0: "0s", 90 * time.Minute: "1h30m", 20 * time.Second: "20s", 10 * time.Hour: "10h",
	} {
		if got := policy.Duration(d).String(); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := json.Marshal(policy.Default())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"phases":[{"name":"a","query":"site=lyon","soak":"1h"}],"order":{"mode":"stage"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := policy.Parse(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		back, err := policy.Parse(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if twice, err := json.Marshal(back); err != nil || string(twice) != string(again) {
			t.Fatalf("%s becomes %s: %v", again, twice, err)
		}
	})
}
