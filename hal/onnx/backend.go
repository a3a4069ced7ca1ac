//go:build cgo

package onnx

import (
	"fmt"
	"runtime"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// A Backend serves the runner protocol with ONNX Runtime.
type Backend struct{ Library *Library }

// Engine names the engine and the runtime.
func (b Backend) Engine() (name, runtime string) { return "onnx", b.runtime() }

func (b Backend) runtime() string { return "onnxruntime " + b.Library.version }

// Open loads a model.
func (b Backend) Open(o proto.Open, data []byte, step func(string)) (proto.Model, error) {
	m, err := b.Library.Open(o, data, step)
	if err != nil {
		return nil, err // not a typed nil
	}
	return m, nil
}

// Probe lists the GPUs that the library can use, and the CPU. Where there is a GPU
// and it cannot be used, it says why.
func (b Backend) Probe() proto.Found {
	var f proto.Found
	if driver, ok := cuda(); ok {
		trt := tensorRT()
		for _, a := range []hal.Accelerator{hal.TensorRT, hal.CUDA} {
			if d := diagnose(a, b.Library, trt); !d.OK {
				f.Diagnoses = append(f.Diagnoses, d)
				continue
			}
			for i, name := range driver.gpus {
				f.Devices = append(f.Devices, hal.Device{Accelerator: a, ID: fmt.Sprintf("gpu:%d", i), Name: name,
					Runtime: b.runtime(), Driver: driverOf(a, driver, trt)})
			}
		}
	}
	f.Devices = append(f.Devices, hal.Device{Accelerator: hal.CPU, Name: fmt.Sprintf("%d cores", runtime.NumCPU()), Runtime: b.runtime()})
	return f
}

func diagnose(a hal.Accelerator, l *Library, trt string) hal.Diagnosis {
	d := hal.Diagnosis{Subject: string(a)}
	switch {
	case !l.has(a):
		d.Detail = "there is an NVIDIA GPU, but this ONNX Runtime was built without " + providers[a]
		d.Fix = "install NVIDIA's build of ONNX Runtime (onnxruntime-gpu) and name its libonnxruntime.so in COVEY_ONNXRUNTIME"
	case a == hal.TensorRT && trt == "":
		d.Detail, d.Fix = "there is an NVIDIA GPU, but no libnvinfer", "install TensorRT (apt-get install tensorrt on a Jetson)"
	default:
		d.OK, d.Detail = true, "compiled in"
	}
	return d
}

func driverOf(a hal.Accelerator, d cudaDriver, trt string) string {
	if a == hal.TensorRT {
		return fmt.Sprintf("TensorRT %s, CUDA driver %s", trt, d.version)
	}
	return "CUDA driver " + d.version
}
