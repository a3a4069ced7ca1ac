package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// ErrBlock marks a block whose bytes are not the promised ones. It was not
// taken and can be asked for again.
var ErrBlock = errors.New("bad block")

// syncEvery is how many blocks are written between two syncs: a power cut costs
// at most that many again.
const syncEvery = 64

// A Bitmap has one bit for each block, the lowest bit of the first byte first.
type Bitmap []byte

// Has says whether bit n is set.
func (b Bitmap) Has(n int) bool { return n >= 0 && n/8 < len(b) && b[n/8]>>(n%8)&1 == 1 }

// Count is the number of bits set.
func (b Bitmap) Count() int {
	n := 0
	for i := range len(b) * 8 {
		if b.Has(i) {
			n++
		}
	}
	return n
}

func (b Bitmap) set(n int)   { b[n/8] |= 1 << (n % 8) }
func (b Bitmap) clear(n int) { b[n/8] &^= 1 << (n % 8) }

// A Partial is a blob that is being received block by block, in any order. It is
// used by one goroutine at a time, and there is one of a blob at a time.
//
// There is no file that says which blocks are here: their own hashes say it.
// Going on after a restart reads what was written and keeps each block that is
// right, so what is believed can never differ from what is on the disk.
type Partial struct {
	s       *Store
	sha     wire.Digest
	length  int64
	hashes  []byte // 32 bytes a block, or none
	f       File
	missing Bitmap
	left    int // blocks missing
	dirty   int // blocks written since the last sync

	sum  hash.Hash // over blocks 0 … next-1
	next int
	buf  []byte
}

// Receive begins to receive a blob of length bytes, or goes on with one. hashes
// holds the SHA-256 of each block, 32 bytes each, and may be nil: then a block
// is only checked for its length, and nothing is kept over a restart. The
// caller closes the Partial. Errors: E_LENGTH, E_DISK_FULL (before a byte is
// asked for), E_MANIFEST when hashes does not fit length.
func (s *Store) Receive(sha wire.Digest, length int64, hashes []byte) (*Partial, error) {
	if err := s.admit(sha, length, 0); err != nil {
		return nil, err
	}
	n := Blocks(length)
	if hashes != nil && len(hashes) != n*sha256.Size {
		return nil, &hal.Error{Code: hal.CodeManifest, Text: fmt.Sprintf("%d bytes of block hashes for %d blocks", len(hashes), n)}
	}
	p := &Partial{s: s, sha: sha, length: length, hashes: hashes, missing: make(Bitmap, (n+7)/8), left: n, sum: sha256.New()}
	for i := range n {
		p.missing.set(i)
	}
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("receive blob %s: %w", sha.Short(), Coded(err, s.dir))
	}
	if err := s.admit(sha, length, min(length, int64(p.left)*wire.BlockSize)); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Blocks is the number of blocks of a file of length bytes.
func Blocks(length int64) int { return int((length + wire.BlockSize - 1) / wire.BlockSize) }

func (p *Partial) open() error {
	name := p.s.Path(p.sha) + partSuffix
	fi, err := p.s.fs.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Longer than it may be: left by a manifest that lied about the length.
	if err != nil || p.hashes == nil || fi.Size() > p.length {
		p.f, err = p.s.fs.Create(name)
		return err
	}
	if p.f, err = p.s.fs.OpenRW(name); err != nil {
		return err
	}
	if err = p.recall(); err != nil {
		p.f.Close()
	}
	return err
}

// recall finds the blocks that an earlier Partial wrote.
func (p *Partial) recall() error {
	buf := make([]byte, wire.BlockSize)
	for n := range Blocks(p.length) {
		b := buf[:p.blockLen(n)]
		got, err := p.f.ReadAt(b, int64(n)*wire.BlockSize)
		if got < len(b) && err == io.EOF {
			break // nothing was written this far
		}
		if got < len(b) {
			return err
		}
		if p.right(n, b) {
			p.have(n, b)
		}
	}
	return nil
}

func (p *Partial) blockLen(n int) int {
	return int(min(wire.BlockSize, p.length-int64(n)*wire.BlockSize))
}

func (p *Partial) right(n int, data []byte) bool {
	if p.hashes == nil {
		return true
	}
	sum := sha256.Sum256(data)
	return bytes.Equal(sum[:], p.hashes[n*sha256.Size:][:sha256.Size])
}

// have notes that block n is written, and hashes it if it is the next one.
func (p *Partial) have(n int, data []byte) {
	p.missing.clear(n)
	p.left--
	if n == p.next {
		p.sum.Write(data)
		p.next++
	}
}

// catchUp hashes the blocks behind one that was waited for, while the link brings more.
// What cannot be read now is left to Finish.
func (p *Partial) catchUp() {
	for ; p.next < Blocks(p.length) && !p.missing.Has(p.next); p.next++ {
		if p.buf == nil {
			p.buf = make([]byte, wire.BlockSize)
		}
		b := p.buf[:p.blockLen(p.next)]
		if n, _ := p.f.ReadAt(b, int64(p.next)*wire.BlockSize); n < len(b) {
			return
		}
		p.sum.Write(b)
	}
}

// Len is the length of the blob, bytes.
func (p *Partial) Len() int64 { return p.length }

// Missing is the blocks that are still wanted: a copy, the caller's.
func (p *Partial) Missing() Bitmap { return bytes.Clone(p.missing) }

// Left is the number of blocks that are still wanted.
func (p *Partial) Left() int { return p.left }

// WriteBlock takes block n. It keeps nothing of data. An error that wraps
// ErrBlock means the bytes are not block n: ask again. A block that is here
// already is ignored.
func (p *Partial) WriteBlock(n int, data []byte) error {
	if n < 0 || n >= Blocks(p.length) {
		return fmt.Errorf("block %d of %d of %s: %w", n, Blocks(p.length), p.sha.Short(), ErrBlock)
	}
	if !p.missing.Has(n) {
		return nil
	}
	if len(data) != p.blockLen(n) {
		return fmt.Errorf("block %d of %s has %d bytes instead of %d: %w", n, p.sha.Short(), len(data), p.blockLen(n), ErrBlock)
	}
	if !p.right(n, data) {
		return fmt.Errorf("block %d of %s has the wrong hash: %w", n, p.sha.Short(), ErrBlock)
	}
	if _, err := p.f.WriteAt(data, int64(n)*wire.BlockSize); err != nil {
		return fmt.Errorf("write block %d of %s: %w", n, p.sha.Short(), Coded(err, p.s.dir))
	}
	p.have(n, data)
	p.catchUp()
	if p.dirty++; p.dirty >= syncEvery {
		p.dirty = 0
		if err := p.s.Room(1); err != nil { // others write here, too, and the state must fit
			return fmt.Errorf("write block %d of %s: %w", n, p.sha.Short(), err)
		}
		if err := p.f.Sync(); err != nil {
			return fmt.Errorf("sync blob %s: %w", p.sha.Short(), Coded(err, p.s.dir))
		}
	}
	return nil
}

// Finish checks the whole and makes it a blob, durable when Finish returns nil.
// With the wrong hash (E_HASH) everything received is thrown away.
func (p *Partial) Finish(ctx context.Context) error {
	if p.left > 0 {
		return fmt.Errorf("finish blob %s: %d blocks are missing", p.sha.Short(), p.left)
	}
	err := p.finish(ctx)
	if err != nil {
		return fmt.Errorf("finish blob %s: %w", p.sha.Short(), Coded(err, p.s.dir))
	}
	return nil
}

func (p *Partial) finish(ctx context.Context) error {
	// What has all before it is hashed already.
	from := int64(p.next) * wire.BlockSize
	if from < p.length {
		rest := io.NewSectionReader(p.f, from, p.length-from)
		if _, err := io.CopyBuffer(p.sum, &ctxReader{ctx, rest}, make([]byte, wire.BlockSize)); err != nil {
			p.sum, p.next = sha256.New(), 0 // a second Finish reads it all
			return err
		}
	}
	part := p.s.Path(p.sha) + partSuffix
	if err := checkSum(p.sha, p.sum.Sum(nil)); err != nil {
		return errors.Join(err, p.s.fs.Remove(part))
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	if err := p.s.fs.Rename(part, p.s.Path(p.sha)); err != nil {
		return err
	}
	return p.s.fs.SyncDir(p.s.dir)
}

// Close ends receiving; what is here stays for the next Receive.
func (p *Partial) Close() error { return p.f.Close() }
