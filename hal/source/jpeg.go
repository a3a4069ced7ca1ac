package source

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/covey-edge/covey/hal"
)

// MaxPicture is the largest picture that is taken in, in bytes as it comes.
const MaxPicture = 16 << 20

// JPEGs cuts JPEG pictures out of a stream of bytes by their own marks (ITU-T T.81
// annex B), with whatever stands between them: boundaries and headers of a multipart
// message, or nothing. Thumbnails within a picture are part of it.
type JPEGs struct {
	r     *bufio.Reader
	begun bool // the two bytes that begin a picture were read already
}

// NewJPEGs returns a cutter of r.
func NewJPEGs(r io.Reader) *JPEGs { return &JPEGs{r: bufio.NewReaderSize(r, 64<<10)} }

// Marks of a JPEG, behind a byte of 0xff.
const (
	markSOI = 0xd8 // a picture begins
	markEOI = 0xd9 // it ends
	markSOS = 0xda // its data begin
	markTEM = 0x01 // stands alone, as RST0 to RST7 do
)

// Next reads the next picture into memory and says when its first byte came. A
// picture that is cut short, broken or too large is an error that wraps
// hal.ErrBadFrame; the one after it can be read. All other errors are the reader's.
func (j *JPEGs) Next(memory []byte) (picture []byte, began time.Time, err error) {
	if !j.begun {
		if err := j.seek(); err != nil {
			return nil, time.Time{}, err
		}
	}
	j.begun, began = false, time.Now()
	p := &jpegPicture{r: j.r, b: append(memory[:0], 0xff, markSOI)}
	mark, err := p.marker()
	for err == nil {
		switch {
		case mark == markEOI:
			return p.b, began, nil
		case mark == markSOI:
			j.begun = true
			return p.b, began, broken("it is cut short")
		case mark == markTEM || mark >= 0xd0 && mark <= 0xd7:
			mark, err = p.marker()
		default:
			if err = p.segment(); err == nil && mark == markSOS {
				mark, err = p.data()
			} else if err == nil {
				mark, err = p.marker()
			}
		}
	}
	return p.b, began, err
}

// seek reads up to the bytes that begin a picture.
func (j *JPEGs) seek() error {
	for {
		_, err := j.r.ReadSlice(0xff)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return err
		}
		b, err := j.r.ReadByte()
		if err != nil {
			return err
		}
		if b == markSOI {
			return nil
		}
		if b == 0xff {
			_ = j.r.UnreadByte() // it was just read
		}
	}
}

func broken(why string) error {
	return fmt.Errorf("%w: %w", hal.ErrBadFrame, &hal.Error{Code: hal.CodeImage, Text: "broken JPEG picture in the stream: " + why})
}

// A jpegPicture is one that is being read.
type jpegPicture struct {
	r *bufio.Reader
	b []byte
}

func (p *jpegPicture) add() (byte, error) {
	b, err := p.r.ReadByte()
	if err != nil {
		return 0, err
	}
	if p.b = append(p.b, b); len(p.b) > MaxPicture {
		return 0, tooLarge()
	}
	return b, nil
}

func tooLarge() error { return broken(fmt.Sprintf("it has more than %d MiB", MaxPicture>>20)) }

// marker reads a marker outside of data.
func (p *jpegPicture) marker() (byte, error) {
	b, err := p.add()
	if err == nil && b != 0xff {
		err = broken("a marker is missing")
	}
	for err == nil && b == 0xff { // any number may fill up
		b, err = p.add()
	}
	if err == nil && b == 0 {
		err = broken("a marker is missing")
	}
	return b, err
}

// segment reads what belongs to a marker.
func (p *jpegPicture) segment() error {
	high, err := p.add()
	if err != nil {
		return err
	}
	low, err := p.add()
	if err != nil {
		return err
	}
	n := int(high)<<8 | int(low)
	if n < 2 {
		return broken("a segment has no length")
	}
	n -= 2
	at := len(p.b)
	if at+n > MaxPicture {
		return tooLarge()
	}
	p.b = append(p.b, make([]byte, n)...)
	_, err = io.ReadFull(p.r, p.b[at:])
	return err
}

// data reads the data of a scan up to the marker behind it.
func (p *jpegPicture) data() (byte, error) {
	for {
		chunk, err := p.r.ReadSlice(0xff)
		if len(p.b)+len(chunk) > MaxPicture {
			return 0, tooLarge()
		}
		p.b = append(p.b, chunk...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return 0, err
		}
		b := byte(0xff)
		for b == 0xff {
			if b, err = p.add(); err != nil {
				return 0, err
			}
		}
		if b != 0 && (b < 0xd0 || b > 0xd7) {
			return b, nil
		}
	}
}
