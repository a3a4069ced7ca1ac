package vision

import (
	"fmt"
	"math"

	"github.com/covey-edge/covey/hal"
)

// A Fit says how a picture of other proportions is brought into the model's.
type Fit string

const (
	Squash    Fit = "squash"    // it is stretched; what "" means
	Letterbox Fit = "letterbox" // it keeps its proportions; what is left is grey, as YOLO models want it
	Crop      Fit = "crop"      // it keeps its proportions; what is too much at two sides is left out
)

// boxGrey is what a letterbox is filled with; YOLO models were trained with it.
const boxGrey = 114

// A window is a rectangle of the tensor, in pixels.
type window struct{ x, y, w, h int }

// A region is a rectangle of the frame, in its pixels.
type region struct{ x, y, w, h float64 }

// checkCrop refuses what is no part of a picture.
func checkCrop(c [4]float32) error {
	if c == [4]float32{} {
		return nil
	}
	if c[0] >= 0 && c[1] >= 0 && c[0] < c[2] && c[1] < c[3] && c[2] <= 1 && c[3] <= 1 {
		return nil // false for NaN too
	}
	return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("crop %v is no part of a picture: give x0, y0, x1, y1 with 0 <= x0 < x1 <= 1, the same for y", c)}
}

// place says which region of a frame of w×h goes where in a tensor of width×height.
func place(o Options, w, h, width, height int) (from region, to window) {
	from = region{0, 0, float64(w), float64(h)}
	if c := o.Crop; c != [4]float32{} {
		x0, y0, x1, y1 := float64(c[0]), float64(c[1]), float64(c[2]), float64(c[3])
		from = region{x0 * from.w, y0 * from.h, (x1 - x0) * from.w, (y1 - y0) * from.h}
	}
	to = window{0, 0, width, height}
	across, down := float64(width)/from.w, float64(height)/from.h
	switch o.Fit {
	case Letterbox:
		gain := min(across, down)
		to.w, to.h = max(1, int(from.w*gain+0.5)), max(1, int(from.h*gain+0.5))
		to.x, to.y = (width-to.w)/2, (height-to.h)/2
	case Crop:
		gain := max(across, down)
		cw, ch := float64(width)/gain, float64(height)/gain
		from = region{from.x + (from.w-cw)/2, from.y + (from.h-ch)/2, cw, ch}
	}
	return from, to
}

// viewOf leads from the tensor back to the frame.
func viewOf(from region, to window, w, h, width, height int) View {
	x, y := from.w/float64(to.w), from.h/float64(to.h) // pixels of the frame for one of the tensor
	return View{
		x0: float32((from.x - float64(to.x)*x) / float64(w)), y0: float32((from.y - float64(to.y)*y) / float64(h)),
		w: float32(float64(width) * x / float64(w)), h: float32(float64(height) * y / float64(h)),
	}
}

// wanted is the size that a whole frame has to have at least for a tensor of
// width×height, so that decoding it smaller changes no answer: see Scale.
func wanted(o Options, width, height int) (w, h int) {
	x, y := scaleRoom, scaleRoom
	if c := o.Crop; c != [4]float32{} {
		x, y = x/float64(c[2]-c[0]), y/float64(c[3]-c[1])
	}
	bound := func(v float64) int { return int(math.Ceil(min(v, maxSide))) }
	return bound(float64(width) * x), bound(float64(height) * y)
}
