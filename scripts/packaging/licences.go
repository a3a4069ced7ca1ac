package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A module is a Go module in a program, with what its folder says of its licence.
type module struct {
	path, version, sum string
	licence            string // its SPDX name, "" when it is not known
	texts              []string
}

// modules is what the programs among the files are made of, without our own, sorted.
// Files that are no Go programs are left out.
func modules(files []string) ([]module, error) {
	found := map[string]module{}
	for _, f := range files {
		info, err := buildinfo.ReadFile(f)
		if err != nil {
			if strings.HasSuffix(f, ".so") {
				continue
			}
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		found["std"] = module{path: "std", version: info.GoVersion}
		for _, d := range info.Deps {
			if d.Replace != nil {
				return nil, fmt.Errorf("%s: %s is replaced", f, d.Path)
			}
			found[d.Path] = module{path: d.Path, version: d.Version, sum: d.Sum}
		}
	}
	dirs, err := folders()
	if err != nil {
		return nil, err
	}
	var list []module
	for _, path := range slices.Sorted(maps.Keys(found)) {
		m := found[path]
		dir, ok := dirs[path+"@"+m.version]
		if path == "std" {
			dir, ok = goroot()
		}
		if !ok {
			return nil, fmt.Errorf("%s %s is in a program and not in go.mod: build it again", path, m.version)
		}
		if err := m.read(dir); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// folders is where the modules of go.mod lie, by path@version.
func folders() (map[string]string, error) {
	cmd := exec.Command("go", "list", "-m", "-json", "all")
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	dirs := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return dirs, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list -m: %w", err)
		}
		dirs[m.Path+"@"+m.Version] = m.Dir
	}
}

func goroot() (string, bool) {
	dir, err := exec.Command("go", "env", "GOROOT").Output()
	return strings.TrimSpace(string(dir)), err == nil
}

// read finds the licence of a module in its folder, and the notices that go with it.
func (m *module) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if !e.Type().IsRegular() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "NOTICE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		m.texts = append(m.texts, string(text))
		if m.licence == "" {
			m.licence = recognise(string(text))
		}
	}
	return nil
}

// phrases says which words only one licence has. The first that fits counts.
var phrases = []struct{ spdx, words string }{
	{"Apache-2.0", "Apache License Version 2.0"},
	{"MPL-2.0", "Mozilla Public License Version 2.0"},
	{"EPL-2.0 OR BSD-3-Clause", "dual-licensed under the Eclipse Public License version 2.0"},
	{"EPL-2.0", "Eclipse Public License - v 2.0"},
	{"BSD-3-Clause", "Neither the name of"},
	{"BSD-3-Clause", "may be used to endorse or promote products"},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose"},
}

// recognise is the SPDX name of a licence by its text, "" for one that is not known.
func recognise(text string) string {
	words := strings.Join(strings.Fields(text), " ")
	for _, p := range phrases {
		if strings.Contains(words, p.words) {
			return p.spdx
		}
	}
	return ""
}

// licences writes the licences of all that is in the files, equal texts once.
func licences(out io.Writer, files []string) error {
	list, err := modules(files)
	if err != nil {
		return err
	}
	users := map[string][]string{}
	var texts []string
	for _, m := range list {
		if len(m.texts) == 0 {
			return fmt.Errorf("%s %s has no licence in its folder", m.path, m.version)
		}
		for _, text := range m.texts {
			if users[text] == nil {
				texts = append(texts, text)
			}
			users[text] = append(users[text], m.path+" "+m.version)
		}
	}
	for _, text := range texts {
		if _, err := fmt.Fprintf(out, "%s\n\n%s\n%s\n\n", strings.Join(users[text], "\n"), strings.TrimSpace(text), strings.Repeat("-", 78)); err != nil {
			return err
		}
	}
	return nil
}
