// Escape is a runner that tries to get out. ATTEMPT names what it tries, one or
// several with commas between, and it says on stderr what came of each. As
// "truncate" it speaks the protocol and cuts the memory that it shares with the
// agent.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the kernel keeps for each thread (its death signal) is looked up in the first.
func init() { runtime.LockOSThread() }

func main() {
	name := os.Getenv("ATTEMPT")
	if name == "truncate" {
		truncate()
		return
	}
	if name == "list" {
		var names []string
		for name := range attempts {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintln(os.Stderr, strings.Join(names, "\n"))
		return
	}
	for _, name := range strings.Split(name, ",") {
		attempt, ok := attempts[name]
		if !ok {
			fmt.Fprintln(os.Stderr, name+": no such attempt")
			os.Exit(3)
		}
		fmt.Fprintln(os.Stderr, name+": "+outcome(attempt()))
	}
}

// outcome is one word, "ESCAPED" or the error, and the whole of it.
func outcome(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ESCAPED"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno) + " " + err.Error()
	}
	return err.Error()
}

// victim is a file of the test's that anybody may write, room a folder.
var (
	agent  = number(os.Getenv("AGENT"))
	victim = os.Getenv("VICTIM")
	room   = os.Getenv("ROOM")
)

func number(s string) int {
	n, _ := strconv.Atoi(s) // 0 where nothing is tried
	return n
}

// raw makes a system call.
func raw(number uintptr, a ...uintptr) error {
	var all [6]uintptr
	copy(all[:], a)
	_, _, errno := unix.Syscall6(number, all[0], all[1], all[2], all[3], all[4], all[5])
	if errno != 0 {
		return errno
	}
	return nil
}

func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	return uintptr(unsafe.Pointer(p))
}

func reading(name string) func() error {
	return func() error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if st, err := f.Stat(); err == nil && st.IsDir() {
			_, err = f.ReadDir(1)
			return err
		}
		_, err = f.Read(make([]byte, 1))
		return err
	}
}

func of(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }

func dial(network, address string) func() error {
	return func() error {
		c, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			return err
		}
		_, err = c.Write([]byte("escaped"))
		return err
	}
}

func socket(domain, kind, protocol int) func() error {
	return func() error {
		_, err := unix.Socket(domain, kind, protocol)
		return err
	}
}

// child ends a process that should not be there: the copy of this one.
func child(pid uintptr, errno unix.Errno) error {
	switch {
	case errno != 0:
		return errno
	case pid == 0:
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

func execute(fd int) error {
	argv := [2]*byte{}
	argv[0], _ = unix.BytePtrFromString("again")
	return raw(unix.SYS_EXECVEAT, uintptr(fd), text(""), uintptr(unsafe.Pointer(&argv)), 0, unix.AT_EMPTY_PATH)
}

// executePath becomes another program by a descriptor that is none, which the kernel
// does not look at where there is a path. It returns only an error.
func executePath(path string) error {
	argv, env := [2]*byte{}, [2]*byte{}
	argv[0], _ = unix.BytePtrFromString("again")
	env[0], _ = unix.BytePtrFromString("ATTEMPT=list")
	return raw(unix.SYS_EXECVEAT, 64, text(path), uintptr(unsafe.Pointer(&argv)), uintptr(unsafe.Pointer(&env)), unix.AT_EMPTY_PATH)
}

var attempts = map[string]func() error{
	// Files.
	"open /etc/shadow":             reading("/etc/shadow"),
	"open /etc/passwd":             reading("/etc/passwd"),
	"list /":                       reading("/"),
	"list /tmp":                    reading("/tmp"),
	"list /proc":                   reading("/proc"),
	"list /root":                   reading("/root"),
	"open a file of the agent":     reading(victim),
	"open memory of the agent":     reading(of(agent, "mem")),
	"open environ of the agent":    reading(of(agent, "environ")),
	"open cmdline of the agent":    reading(of(agent, "cmdline")),
	"open maps of the agent":       reading(of(agent, "maps")),
	"open /dev/mem":                reading("/dev/mem"),
	"open /dev/kmsg":               reading("/dev/kmsg"),
	"open /dev/console":            reading("/dev/console"),
	"open /sys/class/net":          reading("/sys/class/net"),
	"open /proc/net/tcp":           reading("/proc/net/tcp"),
	"open through /proc/self/cwd":  reading("/proc/self/cwd/etc/passwd"),
	"open through /proc/self/root": reading("/proc/self/root/etc/passwd"),
	"write /tmp":                   func() error { return os.WriteFile(room+"/new", []byte("x"), 0o600) },
	"open a file for writing": func() error {
		_, err := os.OpenFile(victim, os.O_WRONLY, 0)
		return err
	},
	"cut a file by open": func() error {
		_, err := unix.Open(victim, unix.O_RDONLY|unix.O_TRUNC, 0)
		return err
	},
	"truncate a file":  func() error { return unix.Truncate(victim, 0) },
	"remove a file":    func() error { return unix.Unlink(victim) },
	"rename a file":    func() error { return unix.Rename(victim, victim+"2") },
	"link a file":      func() error { return unix.Link(victim, victim+"3") },
	"make a link":      func() error { return unix.Symlink("/etc", room+"/link") },
	"make a folder":    func() error { return unix.Mkdir(room+"/folder", 0o700) },
	"make a device":    func() error { return unix.Mknod(room+"/null", unix.S_IFCHR|0o666, 1<<8|3) },
	"make a pipe":      func() error { return unix.Mknod(room+"/pipe", unix.S_IFIFO|0o666, 0) },
	"change a mode":    func() error { return unix.Chmod(victim, 0o777) },
	"change an owner":  func() error { return unix.Chown(victim, os.Getuid(), os.Getgid()) },
	"change times":     func() error { return unix.Utimes(victim, make([]unix.Timeval, 2)) },
	"set an attribute": func() error { return unix.Setxattr(victim, "user.x", []byte("x"), 0) },
	"make a memory file": func() error {
		_, err := unix.MemfdCreate("x", 0)
		return err
	},

	// Network.
	"TCP":      dial("tcp", os.Getenv("TCP")),
	"UDP":      dial("udp", os.Getenv("UDP")),
	"AF_UNIX":  dial("unix", os.Getenv("UNIX")),
	"abstract": dial("unix", "@"+os.Getenv("ABSTRACT")),
	"datagram by a pair": func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		return unix.Sendto(pair[0], []byte("escaped"), 0, &unix.SockaddrUnix{Name: os.Getenv("DATAGRAM")})
	},
	"listen": func() error {
		_, err := net.Listen("tcp", "127.0.0.1:0")
		return err
	},
	"raw socket":     socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	"packet socket":  socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"netlink socket": socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
	"vsock":          socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"bind fd 3": func() error {
		return unix.Bind(3, &unix.SockaddrUnix{Name: room + "/socket"})
	},

	"urgent data": func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return raw(unix.SYS_SENDTO, uintptr(pair[0]), text("x"), 1, unix.MSG_OOB)
	},
	"take a name": func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Bind(pair[0], &unix.SockaddrUnix{Name: "@covey-escape-name"})
	},
	"names of network interfaces": func() error {
		request := [40]byte{16: 1} // struct ifreq: of interface 1
		return raw(unix.SYS_IOCTL, 3, unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&request)))
	},
	"program of a socket": func() error {
		program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1}}
		return unix.SetsockoptSockFprog(3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &program[0]})
	},
	"files of its own": func() error { return raw(unix.SYS_CLOSE_RANGE, 1000, 2000, unix.CLOSE_RANGE_UNSHARE) },

	// Processes.
	"fork": func() error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		return child(pid, errno)
	},
	"fork bomb": func() error {
		made := false
		for range 16 {
			pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			made = child(pid, errno) == nil || made
		}
		if made {
			return nil
		}
		return unix.EPERM
	},
	"clone3": func() error {
		args := struct{ flags, pidfd, childTID, parentTID, exit, stack, size, tls uint64 }{exit: uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		return child(pid, errno)
	},
	"thread in a user namespace": func() error {
		return raw(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_SIGHAND|unix.CLONE_THREAD|unix.CLONE_NEWUSER)
	},
	"execve /bin/sh": func() error { return unix.Exec("/bin/sh", []string{"sh", "-c", "exit 0"}, nil) },
	"execve itself":  func() error { return unix.Exec("/proc/self/exe", []string{"x"}, []string{"ATTEMPT=list"}) },
	"execveat /bin/sh": func() error {
		fd, err := unix.Open("/bin/sh", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		return execute(fd)
	},
	"execveat memory": func() error {
		fd, err := unix.MemfdCreate("x", 0)
		if err != nil {
			return err
		}
		return execute(fd)
	},
	"execveat by path itself":  func() error { return executePath("/proc/self/exe") },
	"execveat by path /bin/sh": func() error { return executePath("/bin/sh") },
	"ptrace the agent":         func() error { return unix.PtraceAttach(agent) },
	"process_vm_readv": func() error {
		var b [8]byte
		_, err := unix.ProcessVMReadv(agent, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
		return err
	},
	"kill the agent":   func() error { return unix.Kill(agent, 0) },
	"kill all":         func() error { return unix.Kill(-1, 0) },
	"tgkill the agent": func() error { return unix.Tgkill(agent, agent, 0) },
	"queue a signal":   func() error { return raw(unix.SYS_RT_SIGQUEUEINFO, uintptr(agent), 0, 0) },
	"pidfd of the agent": func() error {
		_, err := unix.PidfdOpen(agent, 0)
		return err
	},
	"pidfd_getfd": func() error { return raw(unix.SYS_PIDFD_GETFD, 3, 0, 0) },
	"signals by F_SETOWN": func() error {
		_, err := unix.FcntlInt(3, unix.F_SETOWN, agent)
		return err
	},
	"priority of the agent": func() error { return unix.Setpriority(unix.PRIO_PROCESS, agent, 0) },
	"affinity of the agent": func() error {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			return nil
		}
		return unix.SchedSetaffinity(agent, &set)
	},
	"limits of the agent": func() error { return unix.Prlimit(agent, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) },
	"raise a limit":       func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 2000, Max: 2000}) },
	"raise a soft limit":  func() error { return unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}, nil) },
	"outlive an agent that is killed": func() error {
		var to int32
		err := unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&to)), 0, 0, 0)
		if err == nil && to == int32(unix.SIGKILL) {
			return unix.EPERM
		}
		return err
	},
	"outlive the agent": func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0) },
	"leave its group":   func() error { return raw(unix.SYS_SETSID) },
	"be dumpable":       func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	"be another user":   func() error { return raw(unix.SYS_SETUID, 0) },

	// The kernel.
	"mount":           func() error { return unix.Mount("none", "/", "tmpfs", 0, "") },
	"umount":          func() error { return unix.Unmount("/nowhere", 0) },
	"fsopen":          func() error { return raw(unix.SYS_FSOPEN, text("tmpfs"), 0) },
	"chroot":          func() error { return unix.Chroot("/") },
	"pivot_root":      func() error { return unix.PivotRoot("/nowhere", "/nowhere") },
	"user namespace":  func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"setns":           func() error { return unix.Setns(3, 0) },
	"bpf":             func() error { return raw(unix.SYS_BPF, 0, 0, 0) },
	"perf_event_open": func() error { return raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0) },
	"userfaultfd":     func() error { return raw(unix.SYS_USERFAULTFD, 1) },
	"io_uring_setup": func() error {
		var params [120]byte
		return raw(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
	},
	"keyctl":             func() error { return raw(unix.SYS_KEYCTL, 0, ^uintptr(2), 0) },
	"add_key":            func() error { return raw(unix.SYS_ADD_KEY, text("user"), text("x"), text("x"), 1, ^uintptr(2)) },
	"kexec_load":         func() error { return raw(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) },
	"load a module":      func() error { return raw(unix.SYS_FINIT_MODULE, 3, text(""), 0) },
	"reboot":             func() error { return raw(unix.SYS_REBOOT, 0, 0, 0) },
	"syslog":             func() error { return raw(unix.SYS_SYSLOG, 10, 0, 0) },
	"hostname":           func() error { return unix.Sethostname([]byte("escaped")) },
	"clock":              func() error { return raw(unix.SYS_CLOCK_SETTIME, 0, 0) },
	"shared memory":      func() error { return raw(unix.SYS_SHMGET, 0, 4096, 0o1600) },
	"message queue":      func() error { return raw(unix.SYS_MQ_OPEN, text("escaped"), unix.O_CREAT|unix.O_RDWR, 0o600, 0) },
	"inotify":            func() error { return raw(unix.SYS_INOTIFY_INIT1, 0) },
	"personality":        func() error { return raw(unix.SYS_PERSONALITY, 0x0040000) },
	"another filter":     func() error { return raw(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, 0) },
	"call of the future": func() error { return raw(5000) },
	"file by handle": func() error {
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/etc", 0)
		return err
	},
}
