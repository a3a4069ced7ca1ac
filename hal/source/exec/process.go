package exec

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source"
)

const (
	graceful = 2 * time.Second        // between asking a program to end and killing it
	stubborn = 5 * time.Second        // for one that was killed: it may be inside a driver
	straggle = 300 * time.Millisecond // what left the group may still hold stdout and stderr
	pipeSize = 1 << 20                // bytes, the most that anybody may have; fewer changes of process a picture
)

// A cutter cuts the next picture out of what a program writes.
type cutter interface {
	Next(memory []byte) (picture []byte, began time.Time, err error)
}

// A process is a running program with all that it starts: a process group.
type process struct {
	name string
	cmd  *osexec.Cmd
	out  *os.File
	box  *source.Box
	said *said

	read  chan struct{} // closed when nothing more is read
	ended chan struct{} // closed when the program is gone and reaped

	mutex  sync.Mutex
	reaped bool  // its group's number may be another's
	cause  error // why we ended it; nil: we did not
}

func start(path string, c Config, cut func(*bufio.Reader) cutter, box *source.Box) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	p := &process{
		name: c.Name, out: r, box: box, said: newSaid(c.Secrets, c.Log),
		read: make(chan struct{}), ended: make(chan struct{}),
	}
	_ = p.control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) }) // it works without
	p.cmd = osexec.Command(path, c.Program[1:]...)
	p.cmd.Args[0] = c.Program[0]
	p.cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LANG=C.UTF-8"}, c.Env...)
	p.cmd.Dir = "/"
	if c.Input != "" {
		p.cmd.Stdin = strings.NewReader(c.Input)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, p.said
	p.cmd.WaitDelay = straggle
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		r.Close()
		return nil, err
	}
	go p.readAll(cut(bufio.NewReaderSize(r, 64<<10)), &pace{fps: c.FPS})
	go p.wait()
	return p, nil
}

func (p *process) control(f func(fd uintptr)) error {
	c, err := p.out.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(f)
}

// readAll puts pictures into the box until the program writes no more, or what it
// writes makes no sense.
func (p *process) readAll(cut cutter, pace *pace) {
	defer close(p.read)
	var memory []byte
	for {
		picture, began, err := cut.Next(memory)
		if err != nil && !errors.Is(err, hal.ErrBadFrame) {
			if errors.As(err, new(senseless)) {
				p.end(err)
			}
			return
		}
		if err == nil && pace.early(began) {
			memory = picture
			continue
		}
		memory = p.box.Put(source.Item{Data: picture, At: began, Err: err})
	}
}

// A pace lets through so many pictures a second.
type pace struct {
	fps float64 // 0: all
	due time.Time
}

// early says whether a picture comes too soon. By half a period it may: else those of
// a program with the same rate would be dropped as their times shake.
func (p *pace) early(at time.Time) bool {
	if p.fps == 0 {
		return false
	}
	period := period(p.fps)
	if p.due.Sub(at) > period/2 {
		return true
	}
	if p.due = p.due.Add(period); p.due.Before(at) {
		p.due = at.Add(period)
	}
	return false
}

// senseless is output that is not of the format that was promised.
type senseless struct{ error }

// wait waits for the end of the program. What it started ends with it.
func (p *process) wait() {
	defer close(p.ended)
	// The program stays a zombie meanwhile, so that its group's number is not
	// another's.
	for unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.signal(syscall.SIGKILL)
	_ = p.out.SetReadDeadline(time.Now().Add(straggle))
	<-p.read
	p.out.Close()
	p.mutex.Lock()
	_ = p.cmd.Wait() // how it ended is in ProcessState
	p.reaped = true
	cause := p.cause
	p.mutex.Unlock()
	p.said.flush()
	if cause == nil {
		cause = errors.New(how(p.cmd.ProcessState))
	}
	text := fmt.Sprintf("%s %v", p.name, cause)
	if line := p.said.last(); line != "" {
		text += ": " + line
	}
	p.box.End(&hal.Error{Code: hal.CodeSourceLost, Text: text})
}

// how says how a program ended.
func how(s *os.ProcessState) string {
	status, _ := s.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return "was ended by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("has ended with status %d", status.ExitStatus())
}

// signal sends a signal to the whole group while there is one.
func (p *process) signal(s syscall.Signal) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.reaped {
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// end kills for a reason.
func (p *process) end(cause error) {
	p.mutex.Lock()
	p.cause = cause
	p.mutex.Unlock()
	p.signal(syscall.SIGKILL)
}

func (p *process) kill() { p.signal(syscall.SIGKILL) }

// close ends the program and waits for that.
func (p *process) close() error {
	p.signal(syscall.SIGTERM)
	if p.over(graceful) {
		return nil
	}
	p.kill()
	if p.over(stubborn) {
		return nil
	}
	return &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("%s was killed and does not end: it waits inside a driver; restart the board", p.name)}
}

func (p *process) over(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.ended:
		return true
	case <-t.C:
		return false
	}
}
