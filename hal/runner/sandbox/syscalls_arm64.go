package sandbox

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_AARCH64

// Calls that 32-bit ARM has not, or only arm64 has, and how a file is opened.
var (
	ownCalls  = []uint32{unix.SYS_MMAP, unix.SYS_FADVISE64, unix.SYS_NEWFSTATAT, unix.SYS_GETRLIMIT}
	ownWrites = []uint32{unix.SYS_RENAMEAT}
	ownKilled []uint32
	ownUrgent []flagged
	opens     = []flagged{{unix.SYS_OPENAT, 2}}
	fcntls    = []uint32{unix.SYS_FCNTL}
)
