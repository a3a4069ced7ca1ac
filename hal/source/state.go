package source

import (
	"time"

	"github.com/covey-edge/covey/hal"
)

// A State is how a kept source stands.
type State uint8

const (
	Opening State = iota // no frame has come yet, and nothing went wrong
	Live                 // frames come
	Stalled              // it is there and gives nothing
	Lost                 // it cannot be opened, or went away
	Ended                // its last frame was taken
)

// String is the state's name, as in "LIVE".
func (s State) String() string {
	return [...]string{"OPENING", "LIVE", "STALLED", "LOST", "ENDED"}[s]
}

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// An event is what happens to a kept source.
type event uint8

const (
	opened   event = iota // it could be opened
	frame                 // a good frame came
	bad                   // a frame came that could not be read
	silent                // nothing came for too long
	gone                  // it could not be opened, or went away
	finished              // the last frame was taken
)

// after is the state after an event. Trouble ends with a good frame alone: a camera
// that can be opened again and again and shows nothing has not come back.
func (s State) after(e event) State {
	switch {
	case s == Ended:
		return Ended
	case e == frame:
		return Live
	case e == silent:
		return Stalled
	case e == gone:
		return Lost
	case e == finished:
		return Ended
	}
	return s
}

// happening is the event that an error of a source means.
func happening(err error) event {
	if hal.CodeOf(err) == hal.CodeSourceStalled {
		return silent
	}
	return gone
}

const (
	shortest = time.Second      // before a source is opened again
	longest  = 30 * time.Second // the same
	enough   = 30 * time.Second // of frames: what broke then was well before
)

// again is the time before a broken source is opened again, from the time before
// the last try and how long frames came since. What ran well is opened at once, the
// first time: most often a cable or a program moved.
func again(before, ran time.Duration) time.Duration {
	if ran >= enough {
		return 0
	}
	return min(max(shortest, 2*before), longest)
}
