package hal

import (
	"context"
	"time"
)

// A PixelFormat says how the planes of a Frame are laid out.
type PixelFormat uint8

const (
	FormatNone   PixelFormat = iota
	FormatGray               // plane 0: Y
	FormatRGB                // plane 0: R G B, 3 bytes a pixel
	FormatRGBA               // plane 0: R G B A, 4 bytes a pixel; alpha is not premultiplied and is ignored
	FormatYUV420             // planes Y, U, V; chroma halved both ways (full-range BT.601, as JPEG)
	FormatYUV422             // planes Y, U, V; chroma halved across
	FormatYUV444             // planes Y, U, V
	FormatYUV440             // planes Y, U, V; chroma halved down
	FormatYUYV               // plane 0: Y0 U Y1 V, 2 bytes a pixel; the width is even
	FormatNV12               // planes Y, UV: U and V in turns, chroma halved both ways
)

// A Frame is what a source gives at a time: one picture, or, with FormatNone, one
// window of samples. Its memory belongs to whoever made the Frame and is reused by
// the next Source.Next on it.
type Frame struct {
	Seq      uint64    // counts from 1 for each source, without a gap
	Captured time.Time // when the source took it, by both clocks; of a window: its last sample
	Name     string    // where it came from, for people: a file's name; may be empty

	Format        PixelFormat
	Width, Height int  // pixels
	Limited       bool // luma is 16–235 and chroma 16–240, as in video; false: 0–255, as in JPEG
	Planes        [3][]byte
	Strides       [3]int // bytes from one row of a plane to the next

	// Samples are the values of all channels in turns, oldest first: sound in -1..1,
	// sensors in their own units.
	Samples  []float32
	Channels int     // of Samples, at least 1
	Rate     float64 // samples a second and channel; 0 when they come as they come

	Want Want // set by whoever calls Next
}

// A Want is what a model takes of frames; 0: no wish.
type Want struct {
	Width, Height int // pixels: a picture that has to be decoded may come smaller than it is, but not below
	Samples       int // of each channel in a window, where the source was not told how many
}

// A Source produces frames. It is used by one goroutine at a time.
type Source interface {
	// Next waits for the next frame and writes it into f, reusing f's memory.
	// It returns io.EOF after the last frame, ctx.Err() when ctx ends, and an
	// error that wraps ErrBadFrame when this frame could not be read but a later
	// one may be: the caller counts it and goes on. All other errors end the source:
	// E_SOURCE_STALLED when nothing came for too long, E_SOURCE_LOST when it is
	// gone; the caller closes it and opens it anew. Next never waits for ever.
	Next(ctx context.Context, f *Frame) error
	// Live says whether time goes on without us: frames of a live source are
	// dropped when nobody is ready for them; others (files) wait and lose nothing.
	Live() bool
	// Close releases the source. Next must have returned.
	Close() error
}

// An Input is something plugged in that a source can read.
type Input struct {
	Source string `json:"source"`           // type of the source: "v4l2", "alsa"
	ID     string `json:"id"`               // what to write into the configuration; the same after a restart and in another socket order
	Name   string `json:"name"`             // for people
	Detail string `json:"detail,omitempty"` // what it can do, or why it cannot be used: formats, sizes, rates
}
