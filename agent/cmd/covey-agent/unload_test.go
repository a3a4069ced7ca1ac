package main

import (
	"os"
	"slices"
	"testing"
)

const smaps = `00400000-00b58000 r-xp 00000000 fe:01 12 /usr/bin/covey-agent
Rss:                6100 kB
Anonymous:         0 kB
00b58000-012f8000 r--p 00758000 fe:01 12 /usr/bin/covey-agent
Anonymous:         4 kB
012f8000-01300000 r--p 00ef8000 fe:01 12 /usr/bin/covey-agent
Anonymous:         0 kB
01300000-01380000 rw-p 00f00000 fe:01 12 /usr/bin/covey-agent
Anonymous:         0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:01 13 /usr/bin/covey-agent (deleted)
Anonymous:         0 kB
7f0000002000-7f0000003000 r-xp 00000000 fe:01 14 /lib/other.so
Anonymous:         0 kB
7f0000004000-7f0000005000 r--p 00000000 00:00 0
Anonymous:         0 kB
`

func TestUntouched(t *testing.T) {
	want := []span{{0x400000, 0x758000}, {0x12f8000, 0x8000}}
	if got := untouched([]byte(smaps), "/usr/bin/covey-agent"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// A program goes on without its pages.
func TestUnload(t *testing.T) {
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if len(untouched(b, exe)) == 0 {
		t.Error("nothing of this program could be given back")
	}
	if err := unload(); err != nil {
		t.Error(err)
	}
}
