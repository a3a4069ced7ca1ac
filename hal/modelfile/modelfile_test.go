package modelfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
)

func TestParse(t *testing.T) {
	m, err := Parse(pack(t, build("TFL3", small()), "labels.txt", "cat\ndog\nbird\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(Limits{Runtime: "2.17.1"}); err != nil {
		t.Error(err)
	}
	in, out := m.Inputs(), m.Outputs()
	if got := fmt.Sprintf("%s %v %v %v", in[0].Name, in[0].Type, in[0].Shape, m.Main().Tensors[0].Signature); got != "input float32 [1 8 8 3] [-1 8 8 3]" {
		t.Errorf("input: %s", got)
	}
	want := hal.Quant{Scale: []float32{1. / 256}, ZeroPoint: []int32{0}}
	if out[0].Name != "scores" || out[0].Type != hal.Uint8 || !reflect.DeepEqual(out[0].Quant, want) {
		t.Errorf("output: %+v", out[0])
	}
	if m.MinRuntime != "1.14.0" || m.Metadata == nil || m.Metadata.Version != "v7" || m.Metadata.Outputs[0].Threshold != 0.25 {
		t.Errorf("metadata: %q %+v", m.MinRuntime, m.Metadata)
	}
	if mean, std := m.Normalization(); fmt.Sprint(mean, std) != "[127.5] [128]" {
		t.Errorf("normalisation %v %v", mean, std)
	}
	if got := string(m.LabelFile()); got != "cat\ndog\nbird\n" {
		t.Errorf("labels %q", got)
	}
	if !m.Main().Tensors[2].Constant || m.Main().Tensors[1].Constant {
		t.Error("constant tensors are not told from others")
	}
	if op := m.Producer(1); op == nil || m.OpCodes[op.Code] != (OpCode{Builtin: OpSoftmax, Version: 2}) {
		t.Errorf("producer %+v", op)
	}
}

// TestBadModels holds the errors that people see, one a kind of bad file.
func TestBadModels(t *testing.T) {
	custom := func(name string) func(tab) {
		return func(m tab) { m[1] = []tab{{0: uint8(OpCustom), 1: name, 3: uint32(OpCustom)}} }
	}
	dims := func(d ...int32) func(tab) { return func(m tab) { graph(m)[0].([]tab)[0][0] = d } }
	whole := build("TFL3", small())
	for _, tt := range []struct {
		name   string
		change func(tab)
		bytes  []byte
		limits Limits
		want   string // start of the error, code first
	}{
		{name: "empty", bytes: []byte{}, want: "E_MODEL_EMPTY: model file is 0 bytes"},
		{name: "root outside", bytes: []byte("\x18\x00\x00\x00TFL3"), want: "E_MODEL_FORMAT: root offset 24 outside 8-byte file"},
		{name: "zip", bytes: []byte("PK\x03\x04............"), want: `E_MODEL_FORMAT: not a TFLite or ONNX file (found "PK"`},
		{name: "web page", bytes: []byte("<!DOCTYPE html><html>"), want: `E_MODEL_FORMAT: not a TFLite or ONNX file (found "<htm"`},
		{name: "onnx", bytes: []byte("\x08\x07\x12\x07pytorch\x1a\x03"), want: "E_MODEL_SHORT: got 13 of at least 16 bytes"},
		{name: "lfs", bytes: []byte("version https://git-lfs.github.com/spec/v1"), want: "E_MODEL_FORMAT: not a TFLite or ONNX file (found a Git LFS pointer"},
		{name: "3 bytes", bytes: []byte("abc"), want: `E_MODEL_FORMAT: not a TFLite or ONNX file (found "abc"`},
		{name: "cut in half", bytes: whole[:len(whole)/2], want: fmt.Sprintf("E_MODEL_SHORT: got %d of at least", len(whole)/2)},
		{name: "one byte short", bytes: whole[:len(whole)-1], want: fmt.Sprintf("E_MODEL_SHORT: got %d of at least", len(whole)-1)},
		{name: "schema", change: func(m tab) { m[0] = uint32(2) }, want: "E_MODEL_FORMAT: broken model file: schema version 2"},
		{name: "no graph", change: func(m tab) { delete(m, 2) }, want: "E_MODEL_FORMAT: broken model file: it has no graph"},
		{name: "tensor index", change: func(m tab) { graph(m)[2] = []int32{3} }, want: "E_MODEL_FORMAT: broken model file: a graph's output refers to tensor 3 of 3"},
		{name: "operator tensor", change: func(m tab) { graph(m)[3].([]tab)[0][1] = []int32{-2} }, want: "E_MODEL_FORMAT: broken model file: operator 0 of graph 0 refers to tensor -2 of 3"},
		{name: "operator kind", change: func(m tab) { graph(m)[3].([]tab)[0][0] = uint32(9) }, want: "E_MODEL_FORMAT: broken model file: operator 0 has kind 9 of 1"},
		{name: "buffer index", change: func(m tab) { graph(m)[0].([]tab)[0][2] = uint32(77) }, want: "E_MODEL_FORMAT: broken model file: tensor 0 has buffer 77 of 4"},
		{name: "buffer wraps", change: func(m tab) { m[4].([]tab)[1] = tab{1: uint64(1 << 63), 2: uint64(1 << 63)} }, want: "E_MODEL_FORMAT: broken model file: buffer of"},
		{name: "flex", change: custom("FlexFoo"), want: `E_OP: custom operator "FlexFoo" (op 0) is not allowed: convert the model without TensorFlow (Flex) operators`},
		{name: "custom", change: custom("PosenetDecoderOp"), want: `E_OP: custom operator "PosenetDecoderOp" (op 0)`},
		{name: "custom allowed", change: custom("Mine"), limits: Limits{Custom: []string{"Mine"}}},
		{name: "post-process", change: custom(DetectionPostProcess)},
		{name: "edge tpu", change: custom(edgeTPUOp), want: "E_ACCEL: model is compiled for an Edge TPU"},
		{name: "edge tpu here", change: custom(edgeTPUOp), limits: Limits{EdgeTPU: true}},
		{name: "negative dim", change: dims(1, -5), want: `E_TENSOR: tensor 0 "input" has dimension -5`},
		{name: "dims overflow", change: dims(1<<31-1, 1<<31-1, 1<<31-1), want: "E_TENSOR: tensor 0 \"input\" [2147483647 2147483647 2147483647] needs more bytes"},
		{name: "dims large", change: dims(2147483647, 1), want: `E_TENSOR: tensor 0 "input" [2147483647 1] needs 8.0 GiB, limit 256 MiB`},
		{name: "dims zero", change: dims(0, 1<<31-1, 1<<31-1, 1<<31-1)},
		{name: "runtime", limits: Limits{Runtime: "1.9.3"}, want: "E_RUNTIME: model needs runtime 1.14.0 or newer, this is 1.9.3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.bytes
			if b == nil {
				m := small()
				if tt.change != nil {
					tt.change(m)
				}
				b = build("TFL3", m)
			}
			m, err := Parse(b)
			if err == nil {
				err = m.Check(tt.limits)
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, tt.want) || (tt.want == "") != (err == nil) || strings.Contains(got, "\n") {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if err != nil && hal.CodeOf(err) == "" {
				t.Errorf("no code in %v", err)
			}
		})
	}
}

func TestEveryCutIsRefused(t *testing.T) {
	whole := build("TFL3", small())
	for n := range whole {
		if _, err := Parse(whole[:n]); hal.CodeOf(err) == "" {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestTail(t *testing.T) {
	model := build("TFL3", small())
	many := []string{}
	for i := range maxFiles + 1 {
		many = append(many, fmt.Sprintf("f%d", i), "x")
	}
	absolute := pack(t, model, "a", "x")
	directory := binary.LittleEndian.Uint32(absolute[len(absolute)-zipEnd+16:]) + uint32(len(model))
	for at := len(model); ; at++ { // the directory's entry says where the file's header is, from the begin of the archive
		if bytes.HasPrefix(absolute[at:], []byte("PK\x01\x02")) {
			binary.LittleEndian.PutUint32(absolute[at+42:], uint32(len(model)))
			break
		}
	}
	for _, tt := range []struct {
		name string
		file []byte
		want string // of FilesErr
	}{
		{"none", model, ""},
		{"from the begin of the model", overwrite(absolute, 16, directory), ""},
		{"dot dot", pack(t, model, "../labels.txt", "a"), `file name "../labels.txt"`},
		{"absolute", pack(t, model, "/labels.txt", "a"), `file name "/labels.txt"`},
		{"backslash", pack(t, model, `a\b`, "a"), `file name`},
		{"many", pack(t, model, many...), "33 files"},
		{"bomb", pack(t, model, "a", strings.Repeat("\x00", 3<<20)), "packed more than 1:100"},
		{"huge", pack(t, model, "a", random(5<<20)), "more than 4 MiB"},
		{"huge together", pack(t, model, "a", random(3<<20), "b", random(3<<20)), "more than 4 MiB"},
		{"directory outside", overwrite(pack(t, model, "a", "x"), 16, 1<<31), "its directory is not in the file"},
		{"directory cut", overwrite(pack(t, model, "a", "x"), 12, 10), "archive behind the model"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				if m.FilesErr != nil || len(m.Files) != min(1, len(tt.file)-len(model)) {
					t.Error(m.FilesErr, len(m.Files))
				}
			} else if m.FilesErr == nil || !strings.Contains(m.FilesErr.Error(), tt.want) || hal.CodeOf(m.FilesErr) != hal.CodeZip {
				t.Errorf("got %v, want %s", m.FilesErr, tt.want)
			}
		})
	}
}

// random is text that does not compress.
func random(n int) string {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

// overwrite changes a field of the record that ends the archive.
func overwrite(b []byte, at int, v uint32) []byte {
	binary.LittleEndian.PutUint32(b[len(b)-zipEnd+at:], v)
	return b
}

func TestUltralytics(t *testing.T) {
	python := `{'description': 'YOLO11n', 'stride': 32, 'imgsz': [320, 320], 'names': {0: 'person', 1: "driver's seat", 2: 'car'}, 'args': {}}`
	m, err := Parse(pack(t, build("TFL3", small()), "temp_meta.txt", python))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.LabelFile()); got != "person\ndriver's seat\ncar\n" {
		t.Errorf("labels %q", got)
	}
	if got := string(dictionaryNames([]byte(`{"names": {"0": "a", "1": "b"}}`))); got != "a\nb\n" {
		t.Errorf("json: %q", got)
	}
	for _, bad := range []string{"", "names", "names: {", "{'names': {1: 'a'}}", "{'names': {0: 'a", "{'names': ['a']}", "{'names': {0: }}"} {
		if got := dictionaryNames([]byte(bad)); len(got) != 0 {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}

// TestMemory: a file that points a million times to one place costs no memory.
func TestMemory(t *testing.T) {
	m := small()
	tensors := graph(m)[0].([]tab)
	name := strings.Repeat("n", 4000)
	for len(tensors) < 9000 {
		tensors = append(tensors, tab{3: name, 0: []int32{1, 2, 3, 4}})
	}
	graph(m)[0] = tensors
	b := build("TFL3", m)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Parse(b); hal.CodeOf(err) != hal.CodeModelFormat {
		t.Errorf("got %v", err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 96<<20 {
		t.Errorf("%d MiB allocated", got>>20)
	}
}

// TestRealModels reads what people use.
func TestRealModels(t *testing.T) {
	dir := models(t)
	m, err := Open(filepath.Join(dir, "label_image/mobilenet_quant_v1_224.tflite"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(Limits{}); err != nil {
		t.Error(err)
	}
	in, out := m.Inputs()[0], m.Outputs()[0]
	if got := fmt.Sprint(in.Type, in.Shape, out.Type, out.Shape); got != "uint8 [1 224 224 3] uint8 [1 1001]" {
		t.Errorf("mobilenet: %s", got)
	}
	if m, err = Open(filepath.Join(dir, "ssd/detect.tflite")); err != nil {
		t.Fatal(err)
	}
	if err := m.Check(Limits{}); err != nil {
		t.Error(err)
	}
	if op := m.Find(DetectionPostProcess); op == nil || !reflect.DeepEqual(op.Outputs, m.Main().Outputs) {
		t.Errorf("ssd: %+v, outputs %v", op, m.Main().Outputs)
	}
}

// models is the folder of real models and pictures.
func models(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("COVEY_MODELS")
	if dir == "" {
		t.Fatal("COVEY_MODELS is not set: run ./scripts/setup, then . scripts/env")
	}
	return dir
}

func FuzzParse(f *testing.F) {
	whole := build("TFL3", small())
	f.Add(whole)
	f.Add(pack(f, whole, "labels.txt", "cat\ndog\n", "metadata.json", `{"names": {"0": "a"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if hal.CodeOf(err) == "" {
				t.Fatalf("no code: %v", err)
			}
			return
		}
		m.Inputs()
		m.Outputs()
		m.Normalization()
		m.LabelFile()
		m.Find(DetectionPostProcess)
		m.Producer(0)
		if err := m.Check(Limits{}); err != nil && hal.CodeOf(err) == "" {
			t.Fatalf("no code: %v", err)
		}
		again, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil || !reflect.DeepEqual(m.Subgraphs, again.Subgraphs) {
			t.Fatalf("read twice gives two answers: %v", err)
		}
	})
}
