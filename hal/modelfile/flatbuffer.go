package modelfile

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/covey-edge/covey/hal"
)

// A pager reads a file through a few cached pages, so that a model of any size
// costs the same memory. Reads outside of the file set err and return zeros;
// the first error sticks, and every loop over the file ends because lengths read
// after it are 0.
type pager struct {
	r     io.ReaderAt
	size  int64
	pages [pageCount]page
	next  int   // page to replace
	left  int64 // bytes that may still be copied out of the file
	err   error
}

const (
	pageSize  = 16 << 10
	pageCount = 32
	// maxCopied bounds what Parse keeps: names, shapes, quantisation, and what a
	// hostile file makes it read twice by pointing to one place many times.
	maxCopied = 32 << 20
)

type page struct {
	off  int64
	data []byte
}

func newPager(r io.ReaderAt, size int64) *pager {
	return &pager{r: r, size: size, left: maxCopied}
}

// read fills b from off.
func (p *pager) read(off int64, b []byte) {
	for len(b) > 0 && p.err == nil {
		if off < 0 || off+int64(len(b)) > p.size {
			p.short(off + int64(len(b)))
			return
		}
		pg := p.page(off - off%pageSize)
		if pg == nil {
			return
		}
		n := copy(b, pg.data[off-pg.off:])
		b, off = b[n:], off+int64(n)
	}
}

func (p *pager) page(off int64) *page {
	for i := range p.pages {
		if p.pages[i].data != nil && p.pages[i].off == off {
			return &p.pages[i]
		}
	}
	pg := &p.pages[p.next]
	p.next = (p.next + 1) % pageCount
	if pg.data == nil {
		pg.data = make([]byte, pageSize)
	}
	n := min(pageSize, p.size-off)
	pg.off, pg.data = off, pg.data[:n]
	if _, err := p.r.ReadAt(pg.data, off); err != nil && err != io.EOF {
		pg.data = nil
		p.err = fmt.Errorf("read model file at %d: %w", off, err)
		return nil
	}
	return pg
}

// short says that the file refers to a byte that it does not have.
func (p *pager) short(end int64) {
	if p.err == nil {
		p.err = &hal.Error{Code: hal.CodeModelShort, Text: fmt.Sprintf(
			"got %d of at least %d bytes: the model file is cut off; copy it again", p.size, end)}
	}
}

// broken says that the file contradicts itself.
func (p *pager) broken(format string, args ...any) {
	if p.err == nil {
		p.err = &hal.Error{Code: hal.CodeModelFormat, Text: "broken model file: " + fmt.Sprintf(format, args...)}
	}
}

func (p *pager) u8(off int64) uint8 {
	var b [1]byte
	p.read(off, b[:])
	return b[0]
}

func (p *pager) u16(off int64) uint16 {
	var b [2]byte
	p.read(off, b[:])
	return binary.LittleEndian.Uint16(b[:])
}

func (p *pager) u32(off int64) uint32 {
	var b [4]byte
	p.read(off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// ref follows the 32-bit offset at off.
func (p *pager) ref(off int64) int64 {
	d := p.u32(off)
	if d == 0 && p.err == nil {
		p.broken("empty reference at byte %d", off)
	}
	return off + int64(d)
}

// spend takes n bytes from the budget of copied bytes.
func (p *pager) spend(n int64) bool {
	if p.err != nil {
		return false
	}
	if p.left -= n; p.left < 0 {
		p.broken("its tables are larger than %d MiB", maxCopied>>20)
		return false
	}
	return true
}

// A table is a flatbuffer table: fields by slot, each optional.
type table struct {
	p    *pager
	base int64
	vt   int64
	vlen int64 // of the vtable, bytes
}

func (p *pager) table(off int64) table {
	t := table{p: p, base: off, vt: off - int64(int32(p.u32(off)))}
	if p.err != nil {
		return t
	}
	if t.vt < 0 {
		p.broken("table at byte %d has its layout before the file", off)
		return t
	}
	t.vlen = int64(p.u16(t.vt))
	if t.vlen < 4 && p.err == nil {
		p.broken("table at byte %d has an empty layout", off)
	}
	return t
}

// field is the position of a field, 0 when it is absent.
func (t table) field(slot int) int64 {
	at := int64(4 + 2*slot)
	if t.p == nil || t.p.err != nil || at+2 > t.vlen {
		return 0
	}
	d := t.p.u16(t.vt + at)
	if d == 0 || t.p.err != nil {
		return 0
	}
	return t.base + int64(d)
}

func (t table) u8(slot int) uint8 {
	if f := t.field(slot); f != 0 {
		return t.p.u8(f)
	}
	return 0
}

func (t table) u32(slot int) uint32 {
	if f := t.field(slot); f != 0 {
		return t.p.u32(f)
	}
	return 0
}

func (t table) u64(slot int) uint64 {
	f := t.field(slot)
	if f == 0 {
		return 0
	}
	var b [8]byte
	t.p.read(f, b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (t table) f32(slot int) float32 { return math.Float32frombits(t.u32(slot)) }

// sub is the table in a slot; ok is false when it is absent.
func (t table) sub(slot int) (s table, ok bool) {
	f := t.field(slot)
	if f == 0 {
		return table{}, false
	}
	s = t.p.table(t.p.ref(f))
	return s, t.p.err == nil
}

// vector is the position and the length of the vector in a slot, whose elements
// have size bytes. At most limit elements are allowed.
func (t table) vector(slot int, size, limit int64) (at, n int64) {
	f := t.field(slot)
	if f == 0 {
		return 0, 0
	}
	at = t.p.ref(f)
	n = int64(t.p.u32(at))
	at += 4
	switch {
	case t.p.err != nil:
		return 0, 0
	case at+n*size > t.p.size:
		t.p.short(at + n*size)
		return 0, 0
	case n > limit:
		t.p.broken("%d entries where at most %d are allowed", n, limit)
		return 0, 0
	}
	return at, n
}

func (t table) bytes(slot int, limit int64) []byte {
	at, n := t.vector(slot, 1, limit)
	if n == 0 || !t.p.spend(n) {
		return nil
	}
	b := make([]byte, n)
	t.p.read(at, b)
	return b
}

func (t table) string(slot int) string {
	at, n := t.vector(slot, 1, maxName)
	if n > 0 && t.p.u8(at+n) != 0 { // the runtime reads strings up to their zero
		t.p.broken("text at byte %d has no end", at)
	}
	return string(t.bytes(slot, maxName))
}

func (t table) ints(slot int, limit int64) []int {
	at, n := t.vector(slot, 4, limit)
	if n == 0 || !t.p.spend(8*n) {
		return nil
	}
	v := make([]int, n)
	for i := range v {
		v[i] = int(int32(t.p.u32(at + 4*int64(i))))
	}
	return v
}

func (t table) floats(slot int, limit int64) []float32 {
	at, n := t.vector(slot, 4, limit)
	if n == 0 || !t.p.spend(4*n) {
		return nil
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(t.p.u32(at + 4*int64(i)))
	}
	return v
}

// longs reads a vector of 64-bit integers; those that do not fit 32 bits break
// the file, because only zero points are read so.
func (t table) longs(slot int, limit int64) []int32 {
	at, n := t.vector(slot, 8, limit)
	if n == 0 || !t.p.spend(4*n) {
		return nil
	}
	v := make([]int32, n)
	var b [8]byte
	for i := range v {
		t.p.read(at+8*int64(i), b[:])
		x := int64(binary.LittleEndian.Uint64(b[:]))
		if v[i] = int32(x); int64(v[i]) != x {
			t.p.broken("zero point %d", x)
		}
	}
	return v
}

// each calls fn with every table of a vector of tables.
func (t table) each(slot int, limit int64, fn func(i int, s table)) {
	at, n := t.vector(slot, 4, limit)
	if !t.p.spend(perTable * n) {
		return
	}
	for i := int64(0); i < n && t.p.err == nil; i++ {
		if s := t.p.table(t.p.ref(at + 4*i)); t.p.err == nil {
			fn(int(i), s)
		}
	}
}

// perTable is what a table costs us at least, counted against maxCopied.
const perTable = 128
