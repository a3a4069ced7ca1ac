package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unload gives back what the start has needed: garbage, and the pages of the program that
// were read for it and will hardly be needed again, two thirds of all. They are still in
// the kernel's cache, where they are the first to go once memory is short; what is
// needed comes back by itself.
func unload() error {
	debug.FreeOSMemory()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	for _, s := range untouched(smaps, exe) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, s.at, s.length, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back %d bytes of the program: %w", s.length, errno)
		}
	}
	return nil
}

// A span is a part of the address space.
type span struct{ at, length uintptr }

// untouched is what is mapped of a file that nobody can write to and nobody has written
// to, not even the loader: thrown away, it is read again as it was.
func untouched(smaps []byte, file string) (spans []span) {
	var now span
	for line := range bytes.Lines(smaps) {
		f := strings.Fields(string(line))
		if len(f) >= 6 && strings.Contains(f[0], "-") {
			now = span{}
			first, last, _ := strings.Cut(f[0], "-")
			a, err1 := strconv.ParseUint(first, 16, 64)
			b, err2 := strconv.ParseUint(last, 16, 64)
			if err1 == nil && err2 == nil && a < b && f[5] == file && len(f) == 6 && f[1] != "" && !strings.Contains(f[1], "w") {
				now = span{uintptr(a), uintptr(b - a)}
			}
		}
		if len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" && now.length > 0 {
			spans = append(spans, now)
		}
	}
	return spans
}
