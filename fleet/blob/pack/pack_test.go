package pack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/covey-edge/covey/fleet/wire"
)

// weights are bytes as a quantised model has them.
func weights(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(128 + r.NormFloat64()*20)
	}
	return b
}

// moved is b with a part of its bytes one up or down.
func moved(b []byte, part float64) []byte {
	r := rand.New(rand.NewPCG(7, 7))
	b = bytes.Clone(b)
	for i := range b {
		if r.Float64() < part {
			b[i] += byte(1 - 2*int(r.Uint32()&1))
		}
	}
	return b
}

// sent packs a whole file, unpacks it at the other end, and returns the bytes that
// travelled and the flags of the blocks.
func sent(t testing.TB, file, base []byte) (n int, flags map[byte]int) {
	t.Helper()
	p, flags := NewPacker(1), map[byte]int{}
	u, err := NewUnpacker()
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	var b *Base
	if base != nil {
		b = &Base{R: bytes.NewReader(base)}
	}
	for at := 0; at < len(file); at += wire.BlockSize {
		block := file[at:min(at+wire.BlockSize, len(file))]
		packed := p.Pack(nil, block, int64(at), b)
		n += len(packed)
		flags[packed[0]]++
		got, err := u.Unpack(packed, bytes.NewReader(base))
		if err != nil || !bytes.Equal(got, block) {
			t.Fatalf("block at %d with flag %d came back as %d bytes, %v", at, packed[0], len(got), err)
		}
	}
	return n, flags
}

func TestPack(t *testing.T) {
	old := weights(10*wire.BlockSize+777, 1)
	random := make([]byte, 3*wire.BlockSize)
	for i, r := 0, rand.New(rand.NewPCG(1, 1)); i < len(random); i++ {
		random[i] = byte(r.Uint32())
	}
	for _, c := range []struct {
		name       string
		file, base []byte
		flag       byte
		most       float64 // part of the file that may travel
	}{
		{"nothing can be made of it", random, nil, wire.BlockRaw, 1.001},
		{"no base", old, nil, wire.BlockZstd, 0.81},
		{"another training", weights(len(old), 2), old, wire.BlockZstd, 0.81},
		{"one in twenty moved", moved(old, 0.05), old, wire.BlockDiffFSE, 0.05},
		{"one in five moved", moved(old, 0.2), old, wire.BlockDiffFSE, 0.13},
		{"half of them moved", moved(old, 0.5), old, wire.BlockDiffFSE, 0.20},
		{"the same, somewhere else", append(weights(100, 3), old...), old, wire.BlockDiff, 0.09}, // the first block has no place,
		{"moved, somewhere else", append(weights(100, 3), moved(old, 0.05)...), old, wire.BlockDiffFSE, 0.13},
		{"moved, further to the front", moved(old, 0.05)[3*wire.BlockSize/2-3:], old, wire.BlockDiffFSE, 0.06},
		{"moved, too far to be found", moved(old, 0.05)[5*wire.BlockSize:], old, wire.BlockZstd, 0.81},
		{"moved, a little to the front", moved(old, 0.05)[333:], old, wire.BlockDiffFSE, 0.06},
		{"the base ends before", moved(old, 0.05), old[:5*wire.BlockSize+3], wire.BlockDiffFSE, 0.5},
		{"an empty base", old, []byte{}, wire.BlockZstd, 0.81},
	} {
		n, flags := sent(t, c.file, c.base)
		if part := float64(n) / float64(len(c.file)); part > c.most || flags[c.flag] == 0 {
			t.Errorf("%s: %.3f of it travelled, flags %v; want at most %.3f and flag %d", c.name, part, flags, c.most, c.flag)
		}
	}
}

// What cannot be packed well costs one byte, and a block is never longer than that.
func TestBound(t *testing.T) {
	p := NewPacker(1)
	for n := range 40 {
		b := weights(n, uint64(n))
		if got := p.Pack(nil, b, 0, &Base{R: bytes.NewReader(weights(n, 99))}); len(got) > 1+n {
			t.Errorf("%d bytes became %d", n, len(got))
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	u, err := NewUnpacker()
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	old := weights(wire.BlockSize, 1)
	diff := NewPacker(1).Pack(nil, moved(old, 0.1), 0, &Base{R: bytes.NewReader(old)})
	large := NewPacker(1).zip.EncodeAll(make([]byte, wire.BlockSize+1), []byte{wire.BlockZstd})
	for name, packed := range map[string][]byte{"nothing": nil, "unknown flag": {99, 1}, "gone": {wire.BlockGone}, "short": {wire.BlockDiff, 0, 0},
		"not zstd": {wire.BlockZstd, 1, 2, 3}, "not FSE": {wire.BlockDiffFSE, 0, 0, 0, 0, 1}, "too long": large} {
		if b, err := u.Unpack(packed, bytes.NewReader(old)); !errors.Is(err, ErrPacked) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if _, err := u.Unpack(diff, nil); !errors.Is(err, ErrPacked) {
		t.Errorf("a difference from nothing: %v", err)
	}
	if b, err := u.Unpack(diff, bytes.NewReader(weights(wire.BlockSize, 2))); err != nil || bytes.Equal(b, moved(old, 0.1)) {
		t.Errorf("a difference from other bytes gave the right ones, %v", err)
	}
}

func FuzzPack(f *testing.F) {
	f.Add([]byte("block"), []byte("base"), uint16(0))
	f.Add(moved(weights(3000, 1), 0.1), weights(3000, 1), uint16(17))
	f.Add(make([]byte, 5000), make([]byte, 5000), uint16(1))
	p := NewPacker(1)
	u, err := NewUnpacker()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, block, base []byte, at uint16) {
		if len(block) > wire.BlockSize {
			return
		}
		packed := p.Pack(nil, block, int64(at), &Base{R: bytes.NewReader(base)})
		got, err := u.Unpack(packed, bytes.NewReader(base))
		if err != nil || !bytes.Equal(got, block) || len(packed) > len(block)+1 {
			t.Fatalf("%d bytes, flag %d, came back as %d bytes, %v", len(block), packed[0], len(got), err)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	old := weights(2000, 1)
	p := NewPacker(1)
	for _, b := range [][]byte{old, moved(old, 0.1), append([]byte("x"), old...)} {
		f.Add(p.Pack(nil, b, 0, nil))
		f.Add(p.Pack(nil, b, 0, &Base{R: bytes.NewReader(old)}))
	}
	u, err := NewUnpacker()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		if b, err := u.Unpack(packed, bytes.NewReader(old)); err == nil && len(b) > max(wire.BlockSize, len(packed)) {
			t.Fatalf("%d bytes", len(b))
		}
	})
}

func BenchmarkPack(b *testing.B) {
	old := weights(wire.BlockSize, 1)
	for name, c := range map[string]struct{ block, base []byte }{"alone": {old, nil}, "moved": {moved(old, 0.2), old}, "another": {weights(wire.BlockSize, 2), old}} {
		b.Run(name, func(b *testing.B) {
			p, to := NewPacker(1), []byte(nil)
			var base *Base
			if c.base != nil {
				base = &Base{R: bytes.NewReader(c.base)}
			}
			b.SetBytes(wire.BlockSize)
			b.ReportAllocs()
			for b.Loop() {
				to = p.Pack(to[:0], c.block, 0, base)
			}
		})
	}
}

func BenchmarkUnpack(b *testing.B) {
	old := weights(wire.BlockSize, 1)
	packed := NewPacker(1).Pack(nil, moved(old, 0.2), 0, &Base{R: bytes.NewReader(old)})
	u, err := NewUnpacker()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(wire.BlockSize)
	b.ReportAllocs()
	for r := bytes.NewReader(old); b.Loop(); {
		if _, err := u.Unpack(packed, r); err != nil {
			b.Fatal(err)
		}
	}
}
