package main

import (
	"go/build"
	"slices"
	"testing"
)

// covey is for a model maker's own machine, too. Runners are Linux's.
func TestElsewhere(t *testing.T) {
	const linux = "github.com/covey-edge/covey/hal/runner"
	for _, system := range []string{"linux", "darwin", "windows"} {
		c := build.Default
		c.GOOS = system
		p, err := c.ImportDir(".", 0)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(p.Imports, linux) != (system == "linux") {
			t.Errorf("%s: imports %s: put it into a file of Linux's", system, p.Imports)
		}
	}
}
