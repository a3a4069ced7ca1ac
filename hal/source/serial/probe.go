package serial

import (
	"io/fs"
	"path"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// Probe lists the serial ports under a root such as os.DirFS("/"): those of USB by
// the names that udev gives them from their serial numbers, then others that have
// hardware behind them.
func Probe(root fs.FS) []hal.Input {
	var found []hal.Input
	named := map[string]bool{}
	const byID = "dev/serial/by-id"
	entries, _ := fs.ReadDir(root, byID) // nothing of USB is there: no folder
	for _, e := range entries {
		if to, err := fs.ReadLink(root, path.Join(byID, e.Name())); err == nil {
			tty := path.Base(to)
			named[tty] = true
			found = append(found, hal.Input{Source: "serial", ID: "/" + path.Join(byID, e.Name()), Name: strings.TrimPrefix(e.Name(), "usb-"), Detail: tty})
		}
	}
	entries, _ = fs.ReadDir(root, "sys/class/tty")
	for _, e := range entries {
		dir := path.Join("sys/class/tty", e.Name())
		if _, err := fs.Stat(root, dir+"/device"); err != nil || named[e.Name()] {
			continue // a console or pseudo-terminal
		}
		// PCs have places for four ports and say of those that are empty: type 0.
		if kind, err := fs.ReadFile(root, dir+"/type"); err == nil && strings.TrimSpace(string(kind)) == "0" {
			continue
		}
		in := hal.Input{Source: "serial", ID: "/dev/" + e.Name(), Name: e.Name()}
		if driver, err := fs.ReadLink(root, dir+"/device/driver"); err == nil {
			in.Detail = path.Base(driver)
		}
		found = append(found, in)
	}
	return found
}
