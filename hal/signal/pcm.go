package signal

import (
	"encoding/binary"
	"math"
)

// A PCM says how a sample of sound is stored, in little-endian bytes.
type PCM uint8

const (
	PCMNone  PCM = iota
	PCMUint8     // 128 is silence, as in WAV files
	PCMInt16
	PCMInt24 // 3 bytes
	PCMInt32
	PCMFloat32
	PCMFloat64
)

// Size is the number of bytes of a sample.
func (p PCM) Size() int { return [...]int{0, 1, 2, 3, 4, 4, 8}[p] }

// Decode appends the samples in src to dst, integers as -1..1. Floats come as they
// are, but for those that are no finite number: they are silence. A part of a
// sample at the end is ignored.
func (p PCM) Decode(dst []float32, src []byte) []float32 {
	n := p.Size()
	if n == 0 {
		return dst
	}
	for ; len(src) >= n; src = src[n:] {
		dst = append(dst, p.sample(src))
	}
	return dst
}

func (p PCM) sample(b []byte) float32 {
	switch p {
	case PCMUint8:
		return (float32(b[0]) - 128) / (1 << 7)
	case PCMInt16:
		return float32(int16(binary.LittleEndian.Uint16(b))) / (1 << 15)
	case PCMInt24:
		return float32(int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24)>>8) / (1 << 23)
	case PCMInt32:
		return float32(int32(binary.LittleEndian.Uint32(b))) / (1 << 31)
	}
	v := float32(0)
	if p == PCMFloat32 {
		v = math.Float32frombits(binary.LittleEndian.Uint32(b))
	} else {
		v = float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	}
	if !finite(v) {
		return 0
	}
	return v
}
