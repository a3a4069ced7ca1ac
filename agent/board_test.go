package agent

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

// TestDiskInHello: a fleet hears on what its boards keep their state.
func TestDiskInHello(t *testing.T) {
	data := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(data, link); err != nil {
		t.Fatal(err)
	}
	root := fstest.MapFS{
		"proc/self/mountinfo":           {Data: []byte("25 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 25 179:2 / " + data + " rw - ext4 /dev/mmcblk0p2 rw\n")},
		"sys/class/block/mmcblk0p2/dev": {Data: []byte("179:2\n")}, "sys/block/mmcblk0/mmcblk0p2/dev": {Data: []byte("179:2\n")},
		"sys/block/mmcblk0/device/type": {Data: []byte("SD\n")},
	}
	for _, path := range []string{data, link} {
		a := &agent{Config: Config{File: &File{Data: path}, Root: root}}
		if h := a.hello(); h.Disk != "sd" {
			t.Errorf("%s: %q", path, h.Disk)
		}
	}
	if h := (&agent{Config: Config{File: &File{Data: data}}}).hello(); h.Disk != "" {
		t.Errorf("without a root: %q", h.Disk)
	}
}
