package homeassistant

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/covey-edge/covey/fleet/wire"
)

func labels(names ...string) (list []wire.HomeLabel) {
	for _, n := range names {
		list = append(list, wire.HomeLabel{Label: n, Topic: wire.LabelLevel(n)})
	}
	return list
}

func settings(names ...string) (list []wire.HomeSetting) {
	for _, n := range names {
		list = append(list, wire.HomeSetting{Name: n})
	}
	return list
}

// devices are those whose documents are kept as files that a real Home Assistant has
// taken: see TestRealHomeAssistant.
func devices() map[string]Device {
	kitchen := Device{Page: "http://kitchen.local:8080/"}
	kitchen.Device, kitchen.Name, kitchen.Board, kitchen.Agent = "kitchen", "Kitchen", "Raspberry Pi 5", "0.5.0"
	kitchen.Pipelines = []wire.HomePipeline{{
		Name: "porch", Task: "detect", Zones: []string{"door", "path"}, Labels: labels("person", "cell phone"), Events: true, Image: true,
		Settings: settings(wire.SettingEnabled, wire.SettingThreshold, wire.SettingInstall, wire.SettingRestart, wire.SettingSnapshot),
	}, {
		Name: "sounds", Task: "audio", Labels: labels("Dog bark"), Events: true,
	}, {
		Name: "boiler", Task: "series", Unit: "m/s²", Labels: labels("knocking"),
	}}
	strange := Device{Page: "javascript:alert(1)"}
	strange.Device, strange.Name, strange.Board = "strange-1", "The {{ 1/0 }} \"board\"\n", "{% raw %}"
	strange.Pipelines = []wire.HomePipeline{{
		Name: "a-b", Task: "classify", Labels: labels("n/a", "a+b #1", "猫", "Größe", "{{ 1/0 }}", "'", strings.Repeat("long ", 200), "", "motion"),
		Settings: settings("warp"),
	}}
	bare := Device{}
	bare.Device = "bare"
	return map[string]Device{"kitchen": kitchen, "strange": strange, "bare": bare}
}

// The documents are those that a real Home Assistant has taken.
func TestGoldens(t *testing.T) {
	for name, d := range devices() {
		got := indented(t, Announce(d).Document(nil))
		path := "testdata/" + name + ".json"
		if os.Getenv("COVEY_WRITE") != "" {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the document is another; have a real Home Assistant take it (scripts/homeassistant --write)", name)
		}
	}
}

func indented(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", " "); err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}

// allowed is what Home Assistant reads of each platform, and what it must have, by its
// own abbreviations: homeassistant/components/mqtt of 2026.2.3.
var allowed = map[string]struct{ must, may string }{
	"sensor":        {"stat_t", "dev_cla exp_aft frc_upd ops sug_dsp_prc stat_cla unit_of_meas val_tpl json_attr_t"},
	"binary_sensor": {"stat_t", "dev_cla exp_aft frc_upd off_dly pl_off pl_on val_tpl"},
	"event":         {"stat_t evt_typ", "dev_cla val_tpl"},
	"image":         {"img_t", "cont_type img_e"},
	"update":        {"stat_t", "cmd_t pl_inst dev_cla tit rel_s rel_u ret val_tpl"},
	"switch":        {"stat_t cmd_t", "pl_off pl_on stat_off stat_on val_tpl dev_cla ret opt"},
	"number":        {"stat_t cmd_t", "min max step mode unit_of_meas dev_cla val_tpl ret opt"},
	"button":        {"cmd_t pl_prs", "dev_cla ret"},
}

const everywhere = "p uniq_id name avty avty_mode ent_cat en ic qos"

// check reads a document as Home Assistant does.
func check(t testing.TB, d Device, doc []byte) map[string]map[string]any {
	t.Helper()
	var v struct {
		Dev  map[string]any            `json:"dev"`
		O    map[string]any            `json:"o"`
		Cmps map[string]map[string]any `json:"cmps"`
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, doc)
	}
	if len(doc) > MaxDocument {
		t.Fatalf("%d bytes", len(doc))
	}
	if v.O["name"] != "covey" || !slices.Equal(v.Dev["ids"].([]any), []any{"covey_" + string(d.Device)}) || v.Dev["name"] == "" {
		t.Errorf("dev %v, o %v", v.Dev, v.O)
	}
	base := wire.Home{Root: "covey", ID: d.Device}.Base()
	ids := map[any]string{}
	for key, c := range v.Cmps {
		platform, _ := c["p"].(string)
		if len(c) == 1 && platform != "" {
			continue // gone
		}
		rule, ok := allowed[platform]
		if !ok {
			t.Fatalf("%s: platform %q", key, platform)
		}
		for must := range strings.FieldsSeq(rule.must + " p uniq_id name avty") {
			if c[must] == nil {
				t.Errorf("%s: %s has no %s", key, platform, must)
			}
		}
		for k, value := range c {
			if !slices.Contains(strings.Fields(rule.must+" "+rule.may+" "+everywhere), k) {
				t.Errorf("%s: %s has no key %s", key, platform, k)
			}
			if s, _ := value.(string); strings.HasSuffix(k, "_t") && (!strings.HasPrefix(s, base) || strings.ContainsAny(s, "+#\x00") || len(s) > 256) {
				t.Errorf("%s: topic %q", key, s)
			}
		}
		if other, ok := ids[c["uniq_id"]]; ok || c["uniq_id"] != "covey_"+string(d.Device)+"_"+key || strings.ContainsAny(key, " \n") {
			t.Errorf("%s: id %q, which %q has", key, c["uniq_id"], other)
		}
		ids[c["uniq_id"]] = key
	}
	return v.Cmps
}

func TestDocumentsAreWhatHomeAssistantReads(t *testing.T) {
	for name, d := range devices() {
		t.Run(name, func(t *testing.T) {
			a := Announce(d)
			parts := map[string]string{}
			for key, c := range check(t, d, a.Document(nil)) {
				parts[key] = c["p"].(string)
			}
			if !maps.Equal(parts, a.Parts) || a.Left > 0 {
				t.Errorf("got %v, want %v, %d left", parts, a.Parts, a.Left)
			}
		})
	}
}

// What is called otherwise for people, or moves in the list, is the same to Home Assistant.
func TestIDsOutliveRenames(t *testing.T) {
	d := devices()["kitchen"]
	before := Announce(d).Parts
	d.Name, d.Board, d.Agent, d.Page = "The other room", "Jetson", "9", ""
	d.Pipelines = slices.Clone(d.Pipelines)
	slices.Reverse(d.Pipelines)
	if now := Announce(d).Parts; !maps.Equal(before, now) {
		t.Errorf("got %v, want %v", now, before)
	}
}

// A component that is gone is named by its platform alone, also one that has become
// another platform.
func TestGone(t *testing.T) {
	d := devices()["kitchen"]
	a := Announce(d)
	gone := map[string]string{"porch_count_all_cat": "sensor", "porch_enabled": "light"}
	cmps := check(t, d, a.Document(gone))
	for key, platform := range gone {
		if c := cmps[key]; len(c) != 1 || c["p"] != platform {
			t.Errorf("%s: got %v", key, c)
		}
	}
	if len(cmps) != len(a.Parts)+1 {
		t.Errorf("%d components, want %d and one that is gone", len(cmps), len(a.Parts))
	}
	if _, ok := check(t, d, a.Document(nil))["porch_count_all_cat"]; ok {
		t.Error("what is gone is named again")
	}
}

// A board of many pipelines, zones and labels has a document of the size that is allowed,
// with what is most important in it, whatever is gone.
func TestBounded(t *testing.T) {
	d := Device{}
	d.Device, d.Name = wire.DeviceID(strings.Repeat("d", 32)), strings.Repeat("name ", 1000)
	gone := map[string]string{}
	for i := range wire.MaxPipelines {
		p := wire.HomePipeline{Name: fmt.Sprintf("%s-%02d", strings.Repeat("p", 29), i), Task: "detect", Events: true, Image: true,
			Settings: settings(wire.SettingEnabled, wire.SettingThreshold, wire.SettingInstall, wire.SettingRestart, wire.SettingSnapshot)}
		for z := range 100 {
			p.Zones = append(p.Zones, fmt.Sprintf("zone-%d", z))
		}
		for l := range 100 {
			p.Labels = append(p.Labels, labels(fmt.Sprintf("label %d %s", l, strings.Repeat("猫", 100)))...)
			gone[fmt.Sprintf("%s_count_all_%d", p.Name, l)] = "binary_sensor"
		}
		d.Pipelines = append(d.Pipelines, p)
	}
	a := Announce(d)
	if got := len(check(t, d, a.Document(nil))); got != len(a.Parts) || a.Left == 0 || a.Parts["temperature"] == "" || a.Parts[d.Pipelines[0].Name+"_enabled"] == "" {
		t.Errorf("%d components, %d parts, %d left", got, len(a.Parts), a.Left)
	}
	check(t, d, a.Document(gone))
	d.Pipelines = d.Pipelines[:1]
	one := Announce(d)
	for key := range one.Parts {
		if strings.Contains(key, "label-32") || strings.Contains(key, "zone-16") {
			t.Fatalf("%s is beyond what is counted", key)
		}
	}
}

func TestLabels(t *testing.T) {
	many := make([]string, 40)
	for i := range many {
		many[i] = fmt.Sprint("l", i)
	}
	for name, c := range map[string]struct{ named, before, seen, known, want []string }{
		"nothing":            {},
		"named first":        {[]string{"b"}, []string{"a", "b"}, []string{"c"}, nil, []string{"b", "a", "c"}},
		"another model":      {[]string{"b"}, []string{"a", "d"}, []string{"c"}, []string{"d", "c"}, []string{"b", "d", "c"}},
		"one at home":        {[]string{"Cell phone"}, []string{"cell_phone"}, nil, nil, []string{"Cell phone"}},
		"bounded":            {many, []string{"a"}, nil, nil, many[:32]},
		"a place is kept":    {nil, many[:31], []string{"x", "y"}, nil, append(slices.Clone(many[:31]), "x")},
		"seen, and no model": {nil, nil, []string{"x"}, nil, []string{"x"}},
	} {
		if got := Labels(c.named, c.before, c.seen, c.known); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// Whatever a label or a name is, the document can be read, is bounded, and has no topic
// that a broker refuses.
func FuzzDocument(f *testing.F) {
	f.Add("kitchen", "Kitchen", "http://kitchen.local", "porch", "detect", "person", "door")
	f.Add("x", "\xff{{", "http://", "p", "", "+/#\x00", "all")
	f.Fuzz(func(t *testing.T, id, name, page, pipeline, task, label, zone string) {
		if !wire.ValidID(id) || !wire.ValidID(pipeline) || !wire.ValidZone(zone) {
			return
		}
		d := Device{Page: page}
		d.Device, d.Name, d.Board, d.Agent = wire.DeviceID(id), name, task, label
		d.Pipelines = []wire.HomePipeline{{Name: pipeline, Task: task, Zones: []string{zone}, Labels: labels(label, "person"), Events: true, Image: true,
			Settings: settings(wire.SettingEnabled, label)}}
		a := Announce(d)
		cmps := check(t, d, a.Document(nil))
		if len(cmps) != len(a.Parts) || a.Left > 0 {
			t.Fatalf("%d components, %d parts", len(cmps), len(a.Parts))
		}
	})
}
