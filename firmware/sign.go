package firmware

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Cause is what slows a board down.
type Cause string

// Causes, for people, too.
const (
	Heat    Cause = "heat"
	Voltage Cause = "voltage" // too little of it: a weak power supply or a thin cable
	Current Cause = "current" // more than the power supply gives
)

// A Sign is a file that says that a board is slowed down, and by what. Written, it is
// the cause and one of:
//
//	bits MASK GLOB       a hexadecimal number in a file below the root; of several such
//	                     lines about one file the first that fits counts, since what
//	                     lowers a voltage also lowers a frequency
//	alarm CHIP FILE      a file of a chip of hwmon that is not 0
//	count CHIP FILE      a counter of such a chip: now, when it grew since it was read
//	                     before; since the board started, when it is not 0
//	cooling TYPE         a cooling device that is at work
type Sign struct {
	Cause Cause
	Past  bool   // it was since it started, and need not be now
	Kind  string // bits, alarm, count, cooling
	Mask  uint64 // of bits
	Chip  string // of alarm and count
	File  string // a pattern for bits, a name for alarm and count, a type for cooling
}

func parseSign(value string, past bool) (Sign, error) {
	f := strings.Split(value, " ")
	if len(f) < 3 {
		return Sign{}, fmt.Errorf("%.64q wants a cause, a kind and where it is", value)
	}
	s := Sign{Cause: Cause(f[0]), Past: past, Kind: f[1], File: f[len(f)-1]}
	if err := oneOf(f[0], string(Heat), string(Voltage), string(Current)); err != nil {
		return Sign{}, err
	}
	wants := map[string]int{"bits": 4, "alarm": 4, "count": 4, "cooling": 3}[s.Kind]
	if wants != len(f) {
		return Sign{}, fmt.Errorf("%.64q is none of: bits MASK GLOB, alarm CHIP FILE, count CHIP FILE, cooling TYPE", value)
	}
	if past && s.Kind != "bits" {
		return Sign{}, fmt.Errorf("only bits tell what was")
	}
	if s.Kind == "bits" {
		mask, err := strconv.ParseUint(strings.TrimPrefix(f[2], "0x"), 16, 32)
		if err != nil || mask == 0 || !strings.HasPrefix(f[2], "0x") {
			return Sign{}, fmt.Errorf("%.64q is not a mask such as 0x1", f[2])
		}
		s.Mask = mask
		return s, pattern(s.File)
	}
	if s.Kind != "cooling" {
		s.Chip = f[2]
	}
	if s.File == "" || strings.Contains(s.File, "/") || wants == 4 && s.Chip == "" {
		return Sign{}, fmt.Errorf("%.64q is not one name", s.File)
	}
	return s, nil
}

// Slow is what slows a board down, each cause once.
type Slow struct {
	Now   []Cause
	Since []Cause // since it started, as far as it tells; what is now is not in it
	Told  bool    // one of the profile's signs is there to be read, so that silence means something
}

// A Watch looks again and again whether a board is slowed down. It is used by one
// goroutine at a time.
type Watch struct {
	root   fs.FS
	signs  []Sign
	counts map[string]uint64
}

// Watch begins to look, below the root of the board's file system.
func (p *Profile) Watch(root fs.FS) *Watch {
	return &Watch{root: root, signs: p.Signs, counts: map[string]uint64{}}
}

// Look reads the signs of the profile, and on any board the cooling devices that
// slow its CPU down.
func (w *Watch) Look() Slow {
	var s Slow
	said := map[Sign]bool{} // by file and tense alone
	for _, sign := range w.signs {
		now, since, told := w.see(sign)
		s.Told = s.Told || told
		if file := (Sign{File: sign.File, Past: sign.Past}); sign.Kind == "bits" && (now || since) {
			if said[file] {
				continue
			}
			said[file] = true
		}
		if now {
			s.Now = add(s.Now, sign.Cause)
		}
		if since {
			s.Since = add(s.Since, sign.Cause)
		}
	}
	if w.cooling(slowsCPU) {
		s.Now = add(s.Now, Heat)
	}
	s.Since = slices.DeleteFunc(s.Since, func(c Cause) bool { return slices.Contains(s.Now, c) })
	return s
}

func add(list []Cause, c Cause) []Cause {
	if slices.Contains(list, c) {
		return list
	}
	return append(list, c)
}

func (w *Watch) see(s Sign) (now, since, told bool) {
	switch s.Kind {
	case "bits":
		for _, name := range glob(w.root, s.File) {
			bits, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(read(w.root, name)), "0x"), 16, 32)
			now, told = now || err == nil && bits&s.Mask != 0, told || err == nil
		}
		return now && !s.Past, now && s.Past, told
	case "alarm":
		for _, n := range w.chip(s) {
			now, told = now || n != 0, true
		}
	case "count":
		for name, n := range w.chip(s) {
			before, known := w.counts[name]
			now, since, told = now || known && n > before, since || n > 0, true
			w.counts[name] = n
		}
	case "cooling":
		now = w.cooling(func(kind string) bool { return kind == s.File })
	}
	return now, since, told
}

// chip is what a file of a chip of hwmon says, by its path: chips are numbered as
// they are found.
func (w *Watch) chip(s Sign) map[string]uint64 {
	found := map[string]uint64{}
	for _, name := range glob(w.root, "sys/class/hwmon/hwmon*/name") {
		if strings.TrimSpace(read(w.root, name)) != s.Chip {
			continue
		}
		file := path.Join(path.Dir(name), s.File)
		if n, err := strconv.ParseUint(strings.TrimSpace(read(w.root, file)), 10, 63); err == nil {
			found[file] = n
		}
	}
	return found
}

// cooling says whether a cooling device of that type is at work.
func (w *Watch) cooling(of func(kind string) bool) bool {
	for _, name := range glob(w.root, "sys/class/thermal/cooling_device*/cur_state") {
		kind := strings.TrimSpace(read(w.root, path.Dir(name)+"/type"))
		if n, err := strconv.ParseUint(strings.TrimSpace(read(w.root, name)), 10, 63); err == nil && n > 0 && of(kind) {
			return true
		}
	}
	return false
}

func slowsCPU(kind string) bool {
	kind = strings.ToLower(kind)
	return strings.Contains(kind, "cpufreq") || strings.HasPrefix(kind, "processor")
}

// Sensors that fail say things like -87.9 °C, or 255.
const coldest, hottest = -40, 130

// Temperature is that of the hottest of the zones that count, in °C, and the zone's
// type. Where none of them can be read, it is the hottest there is.
func (p *Profile) Temperature(root fs.FS) (celsius float64, zone string, ok bool) {
	counts := false
	for _, name := range glob(root, "sys/class/thermal/thermal_zone*/temp") {
		milli, err := strconv.ParseInt(strings.TrimSpace(read(root, name)), 10, 32)
		c := float64(milli) / 1000
		if err != nil || c < coldest || c > hottest {
			continue
		}
		kind := clean(read(root, path.Dir(name)+"/type"))
		listed := slices.Contains(p.Zones, kind)
		if !ok || listed && !counts || listed == counts && c > celsius {
			celsius, zone, ok, counts = c, kind, true, listed
		}
	}
	return celsius, zone, ok
}

func glob(root fs.FS, pattern string) []string {
	names, _ := fs.Glob(root, pattern) // the only error is a pattern's
	return names
}
