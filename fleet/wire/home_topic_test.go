package wire

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLabelLevel(t *testing.T) {
	for label, want := range map[string]string{
		"person":                    "person",
		"Cell phone":                "cell-phone",
		"traffic_light":             "traffic-light",
		"  two  spaces ":            "two-spaces",
		"Größe 2":                   "größe-2",
		"猫":                         "猫",
		"n/a":                       "n-a-a683c5",
		"a+b":                       "a-b-300273",
		"#":                         "334359",
		"":                          "e3b0c4",
		"\xff":                      "a8100a",
		strings.Repeat("long ", 20): "long-long-long-long-long-long-long-long-l-ca7550",
	} {
		if got := LabelLevel(label); got != want {
			t.Errorf("%q: got %q, want %q", label, got, want)
		}
	}
}

func FuzzLabelLevel(f *testing.F) {
	for _, s := range []string{"person", "a/b", "+", "İ", "\u0345", strings.Repeat("猫", 30)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, label string) {
		got := LabelLevel(label)
		if got == "" || len(got) > maxLabelLevel || !utf8.ValidString(got) || strings.ContainsAny(got, "/+#\x00 $") || strings.HasPrefix(got, "-") {
			t.Fatalf("%q is %q", label, got)
		}
	})
}

func TestParseSet(t *testing.T) {
	h := Home{Root: "covey", ID: "pi-1"}
	for topic, want := range map[string][2]string{
		"covey/home/pi-1/porch/enabled/set":   {"porch", "enabled"},
		"covey/home/pi-1/porch/enabled":       {},
		"covey/home/pi-1/porch/set":           {},
		"covey/home/pi-1/porch/a/b/set":       {},
		"covey/home/pi-1//enabled/set":        {},
		"covey/home/pi-1/Porch/enabled/set":   {},
		"covey/home/pi-2/porch/enabled/set":   {},
		"covey/home/pi-1/porch/enabled/set/x": {},
	} {
		p, s, ok := h.ParseSet(topic)
		if ok != (want[0] != "") || ok && [2]string{p, s} != want {
			t.Errorf("%s: got %q, %q, %t", topic, p, s, ok)
		}
	}
	if topic := h.Set("porch", SettingEnabled); topic != "covey/home/pi-1/porch/enabled/set" {
		t.Errorf("got %s", topic)
	}
	for zone, want := range map[string]bool{"door": true, "all": false, "install": false, "enabled": false, "": false, "Door": false, "a/b": false} {
		if ValidZone(zone) != want {
			t.Errorf("zone %q", zone)
		}
	}
}
