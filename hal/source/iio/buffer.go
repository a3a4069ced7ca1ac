package iio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A buffer is a device that measures by itself, at its own pace or a trigger's, and
// is read record by record.
type buffer struct {
	device *device
	file   *os.File
	record record
	rate   float64 // samples a second; 0: not known
}

// length is how many records the kernel keeps for us.
const length = 256

// startBuffer sets a device up to measure some channels, none being all of them.
func startBuffer(d *device, root string, channels []string, rate float64) (*buffer, error) {
	all := d.names("scan_elements", "en")
	if len(all) == 0 {
		return nil, errors.New("the device has no buffer")
	}
	_ = d.write("buffer/enable", "0") // left on by a program that was killed
	r, err := d.choose(all, channels)
	if err != nil {
		return nil, err
	}
	if rate > 0 {
		d.setRate(rate)
	}
	if err := d.trigger(root, rate); err != nil {
		return nil, err
	}
	// The clock of the time stamps is the wall's, where the kernel lets us choose.
	_ = d.write("current_timestamp_clock", "realtime")
	_ = d.write("buffer/length", strconv.Itoa(length))
	file, err := os.OpenFile(d.node, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := d.write("buffer/enable", "1"); err != nil {
		file.Close()
		return nil, err
	}
	return &buffer{device: d, file: file, record: r, rate: d.rate()}, nil
}

// choose switches the channels on and all others off.
func (d *device) choose(all, channels []string) (record, error) {
	var chosen []element
	var stamp *element
	if len(channels) == 0 {
		channels = slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == "timestamp" })
	}
	for _, name := range all {
		on := "0"
		if name == "timestamp" || slices.Contains(channels, name) {
			on = "1"
		}
		if err := d.write("scan_elements/in_"+name+"_en", on); err != nil {
			return record{}, err
		}
	}
	for _, name := range channels {
		if !slices.Contains(all, name) {
			return record{}, fmt.Errorf("the buffer has no channel %q, but %.200q", name, all)
		}
		e, err := d.element(name)
		if err != nil {
			return record{}, err
		}
		chosen = append(chosen, e)
	}
	if slices.Contains(all, "timestamp") {
		e, err := d.element("timestamp")
		if err != nil {
			return record{}, err
		}
		stamp = &e
	}
	return layout(chosen, stamp)
}

func (d *device) element(name string) (element, error) {
	e := element{name: name, scale: d.number(name, "scale", 1), offset: d.number(name, "offset", 0)}
	index, err := strconv.Atoi(d.text("scan_elements/in_" + name + "_index"))
	if err != nil || index < 0 {
		return e, fmt.Errorf("channel %s has no place in the buffer", name)
	}
	e.index = index
	return e, e.parseType(d.text("scan_elements/in_" + name + "_type"))
}

// rateFiles is where drivers have the rate: of all, or of a kind of channel.
func (d *device) rateFiles() []string {
	files := []string{"sampling_frequency", "in_sampling_frequency", "buffer/sampling_frequency"}
	for _, name := range d.names("", "sampling_frequency") {
		files = append(files, "in_"+name+"_sampling_frequency")
	}
	return files
}

// setRate is a wish: drivers have a few rates and take the nearest, or none.
func (d *device) setRate(rate float64) {
	for _, file := range d.rateFiles() {
		_ = d.write(file, strconv.FormatFloat(rate, 'f', -1, 64))
	}
}

func (d *device) rate() float64 {
	for _, file := range d.rateFiles() {
		if v, err := strconv.ParseFloat(d.text(file), 64); err == nil && v > 0 && v < 1e9 {
			return v
		}
	}
	return 0
}

// trigger connects a device that needs a trigger with one: its own, or one that was
// made for it in configfs (hrtimer) or sysfs.
func (d *device) trigger(root string, rate float64) error {
	if _, err := os.Stat(filepath.Join(d.dir, "trigger/current_trigger")); err != nil {
		return nil // it measures by itself
	}
	have := d.text("trigger/current_trigger")
	triggers, _ := filepath.Glob(filepath.Join(root, "sys/bus/iio/devices/trigger*"))
	var best *device
	for _, dir := range triggers {
		t := &device{dir: dir}
		t.name = t.text("name")
		switch own := d.name != "" && strings.HasPrefix(t.name, d.name+"-"); {
		case t.name == "":
		case t.name == have:
			best = t
		case have == "" && (best == nil || own):
			best = t
		}
	}
	if best == nil {
		return errors.New("the device needs a trigger and there is none: mkdir /sys/kernel/config/iio/triggers/hrtimer/covey")
	}
	if rate > 0 {
		_ = best.write("sampling_frequency", strconv.FormatFloat(rate, 'f', -1, 64))
	}
	if best.name == have {
		return nil
	}
	return d.write("trigger/current_trigger", best.name)
}

func (b *buffer) close() error {
	err := b.device.write("buffer/enable", "0")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		err = nil // it is gone
	}
	return errors.Join(err, b.file.Close())
}
