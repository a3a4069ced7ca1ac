package firmware

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestUdevRules: each rule names what it is about, and gives it to one group and to
// nobody else; Corals are told from all else by both of their ids.
func TestUdevRules(t *testing.T) {
	rule := regexp.MustCompile(`^SUBSYSTEM=="[a-z0-9_]+", (ENV\{DEVTYPE\}=="usb_device", ATTR\{idVendor\}=="[0-9a-f]{4}", ATTR\{idProduct\}=="[0-9a-f]{4}"|KERNEL=="[^"]+"), MODE="0660", GROUP="(plugdev|apex|render|video|audio|dialout|gpio|iio)"$`)
	var rules []string
	for line := range strings.Lines(UdevRules) {
		switch line = strings.TrimSpace(line); {
		case line == "", line[0] == '#', line == `ACTION=="remove", GOTO="covey_end"`, line == `LABEL="covey_end"`:
		case rule.MatchString(line):
			rules = append(rules, line)
		default:
			t.Errorf("%s: not of the form that is agreed on", line)
		}
	}
	all := strings.Join(rules, "\n")
	for what, want := range map[string]string{
		"a Coral before its firmware": `SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="1a6e", ATTR{idProduct}=="089a", MODE="0660", GROUP="plugdev"`,
		"a Coral":                     `SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="18d1", ATTR{idProduct}=="9302", MODE="0660", GROUP="plugdev"`,
		"a Coral on PCIe":             `SUBSYSTEM=="apex", KERNEL=="apex_[0-9]*", MODE="0660", GROUP="apex"`,
		"cameras":                     `SUBSYSTEM=="video4linux", KERNEL=="video[0-9]*|v4l-subdev[0-9]*", MODE="0660", GROUP="video"`,
		"microphones":                 `SUBSYSTEM=="sound", KERNEL=="pcmC[0-9]*D[0-9]*c|controlC[0-9]*", MODE="0660", GROUP="audio"`,
		"lines":                       `SUBSYSTEM=="gpio", KERNEL=="gpiochip[0-9]*", MODE="0660", GROUP="gpio"`,
		"sensors":                     `SUBSYSTEM=="iio", KERNEL=="iio:device[0-9]*", MODE="0660", GROUP="iio"`,
	} {
		if !strings.Contains("\n"+all+"\n", "\n"+want+"\n") {
			t.Errorf("%s: no rule\n%s", what, want)
		}
	}
	if n := strings.Count(all, `SUBSYSTEM=="usb"`); n != 2 {
		t.Errorf("%d rules about USB", n)
	}
}

// TestUdevTakesTheRules asks udev itself.
func TestUdevTakesTheRules(t *testing.T) {
	const oldest = 254 // systemd whose udevadm verifies
	udevadm, err := exec.LookPath("udevadm")
	if err != nil {
		t.Skip("no udevadm here")
	}
	out, err := exec.Command(udevadm, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if version < oldest {
		t.Skipf("udevadm is %d: it verifies rules from %d on", version, oldest)
	}
	// Groups come with the package, and need not be here.
	if out, err := exec.Command(udevadm, "verify", "--resolve-names=never", "udev/60-covey.rules").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
