//go:build !stall

package main

// stall stalls a loop in programs that are built to be tested so; this is none.
var stall func(loop string)
