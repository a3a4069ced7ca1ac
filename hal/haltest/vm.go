package haltest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A Machine is a small virtual machine for tests of what this kernel does not
// have: cameras, sound cards, landlock. It runs Debian's kernel under QEMU, emulated:
// KVM inside virtual machines of clouds is not to be relied on.
type Machine struct {
	Modules []string          // kernel modules to load, in this order, with parameters: "vivid n_devs=1"; what they need is loaded before them
	Files   map[string]string // path in the machine → file or folder here
	Kernel  string            // more words for the kernel's command line
	Devices []string          // more arguments for QEMU
	Memory  int               // MiB; 0 means 512
	Time    time.Duration     // for all of it; 0 means 3 minutes
}

// InVM says whether this test runs inside a Machine.
func InVM() bool { return os.Getenv("COVEY_VM") != "" }

// VM runs the test that calls it, and its subtests, once more inside a Machine,
// where it is root and alone. The package must build without cgo.
//
//	func TestCamera(t *testing.T) {
//		if !haltest.InVM() {
//			haltest.VM(t, haltest.Machine{Modules: []string{"vivid"}})
//			return
//		}
//		… /dev/video0 …
//	}
//
// Without QEMU or a kernel the test is skipped, but where COVEY_VM_NEEDED is set
// (scripts/test does) it fails.
func VM(t *testing.T, m Machine) {
	t.Helper()
	kernel, qemu := machineParts(t)
	dir := t.TempDir()
	files := map[string]string{"/init": filepath.Join(dir, "init"), "/test": filepath.Join(dir, "test")}
	for to, from := range m.Files {
		files[to] = from
	}
	compile(t, filepath.Join(root(t), "hal/haltest/vminit"), "build", "-o", files["/init"], ".")
	compile(t, ".", "test", "-c", "-o", files["/test"], ".")
	var loads []string
	for _, line := range m.Modules {
		name, parameters, _ := strings.Cut(line, " ")
		needed := kernel.needs(t, name)
		for i, file := range needed {
			to := "/modules/" + path.Base(file)
			if files[to] != "" {
				continue // another one needed it too
			}
			files[to] = filepath.Join(kernel.modules, file)
			if i == len(needed)-1 {
				to += " " + parameters
			}
			loads = append(loads, to)
		}
	}
	list := filepath.Join(dir, "modules")
	if err := os.WriteFile(list, []byte(strings.Join(loads, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files["/modules/load"] = list
	disk := filepath.Join(dir, "initrd")
	if err := writeArchive(disk, files); err != nil {
		t.Fatal(err)
	}
	m.boot(t, qemu, kernel.image, disk)
}

// boot runs the machine to its end and reports what the test in it said.
func (m Machine) boot(t *testing.T, qemu, kernel, disk string) {
	t.Helper()
	if m.Time == 0 {
		m.Time = 3 * time.Minute
	}
	if m.Memory == 0 {
		m.Memory = 512
	}
	ctx, cancel := context.WithTimeout(t.Context(), m.Time)
	defer cancel()
	words := "console=ttyS0 quiet loglevel=3 panic=-1 COVEY_VM=1 " + m.Kernel + " -- -test.v -test.timeout=" + m.Time.String() +
		" -test.run=" + pattern(t.Name())
	args := []string{"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(m.Memory), "-nodefaults", "-no-user-config",
		"-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", disk, "-append", words}
	args = append(args, m.Devices...)
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.WaitDelay = time.Second
	said, err := cmd.CombinedOutput()
	said = bytes.ReplaceAll(said, []byte("\r"), nil)
	switch {
	case ctx.Err() != nil:
		t.Fatalf("the machine did not end within %v:\n%s", m.Time, said)
	case bytes.Contains(said, []byte("\nCOVEY-VM-EXIT 0\n")):
		t.Logf("in the machine:\n%s", said)
		if !bytes.Contains(said, []byte("--- PASS: "+t.Name())) && !bytes.Contains(said, []byte("--- SKIP: "+t.Name())) {
			t.Error("no test ran in the machine")
		}
	default:
		t.Errorf("in the machine (%v):\n%s", err, said)
	}
}

// pattern matches exactly one test by its name.
func pattern(name string) string {
	return "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
}

func compile(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// A kernel is an image and its modules, as scripts/test unpacks them.
type kernel struct {
	image, modules string
}

func machineParts(t *testing.T) (kernel, string) {
	t.Helper()
	missing := t.Skipf
	if os.Getenv("COVEY_VM_NEEDED") != "" {
		missing = t.Fatalf
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("virtual machines are for amd64 alone")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		missing("no qemu-system-x86_64: run ./scripts/test once, or apt-get install qemu-system-x86")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "covey", "kernel")
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(images) == 0 {
		missing("no kernel in %s: run ./scripts/test once", dir)
	}
	image := images[len(images)-1]
	version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
	return kernel{image: image, modules: filepath.Join(dir, "lib", "modules", version)}, qemu
}

// needs is the files of a module and all it depends on, in the order to load them.
func (k kernel) needs(t *testing.T, name string) []string {
	t.Helper()
	byName := map[string]string{}
	var depends = map[string][]string{}
	f, err := os.Open(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		file, after, _ := strings.Cut(lines.Text(), ":")
		byName[moduleName(file)] = file
		depends[file] = strings.Fields(after)
	}
	file := byName[moduleName(name)]
	if file == "" {
		t.Fatalf("the kernel in %s has no module %s", k.modules, name)
	}
	// modules.dep lists what a module needs, the last needed first.
	var order []string
	for i := len(depends[file]) - 1; i >= 0; i-- {
		order = append(order, depends[file][i])
	}
	return append(order, file)
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// writeArchive writes files into a cpio archive (the "newc" form of the
// kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
func writeArchive(to string, files map[string]string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	a := &archive{w: bufio.NewWriter(f), folders: map[string]bool{}}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp", "/etc", "/modules"} {
		a.folder(dir)
	}
	for name, from := range files {
		if err := a.tree(name, from); err != nil {
			return err
		}
	}
	a.entry("TRAILER!!!", 0, 0, nil)
	return errors.Join(a.w.Flush(), f.Close())
}

type archive struct {
	w       *bufio.Writer
	folders map[string]bool
	inode   int
}

// tree adds a file, or a folder with all in it; links are followed.
func (a *archive) tree(name, from string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	return filepath.WalkDir(from, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return a.file(path.Join(name, strings.TrimPrefix(at, from)), at)
	})
}

func (a *archive) file(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	a.folder(path.Dir(name))
	return a.entry(name, 0o100000|uint32(st.Mode().Perm()), st.Size(), f)
}

func (a *archive) folder(name string) {
	if name == "/" || a.folders[name] {
		return
	}
	a.folder(path.Dir(name))
	a.folders[name] = true
	a.entry(name, 0o040755, 0, nil)
}

func (a *archive) entry(name string, mode uint32, size int64, from io.Reader) error {
	name = strings.TrimPrefix(name, "/")
	a.inode++
	fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad(110 + int64(len(name)) + 1)
	if from != nil {
		if _, err := io.CopyN(a.w, from, size); err != nil {
			return err
		}
	}
	a.pad(size)
	return nil
}

func (a *archive) pad(n int64) { a.w.Write(make([]byte, -n&3)) }
