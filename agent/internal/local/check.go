package local

import (
	"math"
	"net/http"
	"strings"
)

const (
	idLetters    = "abcdefghijklmnopqrstuvwxyz0123456789-"
	eventLetters = idLetters + "ABCDEFGHIJKLMNOPQRSTUVWXYZ_."
	leastArea    = 1e-4 // of the picture: less is a slip of the hand
)

func validID(s string) bool { return len(s) >= 1 && len(s) <= 32 && strings.Trim(s, idLetters) == "" }

// validEvent keeps ids from being taken for paths.
func validEvent(s string) bool {
	return len(s) >= 1 && len(s) <= 128 && strings.Trim(s, eventLetters) == "" && !strings.Contains(s, "..")
}

// checkRegions says what is wrong with what somebody has drawn.
func checkRegions(zones, masks []Zone) error {
	for _, list := range []struct {
		what string
		all  []Zone
	}{{"zone", zones}, {"mask", masks}} {
		if len(list.all) > MaxZones {
			return unfit("a pipeline has %d %ss at the most, not %d", MaxZones, list.what, len(list.all))
		}
		seen := map[string]bool{}
		for _, z := range list.all {
			if !validID(z.ID) {
				return unfit("%q cannot name a %s: 1 to 32 of a-z, 0-9 and -", clipped(z.ID), list.what)
			}
			if seen[z.ID] {
				return unfit("two %ss are called %s", list.what, z.ID)
			}
			seen[z.ID] = true
			if err := checkPoints(list.what+" "+z.ID, z.Points); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkPoints(what string, points [][2]float64) error {
	if len(points) < 3 || len(points) > MaxPoints {
		return unfit("%s has %d points: 3 to %d make a shape", what, len(points), MaxPoints)
	}
	for _, p := range points {
		for _, v := range p {
			if !(v >= 0 && v <= 1) {
				return unfit("%s has a point outside of the picture: coordinates go from 0 to 1", what)
			}
		}
	}
	if !wide(points) {
		return unfit("%s has no area", what)
	}
	return nil
}

// wide says whether points span an area. What crosses itself does, too.
func wide(points [][2]float64) bool {
	a := points[0]
	for i := 1; i < len(points); i++ {
		for _, c := range points[i+1:] {
			b := points[i]
			if math.Abs((b[0]-a[0])*(c[1]-a[1])-(b[1]-a[1])*(c[0]-a[0]))/2 >= leastArea {
				return true
			}
		}
	}
	return false
}

// checkValue holds a value against its setting. nil fits every one.
func checkValue(s *Setting, value any) error {
	switch is := s.Value.(type) {
	case bool:
		if _, ok := value.(bool); !ok && value != nil {
			return unfit("%s is true or false", s.Name)
		}
	case float64:
		v, ok := value.(float64)
		if value != nil && !(ok && v >= s.Min && v <= s.Max) {
			return unfit("%s is a number from %v to %v", s.Name, s.Min, s.Max)
		}
	default:
		return unfit("%s cannot be set here: it is a %T", s.Name, is)
	}
	return nil
}

func unfit(format string, args ...any) error {
	return problem(http.StatusUnprocessableEntity, codeInvalid, format, args...)
}

// clipped is s, short enough for a message.
func clipped(s string) string {
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}
