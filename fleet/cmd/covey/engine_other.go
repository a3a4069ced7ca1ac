//go:build !linux

package main

import "github.com/covey-edge/covey/hal"

func stage([]string) error { return errNoEngines }

func engine(string) (hal.Engine, error) {
	return nil, usage("make golden samples on a Linux machine, or the release with --no-golden", "%s", errNoEngines)
}
