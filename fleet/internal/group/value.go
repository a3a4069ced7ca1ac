package group

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// parseNumber reads digits, with a point and a minus where they belong: no
// exponents, no names of numbers. Its absolute value is at most 1e15.
func parseNumber(s string) (float64, bool) {
	if strings.Trim(s, "0123456789.-") != "" {
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil && math.Abs(v) <= 1e15
}

func formatNumber(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// cutUnit splits "1.5GiB" into "1.5" and "GiB".
func cutUnit(s string) (digits, unit string) {
	n := len(s) - len(strings.TrimLeft(s, "0123456789."))
	return s[:n], s[n:]
}

// A unit is what a number is multiplied with.
type unit struct {
	name string
	is   float64
}

// sizes in bytes, ages in seconds: the largest first.
var (
	binary  = []unit{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
	decimal = []unit{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}}
	ages    = []unit{{"w", 7 * 86400}, {"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}}
)

func unitOf(name string, of ...[]unit) (float64, bool) {
	for _, list := range of {
		for _, u := range list {
			if u.name == name {
				return u.is, true
			}
		}
	}
	return 0, false
}

// parseSize reads "1GiB", "1.5GB", "512": whole bytes, at most 2^53.
func parseSize(s string) (bytes float64, ok bool) {
	digits, name := cutUnit(s)
	if name == "" {
		name = "B"
	}
	is, ok := unitOf(name, binary, decimal)
	v, isNumber := parseNumber(digits)
	v = math.Round(v * is)
	return v, ok && isNumber && v <= 1<<53
}

// formatSize is the shortest of the ways to write it.
func formatSize(v float64) string {
	best := formatNumber(v) + "B"
	for _, list := range [][]unit{decimal, binary} {
		for _, u := range list {
			if v != 0 && math.Mod(v, u.is) == 0 {
				if s := formatNumber(v/u.is) + u.name; len(s) < len(best) {
					best = s
				}
				break
			}
		}
	}
	return best
}

// parseAge reads "7d", "24h", "1h30m": whole seconds, at most a hundred years.
func parseAge(s string) (seconds float64, ok bool) {
	if s == "" {
		return 0, false
	}
	for s != "" {
		digits, rest := cutUnit(s)
		n := len(rest) - len(strings.TrimLeft(rest, "wdhms"))
		is, known := unitOf(rest[:n], ages)
		v, isNumber := parseNumber(digits)
		if !known || !isNumber {
			return 0, false
		}
		seconds += v * is
		s = rest[n:]
	}
	seconds = math.Round(seconds)
	return seconds, seconds <= 100*365*86400
}

func formatAge(seconds float64) string {
	if seconds == 0 {
		return "0s"
	}
	var b strings.Builder
	left := time.Duration(seconds) * time.Second
	for _, u := range ages[1:] { // a week is not what most people expect to read
		if n := left / (time.Duration(u.is) * time.Second); n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.name)
			left -= n * time.Duration(u.is) * time.Second
		}
	}
	return b.String()
}

// A semver is a version as semver.org orders them. A v in front, missing parts
// and a fourth one are let pass: "v2.16" is 2.16.0.
type semver struct {
	core [4]uint64
	pre  string // what is behind the minus; "": a release
}

func parseVersion(s string) (v semver, ok bool) {
	s = strings.TrimPrefix(s, "v")
	s, _, _ = strings.Cut(s, "+")
	s, pre, isPre := strings.Cut(s, "-")
	if isPre && pre == "" {
		return v, false
	}
	v.pre = pre
	for i := 0; ; i++ {
		part, rest, more := strings.Cut(s, ".")
		if i == len(v.core) || len(part) > 9 || part == "" || strings.Trim(part, "0123456789") != "" {
			return v, false
		}
		v.core[i], _ = strconv.ParseUint(part, 10, 64) // it is a few digits
		if s = rest; !more {
			return v, true
		}
	}
}

func (v semver) compare(w semver) int {
	for i := range v.core {
		if c := cmp.Compare(v.core[i], w.core[i]); c != 0 {
			return c
		}
	}
	switch {
	case v.pre == w.pre:
		return 0
	case v.pre == "":
		return 1
	case w.pre == "":
		return -1
	}
	a, b := v.pre, w.pre
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		if c := comparePart(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// comparePart orders parts of a prerelease: numbers by value and before words.
func comparePart(x, y string) int {
	xn, yn := strings.Trim(x, "0123456789") == "", strings.Trim(y, "0123456789") == ""
	switch {
	case xn && yn:
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
	case xn:
		return -1
	case yn:
		return 1
	}
	return cmp.Compare(x, y)
}

// glob matches * (any characters) and ? (any one) against a whole word. It tries
// only the last star again, so its time is at most the product of the lengths.
func glob(pattern, s string) bool {
	star, from := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			i += runeLen(s[i:])
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			from += runeLen(s[from:])
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func runeLen(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}
