// Package exec is a source of pictures that another program writes to its standard
// output: raw pictures, or JPEGs one after the other. With ffmpeg it reads RTSP, H.264
// and H.265, with the programs of a board's maker its CSI camera; RTSP and CSI make
// those Configs.
package exec

import (
	"context"
	"errors"
	"fmt"
	osexec "os/exec"
	"path/filepath"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source"
	"github.com/covey-edge/covey/hal/vision"
)

// Config of a Source. Program and Format are required.
type Config struct {
	Program []string // and its arguments; no shell reads them
	Format  Format
	Width   int // pixels of raw pictures, as the program writes them; MJPEG and Y4M say theirs
	Height  int
	Limited bool   // raw YUV has the levels of video
	Name    string // for people; "": the program's
	// Secrets are struck out of what the program says before anybody sees it. Its
	// arguments every user of the board can see.
	Secrets []string
	Input   string   // on its standard input; nobody else can see it
	Env     []string // besides PATH, HOME and LANG, which are fixed: the program gets nothing else
	FPS     float64  // most pictures a second, others are read and dropped; 0: all that come
	// Stall is how long the program may take to its first picture and from one to the
	// next. 0 means 15 s.
	Stall  time.Duration
	Decode func(picture []byte, f *hal.Frame) error // of MJPEG; nil means vision.DecodePicture
	Log    func(line string)                        // told what the program says on its standard error, a bounded number of lines; may be nil
}

const usualStall = 15 * time.Second

// period is the time from picture to picture.
func period(fps float64) time.Duration { return time.Duration(float64(time.Second) / fps) }

// A Source is one run of a program. It is live: pictures that nobody is ready for are
// read and dropped, so that the next one is never old.
type Source struct {
	pictures source.Pictures
	process  *process
	name     string
	stall    time.Duration
}

// Open starts the program. E_SOURCE: it cannot be started.
func Open(ctx context.Context, c Config) (*Source, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(c.Program) == 0 || c.Program[0] == "" {
		return nil, &hal.Error{Code: hal.CodeSource, Text: "program source without a program: name one and its arguments"}
	}
	if c.Stall == 0 {
		c.Stall = usualStall
	}
	if c.Stall < 0 || !(c.FPS >= 0 && c.FPS <= 1000) {
		return nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf(
			"program source with a limit of %v and %v pictures a second: give more than 0 s, and 0 to 1000", c.Stall, c.FPS)}
	}
	if c.FPS > 0 {
		c.Stall += period(c.FPS)
	}
	if c.Name == "" {
		c.Name = filepath.Base(c.Program[0])
	}
	if c.Decode == nil {
		c.Decode = vision.DecodePicture
	}
	cutter, decode, err := c.reader()
	if err != nil {
		return nil, err
	}
	path, err := osexec.LookPath(c.Program[0])
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeSource, Text: missing(c.Program[0], err), Err: err}
	}
	box := source.NewBox()
	p, err := start(path, c, cutter, box)
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("start %s: %v", path, err), Err: err}
	}
	return &Source{
		pictures: source.Pictures{Box: box, Decode: decode, Quiet: c.Stall},
		process:  p, name: c.Name, stall: c.Stall,
	}, nil
}

// packages is where Debian and its kin have the programs that are needed most.
var packages = map[string]string{
	"ffmpeg":         "ffmpeg",
	"rpicam-vid":     "rpicam-apps-lite",
	"libcamera-vid":  "libcamera-apps-lite",
	"gst-launch-1.0": "gstreamer1.0-tools",
}

func missing(program string, err error) string {
	if p, known := packages[program]; known && errors.Is(err, osexec.ErrNotFound) {
		return fmt.Sprintf("program %s is not installed: sudo apt-get install %s", program, p)
	}
	var e *osexec.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Sprintf("program %s: %v: install it, or write its whole path", program, err)
}

// Next decodes the newest picture into f. E_SOURCE_STALLED: none came within the
// limit, and the program was killed. E_SOURCE_LOST: it has ended; the last it said is
// in the text.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	err := s.pictures.Next(ctx, f)
	if errors.Is(err, source.ErrQuiet) {
		s.process.kill()
		text := fmt.Sprintf("%s gave no picture for %v and was killed", s.name, s.stall)
		if line := s.process.said.last(); line != "" {
			text += ": " + line
		}
		return &hal.Error{Code: hal.CodeSourceStalled, Text: text, Err: err}
	}
	return err
}

// Live is true.
func (s *Source) Live() bool { return true }

// Close ends the program and what it started: asked first, then killed.
func (s *Source) Close() error { return s.process.close() }
