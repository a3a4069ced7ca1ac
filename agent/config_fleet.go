package agent

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/hal"
)

// What a fleet may configure is what the board's own file leaves open, and nothing that
// names a program or a file of the board: no model, no source that is a command or a
// folder, no file with a password. So whoever signs configurations cannot take a board
// over with one.

// closed says that a fleet may configure nothing here.
func (f *File) closed() bool { return f.Fleet.NoConfig || f.tree == nil }

// with is f with what a fleet's configuration adds: every key that the file does not
// have, pipelines that it does not have, and keys of those that it has. name is for the
// error, which joins one E_CONFIG for each mistake.
func (f *File) with(name string, text []byte) (*File, error) {
	if f.tree == nil {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: "this agent was not started with a configuration file, and takes none from its fleet"}
	}
	d := &configDecoder{name: name}
	theirs := d.document(text)
	if theirs == nil {
		if len(d.errs) == 0 {
			d.errorAt(1, 1, "nothing is configured: write keys such as pipelines")
		}
		return nil, errors.Join(d.errs...)
	}
	d.object("a fleet's configuration", d.fleetFields(f.delegates()))(theirs)
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	both := *f.source
	file, err := both.read(merged(f.tree, without(theirs, "privacy", "pictures", "blur"), 2))
	if err != nil {
		return nil, err
	}
	file.fleetPrivacy = &PrivacyFile{}
	d.object("a fleet's configuration", d.privacyFields(file.fleetPrivacy).and(fields{"health_seconds": ignored, "accelerators": ignored, "pipelines": ignored}))(theirs)
	return file, nil
}

// ignored reads nothing.
func ignored(*yaml.Node) {}

// without is a mapping but for some keys.
func without(n *yaml.Node, keys ...string) *yaml.Node {
	rest := *n
	rest.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !slices.Contains(keys, n.Content[i].Value) {
			rest.Content = append(rest.Content, n.Content[i], n.Content[i+1])
		}
	}
	return &rest
}

// fleetFields are the keys that a fleet may write, on a board with these delegates.
func (d *configDecoder) fleetFields(delegates []hal.Device) fields {
	var scratch File
	all := d.fileFields(&scratch)
	return fields{
		"privacy":        all["privacy"], // these forbid, and loosen nothing
		"pictures":       all["pictures"],
		"blur":           all["blur"],
		"health_seconds": all["health_seconds"],
		"accelerators":   d.noLibrary(delegates, all["accelerators"]),
		"pipelines": func(n *yaml.Node) {
			d.eachKey(n, "pipelines", func(key, value *yaml.Node) {
				var p PipelineFile
				d.pipelineName(&p.Name)(key)
				known := d.pipelineFields(&p)
				for _, key := range []string{"model", "labels", "privacy", "pictures", "blur"} {
					delete(known, key)
				}
				known["source"] = d.fleetSource(&p.Source)
				known["accelerator"] = d.noLibrary(delegates, known["accelerator"])
				known["accelerators"] = d.noLibrary(delegates, known["accelerators"])
				d.object("pipeline "+key.Value+" of a fleet", known)(value)
			})
		},
	}
}

// onBoard are the sources, and keys of sources, that name a program or a file.
var (
	onBoardTypes = []string{"exec", "folder", "wav"}
	onBoardKeys  = []string{"password_file", "ca", "command", "path"}
)

// theirDevices is what a fleet may call a device, by the type of the source. ALSA opens
// far more by a name than sound cards: plugins of it write files and start programs.
// Opening a device node that is none of the source's can do harm, too.
var theirDevices = map[string]*regexp.Regexp{
	"alsa":   regexp.MustCompile(`^(default|sysdefault|(hw|plughw|sysdefault|dsnoop|front):[A-Za-z0-9_=,-]+)$`),
	"gpio":   regexp.MustCompile(`^([^/]+|/dev/gpiochip[0-9]+)$`),
	"iio":    regexp.MustCompile(`^[^/]+$`),
	"serial": regexp.MustCompile(`^/dev/(tty[A-Z]+[0-9]+|serial[0-9]+|rfcomm[0-9]+|serial/by-(id|path)/[^/]+)$`),
	"v4l2":   regexp.MustCompile(`^([^/]+|/dev/video[0-9]+|/dev/v4l/by-(id|path)/[^/]+)$`),
}

func (d *configDecoder) fleetSource(s *SourceFile) field {
	return func(n *yaml.Node) {
		d.source(s)(n)
		if slices.Contains(onBoardTypes, s.Type) {
			d.errorf(n, "a source of type %s can stand in the board's own configuration alone: not %s", s.Type, strings.Join(onBoardTypes, ", "))
		}
		for _, key := range onBoardKeys {
			if k := child(n, key); k != nil {
				d.errorf(k, "%s names a file of the board: it can stand in the board's own configuration alone", key)
			}
		}
		if s.Device != "" && !theirDevices[s.Type].MatchString(s.Device) {
			d.errorf(child(n, "device"), "%.80q may be more than a device of type %s: it can stand in the board's own configuration alone", s.Device, s.Type)
		}
	}
}

// noLibrary reads accelerators, of which external ones have to be the board's own
// delegates.
func (d *configDecoder) noLibrary(delegates []hal.Device, read field) field {
	return func(n *yaml.Node) {
		read(n)
		for _, entry := range append([]*yaml.Node{n}, n.Content...) {
			own := slices.ContainsFunc(delegates, func(o hal.Device) bool { return string(o.Accelerator) == entry.Value })
			if strings.HasPrefix(entry.Value, "external:") && entry.Value != "external:*" && !own {
				d.errorf(entry, "%.80q is none of the board's delegates: a library can stand in the board's own configuration alone", entry.Value)
			}
		}
	}
}

// merged is a mapping with the keys of ours, and those of theirs that ours has not.
// Where both have one, ours counts, but for mappings of up to depth levels, which are
// merged likewise: pipelines, and the keys of each. A source is one thing.
func merged(ours, theirs *yaml.Node, depth int) *yaml.Node {
	if depth < 0 || ours.Kind != yaml.MappingNode || theirs.Kind != yaml.MappingNode {
		return ours
	}
	both := *ours
	both.Content = slices.Clone(ours.Content)
	for i := 0; i+1 < len(theirs.Content); i += 2 {
		key, value := theirs.Content[i], theirs.Content[i+1]
		at := -1
		for k := 0; k+1 < len(ours.Content); k += 2 {
			if ours.Content[k].Value == key.Value {
				at = k
			}
		}
		switch {
		case at < 0:
			both.Content = append(both.Content, key, value)
		case value.Kind == yaml.MappingNode && key.Value != "source":
			both.Content[at+1] = merged(ours.Content[at+1], value, depth-1)
		}
	}
	return &both
}
