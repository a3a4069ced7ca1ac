package onnx

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/covey-edge/covey/hal"
)

// A Library is the ONNX Runtime of this process. There is one at a time, for good:
// unloading it is not safe.
type Library struct {
	c         *C.covey_ort
	version   string
	providers []string // compiled in, by ONNX Runtime's names
}

const library = "libonnxruntime.so"

// Find is where ONNX Runtime lies: the path that is configured, else beside the
// program, else where systems keep it. A file that is named is not searched for
// elsewhere.
func Find(configured, program string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	places := []string{filepath.Join(filepath.Dir(program), "lib"), "/usr/local/lib", "/usr/lib/" + triplet, "/usr/lib"}
	for _, dir := range places {
		if _, err := os.Stat(filepath.Join(dir, library)); err == nil {
			return filepath.Join(dir, library), nil
		}
	}
	return "", fmt.Errorf("no %s in %s: run scripts/setup, or name it in COVEY_ONNXRUNTIME", library, strings.Join(places, ", "))
}

// Load loads ONNX Runtime and prepares it. It logs errors alone, to stderr, and
// reports nothing to anybody.
func Load(path string) (*Library, error) {
	l := &Library{c: (*C.covey_ort)(C.calloc(1, C.sizeof_covey_ort))}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	if !C.covey_open(l.c, name) {
		return nil, fmt.Errorf("load %s: %s", path, l.said())
	}
	l.version = C.GoString(l.c.version)
	if tooOld(l.version) {
		return nil, fmt.Errorf("%s is ONNX Runtime %s, Covey needs 1.%d or newer: install a newer one, or remove it to use the one of scripts/setup", path, l.version, C.COVEY_API)
	}
	if !C.covey_api(l.c) {
		return nil, fmt.Errorf("%s is ONNX Runtime %s: %s; use one between 1.%d and the newest 1.x", path, l.version, l.said(), C.COVEY_API)
	}
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(); err != nil {
		return nil, fmt.Errorf("prepare ONNX Runtime %s: %w", l.version, err)
	}
	if err := ort.DisableTelemetry(); err != nil {
		return nil, fmt.Errorf("prepare ONNX Runtime %s: %w", l.version, err)
	}
	if !C.covey_providers(l.c) {
		return nil, errors.New("ask ONNX Runtime for its providers: " + l.said())
	}
	l.providers = strings.Split(l.said(), ",")
	return l, nil
}

// tooOld says whether a version of ONNX Runtime has no table of functions for us.
func tooOld(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return major == "0" || major == "1" && (err != nil || n < int(C.COVEY_API))
}

// said is why the last call failed.
func (l *Library) said() string { return C.GoString(&l.c.text[0]) }

// has says whether a provider is compiled in.
func (l *Library) has(a hal.Accelerator) bool {
	for _, p := range l.providers {
		if p == providers[a] {
			return true
		}
	}
	return false
}

var providers = map[hal.Accelerator]string{hal.CPU: "CPUExecutionProvider", hal.CUDA: "CUDAExecutionProvider", hal.TensorRT: "TensorrtExecutionProvider"}

// A cudaDriver is NVIDIA's driver and the GPUs that it has.
type cudaDriver struct {
	version string // "12.6"
	gpus    []string
}

// cuda asks the driver; ok is false where there is none.
func cuda() (d cudaDriver, ok bool) {
	var name [256]C.char
	var version C.int
	n := int(C.covey_cuda(0, &name[0], C.size_t(len(name)), &version))
	if n < 0 {
		return d, false
	}
	d.version = fmt.Sprintf("%d.%d", version/1000, version%1000/10)
	for i := range n {
		if C.covey_cuda(C.int(i), &name[0], C.size_t(len(name)), &version) == C.int(n) {
			d.gpus = append(d.gpus, C.GoString(&name[0]))
		}
	}
	return d, true
}

// tensorRT is the version of TensorRT that is installed, "" for none. Up to 9 it
// counted in hundreds, since then in ten thousands.
func tensorRT() string {
	switch v := int(C.covey_tensorrt()); {
	case v == 0:
		return ""
	case v < 10_000:
		return fmt.Sprintf("%d.%d.%d", v/1000, v/100%10, v%100)
	default:
		return fmt.Sprintf("%d.%d.%d", v/10_000, v/100%100, v%100)
	}
}

// CrashBySignal lets a crash end the process by its own signal, instead of as a
// Go trace with status 2.
func CrashBySignal() { C.covey_onnx_default_signals() }
