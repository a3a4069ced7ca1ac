//go:build !linux

package main

import (
	"errors"

	"github.com/covey-edge/covey/hal"
)

// errNoEngines is for systems that runners do not exist for.
var errNoEngines = errors.New("models run on Linux alone")

func stage([]string) error { return errNoEngines }

func engine(string) (hal.Engine, error) {
	return nil, usage("make golden samples on a Linux machine, or the release with --no-golden", "%s", errNoEngines)
}
