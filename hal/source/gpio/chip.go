package gpio

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

// Probe lists the chips under a root such as os.DirFS("/"), by their labels, which
// stay when the kernel counts anew, and the names of their lines.
func Probe(root fs.FS) []hal.Input {
	nodes, _ := fs.Glob(root, "dev/gpiochip*") // the pattern is a good one
	var found []hal.Input
	for _, node := range nodes {
		in := hal.Input{Source: "gpio", ID: path.Base(node), Name: path.Base(node)}
		info, names, err := look(root, node)
		if err != nil {
			in.Detail = explain(err)
		} else {
			in.Name = text(info.label)
			in.Detail = fmt.Sprintf("%d lines", info.lines)
			if names != "" {
				in.Detail += ": " + names
			}
		}
		found = append(found, in)
	}
	// A label that two chips share names neither.
	for i := range found {
		same := func(in hal.Input) bool { return in.Name == found[i].Name }
		if slices.IndexFunc(found, same) == i && !slices.ContainsFunc(found[i+1:], same) && found[i].Name != "" {
			found[i].ID = found[i].Name
		}
	}
	return found
}

// look asks a chip for its label and the names of its lines.
func look(root fs.FS, node string) (info chipInfo, names string, err error) {
	f, err := root.Open(node)
	if err != nil {
		return info, "", err
	}
	defer f.Close()
	file, ok := f.(*os.File)
	if !ok {
		return info, "", errors.New("not a device")
	}
	if err := ioctl(file, ioctlChipInfo, &info); err != nil {
		return info, "", err
	}
	var list []string
	for i := range min(info.lines, 512) {
		line := lineInfo{offset: i}
		if err := ioctl(file, ioctlLineInfo, &line); err == nil && line.name[0] != 0 {
			list = append(list, text(line.name))
		}
	}
	names = strings.Join(list, " ")
	return info, names[:min(len(names), 500)], nil
}

// openChip opens a chip by its path, its name ("gpiochip0") or its label.
func openChip(id string) (*os.File, chipInfo, error) {
	var info chipInfo
	nodes := []string{id}
	if !strings.Contains(id, "/") {
		nodes, _ = filepath.Glob("/dev/gpiochip*")
	}
	refused := os.ErrNotExist
	for _, node := range nodes {
		f, err := os.OpenFile(node, os.O_RDWR, 0)
		if err == nil {
			if err = ioctl(f, ioctlChipInfo, &info); err == nil && (node == id || path.Base(node) == id || text(info.label) == id) {
				return f, info, nil
			}
			f.Close()
		}
		if err != nil && (node == id || path.Base(node) == id || errors.Is(err, os.ErrPermission)) {
			refused = err
		}
	}
	return nil, info, refused
}

// offsets is the numbers of lines that are given by number or name.
func offsets(chip *os.File, info chipInfo, lines []string) ([]uint32, error) {
	var found []uint32
	for _, name := range lines {
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			n = uint64(info.lines)
			for i := range info.lines {
				line := lineInfo{offset: i}
				if err := ioctl(chip, ioctlLineInfo, &line); err == nil && text(line.name) == name {
					n = uint64(i)
					break
				}
			}
		}
		if n >= uint64(info.lines) {
			return nil, fmt.Errorf("it has %d lines and no line %q: covey-agent probe lists them", info.lines, name)
		}
		if slices.Contains(found, uint32(n)) {
			return nil, fmt.Errorf("line %q is named twice", name)
		}
		found = append(found, uint32(n))
	}
	return found, nil
}
