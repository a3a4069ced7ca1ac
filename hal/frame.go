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
)

// A Frame is one picture of a source. Its memory belongs to whoever made the
// Frame and is reused by the next Source.Next on it.
type Frame struct {
	Seq      uint64    // counts from 1 for each source, without a gap
	Captured time.Time // when the source took it
	Name     string    // where it came from, for people: a file's name; may be empty

	Format        PixelFormat
	Width, Height int // pixels
	Planes        [3][]byte
	Strides       [3]int // bytes from one row of a plane to the next
}

// A Source produces frames. It is used by one goroutine at a time.
type Source interface {
	// Next waits for the next frame and writes it into f, reusing f's memory.
	// It returns io.EOF after the last frame, ctx.Err() when ctx ends, and an
	// error that wraps ErrBadFrame when this frame could not be read but a later
	// one may be: the caller counts it and goes on.
	Next(ctx context.Context, f *Frame) error
	// Live says whether time goes on without us: frames of a live source are
	// dropped when nobody is ready for them; others (files) wait and lose nothing.
	Live() bool
	// Close releases the source. Next must have returned.
	Close() error
}
