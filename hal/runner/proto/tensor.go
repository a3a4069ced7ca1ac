package proto

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/covey-edge/covey/hal"
)

// Opened answers Open: what the model takes and gives, and what runs it.
type Opened struct {
	Inputs      []Tensor        `json:"inputs"`
	Outputs     []Tensor        `json:"outputs"`
	Accelerator hal.Accelerator `json:"accelerator"`
	Threads     int             `json:"threads"`
	Delegated   int             `json:"delegated"` // ops the accelerator took; -1: not known
	Ops         int             `json:"ops"`       // -1: not known
	Tried       []hal.Attempt   `json:"tried,omitempty"`

	Device string `json:"device,omitempty"` // in use, where there are several
	Driver string `json:"driver,omitempty"` // delegate or provider and its version
}

// A Tensor is a tensor of a model with its size in bytes. For an output whose shape
// is known only at run time that is the room it wants: 0 for DynamicRoom.
type Tensor struct {
	hal.TensorInfo
	Bytes int64 `json:"bytes"`
}

// Check says whether everything in o is within the protocol's bounds and fits
// together.
func (o *Opened) Check() error {
	if len(o.Inputs) == 0 || len(o.Outputs) == 0 || len(o.Inputs) > MaxTensors || len(o.Outputs) > MaxTensors {
		return fmt.Errorf("model has %d inputs and %d outputs, limits are 1 to %d", len(o.Inputs), len(o.Outputs), MaxTensors)
	}
	for i, t := range o.Inputs {
		if t.Elements() < 0 || t.Bytes == 0 {
			return fmt.Errorf("input %d (%s) has no fixed size: %v", i, t.Name, t.Shape)
		}
		if err := t.check(); err != nil {
			return fmt.Errorf("input %d: %w", i, err)
		}
	}
	for i, t := range o.Outputs {
		if err := t.check(); err != nil {
			return fmt.Errorf("output %d: %w", i, err)
		}
	}
	if len(o.Tried) > MaxTensors || len(o.Accelerator) > MaxText {
		return fmt.Errorf("%d attempts, limit is %d", len(o.Tried), MaxTensors)
	}
	return nil
}

func (t *Tensor) check() error {
	if len(t.Name) > MaxText {
		return fmt.Errorf("name of %d bytes, limit is %d", len(t.Name), MaxText)
	}
	if len(t.Shape) > MaxRank {
		return fmt.Errorf("%d dimensions, limit is %d", len(t.Shape), MaxRank)
	}
	if n := len(t.Quant.Scale); n != len(t.Quant.ZeroPoint) {
		return fmt.Errorf("%d scales but %d zero points", n, len(t.Quant.ZeroPoint))
	}
	if t.Bytes < 0 || t.Bytes > MaxMapping {
		return fmt.Errorf("%d bytes, limit is %d", t.Bytes, MaxMapping)
	}
	if !slices.Contains(t.Shape, -1) {
		return fits(t.Type, t.Shape, t.Bytes)
	}
	known := slices.DeleteFunc(slices.Clone(t.Shape), func(d int) bool { return d == -1 })
	_, err := volume(t.Type, known)
	return err
}

// fits says whether a tensor of that type and shape has that many bytes.
func fits(d hal.DType, shape []int, bytes int64) error {
	want, err := volume(d, shape)
	if err == nil && d.Size() != 0 && want != bytes { // of int4 and string, only the engine knows
		err = fmt.Errorf("%v of %s is %d bytes, not %d", shape, d, want, bytes)
	}
	return err
}

// volume is what a tensor takes, a byte an element where nobody knows better. Every
// dimension is within bounds then, and so is every product of them.
func volume(d hal.DType, shape []int) (bytes int64, err error) {
	bytes = max(1, int64(d.Size()))
	for _, n := range shape {
		if n < 0 {
			return 0, fmt.Errorf("dimension %d in %v", n, shape)
		}
		if int64(n) > MaxMapping/max(1, bytes) {
			return 0, fmt.Errorf("%v of %s is larger than %d bytes", shape, d, MaxMapping)
		}
		bytes *= int64(n)
	}
	return bytes, nil
}

// Map tells where the tensors of each buffer lie in the memory whose descriptor
// comes with it.
type Map struct {
	Size    int64    `json:"size"` // of the memory, bytes
	Buffers []Buffer `json:"buffers"`
}

// A Buffer is one set of inputs and outputs.
type Buffer struct {
	In  []Span `json:"in"`
	Out []Span `json:"out"`
}

// A Span is a piece of the memory. For an output, Len is the room there is.
type Span struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
}

// Of is the piece of memory that s means.
func (s Span) Of(memory []byte) []byte { return memory[s.Off : s.Off+s.Len : s.Off+s.Len] }

// align keeps every tensor on cache lines of its own.
const align = 64

// Layout places the tensors of a checked o in memory, buffers times.
func Layout(o *Opened, buffers int) (Map, error) {
	if buffers < 1 || buffers > MaxBuffers {
		return Map{}, fmt.Errorf("%d buffers, limits are 1 to %d", buffers, MaxBuffers)
	}
	var m Map
	place := func(n int64) Span {
		s := Span{Off: m.Size, Len: n}
		m.Size += (n + align - 1) / align * align
		return s
	}
	for range buffers {
		var b Buffer
		for _, t := range o.Inputs {
			b.In = append(b.In, place(t.Bytes))
		}
		for _, t := range o.Outputs {
			room := t.Bytes
			if room == 0 || t.Elements() < 0 {
				room = max(room, DynamicRoom)
			}
			b.Out = append(b.Out, place(room))
		}
		m.Buffers = append(m.Buffers, b)
	}
	if m.Size > MaxMapping {
		return Map{}, fmt.Errorf("tensors of %d buffers need %d bytes, limit is %d", buffers, m.Size, MaxMapping)
	}
	return m, nil
}

// Check says whether m fits the model and lies within its memory.
func (m *Map) Check(o *Opened) error {
	if m.Size <= 0 || m.Size > MaxMapping || len(m.Buffers) == 0 || len(m.Buffers) > MaxBuffers {
		return fmt.Errorf("map of %d bytes and %d buffers", m.Size, len(m.Buffers))
	}
	inside := func(s Span) bool { return s.Off >= 0 && s.Len >= 0 && s.Len <= m.Size && s.Off <= m.Size-s.Len }
	for i, b := range m.Buffers {
		if len(b.In) != len(o.Inputs) || len(b.Out) != len(o.Outputs) {
			return fmt.Errorf("buffer %d has %d inputs and %d outputs", i, len(b.In), len(b.Out))
		}
		for j, s := range b.In {
			if !inside(s) || s.Len != o.Inputs[j].Bytes {
				return fmt.Errorf("buffer %d, input %d lies at %d, %d bytes", i, j, s.Off, s.Len)
			}
		}
		for j, s := range b.Out {
			if !inside(s) || s.Len < o.Outputs[j].Bytes {
				return fmt.Errorf("buffer %d, output %d lies at %d, %d bytes", i, j, s.Off, s.Len)
			}
		}
	}
	return nil
}

// RunSize is the length of Run's body: the buffer's number (u32), u32 zero.
const RunSize = 8

// PutRun writes the body of Run.
func PutRun(p []byte, buffer int) {
	binary.LittleEndian.PutUint32(p, uint32(buffer))
	binary.LittleEndian.PutUint32(p[4:], 0)
}

// ParseRun reads the body of Run: the number of one of n buffers.
func ParseRun(body []byte, n int) (int, error) {
	if len(body) != RunSize {
		return 0, fmt.Errorf("run of %d bytes", len(body))
	}
	if b := binary.LittleEndian.Uint32(body); b < uint32(n) && binary.LittleEndian.Uint32(body[4:]) == 0 {
		return int(b), nil
	}
	return 0, fmt.Errorf("run of buffer %d of %d", binary.LittleEndian.Uint32(body), n)
}

// Ran answers Run. On the wire: engine time in ns (u64), number of outputs (u32),
// u32 zero; then for each output: bytes (u64), rank (u32), u32 zero, MaxRank
// dimensions (i32, zero past the rank).
type Ran struct {
	EngineNS int64
	Outputs  []Result
}

// A Result is the size and shape of one output of one run.
type Result struct {
	Bytes int64
	Rank  int
	Dims  [MaxRank]int
}

const (
	ranHead = 16
	ranEach = 16 + 4*MaxRank
)

// RanSize is the length of Ran's body for n outputs.
func RanSize(n int) int { return ranHead + n*ranEach }

// Put writes r into the first RanSize bytes of p.
func (r *Ran) Put(p []byte) {
	le := binary.LittleEndian
	le.PutUint64(p, uint64(r.EngineNS))
	le.PutUint32(p[8:], uint32(len(r.Outputs)))
	le.PutUint32(p[12:], 0)
	for i := range r.Outputs {
		o, q := &r.Outputs[i], p[ranHead+i*ranEach:]
		le.PutUint64(q, uint64(o.Bytes))
		le.PutUint32(q[8:], uint32(o.Rank))
		le.PutUint32(q[12:], 0)
		for j := range MaxRank {
			d := 0
			if j < o.Rank {
				d = o.Dims[j]
			}
			le.PutUint32(q[16+4*j:], uint32(int32(d)))
		}
	}
}

// Parse reads a body for the outputs of o into r without allocating, when r has
// been used for o before. room is the memory there is for each output.
func (r *Ran) Parse(body []byte, o *Opened, room []Span) error {
	le := binary.LittleEndian
	n := len(o.Outputs)
	if len(body) != RanSize(n) || le.Uint32(body[8:]) != uint32(n) {
		return fmt.Errorf("result of %d bytes for %d outputs", len(body), n)
	}
	if r.EngineNS = int64(le.Uint64(body)); r.EngineNS < 0 {
		return fmt.Errorf("result with an engine time of %d ns", r.EngineNS)
	}
	if len(r.Outputs) != n {
		r.Outputs = make([]Result, n)
	}
	for i := range r.Outputs {
		t, q := &r.Outputs[i], body[ranHead+i*ranEach:]
		bytes, rank := le.Uint64(q), le.Uint32(q[8:])
		if bytes > uint64(room[i].Len) || rank > MaxRank {
			return fmt.Errorf("output %d of %d bytes in %d dimensions, room for %d bytes", i, bytes, rank, room[i].Len)
		}
		t.Bytes, t.Rank = int64(bytes), int(rank)
		for j := range t.Rank {
			t.Dims[j] = int(int32(le.Uint32(q[16+4*j:])))
		}
		if err := fits(o.Outputs[i].Type, t.Dims[:t.Rank], t.Bytes); err != nil {
			return fmt.Errorf("output %d: %w", i, err)
		}
	}
	return nil
}

// OneLine makes a text from outside fit to be shown: one line, printable, at most
// MaxText bytes.
func OneLine(s string) string {
	if len(s) > MaxText {
		s = strings.ToValidUTF8(s[:MaxText-3], "") + "…"
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == 0xfffd { // terminals obey some that are no ASCII, too
			return ' '
		}
		return r
	}, s))
}
