//go:build stall

package main

import (
	"os"
	"strings"
	"time"
)

// stall is what stalls loops: those whose names stand in the file that $COVEY_STALL
// names, one a line, and for as long as they do.
//
//	echo "porch run" >"$COVEY_STALL"
func stall() func(loop string) { return hold }

func hold(loop string) {
	for {
		b, err := os.ReadFile(os.Getenv("COVEY_STALL"))
		if err != nil || !strings.Contains("\n"+string(b)+"\n", "\n"+loop+"\n") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
