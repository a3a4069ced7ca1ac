//go:build cgo

// Covey-runner-jpeg decodes JPEG pictures with libturbojpeg for an agent that starts
// it. It speaks hal/runner/PROTOCOL.md on file descriptor 3, with the tensors of
// hal/jpeg, and ends when that is closed.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal/runner/proto"
)

func main() {
	if kind, err := unix.GetsockoptInt(proto.FD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		fmt.Fprintln(os.Stderr, "covey-runner-jpeg is started by covey-agent, for sources of JPEG pictures")
		os.Exit(2)
	}
	if err := proto.Serve(proto.FD, load()); err != nil {
		fmt.Fprintln(os.Stderr, "covey-runner-jpeg:", err)
		os.Exit(1)
	}
}
