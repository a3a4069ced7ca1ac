package vision

// A View leads from what the model saw back to the frame: a letterboxed model has
// grey around the picture, a cropped one has not seen all of it. The zero View is
// the whole frame, stretched.
type View struct {
	x0, y0, w, h float32 // the tensor's corner and size in 0..1 of the frame; w = 0: the whole
}

// Box brings x0, y0, x1, y1 in 0..1 of the tensor back to 0..1 of the frame.
func (v View) Box(b [4]float32) [4]float32 {
	if v.w == 0 {
		return b
	}
	for i := 0; i < 4; i += 2 {
		b[i] = min(max(v.x0+b[i]*v.w, 0), 1)
		b[i+1] = min(max(v.y0+b[i+1]*v.h, 0), 1)
	}
	return b
}

// Point brings a point in 0..1 of the tensor back to the frame; what is beside of the
// frame is not in 0..1.
func (v View) Point(x, y float32) (fx, fy float32) {
	if v.w == 0 {
		return x, y
	}
	return v.x0 + x*v.w, v.y0 + y*v.h
}
