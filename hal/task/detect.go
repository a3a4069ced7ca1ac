package task

import (
	"fmt"
	"slices"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
)

// detect reads the end of an SSD detector. Which output is which is known from
// the graph, never from their order, which differs between exporters.
type detect struct {
	boxes, classes, scores, count int // which output; count is -1 when it is not one
	names                         []string
	top                           int
	threshold
}

func makeDetect(m model) (Decoder, string, error) {
	op := m.file.Find(modelfile.DetectionPostProcess)
	if op == nil {
		return nil, "no operator " + modelfile.DetectionPostProcess, nil
	}
	if len(op.Outputs) < 4 {
		return nil, "", shapeError("operator %s has %d outputs, 4 were expected", modelfile.DetectionPostProcess, len(op.Outputs))
	}
	var at [4]int
	for i := range at {
		at[i] = slices.Index(m.file.Main().Outputs, op.Outputs[i])
		if at[i] >= len(m.info.Outputs) || at[i] < 0 && i < 3 {
			return nil, "", shapeError("output %d of operator %s is not an output of the model", i, modelfile.DetectionPostProcess)
		}
		if at[i] >= 0 && m.info.Outputs[at[i]].Type != hal.Float32 {
			return nil, "", shapeError("output %d of operator %s is %s, not float32", i, modelfile.DetectionPostProcess, m.info.Outputs[at[i]].Type)
		}
	}
	d := &detect{
		boxes: at[0], classes: at[1], scores: at[2], count: at[3],
		top: orElse(m.Top, 25),
	}
	d.SetThreshold(orElse(m.Threshold, 0.5))
	offset := 0
	if background(m.labels) {
		offset = 1 // the operator has taken the background class out
	}
	d.names = names(m.labels, max(len(m.labels)-offset, classesOf(m.file, op)), offset)
	return d, fmt.Sprintf("operator %s in the graph, boxes in output %d", modelfile.DetectionPostProcess, d.boxes), nil
}

// classesOf is how many classes the detector knows, the background not counted;
// 0 when its graph does not say.
func classesOf(f *modelfile.Model, op *modelfile.Operator) int {
	if len(op.Inputs) < 2 || op.Inputs[1] < 0 {
		return 0
	}
	s := f.Main().Tensors[op.Inputs[1]].Shape
	if len(s) == 0 {
		return 0
	}
	return min(max(s[len(s)-1]-1, 0), maxLabels)
}

func (d *detect) Decode(o Outputs, buf int, r *Result) error {
	boxes, classes, scores := o.Output(buf, d.boxes).Data, o.Output(buf, d.classes).Data, o.Output(buf, d.scores).Data
	r.Kind, r.Items = Detect, r.Items[:0]
	n, least := min(len(boxes)/16, len(classes)/4, len(scores)/4), d.Threshold()
	if d.count >= 0 {
		// Entries behind the count are what an earlier run left there.
		count := o.Output(buf, d.count).Data
		if len(count) < 4 {
			return shapeError("number of detections has %d bytes", len(count))
		}
		if c := float(count, 0); !(c >= 0) {
			n = 0
		} else if c < float32(n) {
			n = int(c)
		}
	}
	for i := 0; i < n && len(r.Items) < d.top; i++ {
		score := float(scores, i)
		if !(score >= least) || score-score != 0 { // infinite or no number
			continue
		}
		box := [4]float32{unit(float(boxes, 4*i+1)), unit(float(boxes, 4*i)), unit(float(boxes, 4*i+3)), unit(float(boxes, 4*i+2))}
		if box[2] <= box[0] || box[3] <= box[1] {
			continue
		}
		r.Items = append(r.Items, d.item(float(classes, i), score, box))
	}
	return nil
}

func (d *detect) item(class, score float32, box [4]float32) Item {
	it := Item{Label: "unknown", ID: -1, Score: score, Box: box, HasBox: true}
	if class >= 0 && class < maxLabels {
		if it.ID = int(class); it.ID < len(d.names) {
			it.Label = d.names[it.ID]
		}
	}
	return it
}

// unit clamps to 0..1; NaN becomes 0.
func unit(v float32) float32 {
	if !(v > 0) {
		return 0
	}
	return min(v, 1)
}
