package health

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/sketch"
)

// A street is what a camera of a street sees: bright by day, and a person now and then.
type street struct {
	random *rand.Rand
	r      wire.Result
	items  [1]wire.Item
}

func newStreet(seed uint64) *street {
	return &street{random: rand.New(rand.NewPCG(seed, 7)), r: wire.Result{Model: wire.ModelRef{SHA: "one"}}}
}

func (s *street) see(d *Drift, at time.Time, lamp float64, label string) {
	hour := float64(at.Hour()) + float64(at.Minute())/60
	light := max(0, 1-abs(hour-12)/8)*0.8 + lamp
	if d.Due(at) {
		d.Light(light + 0.02*s.random.NormFloat64())
	}
	s.r.TS, s.r.Items = at, nil
	if s.random.IntN(4) == 0 {
		s.items[0] = wire.Item{Label: label, Score: 0.5 + 0.4*s.random.Float32()}
		s.r.Items = s.items[:]
	}
	d.See(&s.r)
}

func abs(v float64) float64 { return max(v, -v) }

// days lets time pass, with a result every few seconds.
func (s *street) days(d *Drift, from time.Time, days int, lamp float64, label string) time.Time {
	for at := from; at.Sub(from) < time.Duration(days)*day; at = at.Add(5 * time.Second) {
		s.see(d, at, lamp, label)
	}
	return from.Add(time.Duration(days) * day)
}

// A day like the first is near it, whatever the hour; one with a lamp over the street or
// with cats in it is not.
func TestDrift(t *testing.T) {
	var kept *sketch.Profile
	d := NewDrift("one", nil, func(model string, usual sketch.Profile) {
		if model != "one" || kept != nil {
			t.Errorf("told again of %s", model)
		}
		kept = &usual
	})
	s := newStreet(1)
	at := s.days(d, time.Date(2026, 6, 1, 9, 30, 0, 0, time.UTC), 1, 0, "person")
	if d.Last() != nil || kept != nil {
		t.Error("known before the first day is over")
	}
	at = s.days(d, at, 2, 0, "person")
	if l := d.Last(); l == nil || kept == nil || l.Light > 0.05 || l.Scores > 0.05 || l.Labels > 0.05 {
		t.Fatalf("a day like the first: %+v", l)
	}
	at = s.days(d, at, 2, 0.15, "person")
	if l := d.Last(); l.Light < 0.3 || l.Labels > 0.05 {
		t.Errorf("with a lamp: %+v", l)
	}
	at = s.days(d, at, 2, 0, "cat")
	if l := d.Last(); l.Light > 0.05 || l.Labels < 0.2 {
		t.Errorf("with cats: %+v", l)
	}
	// The next life goes on where this one was.
	next := NewDrift("one", kept, func(string, sketch.Profile) { t.Error("told of what is known") })
	at = s.days(next, at, 2, 0.15, "person")
	if l := next.Last(); l == nil || l.Light < 0.3 {
		t.Errorf("after a restart: %+v", l)
	}
	// Another model has another first day.
	s.r.Model.SHA = "two"
	s.see(d, at, 0, "person")
	if d.Last() != nil {
		t.Error("of another model")
	}
}

// Neither a clock that jumps nor a board that was off makes a day of an hour.
func TestDriftNeedsADay(t *testing.T) {
	told := 0
	d := NewDrift("one", nil, func(string, sketch.Profile) { told++ })
	s := newStreet(2)
	at := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 500 {
		s.see(d, at.Add(time.Duration(i)*time.Second), 0, "person")
	}
	at = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC) // NTP
	for range 20 {
		for i := range 300 {
			s.see(d, at.Add(time.Duration(i)*time.Second), 0, "person")
		}
		at = at.Add(20 * time.Hour) // off
	}
	if told != 0 || d.Last() != nil {
		t.Errorf("%d days of some minutes each", told)
	}
	at = at.Add(-time.Hour)
	s.see(d, at, 0, "person")
	s.days(d, at, 3, 0, "person")
	if told != 1 || d.Last() == nil {
		t.Errorf("told %d times, %+v", told, d.Last())
	}
}

func TestDriftAllocatesNothing(t *testing.T) {
	d := NewDrift("one", nil, func(string, sketch.Profile) {})
	s := newStreet(3)
	at := time.Date(2026, 6, 1, 9, 0, 0, 0, time.UTC)
	s.days(d, at, 1, 0, "person")
	if n := testing.AllocsPerRun(1000, func() { at = at.Add(2 * time.Second); s.see(d, at, 0, "person") }); n != 0 {
		t.Errorf("%v allocations a result", n)
	}
}
