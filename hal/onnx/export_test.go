//go:build cgo

package onnx

import "unsafe"

// copied is how many outputs of the first buffer are copied after a run.
func copied(m *Model) (n int) {
	for _, t := range unsafe.Slice(m.run.tensors, len(m.types))[len(m.opened.Inputs):] {
		if t.ort == nil {
			n++
		}
	}
	return n
}
