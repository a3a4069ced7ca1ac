package signal

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/covey-edge/covey/hal"
)

var pairs = [][2]int{
	{48000, 16000}, {44100, 16000}, {44100, 22050}, {16000, 48000}, {22050, 16000}, {44100, 48000}, {96000, 44100},
	{48000, 32000}, {8000, 44100}, {11025, 16000}, {100, 62}, {3, 7},
}

func newResampler(t testing.TB, channels, from, to int) *Resampler {
	t.Helper()
	r, err := NewResampler(channels, from, to)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tone(hz float64, rate, n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(math.Sin(2 * math.Pi * hz * float64(i) / float64(rate)))
	}
	return s
}

// decibel is the size of a, in its middle, against a tone of full size.
func decibel(a []float64) float64 {
	sum := 0.
	for _, v := range a {
		sum += v * v
	}
	return 10 * math.Log10(2*sum/float64(len(a))+1e-20)
}

// TestTones: a tone below 0.9 of the lower rate's half comes out as the same tone,
// and one above the half does not come out, neither as itself nor as another.
func TestTones(t *testing.T) {
	for _, p := range pairs {
		from, to := p[0], p[1]
		r := newResampler(t, 1, from, to)
		half := float64(min(from, to)) / 2
		n := 4*r.taps + 2000*from/min(from, to)
		worstPass, worstStop := -300., -300.
		check := func(hz float64, passes bool) float64 {
			out := r.Flush(r.Resample(nil, tone(hz, from, n)))
			if want := (n*to + from - 1) / from; len(out) != want {
				t.Fatalf("%d to %d Hz: %d samples of %d, want %d", from, to, len(out), n, want)
			}
			wrong := make([]float64, len(out))
			for i, v := range out {
				wrong[i] = float64(v)
				if passes {
					wrong[i] -= math.Sin(2 * math.Pi * hz * float64(i) / float64(to))
				}
			}
			edge := (r.taps*to + from - 1) / from // the signal begins and ends there
			return decibel(wrong[edge : len(wrong)-edge])
		}
		for i := range 9 {
			worstPass = max(worstPass, check(half*passBand*float64(i+1)/9, true))
		}
		for i := range 9 { // the half itself sampled is a sine of nothing: begin just above
			if hz := half * (1.0001 + float64(i)/9*(float64(from)/2/half-1)); hz < float64(from)/2 {
				worstStop = max(worstStop, check(hz, false))
			}
		}
		t.Logf("%6d to %6d Hz: pass band differs by %.0f dB at most, stop band %.0f dB; %d taps, %d phases, latency %v",
			from, to, worstPass, worstStop, r.taps, r.up, r.Latency())
		if worstPass > -80 || worstStop > -90 {
			t.Errorf("%d to %d Hz: pass band differs by %.1f dB, stop band %.1f dB", from, to, worstPass, worstStop)
		}
	}
}

// TestPieces: the pieces that a stream comes in change no bit of the result, and
// latency is what it is said to be.
func TestPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, p := range append(pairs, [2]int{16000, 16000}) {
		for _, channels := range []int{1, 3} {
			src := make([]float32, 4000*channels)
			for i := range src {
				src[i] = rnd.Float32()*2 - 1
			}
			whole := newResampler(t, channels, p[0], p[1])
			want := whole.Flush(whole.Resample(nil, src))
			r := newResampler(t, channels, p[0], p[1])
			var got []float32
			for n := 0; n < len(src); {
				k := min(rnd.IntN(2500)*channels, len(src)-n)
				got = r.Resample(got, src[n:n+k])
				n += k
				behind := float64(n/channels)/float64(p[0]) - float64(len(got)/channels)/float64(p[1]) - r.Latency().Seconds()
				if step := 1/float64(p[0]) + 1/float64(p[1]); n/channels > r.taps && math.Abs(behind) > step {
					t.Fatalf("%v: behind by %v s more than said", p, behind)
				}
			}
			if got = r.Flush(got); !slices.Equal(got, want) {
				t.Errorf("%v, %d channels: pieces differ from the whole", p, channels)
			}
			again := r.Flush(r.Resample(nil, src))
			if !slices.Equal(again, want) {
				t.Errorf("%v: something is left from the stream before", p)
			}
		}
	}
}

// TestChannelsApart: a channel does not hear the others.
func TestChannelsApart(t *testing.T) {
	a, b := tone(440, 48000, 5000), tone(1000, 48000, 5000)
	both := make([]float32, 0, 10000)
	for i := range a {
		both = append(both, a[i], b[i])
	}
	out := newResampler(t, 2, 48000, 16000).Resample(nil, both)
	for c, s := range [][]float32{a, b} {
		for i, v := range newResampler(t, 1, 48000, 16000).Resample(nil, s) {
			if out[2*i+c] != v {
				t.Fatalf("channel %d, sample %d: %v, alone %v", c, i, out[2*i+c], v)
			}
		}
	}
}

func TestResampleAllocatesNothing(t *testing.T) {
	r := newResampler(t, 2, 44100, 16000)
	src, dst := make([]float32, 2*4410), make([]float32, 0, 2*2000)
	turn := func() { dst = r.Resample(dst[:0], src) }
	turn()
	if n := testing.AllocsPerRun(20, turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRatesRefused(t *testing.T) {
	for _, p := range [][3]int{{0, 1, 1}, {1, 0, 1}, {1, 1, 0}, {1, -5, 5}, {1, mostRate + 1, 1}, {1, 44100, 44099}, {1, 1, mostRate}} {
		if _, err := NewResampler(p[0], p[1], p[2]); hal.CodeOf(err) != hal.CodeConfig {
			t.Errorf("%v: %v", p, err)
		}
	}
}

func TestConverter(t *testing.T) {
	src := []float32{1, 10, 100, 2, 20, 200, 9}
	for _, tt := range []struct {
		pick []int
		mono bool
		want string
	}{
		{nil, false, "[1 10 100 2 20 200]"}, {nil, true, "[37 74]"},
		{[]int{2, 0}, false, "[100 1 200 2]"}, {[]int{0, 1}, true, "[5.5 11]"}, {[]int{1}, false, "[10 20]"},
	} {
		c, err := NewConverter(3, 8000, 0, tt.pick, tt.mono)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Convert(nil, src); fmt.Sprint(got) != tt.want || len(got)/2 != c.Channels() || c.Latency() != 0 {
			t.Errorf("%+v: got %v of %d channels", tt, got, c.Channels())
		}
	}
	c, err := NewConverter(2, 48000, 16000, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Flush(c.Convert(nil, make([]float32, 2*480))); len(got) != 160 {
		t.Errorf("480 samples became %d", len(got))
	}
	c.Convert(nil, []float32{1, 1, 1, 1})
	c.Reset()
	for _, v := range c.Flush(c.Convert(nil, make([]float32, 2*480))) {
		if v != 0 {
			t.Fatal("something is left from the stream before")
		}
	}
	for _, pick := range [][]int{{3}, {-1}} {
		if _, err := NewConverter(3, 8000, 0, pick, false); hal.CodeOf(err) != hal.CodeConfig {
			t.Errorf("pick %v: %v", pick, err)
		}
	}
}

func BenchmarkResample(b *testing.B) {
	for _, p := range pairs[:3] {
		b.Run(fmt.Sprintf("%d-%d", p[0], p[1]), func(b *testing.B) {
			r := newResampler(b, 1, p[0], p[1])
			src, dst := tone(440, p[0], p[0]), make([]float32, 0, p[1]+10)
			for b.Loop() { // a second of sound
				dst = r.Resample(dst[:0], src)
			}
		})
	}
}
