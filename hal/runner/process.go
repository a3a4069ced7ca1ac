package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// graceful is how long a runner has to end by itself once its socket is closed.
const graceful = 500 * time.Millisecond

// A process is one runner and the socket to it. One goroutine at a time talks to
// it; kill may be called by any.
type process struct {
	name    string
	cmd     *exec.Cmd
	fd      int // our end of the socket; blocking, so that a run costs no trip through the poller
	said    *stderr
	welcome proto.Welcome

	ended chan struct{} // closed when the process is gone and reaped
	in    []byte        // of the packet received last
	count uint64        // requests sent

	mu     sync.Mutex
	phase  string     // what it is doing: "start", "AllocateTensors", "run"
	cause  *hal.Error // why we killed it, if we did
	closed bool
}

// startProcess starts the runner program through the stage.
func startProcess(c Config, memory int64) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("make a socket for runner %s: %v", c.Name, err), Err: err}
	}
	theirs := os.NewFile(uintptr(pair[1]), "runner")
	defer theirs.Close()
	argv := []string{c.Program}
	if len(c.Stage) > 0 {
		argv = append(append(append([]string(nil), c.Stage...), stageFlags(memory)...), "--", c.Program)
	}
	p := &process{
		name: c.Name, fd: pair[0], said: &stderr{log: c.Logger.With().Str("runner", c.Name).Logger()},
		ended: make(chan struct{}), in: make([]byte, proto.MaxPacket),
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append([]string{}, c.Env...)
	p.cmd.Dir = "/"
	p.cmd.Stderr = p.said
	p.cmd.ExtraFiles = []*os.File{theirs} // becomes descriptor 3
	p.cmd.WaitDelay = time.Second         // a grandchild may hold stderr
	// The runner ends with its socket; this is for one that does not.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		unix.Close(p.fd)
		return nil, &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("start %s: %v", argv[0], err), Err: err}
	}
	// Waited for by close, through ended.
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	return p, nil
}

// hello agrees on the version.
func (p *process) hello(ctx context.Context) error {
	if err := p.call(ctx, "start", proto.Header{Kind: proto.KindHello}, proto.Hello{Versions: []int{proto.Version}}, -1, &p.welcome); err != nil {
		return err
	}
	if p.welcome.Version != proto.Version {
		return p.broken(fmt.Errorf("it speaks protocol %d, this agent %d: install both from one release", p.welcome.Version, proto.Version))
	}
	p.welcome.Engine, p.welcome.Runtime = proto.OneLine(p.welcome.Engine), proto.OneLine(p.welcome.Runtime)
	return nil
}

// call sends a JSON request, with a descriptor unless it is -1, and reads the
// answer into v. The runner is killed when ctx ends before that.
func (p *process) call(ctx context.Context, phase string, h proto.Header, body any, fd int, v any) error {
	p.enter(phase)
	defer context.AfterFunc(ctx, func() { p.late(ctx) })()
	h.Request = p.next()
	packet, err := proto.Pack(h, body)
	if err != nil {
		return err
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	if err := p.send(packet, oob); err != nil {
		return p.died()
	}
	for {
		got, answer, err := p.receive(h)
		switch {
		case err != nil:
			return p.lost(err)
		case got == proto.KindNote:
			p.enter(proto.OneLine(string(answer)))
		case v == nil:
			return nil
		default:
			if err := proto.Unpack(answer, v); err != nil {
				return p.broken(err)
			}
			return nil
		}
	}
}

// enter says what the runner does from now on.
func (p *process) enter(phase string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = phase
}

func (p *process) doing() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase
}

// late kills a runner whose caller does not wait any longer.
func (p *process) late(ctx context.Context) {
	p.kill(&hal.Error{Code: hal.CodeTimeout, Text: fmt.Sprintf("runner %s was killed: %s took too long (%v)", p.name, p.doing(), ctx.Err()), Err: ctx.Err()})
}

// next is the number of the next request.
func (p *process) next() uint64 { p.count++; return p.count }

// errGone means that the socket has no other end any more.
var errGone = errors.New("runner is gone")

// receive reads one packet that belongs to request h: its answer or a note. A
// runner that says Failed makes a hal.Error; one that is gone errGone; all other
// errors are breaches of the protocol.
func (p *process) receive(h proto.Header) (proto.Kind, []byte, error) {
	n, err := p.read()
	if err != nil || n == 0 {
		return 0, nil, errGone
	}
	got, body, err := proto.Parse(p.in[:n])
	if err != nil {
		return 0, nil, err
	}
	if got.Request != h.Request || got.Session != h.Session {
		return 0, nil, fmt.Errorf("answer to request %d of session %d, expected %d of %d", got.Request, got.Session, h.Request, h.Session)
	}
	switch got.Kind {
	case h.Kind | proto.Answer:
		return got.Kind, body, nil
	case proto.KindNote:
		if h.Kind != proto.KindRun {
			return got.Kind, body, nil
		}
	case proto.KindFailed:
		var f proto.Failed
		if err := proto.Unpack(body, &f); err != nil {
			return 0, nil, err
		}
		return 0, nil, &hal.Error{Code: knownCode(f.Code), Text: proto.OneLine(f.Text)}
	}
	return 0, nil, fmt.Errorf("packet of kind %#x as an answer to %d", uint16(got.Kind), h.Kind)
}

// knownCode keeps a runner from making up codes.
func knownCode(c hal.Code) hal.Code {
	switch c {
	case hal.CodeModelEmpty, hal.CodeModelFormat, hal.CodeModelShort, hal.CodeOp, hal.CodeRuntime, hal.CodeAccel,
		hal.CodeTensor, hal.CodeShape, hal.CodeMemory, hal.CodeInvoke, hal.CodeEngine:
		return c
	}
	return hal.CodeEngine
}

// lost turns an error of receive into the caller's: what the runner refused is
// passed on, what ended it is explained.
func (p *process) lost(err error) error {
	var refused *hal.Error
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, errGone):
		return p.died()
	}
	return p.broken(err)
}

// broken ends a runner that does not keep to the protocol.
func (p *process) broken(err error) error {
	p.kill(&hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("runner %s broke the protocol: %v", p.name, err), Err: hal.ErrLost})
	return p.died()
}

// died waits for the end of a runner whose socket is gone and says why it ended.
func (p *process) died() error {
	select {
	case <-p.ended:
	case <-time.After(graceful):
		p.kill(&hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("runner %s closed its socket during %s", p.name, p.doing())})
		<-p.ended
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil {
		return &hal.Error{Code: p.cause.Code, Text: p.cause.Text, Err: errors.Join(hal.ErrLost, p.cause.Err)}
	}
	return verdict(p.name, p.phase, p.cmd.ProcessState, p.said.last())
}

// verdict says why a runner that we did not kill has ended.
func verdict(name, phase string, state *os.ProcessState, said string) *hal.Error {
	status, _ := state.Sys().(syscall.WaitStatus)
	how := fmt.Sprintf("ended with status %d", status.ExitStatus())
	if status.Signaled() {
		how = "died by " + unix.SignalName(status.Signal())
	}
	e := &hal.Error{Code: hal.CodeCrash, Text: fmt.Sprintf("runner %s %s in %s", name, how, phase), Err: hal.ErrLost}
	if phase == "start" {
		e.Code = hal.CodeEngine
	}
	if status.Signaled() && status.Signal() == syscall.SIGKILL {
		e.Code = hal.CodeMemory // nobody but the kernel's memory killer does that
		e.Text += ": killed from outside, most often for want of memory"
	}
	if line := outOfMemory(said); line != "" {
		e.Code = hal.CodeMemory
		e.Text += ": past its memory limit: " + line
	} else if line := reason(said); line != "" && (!status.Signaled() || phase == "start") {
		e.Text += ": " + line
	}
	return e
}

// outOfMemory is the line in which a runner says that it got no memory.
func outOfMemory(said string) string {
	return lineWith(said, "bad_alloc", "out of memory", "cannot allocate memory", "failed to allocate",
		"failed to reserve", "resource temporarily unavailable")
}

// reason is the line in which a runner says why it ends: the first one of a Go
// trace, else the last.
func reason(said string) string {
	if line := lineWith(said, "fatal error: ", "panic: "); line != "" {
		return line
	}
	said = strings.TrimSpace(said)
	return proto.OneLine(said[strings.LastIndexByte(said, '\n')+1:])
}

// lineWith is the first line with one of the signs in it, in any case.
func lineWith(said string, signs ...string) string {
	for line := range strings.Lines(said) {
		lower := strings.ToLower(line)
		for _, sign := range signs {
			if strings.Contains(lower, sign) {
				return proto.OneLine(line)
			}
		}
	}
	return ""
}

// kill ends the runner at once. The first cause stays.
func (p *process) kill(cause *hal.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over() {
		return
	}
	if p.cause == nil {
		p.cause = cause
	}
	_ = p.cmd.Process.Kill()
}

// over says whether the process has ended.
func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// close ends the runner and waits for its end. It has to be called once the
// process is not talked to any more; twice is allowed.
func (p *process) close() {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.mu.Unlock()
	if !first {
		<-p.ended
		return
	}
	_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
	select {
	case <-p.ended:
	case <-time.After(graceful):
		p.kill(&hal.Error{Code: hal.CodeEngine, Text: "runner " + p.name + " did not end when its socket was closed"})
		<-p.ended
	}
	_ = unix.Close(p.fd)
}

func (p *process) send(packet, oob []byte) error {
	for {
		_, err := unix.SendmsgN(p.fd, packet, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// read reads a packet into p.in. A peer that died with a request unread makes
// ECONNRESET come first and what it had sent afterwards.
func (p *process) read() (int, error) {
	reset := false
	for {
		n, err := unix.Read(p.fd, p.in)
		if err == unix.ECONNRESET && !reset {
			reset = true
			continue
		}
		if err != unix.EINTR {
			return n, err
		}
	}
}

// stageFlags are the flags of Stage for a runner that may use so much memory.
func stageFlags(memory int64) []string {
	return []string{"--memory=" + strconv.FormatInt(memory, 10)}
}
