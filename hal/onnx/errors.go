package onnx

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/covey-edge/covey/hal"
)

func errorf(code hal.Code, format string, args ...any) error {
	return &hal.Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// place is where in its sources the library was when it said something.
var place = regexp.MustCompile(`/\S+\.(cc|h|cu):\d+ |onnxruntime::\S+(\([^)]*\)( const)?)? |Error creating C session: `)

// refused makes an error of what the library said when it would not load a model.
func refused(during, name, said string) error {
	said = strings.Join(strings.Fields(place.ReplaceAllString(said, "")), " ")
	lower := strings.ToLower(said)
	has := func(signs ...string) bool {
		for _, s := range signs {
			if strings.Contains(lower, s) {
				return true
			}
		}
		return false
	}
	switch {
	case has("bad_alloc", "failed to allocate", "out of memory"):
		return errorf(hal.CodeMemory, "%s does not fit into memory: %s", name, said)
	case has("unsupported model ir version", "under development and support for this is limited", "current official support for domain"):
		return errorf(hal.CodeRuntime, "%s needs a newer ONNX Runtime, or export it with an older opset: %s", name, said)
	case has("no op registered for", "is not a registered function/op", "could not find an implementation for", "is not implemented", "no opset import for domain"):
		return errorf(hal.CodeOp, "%s needs an operator that this runtime does not have in that version; export it with another opset, or without: %s", name, said)
	case has("external data", "external initializer"):
		return errorf(hal.CodeModelFormat, "%s keeps its weights in another file; save it as one: %s", name, said)
	case has("size overflow", "integer overflow", "invalid tensor size"):
		return errorf(hal.CodeTensor, "%s has a tensor of an impossible size: %s", name, said)
	}
	return errorf(hal.CodeModelFormat, "%s: ONNX Runtime refused it when %s: %s", name, during, said)
}
