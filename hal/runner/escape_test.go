package runner

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

// free is what an ordinary program can do, and a runner without a stage with it:
// the attempts that show that testdata/escape is able to escape.
var free = []string{
	"open /etc/passwd", "list /", "list /tmp", "list /proc", "open a file of the agent", "open cmdline of the agent", "open maps of the agent",
	"open through /proc/self/cwd", "open through /proc/self/root", "write /tmp", "open a file for writing", "change a mode", "change times",
	"make a folder", "make a link", "make a pipe", "make a memory file", "TCP", "UDP", "AF_UNIX", "abstract", "datagram by a pair", "listen",
	"fork", "fork bomb", "clone3", "execve itself", "execveat by path itself", "kill the agent", "pidfd of the agent", "signals by F_SETOWN", "affinity of the agent",
	"outlive the agent", "be dumpable", "personality", "inotify",
	"urgent data", "take a name", "names of network interfaces", "program of a socket", "files of its own",
}

// read is what only landlock keeps a runner from.
var read = []string{
	"open /etc/shadow", "open /etc/passwd", "list /", "list /tmp", "list /proc", "list /root", "open a file of the agent",
	"open cmdline of the agent", "open /dev/kmsg", "open /dev/console",
	"open /sys/class/net", "open /proc/net/tcp", "open through /proc/self/cwd", "open through /proc/self/root",
}

// killed is what ends a runner by SIGSYS.
var killed = []string{
	"ptrace the agent", "process_vm_readv", "pidfd_getfd", "mount", "umount", "fsopen", "chroot", "pivot_root", "user namespace", "setns", "bpf",
	"kexec_load", "load a module", "reboot",
}

// An escape is the world that testdata/escape wants to get at.
type escape struct {
	config Config
	names  []string // of all attempts
}

func newEscape(t *testing.T) *escape {
	t.Helper()
	sandbox.Shield() // as New's engine does
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	listen := func(network, address string) string {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	receive := func(network, address string) string {
		l, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.LocalAddr().String()
	}
	abstract := "covey-escape" + strings.ReplaceAll(dir, "/", "-")
	listen("unix", "@"+abstract)
	c := badConfig("", zerolog.Nop())
	c.Name, c.Program = "escape", filepath.Join(filepath.Dir(badProgram), "covey-runner-escape")
	c.Env = []string{
		"AGENT=" + strconv.Itoa(os.Getpid()), "VICTIM=" + victim, "ROOM=" + dir, "ABSTRACT=" + abstract,
		"TCP=" + listen("tcp", "127.0.0.1:0"), "UDP=" + receive("udp", "127.0.0.1:0"),
		"UNIX=" + listen("unix", filepath.Join(dir, "stream")), "DATAGRAM=" + receive("unixgram", filepath.Join(dir, "datagram")),
	}
	e := &escape{config: c}
	e.config.Stage = nil
	said, _ := e.try(t, "list")
	e.config.Stage = c.Stage
	if e.names = strings.Split(strings.TrimSpace(said), "\n"); len(e.names) < 80 {
		t.Fatalf("%d attempts: %s", len(e.names), said)
	}
	return e
}

// try starts attempts in one process and waits for its end. said has a line for
// each, "NAME: OUTCOME", unless the process was killed before.
func (e *escape) try(t *testing.T, names ...string) (said string, how ending) {
	t.Helper()
	c := e.config
	c.Env = append(slices.Clone(c.Env), "ATTEMPT="+strings.Join(names, ","))
	p, err := startProcess(t.Context(), c, nil, hal.Auto, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	<-p.known
	p.close()
	return p.said.last(), p.how
}

// missing says whether what an attempt is after is not on this machine.
func missing(name string) bool {
	for _, prefix := range []string{"open ", "list ", "execve ", "execveat "} {
		if path, ok := strings.CutPrefix(name, prefix); ok && strings.HasPrefix(path, "/") {
			if _, err := os.Stat(path); err != nil {
				return true
			}
		}
	}
	return false
}

// confined expects that every attempt is refused, but reading where there is no landlock.
func (e *escape) confined(t *testing.T, landlock bool) {
	t.Helper()
	var names []string
	for _, name := range e.names {
		switch {
		case missing(name):
			t.Logf("not here: %s", name)
		case !landlock && slices.Contains(read, name):
		case slices.Contains(killed, name):
			if said, how := e.try(t, name); how.signal != syscall.SIGSYS {
				t.Errorf("%s: %q, %+v; want death by SIGSYS", name, said, how)
			}
		default:
			names = append(names, name)
		}
	}
	said, how := e.try(t, names...)
	outcomes := strings.Split(strings.TrimSpace(said), "\n")
	if how != (ending{}) || len(outcomes) != len(names) {
		t.Fatalf("%d outcomes of %d, %+v:\n%s", len(outcomes), len(names), how, said)
	}
	for i, name := range names {
		outcome := strings.TrimPrefix(outcomes[i], name+": ")
		word, _, _ := strings.Cut(outcome, " ")
		if hidden := strings.HasSuffix(name, " of the agent") && os.Getenv("RUNTIME_DIRECTORY") != ""; hidden && word == "ENOENT" {
			continue // systemd shows no processes of others
		}
		if word != "EPERM" && word != "EACCES" && word != "ENOSYS" {
			t.Errorf("%s: %s; want it refused by the sandbox", name, outcome)
		}
	}
}

// landlocked says whether this kernel can confine files.
func landlocked(t *testing.T) bool {
	t.Helper()
	for _, d := range sandbox.Examine(os.DirFS("/")) {
		if strings.Contains(d.Subject, "landlock") {
			t.Logf("%s: %v, %s; %s", d.Subject, d.OK, d.Detail, d.Fix)
			return d.OK
		}
	}
	t.Fatal("Examine says nothing of landlock")
	return false
}

func TestEscape(t *testing.T) {
	e := newEscape(t)
	e.confined(t, landlocked(t))
}

// TestEscapeWithDevices is for a runner that has device nodes: it may do more to
// them, and no more to anything else.
func TestEscapeWithDevices(t *testing.T) {
	e := newEscape(t)
	e.config.Access.Devices = []string{"/dev/zero"}
	landlock := landlocked(t)
	if !landlock {
		t.Skip("without landlock, a runner with devices may open other files for writing")
	}
	e.names = slices.DeleteFunc(e.names, func(name string) bool {
		return slices.Contains([]string{"make a memory file", "open /sys/class/net", "program of a socket"}, name)
	})
	e.confined(t, landlock)
}

// TestEscapeIsPossible runs the attempts without a sandbox: a test that cannot fail
// would show nothing.
func TestEscapeIsPossible(t *testing.T) {
	e := newEscape(t)
	e.config.Stage = nil
	for _, name := range free {
		said, how := e.try(t, name)
		if again := strings.HasPrefix(name, "execve") && how == (ending{}); !again && !strings.Contains(said, "ESCAPED") {
			t.Errorf("%s: %q, %+v: the attempt does not work even without a sandbox", name, said, how)
		}
	}
}

// TestEscapeOnDebian tries on the kernel of Debian bookworm, which Raspberry Pi OS
// is made from, with its landlock of version 2; and gives each runner a cgroup.
func TestEscapeOnDebian(t *testing.T) {
	if !haltest.InVM() {
		t.Parallel()
		haltest.VM(t, machine(t, ""))
		return
	}
	if !landlocked(t) {
		t.Fatal("Debian's kernel has no landlock?")
	}
	newEscape(t).confined(t, true)
	t.Run("by socket", func(t *testing.T) { escapeBySocket(t, true) })
	t.Run("cgroup", cgroups)
}

// escapeBySocket tries with runners that are started as systemd starts them.
func escapeBySocket(t *testing.T, landlock bool) {
	s, err := newStandIn(vmPrograms)
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	e := newEscape(t)
	if e.config.Units, err = NewUnits(s.socket, s.ended, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	defer e.config.Units.Close()
	e.confined(t, landlock)
}

// TestEscapeWithoutLandlock tries where landlock is switched off, as on boards
// whose vendor forgot it.
func TestEscapeWithoutLandlock(t *testing.T) {
	if !haltest.InVM() {
		t.Parallel()
		haltest.VM(t, machine(t, "lsm=capability"))
		return
	}
	if landlocked(t) {
		t.Fatal("landlock is on")
	}
	var log bytes.Buffer
	e := New(badConfig("good", zerolog.New(&log)))
	s, err := e.Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.Contains(log.String(), "no landlock") {
		t.Errorf("the log does not say it: %s", log.String())
	}
	newEscape(t).confined(t, false)
	t.Run("by socket", func(t *testing.T) { escapeBySocket(t, false) })
}

// machine is a virtual machine with the programs of these tests and something to read.
func machine(t *testing.T, words string) haltest.Machine {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	escape := filepath.Join(filepath.Dir(badProgram), "covey-runner-escape")
	return haltest.Machine{Kernel: words, Files: map[string]string{
		vmPrograms + "/covey-runner-bad": badProgram, vmPrograms + "/covey-runner-escape": escape,
		"/etc/shadow": secret, "/etc/passwd": secret, "/root/secret": secret, "/bin/sh": escape,
	}}
}

// vmPrograms is where a machine has the programs that TestMain builds elsewhere.
const vmPrograms = "/opt/programs"

// cgroups looks at the group that a runner is put into.
func cgroups(t *testing.T) {
	const root = "/sys/fs/cgroup"
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sandbox.Delegated(); err == nil {
		t.Error("the root of all cgroups was taken for one that is the agent's to divide")
	}
	write("cgroup.subtree_control", "+memory +pids")
	if err := os.Mkdir(root+"/service", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(root+"/service", "trusted.delegate", []byte("1"), 0); err != nil { // as systemd does
		t.Fatal(err)
	}
	write("service/cgroup.procs", strconv.Itoa(os.Getpid()))
	noClone3(t)
	s, err := bad(t, "good").Open(t.Context(), someModel(t), hal.Options{MemoryLimit: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.(*session).runner.child.pid()))
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(strings.TrimPrefix(string(own), "0::"))
	if !strings.HasPrefix(name, "/service/runner-bad-") {
		t.Fatalf("the runner is in %s", own)
	}
	for file, want := range map[string]string{"memory.max": strconv.Itoa(384 << 20), "pids.max": "512", "memory.oom.group": "1"} {
		if got, err := os.ReadFile(filepath.Join(root, name, file)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q, %v; want %s", file, got, err, want)
		}
	}
	// A second engine of the same agent finds its way, and is not moved again.
	other, err := bad(t, "good").Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	s.Close()
	left, err := filepath.Glob(root + "/service/runner-*")
	if err != nil || len(left) != 0 {
		t.Errorf("cgroups are left: %v, %v", left, err)
	}

	// What counts is not only what the runner allocates: pages that it shares do.
	s, err = bad(t, "shared-memory-run").Open(t.Context(), someModel(t), hal.Options{MemoryLimit: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Run(0); hal.CodeOf(err) != hal.CodeMemory {
		t.Errorf("a runner that fills shared memory: %v, want %s", err, hal.CodeMemory)
	}
}

// noClone3 takes a call from this process that systemd takes from services with
// RestrictNamespaces, as the agent's is: its flags are out of a filter's sight.
func noClone3(t *testing.T) {
	t.Helper()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_CLONE3},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Fatal(errno)
	}
}

// TestTruncate lets a runner do its worst to the memory that it shares. The seals
// hold with and without the sandbox.
func TestTruncate(t *testing.T) {
	for _, staged := range []bool{true, false} {
		c := newEscape(t).config
		c.Env = append(c.Env, "ATTEMPT=truncate")
		if !staged {
			c.Stage = nil
		}
		s, err := New(c).Open(t.Context(), someModel(t), hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Run(0); err != nil {
			t.Fatal(err)
		}
		if got := s.Output(0, 0).Data; !bytes.Equal(got, make([]byte, 8)) {
			t.Errorf("staged %v: done to the memory: %v", staged, got)
		}
		// A page that was cut off would kill the agent here.
		s.Input(1, 0)[0]++
	}
}

// TestGroupIsKilled lets a runner without a sandbox leave a child behind.
func TestGroupIsKilled(t *testing.T) {
	e := newEscape(t)
	e.config.Stage, e.config.Program = nil, "/bin/sh"
	e.config.Env = nil
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip(err)
	}
	script := filepath.Join(t.TempDir(), "leaves")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nsleep 1000 &\necho $! >&2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	e.config.Program = script
	said, _ := e.try(t, "")
	pid, err := strconv.Atoi(strings.TrimSpace(said))
	if err != nil {
		t.Fatal(said, err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 5000); err != nil || n != 1 {
		t.Errorf("the child lives on (%d, %v)", n, err)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// TestDescriptors hands a runner more than it may have.
func TestDescriptors(t *testing.T) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 7) // not closed on exec, as something that the agent inherited
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s, err := bad(t, "good").Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.(*session).runner.child.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == "/etc/passwd" {
			t.Errorf("%s is the agent's file", fd)
		}
	}
}
