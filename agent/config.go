package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const maxConfig = 256 << 10 // bytes of a configuration file

// DefaultData is where an agent keeps its state unless told otherwise.
const DefaultData = "/var/lib/covey"

// File is what a person writes: the configuration file of one board. Everything
// in it wins over what the fleet and the home ask for. Paths are absolute.
type File struct {
	Device        wire.DeviceID // "" when the file does not say: see DeviceName
	Data          string
	Log           string // trace, debug, info, warn, error
	HealthSeconds int    // 0 when the file does not say
	Fleet         FleetFile
	Home          *HomeFile // nil: no home link
	Pipelines     []PipelineFile
}

// FleetFile is about the link to a controller. That a board has one is said by
// the identity in its data folder, which joining puts there.
type FleetFile struct {
	Disabled bool
	URL      string // of the broker, mqtts://host:port; "" for the one named at joining
}

// HomeFile is about the link to the house's own broker.
type HomeFile struct {
	Broker       string // mqtt://host:port or mqtts://host:port
	User         string
	PasswordFile string
	CA           string // PEM file; "" for the system's
}

// PipelineFile is one pipeline. Zero values leave a setting to the fleet, the
// release or the default, in this order.
type PipelineFile struct {
	Name        string
	Source      SourceFile
	Model       string // path of a model file: pins the pipeline to it
	Labels      string // path of a text file, a label a line
	Accelerator hal.Accelerator
	Threads     int
	Threshold   float32 // of a score, in (0,1]
	Top         int     // items of a classification
	Deadline    time.Duration
	Memory      int64 // bytes of address space for the runner
	DurableEach bool  // commit each result to disk at once, not in groups
}

// SourceFile is where a pipeline's frames come from.
type SourceFile struct {
	Type string // folder, synthetic

	Path  string // folder: of pictures
	Loop  bool   // folder: begin again behind the last
	Watch bool   // folder: wait for new files behind the last

	Count         uint64 // synthetic: frames; 0 without end
	Width, Height int    // synthetic: pixels
	Live          bool   // synthetic: drop frames that nobody is ready for, as a camera does

	FPS float64 // 0: as fast as they are taken
}

// ReadFile reads a configuration file. Its errors are those of ParseFile, and it
// looks at the files that hold secrets as well.
func ReadFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("cannot read the configuration: %v", err), Err: err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("read %s: %v", path, err), Err: err}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return parseFile(path, filepath.Dir(abs), b, os.Stat)
}

// ParseFile reads the text of a configuration file called name; relative paths in
// it are taken from folder. The error joins one *hal.Error for each mistake,
// E_CONFIG with the file's name, line and column. No file is looked at.
func ParseFile(name, folder string, b []byte) (*File, error) {
	return parseFile(name, folder, b, nil)
}

func parseFile(name, folder string, b []byte, stat func(string) (fs.FileInfo, error)) (*File, error) {
	d := &configDecoder{name: name, folder: folder, stat: stat}
	f := &File{Data: DefaultData, Log: "info"}
	if root := d.document(b); root != nil {
		d.object("the configuration", d.fileFields(f))(root)
		d.checkModels(f, root)
	}
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	return f, nil
}

// DeviceName is the file's device, or an id made of the host's name.
func (f *File) DeviceName() (wire.DeviceID, error) {
	if f.Device != "" {
		return f.Device, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("ask for the host's name: %w", err)
	}
	id := wire.DeviceID(wire.MakeID(host))
	if id == "" || id == "localhost" {
		return "", &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("host name %q names no device: add \"device: <name>\" to the configuration", host)}
	}
	return id, nil
}

// Password reads the password file; "" when there is none. Line ends behind the
// password are not part of it.
func (h *HomeFile) Password() (string, error) {
	if h.PasswordFile == "" {
		return "", nil
	}
	f, err := os.Open(h.PasswordFile)
	if err != nil {
		return "", &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("home.password_file: %v", err), Err: err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", h.PasswordFile, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

func (d *configDecoder) fileFields(f *File) fields {
	return fields{
		"device":         d.id((*string)(&f.Device)),
		"data":           d.path(&f.Data),
		"log":            d.oneOf(&f.Log, "trace", "debug", "info", "warn", "error"),
		"health_seconds": d.integer(&f.HealthSeconds, 5, 86400),
		"fleet": d.object("fleet", fields{
			"enabled": d.not(&f.Fleet.Disabled),
			"url":     d.broker(&f.Fleet.URL, "mqtts", "wss"),
		}),
		"home":      d.home(&f.Home),
		"pipelines": d.pipelines(&f.Pipelines),
	}
}

func (d *configDecoder) home(to **HomeFile) field {
	return func(n *yaml.Node) {
		h := &HomeFile{}
		d.object("home", fields{
			"broker":        d.broker(&h.Broker, "mqtt", "mqtts", "ws", "wss"),
			"user":          d.text(&h.User),
			"password_file": d.secret(&h.PasswordFile),
			"ca":            d.path(&h.CA),
		})(n)
		if h.Broker == "" {
			d.errorf(n, `home needs a broker, as in "broker: mqtt://192.168.1.10"`)
		}
		if h.PasswordFile != "" && h.User == "" {
			d.errorf(n, "home has a password_file but no user")
		}
		*to = h
	}
}

func (d *configDecoder) pipelines(to *[]PipelineFile) field {
	return func(n *yaml.Node) {
		d.eachKey(n, "pipelines", func(key, value *yaml.Node) {
			p := PipelineFile{Accelerator: hal.Auto}
			d.id(&p.Name)(key)
			d.object("pipeline "+key.Value, d.pipelineFields(&p))(value)
			if p.Source.Type == "" && value.Kind == yaml.MappingNode && child(value, "source") == nil {
				d.errorf(key, `pipeline %s needs a source, as in "source: {type: folder, path: pictures}"`, key.Value)
			}
			*to = append(*to, p)
		})
		if len(*to) > wire.MaxPipelines {
			d.errorf(n, "%d pipelines, limit %d", len(*to), wire.MaxPipelines)
		}
	}
}

func (d *configDecoder) pipelineFields(p *PipelineFile) fields {
	return fields{
		"source":      d.source(&p.Source),
		"model":       d.path(&p.Model),
		"labels":      d.path(&p.Labels),
		"accelerator": d.accelerator(&p.Accelerator),
		"threads":     d.integer(&p.Threads, 1, 64),
		"threshold":   d.threshold(&p.Threshold),
		"top":         d.integer(&p.Top, 1, 1000),
		"deadline":    d.duration(&p.Deadline, time.Millisecond, time.Hour),
		"memory":      d.size(&p.Memory, 16<<20, 1<<40),
		"durable": func(n *yaml.Node) {
			var s string
			d.oneOf(&s, "grouped", "each")(n)
			p.DurableEach = s == "each"
		},
	}
}

// source reads the type first: which keys there are depends on it.
func (d *configDecoder) source(s *SourceFile) field {
	return func(n *yaml.Node) {
		common := fields{"type": d.oneOf(&s.Type, "folder", "synthetic"), "fps": d.number(&s.FPS, 0.001, 1000)}
		if n.Kind != yaml.MappingNode {
			d.errorf(n, "source: want keys such as type, got %s", kindName(n))
			return
		}
		t := child(n, "type")
		if t == nil {
			d.errorf(n, "source needs a type: folder or synthetic")
			return
		}
		switch t.Value {
		case "folder":
			common["path"], common["loop"], common["watch"] = d.path(&s.Path), d.boolean(&s.Loop), d.boolean(&s.Watch)
		case "synthetic":
			s.Width, s.Height = 640, 480
			common["width"], common["height"] = d.integer(&s.Width, 1, 4096), d.integer(&s.Height, 1, 4096)
			common["count"], common["live"] = d.count(&s.Count), d.boolean(&s.Live)
		default:
			common["type"](t)
			return
		}
		d.object("a source of type "+t.Value, common)(n)
		switch {
		case s.Type == "folder" && s.Path == "":
			d.errorf(n, "a source of type folder needs a path")
		case s.Loop && s.Watch:
			d.errorf(n, "a folder is either looped or watched, not both")
		case s.Live && s.FPS == 0:
			d.errorf(n, "a live source needs fps")
		}
	}
}

// checkModels finds pipelines that could never have a model.
func (d *configDecoder) checkModels(f *File, root *yaml.Node) {
	for _, p := range f.Pipelines {
		if p.Model == "" && f.Fleet.Disabled {
			d.errorf(child(root, "pipelines"), "pipeline %s has no model, and the fleet link, which could bring one, is off", p.Name)
		}
	}
}
