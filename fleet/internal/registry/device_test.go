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

func TestQuery(t *testing.T) {
	d := Device{
		ID: "pi-1", Name: "Porch", Labels: map[string]string{"site": "north", "ring": "canary"}, State: wire.StateOnline,
		Hello: &wire.Hello{
			Board: "pi5", Arch: "arm64",
			Accelerators: []wire.HelloDevice{{Accelerator: "cpu"}, {Accelerator: "edgetpu"}},
			Pipelines:    []wire.HelloPipeline{{Name: "cam"}},
		},
	}
	for s, want := range map[string]bool{
		"all": true, "pi-1": true, "pi-2": false, "id=pi-1": true, "site=north": true, "site=south": false, "nothing=x": false,
		"site=north, ring=canary": true, "site=north,ring=x": false, "board=pi5,accelerator=edgetpu": true, "accelerator=gpu": false,
		"pipeline=cam,online=true": true, "online=false": false, "name=Porch": true, "all,board=pi5": true,
	} {
		q, err := ParseQuery(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if q.Match(d) != want {
			t.Errorf("%q matches: %v", s, !want)
		}
	}
	for _, s := range []string{"", ",", "all,", "=x", "a=", "A=b", "pi-1,pi-2", "a=b=c,", "a=x\x00", "all=x", "ä", "a b"} {
		if q, err := ParseQuery(s); err == nil {
			t.Errorf("%q was read as %q", s, q)
		}
	}
	if (Query{}).Match(d) {
		t.Error("the empty query matches")
	}
	d.Revoked = time.Now()
	if All().Match(d) {
		t.Error("a revoked device is in a group")
	}
}

func FuzzParseQuery(f *testing.F) {
	for _, s := range []string{"all", "pi-1", "a=b,c=d", "board=pi5", "id=x,all", "a=ü", "\xff=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := ParseQuery(s)
		if err != nil {
			return
		}
		again, err := ParseQuery(q.String())
		if err != nil || again.String() != q.String() {
			t.Fatalf("%q is written %q, which is read as %q, %v", s, q, again, err)
		}
	})
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
