package doctor

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
)

// board is one with these files and nothing wrong.
func board(files map[string]string) Board {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	return Board{
		Root: root, Arch: "arm64", Data: "/var/lib/covey", User: "covey", PageSize: 4096, Now: now, Floor: now.AddDate(0, -1, 0),
		Access: func(path string) error {
			if _, err := fs.Stat(root, strings.TrimPrefix(path, "/")); err != nil {
				return errors.New("permission denied")
			}
			return nil
		},
		Disk: func(string) (uint64, uint64, error) { return 8 << 30, 16 << 30, nil },
	}
}

const (
	usb    = "sys/bus/usb/devices/2-1/"
	coral  = "sys/bus/pci/devices/0001:01:00.0/"
	lib    = "usr/lib/aarch64-linux-gnu/"
	thr    = "sys/devices/platform/soc/soc:firmware/get_throttled"
	zone   = "sys/class/thermal/thermal_zone0/"
	synced = "run/systemd/timesync/synchronized"

	mounted = "25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n"
)

func coralStick(id, speed string) map[string]string {
	vendor, product, _ := strings.Cut(id, ":")
	return map[string]string{usb + "idVendor": vendor + "\n", usb + "idProduct": product + "\n", usb + "speed": speed + "\n",
		usb + "busnum": "2\n", usb + "devnum": "3\n", "dev/bus/usb/002/003": "", lib + "libedgetpu.so.1.0": ""}
}

// is makes a board one of those that are known.
func is(t testing.TB, profile string) func(*Board) {
	all := firmware.Profiles()
	i := slices.IndexFunc(all, func(p firmware.Profile) bool { return p.ID == profile })
	if i < 0 {
		t.Fatalf("no profile %s", profile)
	}
	return func(b *Board) { b.Profile = all[i] }
}

// both is one change after another.
func both(changes ...func(*Board)) func(*Board) {
	return func(b *Board) {
		for _, c := range changes {
			c(b)
		}
	}
}

// forbid takes the user's permissions away.
func forbid(b *Board) { b.Access = func(string) error { return errors.New("permission denied") } }

// without is files less one.
func without(files map[string]string, name string) map[string]string {
	delete(files, name)
	return files
}

// with is files and one more.
func with(files map[string]string, name string) map[string]string {
	files[name] = ""
	return files
}

func TestExamine(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   map[string]string
		change  func(*Board)
		subject string
		ok      bool
		detail  string // part of it
		fix     string // part of it
	}{
		{"glibc of Debian 12", map[string]string{lib + "libc.so.6": "\x7fELF…GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36.\n"}, nil, "glibc", true, "2.36", ""},
		{"glibc of Debian 11", map[string]string{lib + "libc.so.6": "GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\n"}, nil, "glibc", false, "2.31, the runtimes need 2.34", "Debian 12"},
		{"musl", map[string]string{"lib/ld-musl-aarch64.so.1": ""}, nil, "glibc", false, "musl", "glibc 2.34"},
		{"JetPack 6", map[string]string{"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1"}, nil, "jetpack", true, "JetPack 6", ""},
		{"JetPack 5", map[string]string{"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1"}, nil, "jetpack", false, "JetPack 5", "flash JetPack 6"},
		{"JetPack 4", map[string]string{"etc/nv_tegra_release": "# R32 (release), REVISION: 7.1"}, nil, "jetpack", false, "JetPack 4", "flash JetPack 6"},
		{"a later JetPack", map[string]string{"etc/nv_tegra_release": "# R38 (release), REVISION: 2.0"}, nil, "jetpack", true, "not seen", ""},
		{"no Tegra release", map[string]string{"etc/nv_tegra_release": "???"}, nil, "jetpack", false, "not understood", "JetPack 6"},
		{"16 KiB pages", nil, func(b *Board) { b.PageSize = 16384 }, "pages", true, "16 KiB", ""},
		{"16 KiB pages and a Coral", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n"}, func(b *Board) { b.PageSize = 16384 }, "pages", false, "16 KiB", "pages of 4 KiB"},
		{"power", map[string]string{thr: "0\n"}, is(t, "raspberrypi-4"), "power", true, "no under-voltage", ""},
		{"under-voltage", map[string]string{thr: "50005\n"}, is(t, "raspberrypi-4"), "power", false, "under-voltage now", "power supply"},
		{"under-voltage before", map[string]string{thr: "0x50000\n"}, is(t, "raspberrypi-4"), "power", false, "since the last boot", "power supply"},
		{"throttled", map[string]string{thr: "4\n"}, is(t, "raspberrypi-4"), "power", false, "throttled now", "cool"},
		{"throttled before", map[string]string{thr: "80000\n"}, is(t, "raspberrypi-4"), "power", false, "throttled since", "cool"},
		{"under-voltage without get_throttled", map[string]string{"sys/class/hwmon/hwmon1/name": "rpi_volt\n", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n"}, is(t, "raspberrypi-5"), "power", false, "under-voltage now", "power supply"},
		{"too much current", map[string]string{"sys/class/hwmon/hwmon3/name": "soctherm_oc\n", "sys/class/hwmon/hwmon3/oc2_event_cnt": "3\n"}, is(t, "jetson-orin"), "power", false, "more current than it gets since", "nvpmodel"},
		{"throttled by the kernel", map[string]string{"sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n", "sys/class/thermal/cooling_device0/cur_state": "1\n"}, nil, "power", false, "throttled now", "cool"},
		{"warm", map[string]string{zone + "temp": "51200\n", zone + "type": "cpu-thermal\n"}, nil, "heat", true, "51 °C", ""},
		{"hot", map[string]string{zone + "temp": "84000\n", zone + "type": "cpu-thermal\n"}, nil, "heat", false, "84 °C at cpu-thermal", "cool"},
		{"clock", map[string]string{synced: ""}, nil, "clock", true, "network", ""},
		{"clock of a PC", map[string]string{"sys/class/rtc/rtc0/name": "rtc_cmos"}, nil, "clock", true, "board alone", ""},
		{"no clock", nil, nil, "clock", false, "battery", "set-ntp true"},
		{"clock of 1970", map[string]string{synced: ""}, func(b *Board) { b.Now = time.Unix(0, 0) }, "clock", false, "1970-01-01", "set-ntp true"},
		{"disk", nil, nil, "disk", true, "8192 MiB free of 16384", ""},
		{"disk full", nil, func(b *Board) { b.Disk = func(string) (uint64, uint64, error) { return 1 << 20, 8 << 30, nil } }, "disk", false, "may not fit", "vacuum"},
		{"no data folder", nil, func(b *Board) { b.Disk = func(string) (uint64, uint64, error) { return 0, 0, fs.ErrNotExist } }, "disk", false, "not exist", "install -d -o covey /var/lib/covey"},
		{"read-only", map[string]string{"proc/self/mounts": "/dev/a / ext4 rw,noatime 0 0\n/dev/b /var ext4 ro,noatime 0 0\n"}, nil, "disk", false, "read-only", "dmesg"},
		{"a card", map[string]string{"proc/self/mountinfo": mounted, "sys/class/block/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/device/type": "SD\n", "sys/block/mmcblk0/stat": "0 0 0 0 0 0 2097152 0 0 0 0", "proc/uptime": "86400.21 300000.00\n"}, nil, "storage", true, "SD card mmcblk0: 1.0 GiB a day", ""},
		{"a card that is written to death", map[string]string{"proc/self/mountinfo": mounted, "sys/class/block/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/device/type": "SD\n", "sys/block/mmcblk0/stat": "0 0 0 0 0 0 4194304 0 0 0 0", "proc/uptime": "7200.21 300000.00\n"}, nil, "storage", false, "24.0 GiB a day", "journald"},
		{"a disk that bears it", map[string]string{"proc/self/mountinfo": strings.ReplaceAll(mounted, "179:2", "259:1"), "sys/class/block/nvme0n1p1/dev": "259:1", "sys/block/nvme0n1/nvme0n1p1/dev": "259:1", "sys/block/nvme0n1/stat": "0 0 0 0 0 0 4194304 0 0 0 0", "proc/uptime": "7200.21 300000.00\n"}, nil, "storage", true, "NVMe disk nvme0n1: 24.0 GiB a day", ""},
		{"a board that has just started", map[string]string{"proc/self/mountinfo": mounted, "sys/class/block/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/device/type": "SD\n", "sys/block/mmcblk0/stat": "0 0 0 0 0 0 4194304 0 0 0 0", "proc/uptime": "60 1\n"}, nil, "storage", true, "SD card mmcblk0", ""},
		{"a trap", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n"}, both(is(t, "raspberrypi-5"), func(b *Board) { b.PageSize = 16384 }), "board", false, "pages of 16 KiB", "kernel8.img"},
		{"a trap that is said once", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n"}, both(is(t, "raspberrypi-5"), func(b *Board) { b.PageSize = 16384 }), "pages", true, "16 KiB", ""},
		{"good to know", nil, is(t, "raspberrypi-zero-2"), "board", true, "stopped first", ""},
		{"an Edge TPU that is away", nil, is(t, "coral-dev-board"), "board", false, "not on its PCIe bus", "reboot"},
		{"Coral on a board without USB 3", coralStick("18d1:9302", "480"), is(t, "raspberrypi-3"), "coral usb", true, "has USB 2 alone", ""},
		{"hot for a Pi, not for a Jetson", map[string]string{zone + "temp": "88000\n", zone + "type": "cpu-thermal\n"}, is(t, "jetson-orin"), "heat", true, "88 °C", ""},
		{"a sensor that does not count", map[string]string{zone + "temp": "100000\n", zone + "type": "PMIC-Die\n", "sys/class/thermal/thermal_zone1/temp": "34000\n", "sys/class/thermal/thermal_zone1/type": "CPU-therm\n"}, is(t, "jetson-nano"), "heat", true, "34 °C", ""},
		{"wear", map[string]string{"sys/class/mmc_host/mmc0/mmc0:0001/life_time": "0x02 0x01\n", "sys/class/mmc_host/mmc0/mmc0:0001/pre_eol_info": "0x01\n"}, nil, "wear", true, "20 %", ""},
		{"worn out", map[string]string{"sys/class/mmc_host/mmc0/mmc0:0001/life_time": "0x0b 0x01\n"}, nil, "wear", false, "100 %", "replace"},
		{"out of spare blocks", map[string]string{"sys/class/mmc_host/mmc0/mmc0:0001/life_time": "0x01 0x01\n", "sys/class/mmc_host/mmc0/mmc0:0001/pre_eol_info": "0x03\n"}, nil, "wear", false, "hardly any spare blocks", "replace"},
		{"short of spare blocks", map[string]string{"sys/class/mmc_host/mmc0/mmc0:0001/life_time": "0x01 0x01\n", "sys/class/mmc_host/mmc0/mmc0:0001/pre_eol_info": "0x02\n"}, nil, "wear", false, "most of its spare blocks", "replace"},
		{"Coral", coralStick("18d1:9302", "5000"), nil, "coral usb", true, "2-1, /usr/lib/aarch64-linux-gnu/libedgetpu", ""},
		{"Coral before its firmware", coralStick("1a6e:089a", "480"), nil, "coral usb", true, "at first use", ""},
		{"Coral on USB 2", coralStick("18d1:9302", "480"), nil, "coral usb", false, "480 Mbit/s, USB 2", "USB 3"},
		{"Coral without permission", without(coralStick("18d1:9302", "5000"), "dev/bus/usb/002/003"), nil, "coral usb", false, "/dev/bus/usb/002/003 cannot be opened", "udev"},
		{"Coral without permission, with our rules", with(without(coralStick("18d1:9302", "5000"), "dev/bus/usb/002/003"), "usr/lib/udev/rules.d/60-covey.rules"), nil, "coral usb", false, "cannot be opened", "sudo usermod -aG plugdev covey"},
		{"Coral without its library", without(coralStick("18d1:9302", "5000"), lib+"libedgetpu.so.1.0"), nil, "coral usb", false, "libedgetpu.so.1 is missing", "16.0TF2.17.1-1"},
		{"Coral on PCIe", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n", "dev/apex_0": "", "sys/class/apex/apex_0/temp": "46300", lib + "libedgetpu.so.1": ""}, nil, "coral pcie", true, "46 °C", ""},
		{"Coral on PCIe with a broken sensor", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n", "dev/apex_0": "", "sys/class/apex/apex_0/temp": "-87900", lib + "libedgetpu.so.1": ""}, nil, "coral pcie", true, "Coral, /dev/apex_0", ""},
		{"Coral on PCIe without driver", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n"}, nil, "coral pcie", false, "gasket driver is not loaded", "gasket-dkms"},
		{"Coral on PCIe without permission", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n", "dev/apex_0": "", lib + "libedgetpu.so.1": ""}, forbid, "coral pcie", false, "/dev/apex_0 cannot be opened", "usermod -aG apex covey"},
		{"Coral on PCIe without its library", map[string]string{coral + "vendor": "0x1ac1\n", coral + "device": "0x089a\n", "dev/apex_0": ""}, nil, "coral pcie", false, "libedgetpu.so.1 is missing", "16.0TF2.17.1-1"},
		{"GPU delegate on a Pi", map[string]string{"usr/local/lib/libtensorflowlite_gpu_delegate.so": ""}, is(t, "raspberrypi-5"), "gpu", false, "Raspberry Pi 5 gains nothing", "rm /usr/local/lib/"},
		{"GPU delegate on a Jetson", map[string]string{"usr/local/lib/libtensorflowlite_gpu_delegate.so": ""}, is(t, "jetson-orin"), "gpu", false, "or has none", "rm /usr/local/lib/"},
		{"GPU delegate without OpenCL", map[string]string{"usr/local/lib/libtensorflowlite_gpu_delegate.so": "", lib + "libOpenCL.so.1": ""}, nil, "gpu", false, "no OpenCL driver", "Mali"},
		{"Hailo", map[string]string{"sys/bus/pci/devices/0000:01:00.0/vendor": "0x1e60\n"}, nil, "Hailo", false, "not used", "HailoRT"},
		{"Rockchip", map[string]string{"sys/firmware/devicetree/base/compatible": "radxa,rock-5b\x00rockchip,rk3588\x00"}, nil, "Rockchip NPU", false, "not used", "mesa-teflon-delegate"},
		{"a smaller Rockchip", map[string]string{"sys/firmware/devicetree/base/compatible": "pine64,quartz64-a\x00rockchip,rk3566\x00"}, nil, "Rockchip NPU", false, "not used", "librknnrt"},
		{"Hailo by its driver", map[string]string{"dev/hailo0": ""}, nil, "Hailo", false, "not used", "HailoRT"},
		{"MemryX", map[string]string{"sys/bus/pci/devices/0000:01:00.0/vendor": "0x1fe9\n"}, nil, "MemryX", false, "not used", "PROTOCOL.md"},
		{"Axelera", map[string]string{"sys/bus/pci/devices/0000:01:00.0/vendor": "0x1f9d\n"}, nil, "Axelera", false, "not used", "PROTOCOL.md"},
		{"Intel NPU", map[string]string{"sys/bus/pci/drivers/intel_vpu/0000:00:0b.0": ""}, nil, "Intel NPU", false, "not used", "OpenVINO"},
		{"AMD NPU", map[string]string{"sys/bus/pci/drivers/amdxdna/0000:c4:00.1": ""}, nil, "AMD NPU", false, "not used", "PROTOCOL.md"},
		{"Vivante", map[string]string{"dev/galcore": ""}, nil, "Vivante NPU", false, "not used", "external:libvx_delegate.so"},
		{"Ethos-U", map[string]string{"dev/ethosu0": ""}, nil, "Ethos-U", false, "not used", "Vela"},
		{"camera", map[string]string{"sys/class/video4linux/video0/name": "C920\n", "sys/class/video4linux/video0/index": "0\n", "dev/video0": ""}, nil, "camera", true, "C920, /dev/video0", ""},
		{"camera without permission", map[string]string{"sys/class/video4linux/video0/name": "C920\n", "sys/class/video4linux/video0/index": "0\n"}, nil, "camera", false, "permission denied", "usermod -aG video covey"},
		{"camera socket", map[string]string{"sys/class/video4linux/video0/name": "unicam-image\n"}, nil, "camera csi", false, "give no pictures", "rpicam-apps-lite"},
		{"camera socket with its program", map[string]string{"sys/class/video4linux/video0/name": "rp1-cfe-csi2_ch0\n", "usr/bin/rpicam-vid": ""}, nil, "camera csi", true, "source type csi", ""},
		{"camera socket of a Jetson", map[string]string{"sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n"}, nil, "camera csi", false, "gst-launch-1.0", "gstreamer1.0-tools"},
		{"microphone without permission", map[string]string{"dev/snd/pcmC1D0c": "", "proc/asound/card1/id": "Device\n"}, forbid, "microphone", false, "permission denied", "usermod -aG audio covey"},
		{"microphone", map[string]string{"dev/snd/pcmC1D0c": "", "proc/asound/card1/id": "Device\n"}, nil, "microphone", true, "card Device, /dev/snd/pcmC1D0c", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := board(c.files)
			if c.change != nil {
				c.change(&b)
			}
			var found []hal.Diagnosis
			for _, d := range Examine(b) {
				if d.Subject == "" || d.Detail == "" || d.OK == (d.Fix != "") || strings.ContainsAny(d.Detail+d.Fix, "\n") {
					t.Errorf("%+v: wants a subject and a detail of one line, and a fix where it is not OK", d)
				}
				if d.Subject == c.subject {
					found = append(found, d)
				}
			}
			for _, d := range found {
				if d.OK == c.ok && strings.Contains(d.Detail, c.detail) && strings.Contains(d.Fix, c.fix) {
					return
				}
			}
			t.Errorf("of %s: %+v", c.subject, found)
		})
	}
}

// TestNothing: a board that lacks what nobody put there hears nothing of it.
func TestNothing(t *testing.T) {
	const compatible = "sys/firmware/devicetree/base/compatible"
	for name, files := range map[string]map[string]string{
		"an empty board":              {},
		"a GPU with all it needs":     {"usr/local/lib/libtensorflowlite_gpu_delegate.so": "", lib + "libOpenCL.so.1": "", "etc/OpenCL/vendors/mali.icd": ""},
		"OpenCL alone":                {lib + "libOpenCL.so.1": ""},
		"RK3588 with Teflon":          {compatible: "rockchip,rk3588\x00", "usr/lib/teflon/libteflon.so": ""},
		"Vivante with its delegate":   {"dev/galcore": "", lib + "libvx_delegate.so": ""},
		"Ethos-U with its delegate":   {"dev/ethosu0": "", lib + "libethosu_delegate.so": ""},
		"a camera's node of metadata": {"sys/class/video4linux/video1/name": "C920\n", "sys/class/video4linux/video1/index": "1\n"},
		"a decoder's node":            {"sys/class/video4linux/video10/name": "bcm2835-codec-decode\n"},
		"another USB device":          {usb + "idVendor": "046d\n", usb + "idProduct": "0825\n"},
		"an eMMC that does not tell":  {"sys/class/mmc_host/mmc0/mmc0:0001/life_time": "0x00 0x00\n", "sys/class/mmc_host/mmc0/mmc0:0001/pre_eol_info": "0x00\n"},
	} {
		files[synced] = ""
		for _, d := range Examine(board(files)) {
			if !d.OK {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
}

// TestHere looks at this machine.
func TestHere(t *testing.T) {
	b := board(nil)
	b.Root = os.DirFS("/")
	for _, d := range Examine(b) {
		t.Logf("%+v", d)
	}
}

// TestSensorsFail: what was not measured is not shown.
func TestSensorsFail(t *testing.T) {
	for _, text := range []string{"-87900", "255000", "", "x"} {
		b := board(map[string]string{zone + "temp": text, zone + "type": "cpu"})
		if got := heat(&b); got != nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
