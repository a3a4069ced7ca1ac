package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/covey-edge/covey/hal/runner/sandbox"
)

// Stage is the main of the program between an agent and a runner: it confines
// itself, and then becomes the program behind "--". args are those after the
// stage's own name: SPEC -- PROGRAM [ARG…], where SPEC is a sandbox.Spec as JSON.
// It returns only an error.
//
// It has to be a pure-Go program: a cgo one has threads that it cannot reach.
func Stage(args []string) error {
	if len(args) < 3 || args[1] != "--" {
		return fmt.Errorf("stage: want SPEC -- PROGRAM [ARG…], got %q", args)
	}
	var spec sandbox.Spec
	d := json.NewDecoder(bytes.NewReader([]byte(args[0])))
	d.DisallowUnknownFields()
	if err := d.Decode(&spec); err != nil {
		return fmt.Errorf("stage: what the runner may do: %w", err)
	}
	if spec.Memory <= 0 {
		return fmt.Errorf("stage: a runner with %d bytes of memory", spec.Memory)
	}
	if err := sandbox.Enter(spec, args[2:], os.Environ()); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	return nil
}

// stageArgs are the arguments of Stage for a runner that may use so much memory.
func (c Config) stageArgs(spec sandbox.Spec) ([]string, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return append(append([]string(nil), c.Stage...), string(b), "--", c.Program), nil
}
