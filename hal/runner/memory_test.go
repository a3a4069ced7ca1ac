package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestModelIsSealed tries to change what was vouched for.
func TestModelIsSealed(t *testing.T) {
	m := someModel(t)
	f, size, sum, err := sealedModel(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := sha256.Sum256([]byte("some model"))
	if size != 10 || sum != hex.EncodeToString(want[:]) {
		t.Errorf("%d bytes, hash %s", size, sum)
	}
	if err := os.WriteFile(m.Path, []byte("evil model"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != "some model" {
		t.Errorf("the file changed, and the memory with it: %q, %v", got, err)
	}
	if _, err := f.WriteAt([]byte("e"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write: %v, want EPERM", err)
	}
	if _, err := unix.Mmap(int(f.Fd()), 0, 10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("it can be mapped for writing")
	}
	fixed(t, f, 10)
}

func TestSharedMemoryKeepsItsSize(t *testing.T) {
	f, memory, err := sharedMemory(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer unix.Munmap(memory)
	fixed(t, f, 4096)
}

// fixed expects that memory can neither shrink nor grow nor lose its seals.
func fixed(t *testing.T, f *os.File, size int64) {
	t.Helper()
	for _, n := range []int64{0, size - 1, size + 1} {
		if err := f.Truncate(n); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncate %d to %d: %v, want EPERM", size, n, err)
		}
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("add a seal: %v, want EPERM", err)
	}
}
