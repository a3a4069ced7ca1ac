// Package onnx is the cgo room of onnxruntime_go: it loads ONNX models and runs
// them, for hal/cmd/covey-runner-onnx.
//
// The binding opens the library, and makes options, providers and sessions. What
// comes afterwards is done by a small part in C of our own (shim.c), because the
// binding
//   - describes a model only by loading it a second time,
//   - cannot place a tensor without dimensions on memory that is given,
//   - allocates every output whose shape is not known, and copies half of it when
//     it is float16,
//   - has no way to fix the dimensions that a model leaves open.
//
// Without cgo the package is only its pure part: shapes, settings and the meaning
// of errors.
package onnx
