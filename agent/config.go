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

// DefaultData is where an agent keeps its state unless told otherwise, by the
// configuration or by the service manager ($STATE_DIRECTORY).
const DefaultData = "/var/lib/covey"

// File is what a person writes: the configuration file of one board. Everything
// in it wins over what the fleet and the home ask for. Paths are absolute.
type File struct {
	Device        wire.DeviceID // "" when the file does not say: see DeviceName
	Data          string
	Log           string            // trace, debug, info, warn, error
	HealthSeconds int               // 0 when the file does not say
	Labels        map[string]string // what the fleet's queries find the board by; an operator's win
	Fleet         FleetFile
	Home          *HomeFile                             // nil: no home link
	Accelerators  []hal.Accelerator                     // that models may run on, best first; empty: all there are
	Delegates     []DelegateFile                        // libraries that run TFLite models, for external:<library>
	Settings      map[hal.Accelerator]map[string]string // of accelerators, by their own names
	Pipelines     []PipelineFile

	source *configDecoder // that has read it; nil: a program made it
	tree   *yaml.Node     // what it has read
}

// DelegateFile is an external TFLite delegate: the way to a vendor's accelerator.
type DelegateFile struct {
	Library string            // absolute path, or a name for the loader to search
	Options map[string]string // as its vendor names them
	Devices []string          // device nodes that it needs
}

// FleetFile is about the link to a controller. That a board has one is said by
// the identity in its data folder, which joining puts there.
type FleetFile struct {
	Disabled bool
	NoConfig bool   // releases of configuration are not taken
	URL      string // of the broker, mqtts://host:port; "" for the one named at joining
	Channel  string // "pilot" for a board that runs what the pilot's keys have signed; "" for the others
	Transfer string // of files: auto, mqtt, https; "" is auto
}

// PilotChannel is the one channel besides everybody's.
const PilotChannel = "pilot"

// HomeFile is about the link to the house's own broker.
type HomeFile struct {
	Broker       string // mqtt://host:port or mqtts://host:port
	User         string
	PasswordFile string // or credential:<name>, see secretPath
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
	// Accelerators are those that auto may choose from, best first; empty: the file's.
	Accelerators []hal.Accelerator
	// AcceleratorDevice is which one of several: "usb:1" or "pci:0" of edgetpu, "gpu:1"
	// of cuda and tensorrt. It goes to those of auto that have one.
	AcceleratorDevice string
	Threads           int
	Threshold         float32 // of a score, in (0,1]
	Top               int     // items of a classification
	Deadline          time.Duration
	Memory            int64 // bytes of address space for the runner
	DurableEach       bool  // commit each result to disk at once, not in groups

	Fit  string     // squash, letterbox or crop: pictures of other proportions than the model's; "" is squash
	Crop [4]float32 // x0, y0, x1, y1 of the picture that the model sees, in 0..1; all 0: the whole
	BGR  bool       // the model wants blue first

	Shapes map[string][]int // of inputs that the model leaves open, by name
	Weight float64          // part in the time of an accelerator that pipelines share; 0: 1
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
	root := d.document(b)
	if root == nil && len(d.errs) == 0 {
		root = &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1} // an empty file
	}
	return d.read(root)
}

// read reads a tree; nil is one that could not be parsed.
func (d *configDecoder) read(root *yaml.Node) (*File, error) {
	f := &File{Data: stateFolder(), Log: "info", source: d, tree: root}
	if root != nil {
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

// Password reads the password file, or the credential; "" when there is none.
func (h *HomeFile) Password() (string, error) { return readPassword(h.PasswordFile) }

// readPassword reads a file with a password. Line ends behind it are not part of it.
func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	path, err := secretPath(path)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("password_file: %v", err), Err: err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

func (d *configDecoder) fileFields(f *File) fields {
	return fields{
		"device":         d.id((*string)(&f.Device)),
		"data":           d.path(&f.Data),
		"log":            d.oneOf(&f.Log, "trace", "debug", "info", "warn", "error"),
		"health_seconds": d.integer(&f.HealthSeconds, 5, 86400),
		"labels":         d.labels(&f.Labels),
		"fleet": d.object("fleet", fields{
			"enabled":  d.not(&f.Fleet.Disabled),
			"config":   d.not(&f.Fleet.NoConfig),
			"url":      d.broker(&f.Fleet.URL, "mqtts", "wss"),
			"channel":  d.oneOf(&f.Fleet.Channel, PilotChannel),
			"transfer": d.oneOf(&f.Fleet.Transfer, transferAuto, transferMQTT, transferHTTPS),
		}),
		"home":         d.home(&f.Home),
		"accelerators": d.accelerators(&f.Accelerators),
		"delegates":    d.delegates(&f.Delegates),
		"settings":     d.settings(&f.Settings),
		"pipelines":    d.pipelines(&f.Pipelines),
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
			d.pipelineName(&p.Name)(key)
			d.object("pipeline "+key.Value, d.pipelineFields(&p))(value)
			d.checkDevice(&p, value)
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

// pipelineName reads a pipeline's name. One is taken: by configuration that comes from
// the fleet.
func (d *configDecoder) pipelineName(to *string) field {
	return func(n *yaml.Node) {
		if n.Value == wire.ConfigPipeline {
			d.errorf(n, "no pipeline can be called %s: a fleet's configuration goes by that name", wire.ConfigPipeline)
			return
		}
		d.id(to)(n)
	}
}

func (d *configDecoder) pipelineFields(p *PipelineFile) fields {
	return fields{
		"source":             d.source(&p.Source),
		"model":              d.path(&p.Model),
		"labels":             d.path(&p.Labels),
		"accelerator":        d.accelerator(&p.Accelerator),
		"accelerators":       d.accelerators(&p.Accelerators),
		"accelerator_device": d.acceleratorDevice(&p.AcceleratorDevice),
		"threads":            d.integer(&p.Threads, 1, 64),
		"threshold":          d.threshold(&p.Threshold),
		"top":                d.integer(&p.Top, 1, 1000),
		"deadline":           d.duration(&p.Deadline, time.Millisecond, time.Hour),
		"fit":                d.oneOf(&p.Fit, "squash", "letterbox", "crop"),
		"crop":               d.region(&p.Crop),
		"bgr":                d.boolean(&p.BGR),
		"shapes":             d.shapes(&p.Shapes),
		"weight":             d.number(&p.Weight, 0.01, 100),
		"memory":             d.size(&p.Memory, 16<<20, 1<<40),
		"durable": func(n *yaml.Node) {
			var s string
			d.oneOf(&s, "grouped", "each")(n)
			p.DurableEach = s == "each"
		},
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
