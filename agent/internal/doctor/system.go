package doctor

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/covey-edge/covey/firmware"
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

// pages looks for a kernel of pages longer than 4 KiB, in words of our own where no
// trap of the board has better ones.
func pages(b *Board) []hal.Diagnosis {
	if b.PageSize <= 4096 {
		return nil
	}
	d := good("pages", fmt.Sprintf("%d KiB", b.PageSize>>10))
	if len(b.coralsPCIe()) > 0 && !slices.ContainsFunc(b.Profile.Traps, func(t firmware.Trap) bool {
		return slices.ContainsFunc(t.When, func(c firmware.Condition) bool { return c.Kind == "pages" })
	}) {
		d = bad("pages", fmt.Sprintf("%d KiB pages: the driver of a Coral on PCIe cannot work with them", b.PageSize>>10),
			"boot a kernel with pages of 4 KiB")
	}
	return []hal.Diagnosis{d}
}

// traps are what is known to go wrong on this kind of board, where it can.
func traps(b *Board) []hal.Diagnosis {
	const subject = "board"
	var all []hal.Diagnosis
	for _, t := range b.Profile.Traps {
		switch {
		case !t.Sprung(b.Root, b.PageSize):
		case t.Fix == "":
			all = append(all, good(subject, t.Text))
		default:
			all = append(all, bad(subject, t.Text, t.Fix))
		}
	}
	return all
}

// power says whether the board is slowed down, or was.
func power(b *Board) []hal.Diagnosis {
	const subject, supply, cool = "power", "use the board's own power supply and a short thick cable", "cool the board: a heat sink, a fan, air"
	slow := b.Profile.Watch(b.Root).Look()
	for _, when := range []struct {
		causes []firmware.Cause
		words  string
	}{{slow.Now, "now"}, {slow.Since, "since the last boot"}} {
		switch {
		case slices.Contains(when.causes, firmware.Voltage):
			return []hal.Diagnosis{bad(subject, "under-voltage "+when.words+": the board slows down and may lose its disk", supply)}
		case slices.Contains(when.causes, firmware.Current):
			return []hal.Diagnosis{bad(subject, "it wanted more current than it gets "+when.words+", and was slowed down", "use a stronger power supply, or sudo nvpmodel with a mode of fewer watts")}
		case slices.Contains(when.causes, firmware.Heat):
			return []hal.Diagnosis{bad(subject, "throttled "+when.words, cool)}
		}
	}
	if !slow.Told {
		return nil
	}
	return []hal.Diagnosis{good(subject, "no under-voltage, no throttling since boot, as far as the board tells")}
}

func heat(b *Board) []hal.Diagnosis {
	celsius, where, ok := b.Profile.Temperature(b.Root)
	switch {
	case !ok:
		return nil
	case celsius >= float64(cmp.Or(b.Profile.Hot, firmware.DefaultHot)):
		return []hal.Diagnosis{bad("heat", fmt.Sprintf("%.0f °C at %s", celsius, where), "cool the board: a heat sink, a fan, air")}
	}
	return []hal.Diagnosis{good("heat", fmt.Sprintf("%.0f °C", celsius))}
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

// cardADay is how much a card may bear, bytes: 20 GiB a day is some seven terabytes a
// year, about what a good card of 32 GB is made for.
const cardADay = 20 << 30

// kinds are the names of disks for people.
var kinds = map[string]string{"sd": "SD card", "emmc": "eMMC", "nvme": "NVMe disk", "ssd": "disk without moving parts", "hdd": "hard disk"}

// storage says what holds the data folder, and what is written to it.
func storage(b *Board) []hal.Diagnosis {
	const subject = "storage"
	d, ok := firmware.DiskOf(b.Root, b.Data)
	if !ok {
		return nil
	}
	detail := strings.TrimSpace(kinds[d.Kind] + " " + d.Name)
	up, err := strconv.ParseFloat(strings.SplitN(b.text("proc/uptime")+" ", " ", 2)[0], 64)
	if err != nil || !(up >= 3600) || d.Written == 0 {
		return []hal.Diagnosis{good(subject, detail)}
	}
	daily := float64(d.Written) / up * 86400
	detail += fmt.Sprintf(": %.1f GiB a day are written to it, by all programs", daily/(1<<30))
	if d.Kind == "sd" && daily > cardADay {
		return []hal.Diagnosis{bad(subject, detail+", which a card does not bear for long", "find who writes: sudo apt-get install iotop && sudo iotop -aoP; put logs into memory: Storage=volatile in /etc/systemd/journald.conf")}
	}
	return []hal.Diagnosis{good(subject, detail)}
}

// wear reads what eMMC tells of its life. SD cards do not tell.
func wear(b *Board) []hal.Diagnosis {
	var all []hal.Diagnosis
	for _, name := range b.glob("sys/class/mmc_host/mmc*/mmc*:*/life_time") {
		life, eol := firmware.Wear(b.Root, path.Dir(name))
		const fix = "make a copy, and replace the module or the board soon"
		switch {
		case life == 0 && eol == 0:
		case eol == 3:
			all = append(all, bad("wear", "the eMMC has hardly any spare blocks left", fix))
		case eol == 2:
			all = append(all, bad("wear", "the eMMC has used most of its spare blocks", fix))
		case life >= 100:
			all = append(all, bad("wear", fmt.Sprintf("the eMMC has used %d %% of its life or more", life), fix))
		default:
			all = append(all, good("wear", fmt.Sprintf("the eMMC has used up to %d %% of its life", life)))
		}
	}
	return all
}
