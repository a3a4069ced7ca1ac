package vision

import (
	"fmt"
	"math"

	"github.com/covey-edge/covey/hal"
)

// Options of a Filler. The zero value is right for most models: quantised inputs
// take raw pixels, float inputs take them from -1 to 1.
type Options struct {
	// Mean and Std scale pixels before they are stored: real = (pixel - Mean) / Std,
	// pixels from 0 to 255. One value, or one a channel.
	Mean, Std []float32
	// Letterbox keeps the picture's proportions and fills what is left with grey,
	// as YOLO models want it; otherwise the picture is stretched.
	Letterbox bool
}

// A Filler fills the input tensor of one model. It is made once for a model and
// used by one goroutine at a time; it keeps tables for the last size of frame, so
// that a stream of frames of one size allocates nothing.
type Filler struct {
	width, height, channels int
	element                 int // bytes
	lut                     [3][256]uint32
	identity                bool // stored bytes are pixels
	letterbox               bool

	frame  geometry // that what follows is for
	planes [3]plane // channels to sample; those that are not needed have no sampler
	luma   resampler
	chroma resampler
	join   joiner
	inner  window // where in the tensor the picture goes
	row    []byte // one row of the tensor's pixels, RGB or grey
	pixels []byte // the part of row that is in the window
}

// A plane says how a channel of the frame is sampled, and has room for a row of it.
type plane struct {
	from   int // plane of the frame
	offset int // of the channel in a pixel, bytes
	sample *resampler
	row    []byte
}

// A window is a rectangle of the tensor, in pixels.
type window struct{ x, y, w, h int }

// boxGrey is what a letterbox is filled with; YOLO models were trained with it.
const boxGrey = 114

type geometry struct {
	format        hal.PixelFormat
	width, height int
}

// NewFiller makes a Filler for an input: uint8, int8 or float32, shaped [1,h,w,c],
// [h,w,c] or [1,h,w], of 1 or 3 channels. Anything else is E_SHAPE.
func NewFiller(t hal.TensorInfo, o Options) (*Filler, error) {
	h, w, c := pictureShape(t.Shape)
	if h == 0 || t.Type != hal.Uint8 && t.Type != hal.Int8 && t.Type != hal.Float32 {
		return nil, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
			"model wants %v %s in input %.60q, which is no picture: use a model whose input is [1,height,width,1 or 3] of uint8, int8 or float32",
			t.Shape, t.Type, t.Name)}
	}
	f := &Filler{width: w, height: h, channels: c, element: t.Type.Size(), letterbox: o.Letterbox, row: make([]byte, w*c)}
	if err := f.makeTables(t, o); err != nil {
		return nil, err
	}
	return f, nil
}

// pictureShape returns 0, 0, 0 for what is no picture. Sizes are bounded so that
// no table can overflow.
func pictureShape(s []int) (h, w, c int) {
	switch {
	case len(s) == 4 && s[0] == 1:
		h, w, c = s[1], s[2], s[3]
	case len(s) == 3 && (s[2] == 1 || s[2] == 3):
		h, w, c = s[0], s[1], s[2]
	case len(s) == 3 && s[0] == 1:
		h, w, c = s[1], s[2], 1
	}
	const most = 1 << 14
	if h < 1 || w < 1 || h > most || w > most || c != 1 && c != 3 {
		return 0, 0, 0
	}
	return h, w, c
}

// makeTables computes what is stored for each value of a pixel, a channel each.
func (f *Filler) makeTables(t hal.TensorInfo, o Options) error {
	float := t.Type == hal.Float32
	raw := !float && len(o.Std) == 0 && len(o.Mean) == 0
	f.identity = !float
	for c := range f.channels {
		mean, err1 := perChannel(o.Mean, c, f.channels, 127.5)
		std, err2 := perChannel(o.Std, c, f.channels, 127.5)
		if err1 != nil || err2 != nil || std == 0 {
			return &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
				"mean %v and std %v do not fit a picture of %d channels: give one value or one a channel, std not 0", o.Mean, o.Std, f.channels)}
		}
		for v := range 256 {
			real := (float32(v) - mean) / std
			switch {
			case float:
				f.lut[c][v] = math.Float32bits(real)
			case raw && t.Type == hal.Int8:
				f.lut[c][v] = uint32(uint8(v - 128))
			case raw:
				f.lut[c][v] = uint32(v)
			default:
				f.lut[c][v] = quantise(real, t)
			}
			f.identity = f.identity && f.lut[c][v] == uint32(v)
		}
	}
	return nil
}

// perChannel is the value for channel c of a list that has none, one, or one a
// channel.
func perChannel(list []float32, c, channels int, none float32) (float32, error) {
	switch len(list) {
	case 0:
		return none, nil
	case 1:
		return list[0], nil
	case channels:
		return list[c], nil
	}
	return 0, fmt.Errorf("%d values", len(list))
}

// quantise stores a real number as the byte of a uint8 or int8 tensor.
func quantise(real float32, t hal.TensorInfo) uint32 {
	scale, zero := float32(1), int32(0)
	if len(t.Quant.Scale) > 0 && len(t.Quant.ZeroPoint) > 0 && t.Quant.Scale[0] != 0 {
		scale, zero = t.Quant.Scale[0], t.Quant.ZeroPoint[0]
	}
	lo, hi := 0., 255.
	if t.Type == hal.Int8 {
		lo, hi = -128, 127
	}
	q := math.RoundToEven(float64(real/scale)) + float64(zero)
	return uint32(uint8(int(max(lo, min(hi, q)))))
}

// Size is the width and height of the picture that the model sees.
func (f *Filler) Size() (width, height int) { return f.width, f.height }

// Fill writes a frame into the tensor dst and says how the model's coordinates
// lead back to the frame. Errors are E_SHAPE (dst is not the tensor that the
// Filler was made for) and E_IMAGE (the frame's planes do not hold its size).
func (f *Filler) Fill(dst []byte, frame *hal.Frame) (View, error) {
	if len(dst) != f.width*f.height*f.channels*f.element {
		return View{}, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
			"input has %d bytes, a picture of %d×%d×%d×%d was expected", len(dst), f.height, f.width, f.channels, f.element)}
	}
	if err := checkFrame(frame); err != nil {
		return View{}, err
	}
	if g := (geometry{frame.Format, frame.Width, frame.Height}); g != f.frame {
		f.setup(g)
	}
	if f.identity && f.copyRows(dst, frame) {
		return View{}, nil
	}
	n, in := f.width*f.channels*f.element, f.inner
	for y := range f.height {
		if y == 0 || y == in.y+in.h {
			fill(f.row, boxGrey)
		}
		if y >= in.y && y < in.y+in.h {
			f.sampleRow(frame, y-in.y)
		}
		f.store(dst[y*n : (y+1)*n])
	}
	return f.view(), nil
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// view leads from the tensor back to the frame.
func (f *Filler) view() View {
	w, h := float32(f.inner.w), float32(f.inner.h)
	return View{
		x0: -float32(f.inner.x) / w, y0: -float32(f.inner.y) / h,
		w: float32(f.width) / w, h: float32(f.height) / h,
	}
}

// setup makes the tables for a new size of frame.
func (f *Filler) setup(g geometry) {
	f.frame = g
	f.inner = window{w: f.width, h: f.height}
	if f.letterbox {
		gain := min(float64(f.width)/float64(g.width), float64(f.height)/float64(g.height))
		f.inner.w = max(1, int(float64(g.width)*gain+0.5))
		f.inner.h = max(1, int(float64(g.height)*gain+0.5))
		f.inner.x, f.inner.y = (f.width-f.inner.w)/2, (f.height-f.inner.h)/2
	}
	f.pixels = f.row[f.inner.x*f.channels : (f.inner.x+f.inner.w)*f.channels]
	f.planes = [3]plane{}
	coloured := g.format == hal.FormatRGB || g.format == hal.FormatRGBA
	f.luma.set(g.width, g.height, f.inner.w, f.inner.h, pixelBytes(g.format), 4)
	f.use(0, 0, 0, &f.luma)
	cw, ch := chromaSize(g.format, g.width, g.height)
	switch {
	case coloured:
		f.join = joinRGB
		if f.channels == 1 {
			f.join = joinRGBToGrey
		}
		f.use(1, 0, 1, &f.luma)
		f.use(2, 0, 2, &f.luma)
	case f.channels == 1:
		f.join = joinGrey
	case cw > 0:
		f.join = joinYUV
		most := 4
		if cw < g.width {
			most = 2 // colour is coarse in the source already
		}
		f.chroma.set(cw, ch, f.inner.w, f.inner.h, 1, most)
		f.use(1, 1, 0, &f.chroma)
		f.use(2, 2, 0, &f.chroma)
	default:
		f.join = joinGreyToRGB
	}
}

// use makes channel i one that is sampled.
func (f *Filler) use(i, from, offset int, r *resampler) {
	f.planes[i] = plane{from, offset, r, make([]byte, f.inner.w)}
}

// sampleRow writes row y of the window into f.pixels.
func (f *Filler) sampleRow(frame *hal.Frame, y int) {
	for i := range f.planes {
		if p := &f.planes[i]; p.sample != nil {
			p.sample.row(p.row, frame.Planes[p.from][p.offset:], frame.Strides[p.from], y)
		}
	}
	f.join(f.pixels, f.planes[0].row, f.planes[1].row, f.planes[2].row)
}

// copyRows copies pixels that the model takes as they are; false when they are not.
func (f *Filler) copyRows(dst []byte, frame *hal.Frame) bool {
	if frame.Width != f.width || frame.Height != f.height ||
		f.channels == 3 && frame.Format != hal.FormatRGB ||
		f.channels == 1 && (frame.Format == hal.FormatRGB || frame.Format == hal.FormatRGBA) {
		return false
	}
	n := f.width * f.channels
	for y := range f.height {
		copy(dst[y*n:(y+1)*n], frame.Planes[0][y*frame.Strides[0]:])
	}
	return true
}

// store writes the row through the tables.
func (f *Filler) store(dst []byte) {
	switch {
	case f.identity:
		copy(dst, f.row)
	case f.element == 1 && f.channels == 1:
		for i, v := range f.row {
			dst[i] = byte(f.lut[0][v])
		}
	case f.element == 1:
		for i := 0; i+3 <= len(f.row) && i+3 <= len(dst); i += 3 {
			p, d := f.row[i:i+3:i+3], dst[i:i+3:i+3]
			d[0], d[1], d[2] = byte(f.lut[0][p[0]]), byte(f.lut[1][p[1]]), byte(f.lut[2][p[2]])
		}
	default:
		c := 0
		for i, v := range f.row {
			putUint32(dst[4*i:], f.lut[c][v])
			if c++; c == f.channels {
				c = 0
			}
		}
	}
}
