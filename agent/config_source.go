package agent

import (
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// SourceFile is where a pipeline's frames come from. Which fields count depends on
// Type; the others are zero.
type SourceFile struct {
	Type string // a key of sourceTypes
	Live bool   // time goes on without us: frames that nobody is ready for are dropped

	Path  string // folder: of pictures; wav: a file, or a folder of them
	Loop  bool   // folder, wav: begin again behind the last
	Watch bool   // folder: wait for new files behind the last

	Count         uint64  // synthetic: frames; 0 without end
	Width, Height int     // pixels; 0: the source's own
	FPS           float64 // 0: as fast as they come and are taken

	Device       string         // v4l2, alsa, iio, serial, gpio: what covey-agent probe calls it
	Format       string         // v4l2, exec: of pixels; serial, mqtt: of lines or messages; "": the source finds out
	Controls     map[string]int // v4l2: by name
	Camera       int            // csi: its number, from 0
	Command      []string       // exec: program and arguments
	URL          string         // mjpeg, rtsp
	User         string         // mjpeg, rtsp
	PasswordFile string         // mjpeg, rtsp
	CA           string         // mjpeg: PEM file; "" for the system's
	Topic        string         // mqtt: on the home's broker
	Baud         int            // serial
	Quiet        time.Duration  // serial, mqtt: without anything for so long it has stalled; 0: never

	Channels []string // iio: names; serial, mqtt: keys or columns; gpio: lines; alsa, wav: numbers, from 0. nil: all there are
	Rate     float64  // alsa, wav, iio: samples a second
	Window   int      // samples of a frame; 0: as many as the model takes
	Hop      int      // samples from one frame to the next; 0: a whole window
	Scale    float64  // samples are multiplied with it; 0: 1. Some models want sound as 16-bit numbers: 32768
	Bias     string   // gpio: pull-up, pull-down, none
	Low      bool     // gpio: active is low
	Debounce time.Duration
}

// Password reads the password file; "" when there is none.
func (s SourceFile) Password() (string, error) { return readPassword(s.PasswordFile) }

// Samples says whether frames are windows of samples; others are pictures.
func (s SourceFile) Samples() bool {
	switch s.Type {
	case "wav", "alsa", "iio", "serial", "gpio":
		return true
	case "mqtt":
		return s.Format == "csv" || s.Format == "json"
	}
	return false
}

// sourceTypes is the keys that each type of source has besides "type", and which of
// them it cannot do without.
var sourceTypes = map[string]struct{ keys, needs string }{
	"folder":    {"path loop watch fps", "path"},
	"synthetic": {"width height count live fps", ""},
	"v4l2":      {"device format width height fps controls", "device"},
	"csi":       {"camera width height fps", ""},
	"rtsp":      {"url user password_file width height fps", "url"},
	"mjpeg":     {"url user password_file ca fps", "url"},
	"exec":      {"command format width height fps", "command format"},
	"wav":       {"path loop live rate channels window hop scale", "path"},
	"alsa":      {"device rate channels window hop scale", ""},
	"iio":       {"device rate channels window hop scale", "device"},
	"serial":    {"device baud format channels window hop scale quiet", "device"},
	"gpio":      {"device channels bias active_low debounce", "device channels"},
	"mqtt":      {"topic format channels window hop scale quiet", "topic"},
}

// waiting are the types whose frames stay where they are until somebody takes them.
var waiting = []string{"folder", "synthetic", "wav"}

func (d *configDecoder) sourceKeys(s *SourceFile) fields {
	const side = 1 << 14
	return fields{
		"path": d.path(&s.Path), "loop": d.boolean(&s.Loop), "watch": d.boolean(&s.Watch), "live": d.boolean(&s.Live),
		"count": d.count(&s.Count), "width": d.integer(&s.Width, 1, side), "height": d.integer(&s.Height, 1, side),
		"fps": d.number(&s.FPS, 0.001, 1000), "device": d.text(&s.Device), "controls": d.integers(&s.Controls),
		"format": d.text(&s.Format), "camera": d.integer(&s.Camera, 0, 15), "command": d.texts(&s.Command, 64),
		"url": d.address(&s.URL, s.Type), "user": d.text(&s.User), "password_file": d.secret(&s.PasswordFile), "ca": d.path(&s.CA),
		"topic": d.text(&s.Topic), "baud": d.integer(&s.Baud, 50, 4_000_000), "quiet": d.duration(&s.Quiet, time.Second, 24*time.Hour),
		"channels": d.texts(&s.Channels, 64), "rate": d.number(&s.Rate, 0.001, 1e6), "window": d.integer(&s.Window, 1, 1<<24),
		"hop": d.integer(&s.Hop, 1, 1<<24), "scale": d.number(&s.Scale, 1e-9, 1e9), "bias": d.oneOf(&s.Bias, "pull-up", "pull-down", "none"), "active_low": d.boolean(&s.Low),
		"debounce": d.duration(&s.Debounce, 0, time.Minute),
	}
}

// formats is what "format" may be.
var formats = map[string][]string{
	"v4l2":   {"mjpeg", "yuyv", "nv12", "yuv420", "grey"},
	"exec":   {"mjpeg", "rgb24", "gray", "yuv420p", "nv12", "yuyv422"},
	"serial": {"csv", "json"},
	"mqtt":   {"picture", "csv", "json"},
}

// source reads the type first: which keys there are depends on it.
func (d *configDecoder) source(s *SourceFile) field {
	return func(n *yaml.Node) {
		var types []string
		for name := range sourceTypes {
			types = append(types, name)
		}
		slices.Sort(types)
		if n.Kind != yaml.MappingNode {
			d.errorf(n, "source: want keys such as type, got %s", kindName(n))
			return
		}
		t := child(n, "type")
		if t == nil {
			d.errorf(n, "source needs a type: one of %s", strings.Join(types, ", "))
			return
		}
		d.oneOf(&s.Type, types...)(t)
		if s.Type == "" {
			return
		}
		known, all := fields{"type": func(*yaml.Node) {}}, d.sourceKeys(s)
		if allowed := formats[s.Type]; allowed != nil {
			all["format"] = d.oneOf(&s.Format, allowed...)
		}
		for key := range strings.FieldsSeq(sourceTypes[s.Type].keys) {
			known[key] = all[key]
		}
		d.object("a source of type "+s.Type, known)(n)
		d.checkSource(n, s)
	}
}

func (d *configDecoder) checkSource(n *yaml.Node, s *SourceFile) {
	for key := range strings.FieldsSeq(sourceTypes[s.Type].needs) {
		if child(n, key) == nil {
			d.errorf(n, "a source of type %s needs %s", s.Type, key)
		}
	}
	switch {
	case s.Loop && s.Watch:
		d.errorf(n, "a folder is either looped or watched, not both")
	case s.Type == "synthetic" && s.Live && s.FPS == 0:
		d.errorf(n, "a live source needs fps")
	case s.PasswordFile != "" && s.User == "":
		d.errorf(n, "the source has a password_file but no user")
	case (s.Width == 0) != (s.Height == 0) && s.Type != "synthetic":
		d.errorf(n, "width and height belong together")
	case s.Type == "exec" && s.Format != "mjpeg" && s.Width == 0:
		d.errorf(n, "raw pixels need width and height")
	case (s.Type == "alsa" || s.Type == "wav") && s.Rate != math.Trunc(s.Rate):
		d.errorf(n, "sound has a whole number of samples a second, and not %v", s.Rate)
	case s.Hop > 0 && s.Window > 0 && s.Hop > s.Window:
		d.errorf(n, "a hop of %d samples leaves out some between windows of %d", s.Hop, s.Window)
	}
	if s.Type == "synthetic" {
		s.Width, s.Height = or(s.Width, 640), or(s.Height, 480)
	}
	if !slices.Contains(waiting, s.Type) {
		s.Live = true
	}
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// address reads the URL of a camera. Credentials have no place in it.
func (d *configDecoder) address(to *string, kind string) field {
	schemes := map[string][]string{"mjpeg": {"http", "https"}, "rtsp": {"rtsp", "rtsps"}}[kind]
	return func(n *yaml.Node) {
		var s string
		d.text(&s)(n)
		if s == "" {
			return
		}
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme):
			d.errorf(n, "%q is not the URL of a camera, as in %s://192.168.1.20/stream", redact(s), schemes[0])
		case u.User != nil:
			d.errorf(n, "no user or password in the URL: use the keys user and password_file")
		default:
			*to = s
		}
	}
}

// texts reads a list of texts; numbers count as texts, since channels may have
// numbers for names.
func (d *configDecoder) texts(to *[]string, most int) field {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > most {
			d.errorf(n, "want a list of 1 to %d texts, got %s", most, kindName(n))
			return
		}
		for _, item := range n.Content {
			s, ok := d.scalar(item, "text", "!!str", "!!int")
			if ok && (s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })) {
				d.errorf(item, "text is empty or holds a control character")
			}
			*to = append(*to, s)
		}
	}
}

// integers reads a mapping of names to whole numbers.
func (d *configDecoder) integers(to *map[string]int) field {
	return func(n *yaml.Node) {
		m := map[string]int{}
		d.eachKey(n, "controls", func(key, value *yaml.Node) {
			var v int
			d.integer(&v, math.MinInt32, math.MaxInt32)(value)
			m[key.Value] = v
		})
		*to = m
	}
}
