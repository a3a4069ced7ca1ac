package firmware

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/covey-edge/covey/hal/haltest"
)

// TestDiskOfACard asks Linux itself about an SD card, with the links of a real /sys.
func TestDiskOfACard(t *testing.T) {
	if !haltest.InVM() {
		mke2fs, err := exec.LookPath("/usr/sbin/mke2fs") // not in everybody's PATH
		if err != nil {
			t.Skip("no mke2fs here")
		}
		card := filepath.Join(t.TempDir(), "card")
		if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", card, "32M").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		haltest.VM(t, haltest.Machine{Modules: []string{"sdhci_pci", "mmc_block", "crc32c_generic", "ext4"}, Devices: []string{
			"-device", "sdhci-pci", "-drive", "if=none,id=card,format=raw,file=" + card, "-device", "sd-card,drive=card"}})
		return
	}
	await(t, "/dev", "mmcblk0") // the kernel looks for cards when it has time
	const folder = "/my card"
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("/dev/mmcblk0", folder, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	before, ok := DiskOf(os.DirFS("/"), folder+"/covey")
	if !ok || before.Name != "mmcblk0" || before.Kind != "sd" || before.Life != 0 || before.EOL != 0 {
		t.Errorf("%+v, %v", before, ok)
	}
	const size = 1 << 20
	if err := os.WriteFile(folder+"/covey", make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Sync()
	after, _ := DiskOf(os.DirFS("/"), folder+"/covey")
	if grown := after.Written - before.Written; grown < size || grown > 4*size {
		t.Errorf("%d bytes were written for a file of %d", grown, size)
	}
	if other, ok := DiskOf(os.DirFS("/"), "/tmp"); ok {
		t.Errorf("the machine's memory is %+v", other)
	}
}

// await waits until a file is there, by inotify.
func await(t *testing.T, folder, name string) {
	t.Helper()
	watch, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(watch)
	if _, err := syscall.InotifyAddWatch(watch, folder, syscall.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	events := make([]byte, 64<<10)
	for {
		if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
			return
		}
		if _, err := syscall.Read(watch, events); err != nil && err != syscall.EINTR {
			t.Fatal(err)
		}
	}
}
