package doctor

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/covey-edge/covey/hal"
)

// oldestGlibc is what the runtimes are built against.
const oldestGlibc = 34 // of 2.x

var glibcBanner = regexp.MustCompile(`GNU C Library [^\n]{0,80}release version 2\.(\d{1,3})`)

// glibc reads the version out of the library itself: to ask would be to run something.
func glibc(b *Board) []hal.Diagnosis {
	const subject = "glibc"
	name := strings.TrimPrefix(b.library("libc.so.6"), "/")
	if name == "" {
		if len(b.glob("lib/ld-musl-*")) > 0 {
			return []hal.Diagnosis{bad(subject, "this system has musl, the runtimes need glibc", "use a system with glibc 2.34 or newer: Debian 12, Ubuntu 22.04, Raspberry Pi OS bookworm")}
		}
		return nil
	}
	f, err := b.Root.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	const enough = 8 << 20
	library, err := io.ReadAll(io.LimitReader(f, enough))
	m := glibcBanner.FindSubmatch(library)
	if err != nil || m == nil {
		return nil
	}
	minor, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return nil
	}
	if minor < oldestGlibc {
		return []hal.Diagnosis{bad(subject, fmt.Sprintf("2.%d, the runtimes need 2.%d", minor, oldestGlibc), "upgrade to Debian 12, Ubuntu 22.04, Raspberry Pi OS bookworm, JetPack 6, or newer")}
	}
	return []hal.Diagnosis{good(subject, fmt.Sprintf("2.%d", minor))}
}

// jetpack tells which JetPack a Jetson has by its release of Linux for Tegra.
func jetpack(b *Board) []hal.Diagnosis {
	const subject = "jetpack"
	release := b.text("etc/nv_tegra_release") // "# R36 (release), REVISION: 4.3, …"
	if release == "" {
		return nil
	}
	var major int
	if _, err := fmt.Sscanf(release, "# R%d", &major); err != nil {
		return []hal.Diagnosis{bad(subject, "the release in /etc/nv_tegra_release is not understood", "install JetPack 6")}
	}
	switch {
	case major < 36:
		return []hal.Diagnosis{bad(subject, fmt.Sprintf("L4T R%d (JetPack %d) has a glibc older than 2.34", major, map[bool]int{true: 5, false: 4}[major >= 34]),
			"flash JetPack 6; boards that cannot take it (Nano, TX2, Xavier) cannot run Covey's engines")}
	case major < 38:
		return []hal.Diagnosis{good(subject, fmt.Sprintf("L4T R%d: JetPack 6", major))}
	}
	return []hal.Diagnosis{good(subject, fmt.Sprintf("L4T R%d, newer than JetPack 6: not seen by Covey's makers", major))}
}

// pages looks for a kernel of 16 KiB pages, which the Raspberry Pi 5 boots by default.
func pages(b *Board) []hal.Diagnosis {
	if b.PageSize <= 4096 {
		return nil
	}
	d := good("pages", fmt.Sprintf("%d KiB", b.PageSize>>10))
	if len(b.coralsPCIe()) > 0 {
		d = bad("pages", fmt.Sprintf("%d KiB pages: the driver of a Coral on PCIe cannot work with them", b.PageSize>>10),
			"add kernel=kernel8.img to /boot/firmware/config.txt and reboot")
	}
	return []hal.Diagnosis{d}
}

// power asks the Raspberry Pi's firmware; bits as in its documentation of
// get_throttled: 0–3 now, 16–19 since boot.
func power(b *Board) []hal.Diagnosis {
	const subject = "power"
	for _, name := range b.glob("sys/devices/platform/soc*/soc*firmware/get_throttled") {
		bits, ok := hexNumber(b.text(name))
		if !ok {
			continue
		}
		const fix = "use the board's own power supply and a short thick cable"
		switch {
		case bits&1 != 0:
			return []hal.Diagnosis{bad(subject, "under-voltage now: the board slows down and may lose its disk", fix)}
		case bits&(1<<16) != 0:
			return []hal.Diagnosis{bad(subject, "under-voltage since the last boot", fix)}
		case bits&0xe != 0:
			return []hal.Diagnosis{bad(subject, "throttled now", "cool the board: a heat sink, a fan, air")}
		case bits&0xe0000 != 0:
			return []hal.Diagnosis{bad(subject, "throttled since the last boot", "cool the board: a heat sink, a fan, air")}
		}
		return []hal.Diagnosis{good(subject, "no under-voltage, no throttling since boot")}
	}
	return nil
}

// Temperatures in °C. What is out of bounds was not measured: sensors say −87.9 or
// 255 when they fail.
const (
	coldest, hottest = -40, 150
	hot              = 80
)

func heat(b *Board) []hal.Diagnosis {
	top, where := 0., ""
	for _, name := range b.glob("sys/class/thermal/thermal_zone*/temp") {
		milli, err := strconv.ParseInt(b.text(name), 10, 32)
		if c := float64(milli) / 1000; err == nil && c > coldest && c < hottest && (where == "" || c > top) {
			top, where = c, b.text(strings.TrimSuffix(name, "temp")+"type")
		}
	}
	switch {
	case where == "":
		return nil
	case top >= hot:
		return []hal.Diagnosis{bad("heat", fmt.Sprintf("%.0f °C at %s", top, where), "cool the board: a heat sink, a fan, air")}
	}
	return []hal.Diagnosis{good("heat", fmt.Sprintf("%.0f °C", top))}
}

// clock looks whether the time can be right: most boards have no battery.
func clock(b *Board) []hal.Diagnosis {
	const subject, fix = "clock", "sudo timedatectl set-ntp true"
	switch {
	case b.Now.Before(b.Floor):
		return []hal.Diagnosis{bad(subject, "it says "+b.Now.UTC().Format(time.DateOnly)+", which is before this program was made", fix)}
	case b.exists("run/systemd/timesync/synchronized"), b.exists("run/chrony/chronyd.pid"), b.exists("run/chronyd.pid"), b.exists("run/ntpd.pid"):
		return []hal.Diagnosis{good(subject, "kept right over the network")}
	case len(b.glob("sys/class/rtc/rtc*")) > 0:
		return []hal.Diagnosis{good(subject, "of this board alone")}
	}
	return []hal.Diagnosis{bad(subject, "no clock with a battery, and nothing sets the time over the network", fix)}
}

// Free bytes that an update may need beside what is there.
const needed = 256 << 20

func disk(b *Board) []hal.Diagnosis {
	const subject = "disk"
	free, total, err := b.Disk(b.Data)
	if err != nil {
		return []hal.Diagnosis{bad(subject, b.Data+": "+err.Error(), "sudo install -d -o "+b.User+" "+b.Data)}
	}
	detail := fmt.Sprintf("%d MiB free of %d for %s", free>>20, total>>20, b.Data)
	if b.readOnly() {
		return []hal.Diagnosis{bad(subject, detail+", but mounted read-only: the kernel found it damaged, or somebody meant it", "dmesg | grep -i -e ext4 -e mmc; replace the card if it says error")}
	}
	if free < needed {
		return []hal.Diagnosis{bad(subject, detail+": an update may not fit", "free some space: sudo journalctl --vacuum-size=50M; sudo apt-get clean")}
	}
	return []hal.Diagnosis{good(subject, detail)}
}

// readOnly says whether the volume of the data folder is mounted so.
func (b *Board) readOnly() bool {
	at, flags := "", ""
	for line := range strings.Lines(b.text("proc/self/mounts")) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		if under := f[1] == "/" || f[1] == b.Data || strings.HasPrefix(b.Data, f[1]+"/"); under && len(f[1]) >= len(at) {
			at, flags = f[1], f[3]
		}
	}
	return flags == "ro" || strings.HasPrefix(flags, "ro,")
}

// wear reads what eMMC tells of its life (JEDEC 5.0: two memory types in tenths
// used, and whether reserved blocks run out). SD cards do not tell.
func wear(b *Board) []hal.Diagnosis {
	var all []hal.Diagnosis
	for _, name := range b.glob("sys/class/mmc_host/mmc*/mmc*:*/life_time") {
		worst := uint64(0)
		for _, field := range strings.Fields(b.text(name)) {
			if n, ok := hexNumber(field); ok {
				worst = max(worst, n)
			}
		}
		end, _ := hexNumber(b.text(strings.TrimSuffix(name, "life_time") + "pre_eol_info"))
		switch {
		case worst == 0 && end == 0:
		case end >= 2:
			all = append(all, bad("wear", "the eMMC runs out of spare blocks", "make a copy, and replace the module or the board soon"))
		case worst >= 10:
			all = append(all, bad("wear", fmt.Sprintf("the eMMC has used %d %% of its life or more", min(100, worst*10)), "make a copy, and replace the module or the board soon"))
		default:
			all = append(all, good("wear", fmt.Sprintf("the eMMC has used up to %d %% of its life", worst*10)))
		}
	}
	return all
}
