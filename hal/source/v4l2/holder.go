package v4l2

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// explain says what an error means for who reads it, and what to do.
func explain(path string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return "it is not there: plug it in; covey-agent probe lists what is"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "not allowed: give the service what covey-agent unit prints (by hand: usermod -aG video covey) and restart it"
	case errors.Is(err, unix.EBUSY):
		return holder(path)
	case errors.Is(err, unix.ENOMEM):
		return "there is too little memory for its buffers: pin a smaller width and height"
	case errors.Is(err, unix.EISDIR):
		return errNoCamera.Error()
	}
	return err.Error()
}

// holder says who uses a node, as far as we may see.
func holder(path string) string {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		path = "?"
	}
	open, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	var others []string
	seen := map[string]bool{}
	for _, fd := range open {
		process := filepath.Dir(filepath.Dir(fd))
		if to, err := os.Readlink(fd); err != nil || to != path || seen[process] {
			continue
		}
		seen[process] = true
		if strings.HasPrefix(fd, own) {
			continue // we have just opened it ourselves
		}
		comm, _ := os.ReadFile(filepath.Join(process, "comm"))
		others = append(others, fmt.Sprintf("%s (process %s)", clean(string(comm)), filepath.Base(process)))
	}
	if len(others) > 0 {
		return fmt.Sprintf("%s has it: end that one", strings.Join(others, ", "))
	}
	return "another program or another pipeline here has it: end that one"
}
