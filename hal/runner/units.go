package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

const (
	// greeting is how long systemd may take to start an instance, and that to answer.
	greeting = 10 * time.Second
	// telling is how long the report of an end is waited for once the process is gone:
	// systemd starts a program for it, which on a slow board that is busy takes seconds.
	telling = 10 * time.Second
	// saying is how long after its end what a runner said may still come.
	saying = time.Second
)

// Units starts runners as instances of covey-runner@.service: systemd makes one for
// each connection to the socket of covey-runner.socket. What is in that unit holds
// for them, and not what is in the agent's.
//
// The connection is for starting alone. Systemd holds its other end as long as the
// instance lives, so it would tell nobody that a runner is gone; the runner gets a
// socket of the agent's own, as one that is spawned.
type Units struct {
	socket  string
	log     zerolog.Logger
	reports *reports
	telling time.Duration
	once    sync.Once // for complain
}

// NewUnits starts instances by the socket at a path, and hears how they ended at
// another, which it makes: TellEnd's.
func NewUnits(socket, ended string, log zerolog.Logger) (*Units, error) {
	r, err := listen(ended, log)
	if err != nil {
		return nil, err
	}
	return &Units{socket: socket, log: log, reports: r, telling: telling}, nil
}

// Close stops hearing how instances ended.
func (u *Units) Close() error { return u.reports.close() }

// errNoUnit means that systemd has started nothing.
var errNoUnit = errors.New("systemd starts no runner")

// complain says once that runners are started without systemd.
func (u *Units) complain(err error) {
	u.once.Do(func() {
		u.log.Warn().Err(err).Msg("systemd starts no runners: the agent does, which may not reach accelerators; see systemctl status covey-runner.socket")
	})
}

// An instance is a runner that systemd has started.
type instance struct {
	units      *Units
	number     int    // of the process
	invocation string // of the unit, systemd's
	group      string // folder of its cgroup, "" if it has none; as in io/fs
	told       chan ending
	copied     chan struct{} // closed when all that it said was read
	starved    bool          // as its cgroup says; after wait

	mu    sync.Mutex
	pidfd int // -1 once it is gone
}

// start starts an instance that becomes the runner of an order, with theirs as its
// socket. It is errNoUnit where systemd has started nothing.
func (u *Units) start(ctx context.Context, o order, theirs *os.File, said *stderr) (_ *instance, err error) {
	line, err := dial(u.socket)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to %s: %v", errNoUnit, u.socket, err)
	}
	defer unix.Close(line)
	stop := context.AfterFunc(ctx, func() { _ = unix.Shutdown(line, unix.SHUT_RDWR) })
	defer stop()
	i := &instance{units: u, pidfd: -1, copied: make(chan struct{})}
	journal, err := i.meet(line)
	if err == nil {
		i.told = u.reports.expect(i.invocation)
		err = i.instruct(line, o, theirs, said, journal)
	}
	if err == nil {
		return i, nil
	}
	if journal != nil {
		journal.Close()
	}
	i.abandon()
	if ctx.Err() != nil {
		return nil, &hal.Error{Code: hal.CodeTimeout, Text: fmt.Sprintf("runner %s: start took too long (%v)", o.Engine, ctx.Err()), Err: ctx.Err()}
	}
	return nil, err
}

// dial connects to the socket of the unit. Who answers there is named by the kernel.
func dial(socket string) (int, error) {
	line, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	patience := unix.NsecToTimeval(greeting.Nanoseconds())
	for _, step := range []func() error{
		func() error { return unix.SetsockoptInt(line, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) },
		func() error { return unix.SetsockoptTimeval(line, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience) },
		func() error { return unix.SetsockoptTimeval(line, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience) },
		func() error { return unix.Connect(line, &unix.SockaddrUnix{Name: socket}) },
	} {
		if err := step(); err != nil {
			unix.Close(line)
			return -1, err
		}
	}
	return line, nil
}

// meet hears which process the instance is. The descriptor is of where its standard
// error went when systemd started it: to the journal.
func (i *instance) meet(line int) (journal *os.File, err error) {
	var h here
	from, files, err := hear(line, &h)
	if err == nil && (len(files) != 1 || !validInvocation(h.Invocation)) {
		err = fmt.Errorf("a greeting of %q with %d descriptors", h.Invocation, len(files))
	}
	if err != nil {
		closeFiles(files)
		return nil, fmt.Errorf("%w: greet the instance: %v", errNoUnit, err)
	}
	i.number, i.invocation = from, h.Invocation
	if i.pidfd, err = unix.PidfdOpen(i.number, 0); err != nil {
		closeFiles(files)
		return nil, fmt.Errorf("%w: watch process %d: %v", errNoUnit, i.number, err)
	}
	return files[0], nil
}

// instruct tells the instance what to become. That it answers shows that pidfd is
// the process that was met, and not another which was given its number.
func (i *instance) instruct(line int, o order, theirs *os.File, said *stderr, journal *os.File) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	err = tell(line, o, theirs, write)
	write.Close()
	var r ready
	if err == nil {
		var from int
		var files []*os.File
		from, files, err = hear(line, &r)
		closeFiles(files)
		if err == nil && from != i.number {
			err = fmt.Errorf("process %d answered instead of %d", from, i.number)
		}
	}
	switch {
	case err != nil:
		read.Close()
		return fmt.Errorf("%w: instruct process %d: %v", errNoUnit, i.number, err)
	case r.Error != "":
		read.Close()
		return &hal.Error{Code: hal.CodeEngine, Text: "start runner " + o.Engine + ": " + r.Error}
	}
	if fs.ValidPath(r.Group) {
		i.group = path.Join(sandbox.Hierarchy, r.Group)
	}
	go i.copy(said, read, journal)
	return nil
}

// copy takes what the runner says, and passes it on to the journal. There it stands
// among what the agent says: whoever writes is the one that journald believes.
func (i *instance) copy(said *stderr, from, journal *os.File) {
	defer close(i.copied)
	defer from.Close()
	said.also(journal)
	_, _ = io.Copy(said, from)
	said.also(nil)
	journal.Close()
}

// abandon ends an instance that has not become a runner: it may hold the runner's
// socket already, which another is to get.
func (i *instance) abandon() {
	i.kill()
	if i.told != nil {
		i.units.reports.forget(i.invocation)
	}
	i.release()
}

func (i *instance) release() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pidfd >= 0 {
		_ = unix.Close(i.pidfd)
		i.pidfd = -1
	}
}

func (i *instance) pid() int { return i.number }

func (i *instance) kill() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pidfd >= 0 {
		_ = unix.PidfdSendSignal(i.pidfd, unix.SIGKILL, nil, 0)
	}
}

func (i *instance) wait() {
	fds := []unix.PollFd{{Fd: int32(i.pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			break
		}
	}
	i.release()
	i.starved = i.group != "" && sandbox.Starved(i.group) // as long as systemd has not removed it
}

func (i *instance) end() (e ending) {
	defer i.units.reports.forget(i.invocation)
	said := time.NewTimer(saying)
	defer said.Stop()
	select {
	case <-i.copied:
	case <-said.C:
	}
	told := time.NewTimer(i.units.telling)
	defer told.Stop()
	select {
	case e = <-i.told:
	case <-told.C:
		e.unknown = true
	}
	e.starved = e.starved || i.starved
	return e
}

// memory is what its cgroup counts where the kernel does not let the agent look at
// the process: two services with PrivateUsers= are strangers to each other.
func (i *instance) memory() int64 {
	root := os.DirFS("/")
	if m := pss(root, i.number); m > 0 || i.group == "" {
		return m
	}
	own, _ := entry(root, i.group+"/memory.stat", "anon")
	mapped, _ := entry(root, i.group+"/memory.stat", "file_mapped")
	return own + mapped
}

// validInvocation says whether s is an id as systemd makes them.
func validInvocation(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}
