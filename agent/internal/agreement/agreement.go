// Package agreement says how far two models answer alike, frame by frame: by the
// label that comes first where they classify, by boxes that match where they
// detect, by the distance of values for anything else. Pure.
package agreement

import (
	"math"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
)

// Metrics, by the kind of the answers.
const (
	Top1  = "top1"  // 1 where the same label comes first, else 0
	F1    = "f1"    // of boxes that match
	NRMSE = "nrmse" // root mean square of the differences, over the range of the values; less is better
)

const (
	minIoU   = 0.5 // boxes of one thing overlap so far, intersection over union
	minF1    = 0.8 // one box in five may be another
	maxNRMSE = 0.1
	worst    = 10 // of NRMSE: one wild frame is not all
)

// A Tally adds up frames.
type Tally struct {
	kind           string
	frames, agreed int
	sum, delta     float64
	used           []bool // scratch: boxes that have found their like
}

// Add compares the answers of the model that runs and of another to one frame;
// boxes are of the frame. Answers of different kinds cannot be compared: E_AGREEMENT.
func (t *Tally) Add(now, other *task.Result) error {
	if t.kind == "" {
		t.kind = now.Kind
	}
	if now.Kind != t.kind || other.Kind != t.kind {
		return &hal.Error{Code: hal.CodeAgreement, Text: "what runs gives answers to " + now.Kind + ", the other model to " + other.Kind +
			": they cannot be compared, order it without a shadow run"}
	}
	var v float64
	var agree bool
	switch t.kind {
	case task.Classify:
		v = top1(now, other)
		agree = v == 1
	case task.Detect:
		v = t.f1(now, other)
		agree = v >= minF1
	default:
		v = nrmse(now, other)
		agree = v <= maxNRMSE
	}
	t.frames++
	if agree {
		t.agreed++
	}
	t.sum += v
	t.delta += math.Abs(first(now) - first(other))
	return nil
}

// Frames is how many were compared.
func (t *Tally) Frames() int { return t.frames }

// Sum is the whole; its metric is that of the task which the answers are for.
func (t *Tally) Sum() wire.Agreement {
	a := wire.Agreement{Metric: metric(t.kind), Frames: t.frames, Agreed: t.agreed}
	if t.frames > 0 {
		n := float64(t.frames)
		a.Mean, a.Delta = short(t.sum/n), short(t.delta/n)
	}
	return a
}

func metric(kind string) string {
	switch kind {
	case "":
		return "none" // no frame came
	case task.Classify:
		return Top1
	case task.Detect:
		return F1
	}
	return NRMSE
}

// short keeps messages short, and within what they may say.
func short(v float64) float64 { return math.Round(min(v, 1e9)*1e4) / 1e4 }

// first is the score that comes first, 0 without any.
func first(r *task.Result) float64 {
	if len(r.Items) == 0 {
		return 0
	}
	return number(r.Items[0].Score)
}

// number is a score that can be counted with.
func number(s float32) float64 {
	if s != s {
		return 0
	}
	return min(max(float64(s), -1e9), 1e9)
}

// top1 is 1 where the same label comes first, or none from both.
func top1(a, b *task.Result) float64 {
	if len(a.Items) == 0 || len(b.Items) == 0 {
		return one(len(a.Items) == len(b.Items))
	}
	return one(a.Items[0].Label == b.Items[0].Label)
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// f1 matches boxes of the same label, best score first, each with the one that it
// overlaps most; two empty answers are the same answer.
func (t *Tally) f1(a, b *task.Result) float64 {
	if len(a.Items)+len(b.Items) == 0 {
		return 1
	}
	t.used = append(t.used[:0], make([]bool, len(a.Items))...)
	matches := 0
	for _, y := range b.Items { // best first
		best, at := minIoU, -1
		for i, x := range a.Items {
			if v := iou(x.Box, y.Box); !t.used[i] && x.Label == y.Label && v >= best {
				best, at = v, i
			}
		}
		if at >= 0 {
			t.used[at] = true
			matches++
		}
	}
	return 2 * float64(matches) / float64(len(a.Items)+len(b.Items))
}

// iou is the intersection of two boxes over their union; 0 for boxes without area.
func iou(a, b [4]float32) float64 {
	w := min(a[2], b[2]) - max(a[0], b[0])
	h := min(a[3], b[3]) - max(a[1], b[1])
	if w <= 0 || h <= 0 {
		return 0
	}
	both := float64(w) * float64(h)
	if all := area(a) + area(b) - both; all >= both { // false for boxes that are none
		return both / all
	}
	return 0
}

func area(b [4]float32) float64 { return float64(b[2]-b[0]) * float64(b[3]-b[1]) }

// nrmse compares values by their order. A value that is missing, or of another
// place, is as far off as the range of them all.
func nrmse(a, b *task.Result) float64 {
	n := max(len(a.Items), len(b.Items))
	if n == 0 {
		return 0
	}
	scale := spread(a)
	sum := 0.0
	for i := range n {
		d := scale
		if i < len(a.Items) && i < len(b.Items) && a.Items[i].ID == b.Items[i].ID {
			d = number(a.Items[i].Score) - number(b.Items[i].Score)
		}
		sum += d * d
	}
	if sum == 0 && len(a.Items) == len(b.Items) {
		return 0
	}
	if scale == 0 {
		return worst
	}
	return min(math.Sqrt(sum/float64(n))/scale, worst)
}

// spread is the range of the values, and at least the largest of them.
func spread(r *task.Result) float64 {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, it := range r.Items {
		lo, hi = min(lo, number(it.Score)), max(hi, number(it.Score))
	}
	if lo > hi {
		return 0
	}
	return max(hi-lo, math.Abs(hi), math.Abs(lo))
}
