package firmware

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

func TestDiskOf(t *testing.T) {
	const card = "25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n"
	sd := map[string]string{
		"sys/class/block/mmcblk0p2/dev": "179:2", "sys/class/block/mmcblk0/dev": "179:0", "sys/block/mmcblk0/dev": "179:0",
		"sys/block/mmcblk0/mmcblk0p2/dev": "179:2", "sys/block/mmcblk0/device/type": "SD\n", "sys/block/mmcblk0/stat": " 1 2 3 4 5 6 100 8 9 10 11\n",
	}
	stick := map[string]string{"sys/class/block/sda1/dev": "8:1", "sys/block/sda/sda1/dev": "8:1", "sys/block/sda/queue/rotational": "0"}
	for name, c := range map[string]struct {
		mountinfo string
		files     []map[string]string
		want      Disk
	}{
		"a card":                       {card, []map[string]string{sd}, Disk{Name: "mmcblk0", Kind: "sd", Written: 51200}},
		"the longest mount":            {card + "31 25 8:1 / /var/lib rw - ext4 /dev/sda1 rw\n", []map[string]string{sd, stick}, Disk{Name: "sda", Kind: "ssd"}},
		"a name that only begins so":   {card + "31 25 8:1 / /var/lib/cov rw - ext4 /dev/sda1 rw\n", []map[string]string{sd, stick}, Disk{Name: "mmcblk0", Kind: "sd", Written: 51200}},
		"a mount over another":         {"31 25 8:1 / / rw - ext4 /dev/sda1 rw\n" + card, []map[string]string{sd, stick}, Disk{Name: "mmcblk0", Kind: "sd", Written: 51200}},
		"a state folder of a service":  {card + "40 25 179:2 /var/lib/covey /var/lib/covey rw shared:9 master:1 - ext4 /dev/root rw\n", []map[string]string{sd}, Disk{Name: "mmcblk0", Kind: "sd", Written: 51200}},
		"a file system of its own":     {"25 1 0:31 /root / rw - btrfs /dev/sda1 rw\n", []map[string]string{sd, stick}, Disk{Name: "sda", Kind: "ssd"}},
		"encrypted":                    {"25 1 254:0 / / rw - ext4 /dev/mapper/root rw\n", []map[string]string{sd, {"sys/class/block/dm-0/dev": "254:0", "sys/class/block/dm-0/slaves/mmcblk0p2/dev": "179:2"}}, Disk{Name: "mmcblk0", Kind: "sd", Written: 51200}},
		"devices that stand on others": {"25 1 254:0 / / rw - ext4 x rw\n", []map[string]string{{"sys/class/block/dm-0/dev": "254:0", "sys/class/block/dm-0/slaves/dm-0/dev": ""}}, Disk{Name: "dm-0"}},
		"an eMMC": {card, []map[string]string{sd, {"sys/block/mmcblk0/device/type": "MMC", "sys/block/mmcblk0/device/life_time": "0x02 0x0b\n", "sys/block/mmcblk0/device/pre_eol_info": "0x02\n"}},
			Disk{Name: "mmcblk0", Kind: "emmc", Written: 51200, Life: 100, EOL: 2}},
		"an eMMC that talks nonsense": {card, []map[string]string{sd, {"sys/block/mmcblk0/device/type": "MMC", "sys/block/mmcblk0/device/life_time": "0xff x\n", "sys/block/mmcblk0/device/pre_eol_info": "0x77\n", "sys/block/mmcblk0/stat": "1 2 3 4 5 6 -7"}},
			Disk{Name: "mmcblk0", Kind: "emmc"}},
		"memory":             {"25 1 0:22 / / rw - tmpfs tmpfs rw\n", []map[string]string{sd}, Disk{}},
		"a disk unheard of":  {"25 1 9:9 / / rw - ext4 /dev/x rw\n", []map[string]string{sd}, Disk{}},
		"a source of stars":  {"25 1 9:9 / / rw - ext4 /dev/* rw\n", []map[string]string{sd}, Disk{}},
		"no mounts":          {"", []map[string]string{sd}, Disk{}},
		"mounts of nonsense": {"25 1 179:2 / /\n - \n25 1 179:2 / / rw - \n", []map[string]string{sd}, Disk{}},
	} {
		root := fstest.MapFS{"proc/self/mountinfo": file(c.mountinfo)}
		all := map[string]string{}
		for _, files := range c.files {
			maps.Copy(all, files)
		}
		for path, text := range all {
			root[path] = file(text)
		}
		if got, ok := DiskOf(root, "/var/lib/covey"); got != c.want || ok != (c.want.Name != "") {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, ok, c.want)
		}
	}
	if number, _ := mount(`31 25 8:1 / /media/my\040disk rw - ext4 /dev/sda1 rw`, "/media/my disk/covey"); number != "8:1" {
		t.Error("a space in a path")
	}
}

// TestDisksOfBoards: what the boards that are kept say of their disks.
func TestDisksOfBoards(t *testing.T) {
	for name, want := range map[string]Disk{
		"raspberrypi-cm4": {Name: "mmcblk0", Kind: "emmc", Written: 2 << 30, Life: 30, EOL: 1},
		"raspberrypi-5":   {Name: "nvme0n1", Kind: "nvme", Written: 1 << 20},
	} {
		if got, _ := DiskOf(tree(t, name), "/var/lib/covey"); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// TestDiskOfThisMachine needs the links of a real /sys to be followed. Containers
// may have a root that is on no disk.
func TestDiskOfThisMachine(t *testing.T) {
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d, ok := DiskOf(os.DirFS("/"), folder)
	t.Logf("%s is on %+v, %v", folder, d, ok)
	if ok && (d.Name == "" || d.Written < 0) {
		t.Errorf("%+v", d)
	}
}
