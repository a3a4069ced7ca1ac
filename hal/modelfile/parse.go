package modelfile

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// Limits on what a file may hold; none of the models that people run comes near.
const (
	maxSubgraphs = 16
	maxOpCodes   = 1024
	maxOperators = 20_000
	maxTensors   = 40_000
	maxBuffers   = 40_000
	maxArguments = 4096 // tensors of one operator, inputs or outputs of a graph
	maxRank      = 8
	maxName      = 4096
	maxChannels  = 1 << 20 // of a tensor quantised per channel
	maxMetadata  = 1 << 20 // bytes
)

// Open reads what the file at path says about itself. Errors wrap an *hal.Error
// unless the file could not be read at all.
func Open(path string) (*Model, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("open model %s: not a file", path)
	}
	m, err := Read(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", path, err)
	}
	return m, nil
}

// Parse is Read of bytes in memory. Nothing of b is kept.
func Parse(b []byte) (*Model, error) { return Read(bytes.NewReader(b), int64(len(b))) }

// Read reads what a model file of this size says about itself. It needs a few
// megabytes at most, however large the file is.
func Read(r io.ReaderAt, size int64) (*Model, error) {
	if size == 0 {
		return nil, &hal.Error{Code: hal.CodeModelEmpty, Text: "model file is 0 bytes: copy it again"}
	}
	p := newPager(r, size)
	head := make([]byte, min(size, 64))
	if p.read(0, head); p.err != nil {
		return nil, p.err
	}
	if isONNX(head) {
		m := readONNX(p)
		if p.err != nil {
			return nil, p.err
		}
		return m, nil
	}
	if size < 8 || string(head[4:8]) != "TFL3" {
		return nil, &hal.Error{Code: hal.CodeModelFormat, Text: fmt.Sprintf(
			"not a TFLite or ONNX file (%s): give a .tflite or .onnx file", found(head))}
	}
	root := int64(p.u32(0))
	if root < 8 || root+4 > size {
		return nil, &hal.Error{Code: hal.CodeModelFormat, Text: fmt.Sprintf(
			"root offset %d outside %d-byte file: the model file is broken; copy it again", root, size)}
	}
	m := readModel(p, p.table(root))
	if p.err != nil {
		return nil, p.err
	}
	m.Files, m.FilesErr = readTail(r, size)
	return m, nil
}

// found says in a few words what a file that is no model begins with.
func found(head []byte) string {
	for _, k := range []struct{ magic, what string }{
		{"PK", `found "PK": a ZIP archive, unpack it first`},
		{"\x1f\x8b", "found gzip, unpack it first"},
		{"version https://git-lfs", "found a Git LFS pointer, fetch the file itself with git lfs pull"},
		{"\x89HDF", "found a Keras HDF5 file, convert it to TFLite first"},
		{"\x89PNG", "found a PNG picture"},
		{"\xff\xd8", "found a JPEG picture"},
		{"\x7fELF", "found a program"},
		{"{", "found JSON"},
	} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.what
		}
	}
	text := strings.ToLower(string(bytes.TrimLeft(head, " \t\r\n\ufeff")))
	switch {
	case strings.HasPrefix(text, "<htm"), strings.HasPrefix(text, "<!doc"):
		return `found "<htm": a web page, the download went wrong`
	case len(head) >= 8 && string(head[4:8]) == "ORTM":
		return "found ONNX Runtime's own format, give the .onnx file it was made from"
	}
	return fmt.Sprintf("found %.8q", head)
}

func readModel(p *pager, t table) *Model {
	m := &Model{Format: FormatTFLite, Size: p.size, Version: int(t.u32(0)), Description: t.string(3)}
	if m.Version != 3 {
		p.broken("schema version %d, only 3 is known", m.Version)
	}
	t.each(1, maxOpCodes, func(_ int, s table) { m.OpCodes = append(m.OpCodes, readOpCode(s)) })
	filled := readBuffers(t)
	t.each(2, maxSubgraphs, func(i int, s table) { m.Subgraphs = append(m.Subgraphs, readSubgraph(s, i, m, filled)) })
	if len(m.Subgraphs) == 0 {
		p.broken("it has no graph")
	}
	readEntries(t, m)
	return m
}

func readOpCode(t table) OpCode {
	o := OpCode{Builtin: max(int(int8(t.u8(0))), int(int32(t.u32(3)))), Custom: t.string(1), Version: 1}
	if t.field(2) != 0 {
		o.Version = int(int32(t.u32(2)))
	}
	return o
}

// readBuffers says for each buffer whether it holds bytes, after checking that
// those are in the file.
func readBuffers(t table) []bool {
	var filled []bool
	t.each(4, maxBuffers, func(_ int, s table) {
		_, n := s.vector(0, 1, t.p.size)
		offset, size := s.u64(1), s.u64(2) // of bytes behind the flatbuffer, in files above 2 GiB
		if offset > 1 {
			if end := offset + size; end < offset || end > uint64(t.p.size) {
				t.p.broken("buffer of %d bytes at %d is outside of the file", size, offset)
			}
		}
		filled = append(filled, n > 0 || offset > 1 && size > 0)
	})
	return filled
}

func readSubgraph(t table, index int, m *Model, filled []bool) Subgraph {
	g := Subgraph{Name: t.string(4), Inputs: t.ints(1, maxArguments), Outputs: t.ints(2, maxArguments)}
	t.each(0, maxTensors, func(i int, s table) { g.Tensors = append(g.Tensors, readTensor(s, i, filled)) })
	inRange := func(what string, index []int, least int) {
		for _, i := range index {
			if i < least || i >= len(g.Tensors) {
				t.p.broken("%s refers to tensor %d of %d", what, i, len(g.Tensors))
			}
		}
	}
	inRange("a graph's input", g.Inputs, 0)
	inRange("a graph's output", g.Outputs, 0)
	t.each(3, maxOperators, func(i int, s table) {
		o := Operator{Code: int(s.u32(0)), Inputs: s.ints(1, maxArguments), Outputs: s.ints(2, maxArguments)}
		if o.Code >= len(m.OpCodes) {
			t.p.broken("operator %d has kind %d of %d", i, o.Code, len(m.OpCodes))
		}
		inRange(fmt.Sprintf("operator %d of graph %d", i, index), o.Inputs, -1)
		inRange(fmt.Sprintf("operator %d of graph %d", i, index), o.Outputs, -1)
		g.Operators = append(g.Operators, o)
	})
	return g
}

// types maps the schema's numbers to ours; they are not those of TFLite's C API.
var types = [...]hal.DType{
	0: hal.Float32, 1: hal.Float16, 2: hal.Int32, 3: hal.Uint8, 4: hal.Int64, 5: hal.String, 6: hal.Bool, 7: hal.Int16,
	8: hal.Complex64, 9: hal.Int8, 10: hal.Float64, 12: hal.Uint64, 13: hal.Resource, 14: hal.Variant, 15: hal.Uint32,
	16: hal.Uint16, 17: hal.Int4,
}

func readTensor(t table, index int, filled []bool) Tensor {
	var x Tensor
	x.Name = t.string(3)
	x.Shape = t.ints(0, maxRank)
	x.Signature = t.ints(7, maxRank)
	x.Variable = t.u8(5) != 0
	if k := int(t.u8(1)); k < len(types) {
		x.Type = types[k]
	}
	for _, d := range x.Shape {
		if d < 0 {
			t.p.err = tensorError(t.p.err, "tensor %d %q has dimension %d", index, x.Name, d)
		}
	}
	if b := int(t.u32(2)); b < len(filled) {
		x.Constant = filled[b]
	} else if b > 0 { // buffer 0 means none, and need not be there
		t.p.broken("tensor %d has buffer %d of %d", index, b, len(filled))
	}
	if q, ok := t.sub(4); ok {
		x.Quant = readQuant(q, index)
	}
	return x
}

// tensorError is err, or E_TENSOR when there is no error yet.
func tensorError(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return &hal.Error{Code: hal.CodeTensor, Text: fmt.Sprintf(format, args...) + ": convert the model again"}
}

func readQuant(t table, index int) hal.Quant {
	q := hal.Quant{Scale: t.floats(2, maxChannels), ZeroPoint: t.longs(3, maxChannels), Dim: int(int32(t.u32(6)))}
	if len(q.Scale) == 0 {
		return hal.Quant{} // only min and max, from training
	}
	if len(q.ZeroPoint) == 0 {
		q.ZeroPoint = make([]int32, len(q.Scale))
	}
	if len(q.ZeroPoint) != len(q.Scale) {
		t.p.broken("tensor %d has %d scales and %d zero points", index, len(q.Scale), len(q.ZeroPoint))
	}
	return q
}
