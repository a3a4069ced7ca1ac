package rollout

import (
	"testing"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

// A configuration goes to the pipeline config alone, and a model to any other.
func TestPlanFits(t *testing.T) {
	model := release.Manifest{Name: "birds", Version: "1.0.0", Variants: []release.Variant{{Engine: "tflite",
		File: release.File{Name: "birds.tflite", SHA256: "aa", Length: 200}}}}
	yard := release.Manifest{Name: "yard", Version: "1.0.0", Config: &release.File{Name: "yard.yaml", SHA256: "bb", Length: 30}}
	hello := func(pinned bool) *wire.Hello {
		return &wire.Hello{Accelerators: []wire.HelloDevice{{Engine: "tflite", Accelerator: "cpu"}}, Pipelines: []wire.HelloPipeline{
			{Name: "cam", Pinned: pinned}, {Name: wire.ConfigPipeline, Pinned: pinned}}}
	}
	old := &wire.Hello{Pipelines: []wire.HelloPipeline{{Name: "cam"}}} // knows of no configuration
	for _, c := range []struct {
		name     string
		m        release.Manifest
		pipeline string
		hello    *wire.Hello
		file     string
		bytes    int64
		code     string
	}{
		{"a model", model, "cam", hello(false), "birds.tflite", 200, ""},
		{"a configuration", yard, "config", hello(false), "yard.yaml", 30, ""},
		{"a model for the owner's", model, "cam", hello(true), "", 0, CodePinned},
		{"a configuration where none is taken", yard, "config", hello(true), "", 0, CodePinned},
		{"a model as configuration", model, "config", hello(false), "", 0, "E_TARGET"},
		{"a configuration as a model", yard, "cam", hello(false), "", 0, "E_TARGET"},
		{"the same, of a device that was never seen", yard, "cam", nil, "", 0, "E_TARGET"},
		{"a device that was never seen", yard, "config", nil, "", 0, ""},
		{"an old agent", yard, "config", old, "", 0, CodePipeline},
	} {
		x := Plan(c.m, "d", c.pipeline, []Candidate{{Device: "pi-1", Hello: c.hello}})[0]
		code := ""
		if x.Refusal != nil {
			code = x.Refusal.Code
		}
		if x.Variant != c.file || x.Bytes != c.bytes || code != c.code {
			t.Errorf("%s: %+v %+v, want file %q, %d bytes, %q", c.name, x, x.Refusal, c.file, c.bytes, c.code)
		}
	}
}
