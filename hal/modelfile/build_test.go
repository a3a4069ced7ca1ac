package modelfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"testing"
)

// A tab is a flatbuffer table to write: slot → uint8, uint32, uint64, float32,
// string, []byte, []int32, []int64, []float32, tab or []tab.
type tab map[int]any

// build writes a flatbuffer front to back: a table first, what it refers to behind it.
func build(id string, root tab) []byte {
	b := append([]byte{0, 0, 0, 0}, id...)
	b, at := putTable(b, root)
	binary.LittleEndian.PutUint32(b, uint32(at))
	return b
}

func putTable(b []byte, t tab) ([]byte, int) {
	slots := slices.Sorted(maps.Keys(t))
	n := 0
	if len(slots) > 0 {
		n = slots[len(slots)-1] + 1
	}
	le := binary.LittleEndian
	vt := len(b)
	b = append(b, make([]byte, 4+2*n)...)
	base := len(b)
	b = le.AppendUint32(b, uint32(base-vt))
	refs := map[int]any{}
	for _, s := range slots {
		le.PutUint16(b[vt+4+2*s:], uint16(len(b)-base))
		switch v := t[s].(type) {
		case uint8:
			b = append(b, v)
		case uint32:
			b = le.AppendUint32(b, v)
		case uint64:
			b = le.AppendUint64(b, v)
		case float32:
			b = le.AppendUint32(b, math.Float32bits(v))
		default:
			refs[len(b)] = v
			b = le.AppendUint32(b, 0)
		}
	}
	le.PutUint16(b[vt:], uint16(4+2*n))
	le.PutUint16(b[vt+2:], uint16(len(b)-base))
	for _, at := range slices.Sorted(maps.Keys(refs)) {
		var to int
		b, to = putRef(b, refs[at])
		le.PutUint32(b[at:], uint32(to-at))
	}
	return b, base
}

func putRef(b []byte, v any) ([]byte, int) {
	le := binary.LittleEndian
	at := len(b)
	switch v := v.(type) {
	case tab:
		return putTable(b, v)
	case string:
		b = append(append(le.AppendUint32(b, uint32(len(v))), v...), 0)
	case []byte:
		b = append(le.AppendUint32(b, uint32(len(v))), v...)
	case []int32:
		b = le.AppendUint32(b, uint32(len(v)))
		for _, x := range v {
			b = le.AppendUint32(b, uint32(x))
		}
	case []int64:
		b = le.AppendUint32(b, uint32(len(v)))
		for _, x := range v {
			b = le.AppendUint64(b, uint64(x))
		}
	case []float32:
		b = le.AppendUint32(b, uint32(len(v)))
		for _, x := range v {
			b = le.AppendUint32(b, math.Float32bits(x))
		}
	case []tab:
		b = le.AppendUint32(b, uint32(len(v)))
		b = append(b, make([]byte, 4*len(v))...)
		for i, x := range v {
			var to int
			b, to = putTable(b, x)
			le.PutUint32(b[at+4+4*i:], uint32(to-(at+4+4*i)))
		}
	default:
		panic("unknown value")
	}
	return b, at
}

// small is a classifier of two tensors and one softmax, quantised, with
// metadata. Tests change it before they build it.
func small() tab {
	quant := tab{2: []float32{1. / 256}, 3: []int64{0}}
	metadata := build("M001", tab{0: "tiny", 2: "v7", 3: []tab{{
		2: []tab{{0: "image", 4: []tab{{0: uint8(1), 1: tab{0: []float32{127.5}, 1: []float32{128}}}}}},
		3: []tab{{0: "probability", 4: []tab{{0: uint8(3), 1: tab{0: float32(0.25)}}}, 6: []tab{{0: "labels.txt", 2: uint8(AxisLabels)}}}},
	}}})
	return tab{
		0: uint32(3),
		1: []tab{{0: uint8(OpSoftmax), 2: uint32(2), 3: uint32(OpSoftmax)}},
		2: []tab{{
			0: []tab{
				{0: []int32{1, 8, 8, 3}, 1: uint8(0), 2: uint32(0), 3: "input", 7: []int32{-1, 8, 8, 3}},
				{0: []int32{1, 3}, 1: uint8(3), 2: uint32(0), 3: "scores", 4: quant},
				{0: []int32{4}, 1: uint8(9), 2: uint32(1), 3: "weights"},
			},
			1: []int32{0}, 2: []int32{1}, 4: "main",
			3: []tab{{0: uint32(0), 1: []int32{0, -1}, 2: []int32{1}}},
		}},
		3: "a model for tests",
		4: []tab{{}, {0: []byte{1, 2, 3, 4}}, {0: []byte("1.14.0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}, {0: metadata}},
		6: []tab{{0: "min_runtime_version", 1: uint32(2)}, {0: "TFLITE_METADATA", 1: uint32(3)}},
	}
}

func graph(m tab) tab { return m[2].([]tab)[0] }

// pack puts files behind a model, name and content in turns.
func pack(t testing.TB, model []byte, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		method := zip.Store
		if len(files[i+1]) > 1000 {
			method = zip.Deflate
		}
		w, err := z.CreateHeader(&zip.FileHeader{Name: files[i], Method: method})
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(files[i+1]))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return append(bytes.Clone(model), b.Bytes()...)
}
