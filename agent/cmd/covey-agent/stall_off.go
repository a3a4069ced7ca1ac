//go:build !stall

package main

// stall is what stalls loops, in programs that are built to be tested so: see stall_on.go.
func stall() func(loop string) { return nil }
