package haltest

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/covey-edge/covey/hal"
)

// Source is the suite that every hal.Source must pass. open makes a source that
// gives at least one good frame; it is called more than once.
func Source(t *testing.T, open func(t *testing.T) hal.Source) {
	t.Helper()
	t.Run("Frames", func(t *testing.T) { frames(t, open(t)) })
	t.Run("Ended", func(t *testing.T) {
		s := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Next(ctx, new(hal.Frame)); !errors.Is(err, context.Canceled) {
			t.Errorf("Next with an ended context: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// enough frames to see that numbers go on.
const enough = 5

func frames(t *testing.T, s hal.Source) {
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	var f hal.Frame
	good, bad, last := 0, 0, f
	for good < enough && bad < 100 {
		err := s.Next(t.Context(), &f)
		if errors.Is(err, hal.ErrBadFrame) {
			bad++
			continue
		}
		if errors.Is(err, io.EOF) {
			if err := s.Next(t.Context(), &f); !errors.Is(err, io.EOF) {
				t.Errorf("Next after io.EOF: %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		good++
		// A bad frame may take a number, or none.
		if f.Seq < uint64(good) || f.Seq > uint64(good+bad) || f.Seq <= last.Seq {
			t.Errorf("frame %d (after %d bad ones) has Seq %d after %d", good, bad, f.Seq, last.Seq)
		}
		if f.Captured.IsZero() || f.Captured.Before(last.Captured) {
			t.Errorf("frame %d was captured %v, the one before %v", good, f.Captured, last.Captured)
		}
		if f.Format == hal.FormatNone {
			samples(t, &f)
		} else {
			planes(t, &f)
		}
		last = f
	}
	if good == 0 {
		t.Error("no good frame")
	}
}

// planes checks that the planes hold as much as format and size say.
func planes(t *testing.T, f *hal.Frame) {
	t.Helper()
	if f.Width <= 0 || f.Height <= 0 {
		t.Fatalf("frame %d is %d×%d", f.Seq, f.Width, f.Height)
	}
	half := func(n int) int { return (n + 1) / 2 }
	w, h := f.Width, f.Height
	var want [][2]int // bytes in a row, rows
	switch f.Format {
	case hal.FormatGray:
		want = [][2]int{{w, h}}
	case hal.FormatRGB:
		want = [][2]int{{3 * w, h}}
	case hal.FormatRGBA:
		want = [][2]int{{4 * w, h}}
	case hal.FormatYUV420:
		want = [][2]int{{w, h}, {half(w), half(h)}, {half(w), half(h)}}
	case hal.FormatYUV422:
		want = [][2]int{{w, h}, {half(w), h}, {half(w), h}}
	case hal.FormatYUV444:
		want = [][2]int{{w, h}, {w, h}, {w, h}}
	case hal.FormatYUYV:
		want = [][2]int{{2 * w, h}}
	case hal.FormatNV12:
		want = [][2]int{{w, h}, {2 * half(w), half(h)}}
	case hal.FormatYUV440:
		want = [][2]int{{w, h}, {w, half(h)}, {w, half(h)}}
	default:
		t.Fatalf("frame %d has format %d", f.Seq, f.Format)
	}
	for i, p := range want {
		if need := f.Strides[i]*(p[1]-1) + p[0]; f.Strides[i] < p[0] || len(f.Planes[i]) < need {
			t.Errorf("frame %d, plane %d: stride %d, %d bytes; want ≥ %d and ≥ %d", f.Seq, i, f.Strides[i], len(f.Planes[i]), p[0], need)
		}
	}
}

// samples checks that a window holds the same number of samples of every channel.
func samples(t *testing.T, f *hal.Frame) {
	t.Helper()
	if f.Channels < 1 || len(f.Samples) == 0 || len(f.Samples)%f.Channels != 0 || f.Rate < 0 {
		t.Errorf("frame %d has %d samples of %d channels at %v Hz", f.Seq, len(f.Samples), f.Channels, f.Rate)
	}
	for i, v := range f.Samples {
		if v != v {
			t.Fatalf("frame %d: sample %d is not a number", f.Seq, i)
		}
	}
}
