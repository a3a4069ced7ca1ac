package signal

import (
	"fmt"
	"math"
	"time"

	"github.com/covey-edge/covey/hal"
)

// The low-pass of a Resampler is a sinc under a Kaiser window (J. F. Kaiser, 1974),
// made for the lower of the two rates: what is below passBand of its half is kept
// within 0.001 dB, what is above the half is damped by stopBand dB.
const (
	passBand = 0.9
	stopBand = 96.
)

// Bounds of a Resampler. Every usual pair of rates between 8 and 192 kHz is within.
const (
	mostRate  = 1 << 20
	mostTable = 1 << 20 // coefficients
)

// A Resampler changes the rate of a stream of samples by a rational factor. It
// keeps the end of what it has seen, so that a stream may come in pieces of any
// size; the result is the same to the bit. One goroutine at a time.
type Resampler struct {
	channels, from int
	up, down       int // from × up / down = to
	taps           int // even; input samples that an output sample is made of
	table          [][]float32

	in    [][]float32 // each channel's input that is still needed
	phase int         // of the next output behind the input sample it begins at, 1/up samples
	whole bool        // the rates are equal: samples are copied
}

// NewResampler makes a Resampler between two rates, in samples a second. Rates
// that it cannot serve are E_CONFIG.
func NewResampler(channels, from, to int) (*Resampler, error) {
	if channels < 1 || from < 1 || to < 1 || from > mostRate || to > mostRate {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf(
			"resample %d channels from %d to %d Hz: give rates of 1 to %d", channels, from, to, mostRate)}
	}
	g := gcd(from, to)
	r := &Resampler{channels: channels, from: from, up: to / g, down: from / g, whole: from == to}
	if r.whole {
		return r, nil
	}
	// Kaiser's estimate of a filter's length, at the lower rate.
	length := (stopBand - 7.95) / (2.285 * math.Pi * (1 - passBand))
	stretch := max(1, float64(r.down)/float64(r.up))
	r.taps = 2 * int(math.Ceil(length*stretch/2))
	if r.taps*r.up > mostTable {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf(
			"resample from %d to %d Hz: the ratio %d/%d is too fine, choose a rate nearer to a simple fraction", from, to, r.up, r.down)}
	}
	r.table = kernels(r.up, r.taps, (1+passBand)/2/stretch)
	r.in = make([][]float32, channels)
	r.Reset()
	return r, nil
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// kernels is the low-pass at each phase: coefficient k of phase p weighs the input
// sample that is k - (taps/2 - 1) - p/up samples away. cutoff is in halves of the
// input's rate.
func kernels(up, taps int, cutoff float64) [][]float32 {
	beta := .1102 * (stopBand - 8.7)
	half := float64(taps) / 2
	table, flat := make([][]float32, up), make([]float32, up*taps)
	row := make([]float64, taps)
	for p := range table {
		sum := 0.
		for k := range row {
			t := float64(k-taps/2+1) - float64(p)/float64(up)
			row[k] = sinc(cutoff*t) * bessel(beta*math.Sqrt(max(0, 1-t*t/half/half)))
			sum += row[k]
		}
		// Each phase has a sum of one, so that a constant stays one.
		table[p] = flat[p*taps : (p+1)*taps]
		for k, v := range row {
			table[p][k] = float32(v / sum)
		}
	}
	return table
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	return math.Sin(math.Pi*x) / (math.Pi * x)
}

// bessel is the modified Bessel function of the first kind and order zero.
func bessel(x float64) float64 {
	sum, term := 1., 1.
	for k := 1.; term > sum*1e-17; k++ {
		term *= x * x / 4 / k / k
		sum += term
	}
	return sum
}

// Reset forgets the stream: what comes next does not continue it.
func (r *Resampler) Reset() {
	r.phase = 0
	for c := range r.in {
		r.in[c] = append(r.in[c][:0], make([]float32, r.taps/2-1)...)
	}
}

// Latency is how far the output is behind the input: the last sample returned by
// Resample is from that long before the last one given to it, or up to one output
// sample more.
func (r *Resampler) Latency() time.Duration {
	return time.Duration(float64(r.taps/2) / float64(r.from) * float64(time.Second))
}

// Resample appends to dst what follows from src, samples of all channels in turns.
func (r *Resampler) Resample(dst, src []float32) []float32 {
	n := len(src) / r.channels
	if r.whole {
		return append(dst, src[:n*r.channels]...)
	}
	const piece = 1024 // keeps the input's memory small
	for i := 0; i < n; i += piece {
		part := src[i*r.channels : min(i+piece, n)*r.channels]
		for c := range r.in {
			for k := c; k < len(part); k += r.channels {
				r.in[c] = append(r.in[c], part[k])
			}
		}
		dst = r.drain(dst)
	}
	return dst
}

// drain appends all output that the input suffices for.
func (r *Resampler) drain(dst []float32) []float32 {
	from := 0
	for from+r.taps <= len(r.in[0]) {
		kernel := r.table[r.phase]
		for _, in := range r.in {
			dst = append(dst, dot(kernel, in[from:from+r.taps]))
		}
		r.phase += r.down
		from += r.phase / r.up
		r.phase %= r.up
	}
	for c, in := range r.in {
		r.in[c] = in[:copy(in, in[from:])]
	}
	return dst
}

// dot has four sums, so that additions need not wait for each other.
func dot(a, b []float32) float32 {
	var s0, s1, s2, s3 float32
	for len(a) >= 4 && len(b) >= 4 {
		s0 += a[0] * b[0]
		s1 += a[1] * b[1]
		s2 += a[2] * b[2]
		s3 += a[3] * b[3]
		a, b = a[4:], b[4:]
	}
	for i := range min(len(a), len(b)) {
		s0 += a[i] * b[i]
	}
	return s0 + s1 + (s2 + s3)
}

// Flush appends what is left at the end of a stream, as if silence followed, and
// resets. A stream of n samples has then become ⌈n·to/from⌉.
func (r *Resampler) Flush(dst []float32) []float32 {
	if !r.whole {
		dst = r.Resample(dst, make([]float32, r.taps/2*r.channels))
		r.Reset()
	}
	return dst
}
