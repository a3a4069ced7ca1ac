package scripts

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// vm runs scripts/vm with these programs and no others, and says how it ended.
func vm(t *testing.T, programs []string, env []string, args ...string) (said string, code int) {
	t.Helper()
	bin := t.TempDir()
	for _, p := range programs {
		at, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(at, filepath.Join(bin, p)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "./vm", args...)
	cmd.Env = append(append(os.Environ(), env...), "PATH="+bin)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// What scripts/vm is asked for is understood or refused before anything is made.
func TestVMArguments(t *testing.T) {
	few := []string{"bash", "dirname", "sed", "uname"}
	for _, c := range []struct {
		env  []string
		args []string
		code int
		said string
	}{
		{nil, []string{"--help"}, 2, "scripts/vm [--json]"},
		{nil, []string{"boot", "reboot"}, 2, "scripts/vm [--json]"},
		{[]string{"PLUGS=-1"}, []string{"plugs"}, 2, "PLUGS is -1"},
		{[]string{"PLUGS=1000000"}, []string{"plugs"}, 2, "PLUGS is 1000000"},
		{nil, []string{"boot", "--json"}, 0, "vm: skipped: "},
		{nil, nil, 0, "vm: skipped: "},
	} {
		said, code := vm(t, few, c.env, c.args...)
		if code != c.code || !strings.Contains(said, c.said) {
			t.Errorf("%v %v: exit code %d, want %d with %q:\n%s", c.env, c.args, code, c.code, c.said, said)
		}
	}
}

// Each part that the usage names is a function of the machine's or of this script, and
// each is named.
func TestVMParts(t *testing.T) {
	said, _ := vm(t, []string{"bash", "dirname", "sed"}, nil, "--help")
	guest, err := os.ReadFile("machine/guest")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"boot", "security", "watchdog", "camera", "broker", "clock", "disk", "memory", "plugs"} {
		if !strings.Contains(said, "\n  "+part+" ") {
			t.Errorf("the usage does not name %s:\n%s", part, said)
		}
		if part != "plugs" && !strings.Contains(string(guest), "\npart_"+part+"() {") {
			t.Errorf("machine/guest does not know %s", part)
		}
	}
}

// The disk of the pulled plugs keeps what was flushed and loses of the rest what a
// disk may lose.
func TestVMDisk(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "python3", "-B", "disk_test.py")
	cmd.Dir = "machine"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
