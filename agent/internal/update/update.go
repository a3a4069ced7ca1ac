// Package update brings each pipeline of a board to the release that the fleet
// wants, and back when that release does not do well. Next decides, purely; Loop
// does what it says: it writes state.json before an effect begins and after its
// outcome was seen, so that a crash or power cut at any moment goes on from there.
// What runs keeps running until the switch. It touches the blobs, the state, and
// the world through the small interfaces below.
package update

import (
	"context"
	"errors"
	"time"
	"unicode"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A Fetcher gets blobs from the controller.
type Fetcher interface {
	// Fetch writes the missing blocks of a blob into p, and returns nil when none
	// is missing. It waits while there is no link. Other errors are tried again
	// later, with what is here kept, but for one with the code E_FETCH: the
	// controller does not give this blob. It must not use p after it returned.
	Fetch(ctx context.Context, sha wire.Digest, p Partial) error
}

// A Partial is a blob that is being received, used by one goroutine at a time.
// blob.Partial is one.
type Partial interface {
	// Missing has a bit set for each block that is wanted: a copy.
	Missing() blob.Bitmap
	// Left is the number of blocks wanted.
	Left() int
	// WriteBlock takes block n and keeps nothing of data. An error that wraps
	// blob.ErrBlock: these are not its bytes, ask again. Any other ends the fetch.
	WriteBlock(n int, data []byte) error
}

// An Installer opens releases and puts them to work. The loop calls it from one
// goroutine for each pipeline, and Prepare with f.Trial from one at a time.
type Installer interface {
	// Prepare opens a release beside the one that runs and warms it up. With
	// f.Trial it also runs the golden samples. Errors with a code that blames the
	// model are final; others are tried again. Where the board has no room for both,
	// the one that runs is taken off first: then Warm.Since says so, or the error
	// wraps a Stopped.
	Prepare(ctx context.Context, pipeline string, f Files) (Warm, error)
	// Switch puts w to work between two frames and closes what ran. It owns w from
	// then on; with an error w is still the caller's and the old one still runs.
	// A nil w: the pipeline runs nothing.
	Switch(ctx context.Context, pipeline string, w Warm) error
	// Shadow lets w, which stays the caller's, answer frames of the pipeline beside the
	// release that runs, and says how far the two agree. It publishes nothing, and ends
	// after s.Frames that both answered, or s.Seconds. With the code E_AGREEMENT there
	// is nothing to compare; any other error is w's, which is not used any more then.
	Shadow(ctx context.Context, pipeline string, w Warm, s wire.ShadowRun) (wire.Agreement, error)
}

// Warm is an open release that does not work yet.
type Warm interface {
	Info() hal.Info
	// Since is when what ran was taken off to make room; zero: it still runs.
	Since() time.Time
	Close() error
}

// Stopped is an error of Prepare behind which nothing runs in the pipeline: the
// loop opens the active release again.
type Stopped struct {
	Since time.Time // when what ran was taken off
	Err   error     // why the release was not opened all the same
}

// Error is Err's.
func (s *Stopped) Error() string { return s.Err.Error() }

// Unwrap returns Err.
func (s *Stopped) Unwrap() error { return s.Err }

// A Voucher knows what people have signed. It may be used by many goroutines.
type Voucher interface {
	// Learn takes in a newer trust.Bundle, encoded. What does not verify changes nothing.
	Learn(bundle []byte, now time.Time) error
	// Vouch is nil for a release that may run. Else the code is trust.Set.Find's.
	Vouch(name, version string, digest wire.Digest, length int64, now time.Time) error
}

// Steps takes the steps of executions on their way to the fleet; Seq is its own
// to fill. It does not block for long.
type Steps interface {
	Step(wire.ExecStep) error
}

// Files are a release on this board, every file complete and hashed.
type Files struct {
	Slot     slots.Slot
	Manifest *release.Manifest
	Variant  release.Variant
	Trial    bool // not proven yet: test it

	blobs *blob.Store
}

// Model is the model file for hal.Engine.Open.
func (f Files) Model() hal.Model {
	v := f.Variant.File
	return hal.Model{Name: v.Name, Path: f.blobs.Path(wire.Digest(v.SHA256)), SHA256: v.SHA256, Size: v.Length}
}

// Sibling is the file that Model falls back to, nil where it needs none.
func (f Files) Sibling() *hal.Model {
	s := f.Manifest.SiblingOf(f.Variant)
	if s == nil {
		return nil
	}
	return &hal.Model{Name: s.File.Name, Path: f.blobs.Path(wire.Digest(s.File.SHA256)), SHA256: s.File.SHA256, Size: s.File.Length}
}

// Read returns the bytes of a file of the release and checks their hash again.
func (f Files) Read(file release.File) ([]byte, error) {
	return f.blobs.Read(wire.Digest(file.SHA256), file.Length)
}

// FaultOf is an error for the wire: its code, and one line within the bounds of
// wire.Fault.
func FaultOf(err error) *wire.Fault {
	var e *hal.Error
	if errors.As(err, &e) && e.Code != "" {
		return &wire.Fault{Code: string(e.Code), Text: clip(e.Text)}
	}
	return &wire.Fault{Code: string(hal.CodeUnknown), Text: clip(err.Error())}
}

// clip keeps texts from outside, such as a runner's, from filling a message.
func clip(s string) string {
	const most = 250 // of up to four bytes
	line := make([]rune, 0, most)
	for _, r := range s {
		if unicode.IsControl(r) {
			r = ' '
		}
		if len(line) == most-1 {
			return string(append(line, '…'))
		}
		line = append(line, r)
	}
	return string(line)
}
