package tflite

/*
#cgo LDFLAGS: -ltensorflowlite_c -ldl -Wl,-rpath,$ORIGIN/lib
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"time"
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

	inputs, outputs []*tflite.Tensor
	opened          proto.Opened
}

// Open loads a model on the accelerator that o asks for; Auto tries XNNPACK and
// falls back to the plain CPU, and keeps the reason. data has to stay valid and
// unchanged until Close; it is not copied. step is told what comes next.
// Errors carry codes of hal.
func Open(o proto.Open, data []byte, step func(string)) (*Model, error) {
	if err := checkHeader(o.Name, data); err != nil {
		return nil, err
	}
	var ladder []hal.Accelerator
	switch o.Accelerator {
	case hal.Auto, "":
		ladder = []hal.Accelerator{hal.XNNPACK, hal.CPU}
	case hal.XNNPACK, hal.CPU:
		ladder = []hal.Accelerator{o.Accelerator}
	default:
		return nil, errorf(hal.CodeAccel, "this runner cannot use %s; it has xnnpack and cpu", o.Accelerator)
	}
	var tried []hal.Attempt
	for i, a := range ladder {
		m, err := open(o, a, data, step)
		if err == nil {
			m.opened.Tried = tried
			return m, nil
		}
		if i == len(ladder)-1 {
			return nil, err
		}
		tried = append(tried, hal.Attempt{Accelerator: a, Reason: proto.OneLine(err.Error())})
	}
	panic("unreachable: the ladder is never empty")
}

// open makes one try. What it made is freed when it fails.
func open(o proto.Open, a hal.Accelerator, data []byte, step func(string)) (*Model, error) {
	m := &Model{name: o.Name, log: (*C.covey_log)(C.calloc(1, C.sizeof_covey_log))}
	m.again = func() (*Model, error) { return open(o, a, data, func(string) {}) } // step belongs to its request
	if err := m.load(o, a, data, step); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Model) load(o proto.Open, a hal.Accelerator, data []byte, step func(string)) error {
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
	before := m.counter()
	if a == hal.XNNPACK {
		x, err := newXNNPACK(threads)
		if err != nil {
			return err
		}
		m.options.AddDelegate(x)
		m.drop = append(m.drop, x.Delete)
	}
	after := m.counter()

	step("InterpreterCreate with " + string(a))
	if m.run = tflite.NewInterpreter(m.file, m.options); m.run == nil {
		return refused("making an interpreter with "+string(a), o.Name, m.said())
	}
	step("AllocateTensors with " + string(a))
	if m.run.AllocateTensors() != tflite.OK {
		return refused("allocating tensors with "+string(a), o.Name, m.said())
	}
	m.opened = proto.Opened{Accelerator: a, Threads: threads, Ops: int(before.nodes), Delegated: -1}
	if before.nodes >= 0 && after.nodes >= 0 {
		m.opened.Delegated = int(before.nodes - (after.nodes - after.delegated))
	}
	if a == hal.XNNPACK && m.opened.Delegated == 0 {
		return errorf(hal.CodeAccel, "XNNPACK took none of the %d operators of %s", m.opened.Ops, o.Name)
	}
	return m.describe()
}

// counter adds a delegate that counts the nodes at its place in the order.
func (m *Model) counter() *C.covey_counter {
	c := (*C.covey_counter)(C.malloc(C.sizeof_covey_counter))
	C.covey_counter_set(c)
	m.drop = append(m.drop, func() { C.free(unsafe.Pointer(c)) })
	m.options.AddDelegate(delegate{unsafe.Pointer(&c.delegate), func() {}})
	return c
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
// and shapes of this run. It allocates nothing when it succeeds.
func (m *Model) Run(in, out [][]byte, r *proto.Ran) error {
	if m.run == nil {
		return errorf(hal.CodeEngine, "%s is closed", m.name)
	}
	for i, t := range m.inputs {
		p, n := t.Data(), int(t.ByteSize())
		if p == nil || n != len(in[i]) {
			return errorf(hal.CodeTensor, "input %d of %s has %d bytes, given %d", i, m.name, n, len(in[i]))
		}
		copy(unsafe.Slice((*byte)(p), n), in[i])
	}
	m.log.used = 0
	start := time.Now()
	status := m.run.Invoke()
	r.EngineNS = time.Since(start).Nanoseconds()
	if status != tflite.OK {
		return errorf(hal.CodeInvoke, "running %s: status %d: %s", m.name, int(status), m.said())
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
	p, n, rank := t.Data(), int(t.ByteSize()), t.NumDims()
	if n > len(out) {
		return errorf(hal.CodeTensor, "output %d of %s gave %d bytes, there is room for %d", i, m.name, n, len(out))
	}
	if p == nil && n > 0 {
		return errorf(hal.CodeTensor, "output %d of %s has no memory after the run", i, m.name)
	}
	if rank > proto.MaxRank {
		return errorf(hal.CodeTensor, "output %d of %s has %d dimensions, limit is %d", i, m.name, rank, proto.MaxRank)
	}
	if n > 0 {
		copy(out, unsafe.Slice((*byte)(p), n))
	}
	r.Bytes, r.Rank = int64(n), rank
	for j := range rank {
		r.Dims[j] = t.Dim(j)
	}
	return nil
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
func (m *Model) said() string {
	return proto.OneLine(C.GoStringN(&m.log.text[0], C.int(m.log.used)))
}

// adopt makes a go-tflite model of a C one. go-tflite can only make models that
// are copied or named by a path; a model here is memory that is mapped already.
// Both structures begin with the C pointer, which layout_test.go holds to.
func adopt(c unsafe.Pointer) *tflite.Model {
	m := new(tflite.Model)
	*(*unsafe.Pointer)(unsafe.Pointer(m)) = c
	return m
}

func optionsPointer(o *tflite.InterpreterOptions) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(o))
}

func tensorPointer(t *tflite.Tensor) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(t))
}

// A delegate is a C delegate as go-tflite wants it.
type delegate struct {
	p    unsafe.Pointer
	free func()
}

func (d delegate) Ptr() unsafe.Pointer { return d.p }
func (d delegate) Delete()             { d.free() }

// Flags of the XNNPACK delegate. Without them it leaves quantised operators to
// kernels that are 2 to 8 times slower.
const xnnpackQS8QU8 = 1 | 2

func newXNNPACK(threads int) (delegate, error) {
	var why *C.char
	p := C.covey_xnnpack(C.int(threads), xnnpackQS8QU8, &why)
	if p == nil {
		return delegate{}, errorf(hal.CodeAccel, "%s", C.GoString(why))
	}
	return delegate{p, func() { C.covey_xnnpack_delete(p) }}, nil
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

// Probe makes an XNNPACK delegate to see that it works.
func (b Backend) Probe() proto.Found {
	_, version := b.Engine()
	cores := fmt.Sprintf("%d cores", runtime.NumCPU())
	found := proto.Found{Devices: []hal.Device{{Accelerator: hal.CPU, Name: cores, Runtime: version}}}
	x, err := newXNNPACK(1)
	if err != nil {
		found.Diagnoses = append(found.Diagnoses, hal.Diagnosis{Subject: "xnnpack", Detail: err.Error(),
			Fix: "use the libtensorflowlite_c that comes with Covey (scripts/setup)"})
		return found
	}
	x.Delete()
	found.Devices = append([]hal.Device{{Accelerator: hal.XNNPACK, Name: cores, Runtime: version}}, found.Devices...)
	found.Diagnoses = append(found.Diagnoses, hal.Diagnosis{Subject: "xnnpack", OK: true, Detail: "int8 and uint8 kernels on"})
	return found
}

// CrashBySignal lets a crash end the process by its own signal, instead of as a
// Go trace and exit status 2. For a runner's main.
func CrashBySignal() { C.covey_default_signals() }
