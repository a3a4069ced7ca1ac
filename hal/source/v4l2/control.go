package v4l2

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A control is a knob of a camera.
type control struct {
	id          uint32
	name        string // as v4l2-ctl writes it: "white_balance_automatic"
	kind        uint32
	least, most int32
	flags       uint32
}

// Kinds of controls with a value of 32 bits.
const (
	kindInteger = 1
	kindBoolean = 2
	kindMenu    = 3
	kindButton  = 4
	kindBitmask = 8
	kindIntMenu = 9

	controlNext     = 0x80000000 // in a query's id: the one after it
	controlDisabled = 0x1
	controlReadOnly = 0x4

	maxControls = 512
)

// controls lists those that can be set.
func controls(fd int) []control {
	var found []control
	q := controlDesc{id: controlNext}
	for range maxControls {
		last := q.id &^ controlNext
		if ioctl(fd, vidQueryControl, &q) != nil || q.id <= last {
			break
		}
		switch q.kind {
		case kindInteger, kindBoolean, kindMenu, kindButton, kindBitmask, kindIntMenu:
			if q.flags&(controlDisabled|controlReadOnly) == 0 {
				found = append(found, control{id: q.id, name: controlName(text(q.name[:])), kind: q.kind, least: q.least, most: q.most, flags: q.flags})
			}
		}
		q = controlDesc{id: q.id | controlNext}
	}
	return found
}

// controlName makes a name of a driver's words: "Exposure, Auto" is exposure_auto.
func controlName(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9')
	}), "_")
}

// A setting is a control and its value.
type setting struct {
	control
	value int32
}

// settings orders what is to be set. Switches and menus come first: an exposure
// cannot be set while it is automatic.
func settings(have []control, want map[string]int) ([]setting, error) {
	var all []setting
	for _, name := range slices.Sorted(maps.Keys(want)) {
		i := slices.IndexFunc(have, func(c control) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("it has no control %q: it has %s", name, controlNames(have))
		}
		c, v := have[i], want[name]
		// The limits of a bitmask are no numbers with a sign.
		if c.kind != kindButton && c.kind != kindBitmask && (v < int(c.least) || v > int(c.most)) {
			return nil, fmt.Errorf("control %s is %d: give %d to %d", name, v, c.least, c.most)
		}
		all = append(all, setting{c, int32(v)})
	}
	slices.SortStableFunc(all, func(a, b setting) int { return cmp.Compare(a.late(), b.late()) })
	return all, nil
}

func (c control) late() int {
	if c.kind == kindInteger || c.kind == kindBitmask {
		return 1
	}
	return 0
}

func controlNames(have []control) string {
	if len(have) == 0 {
		return "none"
	}
	var names []string
	for _, c := range have {
		if c.kind == kindButton {
			names = append(names, c.name)
			continue
		}
		names = append(names, fmt.Sprintf("%s (%d to %d)", c.name, c.least, c.most))
	}
	return strings.Join(names, ", ")
}

// setControls sets controls by their names.
func setControls(fd int, want map[string]int) error {
	if len(want) == 0 {
		return nil
	}
	all, err := settings(controls(fd), want)
	if err != nil {
		return err
	}
	for _, s := range all {
		err := ioctl(fd, vidSetControl, &controlValue{id: s.id, value: s.value})
		switch {
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EIO):
			return fmt.Errorf("control %s cannot be set now: switch its automatic off with another control", s.name)
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("control %s is held by another program: end that one", s.name)
		case err != nil:
			return fmt.Errorf("control %s = %d: %w", s.name, s.value, err)
		}
	}
	return nil
}

// text is a C string that a driver wrote, without what does not belong into a line.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return clean(string(b))
}

// clean is s with nothing in it that could break a line or a terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
