package firmware

import (
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// A Board is what an agent runs on.
type Board struct {
	Name string `json:"name"` // for people: "Raspberry Pi 4 Model B Rev 1.4"; "" when nothing tells
	Kind string `json:"kind"` // for programs: "raspberrypi,4-model-b"; "" without a device tree
	Chip string `json:"chip"` // "brcm,bcm2711"; "" without a device tree
	RAM  int64  `json:"ram"`  // bytes that Linux can use; 0 when nothing tells
	CPUs int    `json:"cpus"` // online; 0 when nothing tells

	Profile Profile `json:"profile"` // what is known of its kind beforehand
}

// Detect says which board this is from its device tree or, on a PC, its DMI table,
// and what is known of its kind. The file system is the root of the board's,
// os.DirFS("/").
func Detect(root fs.FS) Board {
	b := Board{RAM: memTotal(read(root, "proc/meminfo")), CPUs: countCPUs(read(root, "sys/devices/system/cpu/online"))}
	const tree = "sys/firmware/devicetree/base/"
	b.Name = clean(read(root, tree+"model"))
	kinds := strings.Split(strings.Trim(read(root, tree+"compatible"), "\x00"), "\x00")
	if kinds[0] != "" {
		b.Kind, b.Chip = clean(kinds[0]), clean(kinds[len(kinds)-1])
	}
	b.Profile = profileOf(kinds, arch(read(root, "proc/cpuinfo")))
	if b.Name == "" {
		const dmi = "sys/class/dmi/id/"
		b.Name = clean(read(root, dmi+"sys_vendor") + " " + read(root, dmi+"product_name"))
	}
	return b
}

// read is the beginning of a small file, "" when there is none.
func read(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return ""
	}
	return string(b)
}

// clean makes one short printable line of what a vendor wrote.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 128 {
		s = strings.ToValidUTF8(s[:128], "")
	}
	return s
}

// arch tells the architecture by how the kernel describes its cores.
func arch(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		switch key, _, _ := strings.Cut(line, ":"); strings.TrimSpace(key) {
		case "CPU implementer":
			return "arm64"
		case "vendor_id":
			return "amd64"
		}
	}
	return ""
}

func memTotal(meminfo string) int64 {
	for line := range strings.Lines(meminfo) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseUint(f[1], 10, 48)
			if err != nil {
				return 0
			}
			return int64(kb << 10)
		}
	}
	return 0
}

// countCPUs counts a list such as "0-3,6".
func countCPUs(list string) int {
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 12)
		b, err2 := strconv.ParseUint(last, 10, 12)
		if err1 != nil || err2 != nil || b < a {
			return 0
		}
		n += int(b-a) + 1
	}
	return n
}
