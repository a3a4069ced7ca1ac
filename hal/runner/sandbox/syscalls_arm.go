package sandbox

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_ARM

// Calls that only 32-bit ARM has, which the kernel counts apart.
const (
	cacheFlush = 0xf0002
	setTLS     = 0xf0005
)

// Calls that only 32-bit ARM has: wider ones for files, times and users beside those in
// syscalls.go, and the ancestors of those, as amd64 has them.
var (
	ownCalls = []uint32{
		unix.SYS_MMAP2, unix.SYS_ARM_FADVISE64_64, unix.SYS_FSTATAT64, unix.SYS_UGETRLIMIT, cacheFlush, setTLS,
		unix.SYS_STAT64, unix.SYS_LSTAT64, unix.SYS_FSTAT64, unix.SYS_STATFS64, unix.SYS_FSTATFS64, unix.SYS__LLSEEK,
		unix.SYS_CLOCK_GETTIME64, unix.SYS_CLOCK_GETRES_TIME64, unix.SYS_CLOCK_NANOSLEEP_TIME64, unix.SYS_TIMER_GETTIME64,
		unix.SYS_TIMER_SETTIME64, unix.SYS_TIMERFD_GETTIME64, unix.SYS_TIMERFD_SETTIME64, unix.SYS_PPOLL_TIME64, unix.SYS_PSELECT6_TIME64,
		unix.SYS_RECVMMSG_TIME64, unix.SYS_FUTEX_TIME64, unix.SYS_RT_SIGTIMEDWAIT_TIME64,
		unix.SYS_GETUID32, unix.SYS_GETGID32, unix.SYS_GETEUID32, unix.SYS_GETEGID32, unix.SYS_GETGROUPS32, unix.SYS_GETRESUID32, unix.SYS_GETRESGID32,
		unix.SYS_RECV, unix.SYS_SEND, unix.SYS_SIGRETURN, unix.SYS_SIGPROCMASK, unix.SYS_SIGACTION, unix.SYS_SIGPENDING, unix.SYS_SIGSUSPEND,
		unix.SYS_ACCESS, unix.SYS_DUP2, unix.SYS_EPOLL_CREATE, unix.SYS_EPOLL_WAIT,
		unix.SYS_EVENTFD, unix.SYS_GETDENTS, unix.SYS_GETPGRP, unix.SYS_LSTAT, unix.SYS_PAUSE, unix.SYS_PIPE, unix.SYS_POLL,
		unix.SYS_READLINK, unix.SYS__NEWSELECT, unix.SYS_STAT,
	}
	ownWrites = []uint32{unix.SYS_MKDIR, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_RMDIR, unix.SYS_UNLINK, unix.SYS_FTRUNCATE64, unix.SYS_SENDFILE64}
	ownKilled []uint32
	ownUrgent = []flagged{{unix.SYS_RECV, 3}, {unix.SYS_SEND, 3}}
	opens     = []flagged{{unix.SYS_OPEN, 1}, {unix.SYS_OPENAT, 2}}
	fcntls    = []uint32{unix.SYS_FCNTL, unix.SYS_FCNTL64}
)
