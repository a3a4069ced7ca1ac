package v4l2

import (
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// Bounds of what a driver may say.
const (
	maxSide    = 16384
	maxPicture = 64 << 20 // bytes of a buffer
	maxEntries = 256      // of one list
	buffers    = 4        // in the driver: one is filled, one is read, two for the delays of a busy board
)

// A camera is an open device.
type camera struct {
	fd   int
	path string
	card string // its name for people

	mode      mode
	layout    layout
	memory    [][]byte      // of the buffers, shared with the driver
	interval  time.Duration // from picture to picture
	streaming bool
}

// openCamera opens a node and sees that it is a camera.
func openCamera(path string) (*camera, error) {
	// Without O_NONBLOCK a dequeue could hold us for ever; os.OpenFile would ask the
	// node for readiness, which makes some drivers begin to stream.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	c := &camera{fd: fd, path: path}
	if err := c.check(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return c, nil
}

var errNoCamera = errors.New("this is no camera: covey-agent probe lists those")

func (c *camera) check() error {
	var q capability
	if err := ioctl(c.fd, vidQueryCap, &q); err != nil {
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
			return errNoCamera
		}
		return err
	}
	c.card = text(q.card[:])
	does := q.capabilities
	if does&capDeviceCaps != 0 {
		does = q.node
	}
	switch {
	case isCSI(text(q.driver[:])):
		return errors.New(useCSI)
	case does&(capCapture|capCaptureMPlane) == 0 || does&capM2M != 0:
		return errNoCamera
	case does&capCapture == 0:
		return errors.New("it sends pictures in several pieces of memory, which is not read here: use a source of type exec with ffmpeg or GStreamer")
	case does&capStreaming == 0:
		return errors.New("its driver cannot share memory: use a source of type exec with ffmpeg")
	}
	return nil
}

// close ends it; the pages of its buffers are gone then.
func (c *camera) close() error {
	c.stop()
	return unix.Close(c.fd)
}

// list calls ask with 0, 1, … until it fails or the list is too long.
func list(ask func(i uint32) error) {
	for i := range uint32(maxEntries) {
		if ask(i) != nil {
			return
		}
	}
}

// modes lists what a camera can do for a wish, and all pixel formats that it has.
func (c *camera) modes(w wish) (found []mode, all []string) {
	list(func(i uint32) error {
		q := formatDesc{index: i, kind: bufCapture}
		if err := ioctl(c.fd, vidEnumFormat, &q); err != nil {
			return err
		}
		all = append(all, q.pixelFormat.String())
		if _, known := formatOf(q.pixelFormat); !known {
			return nil
		}
		for _, s := range c.sizes(q.pixelFormat) {
			m := mode{code: q.pixelFormat, width: s.width.near(w.width), height: s.height.near(w.height)}
			if m.width <= 0 || m.height <= 0 || m.width > maxSide || m.height > maxSide {
				continue
			}
			m.interval = pick(c.intervals(m, w), w)
			found = append(found, m)
		}
		return nil
	})
	return found, all
}

func (c *camera) sizes(f fourCC) (found []sizes) {
	list(func(i uint32) error {
		q := frameSize{index: i, pixelFormat: f}
		if err := ioctl(c.fd, vidEnumSizes, &q); err != nil {
			return err
		}
		w, h := q.width, q.height
		if q.kind == discrete {
			found = append(found, sizes{f, span{int(w[0]), int(w[0]), 1}, span{int(w[1]), int(w[1]), 1}})
			return nil
		}
		// In a range: width least, most, step, then the same of the height.
		found = append(found, sizes{f, newSpan(w), newSpan(h)})
		return unix.EINVAL // there is one
	})
	if found == nil { // old drivers do not list: they take the size that they have
		q := format{kind: bufCapture}
		if ioctl(c.fd, vidGetFormat, &q) == nil {
			found = append(found, sizes{f, span{int(q.pix.width), int(q.pix.width), 1}, span{int(q.pix.height), int(q.pix.height), 1}})
		}
	}
	return found
}

func newSpan(v [3]uint32) span {
	limit := func(n uint32) int { return int(min(n, maxSide)) }
	return span{limit(v[0]), limit(v[1]), limit(v[2])}
}

func (c *camera) intervals(m mode, w wish) (found []fraction) {
	list(func(i uint32) error {
		q := frameInterval{index: i, pixelFormat: m.code, width: uint32(m.width), height: uint32(m.height)}
		if err := ioctl(c.fd, vidEnumIntervals, &q); err != nil {
			return err
		}
		found = append(found, q.least)
		if q.kind == discrete {
			return nil
		}
		found = append(found, q.most, within(q.least, q.most, w))
		return unix.EINVAL
	})
	return found
}

// within is what is wished, in a range of intervals.
func within(least, most fraction, w wish) fraction {
	wanted, _ := w.rate()
	fastest, slowest := mode{interval: least}.fps(), mode{interval: most}.fps()
	if wanted > fastest || wanted < slowest {
		return fraction{} // one of the ends
	}
	return fraction{1000, uint32(math.Round(wanted * 1000))}
}

// configure takes a mode, so that start can begin. Nobody else can use the camera
// from now on.
func (c *camera) configure(m mode) error {
	c.stop()
	c.mode = mode{}
	q := format{kind: bufCapture, pix: pixFormat{
		width: uint32(m.width), height: uint32(m.height), pixelFormat: m.code, field: fieldNone, priv: pixMagic,
	}}
	if err := ioctl(c.fd, vidSetFormat, &q); err != nil {
		return err
	}
	if q.pix.pixelFormat != m.code {
		return fmt.Errorf("it gives %s where it promised %s: pin another format", q.pix.pixelFormat, m)
	}
	layout, err := newLayout(q.pix)
	if err != nil {
		return err
	}
	c.layout = layout
	c.setInterval(m.interval)
	if err := c.mapBuffers(); err != nil {
		c.stop()
		return err
	}
	c.mode = m
	return nil
}

// setInterval asks for an interval and takes what it gets.
func (c *camera) setInterval(i fraction) {
	c.interval = time.Second / usualFPS
	q := streamParm{kind: bufCapture}
	if ioctl(c.fd, vidGetParm, &q) == nil && q.capability&canSetInterval != 0 && i.under != 0 {
		q = streamParm{kind: bufCapture, interval: i}
		if ioctl(c.fd, vidSetParm, &q) != nil {
			q.interval = i
		}
	}
	i = q.interval
	if fps := (mode{interval: i}).fps(); fps > 0 {
		c.interval = time.Duration(float64(time.Second) / max(fps, .001))
	}
}

func (c *camera) mapBuffers() error {
	r := requestBuffers{count: buffers, kind: bufCapture, memory: memoryMmap}
	if err := ioctl(c.fd, vidRequestBuffers, &r); err != nil {
		return err
	}
	if r.count < 2 || r.count > 32 {
		return fmt.Errorf("its driver gives %d buffers: it has too little memory for pictures of this size, pin a smaller one", r.count)
	}
	for i := range r.count {
		b := buffer{index: i, kind: bufCapture, memory: memoryMmap}
		if err := ioctl(c.fd, vidQueryBuffer, &b); err != nil {
			return err
		}
		if b.length == 0 || b.length > maxPicture || int(b.length) < c.layout.size {
			return fmt.Errorf("its driver gives buffers of %d bytes for pictures of %d: pin another format or size", b.length, c.layout.size)
		}
		m, err := unix.Mmap(c.fd, int64(uint32(b.offset)), int(b.length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map its buffers: %w", err)
		}
		c.memory = append(c.memory, m)
	}
	return nil
}

func (c *camera) start() error {
	// Controls that were set meanwhile may have changed range and colours.
	q := format{kind: bufCapture}
	if err := ioctl(c.fd, vidGetFormat, &q); err != nil {
		return err
	}
	layout, err := newLayout(q.pix)
	if err != nil {
		return err
	}
	if layout.size != c.layout.size || q.pix.pixelFormat != c.mode.code {
		return fmt.Errorf("another program changed its format to %s %d×%d: end that one", q.pix.pixelFormat, q.pix.width, q.pix.height)
	}
	c.layout = layout
	for i := range c.memory {
		if err := c.queue(uint32(i)); err != nil {
			return err
		}
	}
	kind := int32(bufCapture)
	if err := ioctl(c.fd, vidStreamOn, &kind); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("the USB bus has no room for %s beside what runs on it: pin mjpeg or a smaller size, or use another socket", c.mode)
		}
		return err
	}
	c.streaming = true
	return nil
}

// stop ends what configure and start began. Errors mean that it is gone.
func (c *camera) stop() {
	kind := int32(bufCapture)
	if c.streaming {
		_ = ioctl(c.fd, vidStreamOff, &kind)
		c.streaming = false
	}
	if c.memory == nil {
		return
	}
	for _, m := range c.memory {
		_ = unix.Munmap(m)
	}
	c.memory = nil
	_ = ioctl(c.fd, vidRequestBuffers, &requestBuffers{kind: bufCapture, memory: memoryMmap})
}

// queue gives a buffer to the driver to fill.
func (c *camera) queue(index uint32) error {
	return ioctl(c.fd, vidQueue, &buffer{index: index, kind: bufCapture, memory: memoryMmap})
}

// dequeue takes a filled buffer; ok is false when there is none yet.
func (c *camera) dequeue() (b buffer, ok bool, err error) {
	b = buffer{kind: bufCapture, memory: memoryMmap}
	err = ioctl(c.fd, vidDequeue, &b)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return b, false, nil
	case err == nil && int(b.index) >= len(c.memory):
		err = fmt.Errorf("its driver filled buffer %d of %d", b.index, len(c.memory))
	}
	return b, err == nil, err
}

// ready waits until there may be something to dequeue, at most for d. It returns an
// error when there never will be.
func (c *camera) ready(d time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, max(1, int(d.Milliseconds())))
	switch {
	case err == unix.EINTR || err == nil && n == 0:
		return nil
	case err != nil:
		return err
	case fds[0].Revents&unix.POLLIN == 0:
		// Asking says why; an answer of "nothing yet" is none.
		if b, ok, err := c.dequeue(); err != nil {
			return err
		} else if ok {
			return c.queue(b.index)
		}
		return unix.ENODEV
	}
	return nil
}

// captured is when a buffer was filled, by both clocks; now when the driver does not
// say or cannot be right.
func captured(b buffer) time.Time {
	var mono unix.Timespec
	now := time.Now()
	if b.flags&flagClock != flagMonotonic || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return now
	}
	return at(now, time.Duration(mono.Nano()), time.Duration(b.timestamp.Nano()))
}

// at is the moment when the monotonic clock said stamp, which now says mono.
func at(now time.Time, mono, stamp time.Duration) time.Time {
	age := mono - stamp
	if stamp <= 0 || age < 0 || age > time.Minute {
		return now
	}
	return now.Add(-age)
}

// A layout says where the planes of a raw picture lie in a buffer.
type layout struct {
	format        hal.PixelFormat // FormatNone: a JPEG
	width, height int
	limited       bool
	planes        []plane
	size          int // bytes of a whole picture; 0 for a JPEG
}

type plane struct{ offset, size, stride int }

// newLayout reads what a driver says of its pictures.
func newLayout(p pixFormat) (layout, error) {
	i, known := formatOf(p.pixelFormat)
	if !known || p.width == 0 || p.height == 0 || p.width > maxSide || p.height > maxSide || p.size > maxPicture || p.stride > 8*maxSide {
		return layout{}, fmt.Errorf("it offers %s %d×%d in %d bytes: pin another format and size", p.pixelFormat, p.width, p.height, p.size)
	}
	l := layout{format: formats[i].format, width: int(p.width), height: int(p.height), limited: limited(p)}
	w, h, stride := l.width, l.height, int(p.stride)
	row := w // bytes that a row of the first plane needs
	add := func(stride, rows int) {
		l.planes = append(l.planes, plane{l.size, stride * rows, stride})
		l.size += stride * rows
	}
	if l.format == hal.FormatYUYV {
		row = 2 * w
	}
	if stride == 0 {
		stride = row
	}
	if l.format != hal.FormatNone && stride < row {
		return layout{}, fmt.Errorf("its rows of %d bytes are too short for a width of %d: pin another format", stride, w)
	}
	odd := w%2 != 0 || h%2 != 0
	switch l.format {
	case hal.FormatNone:
	case hal.FormatGray:
		add(stride, h)
	case hal.FormatYUYV:
		odd = w%2 != 0
		add(stride, h)
	case hal.FormatNV12:
		add(stride, h)
		add(stride, h/2)
	case hal.FormatYUV420:
		odd = odd || stride%2 != 0
		add(stride, h)
		add(stride/2, h/2)
		add(stride/2, h/2)
	}
	if odd && l.format != hal.FormatNone && l.format != hal.FormatGray {
		return layout{}, fmt.Errorf("its pictures of %d×%d cannot be halved: pin another size", w, h)
	}
	return l, nil
}

// limited says whether luma is 16 to 235: as the driver says, else by the rule of the
// kernel (V4L2_MAP_QUANTIZATION_DEFAULT): only JPEG's YCbCr is full, and what a grey
// sensor saw.
func limited(p pixFormat) bool {
	const full, part, jpegSpace = 1, 2, 7
	switch p.quantization {
	case full:
		return false
	case part:
		return true
	}
	return p.colorspace != jpegSpace && p.pixelFormat != code("GREY")
}

// show copies a picture into f's memory. What f shows lives as long as f, whatever
// becomes of the camera and its buffers meanwhile.
func (l layout) show(data []byte, f *hal.Frame) {
	all := f.Planes[0]
	if cap(all) < l.size {
		all = make([]byte, l.size)
	}
	all = all[:l.size]
	copy(all, data)
	f.Format, f.Width, f.Height, f.Limited = l.format, l.width, l.height, l.limited
	f.Planes, f.Strides = [3][]byte{}, [3]int{}
	for i, p := range l.planes {
		f.Planes[i], f.Strides[i] = all[p.offset:p.offset+p.size], p.stride
	}
}
