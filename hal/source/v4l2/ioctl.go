package v4l2

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The structures of the kernel's videodev2.h, as they lie in memory where a word is
// 64 bits (amd64, arm64) and where it is 32 (arm). Where a word is 32 bits, times are
// too: the kernel serves both, and its monotonic clock lasts for 68 years.

type capability struct {
	driver       [16]byte
	card         [32]byte
	_            [36]byte
	capabilities uint32 // of the whole hardware
	node         uint32 // of what was opened, with capDeviceCaps
	_            [3]uint32
}

const (
	capCapture       = 0x1
	capCaptureMPlane = 0x1000
	capM2M           = 0x4000 | 0x8000 // memory to memory: a codec
	capStreaming     = 0x04000000
	capDeviceCaps    = 0x80000000
)

const (
	bufCapture = 1 // V4L2_BUF_TYPE_VIDEO_CAPTURE
	memoryMmap = 1
	fieldNone  = 1 // progressive
)

type formatDesc struct {
	index, kind uint32
	_           [36]byte
	pixelFormat fourCC
	_           [4]uint32
}

type pixFormat struct {
	width, height uint32
	pixelFormat   fourCC
	field         uint32
	stride        uint32 // bytes from row to row of the first plane; 0: no padding
	size          uint32 // bytes of a picture at most
	colorspace    uint32
	priv          uint32
	_             [2]uint32
	quantization  uint32
	_             uint32
}

// pixMagic in priv says that what comes after it is filled in.
const pixMagic = 0xfeedcafe

type format struct {
	kind uint32
	_    [0]uintptr // it is a union in C, and one of its sides has pointers
	pix  pixFormat
	_    [200 - unsafe.Sizeof(pixFormat{})]byte
}

type requestBuffers struct {
	count, kind, memory uint32
	_                   [2]uint32
}

type buffer struct {
	index, kind uint32
	used        uint32 // bytes
	flags       uint32
	_           uint32
	timestamp   unix.Timeval
	_           [4]uint32
	sequence    uint32
	memory      uint32
	offset      uintptr // for mmap
	length      uint32
	_           [2]uint32
}

const (
	flagError     = 0x40
	flagClock     = 0xe000 // mask
	flagMonotonic = 0x2000
)

// A fraction of seconds.
type fraction struct{ over, under uint32 }

type streamParm struct {
	kind       uint32
	capability uint32
	_          uint32
	interval   fraction
	_          [200 - 16]byte
}

const canSetInterval = 0x1000

type frameSize struct {
	index       uint32
	pixelFormat fourCC
	kind        uint32
	width       [3]uint32 // discrete: width and height; else least, most, step
	height      [3]uint32
	_           [2]uint32
}

const discrete = 1 // kind of frameSize and frameInterval; others are ranges

type frameInterval struct {
	index         uint32
	pixelFormat   fourCC
	width, height uint32
	kind          uint32
	least, most   fraction // discrete: least is it
	_             [4]uint32
}

type controlValue struct {
	id    uint32
	value int32
}

type controlDesc struct {
	id, kind    uint32
	name        [32]byte
	least, most int32
	_           [2]int32
	flags       uint32
	_           [2]uint32
}

// The requests: direction, size of the structure, 'V' and a number, as all of
// Linux's architectures that matter here put them together.
const (
	toKernel   = 1 << 30
	fromKernel = 2 << 30
	both       = toKernel | fromKernel

	vidQueryCap       = fromKernel | unsafe.Sizeof(capability{})<<16 | 'V'<<8
	vidEnumFormat     = both | unsafe.Sizeof(formatDesc{})<<16 | 'V'<<8 | 2
	vidGetFormat      = both | unsafe.Sizeof(format{})<<16 | 'V'<<8 | 4
	vidSetFormat      = both | unsafe.Sizeof(format{})<<16 | 'V'<<8 | 5
	vidRequestBuffers = both | unsafe.Sizeof(requestBuffers{})<<16 | 'V'<<8 | 8
	vidQueryBuffer    = both | unsafe.Sizeof(buffer{})<<16 | 'V'<<8 | 9
	vidQueue          = both | unsafe.Sizeof(buffer{})<<16 | 'V'<<8 | 15
	vidDequeue        = both | unsafe.Sizeof(buffer{})<<16 | 'V'<<8 | 17
	vidStreamOn       = toKernel | unsafe.Sizeof(int32(0))<<16 | 'V'<<8 | 18
	vidStreamOff      = toKernel | unsafe.Sizeof(int32(0))<<16 | 'V'<<8 | 19
	vidGetParm        = both | unsafe.Sizeof(streamParm{})<<16 | 'V'<<8 | 21
	vidSetParm        = both | unsafe.Sizeof(streamParm{})<<16 | 'V'<<8 | 22
	vidGetControl     = both | unsafe.Sizeof(controlValue{})<<16 | 'V'<<8 | 27
	vidSetControl     = both | unsafe.Sizeof(controlValue{})<<16 | 'V'<<8 | 28
	vidQueryControl   = both | unsafe.Sizeof(controlDesc{})<<16 | 'V'<<8 | 36
	vidEnumSizes      = both | unsafe.Sizeof(frameSize{})<<16 | 'V'<<8 | 74
	vidEnumIntervals  = both | unsafe.Sizeof(frameInterval{})<<16 | 'V'<<8 | 75
)

// The kernel's sizes, held by the compiler on every architecture: an index that is
// not 0 does not compile.
const wide = unsafe.Sizeof(uintptr(0)) / 8 // 1 where a word is 64 bits

var (
	_ = [1]struct{}{}[unsafe.Sizeof(capability{})-104]
	_ = [1]struct{}{}[unsafe.Sizeof(formatDesc{})-64]
	_ = [1]struct{}{}[unsafe.Sizeof(format{})-(204+4*wide)]
	_ = [1]struct{}{}[unsafe.Sizeof(requestBuffers{})-20]
	_ = [1]struct{}{}[unsafe.Sizeof(buffer{})-(68+20*wide)]
	_ = [1]struct{}{}[unsafe.Sizeof(streamParm{})-204]
	_ = [1]struct{}{}[unsafe.Sizeof(frameSize{})-44]
	_ = [1]struct{}{}[unsafe.Sizeof(frameInterval{})-52]
	_ = [1]struct{}{}[unsafe.Sizeof(controlValue{})-8]
	_ = [1]struct{}{}[unsafe.Sizeof(controlDesc{})-68]
)

// ioctl asks the driver of an open device.
func ioctl[T any](fd int, request uintptr, arg *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR: // by the Go runtime's own signals
		default:
			return errno
		}
	}
}
