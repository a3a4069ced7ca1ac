package haltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Delegate builds a TFLite delegate that stands in for a driver and returns its
// path, for "external:<path>". It takes additions of float32 tensors of one size, as
// in AddModel, really computes them, and goes by these settings:
//
//	mode     what goes wrong, below; "": nothing
//	after    so many runs go well before a mode of runs begins
//	delay    of every run, microseconds
//	dynamic  "1": it says that it can do with tensors whose size is not known yet
//
// Any other setting makes it refuse, so that a setting is seen to arrive. Modes:
//
//	refuse                                     takes no operator
//	null                                       creating it gives NULL, with a reason
//	crash-create, hang-create                  as it says
//	fail-prepare, crash-prepare, hang-prepare  when it is shown the graph
//	fail-allocate, crash-allocate              when tensors are allocated
//	fail-invoke, crash-invoke, hang-invoke     in a run
//	wrong                                      sums are 1 too large
func Delegate(t testing.TB) string {
	t.Helper()
	return SharedLibrary(t, filepath.Join(root(t), "hal/haltest/testdata/delegate.c"), "libstandin_delegate.so")
}

// SharedLibrary compiles one C file into a shared library of that name and
// returns its path. flags are the compiler's, as in "-L/x", "-l:libx.so".
func SharedLibrary(t testing.TB, source, name string, flags ...string) string {
	t.Helper()
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	path := filepath.Join(t.TempDir(), name)
	args := []string{"-shared", "-fPIC", "-O1", "-I", filepath.Join(root(t), "hal/tflite/include"), "-o", path, source}
	cmd := exec.Command(cc, append(args, flags...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", source, err, out)
	}
	return path
}

// AddModel adds x and y, four float32 each.
func AddModel() []byte {
	const addOptions = 11
	return TFLite(Op{Code: OpAdd, Kind: addOptions, Options: Table{0: uint8(0)}}, 2,
		Tensor("x", Float32Type, 4), Tensor("y", Float32Type, 4), Tensor("z", Float32Type, 4))
}
