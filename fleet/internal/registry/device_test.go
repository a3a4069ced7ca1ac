package registry

import (
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
)

func TestApply(t *testing.T) {
	type say struct {
		after time.Duration
		state string
		sid   uint64
		mid   string
	}
	const on, off, stop = wire.StateOnline, wire.StateOffline, wire.StateStopped
	tests := map[string]struct {
		says  []say
		state string
		twin  bool
	}{
		"comes":                     {[]say{{0, on, 1, "a"}}, on, false},
		"dies":                      {[]say{{0, on, 1, "a"}, {time.Hour, off, 1, "a"}}, off, false},
		"stops":                     {[]say{{0, on, 1, "a"}, {time.Hour, stop, 1, "a"}}, stop, false},
		"old will":                  {[]say{{0, on, 1, "a"}, {1, on, 2, "a"}, {1, off, 1, "a"}}, on, false},
		"will of another machine":   {[]say{{0, on, 1, "a"}, {time.Hour, on, 1, "b"}, {1, off, 1, "a"}}, on, false},
		"comes again":               {[]say{{0, on, 1, "a"}, {time.Hour, off, 1, "a"}, {1, on, 2, "a"}}, on, false},
		"lost its counter":          {[]say{{0, on, 9, "a"}, {time.Hour, on, 1, "a"}}, on, false},
		"a board was replaced":      {[]say{{0, on, 1, "a"}, {time.Hour, off, 1, "a"}, {time.Hour, on, 2, "b"}}, on, false},
		"and replaced again, later": {[]say{{0, on, 1, "a"}, {time.Hour, on, 2, "b"}, {time.Hour, on, 3, "a"}}, on, false},
		"two take turns":            {[]say{{0, on, 1, "a"}, {time.Minute, on, 1, "b"}, {time.Minute, on, 2, "a"}}, on, true},
		"one pushes the other out":  {[]say{{0, on, 1, "a"}, {time.Second, on, 1, "b"}}, on, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var d Device
			now := time.Unix(1e9, 0)
			for _, s := range tt.says {
				now = now.Add(s.after)
				if d.apply(wire.Status{V: 1, State: s.state, SID: s.sid, MID: s.mid}, now) {
					d.LastSeen = now
				}
			}
			if d.State != tt.state || d.Duplicate(now) != tt.twin {
				t.Errorf("state %q, twin %v, want %q, %v", d.State, d.Duplicate(now), tt.state, tt.twin)
			}
			if d.Duplicate(now.Add(time.Hour)) {
				t.Error("the alarm does not end")
			}
		})
	}
}

func BenchmarkSelect(b *testing.B) {
	r := &Registry{cfg: Config{Now: time.Now}, devices: map[wire.DeviceID]*entry{}}
	for range 100_000 {
		r.put(&Device{ID: wire.DeviceID(wire.NewID("d")), Labels: map[string]string{"site": "lyon"}, State: wire.StateOnline,
			Hello: &wire.Hello{Agent: "1.3.2", RAM: 4 << 30, Accelerators: []wire.HelloDevice{{Accelerator: "cpu"}, {Accelerator: "edgetpu"}}}})
	}
	q, err := r.Query(`site == "lyon" and accel has "edgetpu" and ram >= 1GiB and not (agent < 1.3.0) and online`)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if len(r.Select(q)) != len(r.devices) {
			b.Fatal("not all")
		}
	}
}

func TestWatchLags(t *testing.T) {
	var r Registry
	w := r.Watch(2)
	for range 10 {
		r.watch.send(Event{Kind: EventDevice})
	}
	var kinds []EventKind
	for range 3 {
		kinds = append(kinds, (<-w.C).Kind)
	}
	if kinds[0] != EventDevice || kinds[1] != EventDevice || kinds[2] != EventLagged {
		t.Errorf("got %v", kinds)
	}
	r.watch.send(Event{Kind: EventExec})
	if e := <-w.C; e.Kind != EventExec {
		t.Errorf("got %v after the lag", e.Kind)
	}
	w.Close()
	w.Close()
	r.watch.send(Event{Kind: EventExec}) // to nobody
	if _, open := <-w.C; open {
		t.Error("not closed")
	}
}
