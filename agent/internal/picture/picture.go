package picture

import (
	"bytes"
	"image"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-edge/covey/agent/internal/annotate"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/vision"
)

// A Picture is a JPEG that only those may see whom it was made for.
type Picture struct {
	ID     string
	Taken  time.Time // its frame
	policy Policy
	jpeg   []byte
}

// Show is the JPEG, for an audience that may see it; the error is E_PRIVACY.
func (p *Picture) Show(to Audience) ([]byte, error) {
	if !p.policy.Allows(to) {
		return nil, p.policy.Refuse(to)
	}
	return p.jpeg, nil
}

// least is the time between two frames that are looked at: enough for a moving picture,
// and for what begins.
const least = 180 * time.Millisecond

// A Studio makes the pictures of one pipeline. Look is for one goroutine, Print and
// Preview for another; SetPolicy may be called by any.
type Studio struct {
	policy atomic.Pointer[Policy]
	pool   sync.Pool // of *hal.Frame

	last          time.Time // of Look
	filler        *vision.Filler
	width, height int // of pictures
}

// NewStudio makes a studio.
func NewStudio(p Policy) *Studio {
	s := &Studio{}
	s.SetPolicy(p)
	return s
}

// SetPolicy changes what may be shown, from the next frame on.
func (s *Studio) SetPolicy(p Policy) { s.policy.Store(&p) }

// Policy is what may be shown.
func (s *Studio) Policy() Policy { return *s.policy.Load() }

// Look makes a small copy of a frame for Print or Preview; Drop gives it back. It is nil
// where no picture may be made, or one was made just before.
func (s *Studio) Look(f *hal.Frame) *hal.Frame {
	side := s.Policy().Side()
	if side == 0 || f.Format == hal.FormatNone || f.Captured.Sub(s.last) < least && !f.Captured.Before(s.last) {
		return nil
	}
	w, h := fitInto(f.Width, f.Height, side)
	if w != s.width || h != s.height || s.filler == nil {
		filler, err := vision.NewFiller(hal.TensorInfo{Name: "picture", Type: hal.Uint8, Shape: []int{1, h, w, 3}}, vision.Options{})
		if err != nil {
			return nil // a frame of a pixel or two
		}
		s.filler, s.width, s.height = filler, w, h
	}
	look, _ := s.pool.Get().(*hal.Frame)
	if look == nil {
		look = &hal.Frame{}
	}
	pixels := slices.Grow(look.Planes[0][:0], 3*w*h)[:3*w*h]
	*look = hal.Frame{Seq: f.Seq, Captured: f.Captured, Format: hal.FormatRGB, Width: w, Height: h, Planes: [3][]byte{pixels}, Strides: [3]int{3 * w}}
	if _, err := s.filler.Fill(pixels, f); err != nil {
		s.pool.Put(look)
		return nil
	}
	s.last = f.Captured
	return look
}

// fitInto is a size within a square, of the same proportions; nothing is made larger.
func fitInto(w, h, side int) (int, int) {
	if long := max(w, h); long > side {
		return max(w*side/long, 1), max(h*side/long, 1)
	}
	return w, h
}

// Drop gives back a look that is not needed any more; nil is allowed.
func (s *Studio) Drop(look *hal.Frame) {
	if look != nil {
		s.pool.Put(look)
	}
}

// Print makes the picture of a look, with what its result says drawn on it.
func (s *Studio) Print(id string, look *hal.Frame, r *wire.Result) (*Picture, error) {
	return s.make(id, look, r, func(b *bytes.Buffer) error { return annotate.JPEG(b, look, r) })
}

// Preview makes the picture of a look and nothing else: who shows it draws on it.
func (s *Studio) Preview(look *hal.Frame, r *wire.Result) (*Picture, error) {
	return s.make("", look, r, func(b *bytes.Buffer) error { return annotate.JPEG(b, look, &wire.Result{}) })
}

func (s *Studio) make(id string, look *hal.Frame, r *wire.Result, encode func(*bytes.Buffer) error) (*Picture, error) {
	p := &Picture{ID: id, Taken: look.Captured, policy: s.Policy()}
	if p.policy.Side() == 0 {
		return nil, p.policy.Refuse(Page) // changed since it was looked at
	}
	for i := range r.Items {
		if it := &r.Items[i]; it.Box != nil && slices.Contains(p.policy.Blur, it.Label) {
			blur(look, it.Box)
		}
	}
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		return nil, err
	}
	p.jpeg = b.Bytes()
	return p, nil
}

// blur makes what is in a box, and a little around it, one of few squares.
func blur(f *hal.Frame, box *[4]float32) {
	w, h := float32(f.Width), float32(f.Height)
	margin := 0.1 * max((box[2]-box[0])*w, (box[3]-box[1])*h)
	r := image.Rect(int(box[0]*w-margin), int(box[1]*h-margin), int(box[2]*w+margin)+1, int(box[3]*h+margin)+1).Intersect(image.Rect(0, 0, f.Width, f.Height))
	square := max(max(r.Dx(), r.Dy())/5, 1) // too few for a face to be known by
	for y := r.Min.Y; y < r.Max.Y; y += square {
		for x := r.Min.X; x < r.Max.X; x += square {
			average(f, image.Rect(x, y, x+square, y+square).Intersect(r))
		}
	}
}

func average(f *hal.Frame, r image.Rectangle) {
	for c := range 3 {
		sum, n := 0, r.Dx()*r.Dy()
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X; x < r.Max.X; x++ {
				sum += int(f.Planes[0][y*f.Strides[0]+3*x+c])
			}
		}
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X; x < r.Max.X; x++ {
				f.Planes[0][y*f.Strides[0]+3*x+c] = byte(sum / n)
			}
		}
	}
}
