package agreement

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"testing"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
)

func item(label string, score float32, box ...float32) task.Item {
	it := task.Item{Label: label, Score: score}
	if len(box) == 4 {
		it.Box, it.HasBox = [4]float32(box), true
	}
	return it
}

func answer(kind string, items ...task.Item) *task.Result {
	return &task.Result{Kind: kind, Items: items}
}

func values(v ...float32) *task.Result {
	r := answer(task.Raw)
	for i, s := range v {
		r.Items = append(r.Items, task.Item{Label: "out", ID: i, Score: s})
	}
	return r
}

func TestOneFrame(t *testing.T) {
	cat, dog := item("cat", 0.9), item("dog", 0.6)
	left, right := item("car", 0.8, 0, 0, 0.4, 1), item("car", 0.7, 0.5, 0, 1, 1)
	for name, c := range map[string]struct {
		a, b   *task.Result
		metric string
		mean   float64
		agreed int
		delta  float64
	}{
		"the same label":         {answer(task.Classify, cat, dog), answer(task.Classify, item("cat", 0.7), dog), Top1, 1, 1, 0.2},
		"another label":          {answer(task.Classify, cat), answer(task.Classify, dog), Top1, 0, 0, 0.3},
		"none from one":          {answer(task.Classify, cat), answer(task.Classify), Top1, 0, 0, 0.9},
		"none from both":         {answer(task.Classify), answer(task.Classify), Top1, 1, 1, 0},
		"the same boxes":         {answer(task.Detect, left, right), answer(task.Detect, right, left), F1, 1, 1, 0.1},
		"one box of two":         {answer(task.Detect, left, right), answer(task.Detect, left), F1, 2. / 3, 0, 0},
		"another label's box":    {answer(task.Detect, left), answer(task.Detect, item("dog", 0.8, 0, 0, 0.4, 1)), F1, 0, 0, 0},
		"half a box":             {answer(task.Detect, left), answer(task.Detect, item("car", 0.8, 0, 0, 0.4, 0.5)), F1, 1, 1, 0},  // IoU 0.5
		"less than half":         {answer(task.Detect, left), answer(task.Detect, item("car", 0.8, 0, 0, 0.4, 0.49)), F1, 0, 0, 0}, // IoU 0.49
		"a box counts once":      {answer(task.Detect, left), answer(task.Detect, left, left, left), F1, 0.5, 0, 0},
		"nothing from both":      {answer(task.Detect), answer(task.Detect), F1, 1, 1, 0},
		"nothing from one":       {answer(task.Detect, left), answer(task.Detect), F1, 0, 0, 0.8},
		"no area":                {answer(task.Detect, item("car", 1, 0, 0, 0, 0)), answer(task.Detect, item("car", 1, 0, 0, 0, 0)), F1, 0, 0, 0},
		"the same values":        {values(1, 2, 3), values(1, 2, 3), NRMSE, 0, 1, 0},
		"a little off":           {values(0, 10), values(1, 10), NRMSE, 0.0707, 1, 1}, // √(1/2) over 10
		"far off":                {values(0, 10), values(5, 10), NRMSE, 0.3536, 0, 5}, // √(25/2) over 10
		"one value":              {values(4), values(5), NRMSE, 0.25, 0, 1},           // 1 over 4
		"zeros":                  {values(0, 0), values(0, 0), NRMSE, 0, 1, 0},
		"zeros and more":         {values(0, 0), values(0, 1), NRMSE, worst, 0, 0},
		"a value less":           {values(2, 2), values(2), NRMSE, 0.7071, 0, 0}, // √(4/2) over 2
		"no values":              {values(), values(), NRMSE, 0, 1, 0},
		"none, and then a value": {values(), values(1), NRMSE, worst, 0, 1},
	} {
		var tally Tally
		if err := tally.Add(c.a, c.b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := tally.Sum()
		want := wire.Agreement{Metric: c.metric, Frames: 1, Agreed: c.agreed, Mean: c.mean, Delta: c.delta}
		if got.Metric != want.Metric || got.Agreed != want.Agreed || math.Abs(got.Mean-want.Mean) > 1e-4 || math.Abs(got.Delta-want.Delta) > 1e-4 {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// Over frames the metric and the difference are means, and kinds do not mix.
func TestTally(t *testing.T) {
	var tally Tally
	if got := tally.Sum(); got.Metric != "none" || got.Frames != 0 {
		t.Errorf("no frame: %+v", got)
	}
	cat, dog := answer(task.Classify, item("cat", 0.9)), answer(task.Classify, item("dog", 0.5))
	for _, pair := range [][2]*task.Result{{cat, cat}, {cat, dog}, {dog, dog}, {dog, cat}} {
		if err := tally.Add(pair[0], pair[1]); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := tally.Sum(), (wire.Agreement{Metric: Top1, Frames: 4, Agreed: 2, Mean: 0.5, Delta: 0.2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := tally.Add(cat, values(1)); hal.CodeOf(err) != hal.CodeAgreement || tally.Frames() != 4 {
		t.Errorf("another kind: %v, %d frames", err, tally.Frames())
	}
}

// Whatever two models say, the sum is something that a message may say, and a model
// agrees with itself.
func FuzzTally(f *testing.F) {
	f.Add(uint8(0), []byte("0123456789abcdef0123456789abcdef"), []byte("0123"))
	f.Add(uint8(1), []byte{0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0x7f}, []byte{0, 0, 0x80, 0xff})
	f.Fuzz(func(t *testing.T, kind uint8, a, b []byte) {
		kinds := []string{task.Classify, task.Detect, task.Raw, ""}
		now, other := from(kinds[kind%4], a), from(kinds[kind%4], b)
		var tally, self Tally
		for range 3 {
			if err := tally.Add(now, other); err != nil {
				t.Fatal(err)
			}
			if err := self.Add(now, now); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range []wire.Agreement{tally.Sum(), self.Sum()} {
			if _, err := json.Marshal(s); err != nil || s.Frames != 3 || s.Agreed > 3 || !(s.Mean >= 0 && s.Mean <= worst) || !(s.Delta >= 0 && s.Delta <= 1e9) {
				t.Errorf("%+v: %v", s, err)
			}
		}
		if s := self.Sum(); kind%4 != 1 && s.Agreed != 3 { // boxes without area match nothing
			t.Errorf("not of one mind with itself: %+v", s)
		}
	})
}

// from makes an answer of bytes: score, box.
func from(kind string, b []byte) *task.Result {
	r := answer(kind)
	for ; len(b) >= 20; b = b[20:] {
		v := func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])) }
		r.Items = append(r.Items, task.Item{Label: string(b[3]), ID: int(b[0]), Score: v(0), Box: [4]float32{v(1), v(2), v(3), v(4)}, HasBox: true})
	}
	return r
}
