package agent

import (
	"errors"
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
	d.object("a fleet's configuration", d.fleetFields())(theirs)
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	both := *f.source
	return both.read(merged(f.tree, theirs, 2))
}

func (d *configDecoder) fleetFields() fields {
	var scratch File
	all := d.fileFields(&scratch)
	return fields{
		"health_seconds": all["health_seconds"],
		"accelerators":   all["accelerators"],
		"pipelines": func(n *yaml.Node) {
			d.eachKey(n, "pipelines", func(key, value *yaml.Node) {
				var p PipelineFile
				d.pipelineName(&p.Name)(key)
				known := d.pipelineFields(&p)
				delete(known, "model")
				delete(known, "labels")
				known["source"] = d.fleetSource(&p.Source)
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
