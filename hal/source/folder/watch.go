package folder

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// A watcher reads what the kernel tells about a folder (inotify). Files that are
// still being written are not told about: only those that were closed after
// writing or moved into the folder.
type watcher struct {
	file *os.File
	path string
	buf  [64 << 10]byte
}

// An event is one thing that happened.
type event struct {
	name     string
	gone     bool
	overflow bool // more happened than the kernel could keep
}

func watch(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, refuse(path, err)
	}
	const mask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, path, mask); err != nil {
		unix.Close(fd)
		return nil, refuse(path, err)
	}
	return &watcher{file: os.NewFile(uintptr(fd), "inotify"), path: path}, nil
}

func (w *watcher) close() error { return w.file.Close() }

// read waits for events until ctx ends.
func (w *watcher) read(ctx context.Context) ([]event, error) {
	for {
		w.file.SetReadDeadline(time.Time{})
		stop := context.AfterFunc(ctx, func() { w.file.SetReadDeadline(time.Unix(1, 0)) })
		n, err := w.file.Read(w.buf[:])
		stop()
		switch {
		case n > 0:
			return w.parse(w.buf[:n])
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, os.ErrDeadlineExceeded): // or else the end of an earlier ctx came late
			return nil, refuse(w.path, err)
		}
	}
}

// parse reads the kernel's records: watch, mask, cookie, length of the name, name.
func (w *watcher) parse(b []byte) ([]event, error) {
	var events []event
	for len(b) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			break
		}
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
		b = b[end:]
		if mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 {
			return nil, &hal.Error{Code: hal.CodeSourceLost, Text: fmt.Sprintf("folder %s is gone: make it again, or mount what it is on", w.path)}
		}
		events = append(events, event{
			name: name, gone: mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0, overflow: mask&unix.IN_Q_OVERFLOW != 0,
		})
	}
	return events, nil
}
