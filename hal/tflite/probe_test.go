package tflite

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

const (
	googleLabel = "BuildLabel(COMPILER=6.3.0 20170516,DATE=redacted,TIME=redacted), RuntimeVersion(14)"
	goodLabel   = "BuildLabel(COMPILER=12.2.0,DATE=Jul 10 2025,TIME=09:51:57), RuntimeVersion(14)"
)

// edgeTPU makes a libedgetpu with so many devices and returns the runner's
// environment that finds it.
func edgeTPU(t *testing.T, usb, pci int, label string) string {
	t.Helper()
	source, err := filepath.Abs("testdata/edgetpu.c")
	if err != nil {
		t.Fatal(err)
	}
	lib := compile(t, edgeTPULibrary, fmt.Sprintf("#define USB %d\n#define PCI %d\n#define LABEL %q\n#include %q\n", usb, pci, label, source))
	return "LD_LIBRARY_PATH=" + filepath.Dir(lib)
}

func TestEdgeTPU(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.tflite")
	if err := os.WriteFile(path, haltest.CustomModel("edgetpu-custom-op"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := hal.Model{Name: "edge.tflite", Path: path}
	env := edgeTPU(t, 2, 1, goodLabel)
	s, err := engine(t, env).Open(t.Context(), m, hal.Options{Accelerator: hal.EdgeTPU, Device: "usb:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if i := s.Info(); i.Accelerator != hal.EdgeTPU || i.Device != "usb:1" || i.Delegated != 1 || i.Ops != 1 ||
		!strings.HasPrefix(i.Driver, "libedgetpu.so.1 fnv1a:") || !strings.HasSuffix(i.Driver, ", runtime 14, compiler 12.2.0, date Jul 10 2025") {
		t.Errorf("opened %+v", i)
	}
	copy(s.Input(0, 0), floats(7))
	if _, err := s.Run(0); err != nil || !bytes.Equal(s.Output(0, 0).Data, floats(7)) {
		t.Errorf("run: %v, %v", s.Output(0, 0).Data, err)
	}

	for _, c := range []struct {
		env, device string
		settings    map[string]string
		says        string
	}{
		{env, "pci:7", map[string]string{"Performance": "Low", "Usb.AlwaysDfu": "False", "Usb.MaxBulkInQueueLength": "255"},
			"stand-in was told Performance=Low Usb.AlwaysDfu=False Usb.MaxBulkInQueueLength=255 device=pci:7"},
		{env, "usb:x", nil, `edgetpu has no device "usb:x"`},
		{env, "", map[string]string{"Speed": "9"}, `edgetpu has no setting "Speed"`},
		{env, "", map[string]string{"Performance": "Turbo"}, `cannot be "Turbo": it is one of (Low|Medium|High|Max)`},
		{env, "", map[string]string{"Usb.MaxBulkInQueueLength": "256"}, `cannot be "256"`},
		{"LD_LIBRARY_PATH=/nowhere", "", nil, "libedgetpu.so.1 is not installed"},
		{edgeTPU(t, 0, 0, goodLabel), "", nil, "libedgetpu.so.1 (runtime 14, compiler 12.2.0, date Jul 10 2025) made no delegate"},
		{edgeTPU(t, 1, 0, googleLabel), "", nil, "with TFLite 2.17.1 it is known to crash: install libedgetpu 16.0TF2.17.1"},
	} {
		s, err := engine(t, c.env).Open(t.Context(), m, hal.Options{Accelerator: hal.EdgeTPU, Device: c.device, Settings: c.settings})
		if err == nil {
			s.Close()
		}
		if hal.CodeOf(err) != hal.CodeAccel || !strings.Contains(err.Error(), c.says) {
			t.Errorf("device %q, %v: %v, want %s that says %q", c.device, c.settings, err, hal.CodeAccel, c.says)
		}
	}
}

// TestTwoCorals: models on both at once, two of them on one.
func TestTwoCorals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.tflite")
	if err := os.WriteFile(path, haltest.CustomModel("edgetpu-custom-op"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := engine(t, edgeTPU(t, 1, 1, goodLabel))
	var open []hal.Session
	for _, device := range []string{"usb:0", "pci:0", "usb:0"} {
		s, err := e.Open(t.Context(), hal.Model{Name: "edge.tflite", Path: path}, hal.Options{Accelerator: hal.EdgeTPU, Device: device})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got := s.Info().Device; got != device {
			t.Errorf("asked for %s, got %s", device, got)
		}
		open = append(open, s)
	}
	for i, s := range open {
		copy(s.Input(0, 0), floats(float32(i)))
		if _, err := s.Run(0); err != nil || !bytes.Equal(s.Output(0, 0).Data, floats(float32(i))) {
			t.Errorf("model %d: %v, %v", i, s.Output(0, 0).Data, err)
		}
	}
}

// gpu makes a GPU delegate, and an OpenCL library with so many platforms.
func gpu(t *testing.T, platforms int) string {
	t.Helper()
	source, err := filepath.Abs("../haltest/testdata/delegate.c")
	if err != nil {
		t.Fatal(err)
	}
	// As in the real one there is no plugin entry.
	lib := compile(t, gpuLibrary, fmt.Sprintf(`
#define tflite_plugin_create_delegate make
#define tflite_plugin_destroy_delegate drop
#include %q
TfLiteDelegate* TfLiteGpuDelegateV2Create(const void* options) { return options ? NULL : make(NULL, NULL, 0, NULL); }
void TfLiteGpuDelegateV2Delete(TfLiteDelegate* d) { drop(d); }
`, source))
	cl := compile(t, "libOpenCL.so.1", fmt.Sprintf("int clGetPlatformIDs(unsigned room, void* ids, unsigned* n) { *n = %d; return 0; }", platforms))
	return "LD_LIBRARY_PATH=" + filepath.Dir(lib) + ":" + filepath.Dir(cl)
}

func TestGPU(t *testing.T) {
	e := engine(t, gpu(t, 1))
	s, err := e.Open(t.Context(), addModel(t), hal.Options{Accelerator: hal.GPU})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if sum, err := add(s); err != nil || sum != 11 || !strings.HasPrefix(s.Info().Driver, gpuLibrary+" fnv1a:") {
		t.Errorf("sum %v, %v, driver %q", sum, err, s.Info().Driver)
	}
	if _, err := e.Open(t.Context(), addModel(t), hal.Options{Accelerator: hal.GPU, Settings: map[string]string{"precision": "low"}}); hal.CodeOf(err) != hal.CodeAccel {
		t.Errorf("with a setting: %v, want %s", err, hal.CodeAccel)
	}
}

func TestProbe(t *testing.T) {
	teflon := func(mode string) string {
		source, err := filepath.Abs("../haltest/testdata/delegate.c")
		if err != nil {
			t.Fatal(err)
		}
		return "LD_LIBRARY_PATH=" + filepath.Dir(compile(t, "libteflon.so", fmt.Sprintf("#define DEFAULT_MODE %q\n#include %q\n", mode, source)))
	}
	for _, c := range []struct {
		name, env string
		devices   []string // besides XNNPACK and CPU: accelerator and id
		diagnoses []string // besides the runner's and XNNPACK's: subject, ok, begin of detail
	}{
		{"nothing", "LD_LIBRARY_PATH=/nowhere", nil, nil},
		{"three Corals", edgeTPU(t, 2, 1, goodLabel), []string{"edgetpu usb:0", "edgetpu usb:1", "edgetpu pci:0"}, []string{"edgetpu true libedgetpu.so.1 (runtime 14"}},
		{"no Coral", edgeTPU(t, 0, 0, goodLabel), nil, []string{"edgetpu false libedgetpu.so.1 (runtime 14, compiler 12.2.0, date Jul 10 2025) is here and sees no Edge TPU"}},
		{"a pair that crashes", edgeTPU(t, 1, 0, googleLabel), nil, []string{"edgetpu false libedgetpu (runtime 14, compiler 6.3.0 20170516, date redacted) is Google's own build"}},
		{"GPU", gpu(t, 2), []string{"gpu "}, nil},
		{"no OpenCL", gpu(t, 0), nil, []string{"gpu false libtensorflowlite_gpu_delegate.so is here, but no OpenCL: "}},
		{"half a GPU", "LD_LIBRARY_PATH=" + filepath.Dir(compile(t, gpuLibrary, "void nowhere(void); void x(void) { nowhere(); }")), nil,
			[]string{"gpu false libtensorflowlite_gpu_delegate.so cannot be loaded: "}},
		{"Teflon", teflon(""), []string{"external:libteflon.so "}, nil},
		{"Teflon without its NPU", teflon("null"), nil, []string{"libteflon.so false libteflon.so made no delegate: stand-in: no device found"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			devices, diagnoses := engine(t, c.env).Probe(t.Context())
			var found []string
			for _, d := range devices {
				if d.Runtime != "tflite 2.17.1" || d.Name == "" {
					t.Errorf("device %+v", d)
				}
				found = append(found, string(d.Accelerator)+" "+d.ID)
			}
			if want := append(c.devices, "xnnpack ", "cpu "); strings.Join(found, ",") != strings.Join(want, ",") {
				t.Errorf("devices %q, want %q", found, want)
			}
			var said []string
			for _, d := range diagnoses {
				if d.OK != (d.Fix == "") {
					t.Errorf("%+v: a fix is for what is missing", d)
				}
				if d.Subject != "runner tflite" && d.Subject != "xnnpack" {
					said = append(said, fmt.Sprintf("%s %v %s", d.Subject, d.OK, d.Detail))
				}
			}
			ok := len(said) == len(c.diagnoses)
			for i := range min(len(said), len(c.diagnoses)) {
				ok = ok && strings.HasPrefix(said[i], c.diagnoses[i])
			}
			if !ok {
				t.Errorf("diagnoses %q, want %q", said, c.diagnoses)
			}
		})
	}
}
