package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// A kernel is what it answers when asked for the parts of a sandbox.
type kernel struct {
	landlock    int   // version; 0: none
	landlockErr error // why none
	seccompErr  error
	privsErr    error // of no_new_privs
}

// Files that are read to explain the kernel's answers, beneath a root.
const (
	lsmFile     = "sys/kernel/security/lsm"
	raspberry   = "boot/firmware/cmdline.txt"
	cgroupsFile = "sys/fs/cgroup/cgroup.controllers"
	ownGroup    = "proc/self/cgroup"
)

// ask asks this kernel.
func ask() (k kernel) {
	k.landlock, k.landlockErr = abi()
	action := uint32(unix.SECCOMP_RET_USER_NOTIF) // the youngest that is used
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		k.seccompErr = errno
	}
	_, k.privsErr = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return k
}

// Examine says which layers of the sandbox this kernel has, and what to do where
// one is missing. root is "/".
func Examine(root fs.FS) []hal.Diagnosis { return diagnose(root, ask()) }

func diagnose(root fs.FS, k kernel) []hal.Diagnosis {
	return []hal.Diagnosis{
		k.files(root),
		k.calls(),
		k.privileges(),
		groups(root),
	}
}

func (k kernel) files(root fs.FS) hal.Diagnosis {
	d := hal.Diagnosis{Subject: "sandbox: files (landlock)", OK: k.landlock > 0}
	list, err := fs.ReadFile(root, lsmFile)
	modules := strings.TrimSpace(string(list))
	const open = "a runner can read what the agent's user can read"
	switch {
	case k.landlock > 0:
		d.Detail = fmt.Sprintf("version %d", k.landlock)
	case errors.Is(k.landlockErr, unix.EOPNOTSUPP):
		d.Detail = "the kernel has landlock, switched off; " + open
		d.Fix = boot(root, modules)
	case errors.Is(k.landlockErr, unix.EPERM):
		d.Detail = "landlock is forbidden here, by a container or a service's SystemCallFilter; " + open
		d.Fix = "allow the system calls landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"
	case err == nil && slices.Contains(strings.Split(modules, ","), "landlock"):
		d.Detail = fmt.Sprintf("landlock is on and does not answer: %v; %s", k.landlockErr, open)
		d.Fix = "allow the system calls landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"
	default:
		d.Detail = "the kernel was built without landlock; " + open
		d.Fix = "use a kernel with CONFIG_SECURITY_LANDLOCK=y (Linux 5.13 or newer; Debian's has it)"
	}
	return d
}

// boot is how to switch landlock on at the next start.
func boot(root fs.FS, modules string) string {
	list := "landlock"
	if modules != "" {
		list += "," + modules
	}
	if _, err := fs.Stat(root, raspberry); err == nil {
		return "add lsm=" + list + " to the one line of /" + raspberry + " and reboot"
	}
	return "add lsm=" + list + " to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub) and reboot"
}

func (k kernel) calls() hal.Diagnosis {
	d := hal.Diagnosis{Subject: "sandbox: system calls (seccomp)", OK: k.seccompErr == nil, Detail: "filters can be set"}
	if !d.OK {
		d.Detail = fmt.Sprintf("no filter can be set (%v): no runner is started", k.seccompErr)
		d.Fix = "use a kernel with CONFIG_SECCOMP_FILTER=y (Linux 5.5 or newer), or a container that allows seccomp"
	}
	return d
}

func (k kernel) privileges() hal.Diagnosis {
	d := hal.Diagnosis{Subject: "sandbox: privileges (no_new_privs)", OK: k.privsErr == nil, Detail: "can be given up"}
	if !d.OK {
		d.Detail = fmt.Sprintf("cannot be given up (%v): no runner is started", k.privsErr)
		d.Fix = "use Linux 3.5 or newer, or a container that allows prctl"
	}
	return d
}

// groups looks for a cgroup to divide. Whether it may be divided is tried at the
// start of a runner only.
func groups(root fs.FS) hal.Diagnosis {
	d := hal.Diagnosis{Subject: "sandbox: memory and threads (cgroup)"}
	dir, err := delegated(root)
	if err != nil {
		d.Detail = err.Error() + "; limits of each process hold instead"
		d.Fix = "run the agent by its systemd unit, which has Delegate=yes, on cgroup v2 (systemd.unified_cgroup_hierarchy=1)"
		if errors.Is(err, errNoMemory) {
			d.Fix = "add cgroup_enable=memory to the kernel's command line (/" + raspberry + " on a Raspberry Pi) and reboot"
		}
		return d
	}
	d.OK, d.Detail = true, "/"+dir
	return d
}

var errNoMemory = errors.New("cgroups here do not count memory")

// delegated is the folder of the cgroup that this process is in and may divide,
// if it was given it.
func delegated(root fs.FS) (string, error) {
	all, err := fs.ReadFile(root, cgroupsFile)
	if err != nil {
		return "", errors.New("there is no cgroup v2 at " + hierarchy)
	}
	own, err := fs.ReadFile(root, ownGroup)
	if err != nil {
		return "", fmt.Errorf("which cgroup this is cannot be read: %w", err)
	}
	name, ok := strings.CutPrefix(strings.TrimSpace(string(own)), "0::/")
	if !ok || strings.Contains(name, "\n") {
		return "", errors.New("cgroup v1 is in use")
	}
	if path.Base(name) == leaf {
		name = path.Dir(name)
	}
	if !slices.Contains(strings.Fields(string(all)), "memory") {
		return "", errNoMemory
	}
	dir := path.Join(hierarchy[1:], name)
	mine, err := fs.ReadFile(root, path.Join(dir, "cgroup.controllers"))
	if err != nil {
		return "", fmt.Errorf("cgroup /%s cannot be read: %w", dir, err)
	}
	for _, controller := range []string{"memory", "pids"} {
		if !slices.Contains(strings.Fields(string(mine)), controller) {
			return "", fmt.Errorf("cgroup /%s was given no control of %s", dir, controller)
		}
	}
	return dir, nil
}
