package ladder

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/covey-edge/covey/hal"
)

// madeUp are inputs for a model that has no golden samples: noise, and two that
// look like pictures or waves (slow changes and an edge). The same every time.
func madeUp(inputs []hal.TensorInfo) []hal.Sample {
	samples := make([]hal.Sample, 3)
	for n := range samples {
		random := rand.New(rand.NewPCG(1, uint64(n)))
		for _, t := range inputs {
			var shape func(i, size int) float64
			switch n {
			case 0:
				shape = func(int, int) float64 { return random.Float64() }
			default:
				turns := float64(3 * n)
				shape = func(i, size int) float64 {
					at := float64(i) / float64(max(1, size))
					v := 0.5 + 0.35*math.Sin(2*math.Pi*turns*at) + 0.1*random.Float64()
					if at > 0.6 {
						v *= 0.4
					}
					return min(1, max(0, v))
				}
			}
			samples[n].Inputs = append(samples[n].Inputs, tensor(t, shape))
		}
	}
	return samples
}

// tensor makes a tensor's bytes of values in 0..1. Integers that are not
// quantised may be indices, so they stay 0 and 1.
func tensor(t hal.TensorInfo, at func(i, size int) float64) []byte {
	n, size := max(0, t.Elements()), t.Type.Size()
	b := make([]byte, n*size)
	le := binary.LittleEndian
	for i := range n {
		v, to := at(i, n), b[i*size:]
		switch t.Type {
		case hal.Float32:
			le.PutUint32(to, math.Float32bits(float32(v)))
		case hal.Float64:
			le.PutUint64(to, math.Float64bits(v))
		case hal.Float16:
			le.PutUint16(to, half(v))
		case hal.Uint8:
			to[0] = byte(v * math.MaxUint8)
		case hal.Int8:
			to[0] = byte(int8(math.Round(v*math.MaxUint8) + math.MinInt8))
		case hal.Int16:
			le.PutUint16(to, uint16(int16(v*math.MaxInt16)))
		case hal.Bool, hal.Int32, hal.Int64, hal.Uint32, hal.Uint64, hal.Uint16:
			to[0] = byte(math.Round(v))
		}
	}
	return b
}

// half is v in 0..1 as a float16, cut off behind its ten digits.
func half(v float64) uint16 {
	if v < 1.0/(1<<14) {
		return 0 // below the smallest normal one
	}
	frac, exp := math.Frexp(v) // v = frac × 2^exp, frac in 0.5..1
	return uint16(exp-1+15)<<10 | uint16((frac*2-1)*1024)
}

// unhalf is the value of a float16.
func unhalf(h uint16) float64 {
	frac, exp := float64(h&0x3ff)/1024, int(h>>10&0x1f)
	v := math.Ldexp(1+frac, exp-15)
	switch exp {
	case 0:
		v = math.Ldexp(frac, -14)
	case 31:
		v = math.Inf(1)
		if frac != 0 {
			v = math.NaN()
		}
	}
	if h>>15 != 0 {
		v = -v
	}
	return v
}
