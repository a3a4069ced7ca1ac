package runner

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

// TestWithoutUnit: where systemd starts nothing, the agent does, and says so once.
func TestWithoutUnit(t *testing.T) {
	for name, listen := range map[string]func(t *testing.T, socket string){
		"no socket": func(*testing.T, string) {},
		"nobody listens": func(t *testing.T, socket string) {
			l := listenAt(t, socket)
			l.SetUnlinkOnClose(false)
			l.Close()
		},
		"systemd hangs up": func(t *testing.T, socket string) {
			l := listenAt(t, socket)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Close()
				}
			}()
		},
		"somebody else answers": func(t *testing.T, socket string) {
			l := listenAt(t, socket)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte(`{"invocation":"0123456789abcdef0123456789abcdef"}`)) // and no descriptor
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			listen(t, dir+"/socket")
			var log bytes.Buffer
			u, err := NewUnits(dir+"/socket", dir+"/ended", zerolog.New(&log))
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			c := badConfig("good", zerolog.Nop())
			c.Units = u
			e := New(c)
			for range 2 {
				s, err := e.Open(t.Context(), someModel(t), hal.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if _, ok := runnerOf(s).child.(*spawned); !ok {
					t.Errorf("%T", runnerOf(s).child)
				}
			}
			if n := strings.Count(log.String(), "systemd starts no runners"); n != 1 {
				t.Errorf("said %d times: %s", n, log.String())
			}
			if n := len(u.reports.waiting); n != 0 {
				t.Errorf("%d reports are waited for", n)
			}
		})
	}
}

func listenAt(t *testing.T, socket string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestUnitWithoutProgram: an engine that is not there is no reason to look elsewhere.
func TestUnitWithoutProgram(t *testing.T) {
	s, err := newStandIn(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	c := badConfig("good", zerolog.Nop())
	if c.Units, err = NewUnits(s.socket, s.ended, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	defer c.Units.Close()
	if _, err := New(c).Open(t.Context(), someModel(t), hal.Options{}); hal.CodeOf(err) != hal.CodeEngine || !strings.Contains(err.Error(), "covey-runner-bad: no such file") {
		t.Error(err)
	}
}

// TestUnknownEnd: where nobody tells how an instance ended, it is a crash that nobody
// can explain, and not a guess.
func TestUnknownEnd(t *testing.T) {
	s, err := newStandIn(filepath.Dir(badProgram))
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	c := badConfig("killed-run", zerolog.Nop())
	if c.Units, err = NewUnits(s.socket, s.dir+"/elsewhere", zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	defer c.Units.Close()
	c.Units.telling = 100 * time.Millisecond
	session, err := New(c).Open(t.Context(), someModel(t), hal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Run(0); hal.CodeOf(err) != hal.CodeCrash || !errors.Is(err, hal.ErrLost) || !strings.Contains(err.Error(), "systemd did not say how") {
		t.Error(err)
	}
}

// TestUnitStageRefuses what is not from systemd.
func TestUnitStageRefuses(t *testing.T) {
	if err := UnitStage("/usr/bin"); err == nil || !strings.Contains(err.Error(), "no socket from systemd") {
		t.Error(err)
	}
}

func TestOrder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/covey-runner-onnx", nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		engine string
		memory int64
		ok     bool
	}{
		{"onnx", 1, true}, {"onnx", 0, false}, {"onnx", -1, false}, {"tflite", 1, false}, {"", 1, false}, {"../covey-runner-onnx", 1, false},
		{"x/../../covey-runner-onnx", 1, false}, {"onnx\x00", 1, false}, {strings.Repeat("x", 33), 1, false},
	} {
		path, err := order{Engine: c.engine, Spec: sandbox.Spec{Memory: c.memory}}.program(dir)
		if (err == nil) != c.ok || c.ok && path != dir+"/covey-runner-onnx" {
			t.Errorf("%+v: %q, %v", c, path, err)
		}
	}
}

// TestHear: what is read from the other side has a limit, and one form.
func TestHear(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	for packet, ok := range map[string]bool{
		`{"group":"a/b"}`:           true,
		`{"group":"a/b"} {}`:        false,
		`{"group":"a/b","root":1}`:  false,
		`{"group":1}`:               false,
		`nonsense`:                  false,
		strings.Repeat(" ", 70_000): false,
	} {
		if _, err := unix.Write(pair[1], []byte(packet)); err != nil {
			t.Fatal(err)
		}
		var r ready
		from, files, err := hear(pair[0], &r)
		if (err == nil) != ok || from != os.Getpid() || len(files) != 0 {
			t.Errorf("%.30q: from %d, %d descriptors, %v", packet, from, len(files), err)
		}
	}
	six := []*os.File{os.Stdin, os.Stdin, os.Stdin, os.Stdin, os.Stdin, os.Stdin}
	if err := tell(pair[1], ready{}, six...); err != nil {
		t.Fatal(err)
	}
	var r ready
	_, files, err := hear(pair[0], &r)
	if err == nil || len(files) > maxFiles+2 {
		t.Errorf("%d descriptors: %v", len(files), err)
	}
	closeFiles(files)
	unix.Close(pair[1])
	if _, _, err := hear(pair[0], &r); err == nil {
		t.Error("nobody said something")
	}
}

func TestReport(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		result, code, status string
		want                 ending
		bad                  bool
	}{
		{"success", "exited", "0", ending{}, false},
		{"exit-code", "exited", "7", ending{status: 7}, false},
		{"signal", "killed", "SEGV", ending{signal: syscall.SIGSEGV}, false},
		{"core-dump", "dumped", "ABRT", ending{signal: syscall.SIGABRT}, false},
		{"signal", "killed", "SYS", ending{signal: syscall.SIGSYS}, false},
		{"signal", "killed", "34", ending{signal: 34}, false},
		{"oom-kill", "killed", "KILL", ending{signal: syscall.SIGKILL, starved: true}, false},
		{"resources", "", "", ending{unknown: true}, false},
		{"signal", "killed", "WHATEVER", ending{}, true},
		{"exit-code", "exited", "-1", ending{}, true},
		{"exit-code", "exited", "x", ending{}, true},
	} {
		packet := `{"invocation":"` + id + `","result":"` + c.result + `","code":"` + c.code + `","status":"` + c.status + `"}`
		of, got, err := parseReport([]byte(packet))
		if (err != nil) != c.bad || got != c.want || !c.bad && of != id {
			t.Errorf("%s: %q, %+v, %v; want %+v", packet, of, got, err, c.want)
		}
	}
}

// TestReportsOfOthers: what concerns nobody, or is nonsense, does no harm.
func TestReportsOfOthers(t *testing.T) {
	path := t.TempDir() + "/ended"
	var log bytes.Buffer
	r, err := listen(path, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789abcdef0123456789abcdef"
	told := r.expect(id)
	c, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, packet := range []string{"", "{}", strings.Repeat("x", maxReport+100), `{"invocation":"ffffffffffffffffffffffffffffffff","code":"exited","status":"0"}`,
		`{"invocation":"` + id + `","result":"signal","code":"killed","status":"SEGV"}`, `{"invocation":"` + id + `","code":"exited","status":"0"}`} {
		if _, err := c.Write([]byte(packet)); err != nil {
			t.Fatal(err)
		}
	}
	if e := <-told; e != (ending{signal: syscall.SIGSEGV}) {
		t.Errorf("%+v", e)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "not known"); n != 3 {
		t.Errorf("%d complaints, want 3: %s", n, log.String())
	}
}

// TestTellEndAlone: an agent that is gone keeps nobody waiting.
func TestTellEndAlone(t *testing.T) {
	path := t.TempDir() + "/ended"
	start := time.Now()
	if err := TellEnd(path); err != nil {
		t.Error(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.File() // keeps the file when c goes
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := TellEnd(path); err != nil {
		t.Error(err)
	}
	t.Logf("told in %v", time.Since(start))
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"invocation":"0123456789abcdef0123456789abcdef","result":"signal","code":"killed","status":"SEGV"}`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		of, e, err := parseReport(packet)
		if err == nil && (!validInvocation(of) || e.unknown && (e.signal != 0 || e.status != 0)) {
			t.Errorf("%q: %q, %+v", packet, of, e)
		}
	})
}

func FuzzOrder(f *testing.F) {
	f.Add([]byte(`{"engine":"onnx","spec":{"memory":1073741824,"access":{"read":["/a"]}},"env":["A=B"]}`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		var o order
		if strict(packet, &o) == nil && o.check() == nil && (strings.ContainsAny(o.Engine, "/.\x00") || o.Spec.Memory <= 0) {
			t.Errorf("%q", packet)
		}
	})
}
