package vision

import "github.com/covey-edge/covey/hal"

// grid is how many points in a row, and rows of them, Brightness looks at.
const grid = 24

// Brightness is how bright a frame is, from 0 (black) to 1, by a grid of its points; of
// colour by the weights of BT.601. ok is false for a frame of samples, or one that does
// not hold its pixels.
func Brightness(f *hal.Frame) (light float64, ok bool) {
	if f.Format == hal.FormatNone || checkFrame(f) != nil {
		return 0, false
	}
	sum := 0
	channels := formats[f.Format]
	for j := range grid {
		y := (2*j + 1) * f.Height / (2 * grid)
		for i := range grid {
			x := (2*i + 1) * f.Width / (2 * grid)
			at := func(c channel) int { return int(f.Planes[c.plane][y*f.Strides[c.plane]+c.offset+x*c.step]) }
			if isRGB(f.Format) {
				sum += (299*at(channels[0]) + 587*at(channels[1]) + 114*at(channels[2])) / 1000
			} else {
				sum += at(channels[0])
			}
		}
	}
	light = float64(sum) / (grid * grid)
	if f.Limited {
		return min(max((light-16)/(235-16), 0), 1), true
	}
	return light / 255, true
}
