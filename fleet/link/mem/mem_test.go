package mem

import (
	"testing"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
)

func TestSuite(t *testing.T) {
	linktest.Run(t, func(*testing.T) linktest.Rig {
		b := NewBroker()
		b.Deny = func(_, filter string) bool { return filter == "no/#" }
		return linktest.Rig{
			Link:   func(id string, clean bool) wire.Link { return b.Link(id, clean) },
			Cut:    b.Cut,
			Denied: "no/#",
		}
	})
}

func TestMatch(t *testing.T) {
	tests := []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a", false}, {"a", "a/b", false}, {"a/+", "a/b", true},
		{"a/+", "a/b/c", false}, {"a/#", "a/b/c", true}, {"a/#", "a", true}, {"#", "a/b", true},
		{"+/b", "a/b", true}, {"+", "a/b", false}, {"#", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true},
		{"a/+/c", "a//c", true}, {"a/b/#", "a", false},
	}
	for _, tt := range tests {
		if got := Match(tt.filter, tt.topic); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.filter, tt.topic, got)
		}
	}
}
