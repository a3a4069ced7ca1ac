package modelfile

import (
	"path/filepath"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

func TestSupports(t *testing.T) {
	const gpu, tpu, cuda, vendor = hal.GPU, hal.EdgeTPU, hal.CUDA, hal.Accelerator("external:libvx_delegate.so")
	for name, c := range map[string]struct {
		file []byte
		runs []hal.Accelerator // all others refuse it
	}{
		"addition":          {haltest.AddModel(), []hal.Accelerator{hal.CPU, hal.XNNPACK, gpu, vendor, hal.Auto, ""}},
		"integer division":  {haltest.CrashingModel(), []hal.Accelerator{hal.CPU, vendor, hal.Auto, ""}},
		"unknown operators": {haltest.CustomModel("Whatever"), []hal.Accelerator{hal.CPU, vendor, hal.Auto, ""}},
		"a custom one":      {haltest.CustomModel("MaxUnpooling2D"), []hal.Accelerator{hal.CPU, hal.XNNPACK, gpu, vendor, hal.Auto, ""}},
		"for an Edge TPU":   {haltest.CustomModel("edgetpu-custom-op"), []hal.Accelerator{tpu, hal.Auto, ""}},
	} {
		m, err := Parse(c.file)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []hal.Accelerator{hal.CPU, hal.XNNPACK, gpu, tpu, cuda, hal.TensorRT, vendor, hal.Auto, ""} {
			want := hal.CodeAccel
			for _, r := range c.runs {
				if r == a {
					want = ""
				}
			}
			if err := m.Supports(a); hal.CodeOf(err) != want {
				t.Errorf("%s on %q: %v, want %q", name, a, err, want)
			}
		}
	}
	for _, path := range []string{"label_image/mobilenet_quant_v1_224.tflite", "ssd/detect.tflite", "segment/deeplabv3_257_mv_gpu.tflite"} {
		m, err := Open(filepath.Join(haltest.Models(t), path))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []hal.Accelerator{hal.CPU, hal.XNNPACK, gpu} {
			if err := m.Supports(a); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		if m.Supports(tpu) == nil {
			t.Errorf("%s is not for an Edge TPU", path)
		}
	}
}
