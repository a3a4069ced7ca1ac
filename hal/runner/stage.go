package runner

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Limits of every runner besides its memory.
const (
	maxFiles   = 64
	maxWritten = 0 // bytes of a file it writes: a runner writes none

	// reserved is address space above the memory limit: Go and malloc reserve a
	// lot of it (Go alone 1 GiB) that they never touch.
	reserved = 4 << 30
)

// Stage is the main of the program between an agent and a runner: it limits
// itself, and then becomes the program behind "--". args are those after the
// stage's own name: --memory=BYTES -- PROGRAM [ARG…]. It returns only an error.
//
// It has to be a pure-Go program: a cgo one has threads that it cannot reach.
func Stage(args []string) error {
	flags := flag.NewFlagSet("stage", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	memory := flags.Uint64("memory", 0, "bytes it may allocate")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	program := flags.Args()
	if len(program) == 0 || *memory == 0 {
		return fmt.Errorf("stage: want --memory=BYTES -- PROGRAM [ARG…], got %q", args)
	}
	// Execve ends all other threads and keeps what belongs to this one, so what
	// is set here holds for every thread of the runner.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("stage: give up new privileges: %w", err)
	}
	for _, l := range []struct {
		name  string
		which int
		value uint64
	}{
		{"memory", unix.RLIMIT_DATA, *memory},
		{"address space", unix.RLIMIT_AS, *memory + reserved},
		{"core dump", unix.RLIMIT_CORE, 0},
		{"open files", unix.RLIMIT_NOFILE, maxFiles},
		{"file size", unix.RLIMIT_FSIZE, maxWritten},
	} {
		if err := unix.Prlimit(0, l.which, &unix.Rlimit{Cur: l.value, Max: l.value}, nil); err != nil {
			return fmt.Errorf("stage: limit %s to %d: %w", l.name, l.value, err)
		}
	}
	if err := unix.Exec(program[0], program, os.Environ()); err != nil {
		return fmt.Errorf("stage: execute %s: %w", program[0], err)
	}
	return nil
}
