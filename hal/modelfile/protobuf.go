package modelfile

import "encoding/binary"

// A message is a protobuf message in a file: the bytes from at to end. Reading it
// consumes it. It goes through the pager, so that a tensor of any size is stepped
// over and never read.
type message struct {
	p       *pager
	at, end int64
}

// A field is one field of a message: a number, or the bytes of a text, of packed
// numbers or of a message.
type field struct {
	number int
	wire   uint8
	value  uint64  // of a number
	body   message // of bytes
}

// Wire types of protobuf.
const (
	wireVarint = 0
	wireFixed8 = 1
	wireBytes  = 2
	wireFixed4 = 5
)

// next reads the next field; ok is false at the end and after an error.
func (m *message) next() (f field, ok bool) {
	if m.p.err != nil || m.at >= m.end || !m.p.spend(1) {
		return field{}, false
	}
	key := m.varint()
	f.number, f.wire, f.body.p = int(key>>3), uint8(key&7), m.p
	if key>>3 == 0 || key>>3 > 1<<29-1 {
		m.p.broken("field %d at byte %d", key>>3, m.at)
		return field{}, false
	}
	switch f.wire {
	case wireVarint:
		f.value = m.varint()
	case wireFixed8:
		f.value = m.fixed(8)
	case wireFixed4:
		f.value = m.fixed(4)
	case wireBytes:
		n := m.varint()
		if n > uint64(m.end-m.at) {
			m.over(n)
			return field{}, false
		}
		f.body = message{m.p, m.at, m.at + int64(n)}
		m.at = f.body.end
	default:
		m.p.broken("wire type %d at byte %d", f.wire, m.at)
	}
	return f, m.p.err == nil
}

// over says that n bytes from here do not fit the message.
func (m *message) over(n uint64) {
	if m.end == m.p.size && n < 1<<40 {
		m.p.short(m.at + int64(n))
		return
	}
	m.p.broken("%d bytes at byte %d, where %d are left", n, m.at, m.end-m.at)
}

func (m *message) varint() uint64 {
	var b [binary.MaxVarintLen64]byte
	left := b[:max(0, min(int64(len(b)), m.end-m.at))]
	if m.p.read(m.at, left); m.p.err != nil {
		return 0
	}
	v, n := binary.Uvarint(left)
	switch {
	case n > 0:
		m.at += int64(n)
	case n == 0 && len(left) < len(b):
		m.over(uint64(len(left)) + 1)
	default:
		m.p.broken("number of more than 64 bits at byte %d", m.at)
	}
	return v
}

func (m *message) fixed(n int64) uint64 {
	if n > m.end-m.at {
		m.over(uint64(n))
		return 0
	}
	var b [8]byte
	m.p.read(m.at, b[:n])
	m.at += n
	return binary.LittleEndian.Uint64(b[:])
}

// each calls fn with every field until one is broken.
func (m message) each(fn func(f field)) {
	for {
		f, ok := m.next()
		if !ok {
			return
		}
		fn(f)
	}
}

// bytes is the content of a field of at most limit bytes.
func (f field) bytes(p *pager, limit int64) []byte {
	n := f.body.end - f.body.at
	if f.wire != wireBytes || n > limit {
		p.broken("field %d of %d bytes, at most %d are allowed", f.number, n, limit)
		return nil
	}
	if n == 0 || !p.spend(n) {
		return nil
	}
	b := make([]byte, n)
	p.read(f.body.at, b)
	return b
}

func (f field) text(p *pager) string { return string(f.bytes(p, maxName)) }

// longs appends a repeated number, packed or not, to v, limit numbers at most.
func (f field) longs(v []int64, limit int) []int64 {
	if f.wire != wireBytes {
		return append(v, int64(f.value))
	}
	for body := f.body; body.at < body.end && body.p.err == nil && len(v) <= limit; {
		v = append(v, int64(body.varint()))
	}
	return v
}
