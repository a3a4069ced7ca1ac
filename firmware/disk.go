package firmware

import (
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// A Disk is the block device that holds a folder. What it does not tell is 0.
type Disk struct {
	Name    string // "mmcblk0"
	Kind    string // sd, emmc, nvme, ssd, hdd; "" where that cannot be told
	Written int64  // bytes, since the board started
	Life    int    // percent of its life that it has used, rounded up to tens; eMMC alone tells
	EOL     int    // of its spare blocks: 1 enough, 2 most are used, 3 hardly any are left; eMMC alone tells
}

// DiskOf finds the disk beneath a folder, which is an absolute path without symbolic
// links. false: it is on no disk, or the kernel does not say on which.
func DiskOf(root fs.FS, folder string) (Disk, bool) {
	number, source := mount(readAll(root, "proc/self/mountinfo"), folder)
	name := deviceOf(root, number)
	if source = path.Base(source); name == "" && len(glob(root, "sys/class/block/"+literal(source))) > 0 {
		name = source // file systems of several devices have a number of their own
	}
	for range 8 { // what is encrypted or made of volumes stands on others
		below := glob(root, "sys/class/block/"+literal(name)+"/slaves/*")
		if len(below) == 0 {
			break
		}
		name = path.Base(below[0])
	}
	if name == "" || name == "." || name == "/" {
		return Disk{}, false
	}
	if whole := glob(root, "sys/block/*/"+literal(name)); len(whole) > 0 {
		name = path.Base(path.Dir(whole[0])) // a partition's
	}
	at := "sys/block/" + name + "/"
	d := Disk{Name: name, Kind: kind(root, at), Written: sectors(read(root, at+"stat")) * 512}
	d.Life, d.EOL = Wear(root, at+"device")
	return d, true
}

// Wear is what an eMMC tells of its life (JEDEC 5.0), by its folder: as in Disk.
func Wear(root fs.FS, device string) (life, eol int) {
	for field := range strings.FieldsSeq(read(root, path.Join(device, "life_time"))) {
		if n, err := strconv.ParseUint(strings.TrimPrefix(field, "0x"), 16, 8); err == nil && n <= 11 {
			life = max(life, min(100, int(n)*10))
		}
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(read(root, path.Join(device, "pre_eol_info"))), "0x"), 16, 8); err == nil && n <= 3 {
		eol = int(n)
	}
	return life, eol
}

// mount is the device of the mount that a folder is in, major:minor, and what it was
// mounted from.
func mount(mountinfo, folder string) (number, source string) {
	longest := -1
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		f, of := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(of) < 2 {
			continue
		}
		at := unescape(f[4])
		// A later mount on the same place hides the one before.
		if inside := at == "/" || folder == at || strings.HasPrefix(folder, at+"/"); inside && len(at) >= longest {
			longest, number, source = len(at), f[2], unescape(of[1])
		}
	}
	return number, source
}

// unescape undoes what the kernel does to spaces in paths: \040.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func deviceOf(root fs.FS, number string) string {
	for _, name := range glob(root, "sys/class/block/*/dev") {
		if number != "" && strings.TrimSpace(read(root, name)) == number {
			return path.Base(path.Dir(name))
		}
	}
	return ""
}

// literal is a name as a pattern that nothing else fits.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}

func kind(root fs.FS, at string) string {
	is := func(name, text string) bool { return strings.TrimSpace(read(root, at+name)) == text }
	switch {
	case is("device/type", "SD"):
		return "sd"
	case is("device/type", "MMC"):
		return "emmc"
	case strings.HasPrefix(path.Base(at), "nvme"):
		return "nvme"
	case strings.HasPrefix(path.Base(at), "vd"):
		return "" // a virtual machine's turns, as it says
	case is("queue/rotational", "1"):
		return "hdd"
	case is("queue/rotational", "0"):
		return "ssd"
	}
	return ""
}

// sectors is how many were written, of a disk's stat: its seventh number.
func sectors(stat string) int64 {
	f := strings.Fields(stat)
	if len(f) < 7 {
		return 0
	}
	n, err := strconv.ParseInt(f[6], 10, 52)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// readAll is a file that may be longer than the others, "" when there is none.
func readAll(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	const enough = 1 << 20
	b, err := io.ReadAll(io.LimitReader(f, enough))
	if err != nil {
		return ""
	}
	return string(b)
}
