package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A subject is the package that a list is about.
type subject struct {
	name, version, arch string
	at                  time.Time
}

// The part of CycloneDX 1.6 that is used here.
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type     string    `json:"type"`
		Ref      string    `json:"bom-ref"`
		Name     string    `json:"name"`
		Version  string    `json:"version,omitempty"`
		Hashes   []hash    `json:"hashes,omitempty"`
		Licences []licence `json:"licenses,omitempty"`
		PURL     string    `json:"purl,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	licence struct {
		Expression string `json:"expression"`
	}
	dependency struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn"`
	}
)

// runtimes is the libraries of others that packages carry. scripts/setup pins their
// bytes.
var runtimes = map[string]component{
	"libtensorflowlite_c.so": {Name: "tensorflow-lite", Version: "2.17.1", Licences: expressions("Apache-2.0"), PURL: "pkg:github/tensorflow/tensorflow@v2.17.1"},
	"libonnxruntime.so":      {Name: "onnxruntime", Version: "1.24.4", Licences: expressions("MIT"), PURL: "pkg:github/microsoft/onnxruntime@v1.24.4"},
}

func expressions(spdx string) []licence {
	if spdx == "" {
		return nil
	}
	return []licence{{spdx}}
}

// sbom writes what a package is made of: its programs and libraries by hash, and every
// Go module in them with version and licence.
func sbom(out io.Writer, s subject, files []string) error {
	list, err := modules(files)
	if err != nil {
		return err
	}
	top := component{Type: "application", Ref: s.name, Name: s.name, Version: s.version,
		Licences: expressions("Apache-2.0"), PURL: fmt.Sprintf("pkg:deb/%s@%s?arch=%s", s.name, escape(s.version), s.arch)}
	b := bom{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: metadata{s.at.Format(time.RFC3339), top}}
	on := []string{}
	for _, f := range files {
		c, err := part(f)
		if err != nil {
			return err
		}
		b.Components, on = append(b.Components, c), append(on, c.Ref)
	}
	for _, m := range list {
		c := m.component()
		b.Components, on = append(b.Components, c), append(on, c.Ref)
	}
	b.Dependencies = []dependency{{top.Ref, on}}
	if b.Serial, err = serial(b); err != nil {
		return err
	}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	return e.Encode(b)
}

// part is a program or a library of a package.
func part(path string) (component, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return component{}, err
	}
	sum := sha256.Sum256(text)
	c, known := runtimes[filepath.Base(path)]
	c.Type, c.Ref = "library", filepath.Base(path)
	if !known {
		if strings.HasSuffix(path, ".so") {
			return component{}, fmt.Errorf("what is %s? Say so in scripts/packaging/sbom.go", path)
		}
		c = component{Type: "application", Ref: c.Ref, Name: c.Ref, Licences: expressions("Apache-2.0")}
	}
	c.Hashes = []hash{{"SHA-256", hex.EncodeToString(sum[:])}}
	return c, nil
}

func (m module) component() component {
	purl := "pkg:golang/" + m.path + "@" + m.version
	return component{Type: "library", Ref: purl, Name: m.path, Version: m.version, Licences: expressions(m.licence), PURL: purl}
}

// escape is a version in a package URL.
func escape(version string) string {
	return strings.NewReplacer("+", "%2B", "~", "~", ":", "%3A").Replace(version)
}

// serial is a UUID of the list's own contents: made again, it is the same.
func serial(b bom) (string, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(text)
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // version 8: made by a rule of our own
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16]), nil
}
