package tflite

/*
#cgo LDFLAGS: -ltensorflowlite_c -ldl -Wl,-rpath,$ORIGIN/lib
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/mattn/go-tflite"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// A Model is an open model. It is used by one goroutine at a time.
type Model struct {
	name    string
	again   func() (*Model, error) // opens the same once more
	log     *C.covey_log
	file    *tflite.Model
	options *tflite.InterpreterOptions
	run     *tflite.Interpreter
	drop    []func() // frees the delegates, after the interpreter
	rest    bool     // XNNPACK was given what another delegate left
	noRest  bool     // and is not to be

	inputs, outputs []*tflite.Tensor
	opened          proto.Opened
}

// Open loads a model on the accelerator that o asks for, with its device and its
// settings; Auto tries XNNPACK and falls back to the plain CPU, and keeps the reason. data has to stay valid and
// unchanged until Close; it is not copied. step is told what comes next.
// Errors carry codes of hal.
func Open(o proto.Open, data []byte, step func(string)) (*Model, error) {
	if err := checkHeader(o.Name, data); err != nil {
		return nil, err
	}
	ladder := []hal.Accelerator{o.Accelerator}
	if o.Accelerator == hal.Auto || o.Accelerator == "" {
		ladder = []hal.Accelerator{hal.XNNPACK, hal.CPU}
		o.Device, o.Settings = "", onlyShapes(o.Settings) // the others belong to an accelerator that is named
	}
	var tried []hal.Attempt
	for i, a := range ladder {
		m, err := open(o, a, data, step)
		if err == nil {
			m.opened.Tried = append(tried, m.opened.Tried...)
			return m, nil
		}
		if i == len(ladder)-1 {
			return nil, err
		}
		tried = append(tried, hal.Attempt{Accelerator: a, Reason: proto.OneLine(err.Error())})
	}
	panic("unreachable: the ladder is never empty")
}

// open makes one try, or two: an interpreter that XNNPACK has refused may have lost
// its other delegate as well, so the second is without XNNPACK. What it made is freed
// when it fails.
func open(o proto.Open, a hal.Accelerator, data []byte, step func(string)) (*Model, error) {
	var tried []hal.Attempt
	for {
		m := &Model{name: o.Name, log: (*C.covey_log)(C.calloc(1, C.sizeof_covey_log)), noRest: tried != nil}
		m.again = func() (*Model, error) { return open(o, a, data, func(string) {}) } // step belongs to its request
		err := m.load(o, a, data, step)
		if err == nil {
			m.opened.Tried = tried
			return m, nil
		}
		rest := m.rest
		m.Close()
		if !rest {
			return nil, err
		}
		tried = []hal.Attempt{{Accelerator: hal.XNNPACK, Reason: proto.OneLine("for what " + string(a) + " left: " + err.Error())}}
	}
}

func (m *Model) load(o proto.Open, a hal.Accelerator, data []byte, step func(string)) error {
	shapes, settings := splitShapes(o.Settings)
	w, err := newWish(a, o.Device, settings)
	if err != nil {
		return err
	}
	step("ModelCreate")
	p := C.covey_model(unsafe.Pointer(&data[0]), C.size_t(len(data)), m.log)
	if p == nil {
		return refused("reading the model", o.Name, m.said())
	}
	m.file = adopt(unsafe.Pointer(p))
	if m.options = tflite.NewInterpreterOptions(); m.options == nil {
		return errorf(hal.CodeMemory, "no memory for interpreter options")
	}
	threads := o.Threads
	if threads <= 0 {
		threads = defaultThreads(runtime.NumCPU())
	}
	C.covey_options_log(optionsPointer(m.options), m.log)
	m.options.SetNumThread(threads)
	step("InterpreterCreate")
	if m.run = tflite.NewInterpreter(m.file, m.options); m.run == nil {
		return refused("making an interpreter", o.Name, m.said())
	}
	m.opened = proto.Opened{Accelerator: a, Threads: threads, Device: o.Device}
	if err := m.resize(shapes); err != nil {
		return err
	}
	if err := m.delegate(w, step); err != nil {
		return err
	}
	step("AllocateTensors with " + string(a))
	m.log.used = 0
	if m.run.AllocateTensors() != tflite.OK {
		return blame(w, refused("allocating tensors with "+string(a), o.Name, m.said()))
	}
	return m.describe()
}

// delegate gives the graph to the delegate of a wish and counts what it takes.
// Doing so after the interpreter is made, and not by its options, tells what the
// delegate refuses from what is wrong with the model.
func (m *Model) delegate(w wish, step func(string)) error {
	before := m.count()
	m.opened.Ops, m.opened.Delegated = before.all, 0
	if w.accelerator == hal.CPU {
		return nil
	}
	d, err := newDelegate(w, m.opened.Threads, m.log, step)
	if err != nil {
		return err
	}
	m.drop = append(m.drop, d.Delete)
	m.opened.Driver = d.driver
	step("Prepare with " + d.name)
	m.log.used = 0
	if status := m.run.ModifyGraphWithDelegate(d); status != tflite.OK {
		return blame(w, refused(fmt.Sprintf("preparing it (status %d) with %s", int(status), d.name), m.name, m.said()))
	}
	after := m.count()
	if before.all < 0 || after.all < 0 {
		m.opened.Delegated = -1
		return nil
	}
	m.opened.Delegated = before.all - (after.all - after.delegated)
	if m.opened.Delegated == 0 {
		return errorf(hal.CodeAccel, "%s took none of the %d operators of %s", d.name, m.opened.Ops, m.name)
	}
	if w.library == "" || m.noRest || m.opened.Delegated == m.opened.Ops {
		return nil
	}
	return m.giveRest(step)
}

// giveRest gives XNNPACK what another delegate left: its kernels are several times as
// fast as the library's own. The library asks delegates in the order they came.
func (m *Model) giveRest(step func(string)) error {
	m.rest = true
	w, err := newWish(hal.XNNPACK, "", nil)
	if err != nil {
		return err
	}
	d, err := newDelegate(w, m.opened.Threads, m.log, step)
	if err != nil {
		return err
	}
	m.drop = append(m.drop, d.Delete)
	step("Prepare of the rest with " + d.name)
	m.log.used = 0
	if status := m.run.ModifyGraphWithDelegate(d); status != tflite.OK {
		return refused(fmt.Sprintf("preparing the rest (status %d) with %s", int(status), d.name), m.name, m.said())
	}
	return nil
}

// blame says that it was the accelerator that would not have a model, where the
// library's words do not say what is wrong with the model.
func blame(w wish, err error) error {
	var e *hal.Error
	if w.accelerator != hal.CPU && errors.As(err, &e) && e.Code == hal.CodeModelFormat {
		return &hal.Error{Code: hal.CodeAccel, Text: e.Text}
	}
	return err
}

// nodes is how many nodes the graphs have, -1 when that is not known, and how many
// of those are a delegate's.
type nodes struct{ all, delegated int }

// count shows the graph to a delegate that takes nothing and counts. It lives on
// with the others: the library may ask all of them again.
func (m *Model) count() nodes {
	c := (*C.covey_counter)(C.malloc(C.sizeof_covey_counter))
	C.covey_counter_set(c)
	m.drop = append(m.drop, func() { C.free(unsafe.Pointer(c)) })
	if m.run.ModifyGraphWithDelegate(delegate{p: unsafe.Pointer(&c.delegate)}) != tflite.OK {
		return nodes{all: -1}
	}
	return nodes{int(c.nodes), int(c.delegated)}
}

// defaultThreads leaves one core to whoever makes the next frame, and takes no
// more than four: past that, boards gain nothing.
func defaultThreads(cores int) int { return max(1, min(4, cores-1)) }

// describe reads the tensors. Indices are within the counts: the library does
// not check them.
func (m *Model) describe() error {
	in, out := m.run.GetInputTensorCount(), m.run.GetOutputTensorCount()
	if in < 1 || out < 1 || in > proto.MaxTensors || out > proto.MaxTensors {
		return errorf(hal.CodeTensor, "%s has %d inputs and %d outputs, limits are 1 to %d", m.name, in, out, proto.MaxTensors)
	}
	for i := range in {
		t, d, err := describe("input", i, m.run.GetInputTensor(i))
		if err != nil {
			return err
		}
		m.inputs, m.opened.Inputs = append(m.inputs, t), append(m.opened.Inputs, d)
	}
	for i := range out {
		t, d, err := describe("output", i, m.run.GetOutputTensor(i))
		if err != nil {
			return err
		}
		m.outputs, m.opened.Outputs = append(m.outputs, t), append(m.opened.Outputs, d)
	}
	if err := m.opened.Check(); err != nil {
		return errorf(hal.CodeTensor, "%s: %v", m.name, err)
	}
	// The library does not look at what malloc gave it.
	for i, t := range m.inputs {
		if t.Data() == nil {
			return errorf(hal.CodeMemory, "input %d (%s) of %s has no memory", i, m.opened.Inputs[i].Name, m.name)
		}
	}
	return nil
}

func describe(what string, i int, t *tflite.Tensor) (*tflite.Tensor, proto.Tensor, error) {
	if t == nil {
		return nil, proto.Tensor{}, errorf(hal.CodeTensor, "%s %d is missing", what, i)
	}
	var s C.covey_shape
	if !C.covey_tensor_shape(tensorPointer(t), &s) {
		return nil, proto.Tensor{}, errorf(hal.CodeTensor, "%s %d has %d dimensions, limit is %d", what, i, int(s.rank), proto.MaxRank)
	}
	d := proto.Tensor{TensorInfo: hal.TensorInfo{Name: proto.OneLine(t.Name()), Type: dtype(int(s._type))}, Bytes: int64(t.ByteSize())}
	switch d.Type {
	case hal.DTypeNone, hal.String, hal.Resource, hal.Variant:
		return nil, d, errorf(hal.CodeTensor, "%s %d (%s) is of type %s (TFLite type %d), which Covey cannot fill or read", what, i, d.Name, d.Type, int(s._type))
	}
	d.Shape = make([]int, s.rank)
	for j := range d.Shape {
		d.Shape[j] = int(s.dims[j])
	}
	if s.dynamic != 0 {
		d.Shape, d.Bytes = unknown(int(s.rank)), 0
	}
	if q := t.QuantizationParams(); q.Scale != 0 {
		d.Quant = hal.Quant{Scale: []float32{float32(q.Scale)}, ZeroPoint: []int32{int32(q.ZeroPoint)}}
	}
	return t, d, nil
}

// unknown is a shape that is known only at run time.
func unknown(rank int) []int {
	s := make([]int, max(1, rank))
	for i := range s {
		s[i] = -1
	}
	return s
}

// dtype maps TFLite's C type numbers, which are not those of the file format.
func dtype(c int) hal.DType {
	types := [...]hal.DType{
		0: hal.DTypeNone, 1: hal.Float32, 2: hal.Int32, 3: hal.Uint8, 4: hal.Int64, 5: hal.String, 6: hal.Bool,
		7: hal.Int16, 8: hal.Complex64, 9: hal.Int8, 10: hal.Float16, 11: hal.Float64, 12: hal.DTypeNone,
		13: hal.Uint64, 14: hal.Resource, 15: hal.Variant, 16: hal.Uint32, 17: hal.Uint16, 18: hal.Int4,
	}
	if c < 0 || c >= len(types) {
		return hal.DTypeNone
	}
	return types[c]
}

// Opened describes the model.
func (m *Model) Opened() *proto.Opened { return &m.opened }

// Run copies the inputs in, invokes, and copies the outputs out with their sizes
// and shapes of this run. It allocates nothing when it succeeds, and goes to C
// once: the library's tensors are read where they lie.
func (m *Model) Run(in, out [][]byte, r *proto.Ran) error {
	if m.run == nil {
		return errorf(hal.CodeEngine, "%s is closed", m.name)
	}
	for i, t := range m.inputs {
		b := content(t)
		if len(b) == 0 || len(b) != len(in[i]) {
			return errorf(hal.CodeTensor, "input %d of %s has %d bytes, given %d", i, m.name, len(b), len(in[i]))
		}
		copy(b, in[i])
	}
	m.log.used = 0
	ran := C.covey_invoke(interpreterPointer(m.run))
	r.EngineNS = int64(ran.ns)
	if ran.status != C.kTfLiteOk {
		return errorf(hal.CodeInvoke, "running %s: status %d: %s", m.name, int(ran.status), m.said())
	}
	for i, t := range m.outputs {
		if err := m.read(i, t, out[i], &r.Outputs[i]); err != nil {
			return err
		}
	}
	return nil
}

// read copies one output. Its memory, size and shape may be other ones after
// every run.
func (m *Model) read(i int, t *tflite.Tensor, out []byte, r *proto.Result) error {
	c := (*C.TfLiteTensor)(tensorPointer(t))
	b := content(t)
	if int(c.bytes) > len(b) {
		return errorf(hal.CodeTensor, "output %d of %s has no memory after the run", i, m.name)
	}
	if len(b) > len(out) {
		return errorf(hal.CodeTensor, "output %d of %s gave %d bytes, there is room for %d", i, m.name, len(b), len(out))
	}
	rank := 0
	if c.dims != nil {
		rank = int(c.dims.size)
	}
	if rank > proto.MaxRank {
		return errorf(hal.CodeTensor, "output %d of %s has %d dimensions, limit is %d", i, m.name, rank, proto.MaxRank)
	}
	copy(out, b)
	r.Bytes, r.Rank = int64(len(b)), rank
	if rank > 0 {
		// The array's numbers follow its size.
		for j, d := range unsafe.Slice((*C.int)(unsafe.Add(unsafe.Pointer(c.dims), unsafe.Sizeof(c.dims.size))), rank) {
			r.Dims[j] = int(d)
		}
	}
	return nil
}

// content is a tensor's memory as it is now, nil when it has none.
func content(t *tflite.Tensor) []byte {
	c := (*C.TfLiteTensor)(tensorPointer(t))
	p := *(**byte)(unsafe.Pointer(&c.data))
	if p == nil {
		return nil
	}
	return unsafe.Slice(p, int(c.bytes))
}

// Reset forgets the state between runs. The C library resets variable tensors but
// not resource variables, in which streaming models keep theirs, so the model is
// opened anew. After an error it cannot be run any more.
func (m *Model) Reset() error {
	again, tried := m.again, m.opened.Tried
	m.Close()
	fresh, err := again()
	if err != nil {
		return err
	}
	fresh.opened.Tried = tried
	*m = *fresh
	return nil
}

// Close frees the model, in the one order that is safe: interpreter, delegates,
// options, file. Closing twice is allowed.
func (m *Model) Close() {
	if m.run != nil {
		m.run.Delete()
	}
	for _, drop := range m.drop {
		drop()
	}
	if m.options != nil {
		m.options.Delete()
	}
	if m.file != nil {
		m.file.Delete()
	}
	C.free(unsafe.Pointer(m.log))
	*m = Model{name: m.name}
}

// said is what the library reported since the last run began.
func (m *Model) said() string { return said(m.log) }

// adopt makes a go-tflite model of a C one. go-tflite can only make models that
// are copied or named by a path; a model here is memory that is mapped already.
// Both structures begin with the C pointer, which TestLayout holds to.
func adopt(c unsafe.Pointer) *tflite.Model {
	m := new(tflite.Model)
	*(*unsafe.Pointer)(unsafe.Pointer(m)) = c
	return m
}

func optionsPointer(o *tflite.InterpreterOptions) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(o))
}

func interpreterPointer(r *tflite.Interpreter) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(r))
}

func tensorPointer(t *tflite.Tensor) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(t))
}

// Backend is what covey-runner-tflite serves.
type Backend struct{}

var _ proto.Backend = Backend{}

// Engine is "tflite" and the version of the library.
func (Backend) Engine() (name, runtime string) { return "tflite", "tflite " + tflite.Version() }

// Open loads a model; see the function Open.
func (Backend) Open(o proto.Open, data []byte, step func(string)) (proto.Model, error) {
	m, err := Open(o, data, step)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// CrashBySignal lets a crash end the process by its own signal, instead of as a
// Go trace and exit status 2. For a runner's main.
func CrashBySignal() { C.covey_default_signals() }
