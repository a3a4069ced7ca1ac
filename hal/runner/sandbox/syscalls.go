package sandbox

import (
	"slices"

	"golang.org/x/sys/unix"
)

// A width is what a runner may do besides what all may.
type width struct {
	devices bool // has device nodes: ioctl, opening for writing, libusb's hotplug socket
	write   bool // has folders to write in
}

func (s Spec) wide() width {
	return width{devices: len(s.Access.Devices) > 0, write: len(s.Access.Write) > 0}
}

// first are the calls of a run, which are tested first: the runner's own, and those
// of thread pools.
var first = []uint32{unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_FUTEX, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_SCHED_YIELD}

// calls is what every runner may do, whatever the arguments: use memory and
// threads, read files and wait. Landlock says which files.
var calls = []uint32{
	// Memory.
	unix.SYS_BRK, unix.SYS_GET_MEMPOLICY, unix.SYS_MADVISE, unix.SYS_MAP_SHADOW_STACK, unix.SYS_MBIND, unix.SYS_MEMBARRIER, unix.SYS_MINCORE,
	unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MSEAL, unix.SYS_MSYNC, unix.SYS_MUNLOCK,
	unix.SYS_MUNMAP, unix.SYS_PKEY_ALLOC, unix.SYS_PKEY_FREE, unix.SYS_PKEY_MPROTECT, unix.SYS_SET_MEMPOLICY,
	// Threads.
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX_REQUEUE, unix.SYS_FUTEX_WAIT, unix.SYS_FUTEX_WAITV, unix.SYS_FUTEX_WAKE,
	unix.SYS_GETCPU, unix.SYS_GETTID, unix.SYS_GET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_SCHED_GETPARAM, unix.SYS_SCHED_GETSCHEDULER, unix.SYS_SCHED_GET_PRIORITY_MAX, unix.SYS_SCHED_GET_PRIORITY_MIN,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_SET_TID_ADDRESS, unix.SYS_WAIT4, unix.SYS_WAITID,
	// Signals, to itself alone: see own.
	unix.SYS_RESTART_SYSCALL, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPENDING, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
	unix.SYS_RT_SIGSUSPEND, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SIGALTSTACK,
	// Time.
	unix.SYS_CLOCK_GETRES, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_GETITIMER, unix.SYS_GETTIMEOFDAY, unix.SYS_NANOSLEEP,
	unix.SYS_SETITIMER, unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_GETTIME, unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMER_CREATE,
	unix.SYS_TIMER_DELETE, unix.SYS_TIMER_GETOVERRUN, unix.SYS_TIMER_GETTIME, unix.SYS_TIMER_SETTIME,
	// Waiting.
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_PPOLL, unix.SYS_PSELECT6,
	// Files and descriptors.
	unix.SYS_CHDIR, unix.SYS_CLOSE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
	unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_GETCWD, unix.SYS_GETDENTS64, unix.SYS_LSEEK,
	unix.SYS_PREAD64, unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PWRITE64, unix.SYS_READAHEAD, unix.SYS_READLINKAT,
	unix.SYS_READV, unix.SYS_STATFS, unix.SYS_STATX, unix.SYS_UMASK, unix.SYS_WRITEV,
	// The one socket it has.
	unix.SYS_GETPEERNAME, unix.SYS_GETSOCKNAME, unix.SYS_GETSOCKOPT, unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_SHUTDOWN,
	// What it is and where.
	unix.SYS_CAPGET, unix.SYS_GETEGID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETGROUPS, unix.SYS_GETPGID, unix.SYS_GETPID,
	unix.SYS_GETPPID, unix.SYS_GETPRIORITY, unix.SYS_GETRANDOM, unix.SYS_GETRESGID, unix.SYS_GETRESUID,
	unix.SYS_GETRUSAGE, unix.SYS_GETSID, unix.SYS_GETUID, unix.SYS_SYSINFO, unix.SYS_TIMES, unix.SYS_UNAME,
}

// writes is for a runner that has a folder to write in, or a driver that shares
// memory by descriptors. Owners and modes of files it may not change: landlock
// would not stop it at the folder's edge.
var writes = []uint32{
	unix.SYS_FALLOCATE, unix.SYS_FDATASYNC, unix.SYS_FLOCK, unix.SYS_FSYNC, unix.SYS_FTRUNCATE, unix.SYS_MEMFD_CREATE,
	unix.SYS_MKDIRAT, unix.SYS_RENAMEAT2, unix.SYS_SENDFILE, unix.SYS_UNLINKAT,
}

// killed is what no library tries by accident: a runner that does it is taken
// over, or was never meant to be one, and its end by SIGSYS says so.
var killed = []uint32{
	unix.SYS_ACCT, unix.SYS_BPF, unix.SYS_CHROOT, unix.SYS_DELETE_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
	unix.SYS_FSOPEN, unix.SYS_INIT_MODULE, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_KEXEC_LOAD, unix.SYS_MOUNT,
	unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_OPEN_TREE, unix.SYS_PIDFD_GETFD,
	unix.SYS_PIVOT_ROOT, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PTRACE, unix.SYS_REBOOT,
	unix.SYS_SETNS, unix.SYS_SWAPOFF, unix.SYS_SWAPON, unix.SYS_UMOUNT2, unix.SYS_UNSHARE,
}

// A flagged is a call, and which of its arguments holds flags.
type flagged struct {
	number uint32
	flags  int
}

// urgent are the calls that urgent data (MSG_OOB) goes by. Nobody has a use for it
// on AF_UNIX, and the kernel's code for it was a way out of a sandbox (CVE-2025-38236).
var urgent = []flagged{{unix.SYS_SENDMSG, 2}, {unix.SYS_RECVMSG, 2}, {unix.SYS_SENDTO, 3}, {unix.SYS_RECVFROM, 3}}

// policy is the list for a runner that is process pid.
func policy(w width, pid int) []call {
	var p []call
	add := func(do decision, number uint32, when ...match) { p = append(p, call{number, do, when}) }
	all := func(do decision, numbers []uint32) {
		for _, n := range numbers {
			add(do, n)
		}
	}
	for _, c := range slices.Concat(urgent, ownUrgent) {
		add(refuse(unix.EPERM), c.number, match{argument: c.flags, mask: unix.MSG_OOB, value: unix.MSG_OOB})
	}
	all(allow, first)
	all(allow, calls)
	all(allow, ownCalls)
	opening(add, w)
	threads(add, pid)
	arguments(add, w)
	if w.write || w.devices {
		all(allow, writes)
		all(allow, ownWrites)
		for _, c := range []uint32{unix.F_GETLK, unix.F_SETLK, unix.F_SETLKW, unix.F_OFD_GETLK, unix.F_OFD_SETLK, unix.F_OFD_SETLKW} {
			fcntl(add, c)
		}
	}
	if w.devices {
		devices(add)
	}
	add(inquire, unix.SYS_EXECVE)             // the one; see the package's comment
	add(refuse(unix.ENOSYS), unix.SYS_CLONE3) // its flags are out of sight; libraries go back to clone
	all(kill, killed)
	all(kill, ownKilled)
	return p
}

// is compares a whole int.
func is(argument int, value uint32) match {
	return match{argument: argument, mask: ^uint32(0), value: value}
}

// opening says how files may be opened. Where landlock is missing, this alone
// keeps a runner from writing: without a folder to write in it makes and cuts no
// files, and without a device it opens nothing for writing.
func opening(add func(decision, uint32, ...match), w width) {
	never := uint32(unix.O_TRUNC | unix.O_CREAT | tmpfile | unix.O_ACCMODE)
	if w.devices {
		never &^= unix.O_ACCMODE
	}
	for _, o := range opens {
		if w.write {
			// Before version 3, landlock lets a file be cut that may only be read.
			add(refuse(unix.EACCES), o.number, match{argument: o.flags, mask: unix.O_ACCMODE | unix.O_TRUNC, value: unix.O_TRUNC})
			add(allow, o.number)
			continue
		}
		add(allow, o.number, match{argument: o.flags, mask: never})
		add(refuse(unix.EACCES), o.number)
	}
}

// tmpfile is what O_TMPFILE adds to O_DIRECTORY.
const tmpfile = unix.O_TMPFILE &^ unix.O_DIRECTORY

// threads lets it have threads and no processes, and signal nobody but itself.
func threads(add func(decision, uint32, ...match), pid int) {
	const (
		// With descriptors of its own, each thread would have as many as all may.
		thread = unix.CLONE_VM | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_FILES
		never  = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
			unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_PTRACE | unix.CLONE_VFORK | unix.CLONE_PARENT
	)
	add(allow, unix.SYS_CLONE, match{argument: 0, mask: thread | never, value: thread})
	add(allow, unix.SYS_TGKILL, is(0, uint32(pid)))
	add(allow, unix.SYS_KILL, is(0, uint32(pid)))
	add(allow, unix.SYS_TKILL, is(0, uint32(pid)))
	// Its own thread's, not the agent's.
	add(allow, unix.SYS_SCHED_SETAFFINITY, is(0, 0))
	add(allow, unix.SYS_SETPRIORITY, is(0, unix.PRIO_PROCESS), is(1, 0))
	// Limits are read, not set.
	add(allow, unix.SYS_PRLIMIT64, match{argument: 2, mask: ^uint32(0)}, match{argument: 2, mask: ^uint32(0), high: true})
}

// fcntl allows one of its commands, by whatever names the call has.
func fcntl(add func(decision, uint32, ...match), command uint32) {
	for _, n := range fcntls {
		add(allow, n, is(1, command))
	}
}

// arguments allows the harmless part of calls that can do many things.
func arguments(add func(decision, uint32, ...match), w width) {
	// Not F_SETOWN and F_SETSIG, which send signals to others, nor leases.
	for _, c := range []uint32{unix.F_DUPFD, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC,
		unix.F_GETPIPE_SZ, unix.F_ADD_SEALS, unix.F_GET_SEALS} {
		fcntl(add, c)
	}
	const (
		setNonblock = 0x5421 // FIONBIO
		notOnExec   = 0x5450 // FIONCLEX
		onExec      = 0x5451 // FIOCLEX
	)
	for _, c := range []uint32{unix.TCGETS, unix.TIOCGWINSZ, unix.TIOCINQ, setNonblock, notOnExec, onExec} {
		add(allow, unix.SYS_IOCTL, is(1, c))
	}
	// Not PR_SET_PDEATHSIG: a runner dies with its agent.
	for _, o := range []uint32{unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_VMA, unix.PR_GET_DUMPABLE, unix.PR_GET_PDEATHSIG, unix.PR_CAPBSET_READ,
		unix.PR_GET_NO_NEW_PRIVS, unix.PR_GET_SECCOMP, unix.PR_GET_THP_DISABLE, unix.PR_SET_TIMERSLACK, unix.PR_GET_TIMERSLACK,
		unix.PR_SVE_GET_VL, unix.PR_SVE_SET_VL, unix.PR_GET_TAGGED_ADDR_CTRL} {
		add(allow, unix.SYS_PRCTL, is(0, o))
	}
	// A pair that is connected to itself. Not a pair of datagram sockets: those can
	// be pointed at the socket of another program with each packet.
	for _, kind := range []uint32{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		add(allow, unix.SYS_SOCKETPAIR, is(0, unix.AF_UNIX), match{argument: 1, mask: 0xf, value: kind})
	}
	// Nor a program that the kernel runs on each packet, but for libudev: see devices.
	for _, o := range []uint32{unix.SO_ATTACH_FILTER, unix.SO_ATTACH_BPF, unix.SO_ATTACH_REUSEPORT_CBPF, unix.SO_ATTACH_REUSEPORT_EBPF} {
		if !w.devices || o != unix.SO_ATTACH_FILTER {
			add(refuse(unix.EPERM), unix.SYS_SETSOCKOPT, is(1, unix.SOL_SOCKET), is(2, o))
		}
	}
	add(allow, unix.SYS_SETSOCKOPT, is(1, unix.SOL_SOCKET))
	add(allow, unix.SYS_CLOSE_RANGE, match{argument: 2, mask: unix.CLOSE_RANGE_UNSHARE})
}

// devices is what drivers do. Which nodes they do it to, landlock says.
func devices(add func(decision, uint32, ...match)) {
	// Of sockets: signals to others (FIOSETOWN), names and addresses of the network.
	add(refuse(unix.EPERM), unix.SYS_IOCTL, match{argument: 1, mask: ^uint32(0xff), value: 0x8900})
	for _, c := range []uint32{unix.TIOCSPGRP, unix.TIOCSTI, unix.TIOCLINUX, unix.TIOCSCTTY} {
		add(refuse(unix.EPERM), unix.SYS_IOCTL, is(1, c))
	}
	add(allow, unix.SYS_IOCTL)
	// Libusb does not start without hearing the kernel's news of devices. Bind takes
	// the length of such an address alone: other sockets could take names.
	add(allow, unix.SYS_SOCKET, is(0, unix.AF_NETLINK), is(2, unix.NETLINK_KOBJECT_UEVENT))
	add(allow, unix.SYS_BIND, is(2, unix.SizeofSockaddrNetlink))
}
