package sandbox

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_AARCH64

// Calls that only arm64 has, and how a file is opened.
var (
	ownCalls  []uint32
	ownWrites = []uint32{unix.SYS_RENAMEAT}
	ownKilled []uint32
	opens     = []flagged{{unix.SYS_OPENAT, 2}}
)
