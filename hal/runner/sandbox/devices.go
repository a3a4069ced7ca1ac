package sandbox

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// coral are the USB ids of a Coral before and after it was given its firmware.
var coral = [][2]string{{"1a6e", "089a"}, {"18d1", "9302"}}

// nodes are the device nodes of each accelerator, as patterns. Those of CUDA are
// of graphics cards and then of Jetson boards.
var nodes = map[hal.Accelerator][]string{
	hal.EdgeTPU: {"dev/apex_*"},
	hal.GPU:     {"dev/dri/renderD*", "dev/mali[0-9]*", "dev/kgsl-3d0"},
	hal.CUDA: {"dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/nvidia-caps/*", "dev/nvidia-modeset",
		"dev/nvmap", "dev/nvgpu", "dev/nvhost-*", "dev/nvsciipc", "dev/host1x-fence", "dev/dri/renderD*"},
}

// external are the nodes of all accelerators that are used by a library from
// outside, whose name says nothing of them: NPUs of the kernel's accel class, those
// driven through Mesa, VeriSilicon's, Arm's Ethos-U, and memory shared with them.
var external = []string{"dev/accel/accel*", "dev/dri/renderD*", "dev/galcore", "dev/ethosu[0-9]*", "dev/mali[0-9]*", "dev/dma_heap/*"}

// DeviceNodes are the paths of the device nodes that there are for accelerators,
// for Access.Devices: none for those that are no hardware of their own. root is "/".
//
// For a Coral on USB they are folders: it leaves the bus when it is given its
// firmware and comes back under another number, on a bus that is USB 3, so
// all buses of its host controller are in the list. The udev rule that comes with
// its library opens its own node to a group, and no other of those buses.
func DeviceNodes(root fs.FS, accelerators []hal.Accelerator) []string {
	var found []string
	for _, a := range accelerators {
		patterns := nodes[a]
		tpu := a == hal.EdgeTPU
		switch {
		case a == hal.Auto:
			found = append(found, DeviceNodes(root, []hal.Accelerator{hal.EdgeTPU, hal.GPU, hal.CUDA, "external:"})...)
		case a == hal.TensorRT:
			patterns = nodes[hal.CUDA]
		case strings.HasPrefix(string(a), "external:"):
			patterns = external
			if strings.Contains(string(a), "edgetpu") {
				patterns, tpu = nodes[hal.EdgeTPU], true
			}
		}
		for _, pattern := range patterns {
			at, _ := fs.Glob(root, pattern) // the patterns are right
			for _, name := range at {
				found = append(found, "/"+name)
			}
		}
		if tpu {
			found = append(found, coralBuses(root)...)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// usb is where the kernel shows what is on USB: "1-1.2" is a device, "usb1" a bus.
const usb = "sys/bus/usb/devices"

// coralBuses are the folders of nodes of all buses that a Coral may come back on.
func coralBuses(root fs.FS) []string {
	entries, _ := fs.ReadDir(root, usb)
	controllers := map[string]bool{}
	for _, e := range entries {
		at := path.Join(usb, e.Name())
		id := [2]string{line(root, path.Join(at, "idVendor")), line(root, path.Join(at, "idProduct"))}
		if slices.Contains(coral, id) {
			bus, _, _ := strings.Cut(e.Name(), "-")
			controllers[controller(root, bus)] = true
		}
	}
	var found []string
	for _, e := range entries {
		number, isBus := strings.CutPrefix(e.Name(), "usb")
		if isBus && controllers[controller(root, number)] {
			if n := line(root, path.Join(usb, e.Name(), "busnum")); n != "" && len(n) <= 3 && strings.Trim(n, "0123456789") == "" {
				found = append(found, "/dev/bus/usb/"+("00" + n)[len(n)-1:])
			}
		}
	}
	return found
}

// controller names the host controller of a bus: the folder its root hub is in.
// An xHCI controller has two buses, of USB 2 and of USB 3.
func controller(root fs.FS, bus string) string {
	to, err := fs.ReadLink(root, path.Join(usb, "usb"+bus))
	if err != nil {
		return "bus " + bus
	}
	return path.Dir(to)
}

func line(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil || len(b) > 64 {
		return ""
	}
	return strings.TrimSpace(string(b))
}
