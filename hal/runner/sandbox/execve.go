package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A question is struct seccomp_notif: a system call that waits for an answer.
type question struct {
	id           uint64
	pid, flags   uint32
	number, arch uint32
	instruction  uint64
	arguments    [6]uint64
}

// An answer is struct seccomp_notif_resp.
type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// A porter is a thread outside of the filter. The filter stops the execve of the
// thread inside and asks the porter, who lets it through and ends with it; see the
// package's comment.
type porter struct {
	listener chan int   // takes what install gives
	failed   chan error // what kept the porter from letting it through
}

// newPorter starts the thread. last is done at the last moment, while the execve
// already waits.
func newPorter(last func() error) porter {
	p := porter{make(chan int), make(chan error, 1)}
	there := make(chan struct{})
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with its goroutine
		close(there)
		listener := <-p.listener
		if err := letThrough(listener, last); err != nil {
			p.failed <- err
			unix.Close(listener) // whoever waits hears ENOSYS
		}
	}()
	<-there // a thread that was started later would be inside
	return p
}

// letThrough waits for the one execve, does what is last and lets it through.
func letThrough(listener int, last func() error) error {
	for done := false; ; {
		var q question
		err := control(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&q))
		if again(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("hear of its execve: %w", err)
		}
		if !done {
			if err := last(); err != nil {
				return err
			}
			done = true
		}
		a := answer{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if err := control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)); !again(err) {
			if err != nil {
				err = fmt.Errorf("let its execve through: %w (it needs Linux 5.5)", err)
			}
			return err
		}
	}
}

// again says whether a signal came between: Go's runtime sends them to its threads,
// and a call that was interrupted asks anew.
func again(err error) bool { return errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) }

func control(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// execve becomes the program, through the porter, who has the filter's listener
// from here on. It returns only an error.
func (p *program) execve(env []string, door porter, listener int) error {
	path, err := unix.BytePtrFromString(p.path)
	if err != nil {
		return err
	}
	args, err := list(p.argv)
	if err != nil {
		return err
	}
	environ, err := list(env)
	if err != nil {
		return err
	}
	door.listener <- listener
	_, _, errno := unix.Syscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(args)), uintptr(unsafe.Pointer(environ)))
	select {
	case err := <-door.failed:
		return err
	default:
		return fmt.Errorf("execute %s: %w", p.path, errno)
	}
}

// list is words as execve wants them.
func list(words []string) (**byte, error) {
	p := make([]*byte, len(words)+1)
	for i, w := range words {
		var err error
		if p[i], err = unix.BytePtrFromString(w); err != nil {
			return nil, fmt.Errorf("argument %q: %w", w, err)
		}
	}
	return &p[0], nil
}
