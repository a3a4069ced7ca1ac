package task

import (
	"fmt"
	"math"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
)

// classify takes one vector of scores, one a class. Quantised scores are compared
// as they are stored; only the winners are turned into real numbers.
type classify struct {
	kind   hal.DType
	names  []string // one a class
	logits bool     // softmax is left to us
	scale  float64
	zero   int

	threshold
	score  float32      // the threshold that least is for
	least  int          // stored value that is not below the threshold
	exp    [256]float64 // of logits: e^(k*-scale), k steps below the largest
	counts [256]int     // of stored values, scratch
	best   []candidate  // scratch, best first, at most top
	top    int
}

// A candidate is a class and its value: as stored for quantised outputs, else
// the float.
type candidate struct {
	class int
	value float64
}

func makeClassify(m model) (Decoder, string, error) {
	classes, why := scores(m.info.Outputs)
	if why != "" {
		return nil, why, nil
	}
	out := m.info.Outputs[0]
	ends := ending(m.file)
	probabilities := ends != "" || inUnitRange(out)
	if m.Kind == Auto && !probabilities && len(m.labels) == 0 {
		return nil, fmt.Sprintf("%d numbers that are neither probabilities nor have labels", classes), nil
	}
	offset, err := labelOffset(m.labels, classes)
	if err != nil {
		return nil, "", err
	}
	d := &classify{
		kind: out.Type, names: names(m.labels, classes, offset), logits: !probabilities, scale: 1,
		top: max(1, min(orElse(m.Top, 5), classes)),
	}
	d.SetThreshold(orElse(m.Threshold, 0.1))
	if offset < 0 {
		d.names[0] = "background"
	}
	if err := d.prepare(out); err != nil {
		return nil, "", err
	}
	d.best = make([]candidate, 0, d.top+1)
	if ends == "" {
		ends = "logits"
		if probabilities {
			ends = "values from 0 to 1"
		}
	}
	return d, fmt.Sprintf("one output of %d %s scores (%s)", classes, out.Type, ends), nil
}

// scores is the number of classes when the outputs are one vector of scores;
// otherwise why they are not.
func scores(outputs []hal.TensorInfo) (classes int, why string) {
	if len(outputs) != 1 {
		return 0, fmt.Sprintf("%d outputs", len(outputs))
	}
	out := outputs[0]
	n := out.Elements()
	if len(out.Shape) == 0 || n < 2 || out.Shape[len(out.Shape)-1] != n || n > 1<<20 {
		return 0, fmt.Sprintf("output of shape %v", out.Shape)
	}
	if out.Type != hal.Float32 && out.Type != hal.Uint8 && out.Type != hal.Int8 {
		return 0, fmt.Sprintf("output of type %s", out.Type)
	}
	return n, ""
}

// ending names the operator that makes scores of the model's one output, looking
// through those that only store them otherwise; "" when it is another.
func ending(f *modelfile.Model) string {
	g := f.Main()
	if len(g.Outputs) != 1 {
		return ""
	}
	t := g.Outputs[0]
	for range len(g.Operators) { // bounded: a broken graph may have a circle
		op := f.Producer(t)
		if op == nil || len(op.Inputs) == 0 {
			return ""
		}
		switch f.OpCodes[op.Code].Builtin {
		case modelfile.OpSoftmax:
			return "softmax"
		case modelfile.OpLogistic:
			return "sigmoid"
		case modelfile.OpQuantize, modelfile.OpDequantize, modelfile.OpReshape, modelfile.OpSqueeze:
			t = op.Inputs[0]
		default:
			return ""
		}
	}
	return ""
}

// inUnitRange says whether a quantised tensor can hold nothing but 0 to 1: a
// softmax inside of a compiled operator, as for the Edge TPU, shows itself so.
func inUnitRange(t hal.TensorInfo) bool {
	if len(t.Quant.Scale) != 1 || len(t.Quant.ZeroPoint) != 1 {
		return false
	}
	lo, hi := storedRange(t.Type)
	scale, zero := float64(t.Quant.Scale[0]), float64(t.Quant.ZeroPoint[0])
	least, most := (float64(lo)-zero)*scale, (float64(hi)-zero)*scale
	return least > -0.01 && most > 0.9 && most < 1.01
}

func storedRange(t hal.DType) (lo, hi int) {
	if t == hal.Int8 {
		return -128, 127
	}
	return 0, 255
}

// labelOffset is what is added to a class to get its label: one side may count a
// background class that the other does not.
func labelOffset(labels []string, classes int) (int, error) {
	switch len(labels) {
	case 0, classes:
		return 0, nil
	case classes - 1:
		return -1, nil
	case classes + 1:
		return 1, nil
	}
	return 0, &hal.Error{Code: hal.CodeLabels, Text: fmt.Sprintf(
		"%d labels for %d classes: give the label file that belongs to this model", len(labels), classes)}
}

// prepare computes what depends on how scores are stored.
func (d *classify) prepare(out hal.TensorInfo) error {
	if d.kind == hal.Float32 {
		d.score = d.Threshold()
		return nil
	}
	if len(out.Quant.Scale) != 1 || len(out.Quant.ZeroPoint) != 1 || !(out.Quant.Scale[0] > 0) {
		return shapeError("output %.60q of %s scores has no scale", out.Name, d.kind)
	}
	d.scale, d.zero = float64(out.Quant.Scale[0]), int(out.Quant.ZeroPoint[0])
	d.tune()
	for k := range d.exp {
		d.exp[k] = math.Exp(-float64(k) * d.scale)
	}
	return nil
}

// tune takes over the threshold.
func (d *classify) tune() {
	d.score = d.Threshold()
	lo, hi := storedRange(d.kind)
	// A little less than the threshold counts, so that 0.5 means 128 of 256.
	least := math.Ceil(float64(d.score)/d.scale-1e-4) + float64(d.zero)
	d.least = int(max(float64(lo), min(least, float64(hi)+1)))
	if d.logits {
		d.least = lo // known only after softmax
	}
}

func (d *classify) Decode(o Outputs, buf int, r *Result) error {
	data := o.Output(buf, 0).Data
	if len(data) != len(d.names)*d.kind.Size() {
		return shapeError("output has %d bytes, %d %s scores were expected", len(data), len(d.names), d.kind)
	}
	if d.score != d.Threshold() {
		d.tune()
	}
	r.Kind, r.Items, d.best = Classify, r.Items[:0], d.best[:0]
	if d.kind == hal.Float32 {
		d.floats(data, r)
	} else {
		d.quantised(data, r)
	}
	return nil
}

func (d *classify) quantised(data []byte, r *Result) {
	flip := byte(0) // makes an int8 a uint8 of the same order
	if d.kind == hal.Int8 {
		flip = 0x80
	}
	lo, _ := storedRange(d.kind)
	floor := d.least - lo // in the order of uint8
	if d.logits {
		d.counts = [256]int{}
		for _, q := range data {
			d.counts[q^flip]++
		}
	}
	for i, q := range data {
		if v := int(q ^ flip); v >= floor && d.offer(candidate{i, float64(v)}) {
			floor = int(d.best[len(d.best)-1].value) + 1
		}
	}
	sum, largest := 1., 0.
	if d.logits && len(d.best) > 0 {
		largest = d.best[0].value
		sum = 0
		for k := 0; k <= int(largest); k++ {
			sum += float64(d.counts[int(largest)-k]) * d.exp[k]
		}
	}
	for _, c := range d.best {
		score := (c.value + float64(lo-d.zero)) * d.scale
		if d.logits {
			score = d.exp[int(largest-c.value)] / sum
		}
		d.add(r, c.class, score)
	}
}

func (d *classify) floats(data []byte, r *Result) {
	floor := float64(d.score)
	if d.logits {
		floor = math.Inf(-1)
	}
	for i := range d.names {
		if v := float64(float(data, i)); v >= floor && d.offer(candidate{i, v}) { // false for NaN
			floor = math.Nextafter(d.best[len(d.best)-1].value, math.Inf(1))
		}
	}
	if !d.logits || len(d.best) == 0 {
		for _, c := range d.best {
			d.add(r, c.class, c.value)
		}
		return
	}
	largest, sum := d.best[0].value, 0.
	for i := range d.names {
		if v := float64(float(data, i)); v == v {
			sum += math.Exp(v - largest)
		}
	}
	for _, c := range d.best {
		d.add(r, c.class, math.Exp(c.value-largest)/sum)
	}
}

// offer puts c among the best, behind those that are as good; full says that
// from now on only what is better than the last of them can come in.
func (d *classify) offer(c candidate) (full bool) {
	d.best = append(d.best, c)
	for i := len(d.best) - 1; i > 0 && d.best[i].value > d.best[i-1].value; i-- {
		d.best[i], d.best[i-1] = d.best[i-1], d.best[i]
	}
	if len(d.best) > d.top {
		d.best = d.best[:d.top]
	}
	return len(d.best) == d.top
}

func (d *classify) add(r *Result, class int, score float64) {
	if d.logits && score < float64(d.score) || score-score != 0 { // infinite or no number
		return
	}
	r.Items = append(r.Items, Item{Label: d.names[class], ID: class, Score: float32(score)})
}
