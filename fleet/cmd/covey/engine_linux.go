package main

import (
	"errors"
	"os"

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
	path, err := program("covey-runner-" + name)
	var none *failure
	if errors.As(err, &none) {
		none.fix += "; or make the release with --no-golden"
	}
	if err != nil {
		return nil, err
	}
	return runner.New(runner.Config{Name: name, Program: path, Stage: []string{self, "stage"}, MemoryLimit: runnerMemory, Logger: zerolog.Nop()}), nil
}
