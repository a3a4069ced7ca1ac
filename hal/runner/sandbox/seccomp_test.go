package sandbox

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// decide runs a filter on a call, as the kernel does (net/core/filter.c). It fails on
// anything that the kernel would not load.
func decide(t testing.TB, program []unix.SockFilter, machine, number uint32, arguments ...uint64) decision {
	t.Helper()
	var data [64]byte
	binary.LittleEndian.PutUint32(data[offNumber:], number)
	binary.LittleEndian.PutUint32(data[offArch:], machine)
	for i, a := range arguments {
		binary.LittleEndian.PutUint64(data[offArgument+8*i:], a)
	}
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		f := program[pc]
		taken := func(yes bool) {
			if yes {
				pc += int(f.Jt)
			} else {
				pc += int(f.Jf)
			}
		}
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if f.K%4 != 0 || f.K > 60 {
				t.Fatalf("%d: load at %d", pc, f.K)
			}
			a = binary.LittleEndian.Uint32(data[f.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= f.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken(a == f.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken(a >= f.K)
		case unix.BPF_RET | unix.BPF_K:
			return decision(f.K)
		default:
			t.Fatalf("%d: instruction %#x", pc, f.Code)
		}
	}
	t.Fatal("the program has no end")
	return 0
}

const somePID = 4711

func TestFilter(t *testing.T) {
	plain, wide := width{}, width{devices: true}
	writer := width{write: true}
	eperm, eacces, enosys := refuse(unix.EPERM), refuse(unix.EACCES), refuse(unix.ENOSYS)
	const thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM | unix.CLONE_SETTLS
	for _, c := range []struct {
		name   string
		width  width
		want   decision
		number uint32
		args   []uint64
	}{
		{"receive", plain, allow, unix.SYS_RECVMSG, nil},
		{"a thread", plain, allow, unix.SYS_CLONE, []uint64{thread}},
		{"a thread with rubbish above the flags", plain, allow, unix.SYS_CLONE, []uint64{1<<40 | thread}},
		{"a process", plain, eperm, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}},
		{"a process that shares memory", plain, eperm, unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}},
		{"a thread in a namespace", plain, eperm, unix.SYS_CLONE, []uint64{thread | unix.CLONE_NEWUSER}},
		{"a thread with files of its own", plain, eperm, unix.SYS_CLONE, []uint64{thread &^ unix.CLONE_FILES}},
		{"clone3", wide, enosys, unix.SYS_CLONE3, nil},
		{"execve", plain, inquire, unix.SYS_EXECVE, nil},
		{"execveat", wide, eperm, unix.SYS_EXECVEAT, []uint64{64, 1, 2, 3, unix.AT_EMPTY_PATH}},
		{"a signal to itself", plain, allow, unix.SYS_TGKILL, []uint64{somePID, 1, 6}},
		{"a signal to its agent", wide, eperm, unix.SYS_TGKILL, []uint64{1, 1, 9}},
		{"a signal to all", plain, eperm, unix.SYS_KILL, []uint64{^uint64(0), 9}},
		{"read limits", plain, allow, unix.SYS_PRLIMIT64, []uint64{0, 7, 0, 1}},
		{"set a limit", plain, eperm, unix.SYS_PRLIMIT64, []uint64{0, 7, 8, 0}},
		{"set a limit from an address without low bits", plain, eperm, unix.SYS_PRLIMIT64, []uint64{0, 7, 1 << 32, 0}},
		{"open to read", plain, allow, unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDONLY | unix.O_CLOEXEC}},
		{"open a folder", plain, allow, unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDONLY | unix.O_DIRECTORY}},
		{"open to write", plain, eacces, unix.SYS_OPENAT, []uint64{0, 0, unix.O_WRONLY}},
		{"open for both", plain, eacces, unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDWR}},
		{"open to cut", plain, eacces, unix.SYS_OPENAT, []uint64{0, 0, unix.O_TRUNC}},
		{"a file without a name", wide, eacces, unix.SYS_OPENAT, []uint64{0, 0, unix.O_TMPFILE | unix.O_RDWR}},
		{"open a device", wide, allow, unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDWR}},
		{"a driver makes no file", wide, eacces, unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDWR | unix.O_CREAT}},
		{"a writer does", writer, allow, unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC}},
		{"a writer cuts nothing that it only reads", writer, eacces, unix.SYS_OPENAT, []uint64{0, 0, unix.O_TRUNC}},
		{"openat2", plain, enosys, unix.SYS_OPENAT2, nil},
		{"io_uring", wide, enosys, unix.SYS_IO_URING_SETUP, nil},
		{"is it a terminal", plain, allow, unix.SYS_IOCTL, []uint64{1, unix.TCGETS}},
		{"ioctl", plain, eperm, unix.SYS_IOCTL, []uint64{1, 0xc0045500}},
		{"ioctl of a device", wide, allow, unix.SYS_IOCTL, []uint64{1, 0xc0045500}},
		{"type into a terminal", wide, eperm, unix.SYS_IOCTL, []uint64{1, unix.TIOCSTI}},
		{"signals by ioctl", wide, eperm, unix.SYS_IOCTL, []uint64{1, 0x8901}},
		{"addresses by ioctl", wide, eperm, unix.SYS_IOCTL, []uint64{3, unix.SIOCGIFHWADDR}},
		{"urgent data", wide, eperm, unix.SYS_RECVMSG, []uint64{3, 1, unix.MSG_OOB | unix.MSG_DONTWAIT}},
		{"close many", plain, allow, unix.SYS_CLOSE_RANGE, []uint64{3, 9, unix.CLOSE_RANGE_CLOEXEC}},
		{"a program for packets", plain, eperm, unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}},
		{"a program for news of devices", wide, allow, unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}},
		{"hear news of devices", wide, allow, unix.SYS_BIND, []uint64{3, 1, unix.SizeofSockaddrNetlink}},
		{"take a name", wide, eperm, unix.SYS_BIND, []uint64{3, 1, unix.SizeofSockaddrUnix}},
		{"signals by fcntl", wide, eperm, unix.SYS_FCNTL, []uint64{1, unix.F_SETOWN}},
		{"a lease", writer, eperm, unix.SYS_FCNTL, []uint64{1, unix.F_SETLEASE}},
		{"name a thread", plain, allow, unix.SYS_PRCTL, []uint64{unix.PR_SET_NAME}},
		{"outlive its agent", wide, eperm, unix.SYS_PRCTL, []uint64{unix.PR_SET_PDEATHSIG}},
		{"a pair", plain, allow, unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_CLOEXEC}},
		{"a pair of datagrams", plain, eperm, unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_DGRAM}},
		{"TCP", wide, eperm, unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, 0}},
		{"news of devices", wide, allow, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT}},
		{"news of devices without one", plain, eperm, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT}},
		{"routes", wide, eperm, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}},
		{"connect", wide, eperm, unix.SYS_CONNECT, nil},
		{"remove a file", plain, eperm, unix.SYS_UNLINKAT, nil},
		{"remove one's own", writer, allow, unix.SYS_UNLINKAT, nil},
		{"cut by path", writer, eperm, unix.SYS_TRUNCATE, nil},
		{"change a mode", writer, eperm, unix.SYS_FCHMODAT, nil},
		{"ptrace", wide, kill, unix.SYS_PTRACE, nil},
		{"mount", writer, kill, unix.SYS_MOUNT, nil},
		{"a call of the future", plain, enosys, 5000, nil},
	} {
		p := filter(policy(c.width, somePID))
		if got := decide(t, p, arch, c.number, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
		if got := decide(t, p, arch^1, c.number, c.args...); got != kill {
			t.Errorf("%s as another processor's: %#x, want death", c.name, got)
		}
	}
}

// TestFilterIsThePolicy compares the program with the list that it is made from.
func TestFilterIsThePolicy(t *testing.T) {
	for _, w := range []width{{}, {devices: true}, {write: true}, {true, true}} {
		lines := policy(w, somePID)
		program := filter(lines)
		if len(program) > 4096 {
			t.Fatalf("%d instructions: the kernel takes 4096", len(program))
		}
		t.Logf("%+v: %d lines, %d instructions", w, len(lines), len(program))
		random := rand.New(rand.NewPCG(1, 2))
		for range 20_000 {
			number := uint32(random.IntN(600))
			var arguments [6]uint64
			for i := range arguments {
				arguments[i] = random.Uint64() & random.Uint64() & random.Uint64() & random.Uint64()
			}
			if c := lines[random.IntN(len(lines))]; random.IntN(2) == 0 { // one that is nearly right
				number = c.number
				for _, m := range c.when {
					if random.IntN(4) > 0 {
						arguments[m.argument] = uint64(m.value) | arguments[m.argument]&^uint64(m.mask)
					}
				}
			}
			if got, want := decide(t, program, arch, number, arguments[:]...), judge(lines, number, arguments); got != want {
				t.Fatalf("%+v: call %d%#x: %#x, want %#x", w, number, arguments, got, want)
			}
		}
	}
}

// judge is what the list says.
func judge(lines []call, number uint32, arguments [6]uint64) decision {
	for _, c := range lines {
		fits := func(m match) bool {
			a := arguments[m.argument]
			if m.high {
				a >>= 32
			}
			return uint32(a)&m.mask == m.value
		}
		if c.number == number && !slices.ContainsFunc(c.when, func(m match) bool { return !fits(m) }) {
			return c.do
		}
	}
	if number >= modern {
		return refuse(unix.ENOSYS)
	}
	return refuse(unix.EPERM)
}

// TestNoContradiction looks for calls that are allowed and killed, and for lines
// that no call can reach.
func TestNoContradiction(t *testing.T) {
	always := map[uint32]bool{}
	for _, c := range policy(width{true, true}, somePID) {
		if always[c.number] && c.do != allow {
			t.Errorf("call %d: a line after the one that always holds", c.number)
		}
		if len(c.when) == 0 {
			always[c.number] = true
		}
	}
}
