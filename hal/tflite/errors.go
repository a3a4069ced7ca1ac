package tflite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/covey-edge/covey/hal"
)

func errorf(code hal.Code, format string, args ...any) error {
	return &hal.Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// checkHeader refuses what is not a TFLite file, with what it is instead.
func checkHeader(name string, b []byte) error {
	if len(b) == 0 {
		return errorf(hal.CodeModelEmpty, "model file is 0 bytes: %s", name)
	}
	if len(b) < 8 || string(b[4:8]) != "TFL3" {
		return errorf(hal.CodeModelFormat, "%s is not a TFLite file (found %s)", name, looksLike(b))
	}
	if root := binary.LittleEndian.Uint32(b); uint64(root)+4 > uint64(len(b)) {
		return errorf(hal.CodeModelFormat, "%s: root offset %d outside %d-byte file", name, root, len(b))
	}
	return nil
}

func looksLike(b []byte) string {
	head := b[:min(len(b), 512)]
	switch {
	case bytes.HasPrefix(head, []byte("PK")):
		return "a zip archive"
	case bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(head)), []byte("<")):
		return "a web page or XML"
	case bytes.HasPrefix(head, []byte{0x08}) && bytes.Contains(head, []byte{0x12}):
		return "what may be an ONNX model"
	case bytes.HasPrefix(head, []byte("version https://git-lfs")):
		return "a Git LFS pointer: run git lfs pull"
	}
	return fmt.Sprintf("%q", head[:min(len(head), 8)])
}

// errAbsent tells a library that is not there from one that cannot be loaded.
var errAbsent = errors.New("not installed")

// notLoaded makes an error of the reason for which the loader did not load a
// library. Where there is no such file it names that file; where it names another,
// that is one that the library needs.
func notLoaded(name, reason string) error {
	switch {
	case strings.HasPrefix(reason, name+": cannot open shared object file: No such file"):
		return &hal.Error{Code: hal.CodeAccel, Text: name + " is not installed: install the package that brings it, or give its path", Err: errAbsent}
	case strings.HasSuffix(reason, "Permission denied"):
		return errorf(hal.CodeAccel, "%s cannot be loaded: %s; a runner may read the system's library folders and lib/ beside itself: put it into one of those", name, reason)
	}
	return errorf(hal.CodeAccel, "%s cannot be loaded: %s; install what it needs, or one that is made for this system", name, reason)
}

// refused makes an error of what the library said when it would not load a model.
func refused(during, name, said string) error {
	lower := strings.ToLower(said)
	has := func(s string) bool { return strings.Contains(lower, s) }
	switch {
	case has("edgetpu-custom-op"):
		return errorf(hal.CodeAccel, "%s is compiled for an Edge TPU and this runner has none; use the CPU variant of the model", name)
	case has("select tensorflow op"):
		// Its text is a paragraph of advice for phones; the node is what counts.
		if i := strings.Index(said, "Node number"); i >= 0 {
			said = said[i:]
		}
		return errorf(hal.CodeOp, "%s needs TensorFlow's own (Flex) operators: %s; convert it without SELECT_TF_OPS", name, said)
	case has("unresolved custom op"):
		return errorf(hal.CodeOp, "%s needs an operator that this runtime does not have: %s; convert it without custom or Flex operators", name, said)
	case has("didn't find op for builtin opcode"), has("op builtin_code out of range"):
		return errorf(hal.CodeRuntime, "%s needs a newer runtime: %s", name, said)
	case has("failed to allocate"), has("out of memory"), has("bad_alloc"):
		return errorf(hal.CodeMemory, "%s does not fit into memory: %s", name, said)
	case has("overflow"), has("bytes required"), has("invalid tensor size"):
		return errorf(hal.CodeTensor, "%s has a tensor of an impossible size: %s", name, said)
	}
	if said == "" {
		said = "no reason given"
	}
	return errorf(hal.CodeModelFormat, "%s: %s refused it: %s", name, during, said)
}
