package vision

import (
	"fmt"

	"github.com/covey-edge/covey/hal"
)

// Options of a Filler. The zero value is right for most models: quantised inputs
// take raw pixels, float inputs take them from -1 to 1.
type Options struct {
	// Mean and Std scale pixels before they are stored: real = (pixel - Mean) / Std,
	// pixels from 0 to 255. One value, or one a channel in the order of the model.
	Mean, Std []float32
	// Fit says what becomes of other proportions than the model's; "" is Squash.
	Fit Fit
	// Crop is the part of the frame that the model sees: x0, y0, x1, y1 in 0..1.
	// All zero: the whole.
	Crop [4]float32
	// BGR puts blue first, as models from OpenCV and Caffe want it.
	BGR bool
}

// A Filler fills the input tensor of one model. It is made once for a model and
// used by one goroutine at a time; it keeps tables for the last size of frame, so
// that a stream of frames of one size allocates nothing.
type Filler struct {
	tensor
	options Options

	frame  geometry // that what follows is for
	from   region   // of the frame
	inner  window   // of the tensor
	view   View
	planes [3]plane
	rows   [3][]byte // of the channels, in the size of the window
	join   joiner
	row    []byte // a row of the tensor's pixels, RGB or grey
}

type geometry struct {
	format        hal.PixelFormat
	width, height int
	limited       bool
}

// A plane of the frame, and what is sampled from it.
type plane struct {
	from, to int // bytes of a line that are looked at
	down     down
	sums     []uint64
	channels []int // of the frame, that lie in this plane
	across   [3]across
}

// NewFiller makes a Filler for an input of uint8, int8, int16, float16 or float32,
// shaped [1,h,w,c], [h,w,c], [1,c,h,w], [c,h,w] or [1,h,w], of 1 or 3 channels.
// Anything else is E_SHAPE; options that cannot be are E_SHAPE or E_CONFIG.
func NewFiller(info hal.TensorInfo, o Options) (*Filler, error) {
	switch o.Fit {
	case "", Squash, Letterbox, Crop:
	default:
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("fit %.40q is not known: give squash, letterbox or crop", string(o.Fit))}
	}
	if err := checkCrop(o.Crop); err != nil {
		return nil, err
	}
	t, err := newTensor(info, o)
	if err != nil {
		return nil, err
	}
	return &Filler{tensor: t, options: o, row: make([]byte, t.width*t.channels)}, nil
}

// Size is the width and height of the picture that the model sees.
func (f *Filler) Size() (width, height int) { return f.width, f.height }

// Want is the least size of a frame that does as well as any larger one: for
// hal.Frame.Want.
func (f *Filler) Want() (width, height int) { return wanted(f.options, f.width, f.height) }

// Fill writes a frame into the tensor dst and says how the model's coordinates
// lead back to the frame. Errors are E_SHAPE (dst is not the tensor that the
// Filler was made for) and E_IMAGE (the frame's planes do not hold its size).
func (f *Filler) Fill(dst []byte, frame *hal.Frame) (View, error) {
	if len(dst) != f.size() {
		return View{}, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
			"input has %d bytes, a picture of %d×%d×%d×%d was expected", len(dst), f.height, f.width, f.channels, f.element)}
	}
	if err := checkFrame(frame); err != nil {
		return View{}, err
	}
	if g := (geometry{frame.Format, frame.Width, frame.Height, frame.Limited}); g != f.frame {
		f.setup(g)
	}
	if f.copyRows(dst, frame) {
		return f.view, nil
	}
	row, in := f.row, f.inner
	for y := range f.height {
		if f.plain {
			row = dst[y*len(row):][:len(row)] // no step in between
		}
		if in.w < f.width || y < in.y || y >= in.y+in.h {
			fill(row, boxGrey)
		}
		if y >= in.y && y < in.y+in.h {
			f.sampleRow(row[in.x*f.channels:(in.x+in.w)*f.channels], frame, y-in.y)
		}
		switch {
		case !f.plain:
			f.put(dst, row, y)
		case f.flip != 0:
			xor(row, f.flip)
		}
	}
	return f.view, nil
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// setup makes the tables for a new size of frame.
func (f *Filler) setup(g geometry) {
	f.frame = g
	f.from, f.inner = place(f.options, g.width, g.height, f.width, f.height)
	f.view = viewOf(f.from, f.inner, g.width, g.height, f.width, f.height)
	channels := channelsOf(g.format)
	f.join = joinerOf(g, len(channels), f.channels)
	if f.channels == 1 && !isRGB(g.format) {
		channels = channels[:1] // luma alone
	}
	for i := range f.planes {
		f.planes[i].channels = f.planes[i].channels[:0]
	}
	for i, c := range channels {
		f.rows[i] = growTo(f.rows[i], f.inner.w)
		f.planes[c.plane].channels = append(f.planes[c.plane].channels, i)
	}
	for i := range f.planes {
		if p := &f.planes[i]; len(p.channels) > 0 {
			p.set(channels, g, f.from, f.inner)
		}
	}
}

// joinerOf makes pixels of the tensor, of to channels, out of a frame's of from.
func joinerOf(g geometry, from, to int) joiner {
	var join joiner
	switch {
	case isRGB(g.format) && to == 1:
		return joinRGBToGrey
	case isRGB(g.format):
		return joinRGB
	case to == 1:
		join = joinGrey
	case from == 1:
		join = joinGreyToRGB
	case g.limited:
		return limitedRange.join
	default:
		return fullRange.join
	}
	if g.limited {
		join = widen(join)
	}
	return join
}

// set prepares for the channels that lie in the plane.
func (p *plane) set(channels []channel, g geometry, from region, to window) {
	for n, i := range p.channels {
		c := channels[i]
		w, h := c.size(g.width, g.height)
		x, y := span{from.x, from.w, to.w}, span{from.y, from.h, to.h}
		most := 8
		if c.halfX {
			x.from, x.length, most = x.from/2, x.length/2, 4 // colour is coarse in the source already
		}
		if c.halfY {
			y.from, y.length = y.from/2, y.length/2
			most = 4
		}
		if n == 0 { // all channels of a plane have the same lines, the first the most pixels
			p.down.set(y, h, most)
			// Samples lie beyond the region by a sixth of a pixel of the result at most,
			// taps by one of the source, which is two where it is colour beside luma.
			reach := 6 + x.ratio()
			p.from = max(0, int(x.from-reach)) * c.step &^ 3
			p.to = min(w, int(x.from+x.length+reach)+1) * c.step
			if c.step == 2 {
				p.to = min((p.to+3)&^3, w*c.step) // whole pairs of YUYV
			}
			p.sums = growTo(p.sums, sumWords(p.to-p.from))
			p.down.more = growTo(p.down.more, len(p.sums))
		}
		p.across[i].set(x, w, most, c.offset-p.from, c.step, p.down.total())
	}
}

// sampleRow makes row y of the window.
func (f *Filler) sampleRow(pixels []byte, frame *hal.Frame, y int) {
	for i := range f.planes {
		p := &f.planes[i]
		if len(p.channels) == 0 {
			continue
		}
		p.down.row(p.sums, frame.Planes[i], frame.Strides[i], p.from, p.to, y)
		for _, c := range p.channels {
			p.across[c].row(f.rows[c], shorts(p.sums))
		}
	}
	f.join(pixels, f.rows[0], f.rows[1], f.rows[2])
}

// copyRows copies pixels that the model takes as they are; false when they are not.
func (f *Filler) copyRows(dst []byte, frame *hal.Frame) bool {
	g := f.frame
	whole := f.from == region{0, 0, float64(f.width), float64(f.height)} && f.inner == window{0, 0, f.width, f.height}
	if !f.plain || f.flip != 0 || !whole || g.width != f.width || g.height != f.height ||
		f.channels == 3 && g.format != hal.FormatRGB ||
		f.channels == 1 && (isRGB(g.format) || g.limited || channelsOf(g.format)[0].step != 1) {
		return false
	}
	n := f.width * f.channels
	for y := range f.height {
		copy(dst[y*n:(y+1)*n], frame.Planes[0][y*frame.Strides[0]:])
	}
	return true
}
