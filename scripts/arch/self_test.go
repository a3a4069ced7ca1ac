package arch

import (
	"slices"
	"testing"
	"testing/fstest"
)

// TestCatches gives the judge a tree with one of every fault, and a few things
// that look like faults and are none.
func TestCatches(t *testing.T) {
	file := func(src string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(src)} }
	tree := fstest.MapFS{
		"top.go":                            file("package covey"),
		"hal/hal.go":                        file("// Package hal is fine.\npackage hal\nimport _ \"context\""),
		"hal/bad.go":                        file("package hal\nimport _ \"" + module + "/fleet/wire\"\nimport _ \"golang.org/x/sys/unix\""),
		"hal/vision/vision.go":              file("// Package vision has cgo.\npackage vision\nimport \"C\""),
		"hal/tflite/tflite.go":              file("// Package tflite is the cgo room.\npackage tflite\nimport \"C\"\nimport _ \"github.com/mattn/go-tflite/delegates\""),
		"fleet/wire/wire.go":                file("// Package wire is fine.\npackage wire\nfunc initial() {}"),
		"fleet/wire/init.go":                file("package wire\nfunc init() {}\ntype T struct{}\nfunc (T) init() {}"),
		"fleet/internal/store/s.go":         file("// Package store is fine.\npackage store\nimport _ \"go.etcd.io/bbolt\""),
		"fleet/internal/store/s_test.go":    file("package store\nimport _ \"github.com/eclipse/paho.mqtt.golang\""),
		"fleet/util/u.go":                   file("// Package util is not.\npackage util"),
		"agent/agent.go":                    file("package agent\nimport _ \"" + module + "/fleet/internal/store\"\nimport _ \"example.com/new\""),
		"agent/cmd/covey-agent/main.go":     file("// Command covey-agent.\npackage main\nimport _ \"" + module + "/hal/tflite\""),
		"fleet/sim/sim.go":                  file("// Package sim.\npackage sim\nimport _ \"" + module + "/agent\"\nimport _ \"" + module + "/agent/internal/slots\""),
		"fleet/link/mqtt/link.go":           file("// Package mqtt.\npackage mqtt\nimport _ \"github.com/eclipse/paho.mqtt.golang\"\nimport _ \"github.com/mochi-mqtt/server/v2\""),
		"fleet/link/mqtt/link_test.go":      file("package mqtt_test\nimport _ \"github.com/mochi-mqtt/server/v2\""),
		"pkg/thing/testdata/ignored/bad.go": file("package bad"),
	}
	packages, err := read(tree)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"the top holds a Go package: every package lives in a room",
		"agent: has no package comment",
		"agent/agent.go: imports " + module + "/fleet/internal/store: no arrow leads there",
		"agent/agent.go: imports example.com/new: not a known dependency; a new one needs a line in the table",
		"fleet/link/mqtt/link.go: imports github.com/mochi-mqtt/server/v2: it lives in " + rooms("github.com/mochi-mqtt/server/v2"),
		"fleet/sim/sim.go: imports " + module + "/agent/internal/slots: no arrow leads there",
		"fleet/util: the name says nothing of what it holds",
		"fleet/wire/init.go: has an init function; drivers are values that main hands in",
		"hal/bad.go: imports " + module + "/fleet/wire: a leaf imports the standard library alone",
		"hal/bad.go: imports golang.org/x/sys/unix: it lives in " + rooms("golang.org/x/sys"),
		"hal/vision/vision.go: imports C: cgo is for hal/tflite, hal/onnx, hal/cmd/covey-runner-jpeg",
		"agent/cmd/covey-agent: reaches cgo through hal/tflite",
	}
	if got := judge(packages); !slices.Equal(got, want) {
		t.Errorf("got:")
		for _, line := range got {
			t.Log(line)
		}
	}

	lines, err := judgeTop(tree)
	if err != nil || len(lines) != 1 || lines[0][:4] != "pkg/" {
		t.Errorf("top: got %q, %v", lines, err)
	}
}

func rooms(module string) string {
	for _, d := range deps {
		if d.module == module {
			return d.rooms
		}
	}
	return ""
}
