package vision

// scaleRoom is how many times larger than the model's picture a frame stays that is
// decoded smaller. Measured with seven photographs and three MobileNets, against a
// triangle filter over the whole picture: at half size and 4 times the model's, values
// are off by 0.71 of 255 on average instead of 0.62, and the scores of the best class
// move no more; at twice the model's it is 1.37 instead of 0.85, and they do. Less
// would save a sixth of the decoding at 1080p.
const scaleRoom = 4.

// Scale says how much smaller a JPEG of w×h pixels may be decoded for whoever wants
// at least wantW×wantH: to num eighths, 1, 2, 4, or 8 for its full size, the
// smallest that is not below. Others than these are slow in libjpeg-turbo.
func Scale(w, h, wantW, wantH int) (num int) {
	if wantW <= 0 || wantH <= 0 {
		return 8
	}
	for num = 1; num < 8; num *= 2 {
		if Scaled(w, num) >= wantW && Scaled(h, num) >= wantH {
			break
		}
	}
	return num
}

// Scaled is a width or height at num eighths, as decoders round it.
func Scaled(size, num int) int { return (size*num + 7) / 8 }
