package pipeline

import (
	"slices"
	"unsafe"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

// Items turns what a decoder gives, which is of the model's picture, into what people
// hear, which is of the frame. It allocates nothing once warm.
type Items struct {
	list   []wire.Item
	boxes  [][4]float32
	points [][3]float32
	masks  []wire.Mask
}

// Of is the items of an answer. They are valid until the next call and the decoder's
// next Decode.
func (s *Items) Of(answer []task.Item, v vision.View) []wire.Item {
	points := 0
	for i := range answer {
		points += len(answer[i].Points)
	}
	// What items point to stays where it is.
	s.list, s.boxes, s.points, s.masks = s.list[:0], slices.Grow(s.boxes[:0], len(answer)), slices.Grow(s.points[:0], points), slices.Grow(s.masks[:0], len(answer))
	for i := range answer {
		a := &answer[i]
		it := wire.Item{Label: a.Label, ID: a.ID, Score: a.Score, Angle: a.Angle, Area: a.Area}
		if a.HasBox {
			s.boxes = append(s.boxes, v.Box(a.Box))
			it.Box = &s.boxes[len(s.boxes)-1]
		}
		if len(a.Points) > 0 {
			from := len(s.points)
			for _, p := range a.Points {
				x, y := v.Point(p[0], p[1])
				s.points = append(s.points, [3]float32{x, y, p[2]})
			}
			it.Points = s.points[from:]
		}
		if m := a.Mask; m != nil {
			x0, y0 := v.Point(m.Box[0], m.Box[1])
			x1, y1 := v.Point(m.Box[2], m.Box[3])
			s.masks = append(s.masks, wire.Mask{Box: [4]float32{x0, y0, x1, y1}, Size: [2]int{m.Rows, m.Cols},
				Counts: unsafe.String(unsafe.SliceData(m.Counts), len(m.Counts))}) // a string of its own would be an allocation
			it.Mask = &s.masks[len(s.masks)-1]
		}
		s.list = append(s.list, it)
	}
	return s.list
}
