//go:build cgo

// Covey-runner-onnx runs ONNX models for an agent that starts it. It speaks
// hal/runner/PROTOCOL.md on file descriptor 3, and ends when that is closed.
// COVEY_ONNXRUNTIME names the libonnxruntime.so to use, where it is not the one
// that came with Covey.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal/onnx"
	"github.com/covey-edge/covey/hal/runner/proto"
)

func main() {
	if kind, err := unix.GetsockoptInt(proto.FD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		fmt.Fprintln(os.Stderr, "covey-runner-onnx is started by covey-agent; try: covey-agent detect --model m.onnx picture.jpg")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "covey-runner-onnx:", err)
		os.Exit(1)
	}
}

func run() error {
	onnx.CrashBySignal()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	path, err := onnx.Find(os.Getenv("COVEY_ONNXRUNTIME"), self)
	if err != nil {
		return err
	}
	library, err := onnx.Load(path)
	if err != nil {
		return err
	}
	return proto.Serve(proto.FD, onnx.Backend{Library: library})
}
