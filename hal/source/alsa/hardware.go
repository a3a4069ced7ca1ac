package alsa

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal/signal"
)

// A setup is how a device is asked to record.
type setup struct {
	format   string // as ALSA writes it
	pcm      signal.PCM
	rate     int
	channels int
}

// formats that can be read, best first: a model does not hear more than 16 bits.
var formats = []struct {
	name string
	pcm  signal.PCM
}{
	{"S16_LE", signal.PCMInt16}, {"S32_LE", signal.PCMInt32}, {"S24_3LE", signal.PCMInt24}, {"FLOAT_LE", signal.PCMFloat32},
	{"FLOAT64_LE", signal.PCMFloat64}, {"U8", signal.PCMUint8},
}

// A hardware is what arecord --dump-hw-params says of a device.
type hardware struct {
	formats        []string
	channels, rate [2]int // least and most
}

var parameter = regexp.MustCompile(`(?m)^(FORMAT|CHANNELS|RATE): +(.*)$`)

// parseHardware reads what arecord says; ok is false when something is missing.
func parseHardware(text string) (h hardware, ok bool) {
	for _, m := range parameter.FindAllStringSubmatch(text, -1) {
		switch value := strings.TrimSpace(m[2]); m[1] {
		case "FORMAT":
			h.formats = strings.Fields(value)
		case "CHANNELS":
			h.channels = parseRange(value)
		case "RATE":
			h.rate = parseRange(value)
		}
	}
	return h, len(h.formats) > 0 && h.channels[1] > 0 && h.rate[1] > 0
}

// parseRange reads "2", "[1 2]" or "(0 4294967295]"; zeros for anything else.
func parseRange(s string) [2]int {
	words := strings.Fields(strings.Trim(s, "[]()"))
	if len(words) == 0 || len(words) > 2 {
		return [2]int{}
	}
	least, err1 := strconv.ParseUint(words[0], 10, 32)
	most, err2 := strconv.ParseUint(words[len(words)-1], 10, 32)
	if err1 != nil || err2 != nil || most < least {
		return [2]int{}
	}
	return [2]int{max(1, int(least)), int(most)}
}

// Rates of hardware.
const (
	usualRate   = 48000
	highestRate = 768000 // what offers more is a plugin that converts
)

// choose is what to ask for: the rate that is wanted, if the hardware has it, else
// one that we can resample. ALSA's own plugins convert rates too, but do so without
// a proper low-pass, so they are asked for the rate that hardware usually has. Of
// channels it takes as few as there can be, with room for those that are picked.
func (h hardware) choose(rate int, pick []int) (setup, error) {
	s := setup{channels: h.channels[0], rate: rate}
	for _, f := range formats {
		if slices.Contains(h.formats, f.name) {
			s.format, s.pcm = f.name, f.pcm
			break
		}
	}
	if s.format == "" {
		return s, fmt.Errorf("its formats %.100q cannot be read", h.formats)
	}
	if len(pick) > 0 {
		s.channels = max(s.channels, slices.Max(pick)+1)
	}
	if s.channels > h.channels[1] {
		return s, fmt.Errorf("it has %d channels, 0 to %d, and no channel %d", h.channels[1], h.channels[1]-1, s.channels-1)
	}
	if converts := h.rate[1] > highestRate; converts || rate == 0 || rate < h.rate[0] || rate > h.rate[1] {
		s.rate = min(max(usualRate, h.rate[0]), h.rate[1])
	}
	return s, nil
}
