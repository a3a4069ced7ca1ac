package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hierarchy = "/" + Hierarchy
	leaf      = "agent"  // where the agent itself goes: a group with controllers has no processes of its own
	one       = "runner" // the same of a runner that systemd has started

	maxThreads = 512
	// besides is what a cgroup counts beyond what a runner allocates: tensors,
	// pages of its files, the kernel's part. The limit of allocations is to be
	// reached first: it makes an error, this one kills.
	besides = 128 << 20
)

// Hierarchy is where cgroup v2 is, on a system without v1; a path as of io/fs.
const Hierarchy = "sys/fs/cgroup"

// Groups is a cgroup that the agent may divide: what systemd's Delegate=yes gives.
type Groups struct{ dir string }

// Delegated is the cgroup that was given to this process to divide, or why there
// is none. It moves the process into a group of its own in there.
func Delegated() (*Groups, error) {
	dir, err := delegated(os.DirFS("/"))
	if err != nil {
		return nil, err
	}
	dir = filepath.Join("/", dir)
	if !given(dir) {
		return nil, fmt.Errorf("%s was not delegated to this program", dir)
	}
	return divide(dir)
}

// divide makes ready a cgroup for groups beneath it.
func divide(dir string) (*Groups, error) {
	if err := vacate(dir, leaf); err != nil {
		return nil, err
	}
	return &Groups{dir: dir}, nil
}

// vacate moves all processes of a group into one beneath it, so that more of those
// can have limits.
func vacate(dir, into string) error {
	own := filepath.Join(dir, into)
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	members, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(members)) {
		if err := put(own, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return put(dir, "cgroup.subtree_control", "+memory +pids")
}

// OwnGroup moves this process into a group with the limits of a runner that may
// allocate so many bytes, beneath the one that was given to it; or says why there is
// none. The group is named from the root of the Hierarchy. Who gave the one above
// removes it.
func OwnGroup(memory int64) (string, error) {
	dir, err := delegated(os.DirFS("/"))
	if err != nil {
		return "", err
	}
	above := filepath.Join("/", dir)
	if !given(above) {
		return "", fmt.Errorf("%s was not delegated to this program", above)
	}
	if err := vacate(above, one); err != nil {
		return "", err
	}
	if err := limit(filepath.Join(above, one), memory); err != nil {
		return "", err
	}
	return strings.TrimPrefix(dir, Hierarchy+"/") + "/" + one, nil
}

// limit sets the limits of a runner's group.
func limit(dir string, memory int64) error {
	for _, l := range []struct{ file, value string }{
		{"memory.max", strconv.FormatInt(memory+besides, 10)},
		{"memory.oom.group", "1"},
		{"pids.max", strconv.Itoa(maxThreads)},
	} {
		if err := put(dir, l.file, l.value); err != nil {
			return err
		}
	}
	return nil
}

// given says whether a folder of cgroups is this user's to change: it owns it, or
// it is root and systemd has marked it.
func given(dir string) bool {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false
	}
	if me := os.Geteuid(); me != 0 {
		return int(st.Uid) == me
	}
	var mark [8]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, mark[:]); err == nil && string(mark[:n]) == "1" {
			return true
		}
	}
	return false
}

// A Group is the cgroup of one runner.
type Group struct{ dir string }

// New makes a group for a runner that may allocate so many bytes. It is nil where
// there are no Groups to make it in, and where it cannot be made: the limits of the
// process hold without.
func (g *Groups) New(name string, memory int64) *Group {
	if g == nil {
		return nil
	}
	dir, err := os.MkdirTemp(g.dir, "runner-"+name+"-")
	if err != nil {
		return nil
	}
	group := &Group{dir: dir}
	if err := limit(dir, memory); err != nil {
		group.End()
		return nil
	}
	return group
}

// Take moves a process into the group. A nil group is allowed. It is done to a stage
// that has just begun: to be made in the group it would need clone3, which systemd
// takes from a service that may make no namespaces.
func (g *Group) Take(pid int) error {
	if g == nil {
		return nil
	}
	return put(g.dir, "cgroup.procs", strconv.Itoa(pid))
}

// Starved says whether the kernel killed a process of the group for want of memory.
// A nil group is allowed; it has to be asked before End.
func (g *Group) Starved() bool { return g != nil && Starved(g.dir) }

// Starved is the same of any group, by its folder.
func Starved(dir string) bool {
	events, _ := os.ReadFile(filepath.Join("/", dir, "memory.events"))
	for line := range strings.Lines(string(events)) {
		if count, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return count != "0"
		}
	}
	return false
}

// End kills all that is left in the group and removes it. A nil group is allowed.
func (g *Group) End() {
	if g == nil {
		return
	}
	// What is being killed keeps the group for a moment.
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		err := unix.Rmdir(g.dir)
		if err != unix.EBUSY {
			return
		}
		g.kill()
		time.Sleep(wait)
	}
}

func (g *Group) kill() {
	if put(g.dir, "cgroup.kill", "1") == nil { // Linux 5.14
		return
	}
	members, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	for _, word := range strings.Fields(string(members)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func put(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
