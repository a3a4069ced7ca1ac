package update

import (
	"math/rand/v2"
	"testing"
)

// Drift is a distance of what was named, by hand, and chance makes little of it.
func TestDrift(t *testing.T) {
	named := func(labels ...int) Sample { // pairs: so often, this label
		var y tally
		for i := 0; i < len(labels); i += 2 {
			for range labels[i] {
				y.add(Run{Scored: true, Score: 0.9, Label: uint32(labels[i+1])})
			}
		}
		return y.sample()
	}
	for name, c := range map[string]struct {
		before, trial Sample
		want          float64 // -1: not known
	}{
		"the same":           {named(60, 1, 60, 2), named(100, 1, 100, 2), 0},
		"entirely":           {named(100, 1), named(100, 2), 1},
		"a quarter":          {named(50, 1, 50, 2), named(75, 1, 25, 2), 0.25},
		"one more":           {named(100, 1), named(90, 1, 10, 3), 0.1},
		"few before":         {named(99, 1), named(100, 2), -1},
		"few on trial":       {named(100, 1), named(99, 2), -1},
		"known as a measure": {remembered(named(100, 1).measure()), named(100, 2), -1},
	} {
		switch d := drifted(c.before, c.trial); {
		case d == nil:
			if c.want >= 0 {
				t.Errorf("%s: not known, want %v", name, c.want)
			}
		case *d != c.want:
			t.Errorf("%s: %v, want %v", name, *d, c.want)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		scene := func() Sample {
			var y tally
			for range 200 {
				y.add(Run{Scored: true, Label: uint32(rng.IntN(4))})
			}
			return y.sample()
		}
		if d := drifted(scene(), scene()); d == nil || *d > 0.25 {
			t.Fatalf("chance: %v", d)
		}
	}
}
