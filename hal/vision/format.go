package vision

import (
	"fmt"

	"github.com/covey-edge/covey/hal"
)

// A channel says where one of a format's channels lies.
type channel struct {
	plane, offset, step int  // of the frame; of a pixel's bytes, from one pixel to the next
	halfX, halfY        bool // the channel has half as many pixels
}

// size is the channel's own size in a frame of w×h.
func (c channel) size(w, h int) (cw, ch int) {
	if c.halfX {
		w = (w + 1) / 2
	}
	if c.halfY {
		h = (h + 1) / 2
	}
	return w, h
}

// formats is the channels of every format: grey, or red, green, blue, or Y, U, V.
var formats = [...][]channel{
	hal.FormatGray:   {{step: 1}},
	hal.FormatRGB:    {{step: 3}, {offset: 1, step: 3}, {offset: 2, step: 3}},
	hal.FormatRGBA:   {{step: 4}, {offset: 1, step: 4}, {offset: 2, step: 4}},
	hal.FormatYUV420: {{step: 1}, {plane: 1, step: 1, halfX: true, halfY: true}, {plane: 2, step: 1, halfX: true, halfY: true}},
	hal.FormatYUV422: {{step: 1}, {plane: 1, step: 1, halfX: true}, {plane: 2, step: 1, halfX: true}},
	hal.FormatYUV444: {{step: 1}, {plane: 1, step: 1}, {plane: 2, step: 1}},
	hal.FormatYUV440: {{step: 1}, {plane: 1, step: 1, halfY: true}, {plane: 2, step: 1, halfY: true}},
	hal.FormatYUYV:   {{step: 2}, {offset: 1, step: 4, halfX: true}, {offset: 3, step: 4, halfX: true}},
	hal.FormatNV12:   {{step: 1}, {plane: 1, step: 2, halfX: true, halfY: true}, {plane: 1, offset: 1, step: 2, halfX: true, halfY: true}},
}

// channelsOf is nil for what is no format of pictures.
func channelsOf(f hal.PixelFormat) []channel {
	if int(f) < len(formats) {
		return formats[f]
	}
	return nil
}

func isRGB(f hal.PixelFormat) bool { return f == hal.FormatRGB || f == hal.FormatRGBA }

const maxSide = 1 << 16

// checkFrame proves that the planes hold what the frame's size promises.
func checkFrame(f *hal.Frame) error {
	channels := channelsOf(f.Format)
	ok := channels != nil && f.Width > 0 && f.Height > 0 && f.Width <= maxSide && f.Height <= maxSide &&
		(f.Format != hal.FormatYUYV || f.Width%2 == 0)
	for _, c := range channels {
		if !ok {
			break
		}
		w, h := c.size(f.Width, f.Height)
		stride := f.Strides[c.plane]
		ok = stride >= w*c.step && stride <= 16*maxSide && len(f.Planes[c.plane]) >= (h-1)*stride+w*c.step
	}
	if !ok {
		return &hal.Error{Code: hal.CodeImage, Text: fmt.Sprintf(
			"frame %d %q of %d×%d does not hold its pixels: the source is at fault", f.Seq, f.Name, f.Width, f.Height)}
	}
	return nil
}
