package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a stage on a kernel that lacks something: "without
// NUMBER ERRNO" refuses a system call, and then enters the sandbox.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "without" {
		var number, errno uint32
		if _, err := fmt.Sscan(os.Args[2]+" "+os.Args[3], &number, &errno); err != nil {
			panic(err)
		}
		fmt.Fprintln(os.Stderr, without(number, unix.Errno(errno)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// without enters the sandbox as on a kernel that refuses a system call.
func without(number uint32, errno unix.Errno) error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := []unix.SockFilter{load(offNumber), jump(unix.BPF_JEQ, number, 0, 1), ret(refuse(errno)), ret(allow)}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p))); errno != 0 {
		return errno
	}
	return Enter(Spec{Memory: 1 << 30}, []string{"/bin/cat", "/proc/version"}, nil)
}

// entered is what a process says that is refused a system call and enters the
// sandbox to become "cat /proc/version".
func entered(t *testing.T, number int, errno unix.Errno) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(self, "without", fmt.Sprint(number), fmt.Sprint(int(errno))).CombinedOutput()
	return string(said), err
}

// A kernel that can set no filter gets no runner.
func TestWithoutSeccomp(t *testing.T) {
	said, err := entered(t, unix.SYS_SECCOMP, unix.EINVAL)
	if err == nil || !strings.Contains(said, "no seccomp filter") || strings.Contains(said, "Linux version") {
		t.Errorf("%q, %v; want that nothing was started", said, err)
	}
}

// A kernel without landlock does.
func TestWithoutLandlock(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM} {
		if said, err := entered(t, unix.SYS_LANDLOCK_CREATE_RULESET, errno); err != nil || !strings.HasPrefix(said, "Linux version") {
			t.Errorf("%v: %q, %v", errno, said, err)
		}
	}
}

// One that has it uses it: the same program cannot read the same file.
func TestWithLandlock(t *testing.T) {
	if _, err := abi(); err != nil {
		t.Skip("this kernel has no landlock:", err)
	}
	if said, err := entered(t, unix.SYS_ACCT, unix.EPERM); err == nil || !strings.Contains(said, "Permission denied") {
		t.Errorf("%q, %v; want it refused", said, err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	binary := write("binary", "\x7fELF, nearly")
	script := write("script", "#! "+binary+"  -x y \n")
	byEnv := write("by-env", "#!/usr/bin/env binary\n")
	env := []string{"HOME=/", "PATH=relative:" + dir}
	for _, c := range []struct {
		program string
		env     []string
		want    []string // argv
		err     string
	}{
		{binary, nil, []string{binary, "a"}, ""},
		{script, nil, []string{binary, "-x y", script, "a"}, ""},
		{byEnv, env, []string{binary, byEnv, "a"}, ""},
		{byEnv, []string{"PATH=/nowhere"}, nil, "no binary in /nowhere"},
		{write("twice", "#!"+script+"\n"), nil, nil, "is a script too"},
		{write("flags", "#!/usr/bin/env -S binary -x\n"), env, nil, `want "env NAME"`},
		{write("relative", "#!binary\n"), env, nil, "no absolute path"},
		{write("endless", "#!/"+strings.Repeat("x", maxShebang)), nil, nil, "longer than 256 bytes"},
		{write("empty", ""), nil, nil, "EOF"},
		{filepath.Join(dir, "nowhere"), nil, nil, "no such file"},
		{"binary", nil, nil, "absolute path"},
	} {
		p, err := find([]string{c.program, "a"}, c.env)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.program, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.program, err)
			continue
		}
		if p.path != binary || !slices.Equal(p.argv, c.want) || p.loader != "" {
			t.Errorf("%s: %s %q, loader %q; want %q", c.program, p.path, p.argv, p.loader, c.want)
		}
	}
	p, err := find([]string{"/bin/cat"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.loader); err != nil {
		t.Errorf("the loader of /bin/cat: %v", err)
	}
}

// FuzzInterpreter reads first lines: what comes out is an absolute path or an error.
func FuzzInterpreter(f *testing.F) {
	f.Add([]byte("/usr/bin/env sh\n"))
	f.Add([]byte(" /bin/sh -e\n"))
	f.Add([]byte("env ../sh\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		words, err := interpreter(line, nil)
		if err == nil && (len(words) == 0 || len(words) > 2 || !filepath.IsAbs(words[0])) {
			t.Errorf("%q: %q", line, words)
		}
	})
}

// FuzzLoader reads programs.
func FuzzLoader(f *testing.F) {
	self, err := os.ReadFile("/bin/true")
	if err == nil {
		f.Add(self[:min(len(self), 4096)])
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if name := loader(strings.NewReader(string(file))); len(name) >= 4096 {
			t.Errorf("%d bytes", len(name))
		}
	})
}
