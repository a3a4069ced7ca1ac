package doctor

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// libedgetpu is the release that goes with the TFLite that Covey uses.
const libedgetpu = "install libedgetpu1-std 16.0TF2.17.1-1 of github.com/feranick/libedgetpu (the release that goes with TFLite 2.17.1)"

// coralUSB looks for a Coral USB Accelerator. It is 1a6e:089a (Global Unichip) until
// its firmware is loaded by the first program that uses it, and 18d1:9302 (Google)
// from then on, under another number on the bus.
func coralUSB(b *Board) []hal.Diagnosis {
	const subject = "coral usb"
	var all []hal.Diagnosis
	for _, name := range b.glob("sys/bus/usb/devices/*/idVendor") {
		at := path.Dir(name)
		fresh := false
		switch b.text(name) + ":" + b.text(at+"/idProduct") {
		case "1a6e:089a":
			fresh = true
		case "18d1:9302":
		default:
			continue
		}
		detail := "Coral USB Accelerator at " + path.Base(at)
		if fresh {
			detail += " (its firmware is loaded at first use)"
		}
		if speed, err := strconv.Atoi(b.text(at + "/speed")); err == nil && speed < 5000 && !fresh && b.Profile.USB == 2 {
			detail += fmt.Sprintf(" at %d Mbit/s: this board has USB 2 alone, where it is three times as slow", speed)
		} else if err == nil && speed < 5000 && !fresh {
			all = append(all, bad(subject, fmt.Sprintf("%s runs at %d Mbit/s, USB 2: three times as slow", detail, speed), "plug it into a blue USB 3 socket, with its own cable"))
		}
		bus, _ := strconv.Atoi(b.text(at + "/busnum"))
		dev, _ := strconv.Atoi(b.text(at + "/devnum"))
		node := fmt.Sprintf("dev/bus/usb/%03d/%03d", bus, dev)
		if err := b.Access("/" + node); err != nil {
			all = append(all, bad(subject, fmt.Sprintf("%s: /%s cannot be opened: %v", detail, node, err),
				b.coralRule()+"sudo usermod -aG plugdev "+b.User+" && sudo systemctl restart covey-agent"))
			continue
		}
		all = append(all, b.edgetpuLibrary(subject, detail))
	}
	return all
}

// coralRule is the command, with what joins it to the next, that gives a Coral on USB
// to the group plugdev; "" where a rule that does so is there.
func (b *Board) coralRule() string {
	for _, folder := range []string{"etc", "run", "usr/lib", "lib"} {
		for _, name := range []string{"60-covey.rules", "60-covey-coral.rules", "60-libedgetpu1-std.rules", "60-libedgetpu1-max.rules"} {
			if b.exists(folder + "/udev/rules.d/" + name) {
				return ""
			}
		}
	}
	return `echo 'SUBSYSTEM=="usb", ATTR{idVendor}=="1a6e|18d1", ATTR{idProduct}=="089a|9302", MODE="0660", GROUP="plugdev"'` +
		" | sudo tee /etc/udev/rules.d/60-covey-coral.rules && sudo udevadm control --reload && sudo udevadm trigger && "
}

func (b *Board) edgetpuLibrary(subject, detail string) hal.Diagnosis {
	library := b.library("libedgetpu.so.1*")
	if library == "" {
		return bad(subject, detail+", but libedgetpu.so.1 is missing", libedgetpu)
	}
	return good(subject, detail+", "+library)
}

// pci is the folders of PCI devices of a vendor; device "" is any.
func (b *Board) pci(vendor, device string) []string {
	var found []string
	for _, name := range b.glob("sys/bus/pci/devices/*/vendor") {
		if at := path.Dir(name); b.text(name) == vendor && (device == "" || b.text(at+"/device") == device) {
			found = append(found, at)
		}
	}
	return found
}

// Temperatures in °C. What is out of bounds was not measured: sensors say −87.9 or 255
// when they fail.
const coldest, hottest = -40, 150

func (b *Board) coralsPCIe() []string { return b.pci("0x1ac1", "0x089a") }

// coralPCIe looks for Corals on PCIe or M.2 and the driver that they need.
func coralPCIe(b *Board) []hal.Diagnosis {
	const subject = "coral pcie"
	found := b.coralsPCIe()
	if len(found) == 0 {
		return nil
	}
	nodes := b.glob("dev/apex_*")
	if len(nodes) < len(found) {
		return []hal.Diagnosis{bad(subject, fmt.Sprintf("%d on the bus, %d with a node /dev/apex_N: the gasket driver is not loaded", len(found), len(nodes)),
			"install gasket-dkms of github.com/feranick/gasket-driver and reboot (Google's own does not build on Linux 6.5 and newer)")}
	}
	var all []hal.Diagnosis
	for _, node := range nodes {
		detail := "Coral"
		if milli, err := strconv.Atoi(b.text("sys/class/apex/" + path.Base(node) + "/temp")); err == nil && milli > coldest*1000 && milli < hottest*1000 {
			detail = fmt.Sprintf("Coral of %d °C", milli/1000)
		}
		d := b.node(subject, detail, node, "apex")
		if d.OK {
			d = b.edgetpuLibrary(subject, d.Detail)
		}
		all = append(all, d)
	}
	return all
}

// opencl looks whether the GPU delegate of TFLite has something to stand on.
func opencl(b *Board) []hal.Diagnosis {
	const subject = "gpu"
	delegate := b.library("libtensorflowlite_gpu_delegate.so")
	icds := b.glob("etc/OpenCL/vendors/*.icd")
	if delegate == "" || b.library("libOpenCL.so.1") != "" && len(icds) > 0 {
		return nil // nothing was meant to be, or the runner's own probe has more to say
	}
	if order := b.Profile.Accelerators; order != nil && !slices.Contains(order, hal.GPU) {
		return []hal.Diagnosis{bad(subject, "a GPU delegate is installed, but no OpenCL: "+b.Profile.Name+" gains nothing by it, or has none", "sudo rm "+delegate)}
	}
	return []hal.Diagnosis{bad(subject, "a GPU delegate is installed, but no OpenCL driver in /etc/OpenCL/vendors", "install the OpenCL driver of this board's GPU (for Mali, the vendor's)")}
}

// An npu is an accelerator that is known and cannot be used by what Covey brings.
type npu struct {
	name  string
	here  func(b *Board) bool
	needs string
}

var npuTable = []npu{
	{"Hailo", func(b *Board) bool { return len(b.pci("0x1e60", "")) > 0 || len(b.glob("dev/hailo*")) > 0 },
		"an engine for HailoRT and HEF files, which does not exist yet: see hal/runner/PROTOCOL.md"},
	{"Rockchip NPU", func(b *Board) bool {
		return strings.Contains(b.text("sys/firmware/devicetree/base/compatible"), "rockchip,rk3588") && !b.teflon()
	}, "Linux 6.18 with the rocket driver and mesa-teflon-delegate; or an engine for librknnrt, which does not exist yet"},
	{"Rockchip NPU", func(b *Board) bool {
		chip := b.text("sys/firmware/devicetree/base/compatible")
		return slices.ContainsFunc([]string{"rk3562", "rk3566", "rk3568", "rk3576"}, func(c string) bool { return strings.Contains(chip, "rockchip,"+c) })
	}, "an engine for librknnrt, which does not exist yet: see hal/runner/PROTOCOL.md"},
	{"MemryX", func(b *Board) bool { return len(b.pci("0x1fe9", "")) > 0 }, "an engine for its runtime, which does not exist yet: see hal/runner/PROTOCOL.md"},
	{"Axelera", func(b *Board) bool { return len(b.pci("0x1f9d", "")) > 0 }, "an engine for its runtime, which does not exist yet: see hal/runner/PROTOCOL.md"},
	{"Intel NPU", func(b *Board) bool { return len(b.glob("sys/bus/pci/drivers/intel_vpu/0*")) > 0 }, "an engine for OpenVINO, which does not exist yet: see hal/runner/PROTOCOL.md"},
	{"AMD NPU", func(b *Board) bool { return len(b.glob("sys/bus/pci/drivers/amdxdna/0*")) > 0 }, "an engine for its runtime, which does not exist yet: see hal/runner/PROTOCOL.md"},
	{"Vivante NPU", func(b *Board) bool { return b.exists("dev/galcore") && b.library("libvx_delegate.so") == "" }, "libvx_delegate.so of the board's own software (NXP's BSP); it is then used as external:libvx_delegate.so"},
	{"Ethos-U", func(b *Board) bool {
		return len(b.glob("dev/ethosu*")) > 0 && b.library("libethosu_delegate.so") == "" && !b.teflon()
	},
		"libethosu_delegate.so of the board's own software (NXP's BSP), and models compiled with Vela"},
}

// teflon looks where Debian has it, too, where no loader searches.
func (b *Board) teflon() bool {
	return b.exists("usr/lib/teflon/libteflon.so") || b.library("libteflon.so") != ""
}

// npus names accelerators that are seen and not used.
func npus(b *Board) []hal.Diagnosis {
	var all []hal.Diagnosis
	for _, n := range npuTable {
		if n.here(b) {
			all = append(all, bad(n.name, "seen, not used by Covey", "it needs "+n.needs))
		}
	}
	return all
}
