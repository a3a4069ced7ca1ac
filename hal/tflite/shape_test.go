//go:build cgo

package tflite

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// TestShape: a model that leaves its window open gets one from the settings, on
// every accelerator and after a reset.
func TestShape(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(haltest.Models(t), "audio/melspectrogram.tflite"))
	if err != nil {
		t.Fatal(err)
	}
	const input = "serving_default_input:0"
	open := func(a hal.Accelerator, settings map[string]string) (*Model, error) {
		return Open(proto.Open{Name: "mel", Accelerator: a, Threads: 1, Settings: settings}, data, func(string) {})
	}
	for a, settings := range map[hal.Accelerator]map[string]string{
		hal.Auto:    {"shape." + input: "1x1760", "Performance": "not of this accelerator"},
		hal.CPU:     {"shape." + input: "1x1760"},
		hal.XNNPACK: {"shape." + input: "1x1760", "flags": "qs8"},
	} {
		m, err := open(a, settings)
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		for range 2 {
			if got := m.Opened().Inputs[0].Shape; !slices.Equal(got, []int{1, 1760}) {
				t.Errorf("%s: input is %v", a, got)
			}
			if err := m.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		m.Close()
	}
	for _, c := range []struct{ setting, value, says string }{
		{input, "", "does not fit"},
		{input, "1760", "does not fit"},
		{input, "1x-1", "does not fit"},
		{input, "1x99999999999", "does not fit"},
		{input, "100000x100000", "does not fit"},
		{"nowhere", "1x1760", "it has " + input},
	} {
		m, err := open(hal.CPU, map[string]string{"shape." + c.setting: c.value})
		if err == nil {
			m.Close()
		}
		if hal.CodeOf(err) != hal.CodeShape || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %q: %v, want %s with %q", c.setting, c.value, err, hal.CodeShape, c.says)
		}
	}
	fixed, err := os.ReadFile(filepath.Join(haltest.Models(t), "audio/okay_nabu.tflite"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(proto.Open{Name: "nabu", Accelerator: hal.CPU, Settings: map[string]string{"shape.serving_default_input_audio:0": "1x6x40"}}, fixed, func(string) {})
	if hal.CodeOf(err) != hal.CodeShape {
		t.Errorf("another shape than the file's: %v", err)
	}
}
