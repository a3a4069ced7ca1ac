package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"
)

func someResult() *Result {
	return &Result{
		V: Version, ID: "pi-1-k7q2-porch-812", Seq: 812, SID: 42, TS: time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC),
		Pipe: "porch", Frame: 812, Name: "a \"b\" \\ \n\t\x00\x7f é \u2028 <&>.png",
		Model: ModelRef{Name: "mobilenet", Ver: "1.0.0", SHA: "0f0f0f0f0f0f0f0f"}, Accel: "xnnpack",
		LatMS: Latency{Pre: 0.914, Inv: 14.8, Post: 1e-7}, Kind: "detect",
		Items: []Item{
			{Label: "peacock", ID: 85, Score: 0.9921875},
			{Label: "dog", ID: -1, Score: 1e-9, Box: &[4]float32{0, 0.1, 0.5, 1}},
		},
	}
}

func TestAppendResult(t *testing.T) {
	far := time.FixedZone("far", 5*3600)
	tests := map[string]func(*Result){
		"as it is":   func(*Result) {},
		"nameless":   func(r *Result) { r.Name = "" },
		"no items":   func(r *Result) { r.Items = []Item{} },
		"elsewhere":  func(r *Result) { r.TS = r.TS.In(far) },
		"large":      func(r *Result) { r.LatMS.Inv, r.Seq, r.Frame = 1e21, math.MaxUint64, math.MaxUint64 },
		"round time": func(r *Result) { r.TS = r.TS.Truncate(time.Second) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			r := someResult()
			change(r)
			want, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, AppendResult(nil, r), want)
			body := AppendResultBody(nil, r)
			if bytes.Contains(body, []byte(`"seq"`)) {
				t.Errorf("body has seq: %s", body)
			}
			sameJSON(t, append(AppendResultHead(nil, r.Seq, r.Late), body[1:]...), want)
		})
	}
}

// sameJSON compares what two texts say of a Result.
func sameJSON(t *testing.T, got, want []byte) {
	t.Helper()
	var g, w Result
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if !g.TS.Equal(w.TS) {
		t.Errorf("got %v, want %v", g.TS, w.TS)
	}
	g.TS = w.TS
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAppendResultWhatJSONCannotSay(t *testing.T) {
	r := someResult()
	r.Items = nil
	r.LatMS = Latency{Pre: math.NaN(), Inv: math.Inf(1), Post: math.Inf(-1)}
	r.Name = "\xff\xfea\xc3"
	b := AppendResult(nil, r)
	var back Result
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if back.LatMS != (Latency{}) || back.Items == nil || back.Name != "\ufffd\ufffda\ufffd" || !utf8.Valid(b) {
		t.Errorf("got %s", b)
	}
}

func TestAppendResultAllocatesNothing(t *testing.T) {
	r, buf := someResult(), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = AppendResult(buf[:0], r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendResult(b *testing.B) {
	r, buf := someResult(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendResult(buf[:0], r)
	}
}

func BenchmarkParseResult(b *testing.B) {
	msg := AppendResult(nil, someResult())
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, err := Parse[Result](msg, MaxResult); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzAppendResult(f *testing.F) {
	f.Add("id", "porch", "a\"\\\x00.png", uint64(1), int64(0), 0.5, float32(0.25), 3)
	f.Add("", "\xff", "\u2028", uint64(math.MaxUint64), int64(-1), math.NaN(), float32(1e-9), -1)
	f.Fuzz(func(t *testing.T, id, pipe, name string, n uint64, ns int64, lat float64, score float32, class int) {
		r := &Result{V: 1, ID: id, Seq: n, SID: n, TS: time.Unix(0, ns), Pipe: pipe, Frame: n, Name: name,
			Model: ModelRef{Name: pipe, Ver: id, SHA: name}, Accel: id, LatMS: Latency{lat, lat, lat}, Kind: pipe,
			Items: []Item{{Label: name, ID: class, Score: score}, {Label: id, Box: &[4]float32{score, score, score, score}}}}
		got := AppendResult(nil, r)
		if math.IsNaN(lat) || math.IsInf(lat, 0) {
			r.LatMS = Latency{}
		}
		if s := float64(score); math.IsNaN(s) || math.IsInf(s, 0) {
			r.Items[0].Score, r.Items[1].Box = 0, &[4]float32{}
		}
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		sameJSON(t, got, want)
	})
}
