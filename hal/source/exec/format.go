package exec

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source"
	"github.com/covey-edge/covey/hal/vision"
)

// A Format is how a program writes its pictures. Those of raw pictures have ffmpeg's
// names.
type Format string

const (
	MJPEG Format = "mjpeg"   // JPEGs, one after the other
	Y4M   Format = "y4m"     // YUV4MPEG2: raw pictures that say their size and levels
	RGB   Format = "rgb24"   // R G B
	Gray  Format = "gray"    // Y
	I420  Format = "yuv420p" // Y, U, V; chroma halved both ways
	NV12  Format = "nv12"    // Y, U and V in turns; chroma halved both ways
	YUYV  Format = "yuyv422" // Y0 U Y1 V
)

// reader returns what cuts pictures out of the output, and what makes frames of them.
func (c *Config) reader() (func(*bufio.Reader) cutter, func([]byte, *hal.Frame) error, error) {
	switch c.Format {
	case MJPEG:
		return func(r *bufio.Reader) cutter { return source.NewJPEGs(r) }, c.Decode, nil
	case Y4M:
		y := &y4m{}
		return func(r *bufio.Reader) cutter { y.r = r; return y }, func(b []byte, f *hal.Frame) error { return y.shape.fill(b, f) }, nil
	}
	format, known := map[Format]hal.PixelFormat{RGB: hal.FormatRGB, Gray: hal.FormatGray, I420: hal.FormatYUV420, NV12: hal.FormatNV12, YUYV: hal.FormatYUYV}[c.Format]
	if !known {
		return nil, nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("program source with format %q: give mjpeg, y4m, rgb24, gray, yuv420p, nv12 or yuyv422", c.Format)}
	}
	s, err := newShape(format, c.Width, c.Height)
	if err != nil {
		return nil, nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("program source with pictures of %s: %v", c.Format, err)}
	}
	s.limited = c.Limited
	return func(r *bufio.Reader) cutter { return &raw{r, s.size()} }, s.fill, nil
}

// A shape is the size of a raw picture and of its planes, which follow each other
// without a gap.
type shape struct {
	format        hal.PixelFormat
	width, height int
	limited       bool
	strides       [3]int
	sizes         [3]int // bytes of the planes
}

func newShape(format hal.PixelFormat, w, h int) (*shape, error) {
	if w < 1 || h < 1 || w > vision.MaxPicturePixels/h {
		return nil, fmt.Errorf("%d×%d pixels: give a width and height of at least 1 and at most %d megapixels", w, h, vision.MaxPicturePixels>>20)
	}
	if format == hal.FormatYUYV && w%2 != 0 {
		return nil, fmt.Errorf("a width of %d: give an even one", w)
	}
	s := &shape{format: format, width: w, height: h}
	plane := func(i, stride, rows int) { s.strides[i], s.sizes[i] = stride, stride*rows }
	chroma := func(w, h int) { plane(1, w, h); plane(2, w, h) }
	cw, ch := (w+1)/2, (h+1)/2
	plane(0, w, h)
	switch format {
	case hal.FormatRGB:
		plane(0, 3*w, h)
	case hal.FormatYUYV:
		plane(0, 2*w, h)
	case hal.FormatNV12:
		plane(1, 2*cw, ch)
	case hal.FormatYUV420:
		chroma(cw, ch)
	case hal.FormatYUV422:
		chroma(cw, h)
	case hal.FormatYUV444:
		chroma(w, h)
	}
	return s, nil
}

func (s *shape) size() int { return s.sizes[0] + s.sizes[1] + s.sizes[2] }

// fill copies a picture into a frame's own memory.
func (s *shape) fill(b []byte, f *hal.Frame) error {
	f.Format, f.Width, f.Height, f.Limited, f.Strides = s.format, s.width, s.height, s.limited, s.strides
	for i, n := range s.sizes {
		f.Planes[i] = append(f.Planes[i][:0], b[:n]...)
		b = b[n:]
	}
	return nil
}

// A raw output is pictures of one size without anything between.
type raw struct {
	r    *bufio.Reader
	size int
}

// Next reads one picture.
func (r *raw) Next(memory []byte) ([]byte, time.Time, error) { return readPicture(r.r, r.size, memory) }

func readPicture(r *bufio.Reader, size int, memory []byte) ([]byte, time.Time, error) {
	if _, err := r.Peek(1); err != nil {
		return nil, time.Time{}, err
	}
	began := time.Now()
	if cap(memory) < size {
		memory = make([]byte, size)
	}
	_, err := io.ReadFull(r, memory[:size])
	return memory[:size], began, err
}

// A y4m output is a YUV4MPEG2 stream: a line with the size of all pictures, and a
// line before each one.
type y4m struct {
	r     *bufio.Reader
	shape *shape // nil until the first line was read
}

const maxY4MLine = 1024

// Next reads one picture.
func (y *y4m) Next(memory []byte) ([]byte, time.Time, error) {
	if y.shape == nil {
		line, err := y.line()
		if err != nil {
			return nil, time.Time{}, err
		}
		if y.shape, err = parseY4M(line); err != nil {
			return nil, time.Time{}, senseless{err}
		}
	}
	line, err := y.line()
	if err != nil {
		return nil, time.Time{}, err
	}
	if line != "FRAME" && !strings.HasPrefix(line, "FRAME ") {
		return nil, time.Time{}, senseless{fmt.Errorf("wrote %.20q where a picture begins, and was killed", line)}
	}
	return readPicture(y.r, y.shape.size(), memory)
}

func (y *y4m) line() (string, error) {
	b, err := y.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || len(b) > maxY4MLine {
		return "", senseless{errors.New("wrote something that is no YUV4MPEG2 stream, and was killed")}
	}
	return string(bytes.TrimSuffix(b, []byte("\n"))), err
}

// parseY4M reads the first line of a YUV4MPEG2 stream, as yuv4mpeg(5) of mjpegtools
// and ffmpeg's encoder describe it. Video has limited levels unless it says otherwise.
func parseY4M(line string) (*shape, error) {
	fields := strings.Split(line, " ")
	if fields[0] != "YUV4MPEG2" {
		return nil, fmt.Errorf("wrote %.20q instead of a YUV4MPEG2 stream, and was killed", fields[0])
	}
	var w, h int
	format, limited := hal.FormatYUV420, true
	for _, field := range fields[1:] {
		if field == "" {
			continue
		}
		value := field[1:]
		var err error
		switch field[0] {
		case 'W':
			w, err = strconv.Atoi(value)
		case 'H':
			h, err = strconv.Atoi(value)
		case 'C':
			format, err = chromaY4M(value)
		case 'X':
			if value == "COLORRANGE=FULL" {
				limited = false
			}
		}
		if err != nil {
			return nil, fmt.Errorf("wrote a YUV4MPEG2 stream of %.20q, and was killed: 8 bits of 4:2:0, 4:2:2, 4:4:4 or mono are known", field)
		}
	}
	s, err := newShape(format, w, h)
	if err != nil {
		return nil, fmt.Errorf("wrote pictures of %w", err)
	}
	s.limited = limited
	return s, nil
}

func chromaY4M(c string) (hal.PixelFormat, error) {
	switch c {
	case "420", "420jpeg", "420mpeg2", "420paldv":
		return hal.FormatYUV420, nil
	case "422":
		return hal.FormatYUV422, nil
	case "444":
		return hal.FormatYUV444, nil
	case "mono":
		return hal.FormatGray, nil
	}
	return 0, errors.New("unknown")
}
