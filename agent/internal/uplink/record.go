package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// A class is a kind of message that must not be lost. Their order is the order
// in which they are sent.
type class int

const (
	classExec class = iota
	classEvent
	classResult
	classes
)

func (c class) String() string { return [...]string{"exec", "event", "result"}[c] }

// A side is one of the two links.
type side int

const (
	fleetSide side = iota
	homeSide
	sides
)

func (s side) String() string { return [...]string{"fleet", "home"}[s] }

// A body is what a record says, the same for every link: its seq comes in front
// when it is sent.
type body struct {
	at   time.Time
	keep bool   // never dropped by a cap
	key  string // pipeline or execution: the end of the topic
	json []byte // an object
}

// A span is a range of seq that will never come, and why.
type span struct {
	from, to uint64
	reason   string
	at       time.Time
	key      string
}

var (
	errCRC     = errors.New("checksum is wrong")
	errRecord  = errors.New("record is malformed")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// On disk every value is CRC32C, then the rest. Numbers are big endian.

func seal(v []byte) []byte {
	binary.BigEndian.PutUint32(v, crc32.Checksum(v[4:], castagnoli))
	return v
}

func unseal(v []byte) ([]byte, error) {
	if len(v) < 4 || binary.BigEndian.Uint32(v) != crc32.Checksum(v[4:], castagnoli) {
		return nil, errCRC
	}
	return v[4:], nil
}

func encodeBody(b body) []byte {
	v := make([]byte, 4, 4+8+1+1+len(b.key)+len(b.json))
	v = binary.BigEndian.AppendUint64(v, uint64(b.at.UnixMilli()))
	v = append(v, flag(b.keep), byte(len(b.key)))
	v = append(v, b.key...)
	return seal(append(v, b.json...))
}

// decodeBody's result points into v.
func decodeBody(v []byte) (b body, err error) {
	v, err = unseal(v)
	if err != nil {
		return b, err
	}
	if len(v) < 10 || len(v) < 10+int(v[9])+2 {
		return b, errRecord
	}
	n := 10 + int(v[9])
	return body{
		at:   time.UnixMilli(int64(binary.BigEndian.Uint64(v))),
		keep: v[8] == 1, key: string(v[10:n]), json: v[n:],
	}, nil
}

// An entry is what one link still has to get: a record under its seq, or the
// news that a span is lost.
type entry struct {
	seq  uint64
	lost *span
}

func encodeEntry(e entry) []byte {
	v := make([]byte, 4, 64)
	if e.lost == nil {
		return seal(binary.BigEndian.AppendUint64(append(v, 'r'), e.seq))
	}
	v = binary.BigEndian.AppendUint64(append(v, 'l'), e.lost.from)
	v = binary.BigEndian.AppendUint64(v, e.lost.to)
	v = binary.BigEndian.AppendUint64(v, uint64(e.lost.at.UnixMilli()))
	v = append(v, byte(len(e.lost.reason)))
	v = append(v, e.lost.reason...)
	return seal(append(v, e.lost.key...))
}

func decodeEntry(v []byte) (e entry, err error) {
	v, err = unseal(v)
	if err != nil {
		return e, err
	}
	switch {
	case len(v) == 9 && v[0] == 'r':
		return entry{seq: binary.BigEndian.Uint64(v[1:])}, nil
	case len(v) >= 26 && v[0] == 'l' && len(v) >= 26+int(v[25]):
		n := 26 + int(v[25])
		l := &span{
			from: binary.BigEndian.Uint64(v[1:]), to: binary.BigEndian.Uint64(v[9:]),
			at:     time.UnixMilli(int64(binary.BigEndian.Uint64(v[17:]))),
			reason: string(v[26:n]), key: string(v[n:]),
		}
		return entry{seq: l.to, lost: l}, nil
	}
	return e, errRecord
}

// A counter is how far the seq of one class and link has come: last was used for
// certain, nothing above reserved was.
type counter struct{ last, reserved uint64 }

func encodeCounter(c counter) []byte {
	v := binary.BigEndian.AppendUint64(make([]byte, 4, 20), c.last)
	return seal(binary.BigEndian.AppendUint64(v, c.reserved))
}

func decodeCounter(v []byte) (c counter, err error) {
	if v == nil {
		return c, nil
	}
	v, err = unseal(v)
	if err != nil {
		return c, err
	}
	if len(v) != 16 {
		return c, errRecord
	}
	return counter{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])}, nil
}

func position(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func atPosition(key []byte) (uint64, error) {
	if len(key) != 8 {
		return 0, fmt.Errorf("key of %d bytes: %w", len(key), errRecord)
	}
	return binary.BigEndian.Uint64(key), nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
