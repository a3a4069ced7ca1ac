package ladder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/covey-edge/covey/hal"
)

// How far an accelerator's answers may be from the plain CPU's. Other kernels
// round otherwise: XNNPACK's int8 kernels were seen to differ from the reference
// kernels by up to 16 of 256 steps on photographs, in 3 to 21 of 1001 scores, with
// the same label first every time; a GPU that computes in float16 keeps three
// digits, which layers add up to a percent or so of a tensor's range. Inputs that are
// made up are like nothing that a model was trained on, and lie near its borders:
// there it was up to 19 of 256, so they get twice as much.
const (
	quantTolerance = 16.0 / 256 // of the type's range
	floatTolerance = 0.02       // of the reference tensor's largest magnitude
	floatLeast     = 1e-3       // and at least this, for tensors near 0
	intTolerance   = 0.05       // share of whole numbers (classes of pixels) that may differ
	seen           = 0.4        // score from which on a detection has to be there
	overlap        = 0.5        // of two boxes that are one
	slackMadeUp    = 2          // times all that, for inputs that are made up
)

// An output is what a run left in one tensor.
type output struct {
	info  hal.TensorInfo
	shape []int
	data  []byte
}

// outputs copies what a buffer holds.
func outputs(s hal.Session, buf int) []output {
	list := make([]output, len(s.Info().Outputs))
	for i := range list {
		t := s.Output(buf, i)
		list[i] = output{info: *t.Info, shape: slices.Clone(t.Shape), data: bytes.Clone(t.Data)}
	}
	return list
}

// disagree says how got differs from want, by more than tolerance in real units
// (0: what is said above, times slack); "" when it does not. The value that comes first has to
// be the same one, unless want is undecided itself.
func disagree(want, got []output, tolerance, slack float64) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d outputs, the CPU has %d", len(got), len(want))
	}
	if tolerance == 0 && detections(want) && detections(got) {
		return otherBoxes(want, got, slack)
	}
	for i := range want {
		if why := differ(want[i], got[i], tolerance, slack); why != "" {
			return fmt.Sprintf("output %d (%s): %s", i, want[i].info.Name, why)
		}
	}
	return ""
}

func differ(want, got output, tolerance, slack float64) string {
	if want.info.Type != got.info.Type || len(want.data) != len(got.data) {
		return fmt.Sprintf("%d bytes of %s, the CPU gives %d of %s", len(got.data), got.info.Type, len(want.data), want.info.Type)
	}
	if want.info.Type.Size() == 0 {
		if !bytes.Equal(want.data, got.data) {
			return "other bytes"
		}
		return ""
	}
	w, g := want.values(), got.values()
	allowed := slack * allowance(want.info, w)
	switch {
	case tolerance > 0:
		allowed = tolerance
		if q := want.info.Quant; len(q.Scale) == 1 && q.Scale[0] > 0 {
			allowed = tolerance / float64(q.Scale[0]) // values are stored ones
		}
	case allowed == 0:
		return otherShare(w, g, slack)
	}
	for i := range w {
		if d := math.Abs(w[i] - g[i]); !(d <= allowed) && w[i] != g[i] && !(math.IsNaN(w[i]) && math.IsNaN(g[i])) {
			return fmt.Sprintf("element %d is %.4g, the CPU gives %.4g ± %.2g", i, g[i], w[i], allowed)
		}
	}
	if first, lead := top(w); lead > allowed {
		if other, _ := top(g); other != first {
			return fmt.Sprintf("element %d comes first, on the CPU %d", other, first)
		}
	}
	return ""
}

// allowance is the largest difference of two stored values, 0 for whole numbers
// that mean something each.
func allowance(t hal.TensorInfo, want []float64) float64 {
	switch t.Type {
	case hal.Float32, hal.Float64, hal.Float16:
		largest := 0.0
		for _, v := range want {
			if a := math.Abs(v); a > largest && !math.IsInf(v, 0) {
				largest = a
			}
		}
		return max(floatLeast, floatTolerance*largest)
	case hal.Int8, hal.Uint8:
		return quantTolerance * (1 << 8)
	case hal.Int16, hal.Uint16:
		return quantTolerance * (1 << 16)
	}
	return 0
}

func otherShare(want, got []float64, slack float64) string {
	n, first := 0, -1
	for i := range want {
		if want[i] != got[i] {
			if n++; first < 0 {
				first = i
			}
		}
	}
	if float64(n) <= slack*intTolerance*float64(len(want)) {
		return ""
	}
	return fmt.Sprintf("%d of %d elements differ; element %d is %g, the CPU gives %g", n, len(want), first, got[first], want[first])
}

// top is the index of the largest value, and by how much it leads.
func top(v []float64) (index int, lead float64) {
	best, second := math.Inf(-1), math.Inf(-1)
	for i, x := range v {
		switch {
		case x > best:
			best, second, index = x, best, i
		case x > second:
			second = x
		}
	}
	return index, best - second
}

// values are the elements as they are stored.
func (o output) values() []float64 {
	size := o.info.Type.Size()
	list := make([]float64, len(o.data)/size)
	le := binary.LittleEndian
	for i := range list {
		b := o.data[i*size:]
		switch o.info.Type {
		case hal.Float32:
			list[i] = float64(math.Float32frombits(le.Uint32(b)))
		case hal.Float64:
			list[i] = math.Float64frombits(le.Uint64(b))
		case hal.Float16:
			list[i] = unhalf(le.Uint16(b))
		case hal.Int8:
			list[i] = float64(int8(b[0]))
		case hal.Uint8, hal.Bool:
			list[i] = float64(b[0])
		case hal.Int16:
			list[i] = float64(int16(le.Uint16(b)))
		case hal.Uint16:
			list[i] = float64(le.Uint16(b))
		case hal.Int32:
			list[i] = float64(int32(le.Uint32(b)))
		case hal.Uint32:
			list[i] = float64(le.Uint32(b))
		case hal.Int64:
			list[i] = float64(int64(le.Uint64(b)))
		default:
			list[i] = float64(le.Uint64(b))
		}
	}
	return list
}

// detections says whether outputs are those of TFLite's detection operator: boxes,
// classes, scores, count. Two detections with nearly one score may change places,
// so they are not compared element by element.
func detections(o []output) bool {
	if len(o) != 4 {
		return false
	}
	for _, x := range o {
		if x.info.Type != hal.Float32 {
			return false
		}
	}
	boxes, n := o[0].shape, len(o[1].data)/4
	return len(boxes) == 3 && boxes[2] == 4 && len(o[0].data) == 16*n && len(o[2].data) == 4*n && len(o[3].data) == 4
}

// otherBoxes wants every detection that one side is sure of on the other side, too.
func otherBoxes(want, got []output, slack float64) string {
	if why := missing(want, got, slack); why != "" {
		return why + ", which the CPU sees, is not there"
	}
	if why := missing(got, want, slack); why != "" {
		return why + " is there, which the CPU does not see"
	}
	return ""
}

// missing is a detection of a that b lacks.
func missing(a, b []output, slack float64) string {
	boxes, classes, scores := a[0].values(), a[1].values(), a[2].values()
	otherBoxes, otherClasses, otherScores := b[0].values(), b[1].values(), b[2].values()
	for i, s := range scores {
		if !(s >= seen) {
			continue
		}
		found := false
		for j := range otherScores {
			found = found || classes[i] == otherClasses[j] && math.Abs(s-otherScores[j]) <= 2*slack*quantTolerance &&
				iou(boxes[4*i:], otherBoxes[4*j:]) >= overlap
		}
		if !found {
			return fmt.Sprintf("detection %d (class %g, score %.2f)", i, classes[i], s)
		}
	}
	return ""
}

// iou is the share of two boxes (top, left, bottom, right) that they have in common.
func iou(a, b []float64) float64 {
	both := max(0, min(a[2], b[2])-max(a[0], b[0])) * max(0, min(a[3], b[3])-max(a[1], b[1]))
	area := func(x []float64) float64 { return max(0, x[2]-x[0]) * max(0, x[3]-x[1]) }
	if all := area(a) + area(b) - both; all > 0 {
		return both / all
	}
	return 0
}
