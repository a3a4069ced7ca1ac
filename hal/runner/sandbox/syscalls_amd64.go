package sandbox

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_X86_64

// Calls that 32-bit ARM has not: the ancestors of those in syscalls.go, which only amd64
// has, and before them what is wider there.
var (
	ownCalls = []uint32{
		unix.SYS_MMAP, unix.SYS_FADVISE64, unix.SYS_NEWFSTATAT, unix.SYS_GETRLIMIT,
		unix.SYS_ACCESS, unix.SYS_ALARM, unix.SYS_ARCH_PRCTL, unix.SYS_DUP2, unix.SYS_EPOLL_CREATE, unix.SYS_EPOLL_WAIT,
		unix.SYS_EVENTFD, unix.SYS_GETDENTS, unix.SYS_GETPGRP, unix.SYS_LSTAT, unix.SYS_PAUSE, unix.SYS_PIPE, unix.SYS_POLL,
		unix.SYS_READLINK, unix.SYS_SELECT, unix.SYS_STAT, unix.SYS_TIME,
	}
	ownWrites = []uint32{unix.SYS_MKDIR, unix.SYS_RENAME, unix.SYS_RMDIR, unix.SYS_UNLINK}
	ownKilled = []uint32{unix.SYS_IOPERM, unix.SYS_IOPL}
	ownUrgent []flagged
	opens     = []flagged{{unix.SYS_OPEN, 1}, {unix.SYS_OPENAT, 2}}
	fcntls    = []uint32{unix.SYS_FCNTL}
)
