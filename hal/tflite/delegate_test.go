package tflite

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner"
)

// These tests run the real runner program with libraries made for them.

func engine(t *testing.T, env ...string) *runner.Engine {
	return runner.New(runner.Config{Name: "tflite", Program: haltest.Program(t, "covey-runner-tflite"), Env: env})
}

func addModel(t *testing.T) hal.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "add.tflite")
	if err := os.WriteFile(path, haltest.AddModel(), 0o600); err != nil {
		t.Fatal(err)
	}
	return hal.Model{Name: "add.tflite", Path: path}
}

func floats(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// add runs 1 2 3 4 + 10 20 30 40 and returns the first sum.
func add(s hal.Session) (float32, error) {
	copy(s.Input(0, 0), floats(1, 2, 3, 4))
	copy(s.Input(0, 1), floats(10, 20, 30, 40))
	if _, err := s.Run(0); err != nil {
		return 0, err
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(s.Output(0, 0).Data)), nil
}

// TestDelegate goes through all that a delegate may do. Whatever it is, the next
// Open works.
func TestDelegate(t *testing.T) {
	lib := haltest.Delegate(t)
	external := hal.Accelerator("external:" + lib)
	e, m := engine(t), addModel(t)
	const name = "libstandin_delegate.so"
	for _, c := range []struct {
		settings string // "key=value,…"
		open     hal.Code
		run      hal.Code
		says     string
		sum      float32
	}{
		{settings: "", sum: 11},
		{settings: "dynamic=1", sum: 11},
		{settings: "mode=wrong", sum: 12},
		{settings: "mode=wrong,after=1", sum: 11},
		{settings: "colour=red", open: hal.CodeAccel, says: name + " made no delegate: stand-in: no option colour"},
		{settings: "mode=null", open: hal.CodeAccel, says: name + " made no delegate: stand-in: no device found"},
		{settings: "mode=refuse", open: hal.CodeAccel, says: name + " took none of the 1 operators of add.tflite"},
		{settings: "mode=fail-prepare", open: hal.CodeAccel, says: "with " + name + " refused it: stand-in: firmware is too old"},
		{settings: "mode=fail-allocate", open: hal.CodeAccel, says: "refused it: stand-in: no room for 1 operators"},
		{settings: "mode=fail-allocate,dynamic=1", open: hal.CodeAccel, says: "allocating tensors with external:" + lib + " refused it: stand-in: no room for 1 operators"},
		{settings: "mode=crash-create", open: hal.CodeCrash, says: "SIGSEGV in creating the delegate of " + name},
		{settings: "mode=crash-prepare", open: hal.CodeCrash, says: "SIGSEGV in Prepare with " + name},
		{settings: "mode=crash-allocate,dynamic=1", open: hal.CodeCrash, says: "SIGSEGV in AllocateTensors with external:" + lib},
		{settings: "mode=hang-create", open: hal.CodeTimeout, says: "creating the delegate of " + name},
		{settings: "mode=hang-prepare", open: hal.CodeTimeout, says: "Prepare with " + name},
		{settings: "mode=fail-invoke", run: hal.CodeInvoke, says: "stand-in: the device said no in run 1"},
		{settings: "mode=crash-invoke", run: hal.CodeCrash, says: "SIGSEGV in run"},
		{settings: "mode=hang-invoke", run: hal.CodeTimeout, says: "run"},
	} {
		t.Run(c.settings, func(t *testing.T) {
			t.Parallel()
			settings := map[string]string{}
			for pair := range strings.SplitSeq(c.settings, ",") {
				if k, v, ok := strings.Cut(pair, "="); ok {
					settings[k] = v
				}
			}
			o := hal.Options{Accelerator: external, Settings: settings, Threads: 1}
			if c.open == hal.CodeTimeout {
				o.OpenTimeout = time.Second
			}
			if c.run == hal.CodeTimeout {
				o.Deadline = 300 * time.Millisecond
			}
			check := func(err error, want hal.Code) {
				t.Helper()
				if hal.CodeOf(err) != want || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n")) {
					t.Errorf("%v, want %q that says %q", err, want, c.says)
				}
				lost := want == hal.CodeCrash || want == hal.CodeTimeout
				if errors.Is(err, hal.ErrLost) != lost {
					t.Errorf("%v: the runner is lost: %v, want %v", err, !lost, lost)
				}
			}
			s, err := e.Open(t.Context(), m, o)
			check(err, c.open)
			if err == nil {
				defer s.Close()
				i := s.Info()
				if i.Accelerator != external || i.Ops != 1 || i.Delegated != 1 || !strings.HasPrefix(i.Driver, name+" fnv1a:") || i.Settings["mode"] != settings["mode"] {
					t.Errorf("opened as %s, %d of %d operators, driver %q, settings %v", i.Accelerator, i.Delegated, i.Ops, i.Driver, i.Settings)
				}
				sum, err := add(s)
				check(err, c.run)
				if sum != c.sum {
					t.Errorf("1+10 = %v, want %v", sum, c.sum)
				}
			}
			again, err := e.Open(t.Context(), m, hal.Options{Accelerator: external, Threads: 1})
			if err != nil {
				t.Fatalf("the next Open: %v", err)
			}
			defer again.Close()
			if sum, err := add(again); err != nil || sum != 11 {
				t.Errorf("the next run: %v, %v", sum, err)
			}
		})
	}
}

// TestDelegateGoesBadLater is what a fallback at run time has to see.
func TestDelegateGoesBadLater(t *testing.T) {
	s, err := engine(t).Open(t.Context(), addModel(t), hal.Options{
		Accelerator: hal.Accelerator("external:" + haltest.Delegate(t)), Settings: map[string]string{"mode": "fail-invoke", "after": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for n := range 4 {
		_, err := add(s)
		if want := map[bool]hal.Code{true: hal.CodeInvoke}[n >= 2]; hal.CodeOf(err) != want || errors.Is(err, hal.ErrLost) {
			t.Errorf("run %d: %v, want %q", n+1, err, want)
		}
	}
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	if sum, err := add(s); err != nil || sum != 11 {
		t.Errorf("after Reset: %v, %v; want the delegate made anew", sum, err)
	}
}

// compile makes a shared library of C text.
func compile(t *testing.T, name, text string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.c")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return haltest.SharedLibrary(t, path, name, flags...)
}

// TestLibraries is where libraries are looked for, and what is said of those that
// cannot be used.
func TestLibraries(t *testing.T) {
	lib := haltest.Delegate(t)
	m := addModel(t)
	plain := compile(t, "libplain.so", "int x;")
	broken := compile(t, "libbroken.so", "void nowhere(void); void* tflite_plugin_create_delegate(void) { nowhere(); return 0; }")
	needed := compile(t, "libneeded.so", "void somewhere(void) {}")
	lacking := compile(t, "liblacking.so", "void somewhere(void); void* tflite_plugin_create_delegate(void) { somewhere(); return 0; }",
		"-L"+filepath.Dir(needed), "-l:libneeded.so")
	if err := os.Remove(needed); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "libtext.so")
	if err := os.WriteFile(text, []byte("not a library\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for library, says := range map[string]string{
		"/nowhere/lib.so":       "/nowhere/lib.so is not installed",
		"libcovey_not_there.so": "libcovey_not_there.so is not installed",
		plain:                   "is no TFLite delegate: it has no tflite_plugin_create_delegate",
		broken:                  "undefined symbol: nowhere",
		lacking:                 "liblacking.so cannot be loaded: libneeded.so: cannot open shared object file",
		text:                    "cannot be loaded",
		"":                      "is no delegate library",
		"../lib.so":             "is no delegate library",
	} {
		s, err := engine(t).Open(t.Context(), m, hal.Options{Accelerator: hal.Accelerator("external:" + library)})
		if err == nil {
			s.Close()
		}
		if hal.CodeOf(err) != hal.CodeAccel || errors.Is(err, hal.ErrLost) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %s that says %q", library, err, hal.CodeAccel, says)
		}
	}

	// By name: on the loader's path, and in lib/ beside the program.
	s, err := engine(t, "LD_LIBRARY_PATH="+filepath.Dir(lib)).Open(t.Context(), m, hal.Options{Accelerator: "external:libstandin_delegate.so"})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	beside := t.TempDir()
	program := haltest.Program(t, "covey-runner-tflite")
	for from, to := range map[string]string{program: "covey-runner-tflite", lib: "lib/libstandin_delegate.so",
		filepath.Dir(program) + "/lib/libtensorflowlite_c.so": "lib/libtensorflowlite_c.so"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Join(beside, "lib"), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(beside, to), b, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err = runner.New(runner.Config{Name: "tflite", Program: beside + "/covey-runner-tflite"}).
		Open(t.Context(), m, hal.Options{Accelerator: "external:libstandin_delegate.so"})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// TestXNNPACKFlags sees that flags arrive: without those for quantised operators
// nothing of MobileNet is taken.
func TestXNNPACKFlags(t *testing.T) {
	m := hal.Model{Name: "mobilenet", Path: filepath.Join(haltest.Models(t), "label_image/mobilenet_quant_v1_224.tflite")}
	for flags, want := range map[string]hal.Code{"": hal.CodeAccel, "qs8": hal.CodeAccel, "qu8": "", "qs8,qu8,transient,latest": ""} {
		s, err := engine(t).Open(t.Context(), m, hal.Options{Accelerator: hal.XNNPACK, Settings: map[string]string{"flags": flags}, Threads: 1})
		if err == nil {
			s.Close()
		}
		if hal.CodeOf(err) != want || err != nil && !strings.Contains(err.Error(), "XNNPACK took none of the 31 operators of mobilenet") {
			t.Errorf("flags %q: %v, want %q", flags, err, want)
		}
	}
}
