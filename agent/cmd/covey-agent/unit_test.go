package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/firmware"
)

// dropIn is what is printed for pipelines, on a board with these nodes.
func dropIn(t *testing.T, config string, nodes ...string) string {
	t.Helper()
	file, err := agent.ParseFile("agent.yaml", "/etc/covey", []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	n := needs{allow: set{}, groups: set{}, families: set{}, read: set{}}
	if err := n.file(file, nodes); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	n.print(&b, "agent.yaml", func(group string) (there, member bool) { return group != "iio", false })
	_, lines, _ := strings.Cut(b.String(), "[Service]\n")
	return lines
}

// Each source opens its own devices, and no others.
func TestUnit(t *testing.T) {
	for _, c := range []struct{ source, more, want string }{
		{"type: synthetic", "", ""},
		{"type: folder, path: /srv/pictures", "", ""},
		{"type: rtsp, url: 'rtsp://h/1'", "", ""},
		{"type: folder, path: '/home/ann/my pictures'", "", "ProtectHome=tmpfs\nBindReadOnlyPaths=\"/home/ann/my pictures\"\n"},
		{"type: v4l2, device: /dev/video0", "", "DeviceAllow=char-video4linux rw\nSupplementaryGroups=video\n"},
		{"type: csi", "", "DeviceAllow=char-dma_heap rw\nDeviceAllow=char-media rw\nDeviceAllow=char-video4linux rw\nSupplementaryGroups=render\nSupplementaryGroups=video\nRestrictAddressFamilies=AF_NETLINK\n"},
		{"type: alsa", "", "DeviceAllow=char-alsa rw\nSupplementaryGroups=audio\n"},
		{"type: iio, device: bme280", "", "DeviceAllow=char-iio rw\n# no group iio here: a udev rule has to open the device to the user covey\n"},
		{"type: gpio, device: /dev/gpiochip0, channels: [1]", "", "DeviceAllow=char-gpiochip rw\nSupplementaryGroups=gpio\n"},
		{"type: serial, device: /dev/ttyACM0", "", "DeviceAllow=char-ttyACM rw\nSupplementaryGroups=dialout\n"},
		{"type: serial, device: /dev/serial/by-id/usb-x", "", "DeviceAllow=char-ttyACM rw\nDeviceAllow=char-ttyUSB rw\nSupplementaryGroups=dialout\n"},
		{"type: serial, device: /dev/serial0", "", "DeviceAllow=char-ttyAMA rw\nDeviceAllow=char-ttyS rw\nSupplementaryGroups=dialout\n"},
		{"type: exec, command: [/opt/cam], format: mjpeg", "", "# pipeline p runs cam: what that needs is not known here\n"},
		{"type: synthetic", "delegates: [{library: /usr/lib/libvx_delegate.so, devices: [/dev/galcore]}]", "DeviceAllow=/dev/galcore rw\nSupplementaryGroups=render\n"},
	} {
		if got := dropIn(t, "pipelines: {p: {source: {"+c.source+"}}}\n"+c.more); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.source, got, c.want)
		}
	}
	var b bytes.Buffer
	(&needs{groups: set{"input": true}}).print(&b, "agent.yaml", func(string) (there, member bool) { return true, true })
	if strings.Contains(b.String(), "SupplementaryGroups") {
		t.Errorf("a group that the user is in is named: %s", b.String())
	}
	if got := dropIn(t, "", "/dev/bus/usb/001", "/dev/bus/usb/002"); got != "SupplementaryGroups=plugdev\nRestrictAddressFamilies=AF_NETLINK\n" {
		t.Errorf("with a Coral: %s", got)
	}
	if err := (&needs{}).source(agent.SourceFile{Type: "camera"}); err == nil {
		t.Error("a type that is none is taken")
	}
}

// Every type of source that can be configured is known, and systemd takes what is printed.
func TestUnitIsTaken(t *testing.T) {
	b, err := os.ReadFile("../../../docs/owner.md")
	if err != nil {
		t.Fatal(err)
	}
	for kind := range sourceNeeds {
		if !strings.Contains(string(b), "| `"+kind+"` |") {
			t.Errorf("%s is no source", kind)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, "covey-agent.service")
	more := dropIn(t, "pipelines: {a: {source: {type: csi}}, b: {source: {type: serial, device: /dev/ttyUSB0}}, c: {source: {type: folder, path: '/home/ann/a: 100%'}}}", "/dev/bus/usb/001")
	for name, text := range map[string]string{
		unit:                    strings.ReplaceAll(firmware.AgentUnit, "/usr/bin/covey-agent", program),
		unit + ".d/config.conf": "[Service]\n" + more,
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "covey-agent") && !strings.Contains(line, "User") {
			t.Errorf("systemd says: %s", line)
		}
	}
}
