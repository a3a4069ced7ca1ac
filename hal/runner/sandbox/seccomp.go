package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A decision is what happens to a system call: an action of seccomp's.
type decision uint32

const (
	allow   decision = unix.SECCOMP_RET_ALLOW
	kill    decision = unix.SECCOMP_RET_KILL_PROCESS // by SIGSYS
	inquire decision = unix.SECCOMP_RET_USER_NOTIF   // the porter; ENOSYS once there is none
)

// refuse makes a call fail.
func refuse(e unix.Errno) decision { return unix.SECCOMP_RET_ERRNO | decision(e) }

// A call is a line of the policy: what happens to a system call whose arguments
// fit. The first line that fits counts.
type call struct {
	number uint32
	do     decision
	when   []match
}

// A match compares an argument of a call: argument & mask == value. Only the low 32 bits
// are seen, which is all that the kernel looks at where it takes an int; high is
// for the others.
type match struct {
	argument    int
	mask, value uint32
	high        bool
}

// modern is where the numbers of system calls became the same on all processors.
// Libraries try calls from here on that the kernel may be too old for, and know
// what to do without: they are told so. The older ones are just forbidden.
const modern = 424

// x32 is the bit that marks calls of amd64's third, nearly extinct ABI, which would
// be a way around a list of numbers.
const x32 = 0x40000000

// Offsets into struct seccomp_data.
const (
	offNumber   = 0
	offArch     = 4
	offArgument = 16
)

// filter is a policy as a program for the kernel's classic BPF. Lines are tested in
// order, so the calls of a run stand first; since 5.11 the kernel remembers calls
// that are allowed whatever their arguments, and does not run the program for them.
func filter(policy []call) []unix.SockFilter {
	p := []unix.SockFilter{
		load(offArch),
		jump(unix.BPF_JEQ, arch, 1, 0),
		ret(kill), // the numbers below mean something else there
		load(offNumber),
	}
	if runtime.GOARCH == "amd64" {
		p = append(p, jump(unix.BPF_JGE, x32, 0, 1), ret(kill))
	}
	for _, c := range policy {
		p = append(p, c.assemble()...)
	}
	return append(p,
		jump(unix.BPF_JGE, modern, 0, 1),
		ret(refuse(unix.ENOSYS)),
		ret(refuse(unix.EPERM)),
	)
}

// assemble is one line: it returns, or goes on behind its end with the number of
// the call in the accumulator.
func (c call) assemble() []unix.SockFilter {
	var tests []unix.SockFilter
	for i, m := range c.when {
		at := uint32(offArgument + 8*m.argument)
		if m.high {
			at += 4 // little-endian
		}
		left := 3 * (len(c.when) - 1 - i) // tests after this one
		tests = append(tests, load(at),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: m.mask},
			jump(unix.BPF_JEQ, m.value, 0, uint8(left+1)))
	}
	tests = append(tests, ret(c.do))
	if len(c.when) > 0 {
		tests = append(tests, load(offNumber))
	}
	return append([]unix.SockFilter{jump(unix.BPF_JEQ, c.number, 0, uint8(len(tests)))}, tests...)
}

func load(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

func jump(how uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | how, Jt: yes, Jf: no, K: k}
}

func ret(d decision) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(d)}
}

// install puts this thread, and what it executes, under a filter for ever. The
// descriptor that it returns is for answering what the filter asks. A flag
// keeps kernels before 5.16 from switching off the processor's speculation for it:
// a runner holds no secrets of others, and would lose speed.
func install(program []unix.SockFilter) (listener int, err error) {
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW|unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&p)))
	switch errno {
	case 0:
		return int(fd), nil
	case unix.EBUSY:
		return 0, fmt.Errorf("this container watches system calls itself and lets nobody else (%w): switch its interception of system calls off", errno)
	}
	return 0, fmt.Errorf("this kernel cannot confine a runner: no seccomp filter: %w (it needs CONFIG_SECCOMP_FILTER, Linux 5.5)", errno)
}
