package tflite

/*
#include "shim.h"
*/
import "C"

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/mattn/go-tflite"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// shapeSetting begins the name of a setting that gives an input's shape, for models
// that leave it open: "shape.<input>" = "1x1760". It goes with every accelerator.
const shapeSetting = "shape."

// splitShapes takes the shapes of inputs apart from the settings of an accelerator.
func splitShapes(settings map[string]string) (shapes, rest map[string]string) {
	shapes, rest = map[string]string{}, map[string]string{}
	for k, v := range settings {
		if name, ok := strings.CutPrefix(k, shapeSetting); ok {
			shapes[name] = v
		} else {
			rest[k] = v
		}
	}
	return shapes, rest
}

// onlyShapes leaves out what belongs to an accelerator.
func onlyShapes(settings map[string]string) map[string]string {
	settings = maps.Clone(settings)
	maps.DeleteFunc(settings, func(k, _ string) bool { return !strings.HasPrefix(k, shapeSetting) })
	return settings
}

// resize gives inputs the shapes that were asked for. It is called once, before a
// delegate sees the graph: afterwards it would have to prepare all of it again.
// Errors are E_SHAPE.
func (m *Model) resize(shapes map[string]string) error {
	var names []string
	for i := range m.run.GetInputTensorCount() {
		t := m.run.GetInputTensor(i)
		if t == nil {
			continue // describe says so
		}
		name := proto.OneLine(t.Name())
		names = append(names, name)
		text, ok := shapes[name]
		if !ok {
			continue
		}
		shape, ok := parseShape(text)
		if allowed := signature(t); !ok || !fits(allowed, shape) {
			return errorf(hal.CodeShape, "setting %s%s is %.80q, which does not fit %v: write all its sizes, as 1x224", shapeSetting, name, text, allowed)
		}
		if m.run.ResizeInputTensor(i, shape) != tflite.OK {
			return errorf(hal.CodeShape, "input %s of %s cannot be %s: %s", name, m.name, text, m.said())
		}
	}
	for name := range shapes {
		if !slices.Contains(names, name) {
			return errorf(hal.CodeShape, "setting %s%.80s: the model has no such input; it has %s", shapeSetting, name, list(names))
		}
	}
	return nil
}

// signature is the shape of a tensor as the file has it, -1 where it is left open.
func signature(t *tflite.Tensor) []int32 {
	c := (*C.TfLiteTensor)(tensorPointer(t))
	dims := c.dims_signature
	if dims == nil || dims.size == 0 {
		dims = c.dims
	}
	if dims == nil || dims.size == 0 {
		return nil
	}
	// The array's numbers follow its size.
	return slices.Clone(unsafe.Slice((*int32)(unsafe.Add(unsafe.Pointer(dims), unsafe.Sizeof(dims.size))), int(dims.size)))
}

// parseShape reads sizes with an x in between.
func parseShape(text string) (shape []int32, ok bool) {
	all := 1
	for word := range strings.SplitSeq(text, "x") {
		d, err := strconv.Atoi(word)
		if err != nil || d < 1 || d > proto.MaxMapping/all || len(shape) == proto.MaxRank {
			return nil, false
		}
		all *= d
		shape = append(shape, int32(d))
	}
	return shape, true
}

// fits says whether a shape is one that the signature allows.
func fits(signature, shape []int32) bool {
	return slices.EqualFunc(signature, shape, func(s, d int32) bool { return s < 0 || s == d })
}
