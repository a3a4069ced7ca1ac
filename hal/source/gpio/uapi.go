package gpio

import (
	"encoding/binary"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's structures and numbers, version 2 (include/uapi/linux/gpio.h).

type chipInfo struct {
	_     [32]byte // name
	label [32]byte
	lines uint32
}

type attribute struct {
	id    uint32
	_     uint32
	value [8]byte // a union: of debouncing, the µs as 32 bits
}

type lineInfo struct {
	name   [32]byte
	_      [32]byte // consumer
	offset uint32
	_      uint32 // number of attributes
	flags  uint64
	attrs  [10]attribute
	_      [4]uint32
}

type lineConfig struct {
	flags      uint64
	attributes uint32
	_          [5]uint32
	attrs      [10]struct {
		attribute
		mask uint64 // of lines, by their place in the request
	}
}

type lineRequest struct {
	offsets    [mostLines]uint32
	consumer   [32]byte
	config     lineConfig
	lines      uint32
	bufferSize uint32
	_          [5]uint32
	fd         int32
}

type lineValues struct{ bits, mask uint64 }

const (
	mostLines = 64
	eventSize = 48

	ioctlChipInfo  = 0x8044b401
	ioctlLineInfo  = 0xc100b405
	ioctlGetLine   = 0xc250b407
	ioctlGetValues = 0xc010b40e

	flagUsed        = 1 << 0
	flagActiveLow   = 1 << 1
	flagInput       = 1 << 2
	flagEdgeRising  = 1 << 4
	flagEdgeFalling = 1 << 5
	flagPullUp      = 1 << 8
	flagPullDown    = 1 << 9
	flagNoBias      = 1 << 10

	attributeDebounce = 3

	eventRising = 1
)

func ioctl[T any](f *os.File, number uintptr, arg *T) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, number, uintptr(unsafe.Pointer(arg)))
	})
	runtime.KeepAlive(arg)
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

func text(b [32]byte) string {
	s, _, _ := strings.Cut(string(b[:]), "\x00")
	return s
}

// An event is an edge of a line.
type event struct {
	monotonic int64 // ns
	active    bool
	offset    uint32
	seq       uint32 // counts all events of the request from 1
}

func parseEvent(b []byte) event {
	order := binary.NativeEndian
	return event{
		monotonic: int64(order.Uint64(b)), active: order.Uint32(b[8:]) == eventRising,
		offset: order.Uint32(b[12:]), seq: order.Uint32(b[16:]),
	}
}
