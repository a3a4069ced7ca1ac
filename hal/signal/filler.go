package signal

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/covey-edge/covey/hal"
)

// Options of a Filler. The zero value is right for most models: float inputs take
// samples as they are, quantised ones by their scale, and plain integers sound at
// their full range.
type Options struct {
	// Scale multiplies samples first; 0 is 1. Some models for wake words want the
	// values of 16-bit sound in floats: 32768.
	Scale float32
	// Mean and Std come after Scale: real = (sample × Scale - Mean) / Std. One
	// value, or one a channel; none is 0 and 1.
	Mean, Std []float32
	// Channels of the frames; 0: the shape tells, of two dimensions the smaller one.
	Channels int
}

// A Filler fills the input tensor of one model with windows of samples. It is made
// once for a model, used by one goroutine at a time, and allocates nothing.
type Filler struct {
	t                 hal.TensorInfo
	samples, channels int
	planar            bool // channel after channel, not in turns
	gain, offset      []float32
	lo, hi            float64 // of an integer
	scale             float32 // 0: floats
	zero              float64
	real              []float32
}

// mostElements bounds a tensor.
const mostElements = 1 << 26

// Window is how many samples of how many channels a model's input takes: [n],
// [1,n], [1,n,c], [1,c,n], [1,1,n], [1,n,1,c] and the like. Of two dimensions the
// smaller one is the channels, unless channels says otherwise; a flat input of n
// takes n/channels samples. Anything else is E_SHAPE.
func Window(t hal.TensorInfo, channels int) (samples, of int, err error) {
	samples, of, _, err = layout(t, channels)
	return samples, of, err
}

func layout(t hal.TensorInfo, channels int) (samples, of int, planar bool, err error) {
	var dims []int
	all := 1
	for _, d := range t.Shape {
		if d < 1 || d > mostElements/all {
			return 0, 0, false, shapeError(t, "dimensions have to be known and not too large: give the input's shape in the configuration")
		}
		if all *= d; d > 1 {
			dims = append(dims, d)
		}
	}
	switch {
	case len(dims) > 2 || channels < 0:
	case len(dims) == 2:
		a, b := dims[0], dims[1]
		if channels == b || channels == 0 && b <= a {
			return a, b, false, nil
		}
		if channels == a || channels == 0 {
			return b, a, true, nil
		}
	case channels == 0:
		return all, 1, false, nil
	case all%channels == 0:
		return all / channels, channels, false, nil
	}
	if len(dims) > 2 {
		return 0, 0, false, shapeError(t, "which is no window of samples: use a model whose input is [1,samples], [1,samples,channels] or [1,channels,samples]")
	}
	return 0, 0, false, shapeError(t, fmt.Sprintf("which does not take %d channels: set the source's channels", channels))
}

func shapeError(t hal.TensorInfo, why string) error {
	return &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf("model wants %v %s in input %.60q, %s", t.Shape, t.Type, t.Name, why)}
}

// NewFiller makes a Filler for an input of a shape that Window knows, of float32,
// float16, int8, uint8 or int16. Anything else is E_SHAPE.
func NewFiller(t hal.TensorInfo, o Options) (*Filler, error) {
	samples, channels, planar, err := layout(t, o.Channels)
	if err != nil {
		return nil, err
	}
	f := &Filler{t: t, samples: samples, channels: channels, planar: planar, real: make([]float32, samples*channels)}
	if !f.integers() {
		return nil, shapeError(t, "a type that samples are not stored in: use float32, float16, int8, uint8 or int16")
	}
	scale := o.Scale
	if scale == 0 {
		scale = 1
	}
	for c := range channels {
		mean, ok1 := perChannel(o.Mean, c, channels, 0)
		std, ok2 := perChannel(o.Std, c, channels, 1)
		gain, offset := scale/std, -mean/std
		if !ok1 || !ok2 || !finite(gain) || !finite(offset) {
			return nil, &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
				"scale %v, mean %v and std %v do not fit %d channels: give one value or one a channel, std not 0", o.Scale, o.Mean, o.Std, channels)}
		}
		f.gain, f.offset = append(f.gain, gain), append(f.offset, offset)
	}
	return f, nil
}

func finite(v float32) bool { return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) }

// integers sets how real numbers become integers; false for a type that is not
// known. Integers without a scale take sound: -1..1 is their full range.
func (f *Filler) integers() bool {
	switch f.t.Type {
	case hal.Float32, hal.Float16:
		return true
	case hal.Int8:
		f.lo, f.hi, f.scale = math.MinInt8, math.MaxInt8, 1./128
	case hal.Uint8:
		f.lo, f.hi, f.scale, f.zero = 0, math.MaxUint8, 1./128, 128
	case hal.Int16:
		f.lo, f.hi, f.scale = math.MinInt16, math.MaxInt16, 1./32768
	default:
		return false
	}
	if q := f.t.Quant; len(q.Scale) > 0 && len(q.ZeroPoint) > 0 && q.Scale[0] > 0 && finite(q.Scale[0]) {
		f.scale, f.zero = q.Scale[0], float64(q.ZeroPoint[0])
	}
	return true
}

// perChannel is the value for channel c of a list that has none, one, or one a
// channel.
func perChannel(list []float32, c, channels int, none float32) (float32, bool) {
	switch len(list) {
	case 0:
		return none, true
	case 1:
		return list[0], true
	case channels:
		return list[c], true
	}
	return 0, false
}

// Fill writes a window of samples into the tensor dst. Errors are E_SHAPE: dst is
// not the tensor that the Filler was made for, or the window does not fit it.
func (f *Filler) Fill(dst []byte, frame *hal.Frame) error {
	size := f.t.Type.Size()
	if len(dst) != f.samples*f.channels*size {
		return &hal.Error{Code: hal.CodeShape, Text: fmt.Sprintf(
			"input has %d bytes, %d samples of %d channels of %s were expected", len(dst), f.samples, f.channels, f.t.Type)}
	}
	if frame.Format != hal.FormatNone {
		return shapeError(f.t, "and the source gives pictures: use a source of samples (alsa, wav, iio, serial, mqtt)")
	}
	if frame.Channels != f.channels || len(frame.Samples) != f.samples*f.channels {
		return shapeError(f.t, fmt.Sprintf("and the source gives windows of %d samples of %d channels: set the source's window to %d and its channels to %d",
			len(frame.Samples)/max(1, frame.Channels), frame.Channels, f.samples, f.channels))
	}
	f.scaleInto(frame.Samples)
	switch {
	case f.t.Type == hal.Float32:
		for i, v := range f.real {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	case f.t.Type == hal.Float16:
		for i, v := range f.real {
			binary.LittleEndian.PutUint16(dst[2*i:], half(v))
		}
	case size == 1:
		for i, v := range f.real {
			dst[i] = byte(f.quantise(v))
		}
	default:
		for i, v := range f.real {
			binary.LittleEndian.PutUint16(dst[2*i:], uint16(f.quantise(v)))
		}
	}
	return nil
}

// scaleInto writes the real values of samples into f.real, in the tensor's order.
func (f *Filler) scaleInto(samples []float32) {
	for c := range f.channels {
		gain, offset := f.gain[c], f.offset[c]
		at, step := c, f.channels
		if f.planar {
			at, step = c*f.samples, 1
		}
		for i := c; i < len(samples); i += f.channels {
			f.real[at] = float32(samples[i]*gain) + offset // not fused: the same on every processor
			at += step
		}
	}
}

// quantise stores a real number as an integer; what is no number is stored as zero.
func (f *Filler) quantise(real float32) int {
	q := math.RoundToEven(float64(real/f.scale)) + f.zero
	if q != q {
		q = f.zero
	}
	return int(max(f.lo, min(f.hi, q)))
}

// half is a float32 as a float16, rounded to the nearest, ties to even. What is too
// large becomes an infinity.
func half(v float32) uint16 {
	bits := math.Float32bits(v)
	sign, abs := uint16(bits>>16&0x8000), bits&0x7fffffff
	switch {
	case abs > 0x7f800000: // no number
		return sign | 0x7e00
	case abs >= 0x47800000: // 65536 and more
		return sign | 0x7c00
	case abs < 0x38800000: // below the smallest normal: units of 2⁻²⁴
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(abs))*(1<<24)))
	}
	abs -= 112 << 23 // from one exponent's bias to the other's
	abs += 0xfff + abs>>13&1
	return sign | uint16(abs>>13) // may carry into an infinity, as it should
}
