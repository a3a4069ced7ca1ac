package tflite

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/mattn/go-tflite"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// A delegate is a C delegate as go-tflite wants it.
type delegate struct {
	p      unsafe.Pointer
	free   func()
	name   string // for messages
	driver string // for Opened.Driver; "" for what is in the runtime
}

func (d delegate) Ptr() unsafe.Pointer { return d.p }
func (d delegate) Delete()             { d.free() }

// newDelegate makes the delegate of a wish, which is not for the plain CPU. What
// the library says goes to log; step is told before anything that may crash.
func newDelegate(w wish, threads int, log *C.covey_log, step func(string)) (delegate, error) {
	if w.accelerator == hal.XNNPACK {
		p := C.covey_xnnpack(C.int(threads), C.uint(w.flags), log)
		if p == nil {
			return delegate{}, errorf(hal.CodeAccel, "no XNNPACK: %s; use the libtensorflowlite_c that comes with Covey (scripts/setup)", said(log))
		}
		return delegate{p: p, free: func() { C.covey_xnnpack_delete(p) }, name: "XNNPACK"}, nil
	}
	step("loading " + w.library)
	l, err := loadLibrary(w.library, log)
	if err != nil {
		return delegate{}, err
	}
	if err := l.pairs(); err != nil {
		return delegate{}, err
	}
	step("creating the delegate of " + l.name())
	d, err := l.delegate(w, log)
	if err != nil {
		return d, err
	}
	d.name, d.driver = l.name(), l.driver()
	if d.p == nil {
		reason := said(log)
		if reason == "" {
			reason = "it gives no reason here; what it printed is in the log"
		}
		return d, errorf(hal.CodeAccel, "%s made no delegate: %s; see that its device is there, that its driver is loaded, and that this user may use it", d.name, reason)
	}
	return d, nil
}

// A library is a shared library with a delegate in it. It stays loaded.
type library struct {
	handle unsafe.Pointer
	path   string // where it was found
	sum    string // of the file; "" when it cannot be read
}

// beyond is where packages put delegates that the loader's search does not find.
var beyond = map[string]string{"libteflon.so": "/usr/lib/teflon/libteflon.so"} // Debian's mesa-teflon-delegate

// loadLibrary loads a library; the error wraps errAbsent when there is no such file.
func loadLibrary(name string, log *C.covey_log) (*library, error) {
	log.used = 0
	handle, path := dlopen(name, log)
	if handle == nil {
		err := notLoaded(name, said(log))
		if further := beyond[name]; further != "" && errors.Is(err, errAbsent) {
			return loadLibrary(further, log)
		}
		return nil, err
	}
	l := &library{handle: handle, path: path}
	l.sum = sum(path)
	if !l.has("tflite_plugin_create_delegate") && !l.has("TfLiteGpuDelegateV2Create") {
		return nil, errorf(hal.CodeAccel, "%s is no TFLite delegate: it has no tflite_plugin_create_delegate", name)
	}
	return l, nil
}

func dlopen(name string, log *C.covey_log) (handle unsafe.Pointer, path string) {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	var found *C.char
	if handle = C.covey_load(c, &found, log); handle != nil {
		path = C.GoString(found)
	}
	return handle, path
}

func (l *library) has(symbol string) bool {
	c := C.CString(symbol)
	defer C.free(unsafe.Pointer(c))
	return bool(C.covey_has(l.handle, c))
}

// name is for messages.
func (l *library) name() string {
	if v, ok := l.edgeTPU(); ok {
		return fmt.Sprintf("%s (%s)", filepath.Base(l.path), v)
	}
	return filepath.Base(l.path)
}

// driver tells one build of the library from any other.
func (l *library) driver() string {
	d := filepath.Base(l.path)
	if l.sum != "" {
		d += " fnv1a:" + l.sum
	}
	if v, ok := l.edgeTPU(); ok {
		d += ", " + v.String()
	}
	return proto.OneLine(d)
}

// edgeTPU is the build of a libedgetpu, and ok is false for other libraries.
func (l *library) edgeTPU() (edgeTPUBuild, bool) {
	if !l.has("edgetpu_version") {
		return edgeTPUBuild{}, false
	}
	return parseEdgeTPU(C.GoString(C.covey_edgetpu_version(l.handle)))
}

// pairs says why a libedgetpu does not go with this runtime; nil for other libraries.
func (l *library) pairs() error {
	if b, ok := l.edgeTPU(); ok {
		return b.pairs(tflite.Version())
	}
	return nil
}

// delegate makes one; its p is nil when the library would not.
func (l *library) delegate(w wish, log *C.covey_log) (delegate, error) {
	log.used = 0
	if w.accelerator == hal.GPU && l.has("TfLiteGpuDelegateV2Create") {
		if len(w.keys) > 0 {
			return delegate{}, errorf(hal.CodeAccel, "%s takes no settings: leave them out", l.name())
		}
		p := C.covey_gpu_create(l.handle)
		return delegate{p: p, free: func() { C.covey_gpu_delete(l.handle, p) }}, nil
	}
	if !l.has("tflite_plugin_create_delegate") {
		return delegate{}, errorf(hal.CodeAccel, "%s has no tflite_plugin_create_delegate: use it as gpu", l.name())
	}
	keys, values := cStrings(w.keys), cStrings(w.values)
	forget := func() {
		freeStrings(keys, len(w.keys))
		freeStrings(values, len(w.values))
	}
	p := C.covey_plugin_create(l.handle, keys, values, C.size_t(len(w.keys)), log)
	if p == nil {
		forget()
		return delegate{}, nil
	}
	// Some delegates keep the pointers they were given, so these live as long.
	return delegate{p: p, free: func() {
		C.covey_plugin_destroy(l.handle, p)
		forget()
	}}, nil
}

// cStrings is an array of C strings in C memory.
func cStrings(list []string) **C.char {
	array := (**C.char)(C.calloc(C.size_t(len(list)+1), C.size_t(unsafe.Sizeof((*C.char)(nil)))))
	for i, s := range list {
		unsafe.Slice(array, len(list))[i] = C.CString(s)
	}
	return array
}

func freeStrings(array **C.char, n int) {
	for _, s := range unsafe.Slice(array, n) {
		C.free(unsafe.Pointer(s))
	}
	C.free(unsafe.Pointer(array))
}

// sum tells one file from any other, and is no proof of anything. It is not a
// SHA-256 because Go's package for that has 32 MiB of memory of its own (for random
// numbers), which count against a runner's limit though nobody touches them.
func sum(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := fnv.New64a()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

// said is what was reported since the log was emptied.
func said(log *C.covey_log) string {
	return proto.OneLine(C.GoStringN(&log.text[0], C.int(log.used)))
}
