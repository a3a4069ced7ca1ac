package jpeg

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/vision"
)

// To the agent, a runner that decodes is an engine like any other, and its session a
// model:
//
//	file      Limits as JSON
//	input 0   uint8 [Limits.Bytes], the JPEG file from its first byte
//	input 1   int32 [2]: its length in bytes, and in how many eighths of its size to
//	          decode it (1, 2, 4 or 8)
//	output 0  uint8 [n], the planes Y, U, V of the picture, one behind the other
//	output 1  int32 [7]: width, height, sampling, stride and rows of Y, stride and
//	          rows of each of U and V (0, 0 for grey)
//
// Sampling is 400 (grey), 420, 422, 440 or 444. A run of what is not one of these,
// or is broken, fails with E_IMAGE; above the limits with E_IMAGE_SIZE.

// Limits of a session, which say how large its tensors are.
type Limits struct {
	Bytes  int `json:"bytes"`  // of a file
	Pixels int `json:"pixels"` // of a picture, in its full size
}

// Most is what pictures are let in with everywhere.
var Most = Limits{Bytes: vision.MaxPictureBytes, Pixels: vision.MaxPicturePixels}

// ParseLimits reads a model file. Errors are E_MODEL_FORMAT.
func ParseLimits(file []byte) (l Limits, err error) {
	if err = json.Unmarshal(file, &l); err == nil && (l.Bytes < 1 || l.Bytes > Most.Bytes || l.Pixels < 1 || l.Pixels > Most.Pixels) {
		err = fmt.Errorf("bytes go from 1 to %d, pixels to %d", Most.Bytes, Most.Pixels)
	}
	if err != nil {
		return Limits{}, &hal.Error{Code: hal.CodeModelFormat, Text: fmt.Sprintf("no limits of pictures in the file: %v", err), Err: err}
	}
	return l, nil
}

// Inputs describes what goes in.
func (l Limits) Inputs() [2]hal.TensorInfo {
	return [2]hal.TensorInfo{
		{Name: "jpeg", Type: hal.Uint8, Shape: []int{l.Bytes}},
		{Name: "request", Type: hal.Int32, Shape: []int{2}},
	}
}

// Outputs describes what comes out.
func (l Limits) Outputs() [2]hal.TensorInfo {
	return [2]hal.TensorInfo{
		{Name: "planes", Type: hal.Uint8, Shape: []int{-1}},
		{Name: "picture", Type: hal.Int32, Shape: []int{PictureSize / 4}},
	}
}

// Room is the most that a picture's planes take, in bytes. Odd sizes are rounded up
// to whole samples of colour, and a side has at most 65535 pixels.
func (l Limits) Room() int { return 3 * (l.Pixels + 2<<16) }

// memory is what a runner needs for a picture of that size: a progressive one keeps
// all its coefficients, two bytes each.
func (l Limits) memory() int64 { return 96<<20 + 8*int64(l.Pixels) }

// write makes a model file of the limits; the caller removes it.
func (l Limits) write() (path string, err error) {
	f, err := os.CreateTemp("", "covey-jpeg-*.json")
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := json.NewEncoder(f).Encode(l); err != nil {
		return f.Name(), err
	}
	return f.Name(), nil
}

// A Request is input 1.
type Request struct{ Bytes, Eighths int }

// RequestSize is the length of a Request in bytes.
const RequestSize = 8

// Put writes r into b.
func (r Request) Put(b []byte) {
	binary.LittleEndian.PutUint32(b, uint32(int32(r.Bytes)))
	binary.LittleEndian.PutUint32(b[4:], uint32(int32(r.Eighths)))
}

// ParseRequest is the inverse of Put, for files of up to most bytes.
func ParseRequest(b []byte, most int) (Request, error) {
	r := Request{int(int32(binary.LittleEndian.Uint32(b))), int(int32(binary.LittleEndian.Uint32(b[4:])))}
	switch r.Eighths {
	case 1, 2, 4, 8:
	default:
		return r, fmt.Errorf("decode to %d eighths: give 1, 2, 4 or 8", r.Eighths)
	}
	if r.Bytes < 0 || r.Bytes > most {
		return r, fmt.Errorf("file of %d bytes, room for %d", r.Bytes, most)
	}
	return r, nil
}

// A Picture is output 1.
type Picture struct {
	Width, Height, Sampling int
	StrideY, RowsY          int
	StrideC, RowsC          int
}

// PictureSize is the length of a Picture in bytes.
const PictureSize = 7 * 4

// NewPicture lays out the planes of a picture of that size; ok is false for an
// unknown sampling.
func NewPicture(width, height, sampling int) (p Picture, ok bool) {
	s, ok := samplings[sampling]
	if !ok {
		return Picture{}, false
	}
	up := func(n, to int) int { return (n + to - 1) / to * to }
	p = Picture{Width: width, Height: height, Sampling: sampling, StrideY: up(width, s.x), RowsY: up(height, s.y)}
	if s.format != hal.FormatGray {
		p.StrideC, p.RowsC = p.StrideY/s.x, p.RowsY/s.y
	}
	return p, true
}

// samplings are the formats of frames, and how many pixels share a sample of colour.
var samplings = map[int]struct {
	format hal.PixelFormat
	x, y   int
}{
	400: {hal.FormatGray, 1, 1}, 444: {hal.FormatYUV444, 1, 1}, 422: {hal.FormatYUV422, 2, 1},
	420: {hal.FormatYUV420, 2, 2}, 440: {hal.FormatYUV440, 1, 2},
}

// Size is the length of all planes in bytes.
func (p Picture) Size() int { return p.StrideY*p.RowsY + 2*p.StrideC*p.RowsC }

func (p *Picture) fields() [7]*int {
	return [7]*int{&p.Width, &p.Height, &p.Sampling, &p.StrideY, &p.RowsY, &p.StrideC, &p.RowsC}
}

// Put writes p into b.
func (p Picture) Put(b []byte) {
	for i, v := range p.fields() {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(int32(*v)))
	}
}

// ParsePicture is the inverse of Put. It proves that the planes are as NewPicture
// lays them out.
func ParsePicture(b []byte) (p Picture, err error) {
	if len(b) != PictureSize {
		return p, fmt.Errorf("description of %d bytes", len(b))
	}
	for i, v := range p.fields() {
		*v = int(int32(binary.LittleEndian.Uint32(b[4*i:])))
	}
	want, ok := NewPicture(p.Width, p.Height, p.Sampling)
	if !ok || p != want || p.Width < 1 || p.Height < 1 || p.Width > 1<<16 || p.Height > 1<<16 {
		return p, fmt.Errorf("impossible picture %+v", p)
	}
	return p, nil
}

// show makes f show a copy of planes that p describes, reusing its memory.
func (p Picture) show(f *hal.Frame, planes []byte) {
	all := f.Planes[0]
	if cap(all) < len(planes) {
		all = make([]byte, len(planes))
	}
	all = all[:len(planes)]
	copy(all, planes)
	f.Format, f.Limited, f.Width, f.Height = samplings[p.Sampling].format, false, p.Width, p.Height
	f.Planes, f.Strides = [3][]byte{}, [3]int{p.StrideY, p.StrideC, p.StrideC}
	luma, chroma := p.StrideY*p.RowsY, p.StrideC*p.RowsC
	f.Planes[0] = all[:luma]
	if chroma > 0 {
		f.Planes[1], f.Planes[2] = all[luma:luma+chroma:luma+chroma], all[luma+chroma:]
	}
}
