// Package pack is how a block of a blob travels: as it is, compressed, or as the
// difference from bytes that the other end has already, whichever is shortest. Both
// ends import it. It touches nothing.
//
// A difference is taken byte by byte, new minus old: weights that training moved a
// little become zeros and a few small numbers, which need little more than their
// entropy. It is coded by zstd, or by a plain entropy coder (FSE), which does better
// where no two stretches are alike.
package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/fse"
	"github.com/klauspost/compress/zstd"

	"github.com/covey-edge/covey/fleet/wire"
)

// offsetBytes is how many bytes say where in the base the old bytes begin.
const offsetBytes = 4

// A Packer may be used by many goroutines.
type Packer struct {
	zip     *zstd.Encoder
	scratch sync.Pool // of *scratch
}

type scratch struct {
	diff, zip []byte
	fse       fse.Scratch
}

// NewPacker makes a Packer for so many goroutines.
func NewPacker(goroutines int) *Packer {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(goroutines),
		zstd.WithEncoderCRC(false), // the block's hash says more
		// Weights hardly repeat, but are not evenly spread: by default nothing would be won.
		zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		panic(err) // only for options that do not exist
	}
	return &Packer{zip: zip, scratch: sync.Pool{New: func() any { return &scratch{} }}}
}

// Pack appends a block to to: a flag byte, then what Unpack makes the block of. The
// block is at offset at of its file. base is what the other end has; nil: nothing.
func (p *Packer) Pack(to, block []byte, at int64, base *Base) []byte {
	begin := len(to)
	to = p.zip.EncodeAll(block, append(to, wire.BlockZstd))
	if len(to)-begin > len(block)*31/32 { // not worth the work on a board
		to = append(append(to[:begin], wire.BlockRaw), block...)
	}
	old, from := base.alike(block, at)
	if old == nil {
		return to
	}
	s := p.scratch.Get().(*scratch)
	defer p.scratch.Put(s)
	s.diff = append(s.diff[:0], block...)
	for i := range old {
		s.diff[i] -= old[i]
	}
	s.zip = p.zip.EncodeAll(s.diff, s.zip[:0])
	flag, best := byte(wire.BlockDiff), s.zip
	if coded, err := fse.Compress(s.diff, &s.fse); err == nil && len(coded) < len(best) { // else it cannot be made shorter
		flag, best = wire.BlockDiffFSE, coded
	}
	if 1+offsetBytes+len(best) < len(to)-begin {
		to = append(to[:begin], flag)
		to = binary.BigEndian.AppendUint32(to, uint32(from))
		to = append(to, best...)
	}
	return to
}

const (
	reach   = wire.BlockSize // how far to both sides of a block its old bytes are looked for
	anchors = 16             // stretches of a block that are looked for
	stretch = 12             // bytes of one
	patient = 1              // blocks in a row for which nothing was found; then it is not looked for any more
	sample  = 16             // of so many bytes one is compared
	enough  = 16             // of so many bytes one is the same where old bytes are alike; by chance it is one in fifty
)

// A Base is a blob that the other end has, used by one goroutine at a time.
type Base struct {
	R io.ReaderAt

	shift  int64 // of the last block that was found
	missed int   // blocks in a row that were not
	old    []byte
	window []byte
}

// alike finds the old bytes of a block, and where they are in the base. nil: there
// are none that are alike. The old bytes may be fewer than the block's; they are good
// until the next call.
func (b *Base) alike(block []byte, at int64) (old []byte, from int64) {
	if b == nil {
		return nil, 0
	}
	// Where the last one was, in the same place, and elsewhere.
	for _, shift := range []int64{b.shift, 0} {
		if b.old = b.read(b.old, at+shift, len(block)); same(block, b.old) {
			b.shift, b.missed = shift, 0
			return b.old, at + shift
		}
		if b.shift == 0 {
			break
		}
	}
	if b.missed >= patient {
		return nil, 0
	}
	if old, from = b.search(block, at); old == nil {
		b.missed++
		return nil, 0
	}
	b.shift, b.missed = from-at, 0
	return old, from
}

// search looks for a few stretches of a block around its place.
func (b *Base) search(block []byte, at int64) (old []byte, from int64) {
	begin := max(0, at-reach)
	b.window = b.read(b.window, begin, len(block)+2*reach)
	for i := range anchors {
		in := i * len(block) / anchors
		if len(block)-in < stretch || constant(block[in:in+stretch]) {
			continue
		}
		found := bytes.Index(b.window, block[in:in+stretch]) - in
		if found < -in {
			continue
		}
		if found < 0 { // its old bytes would begin before the file; the next block's do not
			b.shift, b.missed = begin+int64(found)-at, b.missed-1
			return nil, 0
		}
		if old = b.window[found:min(found+len(block), len(b.window))]; same(block, old) {
			return old, begin + int64(found)
		}
	}
	return nil, 0
}

// read reads up to n bytes of the base into buf. None is what cannot be read.
func (b *Base) read(buf []byte, at int64, n int) []byte {
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	if at < 0 {
		return buf[:0]
	}
	got, err := b.R.ReadAt(buf[:n], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return buf[:0]
	}
	return buf[:got]
}

// same says whether old bytes are alike.
func same(block, old []byte) bool {
	n := 0
	for i := 0; i < len(old); i += sample {
		if block[i] == old[i] {
			n++
		}
	}
	return n > len(block)/sample/enough
}

func constant(b []byte) bool { return bytes.Count(b, b[:1]) == len(b) }

// ErrPacked says that a packed block cannot be read.
var ErrPacked = errors.New("packed block cannot be read")

// An Unpacker is used by one goroutine at a time; Close frees it.
type Unpacker struct {
	zip *zstd.Decoder
	fse fse.Scratch
	buf []byte
	old []byte
}

// NewUnpacker makes an Unpacker. Whatever it is given, it makes no more of it than a
// block, and needs no more memory than a few.
func NewUnpacker() (*Unpacker, error) {
	zip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(wire.BlockSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &Unpacker{zip: zip, buf: make([]byte, 0, wire.BlockSize)}, nil
}

// Close frees what the Unpacker holds.
func (u *Unpacker) Close() { u.zip.Close() }

// Unpack makes a block of what Pack made of it. base has the bytes that Pack's had;
// nil: there is none. The result is good until the next call, and is to be held
// against its hash: broken input may give any bytes. Errors wrap ErrPacked.
func (u *Unpacker) Unpack(packed []byte, base io.ReaderAt) (block []byte, err error) {
	if len(packed) == 0 {
		return nil, ErrPacked
	}
	flag, rest := packed[0], packed[1:]
	var from uint32
	if flag == wire.BlockDiff || flag == wire.BlockDiffFSE {
		if len(rest) < offsetBytes || base == nil {
			return nil, ErrPacked
		}
		from, rest = binary.BigEndian.Uint32(rest), rest[offsetBytes:]
	}
	switch flag {
	case wire.BlockRaw:
		return rest, nil
	case wire.BlockZstd, wire.BlockDiff:
		block, err = u.zip.DecodeAll(rest, u.buf)
	case wire.BlockDiffFSE:
		u.fse.DecompressLimit = wire.BlockSize
		block, err = fse.Decompress(rest, &u.fse)
	default:
		return nil, ErrPacked
	}
	if err != nil || len(block) > wire.BlockSize {
		return nil, errors.Join(ErrPacked, err)
	}
	if flag == wire.BlockZstd {
		return block, nil
	}
	if u.old == nil {
		u.old = make([]byte, wire.BlockSize)
	}
	n, err := base.ReadAt(u.old[:len(block)], int64(from))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(ErrPacked, err)
	}
	for i := range n {
		block[i] += u.old[i]
	}
	return block, nil
}
