package broker

import (
	"strings"
	"testing"
)

func TestAllowed(t *testing.T) {
	const d = "covey/1/d/pi/"
	tests := []struct {
		client, topic string
		read, write   bool
	}{
		{"pi", d + "up/status", true, true},
		{"pi", d + "up/result/cam", false, true},
		{"pi", d + "up/#", false, true}, // mochi refuses wildcards in publishes before it asks
		{"pi", d + "up", false, true},
		{"pi", d + "dn/desired", true, false},
		{"pi", d + "dn/#", true, false},
		{"pi", d + "dn/+/x", true, false},
		{"pi", d + "+/desired", false, false},
		{"pi", d + "#", false, false},
		{"pi", "#", false, false},
		{"pi", "+/+/+/+/+/+", false, false},
		{"pi", "covey/1/d/+/dn/#", false, false},
		{"pi", "covey/1/d/pi2/dn/#", false, false},
		{"pi", "covey/1/d/pi2/up/status", false, false},
		{"pi", "covey/2/d/pi/up/status", false, false},
		{"pi", "$share/g/" + d + "dn/#", true, false},
		{"pi", "$SHARE/g/#", false, false},
		{"pi", "$SYS/#", false, false},
		{"pi", "covey/home/pi/available", false, false},
		{"pi", "", false, false},
		{"pi", d + "dn/" + strings.Repeat("a/", 20), false, false},
		{"pi", d + "dn/" + strings.Repeat("a", 300), false, false},
		{"pi~x", d + "up/block/get", false, true},
		{"pi~x", d + "up/status", false, false},
		{"pi~x", d + "dn/block/#", true, false},
		{"pi~x", d + "dn/desired", false, false},
		{"pi~x", d + "dn/#", false, false},
		{"home:ha:x", "covey/home/#", true, true},
		{"home:ha:x", "homeassistant/device/pi/config", true, true},
		{"home:ha:x", "covey/home/pi/cam/enabled/set", true, true},
		{"home:ha:x", "covey/#", false, false},
		{"home:ha:x", "covey/+/pi/available", false, false},
		{"home:ha:x", d + "dn/desired", false, false},
		{"home:ha:x", d + "up/status", false, false},
		{"home:ha:x", "#", false, false},
		{"home:ha:pi", d + "up/status", false, false},
		{"", d + "up/status", false, false},
		{"inline", d + "dn/desired", false, false},
	}
	for _, tt := range tests {
		if got := allowed("covey", tt.client, tt.topic, false); got != tt.read {
			t.Errorf("%s reads %q: %v", tt.client, tt.topic, got)
		}
		if got := allowed("covey", tt.client, tt.topic, true); got != tt.write {
			t.Errorf("%s writes %q: %v", tt.client, tt.topic, got)
		}
	}
}

// FuzzCovers: what a covered filter matches, its pattern matches.
func FuzzCovers(f *testing.F) {
	f.Add("a/b/#", "a/b/+/c", "x")
	f.Add("a/#", "a", "")
	f.Add("a/b", "a/+", "b")
	f.Add("#", "+/+", "q")
	f.Fuzz(func(t *testing.T, pattern, filter, fill string) {
		if i := strings.IndexAny(pattern, "#+"); i >= 0 && (pattern[i] == '+' || i != len(pattern)-1) {
			t.Skip()
		}
		if !covers(pattern, filter) {
			return
		}
		topic := strings.NewReplacer("+", fill, "#", fill+"/"+fill).Replace(filter)
		if !matches(strings.Split(pattern, "/"), strings.Split(topic, "/")) {
			t.Fatalf("%q is said to cover %q, and does not match %q", pattern, filter, topic)
		}
	})
}

// matches is MQTT's rule, written the other way round.
func matches(pattern, topic []string) bool {
	switch {
	case len(pattern) == 0:
		return len(topic) == 0
	case pattern[0] == "#":
		return true
	case len(topic) == 0:
		return false
	case pattern[0] != topic[0]:
		return false
	}
	return matches(pattern[1:], topic[1:]) || len(topic) == 1 && len(pattern) == 2 && pattern[1] == "#"
}
