package agent

import (
	"testing"

	"github.com/covey-edge/covey/hal"
)

// A label file that never ends is refused, as one that is not there.
func TestLabelFiles(t *testing.T) {
	for _, path := range []string{"/dev/zero", "/nonexistent", t.TempDir()} {
		if _, err := localRecipe(PipelineFile{Name: "p", Model: "m.tflite", Labels: path}); hal.CodeOf(err) != hal.CodeLabels {
			t.Errorf("%s: %v", path, err)
		}
	}
}
