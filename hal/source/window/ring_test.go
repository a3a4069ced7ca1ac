package window

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
)

func newRing(t testing.TB, channels, window, hop int) *Ring {
	t.Helper()
	r, err := New(channels, window, hop)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// count is n samples of every channel whose values are their places in the stream.
func count(from, n, channels int) []float32 {
	s := make([]float32, n*channels)
	for i := range s {
		s[i] = float32(from*channels + i)
	}
	return s
}

// TestWindows: whatever the pieces a stream comes in, the windows are those that
// are cut from the whole, and each has the time of its last sample.
func TestWindows(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	epoch := time.Unix(1000, 0)
	for range 300 {
		channels, window, hop := 1+rnd.IntN(3), 1+rnd.IntN(20), 1+rnd.IntN(30)
		r := newRing(t, channels, window, hop)
		r.Rate = 1000
		const total = 500
		var f hal.Frame
		seq := 0
		take := func() {
			for r.Next(&f) {
				from := seq * hop
				seq++
				if want := count(from, window, channels); !slices.Equal(f.Samples, want) {
					t.Fatalf("%d×%d hop %d, window %d: got %v, want %v", window, channels, hop, seq, f.Samples, want)
				}
				if want := epoch.Add(time.Duration(from+window) * time.Millisecond); f.Captured.Sub(want).Abs() > time.Microsecond {
					t.Fatalf("window %d was captured %v, want %v", seq, f.Captured, want)
				}
				if f.Seq != uint64(seq) || f.Channels != channels || f.Rate != 1000 || f.Format != hal.FormatNone {
					t.Fatalf("window %d is %+v", seq, f)
				}
			}
		}
		for n := 0; n < total; {
			k := min(rnd.IntN(max(window, hop)+1), total-n)
			r.Push(count(n, k, channels), epoch.Add(time.Duration(n+k)*time.Millisecond))
			n += k
			take()
		}
		if want := (total-window)/hop + 1; seq != want || r.Dropped() != 0 {
			t.Fatalf("%d windows, %d dropped; want %d", seq, r.Dropped(), want)
		}
	}
}

// TestDropped: nobody takes; the newest windows are kept, whole and in their
// places, and every window is given or counted.
func TestDropped(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		channels, window, hop := 1+rnd.IntN(3), 1+rnd.IntN(20), 1+rnd.IntN(30)
		r := newRing(t, channels, window, hop)
		total := 0
		var f hal.Frame
		given := 0
		for range 20 {
			n := rnd.IntN(100)
			r.Push(count(total, n, channels), time.Unix(int64(total+n), 0))
			total += n
			for rnd.IntN(4) != 0 && r.Next(&f) {
				from := (given + int(r.Dropped())) * hop
				given++
				if want := count(from, window, channels); !slices.Equal(f.Samples, want) {
					t.Fatalf("%d×%d hop %d after %d dropped: got %v, want %v", window, channels, hop, r.Dropped(), f.Samples, want)
				}
				if at := f.Captured.Unix(); at < int64(from+window) || at > int64(total) {
					t.Fatalf("window until %d of %d was captured at %d", from+window, total, at)
				}
			}
		}
		for r.Next(&f) {
			given++
		}
		all := 0
		if total >= window {
			all = (total-window)/hop + 1
		}
		if got := given + int(r.Dropped()); got < all || got > all+1 { // one may have been dropped before it was whole
			t.Fatalf("%d given, %d dropped of %d", given, r.Dropped(), all)
		}
	}
}

func TestPad(t *testing.T) {
	for _, tt := range []struct {
		window, hop, total int
		want               string
	}{
		{4, 4, 6, "[[0 1 2 3] [4 5 0 0]]"},
		{4, 4, 8, "[[0 1 2 3] [4 5 6 7]]"},
		{4, 2, 6, "[[0 1 2 3] [2 3 4 5]]"}, // nothing is left over
		{4, 2, 7, "[[0 1 2 3] [2 3 4 5] [4 5 6 0]]"},
		{2, 4, 4, "[[0 1]]"}, // what is between windows is never given
		{2, 4, 5, "[[0 1] [4 0]]"},
		{4, 4, 1, "[[0 0 0 0]]"},
		{4, 4, 0, "[]"},
	} {
		r := newRing(t, 1, tt.window, tt.hop)
		got := [][]float32{}
		var f hal.Frame
		take := func() {
			for r.Next(&f) {
				got = append(got, slices.Clone(f.Samples))
			}
		}
		for i := range tt.total {
			r.Push([]float32{float32(i)}, time.Unix(int64(i), 0))
			take()
		}
		r.Pad()
		take()
		r.Pad()
		take()
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
		if len(got) > 0 && f.Captured.Unix() > int64(tt.total) {
			t.Errorf("%+v: captured %v", tt, f.Captured)
		}
	}
}

// TestWish: a Ring without a size of its own takes that of its taker.
func TestWish(t *testing.T) {
	r := newRing(t, 2, 0, 0)
	var f hal.Frame
	r.Push(count(0, 9, 2), time.Unix(1, 0))
	if f.Want.Samples = 3; r.Room() != 0 || r.Next(&f) {
		t.Fatal("kept what came before anybody wanted it")
	}
	r.Push(count(0, 4, 2), time.Unix(1, 0))
	if !r.Next(&f) || len(f.Samples) != 6 || r.Next(&f) {
		t.Fatalf("got %v", f.Samples)
	}
	f.Want.Samples = 2
	if r.Next(&f) {
		t.Fatal("a window over the change of its size")
	}
	r.Push(count(0, 2, 2), time.Unix(1, 0))
	if !r.Next(&f) || len(f.Samples) != 4 || f.Seq != 2 {
		t.Fatalf("got %+v", f)
	}
	f.Want.Samples = 1 << 40
	if r.Next(&f); r.window != Most/2 {
		t.Errorf("window of %d", r.window)
	}
	for rate, want := range map[float64]int{0: 1, .2: 1, 50: 50} {
		r := newRing(t, 1, 0, 0)
		r.Rate = rate
		if r.Next(new(hal.Frame)); r.window != want {
			t.Errorf("%v Hz: window of %d", rate, r.window)
		}
	}
	own := newRing(t, 1, 3, 0)
	f.Want.Samples = 5
	own.Push(count(0, 3, 1), time.Unix(1, 0))
	if !own.Next(&f) || len(f.Samples) != 3 {
		t.Errorf("a size of its own gave way")
	}
}

func TestClear(t *testing.T) {
	r := newRing(t, 1, 3, 0)
	r.Push([]float32{1, 2, 3, 4, 5}, time.Unix(1, 0))
	r.Clear()
	r.Push([]float32{6, 7}, time.Unix(2, 0))
	var f hal.Frame
	if r.Next(&f) {
		t.Fatalf("got %v across a gap", f.Samples)
	}
	r.Push([]float32{8}, time.Unix(3, 0))
	if !r.Next(&f) || !slices.Equal(f.Samples, []float32{6, 7, 8}) || f.Seq != 1 || f.Captured.Unix() != 3 {
		t.Errorf("got %+v", f)
	}
}

func TestNoAllocation(t *testing.T) {
	r := newRing(t, 2, 480, 160)
	r.Rate = 16000
	samples := count(0, 160, 2)
	var f hal.Frame
	now := time.Now()
	turn := func() {
		r.Push(samples, now)
		for r.Next(&f) {
		}
	}
	for range 10 {
		turn()
	}
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations a push", n)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range [][3]int{{0, 1, 1}, {1, -1, 0}, {1, 1, -1}, {MostChannels + 1, 1, 1}, {1, Most + 1, 1}, {2, Most/2 + 1, 1}, {1, 1, Most + 1}, {-1, 5, 5}} {
		if _, err := New(c[0], c[1], c[2]); hal.CodeOf(err) != hal.CodeConfig {
			t.Errorf("%v: %v", c, err)
		}
	}
}
