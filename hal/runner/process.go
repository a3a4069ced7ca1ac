package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

const (
	// graceful is how long a runner has to end by itself once its socket is closed.
	graceful = 500 * time.Millisecond
	// stuck is how long one that was killed is waited for. Only a driver takes longer,
	// one that holds it in the kernel: nothing ends it but that driver or a restart.
	stuck = 5 * time.Second
)

// idle is the phase of a runner that died while nobody waited for it.
const idle = "between runs"

// A process is one runner and the socket to it. One goroutine at a time talks to
// it, the one whose turn it is; kill may be called by any.
type process struct {
	name    string
	child   child
	fd      int // our end of the socket; blocking, so that a run costs no trip through the poller
	said    *stderr
	welcome proto.Welcome

	device string // that it holds for all; "" where it has one session
	turns  turns  // whose request is under way

	ended chan struct{} // closed when the process is gone
	known chan struct{} // closed when how is known as well: that may come a moment later
	how   ending        // set before known is closed
	in    []byte        // of the packet received last, in its turn
	count uint64        // requests sent, in their turns

	mu     sync.Mutex
	phase  string     // what it is doing: "start", "AllocateTensors", "run"
	cause  *hal.Error // why we killed it, if we did
	closed bool
	users  int    // sessions; Probe counts as one
	ids    uint32 // of sessions, the last one
	guilty uint32 // the session in whose turn it died; 0: it has not, or in nobody's
}

// startProcess starts the runner program through the stage, as an instance of
// systemd's unit or in a cgroup of its own where there is a group to divide.
func startProcess(ctx context.Context, c Config, groups *sandbox.Groups, a hal.Accelerator, memory int64) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("make a socket for runner %s: %v", c.Name, err), Err: err}
	}
	theirs := os.NewFile(uintptr(pair[1]), "runner")
	defer theirs.Close()
	p := &process{
		name: c.Name, fd: pair[0], said: &stderr{log: c.Logger.With().Str("runner", c.Name).Logger()},
		ended: make(chan struct{}), known: make(chan struct{}), in: make([]byte, proto.MaxPacket), users: 1,
	}
	if p.child, err = c.begin(ctx, sandbox.Spec{Memory: memory, Access: c.reach(a)}, theirs, p.said, groups); err != nil {
		unix.Close(p.fd)
		return nil, err
	}
	// Waited for by close, through ended.
	go func() {
		p.child.wait()
		close(p.ended)
		p.how = p.child.end()
		close(p.known)
	}()
	return p, nil
}

// begin starts the process of a runner. Where systemd would start it and does not,
// the agent does.
func (c Config) begin(ctx context.Context, spec sandbox.Spec, theirs *os.File, said *stderr, groups *sandbox.Groups) (child, error) {
	argv := []string{c.Program}
	if len(c.Stage) > 0 {
		if c.Units != nil {
			i, err := c.Units.start(ctx, order{Engine: c.Name, Spec: spec, Env: c.Env}, theirs, said)
			if err == nil {
				return i, nil
			}
			if !errors.Is(err, errNoUnit) {
				return nil, err
			}
			c.Units.complain(err)
		}
		var err error
		if argv, err = c.stageArgs(spec); err != nil {
			return nil, err
		}
	}
	s, err := spawn(c, argv, theirs, said, groups, spec.Memory)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// reach is what a runner for an accelerator may reach: that accelerator's device
// nodes and libraries, or those of all where it is to find out which there are.
func (c Config) reach(a hal.Accelerator) sandbox.Access {
	var nodes []hal.Accelerator
	for _, known := range c.Accelerators {
		if a == hal.Auto || a == known {
			nodes = append(nodes, known)
		}
	}
	access := sandbox.Access{Read: slices.Clone(c.Access.Read), Write: slices.Clone(c.Access.Write),
		Devices: slices.Concat(c.Access.Devices, sandbox.DeviceNodes(os.DirFS("/"), nodes))}
	for known, more := range c.More {
		if a == hal.Auto || a == known {
			access.Read = append(access.Read, more.Read...)
			access.Write = append(access.Write, more.Write...)
			access.Devices = append(access.Devices, more.Devices...)
		}
	}
	return access
}

// hello agrees on the version.
func (p *process) hello(ctx context.Context) error {
	if err := p.call(ctx, "start", proto.Header{Kind: proto.KindHello}, proto.Hello{Versions: []int{proto.Version}}, -1, &p.welcome, nil); err != nil {
		return err
	}
	if p.welcome.Version != proto.Version {
		return p.broken(0, fmt.Errorf("it speaks protocol %d, this agent %d: install both from one release", p.welcome.Version, proto.Version))
	}
	p.welcome.Engine, p.welcome.Runtime = proto.OneLine(p.welcome.Engine), proto.OneLine(p.welcome.Runtime)
	return nil
}

// call sends a JSON request, with a descriptor unless it is -1, and reads the
// answer into v. The runner is killed when ctx ends before that. step (may be nil) is
// told of its notes.
func (p *process) call(ctx context.Context, phase string, h proto.Header, body any, fd int, v any, step func(string)) error {
	p.enter(phase)
	inTime := context.AfterFunc(ctx, func() { p.late(ctx) })
	err := p.ask(h, body, fd, v, step)
	if !inTime() {
		return p.died(h.Session) // even if there was an answer: it is killed by now
	}
	return err
}

// ask is call without an end.
func (p *process) ask(h proto.Header, body any, fd int, v any, step func(string)) error {
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
		return p.wasDead(h.Session)
	}
	for {
		got, answer, err := p.receive(h)
		switch {
		case err != nil:
			return p.lost(h.Session, err)
		case got == proto.KindNote:
			note := proto.OneLine(string(answer))
			p.enter(note)
			if step != nil {
				step(note)
			}
		case v == nil:
			return nil
		default:
			if err := proto.Unpack(answer, v); err != nil {
				return p.broken(h.Session, err)
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
		code := knownCode(f.Code)
		if code == hal.CodeEngine && h.Kind == proto.KindRun {
			code = hal.CodeInvoke // whatever it is, that run failed
		}
		return 0, nil, &hal.Error{Code: code, Text: proto.OneLine(f.Text)}
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
func (p *process) lost(session uint32, err error) error {
	var refused *hal.Error
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, errGone):
		return p.died(session)
	}
	return p.broken(session, err)
}

// broken ends a runner that does not keep to the protocol.
func (p *process) broken(session uint32, err error) error {
	p.kill(&hal.Error{Code: blame(session), Text: fmt.Sprintf("runner %s broke the protocol: %v", p.name, err), Err: hal.ErrLost})
	return p.died(session)
}

// blame is the code for a runner that is at fault and has not died of it. What it does
// in a session counts against what it runs there, as a crash; else it is the program's.
func blame(session uint32) hal.Code {
	if session == 0 {
		return hal.CodeEngine
	}
	return hal.CodeCrash
}

// wasDead is died for a request that could not be sent any more: the runner died
// before it, and under no session that is known.
func (p *process) wasDead(session uint32) error {
	if session == 0 {
		return p.died(0)
	}
	p.enter(idle)
	return p.died(0)
}

// errOther tells a session whose runner died under another.
var errOther = errors.New("another model")

// died waits for the end of a runner whose socket is gone and tells the session
// whose turn it is why. The first to ask is the one that it died under; the others
// hear that they are not to blame.
func (p *process) died(session uint32) error {
	impatience := &hal.Error{Code: blame(session), Text: fmt.Sprintf("runner %s closed its socket during %s", p.name, p.doing())}
	if !p.finish(impatience) {
		return &hal.Error{Code: hal.CodeEngine, Err: hal.ErrLost,
			Text: fmt.Sprintf("runner %s cannot be ended: a driver holds it in %s; restart the board if it stays so", p.name, p.doing())}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.guilty == 0 {
		p.guilty = session
	}
	if p.guilty != session {
		return &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("runner %s ended under another model on %s", p.name, p.device), Err: errors.Join(hal.ErrLost, errOther)}
	}
	if p.cause != nil && p.cause != impatience { // it was ending already
		return p.killedFor()
	}
	p.mu.Unlock()
	<-p.known
	p.mu.Lock()
	// A killed runner may take longer to go than we wait, and then looks as if we had killed it.
	if before := p.how.starved || !p.how.unknown && !p.how.killed(); p.cause != nil && !before {
		return p.killedFor()
	}
	return verdict(p.name, p.phase, p.how, p.said.last())
}

// killedFor is why we killed it. The mutex is held.
func (p *process) killedFor() error {
	return &hal.Error{Code: p.cause.Code, Text: p.cause.Text, Err: errors.Join(hal.ErrLost, p.cause.Err)}
}

// verdict says why a runner that we did not kill has ended.
func verdict(name, phase string, end ending, said string) *hal.Error {
	how := fmt.Sprintf("ended with status %d", end.status)
	switch {
	case end.unknown:
		how = "ended, systemd did not say how,"
	case end.signal != 0:
		how = "died by " + unix.SignalName(end.signal)
	}
	e := &hal.Error{Code: hal.CodeCrash, Text: fmt.Sprintf("runner %s %s in %s", name, how, phase), Err: hal.ErrLost}
	if phase == "start" {
		e.Code = hal.CodeEngine
	}
	if phase == "start" && said == "" && end.signal == syscall.SIGSEGV {
		e.Code = hal.CodeMemory // how the kernel ends a program whose own data is past RLIMIT_DATA
		e.Text += ": the program itself is most likely larger than its memory limit"
	}
	if end.signal == syscall.SIGSYS {
		e.Text += ": it tried what no runner may (to trace a process, to mount, to load a module)"
	}
	if end.byMemory() {
		e.Code = hal.CodeMemory
		e.Text += ": killed from outside, most often for want of memory"
	}
	if line := outOfMemory(said); line != "" {
		e.Code = hal.CodeMemory
		e.Text += ": past its memory limit: " + line
	} else if line := reason(said); line != "" && (end.signal == 0 || phase == "start") {
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

// kill ends the runner at once, and whoever reads from it. The first cause stays.
func (p *process) kill(cause *hal.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over() {
		return
	}
	if p.cause == nil {
		p.cause = cause
	}
	_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
	p.child.kill()
}

// finish waits for the end of a runner whose socket is closed, and kills it for a
// cause when that takes too long. It is false for one that not even that has ended.
func (p *process) finish(cause *hal.Error) bool {
	if p.wait(graceful) {
		return true
	}
	p.kill(cause)
	return p.wait(stuck)
}

// wait says whether the process has ended within a time.
func (p *process) wait(d time.Duration) bool {
	if p.over() {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.ended:
		return true
	case <-t.C:
		return false
	}
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
		p.wait(graceful + stuck)
		return
	}
	_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
	if !p.finish(&hal.Error{Code: hal.CodeEngine, Text: "runner " + p.name + " did not end when its socket was closed"}) {
		p.said.log.Error().Int("pid", p.child.pid()).Msg("the runner cannot be ended: a driver holds it in the kernel; restart the board if it stays so")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = unix.Close(p.fd)
	p.fd = -1 // kill may still be called
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
