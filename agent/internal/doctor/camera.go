package doctor

import (
	"fmt"
	"path"
	"strings"

	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
)

// csiDrivers are the drivers whose video nodes are a camera's raw receiver or an
// image processor: reading them gives no pictures.
var csiDrivers = []string{"unicam", "rp1-cfe", "bcm2835-isp", "pispbe", "rpivid", "bcm2835-codec", "rpi-hevc-dec", "tegra-video", "tegra-capture", "vi-output", "rkisp", "rkcif", "mxc-isi", "sun6i-csi"}

// cameras looks at the video nodes.
func cameras(b *Board) []hal.Diagnosis {
	const subject = "camera"
	var all []hal.Diagnosis
	csi := ""
	for _, name := range b.glob("sys/class/video4linux/video*/name") {
		node := path.Base(path.Dir(name))
		if index := b.text(path.Dir(name) + "/index"); index != "" && index != "0" {
			continue // a camera's node for metadata
		}
		title := b.text(name)
		if isCSI(title) {
			if strings.Contains(title, "unicam") || strings.Contains(title, "cfe") || strings.Contains(title, "tegra") || strings.Contains(title, "vi-output") {
				csi = title
			}
			continue
		}
		all = append(all, b.node(subject, title, "dev/"+node, "video"))
	}
	if csi != "" {
		all = append(all, b.csi(csi))
	}
	return all
}

func isCSI(title string) bool {
	for _, d := range csiDrivers {
		if strings.HasPrefix(title, d) {
			return true
		}
	}
	return false
}

// csi is the line about a camera on the board's own socket, which only the
// board's own program can read.
func (b *Board) csi(title string) hal.Diagnosis {
	const subject = "camera csi"
	detail := fmt.Sprintf("a camera socket (%s): its /dev/video nodes give no pictures, source type csi does", title)
	tegra := b.Profile.Camera == firmware.NVArgus || strings.Contains(title, "tegra") || strings.Contains(title, "vi-output")
	switch {
	case tegra && b.program("gst-launch-1.0") == "":
		return bad(subject, detail+", with gst-launch-1.0", "sudo apt-get install gstreamer1.0-tools")
	case tegra, b.program("rpicam-vid") != "", b.program("libcamera-vid") != "":
		return good(subject, detail)
	}
	return bad(subject, detail+", with rpicam-vid", "sudo apt-get install rpicam-apps-lite")
}

// microphones looks at the sound cards that can record.
func microphones(b *Board) []hal.Diagnosis {
	var all []hal.Diagnosis
	for _, node := range b.glob("dev/snd/pcmC*D*c") {
		card := strings.TrimPrefix(strings.SplitN(path.Base(node), "D", 2)[0], "pcmC")
		all = append(all, b.node("microphone", "card "+b.text("proc/asound/card"+card+"/id"), node, "audio"))
	}
	return all
}
