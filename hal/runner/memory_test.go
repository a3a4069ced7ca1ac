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
	s, err := seal(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	f := s.file
	defer f.Close()
	want := sha256.Sum256([]byte("some model"))
	if s.size != 10 || s.sum != hex.EncodeToString(want[:]) {
		t.Errorf("%d bytes, hash %s", s.size, s.sum)
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

// TestOneCopy: all runners of one model share its memory, which is freed with the last.
func TestOneCopy(t *testing.T) {
	var all models
	m := someModel(t)
	one, err := all.get(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	two, err := all.get(t.Context(), m) // its file is read again: nobody vouched for it
	if err != nil || two != one {
		t.Fatalf("a second copy of one model, %v", err)
	}
	m.SHA256 = one.sum
	if err := os.Remove(m.Path); err != nil {
		t.Fatal(err)
	}
	if three, err := all.get(t.Context(), m); err != nil || three != one {
		t.Fatalf("the model is open, and its file was asked for: %v", err)
	}
	m.Size = 11
	if _, err := all.get(t.Context(), m); err == nil {
		t.Error("a model of another length was taken for this one")
	}
	for range 3 {
		if _, err := one.file.Stat(); err != nil {
			t.Fatal("freed too early")
		}
		all.drop(one)
	}
	if _, err := one.file.Stat(); err == nil || len(all.bySum) > 0 {
		t.Error("the memory of a model that nobody uses is kept")
	}
}
