package main

import (
	"fmt"
	"strings"
)

// An entry of cannot.txt: a test that cannot pass under emulation; "*" is a whole
// package, which does not build without C, or passes nothing of what it is for.
type entry struct{ pkg, test, reason string }

// parse reads lines "package test reason"; # begins a comment.
func parse(text string) (all []entry, err error) {
	seen := map[[2]string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 4 { // a reason is a sentence
			return nil, fmt.Errorf("cannot.txt:%d: want package, test, reason: %q", n, line)
		}
		key := [2]string{f[0], f[1]}
		if seen[key] {
			return nil, fmt.Errorf("cannot.txt:%d: %s %s is there twice", n, f[0], f[1])
		}
		seen[key] = true
		all = append(all, entry{f[0], f[1], strings.Join(f[2:], " ")})
	}
	return all, nil
}
