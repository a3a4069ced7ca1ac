// Package health says how a board is: gauges from /proc and /sys, and the brief
// message that goes to the fleet from time to time. It reads files, nothing else.
package health

import (
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
)

// Gauges are how the board is at one moment. What could not be read is 0, and nil
// for the temperature.
type Gauges struct {
	CPU       float64  // percent of all cores, since the sample before
	Mem       float64  // percent of RAM that programs could not have
	RSS       int64    // bytes, of this process
	Temp      *float64 // °C, of the hottest sensor that makes sense
	Throttled bool     // slowed down, by heat or a weak power supply
	Disk      float64  // percent of the data volume that is not free to us
}

// A Sampler reads gauges. It is used by one goroutine at a time.
type Sampler struct {
	root fs.FS
	data string

	busy, total uint64 // CPU time of the sample before, in ticks
}

// NewSampler reads below root, os.DirFS("/") on a board; data is a path on the
// volume whose room matters.
func NewSampler(root fs.FS, data string) *Sampler {
	s := &Sampler{root: root, data: data}
	s.busy, s.total = cpuTime(s.read("proc/stat"))
	return s
}

// Sample reads all gauges.
func (s *Sampler) Sample() Gauges {
	g := Gauges{
		CPU:  s.cpu(),
		Mem:  memory(s.read("proc/meminfo")),
		RSS:  field(s.read("proc/self/status"), "VmRSS:") << 10,
		Disk: disk(s.data),
		Temp: s.temperature(),
	}
	g.Throttled = s.throttled()
	return g
}

func (s *Sampler) read(name string) string {
	f, err := s.root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return ""
	}
	return string(b)
}

func (s *Sampler) glob(pattern string) []string {
	names, _ := fs.Glob(s.root, pattern) // the only error is a pattern's
	return names
}

func (s *Sampler) cpu() float64 {
	busy, total := cpuTime(s.read("proc/stat"))
	db, dt := busy-s.busy, total-s.total
	if total <= s.total || busy < s.busy || db > dt { // no time has gone, or a counter went back
		db, dt = 0, 1
	}
	s.busy, s.total = busy, total
	return percent(db, dt)
}

// cpuTime adds up the first line of /proc/stat: user, nice, system, idle, iowait,
// irq, softirq, steal; guest time is in user time already.
func cpuTime(stat string) (busy, total uint64) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 5 || fields[0] != "cpu" {
		return 0, 0
	}
	for i, f := range fields[1:min(len(fields), 9)] {
		v, err := strconv.ParseUint(f, 10, 60)
		if err != nil {
			return 0, 0
		}
		total += v
		if i != 3 && i != 4 { // idle, iowait
			busy += v
		}
	}
	return busy, total
}

func memory(meminfo string) float64 {
	total, free := field(meminfo, "MemTotal:"), field(meminfo, "MemAvailable:")
	if total <= 0 || free < 0 || free > total {
		return 0
	}
	return percent(uint64(total-free), uint64(total))
}

// field is the number behind a name at the beginning of a line, 0 without one.
func field(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				v, err := strconv.ParseInt(f[0], 10, 48)
				if err == nil {
					return v
				}
			}
			return 0
		}
	}
	return 0
}

func disk(path string) float64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil || st.Blocks < st.Bfree {
		return 0
	}
	used := uint64(st.Blocks - st.Bfree)
	return percent(used, used+uint64(st.Bavail)) // as df: what root alone may use is no room
}

// Sensors that fail say things like -87.9 °C.
const coldest, hottest = -40, 130

// Temperature is that of the hottest sensor below root that makes sense, °C; nil:
// there is none.
func Temperature(root fs.FS) *float64 {
	if root == nil {
		return nil
	}
	return (&Sampler{root: root}).temperature()
}

func (s *Sampler) temperature() *float64 {
	var top *float64
	for _, name := range s.glob("sys/class/thermal/thermal_zone*/temp") {
		milli, err := strconv.ParseInt(strings.TrimSpace(s.read(name)), 10, 32)
		c := round(float64(milli) / 1000)
		if err != nil || c < coldest || c > hottest || top != nil && c <= *top {
			continue
		}
		top = &c
	}
	return top
}

// throttled asks the Raspberry Pi's firmware (bits 0 to 3: too little voltage,
// frequency capped, throttled, soft temperature limit, all of them now), and any
// board's cooling devices that slow a CPU down.
func (s *Sampler) throttled() bool {
	for _, name := range s.glob("sys/devices/platform/soc*/soc*firmware/get_throttled") {
		text := strings.TrimPrefix(strings.TrimSpace(s.read(name)), "0x")
		if bits, err := strconv.ParseUint(text, 16, 32); err == nil && bits&0xf != 0 {
			return true
		}
	}
	for _, name := range s.glob("sys/class/thermal/cooling_device*/cur_state") {
		kind := strings.ToLower(s.read(strings.TrimSuffix(name, "cur_state") + "type"))
		slows := strings.Contains(kind, "cpufreq") || strings.HasPrefix(kind, "processor")
		if state := strings.TrimSpace(s.read(name)); slows && state != "" && state != "0" {
			return true
		}
	}
	return false
}

func percent(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return round(100 * float64(part) / float64(whole))
}

// round keeps one digit, so that messages stay short.
func round(v float64) float64 {
	if v < 0 {
		return -round(-v)
	}
	return float64(int64(v*10+0.5)) / 10
}
