// Package sketch keeps statistics of what a model is shown and what it says in little
// memory, so that those of many hours or many boards can be added up and two of them
// held against each other: what has changed, and by how much. Pure.
package sketch

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Bins of a Histogram.
const Bins = 32

// A Histogram counts values of 0 to 1 in bins of the same width; what lies outside
// counts in the first or the last. Adding two is exact.
type Histogram [Bins]uint64

// Add counts a value. NaN is left out.
func (h *Histogram) Add(v float64) {
	if v != v {
		return
	}
	h[min(max(int(min(max(v, 0), 1)*Bins), 0), Bins-1)]++
}

// Merge counts all that o has counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o {
		h[i] += n
	}
}

// N is how many values were counted.
func (h *Histogram) N() uint64 {
	var n uint64
	for _, c := range h {
		n += c
	}
	return n
}

// KS is the distance of Kolmogorov and Smirnov: the greatest difference of the two
// cumulative shares, 0 to 1, to the width of a bin. It is 0 when either is empty.
func (h *Histogram) KS(o *Histogram) float64 {
	a, b := float64(h.N()), float64(o.N())
	if a == 0 || b == 0 {
		return 0
	}
	var ca, cb, most float64
	for i := range h {
		ca += float64(h[i]) / a
		cb += float64(o[i]) / b
		most = max(most, math.Abs(ca-cb))
	}
	return most
}

// KSLimit is the distance that two samples of n and m independent values of the same
// kind exceed once in so many comparisons (1000: alpha of 0.001), after Smirnov's limit
// for large samples: sqrt(-ln(alpha/2)/2 · (n+m)/(n·m)).
func KSLimit(n, m, once float64) float64 {
	if n <= 0 || m <= 0 {
		return 1
	}
	return min(math.Sqrt(math.Log(2*once)/2*(n+m)/(n*m)), 1)
}

// Most labels that a Labels counts by name.
const Most = 32

// A Labels counts labels. Those beyond Most are counted without their names: the
// rarest, after Misra and Gries ("Finding repeated elements", 1982), in the mergeable
// form of Agarwal et al. ("Mergeable summaries", PODS 2012). A label's count is never
// too high, and too low by N()/(Most+1) at the most. The zero value is empty.
type Labels struct {
	Named map[string]uint64 `json:"named"`
	Other uint64            `json:"other,omitempty"` // counted without a name
}

// Add counts a label.
func (l *Labels) Add(label string) {
	if l.Named == nil {
		l.Named = make(map[string]uint64, Most+1)
	}
	l.Named[label]++
	l.shrink()
}

// Merge counts all that o has counted.
func (l *Labels) Merge(o *Labels) {
	if l.Named == nil {
		l.Named = make(map[string]uint64, Most+1)
	}
	for label, n := range o.Named {
		l.Named[label] += n
	}
	l.Other += o.Other
	l.shrink()
}

// shrink takes the count of the most frequent label that has no place from all.
func (l *Labels) shrink() {
	if len(l.Named) <= Most {
		return
	}
	counts := make([]uint64, 0, len(l.Named))
	for _, n := range l.Named {
		counts = append(counts, n)
	}
	slices.SortFunc(counts, func(a, b uint64) int { return cmp.Compare(b, a) })
	take := counts[Most]
	for label, n := range l.Named {
		if n <= take {
			l.Other += n
			delete(l.Named, label)
			continue
		}
		l.Other += take
		l.Named[label] = n - take
	}
}

// N is how many labels were counted.
func (l *Labels) N() uint64 {
	n := l.Other
	for _, c := range l.Named {
		n += c
	}
	return n
}

// Distance is half the sum of the differences of the labels' shares, 0 to 1: how many of
// o's would have to be others to be like l's. It is 0 when either is empty.
func (l *Labels) Distance(o *Labels) float64 {
	a, b := float64(l.N()), float64(o.N())
	if a == 0 || b == 0 {
		return 0
	}
	sum := math.Abs(float64(l.Other)/a - float64(o.Other)/b)
	for label, n := range l.Named {
		sum += math.Abs(float64(n)/a - float64(o.Named[label])/b)
	}
	for label, n := range o.Named {
		if _, both := l.Named[label]; !both {
			sum += float64(n) / b
		}
	}
	return sum / 2
}

// A Profile is what a model was shown and what it said over some time.
type Profile struct {
	Light  Histogram `json:"light"`  // brightness of frames
	Scores Histogram `json:"scores"` // of what was named first
	Labels Labels    `json:"labels"` // that were named first
	Empty  uint64    `json:"empty"`  // results that named nothing
}

// Merge counts all that o has counted.
func (p *Profile) Merge(o *Profile) {
	p.Light.Merge(&o.Light)
	p.Scores.Merge(&o.Scores)
	p.Labels.Merge(&o.Labels)
	p.Empty += o.Empty
}

// Validate says what cannot be of a Profile that came from outside.
func (p *Profile) Validate() error {
	if len(p.Labels.Named) > Most {
		return fmt.Errorf("%d labels, the most are %d", len(p.Labels.Named), Most)
	}
	const most = 1 << 53 // sums stay exact
	total := p.Empty
	for _, n := range slices.Concat(p.Light[:], p.Scores[:], []uint64{p.Labels.Other}) {
		if total = max(total, n); total > most {
			return fmt.Errorf("a count of %d", n)
		}
	}
	for label, n := range p.Labels.Named {
		if n > most || len(label) > 1024 {
			return fmt.Errorf("label %.40q, %d times", label, n)
		}
	}
	return nil
}

// A Drift is how far a Profile is from another, each part 0 (not at all) to 1.
type Drift struct {
	Light  float64 // KS
	Scores float64 // KS
	Labels float64 // Distance, with nothing as a label of its own
}

// From is how far p is from what was before.
func (p *Profile) From(before *Profile) Drift {
	a, b := before.Labels, p.Labels
	a.Other += before.Empty // as much "nothing" as "another": the share is what counts
	b.Other += p.Empty
	return Drift{Light: before.Light.KS(&p.Light), Scores: before.Scores.KS(&p.Scores), Labels: a.Distance(&b)}
}
