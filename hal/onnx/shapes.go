package onnx

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// shapes fixes what a model leaves open: sizes, by the names of its dimensions, and
// the shape of each input, by its name.
//
// What settings say comes first ("shape.<input>" = "1x3x224x224"), then the first
// dimension of two or more is a batch of 1, then what an Ultralytics export says of
// the size of its pictures. What is still open is an error that names the setting.
func shapes(m *modelfile.Model, settings map[string]string) (sizes map[string]int, inputs map[string][]int, err error) {
	sizes, inputs = map[string]int{}, map[string][]int{}
	var open []modelfile.Tensor
	for _, i := range m.Main().Inputs {
		t := m.Main().Tensors[i]
		open = append(open, t)
		inputs[t.Name] = slices.Clone(t.Shape)
	}
	asked := map[string]bool{}
	for _, t := range open {
		text, ok := settings[shapeSetting+t.Name]
		if !ok {
			continue
		}
		asked[shapeSetting+t.Name] = true
		shape, err := parseShape(text)
		if err != nil || !fits(t.Shape, shape) {
			return nil, nil, errorf(hal.CodeShape, "setting %s%s is %q, which does not fit %v: write all its sizes, as %q", shapeSetting, t.Name, text, t.Shape, example(t.Shape))
		}
		if err := learn(sizes, t, shape); err != nil {
			return nil, nil, err
		}
		inputs[t.Name] = shape
	}
	for key := range settings {
		if strings.HasPrefix(key, shapeSetting) && !asked[key] {
			return nil, nil, errorf(hal.CodeShape, "setting %s: the model has no such input; it has %s", key, names(open))
		}
	}
	for _, t := range open {
		complete(sizes, inputs[t.Name], t, m.ONNX.Properties)
	}
	for _, t := range open {
		shape := inputs[t.Name]
		for j, d := range shape {
			if d < 0 && symbol(t, j) != "" && sizes[symbol(t, j)] > 0 { // another input said it
				shape[j] = sizes[symbol(t, j)]
			}
		}
		if slices.Contains(shape, -1) {
			return nil, nil, errorf(hal.CodeShape, "input %s is %v and the file does not say how large: add the setting %s%s: %s", t.Name, t.Shape, shapeSetting, t.Name, example(t.Shape))
		}
	}
	return sizes, inputs, nil
}

// shapeSetting begins the name of a setting that gives an input's shape.
const shapeSetting = "shape."

// complete fills what follows from the model alone.
func complete(sizes map[string]int, shape []int, t modelfile.Tensor, properties map[string]string) {
	set := func(j, size int) {
		if shape[j] >= 0 {
			return
		}
		if name := symbol(t, j); name != "" {
			if known, ok := sizes[name]; ok {
				size = known
			}
			sizes[name] = size
		}
		shape[j] = size
	}
	if len(shape) > 1 {
		set(0, 1)
	}
	var picture []int // height, width
	if len(shape) == 4 && json.Unmarshal([]byte(properties["imgsz"]), &picture) == nil && len(picture) == 2 && min(picture[0], picture[1]) > 0 {
		set(2, picture[0])
		set(3, picture[1])
	}
}

// learn keeps the sizes of named dimensions; two inputs may not contradict each other.
func learn(sizes map[string]int, t modelfile.Tensor, shape []int) error {
	for j, d := range shape {
		name := symbol(t, j)
		if name == "" {
			continue
		}
		if known, ok := sizes[name]; ok && known != d {
			return errorf(hal.CodeShape, "dimension %s of input %s is %d in one setting and %d in another: give one size", name, t.Name, known, d)
		}
		sizes[name] = d
	}
	return nil
}

// symbol is the name of dimension j, "" where it is known or has none.
func symbol(t modelfile.Tensor, j int) string {
	if j < len(t.Symbols) {
		return t.Symbols[j]
	}
	return ""
}

func parseShape(text string) ([]int, error) {
	shape := []int{}
	for _, word := range strings.Split(text, "x") {
		d, err := strconv.Atoi(word)
		if err != nil || d < 1 || d > proto.MaxMapping || len(shape) == proto.MaxRank {
			return nil, errorf(hal.CodeShape, "shape %q", text)
		}
		shape = append(shape, d)
	}
	return shape, nil
}

// fits says whether a shape is one that the model's allows. A model of unknown rank
// allows any.
func fits(model, shape []int) bool {
	if len(model) == 1 && model[0] < 0 {
		return true
	}
	if len(model) != len(shape) {
		return false
	}
	for j, d := range model {
		if d >= 0 && d != shape[j] {
			return false
		}
	}
	return true
}

// example is a shape as the setting wants it.
func example(shape []int) string {
	var words []string
	for j, d := range shape {
		switch {
		case d >= 0:
			words = append(words, strconv.Itoa(d))
		case j == 0 && len(shape) > 1:
			words = append(words, "1")
		default:
			words = append(words, "224")
		}
	}
	return strings.Join(words, "x")
}

func names(tensors []modelfile.Tensor) string {
	var all []string
	for _, t := range tensors {
		all = append(all, t.Name)
	}
	return strings.Join(all, ", ")
}
