// Package sandbox confines a runner: no network, no file but those it was handed,
// no other program, no power over other processes. Enter does it to the calling
// process and then becomes the runner; it is the inside of runner.Stage.
//
// Four layers, each of which holds without the others:
//
//   - seccomp: a list of the system calls that a runner may make (syscalls.go);
//     all others fail, and a few end the process.
//   - landlock: a list of the files and folders that it may open (landlock.go).
//     Where the kernel has none, a runner may read what its user may read, and
//     still write nothing.
//   - no_new_privs, no capabilities, limits of memory, open files and file sizes.
//   - a cgroup of its own where the agent was given one to divide (cgroup.go).
//
// A kernel without seccomp runs no runner through here: it would be a promise that
// nobody keeps. All other layers are used where they are, and Examine tells what
// is missing.
//
// # One execve
//
// The filter has to stand before the runner's first instruction, so the execve
// that starts the runner goes through it, and no later one may. A filter sees
// numbers, not names, and cannot count. It cannot tell one path from another, for
// an address can be mapped again; nor does it help that it can tell a descriptor:
// execveat takes an absolute path and looks at no descriptor. So the filter decides
// nothing: execve waits for an answer (SECCOMP_RET_USER_NOTIF) from a second
// thread of this process, which is outside of the filter. That thread lets the one
// execve through, and dies of it like all other threads of the process; the
// descriptor to answer by is closed. From then on nobody can be asked, and the
// kernel refuses execve with ENOSYS. Beside this, landlock allows to execute the
// program and its ELF loader alone.
//
// Of a script, Enter reads "#!" itself, to know which interpreter landlock has to
// allow. One that goes on to start another program (a shell wrapper, a pyenv shim)
// fails.
package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Access is what a runner may reach besides what every program needs (its own
// folder, the system's libraries, what the kernel says about the processor).
type Access struct {
	Read    []string `json:"read,omitempty"`    // files and folders, with all beneath; they have to exist
	Write   []string `json:"write,omitempty"`   // the same, for writing too; files up to 1 GiB each
	Devices []string `json:"devices,omitempty"` // device nodes, or folders of them; see DeviceNodes
}

// A Spec is all that Enter has to know.
type Spec struct {
	Memory int64  `json:"memory"` // bytes that the runner may allocate
	Access Access `json:"access"`
}

// Limits of every runner besides its memory.
const (
	maxFiles   = 64   // open at a time
	moreFiles  = 1024 // with devices: a CUDA context alone opens dozens
	maxWritten = 1 << 30
	maxTasks   = 4096 // threads and processes of the runner's user: far from the kernel's own limit of 32,768

	// noCore is the limit of a core dump, in bytes, that makes none. 0 would not do:
	// where dumps go to a program (Ubuntu's apport, systemd-coredump), the kernel
	// heeds no limit but this one, and a runner that crashes would first be copied
	// whole to that program (core(5), "Piping core dumps to a program").
	noCore = 1

	// reserved is address space above the memory limit: Go and malloc reserve a
	// lot of it (Go alone 1 GiB) that they never touch.
	reserved = 4 << 30
)

// files is how many descriptors the runner may have.
func (s Spec) files() int {
	if len(s.Access.Devices) > 0 {
		return moreFiles
	}
	return maxFiles
}

// written is the largest file that the runner may write, in bytes: none, where it
// has no folder to write in.
func (s Spec) written() uint64 {
	if len(s.Access.Write) > 0 || len(s.Access.Devices) > 0 { // a driver's memfd is a file too
		return maxWritten
	}
	return 0
}

// Enter confines the calling process and replaces it by the program argv[0], an
// absolute path. It returns only an error, after which the process is of no more
// use. The process has to be pure Go: cgo has threads that Enter cannot reach.
func Enter(s Spec, argv, env []string) error {
	// Execve ends all other threads and keeps what belongs to this one, so what
	// is set here holds for every thread of the runner.
	runtime.LockOSThread()
	p, err := find(argv, env)
	if err != nil {
		return err
	}
	rules, err := s.ruleset(p)
	if err != nil {
		return err
	}
	if err := onlyStandardFiles(); err != nil {
		return err
	}
	calls := filter(policy(s.wide(), os.Getpid()))
	// The limits hold for this program too, and may be too small for it, so they come
	// last.
	door := newPorter(s.limit)
	// Who starts this process asked for its death with its own; but that was asked
	// of its first thread, which need not be this one.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("die with the agent: %w", err)
	}
	if err := giveUp(); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	if err := rules.enforce(); err != nil {
		return err
	}
	listener, err := install(calls)
	if err != nil {
		return err
	}
	return p.execve(env, door, listener)
}

// limit sets limits, which can only be lowered.
func (s Spec) limit() error {
	for _, l := range []struct {
		name  string
		which int
		value uint64
	}{
		{"memory", unix.RLIMIT_DATA, uint64(s.Memory)},
		{"address space", unix.RLIMIT_AS, uint64(s.Memory) + s.reserved()},
		{"core dump", unix.RLIMIT_CORE, noCore},
		{"open files", unix.RLIMIT_NOFILE, uint64(s.files())},
		{"file size", unix.RLIMIT_FSIZE, s.written()},
	} {
		if err := unix.Prlimit(0, l.which, &unix.Rlimit{Cur: l.value, Max: l.value}, nil); err != nil {
			return fmt.Errorf("limit %s to %d: %w", l.name, l.value, err)
		}
	}
	// Processes it cannot make; threads it can, and without a cgroup this is what
	// keeps them from using up the numbers of the whole machine. It counts all
	// that the user runs, so it is far above what a person's session has, and a
	// lower one that is set already stays.
	var tasks unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NPROC, nil, &tasks); err != nil {
		return fmt.Errorf("read the limit of threads: %w", err)
	}
	tasks.Max = min(tasks.Max, maxTasks)
	tasks.Cur = min(tasks.Cur, tasks.Max)
	if err := unix.Prlimit(0, unix.RLIMIT_NPROC, &tasks, nil); err != nil {
		return fmt.Errorf("limit threads to %d: %w", tasks.Max, err)
	}
	return nil
}

// giveUp gives up all capabilities and the hope for new ones: with no_new_privs,
// execve gives nothing back, not even to root. Where there are no capabilities, a
// service manager may have forbidden to set them.
func giveUp() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has, none [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err != nil || has == none {
		return err
	}
	return unix.Capset(&header, &none[0])
}

// reserved is address space above the memory limit. CUDA maps the memory of all
// its devices at once, to have one address for each byte: hundreds of GiB.
func (s Spec) reserved() uint64 {
	if len(s.Access.Devices) > 0 {
		return 1 << 46
	}
	return reserved
}

// onlyStandardFiles has execve close all descriptors but 0, 1, 2 and the socket.
func onlyStandardFiles() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, f := range open {
		if n, err := strconv.Atoi(f.Name()); err == nil && n > 3 {
			unix.CloseOnExec(n)
		}
	}
	return nil
}
