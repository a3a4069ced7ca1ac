package firmware

import (
	"strings"

	"github.com/covey-edge/covey/hal"
)

// profiles is what is known of boards by their chips, as device trees name them. A
// board without one tries every accelerator that its engines find.
var profiles = []struct {
	chip  string // the beginning of its name
	order []hal.Accelerator
}{
	// Raspberry Pi: the GPU is slower than the CPU, and OpenCL on it breaks.
	{"brcm,bcm2", []hal.Accelerator{hal.EdgeTPU, "external:*", hal.XNNPACK, hal.CPU}},
	// i.MX 8M Plus: its NPU comes as a delegate and beats its GPU.
	{"fsl,imx8mp", []hal.Accelerator{hal.EdgeTPU, "external:*", hal.GPU, hal.XNNPACK, hal.CPU}},
	// Jetson: no OpenCL for TFLite's GPU delegate.
	{"nvidia,tegra", []hal.Accelerator{hal.TensorRT, hal.CUDA, hal.EdgeTPU, "external:*", hal.XNNPACK, hal.CPU}},
}

// order is what a board of that chip tries, best first; nil: whatever there is.
func order(chip string) []hal.Accelerator {
	for _, p := range profiles {
		if strings.HasPrefix(chip, p.chip) {
			return p.order
		}
	}
	return nil
}
