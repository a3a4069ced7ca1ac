// Package doctor looks at a board: what is here that Covey can use, what is missing
// or half there, why, and the one line that mends it. It reads files and asks a few
// questions of the system, all through a Board, so that each check can be shown a
// board that is not there. It changes nothing and runs nothing.
package doctor

import (
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
)

// A Board is what there is to look at.
type Board struct {
	Root    fs.FS            // os.DirFS("/")
	Profile firmware.Profile // of the board
	Arch    string           // GOARCH
	Data    string           // folder of the agent's state, absolute
	User    string           // that the agent runs as, for the lines that mend permissions

	PageSize int
	Now      time.Time
	Floor    time.Time // it cannot be earlier; zero: not known

	// Access says whether the agent's user may read and write a device node.
	Access func(path string) error
	// Disk is the free bytes and the size of the volume that holds path.
	Disk func(path string) (free, total uint64, err error)
}

// Examine makes every check. What a board does not have and was not meant to have
// makes no line.
func Examine(b Board) []hal.Diagnosis {
	var all []hal.Diagnosis
	for _, check := range []func(*Board) []hal.Diagnosis{
		glibc, jetpack, pages, power, heat, clock, disk, storage, wear, traps, coralUSB, coralPCIe, opencl, npus, cameras, microphones,
	} {
		all = append(all, check(&b)...)
	}
	return all
}

// good and bad are one line each.
func good(subject, detail string) hal.Diagnosis {
	return hal.Diagnosis{Subject: subject, OK: true, Detail: detail}
}

func bad(subject, detail, fix string) hal.Diagnosis {
	return hal.Diagnosis{Subject: subject, Detail: detail, Fix: fix}
}

// maxText is how much of a file is looked at, bytes: files of sysfs are short.
const maxText = 64 << 10

// text is a small file without the space around it, "" when there is none.
func (b *Board) text(name string) string {
	f, err := b.Root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(p), "\x00", " "))
}

func (b *Board) exists(name string) bool {
	_, err := fs.Stat(b.Root, name)
	return err == nil
}

func (b *Board) glob(pattern string) []string {
	names, err := fs.Glob(b.Root, pattern)
	if err != nil {
		panic(err) // patterns are constants
	}
	return names
}

// libraries is where shared libraries are, with a distribution's folder for each
// architecture first.
var libraryFolders = []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/local/lib", "usr/lib64", "usr/lib", "lib", "opt/*/lib"}

// library is the path of a shared library, "" when there is none.
func (b *Board) library(name string) string {
	for _, folder := range libraryFolders {
		if found := b.glob(path.Join(folder, name)); len(found) > 0 {
			return "/" + found[0]
		}
	}
	return ""
}

// program is the path of a program, "" when there is none.
func (b *Board) program(name string) string {
	for _, folder := range []string{"usr/local/bin", "usr/bin", "bin"} {
		if b.exists(path.Join(folder, name)) {
			return "/" + path.Join(folder, name)
		}
	}
	return ""
}

// node is a line about a device node that has to be there for this user.
func (b *Board) node(subject, detail, node, group string) hal.Diagnosis {
	if err := b.Access("/" + node); err != nil {
		return bad(subject, detail+", but /"+node+" cannot be opened: "+err.Error(), "sudo usermod -aG "+group+" "+b.User+" && sudo systemctl restart covey-agent")
	}
	return good(subject, detail+", /"+node)
}
