package iio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// A device is a folder of /sys/bus/iio/devices.
type device struct {
	dir    string // "sys/bus/iio/devices/iio:device0", under the root
	node   string // "dev/iio:device0"
	name   string // "bme280"
	label  string // from the device tree; may be empty
	parent string // where it is attached: "1-0076" on I²C
}

// devices lists what is under a root such as os.DirFS("/").
func devices(root fs.FS) []device {
	dirs, _ := fs.Glob(root, "sys/bus/iio/devices/iio:device*") // the pattern is a good one
	var found []device
	for _, dir := range dirs {
		text := func(file string) string {
			b, _ := fs.ReadFile(root, path.Join(dir, file))
			return strings.TrimSpace(string(b[:min(len(b), 200)]))
		}
		d := device{dir: dir, node: "dev/" + path.Base(dir), name: text("name"), label: text("label")}
		if real, err := fs.ReadLink(root, dir); err == nil {
			d.parent = path.Base(path.Dir(real))
		}
		found = append(found, d)
	}
	return found
}

// Probe lists the devices under a root such as os.DirFS("/").
func Probe(root fs.FS) []hal.Input {
	var found []hal.Input
	for _, d := range devices(root) {
		in := hal.Input{Source: "iio", ID: d.id(), Name: d.name}
		if d.label != "" {
			in.Name = d.label + " (" + d.name + ")"
		}
		files, _ := fs.Glob(root, path.Join(d.dir, "in_*"))
		var names []string
		for _, file := range files {
			name, raw := strings.CutSuffix(strings.TrimPrefix(path.Base(file), "in_"), "_raw")
			if !raw {
				if name, raw = strings.CutSuffix(name, "_input"); !raw {
					continue
				}
			}
			names = append(names, name)
		}
		in.Detail = strings.Join(slices.Compact(names), " ")
		found = append(found, in)
	}
	return found
}

// id is what names the device after a restart, when the kernel counts anew.
func (d *device) id() string { return d.name + "@" + d.parent }

// find is the device of an id, a name, a label, or a number as in "iio:device0".
func find(root, id string) (device, error) {
	var found []device
	var ids []string
	for _, d := range devices(os.DirFS(root)) {
		d.dir, d.node = filepath.Join(root, d.dir), filepath.Join(root, d.node)
		ids = append(ids, d.id())
		if id == d.id() || id == d.name || id == d.label || id == filepath.Base(d.dir) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return device{}, fmt.Errorf("%d devices have this name: give one of %.200q", len(found), ids)
	case len(ids) == 0:
		return device{}, errors.New("there are no IIO devices: connect it, and load its driver or overlay")
	}
	return device{}, fmt.Errorf("there is no such device: connect it, or give one of %.200q", ids)
}

// text is what a small file says; "" when it cannot be read.
func (d *device) text(file string) string {
	s, _ := d.read(file)
	return s
}

func (d *device) read(file string) (string, error) {
	f, err := os.Open(filepath.Join(d.dir, file))
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b [4 << 10]byte
	n, err := f.Read(b[:])
	if n == 0 && err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b[:n])), nil
}

func (d *device) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(d.dir, file), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// number is what a file says of a channel, or of all of its kind: in_accel_x_scale
// or in_accel_scale, in_voltage0_scale or in_voltage_scale.
func (d *device) number(channel, what string, none float64) float64 {
	kind, _, _ := strings.Cut(strings.TrimRight(channel, "0123456789"), "_")
	for _, c := range []string{channel, strings.TrimRight(channel, "0123456789"), kind} {
		if v, err := strconv.ParseFloat(d.text("in_"+c+"_"+what), 64); err == nil && v-v == 0 {
			return v
		}
	}
	return none
}

// names is the channels that have a file in_<channel>_<what> in a folder.
func (d *device) names(folder string, what ...string) []string {
	var names []string
	for _, w := range what {
		files, _ := filepath.Glob(filepath.Join(d.dir, folder, "in_*_"+w))
		for _, f := range files {
			name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "in_"), "_"+w)
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}
