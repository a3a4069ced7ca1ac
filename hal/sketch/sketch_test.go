package sketch

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, v := range []float64{0, -1, 1, 2, 0.5, math.NaN(), math.Inf(1), math.Inf(-1)} {
		h.Add(v)
	}
	if h.N() != 7 || h[0] != 3 || h[Bins-1] != 3 || h[Bins/2] != 1 {
		t.Errorf("%v", h)
	}
}

// What boards have counted each for itself, added up in any order, is what one would
// have counted.
func TestMergeIsCounting(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	var all, merged Profile
	parts := make([]Profile, 7)
	for range 20_000 {
		p := &parts[random.IntN(len(parts))]
		v, s, label := random.Float64(), random.Float64(), fmt.Sprint(random.IntN(20))
		for _, p := range []*Profile{p, &all} {
			p.Light.Add(v)
			p.Scores.Add(s)
			p.Labels.Add(label)
		}
	}
	for _, i := range random.Perm(len(parts)) {
		merged.Merge(&parts[i])
	}
	if a, b := fmt.Sprint(all), fmt.Sprint(merged); a != b {
		t.Errorf("all    %s\nmerged %s", a, b)
	}
	if d := merged.From(&all); d != (Drift{}) {
		t.Errorf("%+v from itself", d)
	}
}

// The limit of Smirnov, by experiment: of pairs from one distribution one in so many is
// over it, of pairs that differ nearly all are.
func TestKSLimit(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	sample := func(n int, shift float64) *Histogram {
		var h Histogram
		for range n {
			h.Add(0.5 + 0.15*random.NormFloat64() + shift)
		}
		return &h
	}
	same, other := 0, 0
	const runs, n, m = 2000, 1000, 300
	limit := KSLimit(n, m, 100)
	for range runs {
		if sample(n, 0).KS(sample(m, 0)) > limit {
			same++
		}
		if sample(n, 0).KS(sample(m, 0.1)) > limit {
			other++
		}
	}
	if same > runs/100*2 || other < runs*99/100 {
		t.Errorf("of %d pairs %d of the same and %d of others are over the limit %.3f", runs, same, other, limit)
	}
	if KSLimit(0, 5, 100) != 1 || KSLimit(1, 1, 1000) != 1 {
		t.Error("without values nothing is far")
	}
}

// However many labels there are: the frequent ones are known, counts are never too
// high, and by no more than promised too low.
func TestManyLabels(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	var l Labels
	truth := map[string]uint64{}
	for range 50_000 {
		label := fmt.Sprint(random.IntN(5000))
		if random.IntN(3) == 0 {
			label = fmt.Sprint("often", random.IntN(4))
		}
		truth[label]++
		l.Add(label)
	}
	if l.N() != 50_000 || len(l.Named) > Most {
		t.Errorf("%d in %d names", l.N(), len(l.Named))
	}
	for label, n := range l.Named {
		if n > truth[label] {
			t.Errorf("%s: %d of %d", label, n, truth[label])
		}
	}
	for label, n := range truth {
		if got := l.Named[label]; n-got > 50_000/(Most+1) {
			t.Errorf("%s: %d of %d", label, got, n)
		}
	}
}

func TestDistance(t *testing.T) {
	day, night := Labels{Named: map[string]uint64{"person": 60, "cat": 40}}, Labels{Named: map[string]uint64{"cat": 8, "owl": 2}}
	if d := day.Distance(&night); math.Abs(d-0.6) > 1e-9 || math.Abs(night.Distance(&day)-d) > 1e-9 {
		t.Errorf("%v", d)
	}
	p := Profile{Labels: day, Empty: 100}
	if d := p.From(&Profile{Labels: day}).Labels; math.Abs(d-0.5) > 1e-9 {
		t.Errorf("half of all results are empty: %v", d)
	}
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(`{"light":[1,2,3],"scores":[],"labels":{"named":{"a":1},"other":3},"empty":9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Profile
		if json.Unmarshal(b, &p) != nil || p.Validate() != nil {
			return
		}
		var q Profile
		q.Labels.Add("a")
		q.Light.Add(0.5)
		d := p.From(&q)
		for _, v := range []float64{d.Light, d.Scores, d.Labels} {
			if !(v >= 0 && v <= 1+1e-9) {
				t.Fatalf("%+v", d)
			}
		}
	})
}
