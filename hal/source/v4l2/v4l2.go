// Package v4l2 is a source of the pictures of a camera that the kernel drives: of
// USB, of a capture card.
//
// Raw pictures are copied out of the driver's memory. Handing that memory itself out
// would save 1.8 MB of copying at 1280×720 (BenchmarkCopy: less than a hundredth of
// what the model takes), and cost the certainty that a picture outlives the camera that
// took it: a pipeline may still read one when the camera is unplugged and closed, its
// memory unmapped. It would also let a slow reader starve the driver of buffers, and on
// boards without coherent DMA that memory is slow to read more than once. A JPEG is
// decoded where it lies.
package v4l2

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/vision"
)

// Config of a Source. Device is required.
type Config struct {
	// Device is an id of Probe ("usb-046d:0825-A1B2C3D4"), which finds the camera
	// whatever number it has today, or a path: "/dev/video0", "/dev/v4l/by-id/…".
	Device string

	Format        string  // "mjpeg", "yuyv", "nv12", "yuv420", "grey"; "": what costs least
	Width, Height int     // pixels, one of the camera's sizes; 0: the smallest that covers what the model takes
	FPS           float64 // most frames a second; 0: as many as the camera sends, 30 if it can be chosen
	Controls      map[string]int
	// Decode decodes a JPEG, which may lack its Huffman tables, and keeps nothing of
	// it. nil means vision.DecodePicture.
	Decode func(picture []byte, f *hal.Frame) error
}

// usual is the size for a caller that wishes none.
const usualWidth, usualHeight = 640, 480

// Limits of waiting.
const (
	minQuiet    = 2 * time.Second       // without a frame the camera has stalled,
	quietFrames = 10                    // or after so many frame times
	firstQuiet  = 5 * time.Second       // after the start, when it may have to wake up first
	step        = 50 * time.Millisecond // of waiting: how late the end of a context is seen
	oldFrames   = 3                     // frame times; what waited longer in the driver gives way to the next
)

// A Source is an open camera. It is live.
type Source struct {
	c      Config
	camera *camera
	width  int // for which the mode was chosen
	height int
	chosen bool

	seq  uint64
	good time.Time // when the last good frame came, or the stream began
	left time.Time // when Next returned
	last time.Time // capture time of the last frame
	due  time.Time // of the next frame, with Config.FPS
}

// Open opens a camera and takes it for itself. A camera that is absent, busy or not
// allowed, or that cannot do what is pinned, is E_SOURCE with what to do. It begins to
// send at the first Next, which knows what size is wished.
func Open(c Config) (*Source, error) {
	if c.Decode == nil {
		c.Decode = vision.DecodePicture
	}
	s := &Source{c: c}
	if (c.Width == 0) != (c.Height == 0) || c.Width < 0 || c.Height < 0 || c.Width > maxSide || c.Height > maxSide || !(c.FPS >= 0 && c.FPS <= 1000) {
		return nil, s.refuse(fmt.Sprintf("%d×%d at %v frames a second cannot be: give width and height together, and 0 to 1000 frames", c.Width, c.Height, c.FPS), nil)
	}
	path, err := find(os.DirFS("/"), c.Device)
	if err != nil {
		return nil, s.refuse(explain(path, err), err)
	}
	if s.camera, err = openCamera(path); err != nil {
		return nil, s.refuse(explain(path, err), err)
	}
	if err = s.choose(usualWidth, usualHeight); err == nil {
		err = setControls(s.camera.fd, c.Controls)
	}
	if err != nil {
		text := explain(path, err)
		s.camera.close()
		return nil, s.refuse(text, err)
	}
	return s, nil
}

// Live is true: a camera does not wait.
func (s *Source) Live() bool { return true }

// Close lets the camera go. Frames that it gave stay what they are.
func (s *Source) Close() error { return s.camera.close() }

// Mode is how the camera sends at the moment, for people.
func (s *Source) Mode() string { return s.camera.mode.String() }

// choose configures the camera for a size of picture, unless it is so already.
func (s *Source) choose(width, height int) error {
	w := wish{format: s.c.Format, width: width, height: height, fps: s.c.FPS}
	if s.c.Width > 0 {
		w.width, w.height, w.exact = s.c.Width, s.c.Height, true
	}
	if s.chosen && s.width == w.width && s.height == w.height {
		return nil
	}
	modes, formats := s.camera.modes(w)
	best, ok := choose(modes, w)
	switch {
	case len(modes) == 0:
		return errors.New(noFormat(formats))
	case !ok:
		have, _ := s.camera.modes(wish{})
		return fmt.Errorf("it cannot do %s: it has %s", pinned(w), describe(have))
	}
	if best != s.camera.mode {
		if err := s.camera.configure(best); err != nil {
			return err
		}
		if l := s.camera.layout; w.exact && (l.width != w.width || l.height != w.height) {
			return fmt.Errorf("it gives %d×%d where it promised %s: pin another size", l.width, l.height, best)
		}
	}
	s.width, s.height, s.chosen = w.width, w.height, true
	return nil
}

func pinned(w wish) string {
	if w.exact {
		return strings.TrimSpace(fmt.Sprintf("%s %d×%d", w.format, w.width, w.height))
	}
	return w.format
}

// begin sees that the camera sends what f wishes.
func (s *Source) begin(f *hal.Frame) error {
	width, height := f.Want.Width, f.Want.Height
	if width <= 0 || height <= 0 {
		width, height = usualWidth, usualHeight
	}
	if err := s.choose(min(width, maxSide), min(height, maxSide)); err != nil {
		return err
	}
	if s.camera.streaming {
		return nil
	}
	s.good = time.Now().Add(firstQuiet - s.quiet())
	return s.camera.start()
}

// Next waits for the newest picture and copies or decodes it into f. A picture that
// is cut short or broken is an error that wraps hal.ErrBadFrame. A camera that was
// unplugged is E_SOURCE_LOST, one that sends nothing, or nothing good, is
// E_SOURCE_STALLED; one that cannot begin (its bus is full) is E_SOURCE.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.begin(f); errors.Is(err, unix.ENODEV) {
		return s.lost(err)
	} else if err != nil {
		return s.refuse(explain(s.camera.path, err), err)
	}
	if !s.left.IsZero() {
		s.good = s.good.Add(time.Since(s.left)) // nobody asked meanwhile
	}
	defer func() { s.left = time.Now() }()
	b, at, err := s.newest(ctx)
	if err != nil {
		return err
	}
	err = s.take(b, f)
	if err := s.camera.queue(b.index); err != nil {
		return s.lost(err)
	}
	if err != nil {
		if time.Since(s.good) > s.quiet() {
			return s.stalled()
		}
		return fmt.Errorf("camera %s: %w: %w", s.c.Device, hal.ErrBadFrame, err)
	}
	s.seq++
	if at.Before(s.last) {
		at = s.last // two readings of a clock are not one
	}
	s.good, s.last = time.Now(), at
	f.Seq, f.Captured, f.Name = s.seq, at, ""
	return nil
}

// quiet is how long no good picture may be taken: that the camera is silent, and that
// Config.FPS lets none through.
func (s *Source) quiet() time.Duration {
	return max(minQuiet, quietFrames*s.camera.interval) + s.period()
}

// period is the least time from frame to frame, as Config.FPS wishes; 0: none.
func (s *Source) period() time.Duration {
	if s.c.FPS == 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / s.c.FPS)
}

// newest waits for a buffer and takes the newest there is. Those that it passes over
// go back to the driver.
func (s *Source) newest(ctx context.Context) (b buffer, at time.Time, err error) {
	have, fresh := false, false
	for {
		next, ok, err := s.camera.dequeue()
		switch {
		case err != nil:
			return b, at, s.lost(err)
		case ok:
			if have {
				if err := s.camera.queue(b.index); err != nil {
					return b, at, s.lost(err)
				}
			}
			b, at, have = next, captured(next), true
			continue
		}
		if have {
			// After a pause of ours the driver is full of what was then, and stood still
			// since. Once a call is enough: a camera may be slow by itself.
			old := !fresh && time.Since(at) > oldFrames*s.camera.interval
			if !old && !s.early(at) {
				return b, at, nil
			}
			fresh, have = fresh || old, false
			if err := s.camera.queue(b.index); err != nil {
				return b, at, s.lost(err)
			}
		}
		if err := ctx.Err(); err != nil {
			return b, at, err
		}
		if time.Since(s.good) > s.quiet() {
			return b, at, s.stalled()
		}
		if err := s.camera.ready(step); err != nil {
			return b, at, s.lost(err)
		}
	}
}

// early says whether a frame comes sooner than Config.FPS wishes, where a camera
// cannot be told to send fewer.
func (s *Source) early(at time.Time) bool {
	if s.c.FPS == 0 {
		return false
	}
	if s.due.Sub(at) > s.camera.interval/2 {
		return true
	}
	if s.due = s.due.Add(s.period()); s.due.Before(at) {
		s.due = at.Add(s.period())
	}
	return false
}

// take brings a picture from the driver's memory into f.
func (s *Source) take(b buffer, f *hal.Frame) error {
	data := s.camera.memory[b.index]
	data = data[:min(int(b.used), len(data))]
	switch l := s.camera.layout; {
	case b.flags&flagError != 0:
		return errors.New("its driver says that the picture is broken: check the cable")
	case len(data) == 0:
		return errors.New("it sent an empty picture")
	case l.format == hal.FormatNone:
		f.Limited = false
		return s.c.Decode(data, f)
	case len(data) < l.size:
		return fmt.Errorf("the picture has %d bytes of %d: it is cut short, check the cable", len(data), l.size)
	default:
		l.show(data, f)
		return nil
	}
}

func (s *Source) refuse(text string, err error) error {
	return &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("camera %s: %s", clean(s.c.Device), text), Err: err}
}

func (s *Source) lost(err error) error {
	return &hal.Error{Code: hal.CodeSourceLost, Text: fmt.Sprintf("camera %s: it went away (%v): plug it in again", s.c.Device, err), Err: err}
}

func (s *Source) stalled() error {
	return &hal.Error{Code: hal.CodeSourceStalled, Text: fmt.Sprintf(
		"camera %s: no good picture for %v in %s: check its cable and power, or pin another format", s.c.Device, s.quiet(), s.camera.mode)}
}
