//go:build cgo

package onnx

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// standIn compiles a library that stands in for one that is not on this machine.
func standIn(t *testing.T, name, source string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".c", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-Wl,-soname,"+name, "-o", path, path+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// TestLibraryOfAnotherAge: what is too old, or does not have our table, is one line.
func TestLibraryOfAnotherAge(t *testing.T) {
	runtime := func(version string) string {
		return `
static const void* api(unsigned v) { return 0; }
static const char* version(void) { return "` + version + `"; }
static const struct { const void* (*api)(unsigned); const char* (*version)(void); } base = {api, version};
const void* OrtGetApiBase(void) { return &base; }`
	}
	for _, c := range []struct{ version, want string }{
		{"1.19.2", "is ONNX Runtime 1.19.2, Covey needs 1.24 or newer: install a newer one, or remove it"},
		{"9.0.0", "is ONNX Runtime 9.0.0: it does not have version 24 of the C API"},
	} {
		_, err := Load(standIn(t, "libonnxruntime.so."+c.version, runtime(c.version)))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// TestProbeWithGPU: NVIDIA's driver and TensorRT stand in. This ONNX Runtime is for
// the CPU alone, so the GPU is seen and Probe says what is missing; with one that has
// the providers it lists devices.
func TestProbeWithGPU(t *testing.T) {
	l, err := one()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := cuda(); ok {
		t.Skip("this machine has a real driver")
	}
	// Whatever is loaded once is found by its name from then on.
	for name, source := range map[string]string{
		"libcuda.so.1": `
int cuInit(unsigned f) { return 0; }
int cuDeviceGetCount(int* n) { *n = 2; return 0; }
int cuDriverGetVersion(int* v) { *v = 12060; return 0; }
int cuDeviceGetName(char* to, int n, int i) { to[0] = 'G', to[1] = '0' + i, to[2] = 0; return 0; }`,
		"libnvinfer.so.10": "int getInferLibVersion(void) { return 100300; }",
	} {
		if _, err := Load(standIn(t, name, source)); err == nil {
			t.Fatal("it is no ONNX Runtime")
		}
	}
	found := Backend{l}.Probe()
	if len(found.Devices) != 1 || found.Devices[0].Accelerator != hal.CPU || len(found.Diagnoses) != 2 ||
		!strings.Contains(found.Diagnoses[0].Detail, "built without TensorrtExecutionProvider") || !strings.Contains(found.Diagnoses[1].Fix, "COVEY_ONNXRUNTIME") {
		t.Errorf("%+v", found)
	}
	full := *l
	full.providers = []string{"TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"}
	var got []string
	for _, d := range (Backend{&full}).Probe().Devices {
		got = append(got, strings.Join([]string{string(d.Accelerator), d.ID, d.Name, d.Driver}, "|"))
	}
	want := []string{"tensorrt|gpu:0|G0|TensorRT 10.3.0, CUDA driver 12.6", "tensorrt|gpu:1|G1|TensorRT 10.3.0, CUDA driver 12.6",
		"cuda|gpu:0|G0|CUDA driver 12.6", "cuda|gpu:1|G1|CUDA driver 12.6"}
	if len(got) != 5 || !slices.Equal(got[:4], want) {
		t.Errorf("devices %q, want %q and the cpu", got, want)
	}
}

// TestNoProvider: the chain fails with its reasons, and says what comes next before.
func TestNoProvider(t *testing.T) {
	l, err := one()
	if err != nil {
		t.Fatal(err)
	}
	model, err := os.ReadFile(filepath.Join(os.Getenv("COVEY_MODELS"), "onnx/pytorch-converted/test_Conv2d/model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(t.TempDir(), "engines")
	var steps []string
	_, err = l.Open(proto.Open{Name: "m", Accelerator: hal.TensorRT, Device: "gpu:0", Settings: map[string]string{"cache": cache, "trt_fp16_enable": "1"}},
		model, func(s string) { steps = append(steps, s) })
	if hal.CodeOf(err) != hal.CodeAccel || !strings.Contains(err.Error(), "no tensorrt here: TensorRT execution provider is not enabled in this build") {
		t.Error(err)
	}
	if !slices.Contains(steps, "loading TensorrtExecutionProvider") {
		t.Errorf("steps %q", steps)
	}
}
