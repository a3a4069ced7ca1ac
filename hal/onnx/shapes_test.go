package onnx

import (
	"reflect"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/modelfile"
)

func TestShapes(t *testing.T) {
	x := func(shape ...any) haltest.Value {
		return haltest.Value{Name: "x", Type: haltest.ONNXFloat, Shape: shape}
	}
	imgsz := [2]string{"imgsz", "[320, 640]"}
	for _, c := range []struct {
		name     string
		in       []haltest.Value
		property [2]string
		settings map[string]string
		want     map[string][]int
		sizes    map[string]int
		fails    string
	}{
		{name: "fixed", in: []haltest.Value{x(1, 3, 8, 8)}, want: map[string][]int{"x": {1, 3, 8, 8}}, sizes: map[string]int{}},
		{name: "scalar", in: []haltest.Value{x()}, want: map[string][]int{"x": {}}, sizes: map[string]int{}},
		{name: "batch", in: []haltest.Value{x("n", 3)}, want: map[string][]int{"x": {1, 3}}, sizes: map[string]int{"n": 1}},
		{name: "batch without a name", in: []haltest.Value{x(nil, 3)}, want: map[string][]int{"x": {1, 3}}, sizes: map[string]int{}},
		{name: "pictures", in: []haltest.Value{x("n", 3, "h", "w")}, property: imgsz, want: map[string][]int{"x": {1, 3, 320, 640}}, sizes: map[string]int{"n": 1, "h": 320, "w": 640}},
		{name: "setting before picture", in: []haltest.Value{x("n", 3, "h", "w")}, property: imgsz, settings: map[string]string{"shape.x": "2x3x8x8"}, want: map[string][]int{"x": {2, 3, 8, 8}}, sizes: map[string]int{"n": 2, "h": 8, "w": 8}},
		{name: "one says it for the other", in: []haltest.Value{x("n", "t"), {Name: "y", Type: 1, Shape: []any{"t"}}}, settings: map[string]string{"shape.x": "1x7"}, want: map[string][]int{"x": {1, 7}, "y": {7}}, sizes: map[string]int{"n": 1, "t": 7}},
		{name: "samples", in: []haltest.Value{x("t")}, fails: "E_SHAPE: input x is [-1] and the file does not say how large: add the setting shape.x: 224"},
		{name: "contradiction", in: []haltest.Value{x("t"), {Name: "y", Type: 1, Shape: []any{"t"}}}, settings: map[string]string{"shape.x": "1", "shape.y": "2"}, fails: "E_SHAPE: dimension t of input y is 1 in one setting and 2 in another"},
		{name: "rank", in: []haltest.Value{x("n", 3)}, settings: map[string]string{"shape.x": "1x3x1"}, fails: "E_SHAPE: setting shape.x"},
		{name: "fixed otherwise", in: []haltest.Value{x("n", 3)}, settings: map[string]string{"shape.x": "1x4"}, fails: "E_SHAPE: setting shape.x"},
		{name: "zero", in: []haltest.Value{x("n", "m")}, settings: map[string]string{"shape.x": "1x0"}, fails: "E_SHAPE: setting shape.x"},
		{name: "huge", in: []haltest.Value{x("n", "m")}, settings: map[string]string{"shape.x": "1x9999999999"}, fails: "E_SHAPE: setting shape.x"},
		{name: "no shape", in: []haltest.Value{x("n", "m")}, settings: map[string]string{"shape.x": "large"}, fails: "E_SHAPE: setting shape.x"},
		{name: "other input", in: []haltest.Value{x(1)}, settings: map[string]string{"shape.y": "1"}, fails: "E_SHAPE: setting shape.y: the model has no such input; it has x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := haltest.Graph{In: c.in, Out: []haltest.Value{{Name: "out", Type: 1, Shape: []any{1}}}}
			if c.property[0] != "" {
				g.Properties = append(g.Properties, c.property)
			}
			m, err := modelfile.Parse(haltest.ONNX(g))
			if err != nil {
				t.Fatal(err)
			}
			sizes, got, err := shapes(m, c.settings)
			if c.fails != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.fails) {
					t.Errorf("got %v, want %s", err, c.fails)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, c.want) || !reflect.DeepEqual(sizes, c.sizes) {
				t.Errorf("got %v and %v, %v; want %v and %v", got, sizes, err, c.want, c.sizes)
			}
		})
	}
}

// FuzzShapes: what a setting says never makes an input without a size.
func FuzzShapes(f *testing.F) {
	f.Add("1x3x8x8", "[1, 2]")
	f.Add("x", "[-1, 4]")
	f.Fuzz(func(t *testing.T, setting, imgsz string) {
		m := &modelfile.Model{ONNX: &modelfile.ONNX{Properties: map[string]string{"imgsz": imgsz}}, Subgraphs: []modelfile.Subgraph{{
			Inputs:  []int{0},
			Tensors: []modelfile.Tensor{{TensorInfo: hal.TensorInfo{Name: "x", Type: hal.Float32, Shape: []int{-1, 3, -1, -1}}, Symbols: []string{"n", "", "h", ""}}},
		}}}
		settings := map[string]string{"shape.x": setting}
		if setting == "" {
			settings = nil
		}
		_, got, err := shapes(m, settings)
		if err != nil {
			if hal.CodeOf(err) != hal.CodeShape {
				t.Error(err)
			}
			return
		}
		if len(got["x"]) != 4 || got["x"][1] != 3 {
			t.Fatalf("%v", got)
		}
		for _, d := range got["x"] {
			if d < 1 {
				t.Fatalf("%v", got)
			}
		}
	})
}
