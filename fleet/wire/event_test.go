package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"
)

func someEvent() *Event {
	at := time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)
	return &Event{
		V: Version, ID: "pi-1-porch-17/2", Event: "pi-1-porch-17", Seq: 6, TS: at, Pipe: "porch", Type: EventEnd, Label: "a \"b\" \\ \n\x00 é <&>",
		Zone: "door", Track: 17, Score: 0.9921875, Start: at.Add(-time.Minute), End: at, Count: 2,
		Box: &[4]float32{0, 0.1, 0.5, 1}, Image: "pi-1-porch-17", Late: true, AgeMS: 86_400_000,
	}
}

// sent is what goes out of e.
func sent(e *Event) []byte {
	b := AppendEventHead(nil, e.Seq, e.Late, time.Duration(e.AgeMS)*time.Millisecond)
	return append(b, AppendEventBody(nil, e)[1:]...)
}

func sameEvent(t *testing.T, got []byte, e *Event) {
	t.Helper()
	want, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var g, w map[string]any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAppendEvent(t *testing.T) {
	for name, change := range map[string]func(*Event){
		"as it is":  func(*Event) {},
		"least":     func(e *Event) { e.Track, e.End, e.Box, e.Image, e.Late, e.AgeMS = 0, time.Time{}, nil, "", false, 0 },
		"large":     func(e *Event) { e.Seq, e.Track, e.AgeMS = math.MaxUint64, math.MaxUint64, math.MaxInt64/1_000_000 },
		"old clock": func(e *Event) { e.TS = time.Unix(12, 0).UTC() },
	} {
		t.Run(name, func(t *testing.T) {
			e := someEvent()
			change(e)
			sameEvent(t, sent(e), e)
			body := AppendEventBody(nil, e)
			for _, key := range []string{`"seq"`, `"late"`, `"age_ms"`} {
				if bytes.Contains(body, []byte(key)) {
					t.Errorf("the body has %s: %s", key, body)
				}
			}
		})
	}
	if _, err := Parse[Event](sent(someEvent()), MaxResult); err == nil {
		t.Error("a label with a control character is accepted")
	}
	e := someEvent()
	e.Label = "person"
	if _, err := Parse[Event](sent(e), MaxResult); err != nil {
		t.Error(err)
	}
}

func TestResultHead(t *testing.T) {
	r := someResult()
	for _, r.Late = range []bool{false, true} {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		sameJSON(t, append(AppendResultHead(nil, r.Seq, r.Late), AppendResultBody(nil, r)[1:]...), want)
		sameJSON(t, AppendResult(nil, r), want)
		if bytes.Contains(AppendResultBody(nil, r), []byte(`"late"`)) || bytes.Contains(want, []byte(`"late"`)) != r.Late {
			t.Errorf("late is %t: %s", r.Late, want)
		}
	}
}

func TestAppendEventAllocatesNothing(t *testing.T) {
	e, buf := someEvent(), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = AppendEventBody(AppendEventHead(buf[:0], 1, true, time.Second), e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAppendEvent(f *testing.F) {
	f.Add("id", "porch", "a\"\\\x00.png", uint64(1), int64(0), float32(0.25), true)
	f.Add("", "\xff", "\u2028", uint64(math.MaxUint64), int64(-1), float32(1e-9), false)
	f.Fuzz(func(t *testing.T, id, pipe, label string, n uint64, ns int64, score float32, late bool) {
		at := time.Unix(0, ns).UTC()
		e := &Event{V: 1, ID: id, Event: id, Seq: n, TS: at, Pipe: pipe, Type: pipe, Label: label, Zone: id, Track: n, Score: score, Start: at, End: at,
			Count: int(ns), Box: &[4]float32{score, 0, score, 1}, Image: label, Late: late, AgeMS: int64(n >> 24)}
		got := sent(e)
		if s := float64(score); math.IsNaN(s) || math.IsInf(s, 0) {
			e.Score, e.Box = 0, &[4]float32{0, 0, 0, 1}
		}
		sameEvent(t, got, e)
	})
}
