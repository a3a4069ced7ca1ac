package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A label file that never ends is refused, as one that is not there.
func TestLabelFiles(t *testing.T) {
	for _, path := range []string{"/dev/zero", "/nonexistent", t.TempDir()} {
		if _, err := localRecipe(PipelineFile{Name: "p", Model: "m.tflite", Labels: path}); hal.CodeOf(err) != hal.CodeLabels {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// An asked is an engine that opens nothing, and keeps what it was asked.
type asked struct {
	tflite
	options hal.Options
}

func (a *asked) Open(_ context.Context, _ hal.Model, o hal.Options) (hal.Session, error) {
	a.options = o
	return nil, errors.New("not now")
}

// A file that only an Edge TPU can run goes to the one that the configuration names,
// with what the configuration tells it.
func TestCompiledModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.tflite")
	if err := os.WriteFile(path, haltest.CustomModel("edgetpu-custom-op"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := ParseFile("agent.yaml", "/", []byte("settings: {edgetpu: {Performance: Low}}\npipelines:\n  p: {source: {type: synthetic}, model: "+path+", accelerator_device: usb:1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	e := &asked{tflite: newEngine()}
	o := &opener{engines: []hal.Engine{e}, options: map[hal.Accelerator]map[string]string{hal.EdgeTPU: f.Settings[hal.EdgeTPU]}}
	r, err := localRecipe(f.Pipelines[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.open(t.Context(), f.Pipelines[0], r, true); err == nil {
		t.Fatal("it opened")
	}
	if got := e.options; got.Accelerator != hal.EdgeTPU || got.Device != "usb:1" || got.Settings["Performance"] != "Low" {
		t.Errorf("asked for %s, device %q, settings %v", got.Accelerator, got.Device, got.Settings)
	}
}
