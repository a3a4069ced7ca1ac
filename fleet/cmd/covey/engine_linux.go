package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner"
)

// runnerMemory is what a runner may allocate here, bytes: the model may be for boards
// that are larger than they let a runner be.
const runnerMemory = 4 << 30

func stage(args []string) error { return runner.Stage(args) }

// engine is the one of that name. Its program stands beside this one, or on the PATH.
func engine(name string) (hal.Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(filepath.Dir(self), "covey-runner-"+name)
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("covey-runner-" + name); err != nil {
			return nil, usage("put covey-runner-"+name+" beside covey or on the PATH, or make the release with --no-golden",
				"no engine for %s here: there is no program covey-runner-%s beside %s, nor on the PATH", name, name, self)
		}
		if program, err = filepath.Abs(program); err != nil {
			return nil, err
		}
	}
	return runner.New(runner.Config{Name: name, Program: program, Stage: []string{self, "stage"}, MemoryLimit: runnerMemory, Logger: zerolog.Nop()}), nil
}
