package v4l2

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// A fourCC is the kernel's name of a pixel format.
type fourCC uint32

func code(s string) fourCC {
	return fourCC(s[0]) | fourCC(s[1])<<8 | fourCC(s[2])<<16 | fourCC(s[3])<<24
}

func (c fourCC) String() string {
	b := []byte{byte(c), byte(c >> 8), byte(c >> 16), byte(c>>24) & 0x7f} // the top bit: big-endian
	for i, v := range b {
		if v < ' ' || v > '~' {
			b[i] = '?'
		}
	}
	return strings.TrimRight(string(b), " ")
}

// formats is what a Source can read. cost is what a pixel costs until it is in a
// tensor, next to the others: bytes to copy and read; for MJPEG what image/jpeg or
// libjpeg-turbo take (facts: 4 to 13 ns against 0.5).
var formats = []struct {
	code   fourCC
	name   string // in the configuration
	format hal.PixelFormat
	cost   float64
}{
	{code("NV12"), "nv12", hal.FormatNV12, 1.5},
	{code("YU12"), "yuv420", hal.FormatYUV420, 1.5},
	{code("YUYV"), "yuyv", hal.FormatYUYV, 2},
	{code("GREY"), "grey", hal.FormatGray, 1},
	{code("MJPG"), "mjpeg", hal.FormatNone, 12}, // what it decodes to is in each picture
	{code("JPEG"), "mjpeg", hal.FormatNone, 12},
}

func formatOf(c fourCC) (i int, known bool) {
	for i, f := range formats {
		if f.code == c {
			return i, true
		}
	}
	return 0, false
}

// A mode is one way in which a camera sends pictures.
type mode struct {
	code          fourCC
	width, height int
	interval      fraction // from picture to picture; zero: the driver does not say
}

func (m mode) fps() float64 {
	if m.interval.over == 0 {
		return 0
	}
	return float64(m.interval.under) / float64(m.interval.over)
}

func (m mode) String() string {
	i, _ := formatOf(m.code)
	s := fmt.Sprintf("%s %d×%d", formats[i].name, m.width, m.height)
	if fps := m.fps(); fps > 0 {
		s += fmt.Sprintf(" at %.4g a second", fps)
	}
	return s
}

// A wish is what a mode should be like.
type wish struct {
	format        string // pinned; "" any
	width, height int    // pinned when exact is set; else the picture should cover it
	exact         bool
	fps           float64 // pinned; 0: usualFPS is good, and a little less too
}

const (
	usualFPS  = 30
	enoughFPS = 24
)

func (w wish) rate() (wanted, enough float64) {
	if w.fps > 0 {
		return w.fps, w.fps * .99
	}
	return usualFPS, enoughFPS
}

// choose is the mode that costs least of those that do what is wished: cover the
// size, show colours, come often enough, in this order. A camera without such a mode
// gives what is nearest. ok is false when there are none.
func choose(modes []mode, w wish) (best mode, ok bool) {
	_, enough := w.rate()
	rank := func(m mode) [4]float64 {
		i, _ := formatOf(m.code)
		cover := min(1, float64(m.width)/float64(max(1, w.width)), float64(m.height)/float64(max(1, w.height)))
		colour := 1.
		if formats[i].format == hal.FormatGray {
			colour = 0
		}
		often := 1. // a driver that does not say is believed
		if fps := m.fps(); fps > 0 {
			often = min(1, fps/enough)
		}
		return [4]float64{cover, colour, often, -formats[i].cost * float64(m.width) * float64(m.height)}
	}
	for _, m := range modes {
		if !w.allows(m) {
			continue
		}
		a, b := rank(m), rank(best)
		if c := slices.Compare(a[:], b[:]); !ok || c > 0 || c == 0 && m.fps() > best.fps() {
			best, ok = m, true
		}
	}
	return best, ok
}

// allows says whether a mode is what is pinned.
func (w wish) allows(m mode) bool {
	i, known := formatOf(m.code)
	return known && (w.format == "" || formats[i].name == w.format) && (!w.exact || m.width == w.width && m.height == w.height)
}

// pick is the longest interval that is short enough for what is wished, else the
// shortest. Zero: there are none.
func pick(intervals []fraction, w wish) fraction {
	wanted, _ := w.rate()
	var best fraction
	for _, i := range intervals {
		if i.over == 0 || i.under == 0 {
			continue
		}
		fps, now := mode{interval: i}.fps(), mode{interval: best}.fps()
		if enough := wanted * .99; now == 0 || now < enough && fps > now || fps >= enough && fps < now {
			best = i
		}
	}
	return best
}

// A sizes is what sizes a camera has of one format: one, or all in steps.
type sizes struct {
	code          fourCC
	width, height span
}

// A span is least, most and step.
type span struct{ least, most, step int }

// near is the value of a span that is next above v; its most when none is.
func (s span) near(v int) int {
	if v <= s.least || s.most <= s.least {
		return s.least
	}
	step := max(1, s.step)
	n := s.least + (v-s.least+step-1)/step*step
	for n > s.most {
		n -= step
	}
	return n
}

// describe is the modes for people, sizes of one format together, largest first.
func describe(modes []mode) string {
	modes = slices.Clone(modes)
	slices.SortStableFunc(modes, func(a, b mode) int {
		return cmp.Or(cmp.Compare(a.code, b.code), cmp.Compare(b.width*b.height, a.width*a.height))
	})
	var b strings.Builder
	for i, m := range modes {
		if i == 0 || m.code != modes[i-1].code {
			if i > 0 {
				b.WriteString("; ")
			}
			f, _ := formatOf(m.code)
			b.WriteString(formats[f].name)
		} else {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, " %d×%d", m.width, m.height)
		if fps := m.fps(); fps > 0 {
			fmt.Fprintf(&b, "@%.3g", fps)
		}
	}
	return b.String()
}
