package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rights on files and folders, as landlock names them.
const (
	execute = unix.LANDLOCK_ACCESS_FS_EXECUTE
	read    = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	device  = read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	write   = read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REFER

	// ofFile is what can be allowed on a file that is no folder.
	ofFile = execute | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// everybody is what all programs need: found by taking away what the runners of
// TFLite and ONNX Runtime, a Go program and Python start and run without. Of
// /proc, rules hold as long as the kernel caches the entry: long enough for what
// is read at a start.
var everybody = []rule{
	{"/lib", read}, {"/lib64", read}, {"/usr/lib", read}, {"/usr/lib64", read}, {"/usr/local/lib", read},
	{"/etc/ld.so.cache", read}, {"/etc/ld-musl-x86_64.path", read}, {"/etc/ld-musl-aarch64.path", read},
	{"/proc/cpuinfo", read}, {"/proc/meminfo", read}, {"/proc/sys/vm/overcommit_memory", read},
	{"/proc/self/maps", read}, {"/proc/self/status", read}, {"/proc/self/statm", read}, {"/proc/self/auxv", read},
	{"/sys/devices/system/cpu", read}, {"/sys/devices/system/node", read},
	{"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", read},
	{"/dev/null", device}, {"/dev/zero", read}, {"/dev/urandom", read}, {"/dev/random", read},
}

// drivers is what the libraries of accelerators read to find their devices: libusb
// and libdrm in /sys, CUDA in /proc and its own folders, OpenCL loaders in /etc.
var drivers = []rule{
	{"/sys/bus", read}, {"/sys/class", read}, {"/sys/dev", read}, {"/sys/devices", read}, {"/sys/module", read},
	{"/proc/devices", read}, {"/proc/modules", read}, {"/proc/driver/nvidia", read}, {"/proc/device-tree", read},
	{"/run/udev/data", read}, {"/etc/OpenCL", read}, {"/usr/share", read}, {"/usr/local/cuda", read},
}

// A rule allows something on a file, or on all in a folder.
type rule struct {
	path   string
	rights uint64
}

// abi is the version of landlock that the kernel has, 0 if it has none; then err is
// ENOSYS where it was left out of the kernel and EOPNOTSUPP where it is switched off.
func abi() (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// handled is all that version v of landlock controls: all of it is refused but for
// what the rules allow. Each line is what a version brought, by the kernel's
// Documentation/userspace-api/landlock.rst. Versions 7 and 8 brought no rights.
func handled(v int) (a unix.LandlockRulesetAttr) {
	for _, brought := range []struct {
		version          int
		files, net, from uint64
	}{
		{version: 1, files: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1},
		{version: 2, files: unix.LANDLOCK_ACCESS_FS_REFER},
		{version: 3, files: unix.LANDLOCK_ACCESS_FS_TRUNCATE},
		{version: 4, net: unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP},
		{version: 5, files: unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
		{version: 6, from: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL},
		{version: 9, files: unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX},
	} {
		if v >= brought.version {
			a.Handled_access_fs |= brought.files
			a.Handled_access_net |= brought.net
			a.Scoped |= brought.from
		}
	}
	return a
}

// A ruleset is landlock's list, ready to be enforced; nil where there is no landlock.
type ruleset struct{ fd int }

// rules is all that p may reach. must is how many at the end have to exist: those
// that somebody asked for.
func (s Spec) rules(p *program) (list []rule, must int) {
	list = append(list, everybody...)
	if len(s.Access.Devices) > 0 {
		list = append(list, drivers...)
	}
	for _, path := range s.Access.Devices {
		list = append(list, rule{path, device})
	}
	list = append(list, rule{p.path, execute | read})
	if p.loader != "" {
		list = append(list, rule{p.loader, execute | read})
	}
	own := p.path
	if p.script != "" {
		own = p.script
		list = append(list, rule{p.script, read})
	}
	if dir := filepath.Dir(own); dir != "/" {
		list = append(list, rule{dir, read})
	}
	for _, path := range s.Access.Read {
		list = append(list, rule{path, read})
	}
	for _, path := range s.Access.Write {
		list = append(list, rule{path, write})
	}
	return list, len(s.Access.Read) + len(s.Access.Write)
}

// ruleset makes the list of all that p may reach.
func (s Spec) ruleset(p *program) (*ruleset, error) {
	version, err := abi()
	if err != nil {
		return nil, nil // Examine says so
	}
	attr := handled(version)
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return nil, fmt.Errorf("landlock (version %d): make a ruleset: %w", version, errno)
	}
	unix.CloseOnExec(int(fd))
	r := &ruleset{fd: int(fd)}
	list, must := s.rules(p)
	for i, allow := range list {
		err := r.add(allow, attr.Handled_access_fs)
		if optional := i < len(list)-must; optional && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("landlock: allow %s: %w", allow.path, err)
		}
	}
	return r, nil
}

func (r *ruleset) add(allow rule, handled uint64) error {
	fd, err := unix.Open(allow.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	rights := allow.rights & handled
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= ofFile
	}
	beneath := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&beneath)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// enforce puts this thread, and what it executes, under the rules for ever.
func (r *ruleset) enforce() error {
	if r == nil {
		return nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), 0, 0); errno != 0 {
		return fmt.Errorf("landlock: enforce: %w", errno)
	}
	return nil
}

// Shield keeps runners from reading the memory of the calling process, their agent,
// where no landlock does: the kernel then treats it as one of another user. It says
// whether that was necessary. The process makes no core dumps any more.
func Shield() bool {
	if _, err := abi(); err == nil {
		return false
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // there is no reason why it should fail
	return true
}
