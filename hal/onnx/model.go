package onnx

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// A Model is an open model. It is used by one goroutine at a time.
type Model struct {
	name    string
	library *Library
	options *ort.SessionOptions
	session *ort.DynamicAdvancedSession
	types   []int          // of the inputs, then of the outputs, by ONNX's numbers
	run     *C.covey_model // nil before Map
	buffers []unsafe.Pointer
	opened  proto.Opened
}

// Open loads a model on the accelerator that o asks for; Auto tries TensorRT, then
// CUDA, then the CPU, and keeps the reasons. data is not used after Open.
// step is told what comes next. Errors carry codes of hal.
func (l *Library) Open(o proto.Open, data []byte, step func(string)) (*Model, error) {
	step("reading the model")
	file, err := modelfile.Parse(data)
	if err != nil {
		return nil, err
	}
	if file.Format != modelfile.FormatONNX {
		return nil, errorf(hal.CodeModelFormat, "%s is a %s model, this engine runs ONNX", o.Name, file.Format)
	}
	if err := file.Check(modelfile.Limits{}); err != nil {
		return nil, err
	}
	ladder := []hal.Accelerator{o.Accelerator}
	if o.Accelerator == hal.Auto || o.Accelerator == "" {
		ladder = []hal.Accelerator{hal.TensorRT, hal.CUDA, hal.CPU}
	}
	var tried []hal.Attempt
	for i, a := range ladder {
		m, err := l.open(o, a, file, data, step)
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
func (l *Library) open(o proto.Open, a hal.Accelerator, file *modelfile.Model, data []byte, step func(string)) (*Model, error) {
	w, err := newWish(a, o.Device, o.Settings)
	if err != nil {
		return nil, err
	}
	sizes, inputs, err := shapes(file, o.Settings)
	if err != nil {
		return nil, err
	}
	for {
		m := &Model{name: o.Name, library: l, opened: proto.Opened{Accelerator: a, Device: o.Device, Threads: o.Threads}}
		if err = m.load(w, sizes, inputs, file, data, step); err == nil {
			return m, nil
		}
		m.Close()
		if len(sizes) == 0 || !strings.Contains(err.Error(), inlined) {
			return nil, err
		}
		sizes = nil // the inputs are of the same sizes without, and the runtime finds out at every run
	}
}

// inlined is in what ONNX Runtime 1.24 says when a dimension that was fixed let it
// choose a branch of an If, and it lost that branch's weights (its issue 29071).
const inlined = "HasExternalDataInMemory"

func (m *Model) load(w wish, sizes map[string]int, inputs map[string][]int, file *modelfile.Model, data []byte, step func(string)) error {
	a := w.accelerator
	var err error
	if m.opened.Threads <= 0 {
		m.opened.Threads = defaultThreads(runtime.NumCPU())
	}
	if m.options, err = ort.NewSessionOptions(); err != nil {
		return errorf(hal.CodeMemory, "no session options: %v", err)
	}
	if err := m.configure(w, sizes); err != nil {
		return err
	}
	if a != hal.CPU {
		step("loading " + providers[a])
		if err := m.provide(w, data, fmt.Sprint(sizes, inputs)); err != nil {
			return err
		}
	}
	if a == hal.TensorRT {
		step("building the TensorRT engine (minutes, the first time)")
	} else {
		step("making a session with " + string(a))
	}
	if m.session, err = ort.NewDynamicAdvancedSessionWithONNXData(data, nil, nil, m.options); err != nil {
		return refused("making a session with "+string(a), m.name, err.Error())
	}
	if err := m.describe(inputs); err != nil {
		return err
	}
	m.opened.Ops, m.opened.Delegated = len(file.Main().Operators), 0
	if a != hal.CPU {
		if err := m.assigned(a); err != nil {
			return err
		}
	}
	return m.measure(step)
}

// assigned asks how many operators a GPU took. The runtime counts those that are left
// after its optimisation, and may know of none at all.
func (m *Model) assigned(a hal.Accelerator) error {
	var all, taken C.size_t
	if !C.covey_assigned(m.library.c, m.pointer(), &all, &taken) || all == 0 {
		m.opened.Delegated = -1
		return nil
	}
	if m.opened.Ops, m.opened.Delegated = int(all), int(taken); taken == 0 {
		return errorf(hal.CodeAccel, "%s took none of the %d operators of %s", a, all, m.name)
	}
	return nil
}

// defaultThreads leaves one core to whoever makes the next frame, and takes no
// more than four: past that, boards gain nothing.
func defaultThreads(cores int) int { return max(1, min(4, cores-1)) }

// configure sets what is the same for every provider.
func (m *Model) configure(w wish, sizes map[string]int) error {
	levels := map[string]ort.GraphOptimizationLevel{"": ort.GraphOptimizationLevelEnableAll, "all": ort.GraphOptimizationLevelEnableAll,
		"extended": ort.GraphOptimizationLevelEnableExtended, "basic": ort.GraphOptimizationLevelEnableBasic, "disable": ort.GraphOptimizationLevelDisableAll}
	do := []error{
		m.options.SetIntraOpNumThreads(m.opened.Threads),
		m.options.SetGraphOptimizationLevel(levels[w.session["graph_optimization_level"]]),
		m.options.SetCpuMemArena(w.session["enable_cpu_mem_arena"] != "0"),
		m.options.SetMemPattern(w.session["enable_mem_pattern"] != "0"),
	}
	if w.accelerator != hal.CPU {
		do = append(do, m.options.AddSessionConfigEntry("session.record_ep_graph_assignment_info", "1"))
	}
	for key, value := range w.session {
		switch key {
		case "graph_optimization_level", "enable_cpu_mem_arena", "enable_mem_pattern":
		default:
			do = append(do, m.options.AddSessionConfigEntry(key, value))
		}
	}
	for _, err := range do {
		if err != nil {
			return errorf(hal.CodeEngine, "options of a session: %v", err)
		}
	}
	for name, size := range sizes {
		c := C.CString(name)
		ok := C.covey_fix_dimension(m.library.c, *(*unsafe.Pointer)(unsafe.Pointer(m.options)), c, C.int64_t(size))
		C.free(unsafe.Pointer(c))
		if !ok {
			return errorf(hal.CodeShape, "dimension %s of %s cannot be %d: %s", name, m.name, size, m.library.said())
		}
	}
	return nil
}

// provide adds the provider of a GPU. TensorRT gets CUDA behind it, for the
// operators that it does not take.
func (m *Model) provide(w wish, data []byte, sizes string) error {
	driver, _ := cuda()
	trt := ""
	if w.accelerator == hal.TensorRT {
		trt = tensorRT()
		options := maps.Clone(w.provider)
		options["device_id"] = fmt.Sprint(w.device)
		if w.cache != "" {
			name := ""
			if w.device < len(driver.gpus) {
				name = driver.gpus[w.device]
			}
			folder := engineFolder(w.cache, data, w.options(), sizes, m.library.version, trt, driver.version, name)
			if err := prepare(folder, maxCache, time.Now()); err != nil {
				return err
			}
			options["trt_engine_cache_enable"], options["trt_engine_cache_path"] = "1", folder
			options["trt_timing_cache_enable"], options["trt_timing_cache_path"] = "1", folder
		}
		if err := addTensorRT(m.options, options); err != nil {
			return absent(w.accelerator, err)
		}
	}
	options := map[string]string{"device_id": fmt.Sprint(w.device)}
	if w.accelerator == hal.CUDA {
		maps.Copy(options, w.provider)
	}
	if err := addCUDA(m.options, options); err != nil {
		return absent(hal.CUDA, err)
	}
	m.opened.Driver = driverOf(w.accelerator, driver, trt)
	return nil
}

func absent(a hal.Accelerator, err error) error {
	return errorf(hal.CodeAccel, "no %s here: %s", a, proto.OneLine(place.ReplaceAllString(err.Error(), "")))
}

func addTensorRT(to *ort.SessionOptions, options map[string]string) error {
	o, err := ort.NewTensorRTProviderOptions()
	if err != nil {
		return err
	}
	defer o.Destroy()
	if err := o.Update(options); err != nil {
		return err
	}
	return to.AppendExecutionProviderTensorRT(o)
}

func addCUDA(to *ort.SessionOptions, options map[string]string) error {
	o, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer o.Destroy()
	if err := o.Update(options); err != nil {
		return err
	}
	return to.AppendExecutionProviderCUDA(o)
}

// pointer is the session itself, which the binding keeps as the first field of the
// first field.
func (m *Model) pointer() unsafe.Pointer {
	return **(**unsafe.Pointer)(unsafe.Pointer(m.session))
}

// describe reads the inputs and outputs. Inputs have the shapes that were resolved.
func (m *Model) describe(inputs map[string][]int) error {
	var in, out C.size_t
	if !C.covey_count(m.library.c, m.pointer(), &in, &out) {
		return errorf(hal.CodeEngine, "describe %s: %s", m.name, m.library.said())
	}
	if in < 1 || out < 1 || in > proto.MaxTensors || out > proto.MaxTensors {
		return errorf(hal.CodeTensor, "%s has %d inputs and %d outputs, limits are 1 to %d", m.name, in, out, proto.MaxTensors)
	}
	for i := range in + out {
		output := i >= in
		what := "input"
		if output {
			what, i = "output", i-in
		}
		t, kind, err := m.value(what, output, i)
		if err != nil {
			return err
		}
		m.types = append(m.types, kind)
		if output {
			m.opened.Outputs = append(m.opened.Outputs, t)
			continue
		}
		if t.Shape = inputs[t.Name]; t.Shape == nil {
			return errorf(hal.CodeShape, "input %s of %s is not in its file", t.Name, m.name)
		}
		t.Bytes = bytes(t.TensorInfo)
		m.opened.Inputs = append(m.opened.Inputs, t)
	}
	if err := m.opened.Check(); err != nil {
		return errorf(hal.CodeTensor, "%s: %v", m.name, err)
	}
	return nil
}

// value reads one input or output, and the number of its type.
func (m *Model) value(what string, output bool, i C.size_t) (proto.Tensor, int, error) {
	var v C.covey_value
	if !C.covey_describe(m.library.c, m.pointer(), C.bool(output), i, &v) {
		return proto.Tensor{}, 0, errorf(hal.CodeTensor, "%s %d of %s: %s", what, i, m.name, m.library.said())
	}
	t := proto.Tensor{TensorInfo: hal.TensorInfo{Name: C.GoString(&v.name[0]), Type: dtype(int(v._type))}}
	switch {
	case v.kind != 1:
		return t, 0, errorf(hal.CodeTensor, "%s %d (%s) of %s is no tensor: export the model with plain tensors of numbers", what, i, t.Name, m.name)
	case t.Type.Size() == 0:
		return t, 0, errorf(hal.CodeTensor, "%s %d (%s) of %s has ONNX's type %d, which Covey cannot fill or read", what, i, t.Name, m.name, int(v._type))
	case v.rank > C.COVEY_RANK:
		return t, 0, errorf(hal.CodeTensor, "%s %d (%s) of %s has %d dimensions, limit is %d", what, i, t.Name, m.name, int(v.rank), proto.MaxRank)
	}
	t.Shape = []int{}
	for j := range v.rank {
		t.Shape = append(t.Shape, max(-1, int(v.dims[j])))
	}
	if !slices.Contains(t.Shape, -1) {
		t.Bytes = bytes(t.TensorInfo)
	}
	return t, int(v._type), nil
}

// bytes is the size of a tensor of a known shape; -1 when it is past all bounds.
func bytes(t hal.TensorInfo) int64 {
	n := int64(t.Type.Size())
	for _, d := range t.Shape {
		if d > 0 && n > proto.MaxMapping/int64(d) {
			return proto.MaxMapping + 1
		}
		n *= int64(d)
	}
	return n
}

// dtype maps ONNX's numbers of types.
func dtype(n int) hal.DType {
	types := [...]hal.DType{
		1: hal.Float32, 2: hal.Uint8, 3: hal.Int8, 4: hal.Uint16, 5: hal.Int16, 6: hal.Int32, 7: hal.Int64, 8: hal.String,
		9: hal.Bool, 10: hal.Float16, 11: hal.Float64, 12: hal.Uint32, 13: hal.Uint64, 14: hal.Complex64,
	}
	if n < 0 || n >= len(types) {
		return hal.DTypeNone
	}
	return types[n]
}

// tensors makes room in C for n buffers of tensors.
func (m *Model) tensors(n int) (*C.covey_model, error) {
	in, out := m.opened.Inputs, m.opened.Outputs
	c := C.covey_model_new(m.library.c, m.pointer(), C.size_t(len(in)), C.size_t(len(out)))
	if c == nil {
		return nil, errorf(hal.CodeMemory, "no memory for the tensors of %s", m.name)
	}
	ok := true
	for i, t := range slices.Concat(in, out) {
		name := C.CString(t.Name)
		ok = ok && bool(C.covey_name(c, C.size_t(i), name))
		C.free(unsafe.Pointer(name))
	}
	if !ok || !bool(C.covey_buffers(c, C.size_t(n))) {
		C.covey_model_free(c)
		return nil, errorf(hal.CodeMemory, "no memory for the tensors of %s", m.name)
	}
	return c, nil
}

// put puts tensor i of a buffer, inputs first, on memory.
func (m *Model) put(c *C.covey_model, buffer, i int, memory []byte) error {
	t := slices.Concat(m.opened.Inputs, m.opened.Outputs)[i]
	kind, room := m.types[i], len(memory)
	if slices.Contains(t.Shape, -1) || t.Bytes == 0 {
		kind = 0 // nobody knows how much of it is used
	} else {
		room = int(t.Bytes)
	}
	var dims [proto.MaxRank]C.int64_t
	for j, d := range t.Shape {
		dims[j] = C.int64_t(d)
	}
	if !C.covey_place(c, C.size_t(buffer), C.size_t(i), unsafe.Pointer(unsafe.SliceData(memory)), C.size_t(room), C.int(kind), C.int(len(t.Shape)), &dims[0]) {
		return errorf(hal.CodeTensor, "%s %s of %s: %s", t.Type, t.Name, m.name, C.GoString(&c.text[0]))
	}
	return nil
}

// measure runs once on zeros where an output's size is not known, to ask for the
// room that it takes. An output that depends on its input may need more another
// time; what it gets is DynamicRoom at least.
func (m *Model) measure(step func(string)) error {
	unknown := slices.ContainsFunc(m.opened.Outputs, func(t proto.Tensor) bool { return slices.Contains(t.Shape, -1) })
	if !unknown {
		return nil
	}
	step("first run, to see how large the outputs are")
	c, err := m.tensors(1)
	if err != nil {
		return err
	}
	defer C.covey_model_free(c)
	for i, t := range m.opened.Inputs {
		memory := C.calloc(1, C.size_t(t.Bytes))
		if memory == nil {
			return errorf(hal.CodeMemory, "no %d bytes for input %s of %s", t.Bytes, t.Name, m.name)
		}
		defer C.free(memory)
		if err := m.put(c, 0, i, unsafe.Slice((*byte)(memory), t.Bytes)); err != nil {
			return err
		}
	}
	if !C.covey_run(c, 0) {
		return nil // zeros are not to its taste; what it gets later may be
	}
	row := unsafe.Slice(c.tensors, len(m.types))[len(m.opened.Inputs):]
	for i := range m.opened.Outputs {
		t := &m.opened.Outputs[i]
		if slices.Contains(t.Shape, -1) {
			t.Bytes = int64(row[i].result.bytes)
		}
	}
	if err := m.opened.Check(); err != nil {
		return errorf(hal.CodeTensor, "%s: %v", m.name, err)
	}
	return nil
}

// Opened describes the model.
func (m *Model) Opened() *proto.Opened { return &m.opened }

// Map puts the tensors on the shared memory: a run copies nothing but outputs whose
// shape is not known before.
func (m *Model) Map(in, out [][][]byte) error {
	c, err := m.tensors(len(in))
	if err != nil {
		return err
	}
	m.run = c
	for b := range in {
		for i, memory := range slices.Concat(in[b], out[b]) {
			if err := m.put(c, b, i, memory); err != nil {
				return err
			}
		}
		m.buffers = append(m.buffers, unsafe.Pointer(unsafe.SliceData(in[b][0])))
	}
	return nil
}

// Run runs the model on the buffer that in is of. It allocates nothing when it
// succeeds.
func (m *Model) Run(in, _ [][]byte, r *proto.Ran) error {
	buffer := slices.Index(m.buffers, unsafe.Pointer(unsafe.SliceData(in[0])))
	if buffer < 0 {
		return errorf(hal.CodeEngine, "%s has no such buffer", m.name)
	}
	ok := C.covey_run(m.run, C.size_t(buffer))
	r.EngineNS = int64(m.run.ns)
	if !ok {
		return errorf(hal.CodeInvoke, "running %s: %s", m.name, proto.OneLine(place.ReplaceAllString(C.GoString(&m.run.text[0]), "")))
	}
	row := unsafe.Slice(m.run.tensors, len(m.buffers)*len(m.types))[buffer*len(m.types)+len(m.opened.Inputs):]
	for i := range r.Outputs {
		o, from := &r.Outputs[i], &row[i].result
		o.Bytes, o.Rank = int64(from.bytes), int(from.rank)
		for j := range o.Rank {
			o.Dims[j] = int(from.dims[j])
		}
	}
	return nil
}

// Reset does nothing: a model of ONNX keeps nothing from run to run.
func (m *Model) Reset() error { return nil }

// Close frees the model: tensors, session, options. Closing twice is allowed.
func (m *Model) Close() {
	C.covey_model_free(m.run)
	if m.session != nil {
		_ = m.session.Destroy()
	}
	if m.options != nil {
		_ = m.options.Destroy()
	}
	m.run, m.session, m.options, m.buffers = nil, nil, nil, nil
}
