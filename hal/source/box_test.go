package source

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The newest wins, and three pieces of memory are enough for ever.
func TestBox(t *testing.T) {
	b := NewBox()
	put := func(v byte, memory []byte) []byte { return b.Put(Item{Data: append(memory, v)}) }
	take := func(old []byte) []byte {
		item, err := b.Take(t.Context(), 0, old)
		if err != nil {
			t.Fatal(err)
		}
		return item.Data
	}
	fill := put(1, nil)
	fill = put(2, fill)
	used := take(nil)
	if used[0] != 2 {
		t.Errorf("took %d, want the newest", used[0])
	}
	n := byte(3)
	if allocs := testing.AllocsPerRun(100, func() {
		fill = put(n, fill)
		fill = put(n+1, fill)
		if used[0] != n-1 {
			t.Fatalf("what is used became %d", used[0])
		}
		if used = take(used); used[0] != n+1 {
			t.Fatalf("took %d, want %d", used[0], n+1)
		}
		n += 2
	}); allocs > 0.1 {
		t.Errorf("%v allocations a turn", allocs)
	}
}

func TestBoxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBox()
		began := time.Now()
		if _, err := b.Take(t.Context(), time.Second, nil); err != ErrQuiet || time.Since(began) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Take(ctx, time.Minute, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			b.Put(Item{Data: []byte{1}})
		}()
		if item, err := b.Take(t.Context(), 0, nil); err != nil || string(item.Data) != "\x01" {
			t.Errorf("got %v, %v", item, err)
		}
		b.Put(Item{Err: errRefused})
		b.Put(Item{Data: []byte{2}})
		b.Put(Item{Err: errRefused})
		b.End(errLost)
		b.End(errRefused)
		if item, err := b.Take(t.Context(), 0, nil); err != nil || string(item.Data) != "\x02" {
			t.Errorf("got %v, %v", item, err)
		}
		for range 2 {
			if _, err := b.Take(t.Context(), 0, nil); err != errLost {
				t.Errorf("got %v", err)
			}
		}
	})
}
