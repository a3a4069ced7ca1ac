// Package modelfile reads model files without running them: what a .tflite or
// .onnx file holds, whether it may be given to a runtime at all, and what its maker wrote
// into it for us (labels, normalisation). Pure: it opens a file and computes.
//
// The reader takes bytes from anywhere. It checks every offset, keeps memory
// bounded whatever the file says, and answers with an *hal.Error.
package modelfile
