package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/covey-edge/covey/fleet/internal/store"
)

type thing struct {
	Name string `json:"name"`
	N    int    `json:"n"`
}

func open(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestValues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := open(t, path)
	err := s.Update(func(tx *store.Tx) error {
		for i, k := range []string{"a/1", "a/2", "a/3", "b/1"} {
			if err := store.Put(tx, "things", k, thing{k, i}); err != nil {
				return err
			}
		}
		return store.Delete(tx, "things", "a/2")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	s.View(func(tx *store.Tx) error {
		v, err := store.Get[thing](tx, "things", "a/3")
		if err != nil || v != (thing{"a/3", 2}) {
			t.Errorf("got %v, %v", v, err)
		}
		for _, k := range []string{"a/2", "a", ""} {
			if _, err := store.Get[thing](tx, "things", k); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("get %q: %v", k, err)
			}
		}
		if _, err := store.Get[thing](tx, "nothing", "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("get of no bucket: %v", err)
		}
		var keys []string
		store.Each(tx, "things", "a/", func(k string, _ thing) error { keys = append(keys, k); return nil })
		if got := strings.Join(keys, " "); got != "a/1 a/3" {
			t.Errorf("each: %s", got)
		}
		n := 0
		if err := store.Each(tx, "things", "", func(string, thing) error { n++; return store.ErrStop }); err != nil || n != 1 {
			t.Errorf("stop: %d, %v", n, err)
		}
		for prefix, want := range map[string][2]string{
			"a/": {"a/1", "a/3"}, "b/": {"b/1", "b/1"}, "c/": {"", ""}, "": {"a/1", "b/1"}, "A": {"", ""},
		} {
			if got := [2]string{store.First(tx, "things", prefix), store.Last(tx, "things", prefix)}; got != want {
				t.Errorf("first and last of %q: %q, want %q", prefix, got, want)
			}
		}
		return nil
	})
}

// TestRot: a bit that has turned is found, whichever it is.
func TestRot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := open(t, path)
	if err := s.Update(func(tx *store.Tx) error { return store.Put(tx, "b", "k", thing{"marker-marker", 7}) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(path); err != nil {
		t.Fatalf("a sound file: %v", err)
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(sound, []byte("marker"))
	if at < 0 {
		t.Fatal("value not found in the file")
	}
	for bit := range 8 {
		bad := bytes.Clone(sound)
		bad[at] ^= 1 << bit
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := store.Check(path); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("bit %d: check says %v", bit, err)
		}
		s := open(t, path)
		s.View(func(tx *store.Tx) error {
			if v, err := store.Get[thing](tx, "b", "k"); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("bit %d: %v, %v", bit, v, err)
			}
			return nil
		})
		s.Close()
	}
}

func TestSecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	open(t, path)
	if _, err := store.Open(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
}

// TestHalfMade: what a first start left that was cut does not count.
func TestHalfMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path+".new", []byte("half a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// TestBatch: many writers at a time, some of whom fail, each get their own answer;
// what was answered with nil is there, and there alone.
func TestBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := open(t, path)
	const writers, each = 40, 25
	bad := errors.New("bad")
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("%02d/%02d", w, i)
				fails := (w+i)%7 == 0
				err := s.Batch(func(tx *store.Tx) error {
					if err := store.Put(tx, "b", key, i); err != nil {
						return err
					}
					if fails {
						return bad
					}
					return nil
				})
				if fails != errors.Is(err, bad) || !fails && err != nil {
					t.Errorf("%s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
	s.View(func(tx *store.Tx) error {
		for w := range writers {
			for i := range each {
				key := fmt.Sprintf("%02d/%02d", w, i)
				if got, want := store.Has(tx, "b", key), (w+i)%7 != 0; got != want {
					t.Errorf("%s is there: %v", key, got)
				}
			}
		}
		return nil
	})
}

// BenchmarkBatch shows what sharing a commit gains.
func BenchmarkBatch(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "x.db"))
			b.SetParallelism(max(writers/2, 1))
			value := thing{Name: strings.Repeat("x", 500)}
			var mu sync.Mutex
			n := 0
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					n++
					key := fmt.Sprintf("%08d", n)
					mu.Unlock()
					if err := s.Batch(func(tx *store.Tx) error { return store.Put(tx, "b", key, value) }); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
