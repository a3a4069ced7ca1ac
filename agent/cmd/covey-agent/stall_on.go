//go:build stall

package main

import (
	"os"
	"strings"
	"time"
)

// stall holds a loop for as long as the file that $COVEY_STALL names has its name in a line:
//
//	echo "porch run" >"$COVEY_STALL"
func stall(loop string) {
	for {
		b, err := os.ReadFile(os.Getenv("COVEY_STALL"))
		if err != nil || !strings.Contains("\n"+string(b)+"\n", "\n"+loop+"\n") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
