package ladder

import "github.com/covey-edge/covey/hal"

// MadeUp is an input for a model that has no samples: noise, the same every time.
func MadeUp(inputs []hal.TensorInfo) [][]byte { return madeUp(inputs)[0].Inputs }

// Tolerance is how far the outputs of another processor may be from those of the
// plain CPU, in real units: what a golden sample of these outputs should allow. ok is
// false where no such number says anything: detections change places, and whole numbers
// that mean something each are equal or not.
func Tolerance(outputs []hal.Tensor) (most float64, ok bool) {
	list := make([]output, len(outputs))
	for i, t := range outputs {
		list[i] = output{info: *t.Info, shape: t.Shape, data: t.Data}
	}
	if len(list) == 0 || detections(list) {
		return 0, false
	}
	for _, o := range list {
		if o.info.Type.Size() == 0 || o.info.Type == hal.Float16 { // release.Compare knows no halves
			return 0, false
		}
		allowed := allowance(o.info, o.values())
		if whole(o.info) {
			return 0, false
		}
		if q := o.info.Quant; len(q.Scale) == 1 && q.Scale[0] > 0 {
			allowed *= float64(q.Scale[0])
		}
		most = max(most, allowed)
	}
	return most, true
}

// whole says whether values are whole numbers that mean something each.
func whole(t hal.TensorInfo) bool {
	switch t.Type {
	case hal.Float32, hal.Float64, hal.Float16:
		return false
	case hal.Int8, hal.Uint8, hal.Int16, hal.Uint16:
		return len(t.Quant.Scale) == 0
	}
	return true
}
