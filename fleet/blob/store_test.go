package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/crashfs"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// content makes n bytes that look like nothing else.
func content(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func digest(b []byte) wire.Digest {
	sum := sha256.Sum256(b)
	return wire.Digest(hex.EncodeToString(sum[:]))
}

func block(data []byte, n int) []byte {
	return data[n*wire.BlockSize : min((n+1)*wire.BlockSize, len(data))]
}

func blockHashes(data []byte) []byte {
	h := []byte{}
	for n := range blob.Blocks(int64(len(data))) {
		sum := sha256.Sum256(block(data, n))
		h = append(h, sum[:]...)
	}
	return h
}

// systems runs a test on the real disk and on the one in memory.
func systems(t *testing.T, test func(t *testing.T, fsys blob.FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, blob.OS{}, t.TempDir()+"/data/blobs") })
	t.Run("memory", func(t *testing.T) { test(t, crashfs.New(), "/data/blobs") })
}

func open(t *testing.T, fsys blob.FS, dir string) *blob.Store {
	t.Helper()
	s, err := blob.Open(dir, fsys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantCode(t *testing.T, err error, want hal.Code) {
	t.Helper()
	if got := hal.CodeOf(err); got != want {
		t.Fatalf("got error %v with code %q, want %q", err, got, want)
	}
}

func TestStore(t *testing.T) {
	systems(t, func(t *testing.T, fsys blob.FS, dir string) {
		s, ctx := open(t, fsys, dir), t.Context()
		data := content(200_000, 1)
		sha := digest(data)
		if err := s.Put(ctx, sha, int64(len(data)), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if !s.Has(sha) || s.Has(digest(nil)) {
			t.Fatal("Has is wrong")
		}
		f, err := s.Open(sha)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read back %d bytes, %v", len(got), err)
		}
		if err := s.Verify(ctx, sha); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Read(sha, 200_000); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("Read: %d bytes, %v", len(got), err)
		}
		if _, err := s.Read(sha, 199_999); hal.CodeOf(err) != hal.CodeLength {
			t.Fatalf("Read of more than max: %v", err)
		}
		empty := digest(nil)
		if err := s.Put(ctx, empty, 0, bytes.NewReader(nil)); err != nil {
			t.Fatal(err)
		}
		if l, err := s.List(); err != nil || len(l) != 2 {
			t.Fatalf("List: %v, %v", l, err)
		}
		if freed, err := s.Collect(func(d wire.Digest) bool { return d == empty }); err != nil || freed != 200_000 {
			t.Fatalf("Collect freed %d, %v", freed, err)
		}
		if err := errors.Join(s.Delete(empty), s.Delete(empty)); err != nil || s.Has(empty) {
			t.Fatalf("Delete: %v", err)
		}
	})
}

func TestPutRefuses(t *testing.T) {
	data := content(100_000, 2)
	sha := digest(data)
	for _, c := range []struct {
		name   string
		sha    wire.Digest
		length int64
		bytes  []byte
		want   hal.Code
	}{
		{"other bytes", digest([]byte("x")), 100_000, data, hal.CodeHash},
		{"too few", sha, 100_000, data[:99_999], hal.CodeModelShort},
		{"too many", sha, 99_999, data, hal.CodeLength},
		{"huge", sha, blob.MaxLength + 1, data, hal.CodeLength},
		{"negative", sha, -1, data, hal.CodeLength},
		{"path", "../../../../etc/passwd", 100_000, data, hal.CodePath},
		{"upper case", wire.Digest(strings.ToUpper(string(sha))), 100_000, data, hal.CodePath},
	} {
		t.Run(c.name, func(t *testing.T) {
			systems(t, func(t *testing.T, fsys blob.FS, dir string) {
				s := open(t, fsys, dir)
				wantCode(t, s.Put(t.Context(), c.sha, c.length, bytes.NewReader(c.bytes)), c.want)
				entries, err := fsys.ReadDir(dir)
				if err != nil || len(entries) != 0 {
					t.Fatalf("left behind: %v, %v", entries, err)
				}
			})
		})
	}
}

func TestDiskErrors(t *testing.T) {
	data := content(20<<20, 3)
	f := crashfs.New()
	s := open(t, f, "/b")
	f.SetFree(25 << 20)
	err := s.Put(t.Context(), digest(data), int64(len(data)), bytes.NewReader(data))
	wantCode(t, err, hal.CodeDiskFull)
	if got := err.Error(); !strings.Contains(got, "need 20 MB") || !strings.Contains(got, "free 25 MB at /b") {
		t.Errorf("got %q, want need, free and path", got)
	}
	_, err = s.Receive(digest(data), int64(len(data)), blockHashes(data))
	wantCode(t, err, hal.CodeDiskFull)
	// What others take of the disk meanwhile is seen before it is full.
	f.SetFree(30 << 20)
	p, err := s.Receive(digest(data), int64(len(data)), blockHashes(data))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil && n < blob.Blocks(int64(len(data))); n++ {
		if n == 100 {
			f.SetFree(9 << 20)
		}
		err = p.WriteBlock(n, block(data, n))
	}
	wantCode(t, err, hal.CodeDiskFull)
	if free, _ := f.Free("/b"); free < 7<<20 || n < 100 {
		t.Errorf("stopped at block %d with %d bytes free", n, free)
	}
	if want := int64(len(data) - n*wire.BlockSize); s.Wants(digest(data), int64(len(data))) != want {
		t.Errorf("wants %d bytes, not %d", s.Wants(digest(data), int64(len(data))), want)
	}
	if err := s.Delete(digest(data)); err != nil {
		t.Fatal(err)
	}
	f.SetFree(blob.MaxLength)
	for errno, want := range map[error]hal.Code{syscall.ENOSPC: hal.CodeDiskFull, syscall.EROFS: hal.CodeDiskRO, syscall.EIO: hal.CodeDiskIO} {
		for n := 1; n <= 7; n++ { // create, 3 writes, sync, rename, sync of the folder
			f.FailAt(n, errno)
			err = s.Put(t.Context(), digest(data[:150_000]), 150_000, bytes.NewReader(data[:150_000]))
			wantCode(t, err, want)
		}
	}
	if err := s.Put(t.Context(), digest(data[:150_000]), 150_000, bytes.NewReader(data[:150_000])); err != nil {
		t.Fatalf("after the disk was mended: %v", err)
	}
}

func TestReceive(t *testing.T) {
	data := content(5*wire.BlockSize+77, 4)
	sha, hashes := digest(data), blockHashes(data)
	systems(t, func(t *testing.T, fsys blob.FS, dir string) {
		s := open(t, fsys, dir)
		for _, order := range [][]int{{0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {0, 3, 1, 3, 5, 2, 4}} {
			for _, h := range [][]byte{hashes, nil} {
				p, err := s.Receive(sha, int64(len(data)), h)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range order {
					if err := p.WriteBlock(n, block(data, n)); err != nil {
						t.Fatal(err)
					}
				}
				if err := errors.Join(p.Finish(t.Context()), p.Close(), s.Verify(t.Context(), sha), s.Delete(sha)); err != nil {
					t.Fatalf("order %v: %v", order, err)
				}
			}
		}
	})
}

// A receiver that dies loses no block that was written, and takes no wrong one.
func TestReceiveGoesOn(t *testing.T) {
	data := content(40*wire.BlockSize+1, 5)
	sha, hashes := digest(data), blockHashes(data)
	systems(t, func(t *testing.T, fsys blob.FS, dir string) {
		s := open(t, fsys, dir)
		sent := 0
		for {
			p, err := s.Receive(sha, int64(len(data)), hashes)
			if err != nil {
				t.Fatal(err)
			}
			missing := p.Missing()
			if want := 41 - sent; missing.Count() != want || p.Left() != want {
				t.Fatalf("missing %d, left %d, want %d", missing.Count(), p.Left(), want)
			}
			if p.Left() == 0 {
				if err := errors.Join(p.Finish(t.Context()), p.Close()); err != nil {
					t.Fatal(err)
				}
				break
			}
			for range 3 {
				n := 40
				for n >= 0 && !p.Missing().Has(n) {
					n-- // from the end, to leave holes
				}
				if n < 0 {
					break
				}
				bad := bytes.Clone(block(data, n))
				bad[0] ^= 1
				for _, wrong := range [][]byte{bad, bad[1:], nil} {
					if err := p.WriteBlock(n, wrong); !errors.Is(err, blob.ErrBlock) {
						t.Fatalf("wrong block: %v", err)
					}
				}
				if err := p.WriteBlock(n, block(data, n)); err != nil {
					t.Fatal(err)
				}
				sent++
			}
			if err := p.WriteBlock(41, nil); !errors.Is(err, blob.ErrBlock) {
				t.Fatalf("block behind the end: %v", err)
			}
			if p.Left() > 0 && p.Finish(t.Context()) == nil {
				t.Fatal("finished with blocks missing")
			}
			p.Close()
		}
		if err := s.Verify(t.Context(), sha); err != nil || sent != 41 {
			t.Fatalf("sent %d blocks, %v", sent, err)
		}
	})
}

func TestReceiveWrongWhole(t *testing.T) {
	data := content(3*wire.BlockSize, 6)
	other := content(3*wire.BlockSize, 7)
	s := open(t, crashfs.New(), "/b")
	for _, hashes := range [][]byte{nil, blockHashes(other)} { // unknown, or a list that does not fit the file's hash
		p, err := s.Receive(digest(data), int64(len(data)), hashes)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			if err := p.WriteBlock(n, block(other, n)); err != nil {
				t.Fatal(err)
			}
		}
		wantCode(t, p.Finish(t.Context()), hal.CodeHash)
		p.Close()
		if s.Has(digest(data)) {
			t.Fatal("kept")
		}
	}
	_, err := s.Receive(digest(data), int64(len(data)), make([]byte, 32))
	wantCode(t, err, hal.CodeManifest)
	_, err = s.Receive(digest(data), blob.MaxLength+1, nil)
	wantCode(t, err, hal.CodeLength)
}

func TestVerifyFindsEveryBit(t *testing.T) {
	data := content(300, 8)
	f := crashfs.New()
	s := open(t, f, "/b")
	if err := s.Put(t.Context(), digest(data), 300, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	for bit := range 300 * 8 {
		f.Flip(s.Path(digest(data)), bit)
		wantCode(t, s.Verify(t.Context(), digest(data)), hal.CodeHashAtRest)
		_, err := s.Read(digest(data), 1000)
		wantCode(t, err, hal.CodeHashAtRest)
		f.Flip(s.Path(digest(data)), bit)
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := open(t, crashfs.New(), "/b")
	if err := s.Put(ctx, digest([]byte("x")), 1, strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// journey puts one blob, receives another in two goes and replaces a file; it
// returns what it was told is done.
func journey(fsys blob.FS, a, b []byte) (acked map[string]bool, err error) {
	acked = map[string]bool{}
	ctx := context.Background()
	s, err := blob.Open("/data/blobs", fsys)
	if err != nil {
		return acked, err
	}
	if err := s.Put(ctx, digest(a), int64(len(a)), bytes.NewReader(a)); err != nil {
		return acked, err
	}
	acked["a"] = true
	for _, from := range []int{0, 1} { // even blocks, then odd ones
		p, err := s.Receive(digest(b), int64(len(b)), blockHashes(b))
		if err != nil {
			return acked, err
		}
		for n := from; n < blob.Blocks(int64(len(b))); n += 2 {
			if err := p.WriteBlock(n, block(b, n)); err != nil {
				return acked, err
			}
		}
		if from == 1 {
			if err := p.Finish(ctx); err != nil {
				return acked, err
			}
			acked["b"] = true
		}
		p.Close()
	}
	for _, text := range []string{"old", "new"} {
		if err := blob.WriteFile(fsys, "/data/state", []byte(text)); err != nil {
			return acked, err
		}
		acked[text] = true
	}
	return acked, nil
}

// cutEverywhere cuts the power in every operation of journey and returns what
// was found broken after a restart, and how many states were looked at.
func cutEverywhere(prepare func(*crashfs.FS)) (broken []string, states int) {
	a, b := content(1500, 9), content(3*wire.BlockSize+9, 10)
	for cut := 1; ; cut++ {
		f := crashfs.New()
		prepare(f)
		f.CutAt(cut)
		acked, err := journey(f, a, b)
		for seed := range uint64(12) {
			states++
			if why := look(f.Crash(seed), acked, a, b); why != "" {
				broken = append(broken, fmt.Sprintf("cut %d seed %d: %s", cut, seed, why))
			}
		}
		if err == nil {
			return broken, states
		}
	}
}

func look(f *crashfs.FS, acked map[string]bool, a, b []byte) string {
	s, err := blob.Open("/data/blobs", f)
	if err != nil {
		return err.Error()
	}
	for name, data := range map[string][]byte{"a": a, "b": b} {
		if !s.Has(digest(data)) {
			if acked[name] {
				return name + " was acknowledged and is gone"
			}
		} else if err := s.Verify(context.Background(), digest(data)); err != nil {
			return err.Error()
		}
	}
	got, err := blob.ReadFile(f, "/data/state", 100)
	switch {
	case acked["new"] && string(got) != "new":
		return fmt.Sprintf("state was acknowledged as new and is %q, %v", got, err)
	case acked["old"] && string(got) != "old" && string(got) != "new":
		return fmt.Sprintf("state was acknowledged as old and is %q, %v", got, err)
	case !errors.Is(err, fs.ErrNotExist) && string(got) != "old" && string(got) != "new":
		return fmt.Sprintf("state is torn: %q, %v", got, err)
	}
	// It must be possible to go on.
	if _, err := journey(f, a, b); err != nil {
		return "going on: " + err.Error()
	}
	return ""
}

func TestPowerCuts(t *testing.T) {
	broken, states := cutEverywhere(func(*crashfs.FS) {})
	for _, b := range broken {
		t.Error(b)
	}
	t.Logf("%d states after a cut, %d broken", states, len(broken))
	// The same must notice programs that do not sync.
	for name, careless := range map[string]func(*crashfs.FS){
		"no sync of files":   func(f *crashfs.FS) { f.NoSync = true },
		"no sync of folders": func(f *crashfs.FS) { f.NoSyncDir = true },
	} {
		broken, states := cutEverywhere(careless)
		if len(broken) == 0 {
			t.Errorf("%s: not noticed in %d states", name, states)
		}
		t.Logf("%s: %d of %d states broken", name, len(broken), states)
	}
}

func BenchmarkReceive(b *testing.B) {
	data := content(16<<20, 11)
	sha, hashes := digest(data), blockHashes(data)
	s, err := blob.Open(b.TempDir(), blob.OS{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		p, err := s.Receive(sha, int64(len(data)), hashes)
		if err != nil {
			b.Fatal(err)
		}
		for n := range blob.Blocks(int64(len(data))) {
			if err := p.WriteBlock(n, block(data, n)); err != nil {
				b.Fatal(err)
			}
		}
		if err := errors.Join(p.Finish(b.Context()), p.Close(), s.Delete(sha)); err != nil {
			b.Fatal(err)
		}
	}
}
