package v4l2

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// useCSI is said of sensors whose raw data have to go through a board's image
// processor, which is what libcamera and Argus are for.
const useCSI = "a camera on the CSI connector cannot be read directly: use a source of type csi"

// Drivers, and nodes, of a board's own camera connector.
var (
	csiDrivers = []string{"unicam", "rp1-cfe", "tegra-video", "tegra-camrtc", "vi-output"}
	// These belong to an image processor or a codec and are no cameras.
	processors = []string{"bcm2835-isp", "bcm2835-codec", "pispbe", "rpivid", "rpi-hevc-dec"}
)

func isCSI(name string) bool { return hasPrefix(name, csiDrivers) }

func hasPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// Probe lists the cameras under a root such as os.DirFS("/"). Those of this machine
// are asked what they can do, which does not disturb who uses them.
func Probe(root fs.FS) []hal.Input {
	var found []hal.Input
	all := nodes(root)
	csi := 0
	for _, n := range all {
		if n.index > 0 || hasPrefix(n.card, processors) || hasPrefix(n.driver, processors) {
			continue // what else a camera has: metadata, a second stream
		}
		if isCSI(n.card) || isCSI(n.driver) {
			found = append(found, hal.Input{Source: "csi", ID: strconv.Itoa(csi), Name: n.card, Detail: useCSI})
			csi++
			continue
		}
		in := hal.Input{Source: "v4l2", ID: n.id(all), Name: n.card, Detail: "/dev/" + n.name}
		if here(root, n.name) {
			can, isCamera := ask("/dev/" + n.name)
			if !isCamera {
				continue
			}
			in.Detail += ": " + can
		}
		found = append(found, in)
	}
	return found
}

// here says whether the node under root is that of this machine, not one of a folder
// that looks like it.
func here(root fs.FS, name string) bool {
	st, err := fs.Stat(root, "dev/"+name)
	if err != nil || st.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	there, ok := st.Sys().(*syscall.Stat_t)
	var own unix.Stat_t
	return ok && unix.Stat("/dev/"+name, &own) == nil && uint64(own.Rdev) == uint64(there.Rdev)
}

// ask says what a camera can do, or why it cannot be used.
func ask(path string) (can string, isCamera bool) {
	c, err := openCamera(path)
	if err != nil {
		return explain(path, err), err != errNoCamera
	}
	defer c.close()
	modes, formats := c.modes(wish{})
	if len(modes) == 0 {
		return noFormat(formats), true
	}
	return describe(modes), true
}

func noFormat(have []string) string {
	if len(have) == 0 {
		return "it has no pixel format: use a source of type csi where it is a CSI camera"
	}
	return fmt.Sprintf("none of its pixel formats (%s) is read here: use a source of type exec with ffmpeg", strings.Join(have, " "))
}
