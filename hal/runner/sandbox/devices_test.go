package sandbox

import (
	"io/fs"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/covey-edge/covey/hal"
)

func TestDeviceNodes(t *testing.T) {
	board := root(map[string]string{
		"dev/apex_0": "", "dev/dri/card0": "", "dev/dri/renderD128": "", "dev/mali0": "", "dev/galcore": "", "dev/accel/accel0": "",
		"dev/nvidia0": "", "dev/nvidiactl": "", "dev/nvidia-uvm": "", "dev/nvhost-ctrl": "", "dev/mem": "", "dev/video0": "", "dev/sda": "",
	})
	for name, text := range map[string]string{
		"pci/usb1/1-1/idVendor": "1d6b\n", "pci/usb1/1-1/idProduct": "0002\n", // a hub
		"pci/usb1/1-1.2/idVendor": "1a6e\n", "pci/usb1/1-1.2/idProduct": "089a\n",
		"pci/usb1/busnum": "1\n", "pci/usb2/busnum": "2\n", "other/usb3/busnum": "3\n",
		"other/usb3/3-1/idVendor": "046d\n", "other/usb3/3-1/idProduct": "c31c\n", // a keyboard
	} {
		board["sys/devices/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	for name, to := range map[string]string{
		"usb1": "pci/usb1", "usb2": "pci/usb2", "usb3": "other/usb3", "1-1": "pci/usb1/1-1", "1-1.2": "pci/usb1/1-1.2", "3-1": "other/usb3/3-1",
	} {
		board[usb+"/"+name] = &fstest.MapFile{Data: []byte("../../../devices/" + to), Mode: fs.ModeSymlink}
	}
	coral := []string{"/dev/apex_0", "/dev/bus/usb/001", "/dev/bus/usb/002"}
	nvidia := []string{"/dev/dri/renderD128", "/dev/nvhost-ctrl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"}
	for _, c := range []struct {
		accelerators []hal.Accelerator
		want         []string
	}{
		{nil, nil},
		{[]hal.Accelerator{hal.CPU, hal.XNNPACK}, nil},
		{[]hal.Accelerator{hal.EdgeTPU}, coral},
		{[]hal.Accelerator{"external:libedgetpu.so.1"}, coral},
		{[]hal.Accelerator{hal.GPU}, []string{"/dev/dri/renderD128", "/dev/mali0"}},
		{[]hal.Accelerator{hal.CUDA}, nvidia},
		{[]hal.Accelerator{hal.TensorRT, hal.CUDA}, nvidia},
		{[]hal.Accelerator{"external:libvx_delegate.so"}, []string{"/dev/accel/accel0", "/dev/dri/renderD128", "/dev/galcore", "/dev/mali0"}},
		{[]hal.Accelerator{hal.Auto}, []string{"/dev/accel/accel0", "/dev/apex_0", "/dev/bus/usb/001", "/dev/bus/usb/002", "/dev/dri/renderD128", "/dev/galcore",
			"/dev/mali0", "/dev/nvhost-ctrl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"}},
	} {
		if got := DeviceNodes(board, c.accelerators); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.accelerators, got, c.want)
		}
	}
	if got := DeviceNodes(fstest.MapFS{}, []hal.Accelerator{hal.Auto}); len(got) != 0 {
		t.Errorf("nothing here: %v", got)
	}
}

// FuzzCoral reads what a device says of itself: only numbers become paths.
func FuzzCoral(f *testing.F) {
	f.Add("1a6e", "089a", "1")
	f.Add("18d1", "9302", "../../mem")
	f.Fuzz(func(t *testing.T, vendor, product, bus string) {
		for _, node := range coralBuses(root(map[string]string{
			usb + "/1-1/idVendor": vendor, usb + "/1-1/idProduct": product, usb + "/usb1/busnum": bus,
		})) {
			if ok, _ := fs.Glob(root(map[string]string{node[1:]: ""}), "dev/bus/usb/[0-9][0-9][0-9]"); len(ok) != 1 {
				t.Errorf("node %q", node)
			}
		}
	})
}
