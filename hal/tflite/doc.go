// Package tflite is the cgo room of go-tflite: it loads TFLite models and runs
// them, for hal/cmd/covey-runner-tflite. What is wrong or dangerous in go-tflite
// and in the C library ends here; pitfalls_test.go has a test for each.
//
// Delegates are loaded while it runs (delegate.go), so that one program serves
// every board: XNNPACK, the GPU, the Edge TPU, and any "external:<library>". wish.go
// says what each of them may be told.
//
// It compiles against headers of its own (include/) and needs
// libtensorflowlite_c when it runs; scripts/setup fetches that. Without cgo the
// package is only its pure part: reading requests and telling errors apart.
package tflite
