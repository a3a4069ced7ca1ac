//go:build cgo

package tflite

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/mattn/go-tflite"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// One test for each pitfall of go-tflite and the C library. Number 13 (a run
// cannot be stopped) and 14 (no library, no start) are tests of package runner.

func TestPitfall01FailureIsNotOK(t *testing.T) {
	if tflite.Error != tflite.OK {
		t.Log("go-tflite has mended its constants; comparing with OK stays right")
	}
	m := load(t, haltest.FailingModel())
	if _, _, err := run(t, m, ints(5, 6, 7, 8), ints(2, 4)); hal.CodeOf(err) != hal.CodeInvoke {
		t.Errorf("index out of range: %v, want %s", err, hal.CodeInvoke)
	}
	out, _, err := run(t, m, ints(5, 6, 7, 8), ints(3, 0))
	if err != nil || !bytes.Equal(out, ints(8, 5)) {
		t.Errorf("the run after a failed one: %v, %v", out, err)
	}
}

func TestPitfall02TextOfTheLibraryIsWhole(t *testing.T) {
	err := refuse(t, haltest.CustomModel("FlexFoo%s%n"))
	if hal.CodeOf(err) != hal.CodeOp || !strings.Contains(err.Error(), "FlexFoo%s%n") {
		t.Errorf("%v, want %s that names the operator", err, hal.CodeOp)
	}
	err = refuse(t, haltest.CustomModel("Whatever%s%n"))
	if hal.CodeOf(err) != hal.CodeOp || !strings.Contains(err.Error(), "Whatever%s%n") {
		t.Errorf("%v, want %s that names the operator", err, hal.CodeOp)
	}
	err = refuse(t, haltest.TFLite(haltest.Op{Code: haltest.OpDiv, Version: 99}, 2, haltest.Tensor("x", haltest.Int32Type, 1), haltest.Tensor("y", haltest.Int32Type, 1), haltest.Tensor("z", haltest.Int32Type, 1)))
	if hal.CodeOf(err) != hal.CodeRuntime || !strings.Contains(err.Error(), "'DIV' version '99'") {
		t.Errorf("%v, want %s that names DIV and 99", err, hal.CodeRuntime)
	}
	m := load(t, haltest.FailingModel())
	for range 1000 { // what is kept of it does not grow
		_, _, err = run(t, m, ints(5, 6, 7, 8), ints(9, 9))
	}
	if n := len(err.Error()); n > 400 {
		t.Errorf("the 1000th error has %d bytes", n)
	}
}

func TestPitfall03NilIsAnError(t *testing.T) {
	good := haltest.CrashingModel()
	load(t, good)
	for n := range len(good) {
		m, err := Open(proto.Open{Name: "m", Threads: 1}, good[:n:n], func(string) {})
		if err == nil {
			m.Close()
		} else if code := hal.CodeOf(err); code == "" {
			t.Fatalf("cut at %d: %v has no code", n, err)
		}
	}
}

func TestPitfall04CountsAreBounded(t *testing.T) {
	var tensors []haltest.Table
	for i := range proto.MaxTensors + 2 {
		tensors = append(tensors, haltest.Tensor(fmt.Sprint(i), haltest.Float32Type, 1))
	}
	err := refuse(t, haltest.TFLite(haltest.Op{Code: haltest.OpConcatenation, Kind: 10, Options: haltest.Table{0: uint32(0)}}, proto.MaxTensors+1, tensors...))
	if code := hal.CodeOf(err); code != hal.CodeTensor && code != hal.CodeModelFormat {
		t.Errorf("%v, want a refusal of so many inputs", err)
	}
}

func TestPitfall05NoCopyGoesPastItsEnd(t *testing.T) {
	m := load(t, haltest.CrashingModel())
	for _, in := range [][]byte{nil, ints(1), ints(1, 2, 3)} {
		if _, _, err := run(t, m, in, ints(1, 1)); hal.CodeOf(err) != hal.CodeTensor {
			t.Errorf("input of %d bytes: %v, want %s", len(in), err, hal.CodeTensor)
		}
	}
	guard := bytes.Repeat([]byte{0xaa}, 64)
	r := proto.Ran{Outputs: make([]proto.Result, 1)}
	if err := m.Run([][]byte{ints(6, 8), ints(1, 1)}, [][]byte{guard[:7:7]}, &r); hal.CodeOf(err) != hal.CodeTensor {
		t.Errorf("output of 7 bytes: %v, want %s", err, hal.CodeTensor)
	}
	if !bytes.Equal(guard, bytes.Repeat([]byte{0xaa}, 64)) {
		t.Error("the refused run wrote into the output")
	}
}

func TestPitfall06OutputsAreCopiesOfTheirRun(t *testing.T) {
	m := load(t, haltest.CrashingModel())
	first, _, err := run(t, m, ints(6, 8), ints(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, m, ints(60, 80), ints(1, 1)); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if !bytes.Equal(first, ints(6, 8)) {
		t.Errorf("the first output became %v", first)
	}
}

func TestPitfall07OutputsWithoutMemoryBeforeTheRun(t *testing.T) {
	m := load(t, haltest.TFLite(haltest.Op{Code: haltest.OpWhere}, 1, haltest.Tensor("x", haltest.BoolType, 4), haltest.Tensor("y", haltest.Int64Type)))
	if o := m.Opened().Outputs[0]; o.Bytes != 0 || o.Elements() >= 0 {
		t.Errorf("output is %v with %d bytes, want an unknown shape", o.Shape, o.Bytes)
	}
	for _, c := range []struct {
		in   []byte
		rows int
	}{{[]byte{1, 0, 1, 1}, 3}, {[]byte{0, 0, 0, 0}, 0}, {[]byte{1, 1, 1, 1}, 4}} {
		out, r, err := run(t, m, c.in)
		if err != nil || r.Rank != 2 || r.Dims[0] != c.rows || len(out) != 8*c.rows {
			t.Errorf("where %v: %d bytes of %v, %v; want %d rows", c.in, len(out), r.Dims[:r.Rank], err, c.rows)
		}
	}
}

func TestPitfall08Types(t *testing.T) {
	for c, want := range map[int]hal.DType{1: hal.Float32, 3: hal.Uint8, 9: hal.Int8, 10: hal.Float16, 11: hal.Float64,
		13: hal.Uint64, 16: hal.Uint32, 17: hal.Uint16, 18: hal.Int4, 0: hal.DTypeNone, 12: hal.DTypeNone, 19: hal.DTypeNone, -1: hal.DTypeNone} {
		if got := dtype(c); got != want {
			t.Errorf("dtype(%d) = %s, want %s", c, got, want)
		}
	}
	m := load(t, mobilenet(t))
	in, out := m.Opened().Inputs[0], m.Opened().Outputs[0]
	if in.Type != hal.Uint8 || math.Abs(float64(in.Quant.Scale[0]-1./255)) > 1e-6 || in.Quant.ZeroPoint[0] != 0 {
		t.Errorf("input is %+v", in)
	}
	if out.Type != hal.Uint8 || math.Abs(float64(out.Quant.Scale[0]-1./256)) > 1e-6 {
		t.Errorf("output is %+v", out)
	}
	if q := load(t, haltest.CrashingModel()).Opened().Inputs[0].Quant; q.Scale != nil {
		t.Errorf("a plain tensor has the quantisation %+v", q)
	}
}

func TestPitfall09Scalars(t *testing.T) {
	m := load(t, haltest.TFLite(haltest.Op{Code: haltest.OpDiv}, 2, haltest.Tensor("x", haltest.Int32Type), haltest.Tensor("y", haltest.Int32Type), haltest.Tensor("z", haltest.Int32Type)))
	out, r, err := run(t, m, ints(12), ints(4))
	if err != nil || !bytes.Equal(out, ints(3)) || r.Rank != 0 {
		t.Errorf("12/4 = %v of rank %d, %v", out, r.Rank, err)
	}
}

func TestPitfall10CloseFreesOnce(t *testing.T) {
	data := mobilenet(t)
	cycle := func() {
		m, err := Open(proto.Open{Name: "m", Accelerator: hal.Auto, Threads: 1}, data, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		m.Close()
		refuse(t, data[:len(data)/2])
	}
	for range 5 {
		cycle()
	}
	before := resident(t)
	for range 30 { // a leaked model is 4 MB, a leaked arena more
		cycle()
	}
	if grown := resident(t) - before; grown > 20<<20 {
		t.Errorf("30 times open and close left %d MB", grown>>20)
	}
	m := load(t, haltest.CrashingModel())
	m.Close()
	if err := m.Run(nil, nil, new(proto.Ran)); err == nil {
		t.Error("a closed model ran")
	}
}

func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, rss int
	if _, err := fmt.Sscan(string(b), &size, &rss); err != nil {
		t.Fatal(err)
	}
	return rss * os.Getpagesize()
}

func TestPitfall11ModelsOfTheirOwnMayRunBesideEachOther(t *testing.T) {
	var group sync.WaitGroup
	for n := range int32(4) {
		m := load(t, haltest.CrashingModel())
		group.Go(func() {
			for range 200 {
				out, _, err := run(t, m, ints(12*n, 8), ints(2, 2))
				if err != nil || !bytes.Equal(out, ints(6*n, 4)) {
					t.Errorf("%d: %v, %v", n, out, err)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestPitfall12StringsAreRefused(t *testing.T) {
	err := refuse(t, haltest.TFLite(haltest.Op{Code: haltest.OpReshape, In: []int32{1}}, 1, haltest.Tensor("x", haltest.StringType, 2),
		haltest.Weights("shape", haltest.Int32Type, ints(1, 2), 2), haltest.Tensor("y", haltest.StringType, 1, 2)))
	if hal.CodeOf(err) != hal.CodeTensor || !strings.Contains(err.Error(), "string") {
		t.Errorf("%v, want %s that says string", err, hal.CodeTensor)
	}
}

func TestEdgeTPUModelIsRefused(t *testing.T) {
	err := refuse(t, haltest.CustomModel("edgetpu-custom-op"))
	if hal.CodeOf(err) != hal.CodeAccel {
		t.Errorf("%v, want %s", err, hal.CodeAccel)
	}
}

func TestImpossibleTensorIsRefused(t *testing.T) {
	const huge = math.MaxInt32
	err := refuse(t, haltest.TFLite(haltest.Op{Code: haltest.OpDiv}, 2, haltest.Tensor("x", haltest.Int32Type, huge, huge), haltest.Tensor("y", haltest.Int32Type, huge, huge), haltest.Tensor("z", haltest.Int32Type, huge, huge)))
	if code := hal.CodeOf(err); code != hal.CodeTensor && code != hal.CodeModelFormat {
		t.Errorf("%v, want %s", err, hal.CodeTensor)
	}
}

func TestFallbackKeepsItsReason(t *testing.T) {
	o := load(t, haltest.CrashingModel()).Opened()
	if o.Accelerator != hal.CPU || len(o.Tried) != 1 || o.Tried[0].Accelerator != hal.XNNPACK || o.Tried[0].Reason == "" {
		t.Errorf("integer division runs on %s, tried %+v", o.Accelerator, o.Tried)
	}
	o = load(t, mobilenet(t)).Opened()
	if o.Accelerator != hal.XNNPACK || len(o.Tried) != 0 || o.Delegated < 25 || o.Ops < o.Delegated {
		t.Errorf("MobileNet runs on %s, %d of %d ops, tried %+v: are the quantised kernels on?", o.Accelerator, o.Delegated, o.Ops, o.Tried)
	}
	if _, err := Open(proto.Open{Name: "m", Accelerator: hal.XNNPACK}, haltest.CrashingModel(), func(string) {}); hal.CodeOf(err) != hal.CodeAccel {
		t.Errorf("asked for XNNPACK alone: %v, want %s", err, hal.CodeAccel)
	}
}

// TestDelegatedCountsAllSubgraphs loads a model like those that listen for a word:
// a second subgraph, which XNNPACK leaves alone, sets up their state.
func TestDelegatedCountsAllSubgraphs(t *testing.T) {
	tensors := func() []haltest.Table {
		return []haltest.Table{haltest.Tensor("x", haltest.Float32Type, 4), haltest.Tensor("y", haltest.Float32Type, 4), haltest.Tensor("z", haltest.Float32Type, 4)}
	}
	const addOptions = 11
	o := load(t, haltest.TFLite(haltest.Op{Code: 0, Kind: addOptions, Options: haltest.Table{0: uint8(0)},
		Beside: []haltest.Table{{0: tensors(), 1: []int32{0, 1}, 2: []int32{1}, 4: "init"}}}, 2, tensors()...)).Opened()
	if o.Accelerator != hal.XNNPACK || o.Delegated != 1 || o.Ops != 1 {
		t.Errorf("addition runs on %s, %d of %d ops, tried %+v; want 1 of 1 on xnnpack", o.Accelerator, o.Delegated, o.Ops, o.Tried)
	}
}

// TestResetForgets runs a model that remembers its last three inputs.
func TestResetForgets(t *testing.T) {
	one := []byte{0, 0, 0x80, 0x3f} // 1 as a float32
	state := haltest.Tensor("state", haltest.Float32Type, 1, 3)
	state[5] = uint8(1) // variable
	m := load(t, haltest.TFLite(haltest.Op{Code: haltest.OpSVDF, In: []int32{1, 2, -1, 3}, Kind: 6, Options: haltest.Table{0: uint32(1)}}, 1,
		haltest.Tensor("x", haltest.Float32Type, 1, 1), haltest.Weights("feature", haltest.Float32Type, one, 1, 1),
		haltest.Weights("time", haltest.Float32Type, bytes.Repeat(one, 3), 1, 3), state, haltest.Tensor("y", haltest.Float32Type, 1, 1)))
	value := func() float32 {
		out, _, err := run(t, m, one)
		if err != nil {
			t.Fatal(err)
		}
		return math.Float32frombits(binary.LittleEndian.Uint32(out))
	}
	for _, want := range []float32{1, 2, 3, 3} {
		if got := value(); got != want {
			t.Fatalf("sum of the last three is %v, want %v", got, want)
		}
	}
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	if got := value(); got != 1 {
		t.Errorf("after Reset the sum is %v, want 1", got)
	}
}

func TestHeader(t *testing.T) {
	for content, want := range map[string]hal.Code{
		"":                                 hal.CodeModelEmpty,
		"\x18\x00\x00\x00TFL3":             hal.CodeModelFormat,
		"PK\x03\x04 a zip":                 hal.CodeModelFormat,
		"<!doctype html>":                  hal.CodeModelFormat,
		"\x08\x07\x12\x07pytorch":          hal.CodeModelFormat,
		"version https://git-lfs.github.c": hal.CodeModelFormat,
		"TFL3":                             hal.CodeModelFormat,
	} {
		if err := refuse(t, []byte(content)); hal.CodeOf(err) != want {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
}

func TestRunAllocatesNothing(t *testing.T) {
	m := load(t, mobilenet(t))
	in, out := [][]byte{make([]byte, 224*224*3)}, [][]byte{make([]byte, 1001)}
	r := proto.Ran{Outputs: make([]proto.Result, 1)}
	if n := testing.AllocsPerRun(5, func() {
		if err := m.Run(in, out, &r); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a run", n)
	}
}

// TestLayout holds to the two assumptions on memory: go-tflite's structures begin
// with the C pointer, and ours of a tensor is the library's.
func TestLayout(t *testing.T) {
	for _, v := range []any{tflite.Model{}, tflite.InterpreterOptions{}, tflite.Interpreter{}, tflite.Tensor{}} {
		f := reflect.TypeOf(v).Field(0)
		if f.Offset != 0 || f.Type.Kind() != reflect.Pointer {
			t.Errorf("%T begins with %s %s", v, f.Name, f.Type)
		}
	}
	m := load(t, mobilenet(t))
	for i, tensor := range m.outputs {
		if got, want := m.opened.Outputs[i].Shape, tensor.Shape(); !reflect.DeepEqual(got, want) {
			t.Errorf("output %d: shape %v in the structure, %v by the library", i, got, want)
		}
	}
}

func TestDefaultThreads(t *testing.T) {
	for cores, want := range map[int]int{1: 1, 2: 1, 4: 3, 8: 4, 64: 4} {
		if got := defaultThreads(cores); got != want {
			t.Errorf("%d cores: %d threads, want %d", cores, got, want)
		}
	}
}

func mobilenet(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(haltest.Models(t), "label_image/mobilenet_quant_v1_224.tflite"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
