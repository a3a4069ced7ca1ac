// Package health says how a board is: gauges from /proc and /sys, and the brief
// message that goes to the fleet from time to time. It reads files, nothing else.
package health

import (
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/covey-edge/covey/firmware"
)

// Gauges are how the board is at one moment. What could not be read is 0, and nil
// for the temperature.
type Gauges struct {
	CPU       float64  // percent of all cores, since the sample before
	Mem       float64  // percent of RAM that programs could not have
	RSS       int64    // bytes, of this process
	Temp      *float64 // °C, of the hottest sensor that counts
	Throttled bool     // slowed down, by heat or a weak power supply
	Weak      bool     // the power supply: too little voltage now, or too much current
	Disk      float64  // percent of the data volume that is not free to us
	Wrote     int64    // bytes that this process wrote to disks in the last 24 hours, or since it was first sampled
	Wear      int      // of the eMMC beneath the data volume, percent of its life
	EOL       int      // of its spare blocks 2: most are used, 3: hardly any are left
}

// A Sampler reads gauges. It is used by one goroutine at a time.
type Sampler struct {
	root    fs.FS
	data    string
	profile firmware.Profile
	watch   *firmware.Watch
	written daily

	busy, total uint64 // CPU time of the sample before, in ticks
}

// NewSampler reads below root, os.DirFS("/") on a board, what the board's profile
// names; data is a path on the volume whose room matters.
func NewSampler(root fs.FS, profile firmware.Profile, data string) *Sampler {
	s := &Sampler{root: root, data: data, profile: profile, watch: profile.Watch(root)}
	s.busy, s.total = cpuTime(s.read("proc/stat"))
	s.watch.Look() // counters say something only against what they were
	s.written.add(time.Now(), s.wrote())
	return s
}

// Sample reads all gauges.
func (s *Sampler) Sample() Gauges {
	g := Gauges{
		CPU:  s.cpu(),
		Mem:  memory(s.read("proc/meminfo")),
		RSS:  field(s.read("proc/self/status"), "VmRSS:") << 10,
		Disk: disk(s.data),
		Temp: Temperature(s.root, s.profile),
	}
	slow := s.watch.Look()
	g.Throttled = len(slow.Now) > 0
	g.Weak = slices.Contains(slow.Now, firmware.Voltage) || slices.Contains(slow.Now, firmware.Current)
	g.Wrote = s.written.add(time.Now(), s.wrote())
	if d, ok := firmware.DiskOf(s.root, s.data); ok {
		g.Wear = d.Life
		if d.EOL > 1 {
			g.EOL = d.EOL
		}
	}
	return g
}

// wrote is how many bytes this process has handed to disks and not taken back.
func (s *Sampler) wrote() int64 {
	io := s.read("proc/self/io")
	return max(0, field(io, "write_bytes:")-field(io, "cancelled_write_bytes:"))
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

// Temperature is that of the hottest of a board's sensors that count, °C; nil: there
// is none.
func Temperature(root fs.FS, profile firmware.Profile) *float64 {
	if root == nil {
		return nil
	}
	c, _, ok := profile.Temperature(root)
	if !ok {
		return nil
	}
	c = round(c)
	return &c
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
