package event

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// A diary writes down what it is told.
type diary struct{ lines []string }

func (d *diary) Count(zone, label string, n int) {
	d.lines = append(d.lines, fmt.Sprintf("%s/%s=%d", zone, label, n))
}

func (d *diary) Event(e *wire.Event) {
	s := fmt.Sprintf("%s %s %s/%s %.2f x%d from %ds", e.Event, e.Type, e.Zone, e.Label, e.Score, e.Count, e.Start.Sub(noon)/time.Second)
	if !e.End.IsZero() {
		s += fmt.Sprintf(" to %ds", e.End.Sub(noon)/time.Second)
	}
	d.lines = append(d.lines, s)
}

func thing(label string, score float32, box ...float32) wire.Item {
	it := wire.Item{Label: label, Score: score}
	if len(box) == 4 {
		it.Box = (*[4]float32)(box)
	}
	return it
}

func TestWatcher(t *testing.T) {
	door := Zone{"door", [][2]float32{{0, 0.5}, {0.5, 0.5}, {0.5, 1}, {0, 1}}}
	atDoor, onLawn := []float32{0.1, 0.2, 0.3, 0.9}, []float32{0.7, 0.2, 0.9, 0.9}
	person := func(score float32, box []float32) wire.Item { return thing("person", score, box...) }
	for _, tt := range []struct {
		name    string
		c       Config
		results map[int][]wire.Item // by second; each is seen
		ticks   []int
		want    []string
	}{
		{"comes, stays, goes", Config{Hold: 3 * time.Second}, map[int][]wire.Item{
			0: {person(.6, atDoor)}, 1: {person(.62, atDoor)}, 2: {}, 3: {person(.61, atDoor)}, 4: {}, 5: {}, 6: {}, 7: {},
		}, nil, []string{"all/person=1", "e-1 start all/person 0.62 x1 from 0s", "all/person=0", "e-1 end all/person 0.62 x1 from 0s to 3s"}},
		{"a flicker is nothing", Config{}, map[int][]wire.Item{0: {person(.9, atDoor)}, 1: {}, 2: {person(.9, atDoor)}, 3: {}}, nil, nil},
		{"one result is enough where it is said so", Config{Confirm: 1, Hold: time.Second}, map[int][]wire.Item{0: {person(.9, atDoor)}, 1: {}}, nil,
			[]string{"all/person=1", "e-1 start all/person 0.90 x1 from 0s", "all/person=0", "e-1 end all/person 0.90 x1 from 0s to 0s"}},
		{"another comes", Config{}, map[int][]wire.Item{
			0: {person(.6, atDoor)}, 1: {person(.6, atDoor)}, 2: {person(.7, atDoor), person(.6, onLawn)}, 3: {person(.6, atDoor), person(.9, onLawn)}, 4: {person(.6, atDoor)}, 5: {person(.6, atDoor)},
		}, nil, []string{"all/person=1", "e-1 start all/person 0.60 x1 from 0s", "all/person=2", "e-1 update all/person 0.90 x2 from 0s", "all/person=1"}},
		{"is seen better", Config{}, map[int][]wire.Item{
			0: {person(.6, atDoor)}, 1: {person(.6, atDoor)}, 2: {person(.8, atDoor)}, 7: {person(.8, atDoor)}, 8: {person(.95, atDoor)},
		}, nil, []string{"all/person=1", "e-1 start all/person 0.60 x1 from 0s", "e-1 update all/person 0.80 x1 from 0s"}},
		{"events are of zones, where there are any", Config{Zones: []Zone{door}, Hold: 2 * time.Second}, map[int][]wire.Item{
			0: {person(.9, onLawn)}, 1: {person(.9, onLawn)}, 2: {person(.9, atDoor)}, 3: {person(.9, atDoor)}, 4: {person(.9, onLawn)}, 5: {person(.9, onLawn)},
		}, nil, []string{"all/person=1", "door/person=1", "e-2 start door/person 0.90 x1 from 2s", "door/person=0", "e-2 end door/person 0.90 x1 from 2s to 3s"}},
		{"labels", Config{Labels: []string{"cat"}}, map[int][]wire.Item{0: {person(.9, atDoor), thing("cat", .5, onLawn...)}, 1: {person(.9, atDoor), thing("cat", .5, onLawn...)}}, nil,
			[]string{"all/cat=1", "e-1 start all/cat 0.50 x1 from 0s"}},
		{"of a classification the first", Config{Zones: []Zone{door}}, map[int][]wire.Item{0: {thing("cat", .8), thing("dog", .1)}, 1: {thing("cat", .8), thing("dog", .1)}}, nil, []string{"all/cat=1"}},
		{"no result comes any more", Config{Hold: 3 * time.Second}, map[int][]wire.Item{0: {person(.9, atDoor)}, 1: {person(.9, atDoor)}}, []int{2, 3, 4, 5},
			[]string{"all/person=1", "e-1 start all/person 0.90 x1 from 0s", "all/person=0", "e-1 end all/person 0.90 x1 from 0s to 1s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.IDPrefix = "e"
			w, d := New(tt.c), &diary{}
			for s := range 20 {
				at := noon.Add(time.Duration(s) * time.Second)
				if items, ok := tt.results[s]; ok {
					w.See(at, items, d)
				}
				if slices.Contains(tt.ticks, s) {
					w.Tick(at, d)
				}
			}
			if !slices.Equal(d.lines, tt.want) {
				t.Errorf("got  %q\nwant %q", d.lines, tt.want)
			}
		})
	}
}

// A ledger holds what it is told against what may be said.
type ledger struct {
	t     *testing.T
	count map[string]int
	open  map[string]string // event by zone/label
	ended map[string]bool
	words map[string]bool // ids
}

func (l *ledger) Count(zone, label string, n int) {
	if before, known := l.count[zone+"/"+label]; known && before == n || !known && n == 0 {
		l.t.Fatalf("%s/%s: %d is no news", zone, label, n)
	}
	l.count[zone+"/"+label] = n
}

func (l *ledger) Event(e *wire.Event) {
	at := e.Zone + "/" + e.Label
	switch {
	case e.Type == wire.EventStart && l.open[at] == "" && !l.ended[e.Event]:
		l.open[at] = e.Event
	case e.Type == wire.EventUpdate && l.open[at] == e.Event:
	case e.Type == wire.EventEnd && l.open[at] == e.Event && !e.End.Before(e.Start):
		delete(l.open, at)
		l.ended[e.Event] = true
	default:
		l.t.Fatalf("%s: %s after %q", at, e.Type, l.open[at])
	}
	said := *e
	said.Pipe = "cam"
	if err := said.Validate(); err != nil || l.words[e.ID] {
		l.t.Fatalf("%+v: %v, or its id is not the first", e, err)
	}
	l.words[e.ID] = true
}

// Whatever results come: every event starts, is updated and ends in this order, no
// count is said twice, and at the end nothing is left.
func TestAnyResults(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := Config{IDPrefix: "e", Confirm: 1 + random.IntN(3), Hold: time.Duration(random.IntN(5)) * time.Second}
		for z := range random.IntN(3) {
			c.Zones = append(c.Zones, Zone{fmt.Sprint("z", z), [][2]float32{{random.Float32(), random.Float32()}, {random.Float32(), random.Float32()}, {random.Float32(), random.Float32()}}})
		}
		w, l, at := New(c), &ledger{t, map[string]int{}, map[string]string{}, map[string]bool{}, map[string]bool{}}, noon
		for range 300 {
			at = at.Add(time.Duration(random.IntN(3000)) * time.Millisecond)
			if random.IntN(5) == 0 {
				w.Tick(at, l)
				continue
			}
			var items []wire.Item
			for range random.IntN(5) {
				x, y := random.Float32()*.9, random.Float32()*.9
				items = append(items, thing(fmt.Sprint("label", random.IntN(4)), .1+random.Float32(), x, y, x+.1, y+.1))
			}
			w.See(at, items, l)
		}
		w.End(l)
		if len(l.open) != 0 || len(w.seen) != 0 {
			t.Fatalf("open at the end: %v", l.open)
		}
		for at, n := range l.count {
			if n != 0 {
				t.Fatalf("%s is still %d", at, n)
			}
		}
	}
}

// A model that names something else in every frame does not fill the memory.
func TestManyLabels(t *testing.T) {
	w, d := New(Config{Confirm: 1}), &diary{}
	for i := range 10_000 {
		w.See(noon, []wire.Item{thing(fmt.Sprint("label", i), 1)}, d)
	}
	if len(w.seen) > most {
		t.Errorf("%d presences", len(w.seen))
	}
}

func TestWatchingAllocatesNothing(t *testing.T) {
	w, d := New(Config{Zones: []Zone{{"z", [][2]float32{{0, 0}, {1, 0}, {1, 1}, {0, 1}}}}}), &diary{}
	items := []wire.Item{thing("person", .9, .1, .1, .4, .5), thing("cat", .9, .1, .1, .4, .5)}
	at := noon
	w.See(at, items, d)
	w.See(at, items, d)
	if n := testing.AllocsPerRun(100, func() { at = at.Add(time.Second); w.See(at, items, d) }); n != 0 {
		t.Errorf("%v allocations a result", n)
	}
}
