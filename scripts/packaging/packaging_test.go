package main

import (
	"bytes"
	"image/png"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const helpPage = `covey does things.

Exit codes:
  0  done

Usage:
  covey [command]

Boards:
  device      Look at boards

Additional Commands:
  completion  Generate a script
  help        Help about any command

Flags:
  -h, --help   help for covey

Use "covey [command] --help" for more information about a command.
`

func TestParse(t *testing.T) {
	p := parse(helpPage)
	if !slices.Equal(p.commands, []string{"device"}) || !strings.HasPrefix(p.about, "covey does") || !strings.HasSuffix(p.about, "done") || !strings.HasPrefix(p.rest, "Usage:\n") {
		t.Errorf("%+v", p)
	}
	leaf := parse("Show it\n\nUsage:\n  covey device show\n\nExamples:\n  covey device show\n\nFlags:\n  -h, --help   help\n")
	if len(leaf.commands) != 0 {
		t.Errorf("a command without commands has %v", leaf.commands)
	}
}

// What roff would take for a command of its own, is text.
func TestLiteral(t *testing.T) {
	var out strings.Builder
	literal(&out, ".TH evil\n'x \\fB --flag")
	if want := ".PP\n.nf\n\\&.TH evil\n\\&'x \\efB \\-\\-flag\n.fi\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestRecognise(t *testing.T) {
	for text, want := range map[string]string{
		"  Apache License\n   Version 2.0, January 2004":                                                           "Apache-2.0",
		"Permission is hereby granted, free of charge, to any\nperson obtaining a copy":                            "MIT",
		"Redistributions in binary form must reproduce … Neither the name of Google":                               "BSD-3-Clause",
		"Redistributions in binary form must reproduce the above":                                                  "BSD-2-Clause",
		"This project is dual-licensed under the Eclipse Public License version 2.0 and the … Neither the name of": "EPL-2.0 OR BSD-3-Clause",
		"All rights reserved": "",
	} {
		if got := recognise(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"2.34", "2.4", true}, {"2.4", "2.34", false}, {"2.34", "", true}, {"2.34", "2.34", false}, {"2.34.1", "2.34", true}, {"12", "9", true}} {
		if newer(c.a, c.b) != c.want {
			t.Errorf("%s newer than %s: %v", c.a, c.b, !c.want)
		}
	}
	for symbols, want := range map[string]string{"3.4": "5", "3.4.21": "5", "3.4.30": "12", "3.4.31": "13", "3.4.99": ""} {
		if got := gcc(symbols); got != want {
			t.Errorf("GLIBCXX_%s is of GCC %q, want %q", symbols, got, want)
		}
	}
}

// The pictures of the add-on are those that icon makes.
func TestIcon(t *testing.T) {
	for file, size := range map[string][2]int{"icon.png": {128, 128}, "logo.png": {250, 100}} {
		var made bytes.Buffer
		if err := icon(&made, size[0], size[1]); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile("../../firmware/homeassistant-addon/covey/" + file)
		if err != nil {
			t.Fatal(err)
		}
		is, err := png.Decode(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := png.Decode(&made); err != nil || !reflect.DeepEqual(is, want) {
			t.Errorf("%s is another picture (%v): go run ./scripts/packaging icon %d %d", file, err, size[0], size[1])
		}
	}
}
