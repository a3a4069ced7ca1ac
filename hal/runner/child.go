package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

// A child is the process of a runner: spawned by the agent, or an instance of
// systemd's unit.
type child interface {
	pid() int
	kill()         // at once; nothing happens to one that is gone
	wait()         // until it is gone, and what it was given can be given to another
	end() ending   // how it ended; after wait, and it may take a moment longer
	memory() int64 // what it takes now, bytes; 0: not known. Not after wait
}

// An ending is how a process ended.
type ending struct {
	unknown bool           // nobody can say; then status and signal are not set
	status  int            // its exit status, where no signal ended it
	signal  syscall.Signal // what ended it, 0: nothing did
	starved bool           // the kernel says that it killed it for want of memory
}

// killed says whether it was by SIGKILL.
func (e ending) killed() bool { return e.signal == syscall.SIGKILL }

// byMemory says whether it was most likely the kernel, for want of memory: nobody
// else sends SIGKILL.
func (e ending) byMemory() bool { return e.killed() || e.starved }

// A spawned is a runner that is a child process of the agent.
type spawned struct {
	cmd     *exec.Cmd
	group   *sandbox.Group
	starved bool
}

// spawn starts argv with the socket theirs as descriptor 3, in a cgroup of its own
// where there is a group to divide.
func spawn(c Config, argv []string, theirs *os.File, said *stderr, groups *sandbox.Groups, memory int64) (*spawned, error) {
	s := &spawned{cmd: exec.Command(argv[0], argv[1:]...)}
	s.cmd.Env = append([]string{}, c.Env...)
	s.cmd.Dir = "/"
	s.cmd.Stderr = said
	s.cmd.ExtraFiles = []*os.File{theirs} // becomes descriptor 3
	s.cmd.WaitDelay = time.Second         // a grandchild may hold stderr
	// The runner ends with its socket; this is for one that does not.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	s.group = groups.New(c.Name, memory)
	if err := s.cmd.Start(); err != nil {
		s.group.End()
		return nil, &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("start %s: %v", argv[0], err), Err: err}
	}
	if err := s.group.Take(s.pid()); err != nil && !errors.Is(err, unix.ESRCH) {
		said.log.Warn().Err(err).Msg("the runner has no cgroup of its own: its limits are those of a process")
	}
	return s, nil
}

func (s *spawned) pid() int { return s.cmd.Process.Pid }

func (s *spawned) kill() { _ = s.cmd.Process.Kill() }

// wait waits for the end of the process and of all that it may have started. As
// long as it is dead and not waited for, its number is its group's alone.
func (s *spawned) wait() {
	for unix.Waitid(unix.P_PID, s.pid(), nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = unix.Kill(-s.pid(), unix.SIGKILL)
	_ = s.cmd.Wait()
	s.starved = s.group.Starved()
	s.group.End()
}

func (s *spawned) end() ending {
	status, _ := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return ending{signal: status.Signal(), starved: s.starved}
	}
	return ending{status: status.ExitStatus(), starved: s.starved}
}

func (s *spawned) memory() int64 { return pss(os.DirFS("/"), s.pid()) }
