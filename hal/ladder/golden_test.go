package ladder_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/ladder"
)

func floats(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// What a golden sample allows is in real units, and only where that says anything.
func TestTolerance(t *testing.T) {
	float := func(shape []int, v ...float32) hal.Tensor {
		return hal.Tensor{Info: &hal.TensorInfo{Type: hal.Float32}, Shape: shape, Data: floats(v...)}
	}
	quant := hal.Tensor{Info: &hal.TensorInfo{Type: hal.Uint8, Quant: hal.Quant{Scale: []float32{0.5}, ZeroPoint: []int32{3}}}, Data: []byte{1, 2}}
	classes := hal.Tensor{Info: &hal.TensorInfo{Type: hal.Int64}, Data: make([]byte, 16)}
	bytes := hal.Tensor{Info: &hal.TensorInfo{Type: hal.Uint8}, Data: []byte{1}}
	half := hal.Tensor{Info: &hal.TensorInfo{Type: hal.Float16}, Data: []byte{1, 2}}
	ssd := []hal.Tensor{float([]int{1, 1, 4}, 0, 0, 1, 1), float([]int{1, 1}, 7), float([]int{1, 1}, .9), float([]int{1}, 1)}
	for name, c := range map[string]struct {
		outputs []hal.Tensor
		want    float64
		ok      bool
	}{
		"float":       {[]hal.Tensor{float(nil, 1, -20)}, 0.4, true},
		"near 0":      {[]hal.Tensor{float(nil, 0)}, 0.001, true},
		"quantised":   {[]hal.Tensor{quant}, 8, true},
		"the largest": {[]hal.Tensor{quant, float(nil, 1000)}, 20, true},
		"classes":     {[]hal.Tensor{float(nil, 1), classes}, 0, false},
		"bytes":       {[]hal.Tensor{bytes}, 0, false},
		"halves":      {[]hal.Tensor{half}, 0, false},
		"detections":  {ssd, 0, false},
		"nothing":     {nil, 0, false},
	} {
		if got, ok := ladder.Tolerance(c.outputs); math.Abs(got-c.want) > 1e-6 || ok != c.ok {
			t.Errorf("%s: got %v, %v, want %v, %v", name, got, ok, c.want, c.ok)
		}
	}
	in := []hal.TensorInfo{{Type: hal.Uint8, Shape: []int{1, 100}}, {Type: hal.Float32, Shape: []int{2}}}
	a, b := ladder.MadeUp(in), ladder.MadeUp(in)
	if len(a) != 2 || len(a[0]) != 100 || len(a[1]) != 8 || string(a[0]) != string(b[0]) {
		t.Errorf("made up %d inputs of %d and %d bytes", len(a), len(a[0]), len(a[1]))
	}
}
