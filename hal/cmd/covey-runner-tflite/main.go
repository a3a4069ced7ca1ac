//go:build cgo

// Covey-runner-tflite runs TFLite models for an agent that starts it. It speaks
// hal/runner/PROTOCOL.md on file descriptor 3, and ends when that is closed.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal/runner/proto"
	"github.com/covey-edge/covey/hal/tflite"
)

func main() {
	if kind, err := unix.GetsockoptInt(proto.FD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		fmt.Fprintln(os.Stderr, "covey-runner-tflite is started by covey-agent; try: covey-agent detect --model m.tflite picture.jpg")
		os.Exit(2)
	}
	tflite.CrashBySignal()
	if err := proto.Serve(proto.FD, tflite.Backend{}); err != nil {
		fmt.Fprintln(os.Stderr, "covey-runner-tflite:", err)
		os.Exit(1)
	}
}
