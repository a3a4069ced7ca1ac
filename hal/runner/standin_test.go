package runner

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// bySocket says whether the runners of these tests are started as systemd would start
// them. TestBySocket runs them so once more.
func bySocket() bool { return os.Getenv("COVEY_RUNNER_BY_SOCKET") != "" }

// UnitsOf starts a runner program by what stands in for systemd; nil where runners
// are to be spawned.
func UnitsOf(program string) *Units {
	if !bySocket() {
		return nil
	}
	if os.Getenv("COVEY_RUNNER_BY_SOCKET") == "systemd" {
		return bySystemd()
	}
	if dir := os.Getenv("BAD_SYSTEMD"); dir != "" { // of an agent that is to be killed
		u, err := NewUnits(dir+"/socket", dir+"/ended", zerolog.New(os.Stderr))
		if err != nil {
			panic(err)
		}
		return u
	}
	standIns.Lock()
	defer standIns.Unlock()
	dir := filepath.Dir(program)
	if standIns.units[dir] == nil {
		s, err := newStandIn(dir)
		if err != nil {
			panic(err)
		}
		if standIns.units[dir], err = NewUnits(s.socket, s.ended, zerolog.New(os.Stderr)); err != nil {
			panic(err)
		}
		standIns.all = append(standIns.all, s)
	}
	return standIns.units[dir]
}

// bySystemd starts runners by the real one: see TestUnderSystemd.
var bySystemd = sync.OnceValue(func() *Units {
	u, err := NewUnits("/run/covey/runner", os.Getenv("RUNTIME_DIRECTORY")+"/ended", zerolog.New(os.Stderr))
	if err != nil {
		panic(err)
	}
	return u
})

// standIns are those of UnitsOf, by the folder of their programs.
var standIns = struct {
	sync.Mutex
	units map[string]*Units
	all   []*standIn
}{units: map[string]*Units{}}

func endStandIns() {
	standIns.Lock()
	defer standIns.Unlock()
	for _, u := range standIns.units {
		u.Close()
	}
	for _, s := range standIns.all {
		s.end()
	}
}

// A standIn is a process that does what systemd does for covey-runner.socket and
// covey-runner@.service, but for the confinement: it accepts, starts the stage on the
// connection, which it holds as long as that lives, and at its end tells how.
type standIn struct {
	dir, socket, ended, journal string
	cmd                         *exec.Cmd
	living                      io.Closer
}

func newStandIn(programs string) (*standIn, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "systemd")
	if err != nil {
		return nil, err
	}
	s := &standIn{dir: dir, socket: dir + "/socket", ended: dir + "/ended", journal: dir + "/journal"}
	s.cmd = exec.Command(self, "systemd", dir, programs, self)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if s.living, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the stand-in for systemd does not start: %w", err)
	}
	return s, nil
}

func (s *standIn) end() {
	s.living.Close()
	_ = s.cmd.Wait()
	os.RemoveAll(s.dir)
}

// standInMain is the process. It ends with its standard input.
func standInMain(dir, programs, self string) error {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: dir + "/socket"})
	if err != nil {
		return err
	}
	fmt.Println("listening")
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				if err := serveUnit(c, dir, programs, self); err != nil {
					fmt.Fprintln(os.Stderr, "stand-in for systemd:", err)
				}
			}()
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// serveUnit is one instance of the unit.
func serveUnit(c *net.UnixConn, dir, programs, self string) error {
	defer c.Close() // until then, systemd holds the connection
	conn, err := c.File()
	if err != nil {
		return err
	}
	defer conn.Close()
	journal, err := os.OpenFile(dir+"/journal", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer journal.Close()
	peer, err := unix.GetsockoptUcred(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return err
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	invocation := "INVOCATION_ID=" + hex.EncodeToString(id[:])
	cmd := exec.Command(self, "exec-start", self, "stage", "--unit", programs)
	cmd.Env = []string{invocation, "LISTEN_FDS=1", "LISTEN_FDNAMES=connection", "LANG=C.UTF-8", "PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.Stderr = journal
	cmd.ExtraFiles = []*os.File{conn}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go bindTo(int(peer.Pid), cmd.Process, ended)
	_ = cmd.Wait()
	close(ended)
	post := exec.Command(self, "runner-ended", dir+"/ended")
	post.Env = append([]string{invocation}, result(cmd.ProcessState)...)
	if out, err := post.CombinedOutput(); err != nil {
		return fmt.Errorf("runner-ended: %w: %s", err, out)
	}
	return nil
}

// execStart becomes the program of ExecStart, with its own number for whom the
// socket is meant.
func execStart(argv []string) error {
	return unix.Exec(argv[0], argv, append(os.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid())))
}

// bindTo ends an instance with the agent, as BindsTo= does.
func bindTo(agent int, p *os.Process, ended chan struct{}) {
	pidfd, err := unix.PidfdOpen(agent, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	for gone := err != nil; !gone; {
		select {
		case <-ended:
			return
		default:
		}
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		gone = n == 1
	}
	_ = p.Kill()
}

// result is what systemd.exec(5) says of the three variables.
func result(state *os.ProcessState) []string {
	status := state.Sys().(syscall.WaitStatus)
	say := func(result, code, status string) []string {
		return []string{"SERVICE_RESULT=" + result, "EXIT_CODE=" + code, "EXIT_STATUS=" + status}
	}
	switch {
	case status.CoreDump():
		return say("core-dump", "dumped", strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG"))
	case status.Signaled():
		return say("signal", "killed", strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG"))
	case status.ExitStatus() != 0:
		return say("exit-code", "exited", strconv.Itoa(status.ExitStatus()))
	}
	return say("success", "exited", "0")
}

// TestUnitJournal: what a runner says is in the journal, whatever the agent logs.
func TestUnitJournal(t *testing.T) {
	s, err := newStandIn(filepath.Dir(badProgram))
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	c := badConfig("exit-run", zerolog.Nop())
	if c.Units, err = NewUnits(s.socket, s.ended, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	defer c.Units.Close()
	session, err := New(c).Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Run(0); err == nil || !strings.Contains(err.Error(), "ended with status 7 in run: goodbye") {
		t.Error(err)
	}
	if said, err := os.ReadFile(s.journal); string(said) != "goodbye\n" {
		t.Errorf("in the journal: %q, %v", said, err)
	}
}

// TestBySocket runs the tests of this package once more, with runners that are
// started as systemd starts them.
func TestBySocket(t *testing.T) {
	if bySocket() {
		t.Skip("this is it")
	}
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run", bySocketToo, "-test.v")
	cmd.Env = append(os.Environ(), "COVEY_RUNNER_BY_SOCKET=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "--- PASS"); n < 50 {
		t.Errorf("%d tests passed: are they all there?\n%s", n, out)
	}
}

// bySocketToo is the tests that start runners, but those in virtual machines, which
// do both by themselves.
const bySocketToo = "^Test(GoodSuite|OpenFails|RunFails|Output|Stderr|Close|Kill|OpenEnds|Limits|StartBacksOff|NoOrphan|OtherLanguage|" +
	"AnswerTooLate|Dead|Device|Join|Dying|Full|Weighed|EngineTime|Escape$|EscapeWithDevices|Truncate|Descriptors|" +
	"Exclusive|One|Peacock|BadModels|RealCrash|FailedRun|RealMemoryLimit|Pitfall|ONNXEngineSuite|ONNXLadder)"
