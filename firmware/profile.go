package firmware

import (
	"embed"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/covey-edge/covey/hal"
)

//go:embed boards/*.board
var boards embed.FS

// A Profile is what is known of a kind of board beforehand. The zero Profile is
// nothing: all accelerators are tried, all sensors read.
type Profile struct {
	ID           string            `json:"id"`                     // "raspberrypi-5"
	Name         string            `json:"name"`                   // for people: "Raspberry Pi 5"
	Accelerators []hal.Accelerator `json:"accelerators,omitempty"` // worth a try, best first; nil: all there are
	Threads      int               `json:"threads,omitempty"`      // of a model that was not measured yet; 0: not known
	Camera       Camera            `json:"camera,omitempty"`       // of the board's own socket; "": it has none

	Compatible []string `json:"-"` // of the device tree: its own names, and its chip's where the profile fits all boards with that
	Arch       string   `json:"-"` // of boards that no profile names: GOARCH
	USB        int      `json:"-"` // of its fastest socket; 0: not known
	Zones      []string `json:"-"` // thermal zones that count, by type; none: all
	Hot        int      `json:"-"` // °C from which on a person should do something; 0: DefaultHot
	Signs      []Sign   `json:"-"` // of being slowed down
	Traps      []Trap   `json:"-"` // what goes wrong on it
}

// DefaultHot is hot where a profile does not say.
const DefaultHot = 80

// A Camera is how a camera on a board's own socket is read.
type Camera string

// The cameras that sources know.
const (
	RPiCam  Camera = "rpicam"  // by Raspberry Pi's programs
	NVArgus Camera = "nvargus" // by NVIDIA's plugin of GStreamer
	V4L2    Camera = "v4l2"    // as any other video device
)

// Profiles are all that Covey has. Each call reads them anew, and the caller may
// change what it gets.
func Profiles() []Profile {
	files, err := boards.ReadDir("boards")
	if err != nil {
		panic(err) // it is part of the program
	}
	var all []Profile
	for _, f := range files {
		text, err := boards.ReadFile("boards/" + f.Name())
		if err != nil {
			panic(err)
		}
		p, err := ParseProfile(strings.TrimSuffix(f.Name(), ".board"), string(text))
		if err != nil {
			panic(err) // as a test makes sure of
		}
		all = append(all, p)
	}
	return all
}

// profileOf is the profile of the first name that one has: a device tree names the
// board first, then what it is built on, and its chip last. Without any, it is the
// one for all boards of that architecture.
func profileOf(compatible []string, arch string) Profile {
	all := Profiles()
	for _, want := range compatible {
		for _, p := range all {
			for _, has := range p.Compatible {
				if has == want {
					return p
				}
			}
		}
	}
	for _, p := range all {
		if arch != "" && p.Arch == arch {
			return p
		}
	}
	return Profile{}
}

// Most that a profile may hold.
const (
	maxProfile = 16 << 10 // bytes
	maxList    = 32       // of each list
	maxLine    = 300      // bytes
)

// ParseProfile reads a profile: lines of a key and a value, empty lines, and
// comments that begin with #. What is not known, is said twice, or makes no sense is
// an error with its line.
//
//	name         for people
//	compatible   a name in device trees; again for each
//	arch         GOARCH of all boards that have no other profile
//	try          accelerators, best first
//	threads      that a model starts with
//	camera       rpicam, nvargus or v4l2
//	usb          2 or 3: its fastest socket
//	temperature  types of thermal zones
//	hot          °C
//	slow         a sign that it is slowed down now, slowed: that it was since it
//	             started; see Sign
//	trap         what goes wrong; see Trap
func ParseProfile(id, text string) (Profile, error) {
	p := Profile{ID: id}
	if !validID(id) {
		return p, fmt.Errorf("board profile %.64q: its name is not made of a-z, 0-9 and -, 32 at the most", id)
	}
	if len(text) > maxProfile {
		return p, fmt.Errorf("board profile %s: %d bytes, limit %d", id, len(text), maxProfile)
	}
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		err := p.set(key, value, seen[key])
		if err == nil && !plain(line) {
			err = fmt.Errorf("%d bytes, or what cannot be printed, or space at the end", len(line))
		}
		if err != nil {
			return p, fmt.Errorf("board profile %s, line %d: %w", id, n, err)
		}
		seen[key] = true
	}
	switch {
	case p.Name == "":
		return p, fmt.Errorf("board profile %s: no name", id)
	case (len(p.Compatible) == 0) == (p.Arch == ""):
		return p, fmt.Errorf("board profile %s: it wants compatible or arch, and not both", id)
	}
	return p, nil
}

func validID(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func plain(line string) bool {
	return len(line) <= maxLine && utf8.ValidString(line) && strings.TrimSpace(line) == line &&
		!strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) })
}

// set takes one line; again says that the key was there before.
func (p *Profile) set(key, value string, again bool) error {
	switch key {
	case "compatible", "slow", "slowed", "trap":
	default:
		if again {
			return fmt.Errorf("%s is there twice", key)
		}
	}
	var err error
	switch key {
	case "name":
		p.Name = value
		if value == "" {
			return fmt.Errorf("name is empty")
		}
	case "compatible":
		p.Compatible, err = one(p.Compatible, value)
	case "arch":
		p.Arch, err = value, oneOf(value, "arm64", "amd64")
	case "try":
		var names []string
		if names, err = several(value); err == nil {
			p.Accelerators, err = accelerators(names)
		}
	case "threads":
		p.Threads, err = number(value, 1, 64)
	case "camera":
		p.Camera, err = Camera(value), oneOf(value, string(RPiCam), string(NVArgus), string(V4L2))
	case "usb":
		p.USB, err = number(value, 2, 3)
	case "temperature":
		p.Zones, err = several(value)
	case "hot":
		p.Hot, err = number(value, 40, 120)
	case "slow", "slowed":
		var s Sign
		s, err = parseSign(value, key == "slowed")
		p.Signs = append(p.Signs, s)
	case "trap":
		var t Trap
		t, err = parseTrap(value)
		p.Traps = append(p.Traps, t)
	default:
		return fmt.Errorf("%.32q is no key", key)
	}
	if err == nil && max(len(p.Signs), len(p.Traps)) > maxList {
		err = fmt.Errorf("more than %d", maxList)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// one adds a word that is not there yet.
func one(list []string, word string) ([]string, error) {
	switch {
	case word == "" || strings.Contains(word, " "):
		return nil, fmt.Errorf("%.64q is not one word", word)
	case len(list) == maxList:
		return nil, fmt.Errorf("more than %d", maxList)
	}
	for _, w := range list {
		if w == word {
			return nil, fmt.Errorf("%s is there twice", word)
		}
	}
	return append(list, word), nil
}

// several are words with one space between them, each once.
func several(value string) (list []string, err error) {
	for word := range strings.SplitSeq(value, " ") {
		if list, err = one(list, word); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func accelerators(names []string) ([]hal.Accelerator, error) {
	var list []hal.Accelerator
	for _, n := range names {
		if err := oneOf(n, "edgetpu", "gpu", "xnnpack", "cpu", "cuda", "tensorrt", "external:*"); err != nil {
			return nil, err
		}
		list = append(list, hal.Accelerator(n))
	}
	return list, nil
}

func oneOf(value string, words ...string) error {
	for _, w := range words {
		if value == w {
			return nil
		}
	}
	return fmt.Errorf("%.64q is none of %s", value, strings.Join(words, ", "))
}

func number(value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || strconv.Itoa(n) != value || n < least || n > most {
		return 0, fmt.Errorf("%.64q is not a number from %d to %d", value, least, most)
	}
	return n, nil
}

// pattern says whether a value is a path below the root, which may have wildcards.
func pattern(value string) error {
	_, err := path.Match(value, "")
	if err != nil || value == "" || value[0] == '/' || path.Clean(value) != value || strings.HasPrefix(value, "..") || strings.Contains(value, " ") {
		return fmt.Errorf("%.64q is not a path below the root", value)
	}
	return nil
}
