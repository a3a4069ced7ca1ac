package health

import "golang.org/x/sys/unix"

// monotonic is the manager's clock, ns. It is not Go's: that counts from the start of
// the program.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano()
}
