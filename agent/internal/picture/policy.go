// Package picture makes the pictures that people may see of what a board sees, and is
// the one place where it is decided whether there is one: a Picture gives its bytes to
// an audience that its policy allows, and to no other. All else on a board handles
// numbers.
package picture

import (
	"fmt"

	"github.com/covey-edge/covey/hal"
)

// A Class is what may be shown of a pipeline's frames.
type Class string

// Classes, from the least to the most.
const (
	Numbers    Class = "numbers"    // nothing but what the model says
	Thumbnails Class = "thumbnails" // small pictures
	Frames     Class = "frames"     // pictures as they are, to a side of 1280
)

// sides is the longest side of pictures, by class.
var sides = map[Class]int{Numbers: 0, Thumbnails: 320, Frames: 1280}

// An Audience is who sees a picture.
type Audience int

// Audiences: each is allowed only along with those before it.
const (
	Page  Audience = iota // who looks at the board's own page
	Home                  // who reads the house's broker
	Fleet                 // who works at the controller
)

// ParseAudience reads "page", "home" or "fleet".
func ParseAudience(s string) (Audience, bool) {
	for a := Page; a <= Fleet; a++ {
		if s == a.String() {
			return a, true
		}
	}
	return 0, false
}

func (a Audience) String() string { return [...]string{"page", "home", "fleet"}[a] }

// A Policy says what may be shown, and to whom at the most. The zero value is what
// nobody has loosened: numbers.
type Policy struct {
	Class Class // "" is Numbers
	To    Audience
	Blur  []string // labels whose boxes are made unrecognisable: "face", "plate"
}

// Side is the longest side of pictures in pixels; 0: there are none.
func (p Policy) Side() int { return sides[p.Class] }

// Allows says whether an audience may see pictures.
func (p Policy) Allows(to Audience) bool { return p.Side() > 0 && to <= p.To }

// Strictest is what both policies allow, with what either blurs.
func (p Policy) Strictest(o Policy) Policy {
	s := Policy{Class: p.Class, To: min(p.To, o.To), Blur: append(append([]string(nil), p.Blur...), o.Blur...)}
	if o.Side() < p.Side() {
		s.Class = o.Class
	}
	return s
}

// Refuse is why an audience sees no picture: E_PRIVACY.
func (p Policy) Refuse(to Audience) error {
	if p.Side() == 0 {
		return &hal.Error{Code: hal.CodePrivacy, Text: `no pictures leave this pipeline: "privacy: thumbnails" or "privacy: frames" in the board's configuration allows them`}
	}
	return &hal.Error{Code: hal.CodePrivacy, Text: fmt.Sprintf(`pictures of this pipeline are for the %s alone: "pictures: %s" in the board's configuration allows more`, p.To, to)}
}
