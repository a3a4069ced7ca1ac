//go:build systemd

package runner

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// These tests are for a machine that systemd runs, as root, with covey-agent.service,
// covey-runner.socket and covey-runner@.service installed and the user covey. They
// put this test program into the units instead of the agent, and leave all else as it
// is: what is tried here is confined as it will be.
//
//	CGO_ENABLED=0 go test -c -tags systemd -o runner.test ./hal/runner
//	CGO_ENABLED=0 go build -o programs/covey-runner-bad ./hal/runner/testdata/badrunner
//	CGO_ENABLED=0 go build -o programs/covey-runner-escape ./hal/runner/testdata/escape
//	COVEY_RUNNER_PROGRAMS=$PWD/programs ./runner.test -test.v -test.run TestUnderSystemd
//
// With the real runners and lib/ in programs as well, and COVEY_MODELS, real models
// are among what is tried. The folders have to be readable for the user covey, and
// outside of /home, /root, /tmp and /var.

const agentService = "covey-agent.service"

// underSystemd is the tests that are run in covey-agent.service. Those which look at
// a runner through /proc are not among them: that is closed to the agent.
const underSystemd = "^Test(Confined|UnitGroup|GoodSuite|OpenFails|RunFails|Output|Stderr|Kill|OpenEnds|StartBacksOff|" +
	"AnswerTooLate|Dead|Device|Join|Dying|Full|EngineTime|Escape$|EscapeWithDevices|Truncate|Exclusive|One"

const withModels = "|Peacock|BadModels|RealCrash|FailedRun|RealMemoryLimit|Pitfall13|ONNXEngineSuite|ONNXLadder"

func TestUnderSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Getuid() != 0 {
		t.Skip("this needs root on a machine that systemd runs")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs := os.Getenv("COVEY_RUNNER_PROGRAMS")
	if programs == "" {
		t.Fatal("COVEY_RUNNER_PROGRAMS does not say where the programs are")
	}
	dropIn(t, "covey-runner@.service", "ExecStart=\nExecStart="+self+" stage --unit "+programs+
		"\nExecStopPost=\nExecStopPost="+self+" runner-ended /run/covey/agent/ended\n")
	ctl(t, "daemon-reload")
	ctl(t, "start", "covey-runner.socket")
	t.Run("suite", func(t *testing.T) { suite(t, self, programs) })
	t.Run("agent killed", func(t *testing.T) { agentKilled(t, self, programs) })
	t.Run("agent stopped", func(t *testing.T) { agentStopped(t, self, programs) })
	t.Run("no runner is left", func(t *testing.T) {
		if left := strings.TrimSpace(ctl(t, "list-units", "--all", "--plain", "--no-legend", "covey-runner@*")); left != "" {
			t.Error(left)
		}
	})
}

// dropIn changes a unit until the test ends.
func dropIn(t *testing.T, unit, service string) {
	t.Helper()
	dir := "/run/systemd/system/" + unit + ".d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := dir + "/90-test.conf"
	if err := os.WriteFile(file, []byte("[Service]\n"+service), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(file)
		_ = exec.Command("systemctl", "daemon-reload").Run()
	})
}

func ctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// asAgent has covey-agent.service be this program with such arguments, and returns
// where it writes.
func asAgent(t *testing.T, programs, more, command string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	environment := "COVEY_RUNNER_BY_SOCKET=systemd COVEY_RUNNER_PROGRAMS=" + programs + " COVEY_BIN=" + programs +
		" BAD_PROGRAM=" + programs + "/covey-runner-bad BAD_DIR=/run/covey/agent TMPDIR=/run/covey/agent"
	if models := os.Getenv("COVEY_MODELS"); models != "" {
		environment += " COVEY_MODELS=" + models
	}
	dropIn(t, agentService, "ExecStart=\nExecStart="+command+"\nEnvironment="+environment+"\nRestart=no\nStandardOutput=file:"+out+
		"\nStandardError=inherit\n"+more)
	ctl(t, "daemon-reload")
	return out
}

// suite runs the tests of this package where the agent would run.
func suite(t *testing.T, self, programs string) {
	tests := underSystemd
	if os.Getenv("COVEY_MODELS") != "" {
		tests += withModels
	}
	out := asAgent(t, programs, "Type=oneshot\n", self+" -test.v -test.run "+tests+")")
	err := exec.Command("systemctl", "start", agentService).Run()
	said, _ := os.ReadFile(out)
	if err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	n := strings.Count(string(said), "--- PASS")
	if n < 40 {
		t.Errorf("%d tests passed: are they all there?\n%s", n, said)
	}
	t.Logf("%d tests passed", n)
	if said, err := exec.Command("journalctl", "--unit="+agentService, "--output=cat").CombinedOutput(); err != nil || !strings.Contains(string(said), "goodbye") {
		t.Errorf("what runners said is not in the journal: %v\n%s", err, said)
	}
}

// agentKilled ends the agent by force: a runner that hears nothing ends, too.
func agentKilled(t *testing.T, self, programs string) {
	out := asAgent(t, programs, "Type=exec\n", self+" agent hang-run")
	ctl(t, "start", agentService)
	pidfd := runnerIn(t, out, "hanging")
	ctl(t, "kill", "--kill-who=main", "--signal=KILL", agentService)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 20_000); err != nil || n != 1 {
		t.Errorf("the runner outlived its agent (%d, %v)", n, err)
	}
}

// agentStopped ends it in order: its runner runs as long as it does.
func agentStopped(t *testing.T, self, programs string) {
	out := asAgent(t, programs, "Type=exec\n", self+" orderly")
	ctl(t, "start", agentService)
	runnerIn(t, out, "ran")
	ctl(t, "stop", agentService)
	if said, _ := os.ReadFile(out); !strings.Contains(string(said), "ran after the signal: <nil>") {
		t.Errorf("its runner went before the agent: %s", said)
	}
}

// runnerIn watches the process whose number an agent wrote, once a word follows.
func runnerIn(t *testing.T, file, word string) (pidfd int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		said, _ := os.ReadFile(file)
		pid := 0
		for lines := bufio.NewScanner(strings.NewReader(string(said))); lines.Scan(); {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				pid = n
			}
		}
		if pid > 0 && strings.Contains(string(said), word) {
			pidfd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(pidfd) })
			return pidfd
		}
		time.Sleep(50 * time.Millisecond)
	}
	said, _ := os.ReadFile(file)
	t.Fatalf("the agent does not get there: %s", said)
	return 0
}

// TestConfined: the agent of these tests is the service, and its runners are others.
func TestConfined(t *testing.T) {
	if os.Getenv("RUNTIME_DIRECTORY") == "" || os.Getuid() == 0 {
		t.Skip("not in the service")
	}
	s, err := bad(t, "good").Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, ok := runnerOf(s).child.(*instance); !ok {
		t.Error("the agent started its runner itself")
	}
}

// TestUnitGroup looks at the cgroup of an instance, and fills it.
func TestUnitGroup(t *testing.T) {
	s, err := bad(t, "good").Open(t.Context(), someModel(t), hal.Options{MemoryLimit: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	i := runnerOf(s).child.(*instance)
	if own, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); i.group == "" && !strings.Contains(string(own), "memory") {
		t.Skip("cgroups here do not count memory")
	}
	if !strings.Contains(i.group, "/covey-runner@") {
		t.Fatalf("cgroup %q", i.group)
	}
	for file, want := range map[string]string{"memory.max": strconv.Itoa(384 << 20), "pids.max": "512", "memory.oom.group": "1", "cgroup.procs": strconv.Itoa(i.pid())} {
		if got, err := os.ReadFile(filepath.Join("/", i.group, file)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q, %v; want %s", file, got, err, want)
		}
	}
	if m := s.Info().Memory; m < 1<<20 || m > 256<<20 {
		t.Errorf("it takes %d bytes", m)
	}
	full, err := bad(t, "shared-memory-run").Open(t.Context(), someModel(t), hal.Options{MemoryLimit: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	_, err = full.Run(0)
	if how := runnerOf(full).how; hal.CodeOf(err) != hal.CodeMemory || !errors.Is(err, hal.ErrLost) || !how.starved {
		t.Errorf("%v, %+v; want %s, and that systemd says why", err, how, hal.CodeMemory)
	}
}
